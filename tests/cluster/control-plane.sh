# The control plane: etcd and the API server, and the controllers if they are asked for (sourced by keep, not run).
# Alone it needs no root: the API server listens on a free port of the loopback address, etcd on a unix socket in the cluster's folder.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154
services=198.19.0.0/24

prepare_control-plane() {
  pki_ca
  pki_sign apiserver /CN=kube-apiserver "IP:127.0.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
  pki_sign admin /O=system:masters/CN=admin DNS:admin
  pki_sign controller-manager /CN=system:kube-controller-manager DNS:controller-manager
  choose_port
  apiserver_listens=(--bind-address=127.0.0.1 --advertise-address=127.0.0.1 --endpoint-reconciler-type=none)
  stages=("api_ready:etcd apiserver")
  [ -z "$controllers" ] || stages+=("controllers_ready:controller-manager")
}

# A free port below the ephemeral ones, so that no outgoing connection takes it meanwhile.
choose_port() {
  local port
  while port=$((11000 + RANDOM % 9000)) && (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  echo $port >port
  serve_at "https://127.0.0.1:$port" controller-manager
}

# serve_at URL USER…: writes where the API server is, and the kubeconfigs of the administrator and of these users.
serve_at() {
  local user
  echo "$1" >server; shift
  kubeconfig admin "$dir/kubeconfig"
  for user in "$@"; do kubeconfig "$user" "$dir/$user.kubeconfig"; done
}

command_etcd() {
  command=("$kube" etcd --data-dir etcd --unsafe-no-fsync --log-level warn
    --listen-client-urls unix://etcd.sock:0 --advertise-client-urls http://localhost:0
    --listen-peer-urls unix://peer.sock:0 --initial-advertise-peer-urls http://localhost:0 --initial-cluster default=http://localhost:0)
}

command_apiserver() {
  # Once refused, it would try etcd again a second later.
  until [ -S etcd.sock:0 ] || [ -n "$ending" ]; do sleep 0.02; done
  command=("$kube" apiserver --etcd-servers=unix://etcd.sock:0 --secure-port="$(cat port)" "${apiserver_listens[@]}"
    --service-cluster-ip-range=$services --tls-cert-file=pki/apiserver.crt --tls-private-key-file=pki/apiserver.key --client-ca-file=pki/ca.crt
    --service-account-key-file=pki/sa.pub --service-account-signing-key-file=pki/sa.key --service-account-issuer=https://kubernetes.default.svc
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true --profiling=false)
}

# Another program may have been faster with the port; only before anybody was told of it.
revive_apiserver() {
  if [ "$mode" = control-plane ] && [ ! -e ready ] && grep -q 'address already in use' logs/apiserver.log; then choose_port; fi
}

command_controller-manager() {
  command=("$kube" controller-manager --kubeconfig=controller-manager.kubeconfig --leader-elect=false --use-service-account-credentials
    --controllers="${controllers:-*}" --bind-address=127.0.0.1 --secure-port=0 --flex-volume-plugin-dir="$dir/volume-plugins"
    --service-account-private-key-file=pki/sa.key --root-ca-file=pki/ca.crt --cluster-signing-cert-file=pki/ca.crt --cluster-signing-key-file=pki/ca.key)
}

# until_ok COMMAND…: waits for two minutes; on a loaded machine things take many times their usual second.
until_ok() {
  local end=$((SECONDS + 120))
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "waited two minutes for: $*" >&2; return 1; }
    sleep 0.05
  done
}

api() { curl --silent --show-error --fail --max-time 10 --cacert pki/ca.crt --cert pki/admin.crt --key pki/admin.key "$(cat server)$1" "${@:2}"; }

api_ready() { until_ok api /readyz; }

# The account that every namespace gets is the first that they make, if it is asked for.
controllers_ready() {
  case ${controllers:-*} in *'*'* | *serviceaccount-controller*) until_ok api /api/v1/namespaces/default/serviceaccounts/default ;; esac
}
