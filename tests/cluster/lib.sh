# Shared by the scripts of this folder (sourced, not run): where clusters and their programs are kept.
# shellcheck shell=bash
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../../scripts/lib.sh
. "$here/../../scripts/lib.sh"

# Where clusters that have a name keep their state.
clusters=${POOLKEEPER_CLUSTERS:-${TMPDIR:-/tmp}/poolkeeper-clusters-$(id -u)}

# cluster_dir NAME: its folder. A name with a slash is a folder itself.
cluster_dir() {
  case $1 in
    */*) realpath -m -- "$1" ;;
    '' | .* | *[!a-z0-9-]*) die "'$1' is no name for a cluster: lower case letters, digits and - only, or a folder (with a slash)" ;;
    *) echo "$clusters/$1" ;;
  esac
}

# take_name ARGUMENT…: reads `--cluster NAME|DIR` in front of the others: sets name, dir, and rest to what follows.
take_name() {
  # shellcheck disable=SC2034
  case ${1:-} in
    --cluster) name=${2:-} rest=("${@:3}") ;;
    --cluster=*) name=${1#*=} rest=("${@:2}") ;;
    *) name=default rest=("$@") ;;
  esac
  dir=$(cluster_dir "$name")
}

# external: whether the user's own cluster is to be used. KUBECONFIG alone is not enough: nobody runs tests on production by accident.
external() {
  [ "${POOLKEEPER_TEST_CLUSTER:-}" = external ] || return 1
  [ -n "${KUBECONFIG:-}" ] || die "POOLKEEPER_TEST_CLUSTER=external needs KUBECONFIG beside it"
}

# started PID: when a process was started, in the kernel's ticks: with the id it names one process for good. Nothing if it has ended.
started() {
  local stat fields
  read -r stat 2>/dev/null <"/proc/$1/stat" || return 0
  # "pid (comm) state ppid …"; comm may hold anything.
  read -ra fields <<<"${stat##*) }"
  [ "${fields[0]}" = Z ] || echo "${fields[19]}"
}

# alive FILE: the id in a file of an id and its start, if that process lives.
alive() {
  local pid since
  read -r pid since 2>/dev/null <"$1" || return 1
  [ -n "$since" ] && [ "$(started "$pid")" = "$since" ] && echo "$pid"
}

# keeper DIR: the id of the process that keeps a cluster, if it lives.
keeper() { alive "$1/keeper"; }

# enter DIR OPTION… -- COMMAND…: becomes the command, in the namespaces (nsenter's options) of a whole node; as it is, of a control plane alone.
enter() {
  local dir=$1 options=() pid; shift
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  [ -e "$dir/inside" ] || exec "$@"
  pid=$(alive "$dir/inside") || die "the node in $dir has ended: tests/cluster/down"
  if [ "$(id -u)" != 0 ]; then exec sudo --preserve-env nsenter --target "$pid" "${options[@]}" -- "$@"; fi
  exec nsenter --target "$pid" "${options[@]}" -- "$@"
}
