#!/usr/bin/env bash
# Software:  crate vm-superio 0.8.2 (rust-vmm), the 16550A serial port
# Guess:     with a received byte and an empty transmitter both pending, the interrupt identification register
#            tells them one at a time by priority, as the 16550A data sheet has it: 0xC4 (data available) until
#            the byte is read, then 0xC2 (transmitter empty), then 0xC1 (none).
# Happens:   the two codes are or-ed: 0xC6, which is another source, "receiver line status". Reading it
#            clears both, so the next read says 0xC1, "nothing pending", while the byte still waits.
# Where:     vm-superio src/serial.rs, IIR read: the bits of all pending sources are kept in one register.
# Meaning:   a driver that handles one source per interrupt reads LSR for an error that is not there and does not
#            fetch the byte. Linux looks at LSR in each case and hides it; firmware and small kernels lose input.
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
    port.write(1, 0b11).unwrap(); // IER: received data and transmitter empty
    port.write(0, b'x').unwrap(); // sent at once: the transmitter is empty again
    port.enqueue_raw_bytes(b"a").unwrap();
    let (first, second, line) = (port.read(2), port.read(2), port.read(5));
    println!("IIR {first:02x}, IIR {second:02x}, LSR data ready {}", line & 1);
}
EOF
seen=$(cargo run -q)
echo "software: vm-superio 0.8.2"
echo "expected: IIR c4, IIR c4, LSR data ready 1"
echo "seen:     $seen"
[[ $seen == 'IIR c6, IIR c1, LSR data ready 1' ]] || { echo "the behaviour has changed"; exit 1; }
