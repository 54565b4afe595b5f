#!/usr/bin/env python3
"""The gateway and its peers on the same work, in turn, in one run.

What is compared is the CPU time that the proxy process spends on one request (user + system, from /proc),
because a rate in requests per second moves with everything else the machine does. wrk and the upstream are
pinned to CPU 0, every proxy to CPU 1 (one worker each). Rounds are interleaved: A B C A B C ...

Peers (Debian packages: nginx-light libnginx-mod-http-lua lua-resty-core haproxy wrk):
  floor          the upstream answered directly: what one HTTP request costs a server at all
  nginx          proxy_pass with keep-alive, nothing else
  nginx+limits   map of API keys, limit_req by key, buffered usage log: no plans, no quotas, no money
  nginx+lua      API keys in a shared dictionary, a rate limit and a counter per key in Lua (Kong's architecture)
  haproxy        plain proxy
  haproxy+keys   map of API keys, a stick table with the request rate per key
  ours           the gateway with everything on: key, rate limit, quota, spend cap, durable metering, headers

Use: ./dev bench gateway [--rounds 3] [--seconds 4] [--connections 64] [--only nginx,ours]
The gateway is started by gateway.sh, which says where it is in OURS_URL, OURS_PID and OURS_KEYS; it forwards to
http://127.0.0.1:9000 (started here; any path is answered with 1,011 bytes of JSON).
With --steady 0.5 answer times are compared instead, when each gets half of what plain nginx can do, at random moments.
Prints a line per run, then a table: the median of each, user and system apart, and the ratio of `ours` to each peer
(under 1 is better). Exit status 1 when an answer was not 2xx or a proxy could not be started.
"""
import argparse, datetime, os, re, shutil, statistics, subprocess, sys, tempfile, time

UPSTREAM = 9000
PORTS = {"nginx": 9101, "nginx+limits": 9102, "nginx+lua": 9103, "haproxy": 9104, "haproxy+keys": 9105}
KEY_COUNT = 10_000
TICK = os.sysconf("SC_CLK_TCK")
STEADY = "target/release/examples/steady"


def peer_keys(count):
    return [f"sk_live_{i:032d}" for i in range(count)]


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


def configure(folder):
    keys = peer_keys(KEY_COUNT)
    write(f"{folder}/keys.map", "".join(f'"{k}" pro;\n' for k in keys))
    write(f"{folder}/haproxy.map", "".join(f"{k} pro\n" for k in keys))
    write(f"{folder}/keys.lua", "local d = ngx.shared.keys\n" + "".join(f'd:set("{k}", "pro")\n' for k in keys))
    body = '{"data":"' + "x" * 1000 + '"}'
    common = "events { worker_connections 4096; }"
    write(f"{folder}/upstream.conf", f"""
worker_processes 1; worker_cpu_affinity 01; pid {folder}/upstream.pid; error_log {folder}/upstream.err; {common}
http {{ access_log off; keepalive_requests 100000000;
  server {{ listen 127.0.0.1:{UPSTREAM} reuseport; location / {{ default_type application/json; return 200 '{body}'; }} }} }}
""")
    forward = 'proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";'
    write(f"{folder}/nginx.conf", f"""
load_module modules/ndk_http_module.so; load_module modules/ngx_http_lua_module.so;
worker_processes 1; worker_cpu_affinity 10; pid {folder}/nginx.pid; error_log {folder}/nginx.err; {common}
http {{ access_log off; keepalive_requests 100000000; map_hash_max_size 65536; map_hash_bucket_size 128;
  lua_shared_dict keys 16m; lua_shared_dict counts 16m; lua_shared_dict arrivals 16m; init_by_lua_file {folder}/keys.lua;
  upstream up {{ server 127.0.0.1:{UPSTREAM}; keepalive 256; keepalive_requests 100000000; }}
  map $http_x_api_key $plan {{ default ""; include {folder}/keys.map; }}
  limit_req_zone $http_x_api_key zone=rates:32m rate=1000000r/s;
  log_format usage '$msec $http_x_api_key $request_method $uri $status $request_length $bytes_sent $request_time';
  server {{ listen 127.0.0.1:{PORTS['nginx']}; location / {{ {forward} }} }}
  server {{ listen 127.0.0.1:{PORTS['nginx+limits']}; access_log {folder}/usage.log usage buffer=256k flush=1s;
    location / {{ if ($plan = "") {{ return 401; }} limit_req zone=rates burst=100000 nodelay; {forward} proxy_set_header X-Api-Tier $plan; }} }}
  server {{ listen 127.0.0.1:{PORTS['nginx+lua']};
    location / {{
      access_by_lua_block {{
        local key = ngx.var.http_x_api_key
        if not key or not ngx.shared.keys:get(key) then return ngx.exit(401) end
        local now, arrivals = ngx.now(), ngx.shared.arrivals
        local arrival = math.max(arrivals:get(key) or 0, now) + 0.000001
        if arrival > now + 1 then return ngx.exit(429) end
        arrivals:set(key, arrival)
      }}
      log_by_lua_block {{ ngx.shared.counts:incr(ngx.var.http_x_api_key, 1, 0) }}
      {forward} }} }}
}}
""")
    write(f"{folder}/haproxy.cfg", f"""
global
  nbthread 1
  cpu-map 1/1 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend plain
  bind 127.0.0.1:{PORTS['haproxy']}
  default_backend up
frontend keys
  bind 127.0.0.1:{PORTS['haproxy+keys']}
  stick-table type string len 64 size 100k expire 10m store http_req_rate(10s),gpc0
  http-request set-var(txn.plan) req.hdr(x-api-key),map_str({folder}/haproxy.map)
  http-request deny deny_status 401 unless {{ var(txn.plan) -m found }}
  http-request track-sc0 req.hdr(x-api-key)
  http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt 100000000 }}
  http-request set-header X-Api-Tier %[var(txn.plan)]
  default_backend up
backend up
  server s 127.0.0.1:{UPSTREAM} pool-max-conn 256
""")


