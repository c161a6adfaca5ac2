#!/usr/bin/env bash
# Software:  crate vmm-sys-util 0.15.0 (rust-vmm)
# Guess:     File::write_all_zeroes_at(offset, length) does what write_all_at of zeros would: a file that is too
#            short grows. Its documentation says "write zeroes until length bytes have been written".
# Happens:   it depends on the file system. Where fallocate can zero a range (ext4, xfs) the size is kept, and
#            zeros behind the end are not there, with Ok as the result; where it cannot (tmpfs), the fallback writes,
#            and the file grows.
# Where:     vmm-sys-util src/linux/write_zeroes.rs: fallocate(ZeroRange, keep_size = true), else write_at.
# Meaning:   a device model that pads or clears a new image passes its tests in /dev/shm and leaves short images
#            on the disk, or the other way round. set_len first.
set -euo pipefail
tmp=$(mktemp -d) shm=$(mktemp -d -p /dev/shm); trap 'rm -rf "$tmp" "$shm"' EXIT
cd "$tmp"
mkdir src
cat > Cargo.toml <<'EOF'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
vmm-sys-util = "=0.15.0"
EOF
cat > src/main.rs <<'EOF'
use vmm_sys_util::write_zeroes::WriteZeroesAt;

fn main() {
    for folder in std::env::args().skip(1) {
        let mut file = std::fs::File::create(format!("{folder}/file")).unwrap();
        file.set_len(4096).unwrap();
        let result = file.write_all_zeroes_at(0, 8192);
        println!("{result:?} {}", file.metadata().unwrap().len());
    }
}
EOF
truncate -s 4096 probe
fallocate -z -l 4096 probe 2>/dev/null || { echo "$tmp is on a file system that cannot zero a range: nothing can be said"; exit 2; }
seen=$(cargo run -q -- "$tmp" "$shm")
echo "software: vmm-sys-util 0.15.0"
echo "expected: zeros written at 0 to 8192 of a 4096-byte file make it 8192 bytes long, everywhere"
echo "seen:     $(stat -f -c %T "$tmp"): $(head -1 <<< "$seen"), $(stat -f -c %T "$shm"): $(tail -1 <<< "$seen")"
[[ $seen == $'Ok(()) 4096\nOk(()) 8192' ]] || { echo "the behaviour has changed"; exit 1; }
