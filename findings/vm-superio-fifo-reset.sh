#!/usr/bin/env bash
# Software:  crate vm-superio 0.8.2 (rust-vmm), the 16550A serial port
# Guess:     writing FCR with bit 1 (reset the receiver FIFO) throws away what was received, as a 16550A does;
#            drivers do so when they open the port.
# Happens:   nothing: the bytes stay, LSR still says "data ready", and the next reads return them. The device
#            does claim a 16550A's FIFO (IIR bits 6 and 7 are set).
# Where:     vm-superio src/serial.rs: writes to register 2 are ignored.
# Meaning:   keys typed (or a script's input sent) before the guest opened its console are taken by whoever opens
#            it next: a boot loader's leftovers answer a login prompt.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
mkdir src
cat > Cargo.toml <<'EOF'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
vm-superio = "=0.8.2"
EOF
cat > src/main.rs <<'EOF'
use vm_superio::{Serial, Trigger};

struct Line;
impl Trigger for Line {
    type E = std::io::Error;
    fn trigger(&self) -> Result<(), Self::E> {
        Ok(())
    }
}

fn main() {
    let mut port = Serial::new(Line, Vec::<u8>::new());
    port.enqueue_raw_bytes(b"old").unwrap();
    port.write(2, 0b0111).unwrap(); // FCR: FIFO on, reset receiver, reset transmitter
    let (line, data) = (port.read(5), port.read(0));
    println!("IIR {:02x}, LSR data ready {}, data {:?}", port.read(2) & 0xc0, line & 1, data as char);
}
EOF
seen=$(cargo run -q)
echo "software: vm-superio 0.8.2"
echo "expected: IIR c0, LSR data ready 0, data '\\0'"
echo "seen:     $seen"
[[ $seen == "IIR c0, LSR data ready 1, data 'o'" ]] || { echo "the behaviour has changed"; exit 1; }