def wrk_script(folder, name, header, keys):
    path = f"{folder}/{name}.lua"
    listed = ",".join(f'"{k}"' for k in keys)
    write(path, f'local keys = {{{listed}}}\nlocal i = 0\nfunction request()\n  i = (i + 7919) % #keys\n'
                f'  return wrk.format("GET", nil, {{["{header}"] = keys[i + 1]}})\nend\n')
    return path


def listening_pids(port):
    out = subprocess.run(["ss", "-ltnpH", f"sport = :{port}"], capture_output=True, text=True).stdout
    return sorted({int(p) for p in re.findall(r"pid=(\d+)", out)})


def cpu_seconds(pids):
    """Of all threads since each began: in the program, and in the kernel for it."""
    user = system = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        user, system = user + int(fields[11]), system + int(fields[12])
    return user / TICK, system / TICK


def measure(target, script, args):
    before = cpu_seconds(target["pids"])
    run = subprocess.run(["taskset", "-c", "0", "wrk", "-t1", f"-c{args.connections}", f"-d{args.seconds}s", "--latency",
                          "-s", script, target["url"]], capture_output=True, text=True)
    user, system = (now - then for now, then in zip(cpu_seconds(target["pids"]), before))
    out = run.stdout
    requests = int(re.search(r"(\d+) requests in", out).group(1))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))
    p99 = re.search(r"^\s+99%\s+(\S+)", out, re.M)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    per_request = 1e6 / max(requests, 1)
    return {"cpu_us": (user + system) * per_request, "user_us": user * per_request, "rps": rate, "p99": p99.group(1) if p99 else "?",
            "bad": int(bad.group(1)) if bad else 0}


def table(runs):
    median = {name: {what: statistics.median(r[what] for r in rs) for what in ("cpu_us", "user_us")} for name, rs in runs.items()}
    ours = median.get("ours")
    title("gateway")
    print("| proxy | CPU a request | of it in the program | ours in relation |\n| --- | --- | --- | --- |")
    for name, m in median.items():
        ratio = f"{ours['cpu_us'] / m['cpu_us']:.2f}" if ours else ""
        print(f"| {name} | {m['cpu_us']:.2f} us | {m['user_us']:.2f} us | {ratio} |")


def steadily(target, rate, args):
    """Answer times in microseconds under a load that does not wait for answers; what was not answered well counts as failed."""
    address, path = re.match(r"http://([^/]+)(/.*)", target["url"]).groups()
    run = subprocess.run(["taskset", "-c", "0", STEADY, address, path, target["keys"], f"{rate:.0f}", str(args.seconds),
                          str(args.connections)], capture_output=True, text=True, check=True)
    return {word: int(value) for word, value in re.findall(r"(\w+) (\d+)", run.stdout)}


