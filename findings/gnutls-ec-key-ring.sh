#!/usr/bin/env bash
# Software:  certtool 3.7.9 (GnuTLS, Debian 12 gnutls-bin) and rustls 0.23.46 with ring 0.17.14
# Guess:     an EC key that certtool made can be loaded by rustls, or never can.
# Happens:   about every second one can. certtool writes the private number as a signed ASN.1 integer would
#            be: with a leading zero byte, 33 bytes for P-256, where the top bit is set. RFC 5915 wants the fixed
#            32 bytes; ring refuses 33 bytes, OpenSSL and GnuTLS accept them.
# Where:     GnuTLS's writing of ECPrivateKey's privateKey; ring src/ec/keys.rs (the length has to match the curve).
# Meaning:   QEMU's and libvirt's TLS documents use certtool. A deployment with a Rust peer works on the test
#            machine and fails on every second host ("failed to parse private key"). `openssl ec` rewrites the key.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"; mkdir src
command -v certtool >/dev/null || { echo "certtool (gnutls-bin) is needed"; exit 2; }
cat > Cargo.toml <<'EOF'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
rustls = { version = "=0.23.46", default-features = false, features = ["ring", "std"] }
ring = "=0.17.14"
EOF
cat > src/main.rs <<'EOF'
use rustls::pki_types::{pem::PemObject, PrivateKeyDer};

fn main() {
    for name in std::env::args().skip(1) {
        let key = PrivateKeyDer::from_pem_file(&name).unwrap();
        match rustls::crypto::ring::sign::any_supported_type(&key) {
            Ok(_) => println!("{name} accepted"),
            Err(why) => println!("{name} refused: {why}"),
        }
    }
}
EOF
cargo build -q
# Keys until both kinds are there.
declare -A made
for _ in $(seq 100); do
    certtool --generate-privkey --key-type=ecdsa --curve=secp256r1 --no-text --outfile key.pem 2>/dev/null
    bytes=$(openssl asn1parse -in key.pem | sed -n 's/.*l= *\([0-9]*\) prim: OCTET STRING.*/\1/p' | head -1)
    [[ -n ${made[$bytes]:-} ]] || { made[$bytes]=1; cp key.pem "own-$bytes"; openssl ec -in key.pem -out "openssl-$bytes" 2>/dev/null; }
    [[ -f own-32 && -f own-33 ]] && break
done
seen=$(target/debug/finding own-32 own-33 openssl-33)
echo "software: $(certtool --version | head -1), rustls 0.23.46, ring 0.17.14"
echo "expected: keys of both kinds from certtool are accepted (openssl-33 is own-33, rewritten by OpenSSL)"
echo "seen:"
sed 's/^/          /' <<< "$seen"
[[ $seen == *'own-32 accepted'* && $seen == *'own-33 refused'* && $seen == *'openssl-33 accepted'* ]] || { echo "the behaviour has changed"; exit 1; }
