# The demo's programs, started and stopped together; used by ./dev. Sourced, not run.
# A stack lives in a folder: its data, its logs, and the process ids that it may end.

stack_start() { # FOLDER BINARIES PORTAL GATEWAY OPERATIONS ATLAS STRIPE: five ports on loopback
  local folder=$1 bin=$2 portal=$3 gateway=$4 operations=$5 atlas=$6 stripe=$7
  mkdir -p "$folder/logs"; : >"$folder/pids"
  cat >"$folder/env" <<EOF
export TURNPIKE_DATA_DIR=$PWD/$folder/turnpike
export TURNPIKE_PORTAL_URL=http://127.0.0.1:$portal TURNPIKE_PORTAL_LISTEN=127.0.0.1:$portal
export TURNPIKE_GATEWAY_URL=http://127.0.0.1:$gateway TURNPIKE_GATEWAY_LISTEN=127.0.0.1:$gateway
export TURNPIKE_OPERATIONS_LISTEN=127.0.0.1:$operations
export TURNPIKE_STRIPE_URL=http://127.0.0.1:$stripe TURNPIKE_STRIPE_SECRET_KEY=sk_test_demo
export TURNPIKE_CLOCK_OFFSET_FILE=$PWD/$folder/clock-offset
export TURNPIKE_BRAND='Atlas API' TURNPIKE_MAIL_FROM='Atlas <hello@atlas.example>' TURNPIKE_DEVELOPMENT=true
unset DATABASE_URL TURNPIKE_DATABASE_URL
EOF
  stack_run "$folder" atlas "$bin/atlas" --listen "127.0.0.1:$atlas"
  stack_run "$folder" stripe "$bin/stripe-emulator" --listen "127.0.0.1:$stripe" --state "$folder/stripe.json" \
    --clock-offset-file "$folder/clock-offset" --record "${stripe_record:-$folder/stripe-requests.jsonl}"
  stack_run "$folder" turnpike "$bin/turnpike" serve
  stack_answers "$folder" atlas "http://127.0.0.1:$atlas/openapi.json"
  stack_answers "$folder" stripe "http://127.0.0.1:$stripe/_control"
  stack_answers "$folder" turnpike "http://127.0.0.1:$operations/readyz"
  stack_answers "$folder" turnpike "http://127.0.0.1:$portal/login"
}

stack_run() { # FOLDER NAME COMMAND...
  local folder=$1 name=$2; shift 2
  # A session of its own: Ctrl-C reaches this script, which stops the programs in order.
  ( source "$folder/env"; exec setsid "$@" ) >>"$folder/logs/$name.log" 2>&1 </dev/null &
  echo "$! $name" >>"$folder/pids"
}

stack_answers() { # FOLDER NAME URL: waits until it answers, at most 60 s
  local n pid
  pid=$(awk -v n="$2" '$2 == n { print $1 }' "$1/pids")
  for n in $(seq 600); do
    curl -fsS -o /dev/null --max-time 2 "$3" 2>/dev/null && return 0
    kill -0 "$pid" 2>/dev/null || { tail -n 20 "$1/logs/$2.log" >&2; die "$2 ended at start; its log is $1/logs/$2.log"; }
    sleep 0.1
  done
  tail -n 20 "$1/logs/$2.log" >&2; die "$2 does not answer at $3; its log is $1/logs/$2.log"
}

stack_demo() { # FOLDER BINARIES
  ( source "$1/env"
    port=${TURNPIKE_STRIPE_URL##*:}
    # The demo's upstream listens where this stack put it.
    sed "s#http://127.0.0.1:4010#http://127.0.0.1:$((port - 10))#" end2end/atlas/catalogue.toml >"$1/catalogue.toml"
    "$2/turnpike" demo --catalogue "$1/catalogue.toml" end2end/atlas/demo.toml >"$1/demo.txt" )
}

stack_words() { cat "$1/demo.txt"; }

stack_wait() { # FOLDER: returns when one of the programs has ended
  local pid name alive=1
  while [ "$alive" = 1 ]; do
    sleep 1 & wait $! || true
    while read -r pid name; do kill -0 "$pid" 2>/dev/null || alive=0; done <"$1/pids"
  done
}

stack_stop() { # FOLDER: ends what this stack started, last first, and waits for it
  local pid name n
  [ -e "$1/pids" ] || return 0
  tac "$1/pids" | while read -r pid name; do
    kill -TERM "$pid" 2>/dev/null || continue
    for n in $(seq 400); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$pid" 2>/dev/null || true
  done
  rm -f "$1/pids"
}
