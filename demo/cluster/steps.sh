# The steps of demo/cluster/run before there is anything to show (sourced, not run).
# shellcheck shell=bash
. tests/cluster/lib.sh
cluster=demo dir=$(cluster_dir demo)
times=$POOLKEEPER_CACHE/demo-times

# step TEXT SECONDS COMMAND…: runs it, saying what, how long it took the last time here (SECONDS: the first time), and how far it is.
number=0
step() {
  local text=$1 expected=$2 log pid key since=$SECONDS took last shown; shift 2
  number=$((number + 1)) key=$(tr -c 'a-z0-9\n' - <<<"${text,,}")
  mkdir -p "$times"
  last=$(cat "$times/$key" 2>/dev/null || echo "$expected")
  log=$(mktemp)
  ("$@") >"$log" 2>&1 &
  pid=$! shown=$SECONDS
  [ -t 1 ] || printf '[%d/6] %s: about %s\n' $number "$text" "$(span "$last")"
  while kill -0 $pid 2>/dev/null; do
    if [ -t 1 ]; then
      printf '\r\e[K%s[%d/6]%s %s: %s, %s  %s%s%s' "$bold$green" $number "$plain" "$text" "$(span $((SECONDS - since)))" "$(left $((last - SECONDS + since)))" "$dim" "$(last_line "$log")" "$plain"
    elif [ $((SECONDS - shown)) -ge 30 ]; then
      shown=$SECONDS
      note "$(span $((SECONDS - since))), $(left $((last - SECONDS + since))); $(last_line "$log")"
    fi
    sleep 0.2
  done
  [ ! -t 1 ] || printf '\r\e[K'
  wait $pid || { tail -n 30 "$log" >&2; rm -f "$log"; die "step $number, $text, failed (above)"; }
  took=$((SECONDS - since))
  # What was there already says nothing of how long it takes to make.
  [ $took -lt 3 ] || echo $took >"$times/$key"
  printf '%s[%d/6]%s %s: %s\n' "$bold$green" $number "$plain" "$text" "$(span $took)"
  rm -f "$log"
}
last_line() { tail -c 300 "$1" | tr -d '\r' | tail -n 1 | cut -c1-60; }
span() { if [ "$1" -lt 100 ]; then echo "$1 s"; else echo "$((($1 + 30) / 60)) min"; fi; }
left() { if [ "$1" -gt 0 ]; then echo "about $(span "$1") left"; else echo "a little longer"; fi; }

kubernetes() { for what in kube dns pause helm; do tests/cluster/build $what >/dev/null; done; }

images() { tests/e2e/images >"$POOLKEEPER_CACHE/demo-images"; }

# What runs from the last time is shown anew.
node_up() {
  if keeper "$dir" >/dev/null && [ -e "$dir/ready" ]; then echo "it is up"; return; fi
  demo/cluster/down
  tests/cluster/up $cluster
}

load_images() {
  local folder key; folder=$(<"$POOLKEEPER_CACHE/demo-images")
  key=$(sha256sum "$folder"/*.tar | sha256sum)
  [ "$(cat "$dir/demo-images" 2>/dev/null)" != "$key" ] || return 0
  tests/cluster/load --cluster $cluster "$folder"/*.tar
  echo "$key" >"$dir/demo-images"
}

install() {
  tests/cluster/helm --cluster $cluster upgrade --install poolkeeper charts/poolkeeper --namespace poolkeeper --create-namespace --wait --timeout 5m \
    --set-string "podAnnotations.images=$(cut -c1-16 "$dir/demo-images")"
}
