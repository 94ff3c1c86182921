#!/usr/bin/env bash
# Checks every object of deploy/kubernetes, in three ways:
#
#   1. against the published schemas of several versions of Kubernetes, strictly: unknown fields are refused
#      (kubernetes-validate, from PyPI, in target/kubernetes-validate)
#   2. by a server-side dry run against a real API server: admission, quota and cross-field rules, too
#   3. what the gateway's account may do, by asking that API server (kubectl auth can-i --list)
#
#   deploy/kubernetes/validate.sh [--schemas]      --schemas: the first only, which needs no cluster
#
# The API server is that of deploy/dev-cluster, started if it is not up, or that of KUBECONFIG and `kubectl`, if
# KUBECONFIG is set. The dev cluster's is 1.20, which is older than two of the versions used here: there,
# policy/v1 is asked as policy/v1beta1, and autoscaling/v2 as autoscaling/v2beta2, whose fields are the same. Pod security
# labels are only stored by it. ServiceMonitor is not Kubernetes' own: it is asked where the Prometheus operator is, and
# named as unchecked elsewhere.
set -euo pipefail
cd "$(dirname "$0")/../.."

versions=(1.25 1.30 1.34)
manifests=(deploy/kubernetes deploy/kubernetes/optional)
cluster=deploy/dev-cluster
work=$PWD/target/kubernetes-validate

step() { printf '\n== %s\n' "$1"; }
say() { printf '  %-11s %s\n' "$1" "$2"; }
fail() { printf '\n  FAILED      %s\n' "$1" >&2 && exit 1; }

only_schemas=
case ${1:-} in
'') ;;
--schemas) only_schemas=yes ;;
*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac

if [[ ! -e $work/installed ]]; then
    python3 -m venv "$work"
    "$work/bin/pip" install --quiet --disable-pip-version-check -r deploy/kubernetes/requirements.txt
    touch "$work/installed"
fi

# --- the API server ---------------------------------------------------------------------------------

if [[ ! $only_schemas ]]; then
    if [[ ! ${KUBECONFIG:-} ]]; then
        "$cluster/up"
        KUBECONFIG=$("$cluster/enter" printenv KUBECONFIG)
        PATH=$(dirname "$("$cluster/enter" bash -c 'command -v kubectl')"):$PATH
    fi
    export KUBECONFIG PATH
fi
kube() { timeout --kill-after=5 60 kubectl "$@"; }

# --- the objects ------------------------------------------------------------------------------------

# As kustomize makes them: by kubectl, which has it built in, or, without a cluster, as the files stand.
objects() { # folder
    if [[ $only_schemas ]]; then
        local file
        for file in "$1"/*.yaml; do
            [[ $file == */kustomization.yaml ]] || { cat "$file" && echo ---; }
        done
    else
        kube kustomize "$1"
    fi
}

step "schemas of Kubernetes ${versions[*]}"
for folder in "${manifests[@]}"; do
    objects "$folder" >"$work/objects.yaml"
    for version in "${versions[@]}"; do
        "$work/bin/python" deploy/kubernetes/check-schemas.py "$version" <"$work/objects.yaml" || fail "$folder, Kubernetes $version"
    done
done
[[ ! $only_schemas ]] || exit 0

step "server-side dry run"
say server "$(kube version 2>/dev/null | grep -oE 'v1\.[0-9.]+' | paste -sd' ' | sed 's/ / (client), /') (server)"
served=$(kube api-versions)
asked() { # objects as this server can be asked: in its own versions, if it does not know newer ones
    if grep -qx policy/v1 <<<"$served"; then cat; else sed -e 's#^apiVersion: policy/v1$#apiVersion: policy/v1beta1#'; fi |
        if grep -qx autoscaling/v2 <<<"$served"; then cat; else sed -e 's#^apiVersion: autoscaling/v2$#apiVersion: autoscaling/v2beta2#'; fi |
        if grep -q '^monitoring.coreos.com/' <<<"$served"; then cat; else awk 'BEGIN { RS = ORS = "---\n" } !/\nkind: ServiceMonitor\n/'; fi
}
grep -q '^monitoring.coreos.com/' <<<"$served" || say unchecked "ServiceMonitor: this server does not know the Prometheus operator"
# Namespaces are made for real: nothing can be asked of one that does not exist.
kube apply -f deploy/kubernetes/namespaces.yaml
for folder in "${manifests[@]}"; do
    kube kustomize "$folder" | asked | kube apply --dry-run=server -f - || fail "the API server refused an object of $folder"
done

step "what the gateway may do"
kube apply -f deploy/kubernetes/access.yaml
gateway=system:serviceaccount:belljar:belljar
kube auth can-i --list --as "$gateway" -n belljar-sandboxes
# Exactly that, and elsewhere nothing but what every account may: ask about itself, and read the API's description.
rights() { # namespace; one a line: resource [verbs]
    kube auth can-i --list --no-headers --as "$gateway" -n "$1" | awk '$1 ~ /^[a-z]/ { match($0, /\[[^]]*\] *$/); print $1, substr($0, RSTART) }' |
        sed 's/ *$//' | grep -v '^selfsubject' | sort
}
expected='events [list]
leases.coordination.k8s.io [get create patch]
pods [get list watch create patch delete]
pods/attach [get create]
pods/exec [get create]'
diff <(echo "$expected") <(rights belljar-sandboxes) || fail "its rights are not what is written here"
for namespace in belljar default kube-system; do
    [[ ! $(rights "$namespace") ]] || fail "it may do something in $namespace: $(rights "$namespace")"
done
say ok "it may do that in belljar-sandboxes, and nothing elsewhere"
