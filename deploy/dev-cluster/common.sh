# shellcheck shell=bash disable=SC2034  # variables of those who source this
# What every command of the development cluster shares: where things are, and how they are said and run.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkout=$(cd "$here/../.." && pwd)

# What is slow to make, kept for the next time: Debian's packages and what is built of them.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/belljar/dev-cluster
# The cluster itself: certificates, kubeconfigs, logs, etcd's data. Gone after `down`.
run_dir=${BELLJAR_DEV_CLUSTER:-/var/lib/belljar-dev-cluster}
kubeconfig=$run_dir/kubeconfig

# The link between this machine and the cluster's own network. The API server is at $node_address:443, and at the
# address of the Service `kubernetes` for those inside, so that no kube-proxy is needed.
link_name=belljar-dev
host_address=10.99.0.254
node_address=10.99.0.1
service_address=10.96.0.1
pod_range=10.98.0.0/24
api_server=https://$node_address

sandbox_namespace=belljar-sandboxes
log=$cache/log

say() { printf '  %-11s %s\n' "$1" "$2"; }
has() { command -v "$1" >/dev/null 2>&1; }

fail() { # what went wrong, what to do next
    printf '\n  FAILED      %s\n' "$1" >&2
    [[ ! -s $log ]] || { echo "  --- the end of $log:" && tail -n 15 "$log" | sed 's/^/  | /'; } >&2
    printf '  What next:  %s\n' "$2" >&2
    exit 1
}

logged() { # a command; its output goes to the log
    printf '\n$ %s\n' "$*" >>"$log"
    "$@" >>"$log" 2>&1
}

within() { # seconds, command: true as soon as the command is
    local deadline=$((SECONDS + $1))
    until "${@:2}" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || return 1
        sleep 0.2
    done
}

needs_root() {
    ((EUID == 0)) || fail "the cluster has namespaces, cgroups and mounts of its own" "run this as root (sudo $0)"
}

# One command at a time changes the cluster. Those that it calls are a part of it.
take_turn() {
    [[ ! ${BELLJAR_DEV_CLUSTER_TURN:-} ]] || return 0
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock --timeout 1800 9 || fail "another command has held $cache/lock for half an hour" "end it, then run this again"
    export BELLJAR_DEV_CLUSTER_TURN=taken
}

# The process that everything in the cluster descends from (node.sh's parent), if it lives: the process id alone
# might be somebody else's by now, so the time at which it started is compared, too.
cluster_pid() {
    local pid started
    read -r pid started 2>/dev/null <"$run_dir/pid" || return 1
    [[ $(process_start "$pid") == "$started" ]] && echo "$pid"
}
process_start() { # process id; in clock ticks since the machine started. A name may hold blanks, but not the rest.
    local stat
    read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
    stat=${stat##*) }
    cut -d' ' -f20 <<<"$stat"
}
is_up() { cluster_pid >/dev/null; }

# PID 1 of the cluster's namespaces: the only child of `unshare`.
node_pid() {
    local pid
    pid=$(cluster_pid) && pid=$(<"/proc/$pid/task/$pid/children") && echo "${pid%% *}"
}
in_cluster() { nsenter --target "$(node_pid)" --mount --pid --net "$@"; }

build_in_use() { readlink -e "$cache/current"; }
kubectl() { timeout --kill-after=5 "${KUBECTL_DEADLINE:-60}" "$(build_in_use)/bin/kubectl" --kubeconfig="$kubeconfig" "$@"; }
