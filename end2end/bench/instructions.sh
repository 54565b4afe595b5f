#!/usr/bin/env bash
# Instructions that the gateway alone spends on a request outside the kernel, by function: unlike times they do not
# depend on what else the machine does. Checksums and hashes are counted as software does them (valgrind has no SHA
# instructions). Needs valgrind, nginx and wrk. Called by ./dev bench instructions.
#
#   ./dev bench instructions [FUNCTIONS]      the most expensive FUNCTIONS (default 40)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
program=target/release/examples/bench_gateway
folder=$(mktemp -d)
gateway= upstream=
trap 'kill $gateway $upstream 2>/dev/null || true; wait || true; rm -rf "$folder"' EXIT
cat >"$folder/nginx.conf" <<CONF
worker_processes 1; daemon off; pid $folder/nginx.pid; error_log $folder/nginx.err; events { worker_connections 1024; }
http { access_log off; keepalive_requests 100000000;
  server { listen 127.0.0.1:9000; location / { default_type application/json; return 200 '{"data":"$(printf 'x%.0s' $(seq 1000))"}'; } } }
CONF
nginx -c "$folder/nginx.conf" & upstream=$!
valgrind --tool=callgrind --callgrind-out-file="$folder/profile" -q "$program" 127.0.0.1:9001 127.0.0.1:9000 "$folder/data" 1000 1 >"$folder/out" &
gateway=$!
until grep -q ^ready "$folder/out"; do sleep 0.2; done
{ printf 'local keys = {'; sed 's/.*/"&",/' "$folder/data/keys"; echo '}'
  echo 'local i = 0; function request() i = (i + 79) % #keys; return wrk.format("GET", nil, {["x-api-key"] = keys[i + 1]}) end'; } >"$folder/keys.lua"
load() { wrk -t1 -c16 "-d$1s" -s "$folder/keys.lua" http://127.0.0.1:9001/bench/data; }
load 2 >/dev/null
callgrind_control -z "$gateway" >/dev/null
load 5 >"$folder/load"
callgrind_control -d "$gateway" >/dev/null
sleep 1
python3 - "$folder/profile.1" "$(grep -oE '[0-9]+ requests in' "$folder/load" | cut -d' ' -f1)" "${1:-40}" <<'PYTHON'
import collections, re, sys
path, requests, shown = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
names, cost, function, called = {}, collections.Counter(), None, False
for line in open(path):
    if match := re.match(r"(c?fn)=\((\d+)\)(?: (.*))?$", line):
        kind, number, name = match.groups()
        names[number] = name or names[number]
        if kind == "fn":
            function = names[number]
    elif line.startswith("calls="):
        called = True  # the next line counts what the callee spent
    elif match := re.match(r"[+\-*\d]\S*\s+(\d+)$", line):
        if not called:
            cost[function] += int(match.group(1))
        called = False
print(f"{sum(cost.values()) / requests:8.0f} instructions a request, {requests} requests")
for name, instructions in cost.most_common(shown):
    print(f"{instructions / requests:8.0f} {name[:140]}")
PYTHON
