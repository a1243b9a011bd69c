# Certificates and kubeconfigs of a cluster (sourced, not run). $dir is the cluster's folder.
# shellcheck shell=bash
# shellcheck disable=SC2154

curve=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)

# A configuration of our own: what openssl puts into a certificate must not depend on the system's.
pki_ca() {
  mkdir -p "$dir/pki"
  cat >"$dir/pki/ca.conf" <<C
[req]
distinguished_name = name
x509_extensions = ca
[name]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, digitalSignature, keyCertSign, cRLSign
subjectKeyIdentifier = hash
C
  openssl req -x509 -config "$dir/pki/ca.conf" "${curve[@]}" -keyout "$dir/pki/ca.key" -out "$dir/pki/ca.crt" -days 30 -subj "/CN=kube-ca" 2>/dev/null
  # Service accounts' tokens are signed with a key of their own.
  openssl ecparam -genkey -name prime256v1 -noout -out "$dir/pki/sa.key" 2>/dev/null
  openssl ec -in "$dir/pki/sa.key" -pubout -out "$dir/pki/sa.pub" 2>/dev/null
}

# pki_sign NAME SUBJECT ALTERNATIVE-NAMES
pki_sign() {
  openssl req -config "$dir/pki/ca.conf" "${curve[@]}" -keyout "$dir/pki/$1.key" -out "$dir/pki/$1.csr" -subj "$2" 2>/dev/null
  openssl x509 -req -in "$dir/pki/$1.csr" -CA "$dir/pki/ca.crt" -CAkey "$dir/pki/ca.key" -CAcreateserial -days 30 -out "$dir/pki/$1.crt" -extfile <(
    printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n'
    printf 'authorityKeyIdentifier=keyid\nsubjectAltName=%s\n' "$3"
  ) 2>/dev/null
}

# kubeconfig NAME FILE: for the user whose certificate is pki/NAME.crt.
kubeconfig() {
  cat >"$2.new" <<K
apiVersion: v1
kind: Config
clusters: [{name: poolkeeper-tests, cluster: {server: "$(cat "$dir/server")", certificate-authority: $dir/pki/ca.crt}}]
users: [{name: $1, user: {client-certificate: $dir/pki/$1.crt, client-key: $dir/pki/$1.key}}]
contexts: [{name: poolkeeper-tests, context: {cluster: poolkeeper-tests, user: $1, namespace: default}}]
current-context: poolkeeper-tests
K
  mv "$2.new" "$2"
}
