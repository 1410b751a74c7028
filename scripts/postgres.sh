#!/usr/bin/env bash
# A private PostgreSQL server in a folder, for a study, for tests and for benchmarks:
#   scripts/postgres.sh start FOLDER [-c name=value …]     prints the address of its database "study"
#   scripts/postgres.sh stop FOLDER
# It listens on a Unix socket in the folder alone, which only its owner can enter, and needs no password. Run as root it
# becomes the user "postgres", since the server refuses to run as root. Debian's package is installed where it is missing.
# Removing FOLDER after `stop` removes everything.
set -euo pipefail
usage() { echo "usage: $0 start FOLDER [-c name=value …] | stop FOLDER" >&2; exit 2; }
[ $# -ge 2 ] || usage
action=$1
mkdir -p "$2"
folder=$(realpath "$2")
shift 2
find_binaries() { ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1; }
binaries=$(find_binaries)
if [ -z "$binaries" ]; then
  "$(dirname "$0")/install_debian.sh" postgresql >&2
  binaries=$(find_binaries)
  [ -n "$binaries" ] || { echo "error: no PostgreSQL below /usr/lib/postgresql" >&2; exit 2; }
fi
# a socket's path has room for 107 bytes, and ours adds /socket/.s.PGSQL.5432
[ ${#folder} -le 80 ] || { echo "error: $folder is too long for a socket; fix: take a shorter path" >&2; exit 2; }

user=$(id -un)
as_user() { "$@"; }
if [ "$(id -u)" -eq 0 ]; then
  user=postgres
  as_user() { (cd / && runuser -u postgres -- "$@"); }
  chown postgres "$folder"
  as_user test -x "$folder" || {
    echo "error: the user postgres cannot enter $folder; fix: take a folder that others may enter" >&2; exit 2; }
fi
chmod 700 "$folder"

case "$action" in
  start)
    if [ ! -f "$folder/data/PG_VERSION" ]; then
      as_user "$binaries/initdb" --pgdata "$folder/data" --username "$user" --auth trust --encoding UTF8 --locale C \
        > /dev/null
      as_user mkdir -p "$folder/socket"
    fi
    if ! as_user "$binaries/pg_ctl" status --pgdata "$folder/data" > /dev/null; then
      as_user "$binaries/pg_ctl" start --wait --timeout 60 --silent --pgdata "$folder/data" --log "$folder/log" \
        --options "-c listen_addresses= -c unix_socket_directories='$folder/socket' $*" >&2 \
        || { tail -5 "$folder/log" >&2; exit 2; }
    fi
    as_user "$binaries/createdb" --host "$folder/socket" --username "$user" study 2> /dev/null || true
    echo "postgresql://$user@/study?host=$folder/socket"
    ;;
  stop)
    as_user "$binaries/pg_ctl" stop --wait --timeout 60 --silent --mode fast --pgdata "$folder/data"
    ;;
  *) usage ;;
esac