def compare_steady(targets, args):
    """The same number of requests a second for each: a share of what the plain proxy can do."""
    full = measure(targets["nginx"], targets["nginx"]["script"], args)["rps"]
    rate = full * args.steady
    print(f"nginx does {full:.0f} requests a second; each gets {rate:.0f}")
    runs = {name: [] for name in targets}
    for turn in range(args.rounds):
        for name, target in targets.items():
            r = steadily(target, rate, args)
            runs[name].append(r)
            print(f"round {turn + 1}  {name:13s} p50 {r['p50_us']:6d} us  p99 {r['p99_us']:6d} us  p99.9 {r['p999_us']:6d} us"
                  f"  {r['answers']} answers, {r['failed']} failed", flush=True)
    quantiles = ("p50_us", "p99_us", "p999_us")
    median = {name: [statistics.median(r[q] for r in rs) for q in quantiles] for name, rs in runs.items()}
    title("gateway")
    print("| proxy | p50 | p99 | p99.9 | ours in relation: p50, p99, p99.9 |\n| --- | --- | --- | --- | --- |")
    for name, values in median.items():
        ratios = ", ".join(f"{o / max(v, 1):.2f}" for o, v in zip(median.get("ours", []), values))
        print(f"| {name} | " + " | ".join(f"{v:.0f} us" for v in values) + f" | {ratios} |")
    return any(r["failed"] for rs in runs.values() for r in rs)


def title(bench):
    print(f"\n{datetime.date.today()}, {os.cpu_count()} cores, `{' '.join(['./dev bench', bench, *sys.argv[1:]])}`\n")


def run(args):
    for tool in ("nginx", "haproxy", "wrk", "taskset", "ss"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is missing: apt-get install nginx-light libnginx-mod-http-lua lua-resty-core haproxy wrk iproute2")
    folder = tempfile.mkdtemp(prefix="gateway-peers-")
    configure(folder)
    started, failed = [], False
    try:
        for name, command in {"upstream": ["nginx", "-c", f"{folder}/upstream.conf"],
                              "nginx": ["nginx", "-c", f"{folder}/nginx.conf"],
                              "haproxy": ["haproxy", "-D", "-f", f"{folder}/haproxy.cfg", "-p", f"{folder}/haproxy.pid"]}.items():
            start = subprocess.run(command, capture_output=True, text=True)
            if start.returncode:
                sys.exit(f"{name} did not start: {start.stderr}")
            time.sleep(0.3)
            started.append(int(open(f"{folder}/{name}.pid").read().split()[0]))
        peer_script = wrk_script(folder, "peers", "x-api-key", peer_keys(KEY_COUNT))
        peer = {"script": peer_script, "keys": f"{folder}/peers.keys"}
        write(peer["keys"], "\n".join(peer_keys(KEY_COUNT)))
        targets = {"floor": {"url": f"http://127.0.0.1:{UPSTREAM}/v1/data", "pids": listening_pids(UPSTREAM), **peer}}
        for name, port in PORTS.items():
            targets[name] = {"url": f"http://127.0.0.1:{port}/v1/data", "pids": listening_pids(port), **peer}
        if args.ours:
            keys = [line.strip() for line in open(args.keys) if line.strip()]
            for thread in os.listdir(f"/proc/{args.pid}/task"):  # a process already running: pin all its threads
                subprocess.run(["taskset", "-pc", "1", thread], stdout=subprocess.DEVNULL, check=True)
            targets["ours"] = {"url": args.ours, "pids": [args.pid], "keys": args.keys,
                               "script": wrk_script(folder, "ours", args.header, keys)}
        if args.only:
            targets = {n: t for n, t in targets.items() if n in args.only.split(",")}
        if args.steady:
            return 1 if compare_steady(targets, args) else 0
        runs = {name: [] for name in targets}
        for turn in range(args.rounds):
            for name, target in targets.items():
                r = measure(target, target["script"], args)
                runs[name].append(r)
                failed |= r["bad"] > 0
                print(f"round {turn + 1}  {name:13s} cpu/request {r['cpu_us']:6.2f} us  {r['rps']:8.0f} req/s  p99 {r['p99']:>8s}"
                      + (f"  {r['bad']} answers not 2xx" if r["bad"] else ""), flush=True)
        table(runs)
    finally:
        for pid in started:
            try:
                os.kill(pid, 15)
            except ProcessLookupError:
                pass
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--header", default="x-api-key"); parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4); parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--only")
    parser.add_argument("--steady", type=float, metavar="SHARE", help="answer times under this share of the plain proxy's full load")
    args = parser.parse_args()
    args.ours, args.keys = os.environ.get("OURS_URL"), os.environ.get("OURS_KEYS")
    args.pid = int(os.environ.get("OURS_PID", "0"))
    return run(args)


if __name__ == "__main__":
    sys.exit(main())
