# shellcheck shell=bash disable=SC2154  # common.sh has the variables
# Certificates and kubeconfigs of the cluster, in $run_dir/pki and $run_dir: one authority, a certificate for each part.
# Sourced by `up`.

make_pki() {
    local pki=$run_dir/pki
    mkdir -p "$pki"
    chmod 700 "$pki"
    new_key "$pki/ca.key"
    openssl req -x509 -new -key "$pki/ca.key" -days 3650 -subj /CN=belljar-dev-cluster -out "$pki/ca.crt" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign || return 1

    certify apiserver /CN=kube-apiserver \
        "DNS:localhost,DNS:kubernetes.default.svc,DNS:kubernetes.default,DNS:kubernetes,IP:127.0.0.1,IP:$service_address,IP:$node_address"
    certify kubelet /O=system:nodes/CN=system:node:localhost DNS:localhost,IP:127.0.0.1
    certify apiserver-to-kubelet /O=system:masters/CN=apiserver-kubelet-client
    certify controller-manager /CN=system:kube-controller-manager
    certify scheduler /CN=system:kube-scheduler
    certify admin /O=system:masters/CN=admin
    # The name of the gateway's account in deploy/kubernetes/access.yaml, so that a gateway outside of the cluster has the
    # same rights as one in a pod.
    certify gateway /O=system:serviceaccounts/CN=system:serviceaccount:belljar:belljar

    # What tokens of service accounts are signed with.
    openssl genrsa -out "$pki/tokens.key" 2048 && openssl rsa -in "$pki/tokens.key" -pubout -out "$pki/tokens.pub"

    local part
    for part in kubelet controller-manager scheduler; do write_kubeconfig "$part" "$run_dir/config/$part.kubeconfig"; done
    write_kubeconfig admin "$kubeconfig"
    write_kubeconfig gateway "$run_dir/gateway.kubeconfig"
}

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

certify() { # name, subject, the names and addresses that it serves at
    local pki=$run_dir/pki names=${3:+subjectAltName=$3}
    new_key "$pki/$1.key"
    openssl req -new -key "$pki/$1.key" -subj "$2" | openssl x509 -req -days 3650 -out "$pki/$1.crt" \
        -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -extfile <(printf '%s\n' \
        basicConstraints=CA:FALSE keyUsage=digitalSignature,keyEncipherment extendedKeyUsage=serverAuth,clientAuth "$names")
}

write_kubeconfig() { # whose, file
    local pki=$run_dir/pki
    (umask 077 && cat >"$2") <<-CONFIG
		apiVersion: v1
		kind: Config
		clusters:
		- name: belljar-dev
		  cluster: {server: "$api_server", certificate-authority-data: $(base64 -w0 "$pki/ca.crt")}
		users:
		- name: $1
		  user: {client-certificate-data: $(base64 -w0 "$pki/$1.crt"), client-key-data: $(base64 -w0 "$pki/$1.key")}
		contexts:
		- name: belljar-dev
		  context: {cluster: belljar-dev, user: $1}
		current-context: belljar-dev
	CONFIG
}
