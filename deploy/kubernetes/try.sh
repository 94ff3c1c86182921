#!/usr/bin/env bash
# Installs what deploy/kubernetes holds in the cluster of deploy/dev-cluster, as it stands but for the names of images, and
# types into a terminal of it: through one gateway, then, with the same token, through the other. Removes it at the end.
#
#   make kubernetes-images && deploy/kubernetes/try.sh [--faults] [--keep]
#
#   --faults   also kills the API server for 30 s, and the kubelet, under a visitor who is to miss nothing
#   --keep     leaves everything there
#
# Needs root, and that cluster; starts it if it is not up. Network policies are not enforced there.
set -euo pipefail
cd "$(dirname "$0")/../.."
cluster=deploy/dev-cluster

say() { printf '  %-11s %s\n' "$1" "$2"; }
kube() { timeout --kill-after=5 60 "$cluster/enter" kubectl "$@"; }
ours() { kube --namespace belljar "$@"; }
fail() {
    printf '\n  FAILED      %s\n' "$1" >&2
    kube get pods --all-namespaces --output wide >&2 || true
    ours logs deployment/belljar --tail=20 >&2 || true
    exit 1
}
keep='' faults=''
for argument in "$@"; do
    case $argument in
    --keep) keep=yes ;;
    --faults) faults=yes ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
    esac
done

"$cluster/up"
# Under pressure of nobody but itself: the node has 2 processors, and a request is what a limit is.
objects() {
    kube kustomize "$PWD/deploy/kubernetes" |
        sed -e 's#registry.example.com/##' -e 's#^    pool = 5$#    pool = 1\n    cpus = 0.2#' \
            -e 's#^apiVersion: policy/v1$#apiVersion: policy/v1beta1#'
}
remove() {
    local code=$?
    trap - EXIT
    # Access and namespaces stay: `up` brings them, too.
    [[ $keep ]] || ours delete deployment,service,configmap,secret,poddisruptionbudget --all --wait=false >/dev/null || true
    [[ $keep ]] || kube delete pods --namespace belljar-sandboxes --all --wait=false >/dev/null || true
    [[ $keep ]] || kube delete resourcequota,limitrange,networkpolicy --namespace belljar-sandboxes --all >/dev/null || true
    exit "$code"
}
trap remove EXIT

head -c 48 /dev/urandom | base64 -w0 | ours create secret generic belljar-token-key --from-file=token-key=/dev/stdin --dry-run=client --output yaml |
    ours apply -f - >/dev/null
objects | kube apply -f - || fail "the API server refused an object"
began=$SECONDS
timeout 150 "$cluster/enter" kubectl --namespace belljar rollout status deployment/belljar --timeout=140s || fail "the gateways did not get ready"
say ready "two gateways ($((SECONDS - began)) s): each has proved gVisor in a probe pod"

mapfile -t addresses < <(ours get pods --selector app.kubernetes.io/name=belljar --output jsonpath='{range .items[*]}{.status.podIP}{"\n"}{end}')
at() { echo "http://${addresses[$1]}:3001"; }
inside() { timeout --kill-after=5 60 "$cluster/enter" "$@"; }

inside curl -fsS --max-time 10 "$(at 0)/health" && echo
# What the shell says, and the exit code that it ends with.
code=0
said=$(printf 'dmesg | head -n 1; id -u; exit 5\n' | inside "$PWD/target/release/belljar" attach "$(at 0)") || code=$?
[[ $said == *'Starting gVisor...'* && $said == *1000* && $code == 5 ]] || fail "a terminal said: $said (exit code $code)"
say ok "a terminal of the first gateway: Starting gVisor..., and exit code 5"

# A session of the one is a session of the other.
session=$(inside curl -fsS --max-time 30 -X POST "$(at 0)/sessions" -H 'Content-Type: application/json' -d '{"template": "base"}')
id=$(jq -r .sessionId <<<"$session") token=$(jq -r .token <<<"$session")
status=$(inside curl -sS --max-time 30 --output /dev/null --write-out '%{http_code}' -H "Authorization: Bearer $token" "$(at 1)/sessions/$id")
[[ $status == 200 ]] || fail "the other gateway does not know the session: $status"
inside curl -fsS --max-time 30 -X DELETE -H "Authorization: Bearer $token" "$(at 1)/sessions/$id" >/dev/null || fail "the other gateway does not end it"
say ok "a session that the first gateway made is known to the second, and ended by it"

[[ $faults ]] || exit 0
work=$PWD/target/kubernetes-try
mkdir -p "$work"

healthy() { # both, within two minutes
    local deadline=$((SECONDS + 120)) gateway
    for gateway in 0 1; do
        until inside curl -fs --max-time 10 --output /dev/null "$(at $gateway)/health"; do
            ((SECONDS < deadline)) || return 1
            sleep 1
        done
    done
}

# A visitor whose shell counts the seconds, while a part of the cluster is killed and comes back.
through() { # seconds that the shell counts, what fault does…
    local last=$1 code=0 visitor
    shift
    healthy || fail "a gateway is not healthy before fault $*"
    # shellcheck disable=SC2016  # the shell in the sandbox expands it
    printf 'for n in $(seq %s); do echo tick $n; sleep 1; done; exit 7\n' "$last" |
        timeout --kill-after=5 $((last + 90)) "$cluster/enter" "$PWD/target/release/belljar" attach "$(at 0)" >"$work/ticks" 2>"$work/notices" &
    visitor=$!
    sleep 8
    "$cluster/fault" "$@" || fail "fault $*"
    wait "$visitor" || code=$?
    [[ $code == 7 && $(grep -oE 'tick [0-9]+' "$work/ticks") == "$(seq --format 'tick %g' "$last")" ]] ||
        fail "$*: the visitor's shell ended with $code, and what they saw is in $work"
    say ok "$*: $last lines of $last, and the exit code"
    began=$SECONDS
    healthy || fail "fault $*: gateways start no terminals two minutes later"
    say ok "$*: gateways start terminals again, $((SECONDS - began)) s after the visitor has left"
}
through 60 apiserver 30
through 30 kubelet

# Of what was begun nothing is left but the pool, which is of both gateways.
left() { kube get pods --namespace belljar-sandboxes --field-selector status.phase=Running --no-headers 2>/dev/null | wc -l; }
deadline=$((SECONDS + 120))
until [[ $(left) -le 1 ]]; do
    ((SECONDS < deadline)) || fail "$(left) sandboxes are left, and a pool of 1"
    sleep 2
done
say ok "nothing is left but what waits in the pool"
