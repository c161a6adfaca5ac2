#!/usr/bin/env bash
# Software:  crate vm-superio 0.8.2 (rust-vmm), the PL031 real-time clock
# Guess:     writing 1 to the control register (RTCCR) enables the clock and, when it runs already, changes
#            nothing, as ARM's PL031 manual (DDI 0224) has it; QEMU's model ignores the write.
# Happens:   it throws away the time that the guest has set: the data register jumps back to the host's
#            time and the load register to 0.
# Where:     vm-superio src/rtc_pl031.rs, write: `RTCCR => if val == 1 { lr = 0; offset = 0 }`.
# Meaning:   drivers write the enable bit whenever they probe. A guest that keeps another time than its host
#            (hwclock -w, a test with a shifted clock) finds the host's after a reboot or a reload of the driver.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"; mkdir src
cat > Cargo.toml <<'EOF'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
vm-superio = "=0.8.2"
EOF
cat > src/main.rs <<'EOF'
const DATA: u16 = 0x000;
const LOAD: u16 = 0x008;
const CONTROL: u16 = 0x00c;

fn read(clock: &mut vm_superio::Rtc<vm_superio::rtc_pl031::NoEvents>, register: u16) -> u32 {
    let mut value = [0; 4];
    clock.read(register, &mut value);
    u32::from_le_bytes(value)
}

fn main() {
    let mut clock = vm_superio::Rtc::new();
    let enabled = read(&mut clock, CONTROL);
    clock.write(LOAD, &1_000_000u32.to_le_bytes());
    let set = read(&mut clock, DATA);
    clock.write(CONTROL, &1u32.to_le_bytes());
    let after = read(&mut clock, DATA);
    println!("enabled {enabled}, time kept before {}, after {}", set - 1_000_000 < 60, after.abs_diff(1_000_000) < 60);
}
EOF
seen=$(cargo run -q)
echo "software: vm-superio 0.8.2"
echo "expected: (the guest sets 1000000, then writes the enable bit) enabled 1, time kept before true, after true"
echo "seen:     $seen"
[[ $seen == 'enabled 1, time kept before true, after false' ]] || { echo "the behaviour has changed"; exit 1; }
