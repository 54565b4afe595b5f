#!/usr/bin/env bash
# Writes server/domain/.sqlx: what PostgreSQL says of every query, so that builds need no database.
# Run through ./dev prepare after a change to a query or a migration, and commit the folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=$(dirname "$(command -v initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n 1)")
psql=$(command -v psql || echo "$bin/psql")
work=$(mktemp -d /tmp/turnpike-prepare-XXXXXX)
as() { if [ "$(id -u)" = 0 ]; then setpriv --reuid postgres --regid postgres --clear-groups "$@"; else "$@"; fi; }
trap 'as "$bin/pg_ctl" -D "$work/data" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
[ "$(id -u)" != 0 ] || chown postgres "$work"
as "$bin/initdb" -D "$work/data" -U turnpike --auth=trust --encoding=UTF8 --locale=C.UTF-8 >/dev/null
as "$bin/pg_ctl" -D "$work/data" -l "$work/log" -o "-k $work -c listen_addresses= -c fsync=off" -w start >/dev/null
for migration in migrations/*.sql; do "$psql" -q -v ON_ERROR_STOP=1 -h "$work" -U turnpike -d postgres -f "$migration"; done
rm -rf server/domain/.sqlx; mkdir -p server/domain/.sqlx
touch server/domain/src/lib.rs
unset SQLX_OFFLINE
DATABASE_URL="postgres://turnpike@localhost/postgres?host=$work" SQLX_OFFLINE_DIR="$PWD/server/domain/.sqlx" cargo check --quiet -p domain
echo "$(ls server/domain/.sqlx | wc -l) queries described"
