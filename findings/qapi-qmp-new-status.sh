#!/usr/bin/env bash
# Software:  crate qapi-qmp 0.15.0 (types generated from QEMU's schema), against QEMU 10.2 and newer
# Guess:     a client that is older than the server still understands the reply of query-migrate: a new state is
#            an unknown one, the numbers beside it are there. QMP's rule is that clients ignore what they do not know.
# Happens:   enumerations are closed. "postcopy-device", which QEMU 10.2 added between two known states, makes
#            the whole MigrationInfo an error; RAM figures that the crate knows are lost with it.
# Where:     qapi-qmp's generated `enum MigrationStatus` has no catch-all variant; an unknown *field* is ignored.
# Meaning:   a monitor loop with `?` ends at the switch to postcopy, the moment when giving up costs the guest, and
#            only with a newer QEMU and only if it polls in these milliseconds.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"; mkdir src
cat > Cargo.toml <<'EOF'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[profile.dev]
debug = false
[dependencies]
qapi-qmp = "=0.15.0"
serde_json = "1"
EOF
cat > src/main.rs <<'EOF'
fn main() {
    for status in ["active", "postcopy-device", "postcopy-active"] {
        let reply = format!(r#"{{"status": "{status}", "total-time": 17, "a-new-field": 1}}"#);
        match serde_json::from_str::<qapi_qmp::MigrationInfo>(&reply) {
            Ok(info) => println!("{status}: total-time {:?}", info.total_time),
            Err(why) => println!("{status}: {}", why.to_string().split(',').next().unwrap()),
        }
    }
}
EOF
seen=$(cargo run -q)
echo "software: qapi-qmp 0.15.0"
echo "expected: total-time Some(17) three times"
echo "seen:"
sed 's/^/          /' <<< "$seen"
[[ $seen == *'active: total-time Some(17)'*'postcopy-device: unknown variant `postcopy-device`'*'postcopy-active: total-time Some(17)' ]] ||
    { echo "the behaviour has changed"; exit 1; }
