#!/usr/bin/env bash
# Software:  crate nbd 0.3.1 (server side), with libnbd 1.14 (nbdsh or nbdcopy) as the client and strace
# Guess:     server::transmission over a std::fs::File answers NBD_CMD_FLUSH once the data are on stable storage:
#            the NBD specification wants that, and the export advertises the command by itself.
# Happens:   the flush becomes std::io::Write::flush, which does nothing for a File. The client gets a
#            success; fsync or fdatasync is never called.
# Where:     nbd src/lib.rs: `NBD_CMD_FLUSH => data.flush()?`, and SEND_FLUSH is set for every writable export.
# Meaning:   a guest's journal believes its barrier. After a power cut the disk may lack writes that were
#            acknowledged; no test without a power cut shows it. Wrap the File and call sync_data in flush.
set -euo pipefail
tmp=$(mktemp -d); trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$tmp"' EXIT
cd "$tmp"
command -v strace >/dev/null && command -v nbdcopy >/dev/null || { echo "strace and libnbd-bin are needed"; exit 2; }
mkdir src
cat > Cargo.toml <<'EOF'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
nbd = "=0.3.1"
EOF
cat > src/main.rs <<'EOF'
use std::os::unix::net::UnixListener;

fn main() {
    let (stream, _) = UnixListener::bind("socket").unwrap().accept().unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open("disk").unwrap();
    let export = nbd::Export::<()> { size: 1 << 20, send_flush: true, ..Default::default() };
    nbd::server::handshake(&stream, |_| Ok(export)).unwrap();
    let _ = nbd::server::transmission(&stream, file);
}
EOF
cargo build -q
truncate -s 1M disk
head -c 1M /dev/zero | tr '\0' A > source
strace -f -o trace -e trace=fsync,fdatasync,sync_file_range,sync,syncfs,pwrite64,write target/debug/finding &
server=$!
for _ in $(seq 100); do [[ -S socket ]] && break; sleep 0.1; done
timeout 30 env LIBNBD_DEBUG=1 nbdcopy --flush --connections=1 source "nbd+unix:///?socket=$tmp/socket" 2> client.log
wait "$server" || true
written=$(cmp -s source disk && echo yes || echo no)
syncs=$(grep -cE 'f(data)?sync|sync_file_range|syncfs?\(' trace || true)
echo "software: nbd 0.3.1, $(nbdcopy --version | head -1)"
echo "expected: data written: yes, calls that sync: at least 1 for nbdcopy --flush"
echo "seen:     data written: $written, calls that sync: $syncs, nbdcopy's exit status: 0"
[[ $written == yes && $syncs == 0 ]] || { echo "the behaviour has changed"; exit 1; }
