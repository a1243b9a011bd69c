# A whole node: scheduler, controllers, containerd, kubelet, kube-proxy and CoreDNS (sourced by keep and down, not run). It needs root.
# All of it lives in network, mount, process and IPC namespaces of its own, which end with the one process that made them: no process, mount, address or
# rule of it is left, or was ever seen outside. From the network there is no route out, so nothing that a test does can leave the machine.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154
node=198.18.0.1 pods=198.18.1.0/24 dns=198.19.0.10

# The cluster's own cgroup, in every hierarchy there is (in version 2 one): two kubelets in the same would end each other's pods.
cgroup() { echo "poolkeeper-$(sha256sum <<<"$dir" | cut -c1-12)"; }
cgroup_folders() {
  local root=/sys/fs/cgroup folder
  if [ -e $root/cgroup.controllers ]; then echo "$root/$(cgroup)"; return; fi
  for folder in "$root"/*/; do echo "$folder$(cgroup)"; done
}

# contain: runs the node until it ends.
contain() {
  local folder parent
  while read -r folder; do
    parent=$(dirname "$folder")
    mkdir -p "$folder"
    # Version 1: no process may enter before it is said which processors and memory there are.
    for file in cpuset.cpus cpuset.mems; do [ ! -e "$folder/$file" ] || cat "$parent/$file" >"$folder/$file"; done
  done < <(cgroup_folders)
  setpriv --pdeathsig KILL unshare --mount --pid --net --ipc --fork --kill-child --mount-proc --propagation slave -- \
    env POOLKEEPER_CONTAINED=yes "$here/keep" "$dir" node "$controllers" </dev/null &
  name_of[$!]=node
  local pid=$! inner=
  # Who wants in (tests/cluster/inside, kubectl) enters by the id of the first process in there.
  until [ -n "$inner" ] || ! kill -0 $pid 2>/dev/null; do sleep 0.02; read -r inner _ <"/proc/$pid/task/$pid/children" || true; done
  echo "$inner $(started "$inner")" >inside
  wait $pid || true
}

# clear_node: what is not in its namespaces.
clear_node() {
  local folder
  # Processes that were killed leave their cgroup a moment later.
  for _ in $(seq 100); do
    while read -r folder; do [ ! -d "$folder" ] || find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || true; done < <(cgroup_folders)
    while read -r folder; do [ ! -d "$folder" ] || continue 2; done < <(cgroup_folders)
    return
  done
  echo "the cgroup $(cgroup) could not be removed" >&2
}

prepare_node() {
  case $dir/ in /run/* | /var/run/* | /var/log/* | /var/lib/*) give_up "a node cannot be kept in $dir: it has its own /run, /var/log and /var/lib" ;; esac
  mount --make-rshared /
  local folder
  for folder in /run /var/log /var/lib; do
    mkdir -p "$dir/root$folder"
    mount --bind "$dir/root$folder" "$folder"
  done
  mkdir -p /run/lock cni containerd kubelet

  ip link set lo up
  ip link add node0 type bridge
  ip addr add $node/24 dev node0
  ip link set node0 up
  # Addresses of services need a route before they are translated; the gateway is nobody.
  ip route add default via 198.18.0.254 dev node0
  sysctl -qw net.ipv4.ip_forward=1

  pki_ca
  pki_sign apiserver /CN=kube-apiserver "IP:$node,IP:127.0.0.1,IP:198.19.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
  pki_sign admin /O=system:masters/CN=admin DNS:admin
  pki_sign controller-manager /CN=system:kube-controller-manager DNS:controller-manager
  pki_sign scheduler /CN=system:kube-scheduler DNS:scheduler
  pki_sign proxy /CN=system:kube-proxy DNS:proxy
  pki_sign kubelet /O=system:nodes/CN=system:node:node1 "DNS:node1,IP:$node"
  echo 6443 >port
  serve_at "https://$node:6443" controller-manager scheduler proxy kubelet
  apiserver_listens=(--bind-address=0.0.0.0 --advertise-address=$node --kubelet-client-certificate=pki/admin.crt --kubelet-client-key=pki/admin.key
    --kubelet-certificate-authority=pki/ca.crt --kubelet-preferred-address-types=InternalIP)
  write_configurations
  stages=("api_and_containerd_ready:etcd apiserver containerd" "node_ready:controller-manager scheduler kubelet proxy coredns")
}

write_configurations() {
  cat >containerd.toml <<C
version = 2
root = "$dir/containerd/root"
state = "$dir/containerd/state"
[grpc]
  address = "$dir/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  netns_mounts_under_state_dir = true
  # Where CAP_SYS_RESOURCE is missing, runc cannot lower a score and fails.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$dir/cni"
C
  cat >cni/10-bridge.conflist <<C
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam":
    {"type": "host-local", "dataDir": "$dir/cni-ipam", "ranges": [[{"subnet": "$pods"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
C
  echo "nameserver $dns" >resolv.conf
  cat >kubelet.yaml <<C
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
cgroupRoot: /$(cgroup)
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://$dir/containerd.sock
volumePluginDir: $dir/volume-plugins
resolvConf: $dir/resolv.conf
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $dir/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $dir/pki/kubelet.crt
tlsPrivateKeyFile: $dir/pki/kubelet.key
clusterDomain: cluster.local
clusterDNS: [$dns]
enforceNodeAllocatable: []
# A Secret that was changed reaches its pods within seconds instead of a minute and a half.
syncFrequency: 5s
configMapAndSecretChangeDetectionStrategy: Watch
# The disk is the machine's, and not the tests' to keep free; an image that was collected could not be had again.
evictionHard: {memory.available: 50Mi, nodefs.available: 100Mi, imagefs.available: 100Mi}
evictionPressureTransitionPeriod: 5s
imageGCHighThresholdPercent: 100
C
  cat >proxy.yaml <<C
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clientConnection: {kubeconfig: $dir/proxy.kubeconfig}
clusterCIDR: $pods
conntrack: {maxPerCore: 0}
C
  cat >Corefile <<C
.:53 {
  errors
  ready 127.0.0.1:8181
  cache 5
  kubernetes cluster.local {
    kubeconfig $dir/kubeconfig
  }
}
C
}

command_scheduler() { command=("$kube" scheduler --kubeconfig=scheduler.kubeconfig --leader-elect=false --bind-address=127.0.0.1 --secure-port=0); }
command_containerd() { command=(containerd --config containerd.toml); }
command_kubelet() {
  command=("$kube" kubelet --kubeconfig="$dir/kubelet.kubeconfig" --config="$dir/kubelet.yaml" --root-dir="$dir/kubelet" --hostname-override=node1 --node-ip=$node)
}
command_proxy() { command=("$kube" proxy --config=proxy.yaml --hostname-override=node1); }
command_coredns() { command=("$("$here/build" dns)" -conf Corefile); }

api_and_containerd_ready() {
  until_ok ctr --address containerd.sock version
  "$here/archive" pause.tar localhost/pause:1 "$("$here/build" pause)"
  ctr --address containerd.sock --namespace k8s.io images import pause.tar
  api_ready
}

node_ready() {
  # CoreDNS runs on the node itself, behind the Service that every pod is told of.
  "$kube" kubectl --kubeconfig kubeconfig --cache-dir kubectl-cache apply -f - <<C
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIP: $dns, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: [$node], conditions: {ready: true}}]
C
  until_ok "$kube" kubectl --kubeconfig kubeconfig --cache-dir kubectl-cache wait --for=condition=Ready node/node1 --timeout=1s
  until_ok curl --silent --fail http://127.0.0.1:8181/ready
  controllers_ready
}
