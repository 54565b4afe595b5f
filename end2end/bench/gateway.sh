#!/usr/bin/env bash
# A release gateway with everything on (key, limits, quota, cap, ledger, headers) and 10,000 keys, ready to be measured
# against other proxies. Called by ./dev bench.
#
#   ./dev bench                      starts it, prints address, process id and key file, waits for Ctrl-C
#   ./dev bench COMMAND [ARG...]     runs the command with OURS_URL, OURS_PID and OURS_KEYS set, then stops it
# An upstream must listen on 127.0.0.1:9000 while requests are sent.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder=target/bench
count=${BENCH_KEYS:-10000}
program=$PWD/target/release/turnpike
rm -rf "$folder"; mkdir -p "$folder"
export TURNPIKE_DATA_DIR=$PWD/$folder/data TURNPIKE_PORTAL_LISTEN=127.0.0.1:3200 TURNPIKE_PORTAL_URL=http://127.0.0.1:3200
export TURNPIKE_GATEWAY_LISTEN=127.0.0.1:8280 TURNPIKE_GATEWAY_URL=http://127.0.0.1:8280 TURNPIKE_OPERATIONS_LISTEN=127.0.0.1:9290 TURNPIKE_GATEWAY_THREADS=1
# A process of its own for the gateway, as on a machine that does nothing else; the worker and the database run beside it.
TURNPIKE_ROLE=all "$program" serve >"$folder/log" 2>&1 &
pid=$!
trap 'kill $pid 2>/dev/null; wait $pid 2>/dev/null || true' EXIT
for _ in $(seq 300); do curl -fsS -o /dev/null http://127.0.0.1:9290/readyz 2>/dev/null && break; sleep 0.1; done
"$program" plan publish end2end/bench/catalogue.toml
consumer=$("$program" consumer create --email bench@atlas.example --plan bench --complimentary)
"$program" key create --consumer "$consumer" --count "$count" >"$folder/keys"
sleep 3
export OURS_URL=http://127.0.0.1:8280/v1/data OURS_PID=$pid OURS_KEYS=$PWD/$folder/keys
echo "gateway $OURS_URL, process $pid, $(wc -l <"$folder/keys") keys in $OURS_KEYS"
if [ $# -gt 0 ]; then "$@"; else wait $pid; fi
