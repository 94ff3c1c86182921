#!/usr/bin/env bash
# The node: PID 1 of the cluster's namespaces, started by `up` and nothing else. It prepares them, starts the parts of
# Kubernetes, and starts each anew when it ends. When this process ends, the kernel ends everything in the cluster.
#
# A part that has a file in $run_dir/held stays down: that is how `fault` does it.
set -euo pipefail
. "$(dirname "$0")/common.sh"
build=$(build_in_use)
pki=$run_dir/pki
config=$run_dir/config

# --- the namespaces ---------------------------------------------------------------------------------

# Folders whose paths are built into the parts, and that this machine may have, too.
hide_machine_folders() {
    local folder own
    for folder in /var/log/pods /var/log/containers /run/containerd /run/netns /var/lib/cni /var/lib/kubelet; do
        own=$run_dir/folders$folder
        mkdir -p "$folder" "$own"
        mount --bind "$own" "$folder"
    done
}

# The kubelet wants these as they are here, and would set them for the whole machine. It sees files instead.
shield_kernel_settings() {
    local setting value own
    while read -r setting value; do
        own=$run_dir/settings/$setting
        mkdir -p "${own%/*}"
        echo "$value" >"$own"
        mount --bind "$own" "/proc/sys/$setting"
    done <<-'SETTINGS'
		vm/overcommit_memory 1
		vm/panic_on_oom 0
		kernel/panic 10
		kernel/panic_on_oops 1
		kernel/keys/root_maxkeys 1000000
		kernel/keys/root_maxbytes 25000000
	SETTINGS
}

join_network() {
    ip link set lo up
    within 10 ip link show node || { echo "the network link did not come" >&2 && return 1; }
    ip address add "$node_address/24" dev node
    ip link set node up
    ip route add default via "$host_address" dev node
    # Where pods find the API server, and why it needs no kube-proxy.
    ip address add "$service_address/32" dev lo
    echo 1 >/proc/sys/net/ipv4/ip_forward
}

# --- the parts --------------------------------------------------------------------------------------

part() { # name, command: as often as it ends
    local name=$1 pid
    shift
    while true; do
        while [[ -e $run_dir/held/$name ]]; do sleep 0.1; done
        "$@" >>"$run_dir/logs/$name.log" 2>&1 &
        pid=$!
        echo "$pid" >"$run_dir/pids/$name"
        wait "$pid" || true
        echo "$(date +%T) $name ended" >>"$run_dir/logs/node.log"
        sleep 0.5
    done
}

etcd() {
    exec "$build/bin/etcd" --data-dir "$run_dir/etcd" --unsafe-no-fsync \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
        --initial-cluster default=http://127.0.0.1:2380
}

containerd() {
    # It looks for its shims there.
    PATH=$build/bin:$PATH exec /usr/bin/containerd --config "$config/containerd.toml"
}

apiserver() {
    exec "$build/bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
        --bind-address=0.0.0.0 --secure-port=443 --insecure-port=0 --advertise-address="$node_address" \
        --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --client-ca-file="$pki/ca.crt" \
        --kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=Hostname \
        --kubelet-client-certificate="$pki/apiserver-to-kubelet.crt" --kubelet-client-key="$pki/apiserver-to-kubelet.key" \
        --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$pki/tokens.pub" \
        --service-account-signing-key-file="$pki/tokens.key" \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
        --service-cluster-ip-range=10.96.0.0/16 --endpoint-reconciler-type=none
}

controller_manager() {
    exec "$build/bin/kube-controller-manager" --kubeconfig="$config/controller-manager.kubeconfig" \
        --authentication-kubeconfig="$config/controller-manager.kubeconfig" \
        --authorization-kubeconfig="$config/controller-manager.kubeconfig" \
        --bind-address=127.0.0.1 --port=0 --leader-elect=false --use-service-account-credentials=true \
        --service-account-private-key-file="$pki/tokens.key" --root-ca-file="$pki/ca.crt"
}

scheduler() {
    exec "$build/bin/kube-scheduler" --kubeconfig="$config/scheduler.kubeconfig" \
        --authentication-kubeconfig="$config/scheduler.kubeconfig" --authorization-kubeconfig="$config/scheduler.kubeconfig" \
        --bind-address=127.0.0.1 --port=0 --leader-elect=false
}

kubelet() {
    exec "$build/bin/kubelet" --config="$config/kubelet.yaml" --kubeconfig="$config/kubelet.kubeconfig" \
        --root-dir="$run_dir/kubelet" --hostname-override=localhost --node-ip="$node_address" \
        --container-runtime=remote --container-runtime-endpoint="unix://$run_dir/containerd.sock"
}

# ----------------------------------------------------------------------------------------------------

mkdir -p "$run_dir"/{pids,held,logs,etcd,kubelet,volume-plugins,containerd}
hide_machine_folders
shield_kernel_settings
join_network
for name in etcd containerd apiserver controller_manager scheduler kubelet; do part "$name" "$name" & done
wait
