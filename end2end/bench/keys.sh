#!/usr/bin/env bash
# A million keys through the whole program: made, told to the gateway, kept over a restart with and without the gateway's
# own copy. Prints how long each takes until the last key is let in, and the program's memory. Called by ./dev bench keys.
#
#   ./dev bench keys [COUNT]      default 1000000; fails when a key is not let in within a minute
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
count=${1:-1000000}
[[ $count =~ ^[1-9][0-9]{0,7}$ ]] || { echo "./dev bench keys takes a number of keys, not $count" >&2; exit 2; }
folder=$PWD/target/bench-keys
program=$PWD/target/release/turnpike
rm -rf "$folder"; mkdir -p "$folder"
export TURNPIKE_DATA_DIR=$folder/data TURNPIKE_PORTAL_LISTEN=127.0.0.1:3200 TURNPIKE_PORTAL_URL=http://127.0.0.1:3200
export TURNPIKE_GATEWAY_LISTEN=127.0.0.1:8280 TURNPIKE_GATEWAY_URL=http://127.0.0.1:8280 TURNPIKE_OPERATIONS_LISTEN=127.0.0.1:9290
pid=
trap 'stop' EXIT
start() { "$program" serve >>"$folder/log" 2>&1 & pid=$!; begun=$(date +%s%N); }
stop() { [ -z "$pid" ] || { kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null || true; pid=; }; }
# Nobody listens where the route leads, so a key that is let in gets 502.
let_in() {
  local key=$1
  for _ in $(seq 1200); do
    [ "$(curl -s -o /dev/null -w '%{http_code}' -H "X-API-Key: $key" http://127.0.0.1:8280/v1/data)" = 502 ] && return 0
    sleep 0.05
  done
  echo "the key was not let in within a minute: see $folder/log" >&2; return 1
}
told() {
  local ms=$((($(date +%s%N) - begun) / 1000000))
  printf '%-40s %6d.%03d s, %s in memory\n' "$1" $((ms / 1000)) $((ms % 1000)) "$(awk '/VmRSS/ {printf "%d MB", $2 / 1024}' "/proc/$pid/status")"
}

start
for _ in $(seq 600); do curl -fsS -o /dev/null http://127.0.0.1:9290/readyz 2>/dev/null && break; sleep 0.1; done
"$program" plan publish end2end/bench/catalogue.toml >/dev/null
consumer=$("$program" consumer create --email keys@atlas.example --plan bench --complimentary)
told "the program, with no key"
begun=$(date +%s%N)
for ((made = 0; made < count; made += 50000)); do
  "$program" key create --consumer "$consumer" --count $((count - made < 50000 ? count - made : 50000)) >>"$folder/keys"
done
last=$(tail -n 1 "$folder/keys")
let_in "$last"; told "made, and the last one let in"
sleep 15 # the copy on disk is written from time to time
stop; start; let_in "$last"; told "started again, from the copy on disk"
stop; rm -f "$folder"/data/gateway/snapshot*; start; let_in "$last"; told "started again, from PostgreSQL alone"
