//! Saved state as it comes from a peer: each device's, those of clock, chipset and vCPU, and the
//! configurations that are compared first.
//!
//! The first byte chooses whose it is; its highest bit: the version is not the right one but the
//! next four bytes.

use std::sync::Arc;

use whimbrel::devices::{Device, PowerManagement, ResetControl, Rtc, SavedDevice, Serial};
use whimbrel::machine::fuzzing;
use whimbrel::vcpu::VcpuState;
use whimbrel_postcopy::error::sentence;
use whimbrel_postcopy::guest::{Configuration, Section};

use crate::input::{Input, counted};
use crate::{Seed, memory, virtio};

/// Kinds of devices, the virtio ones first.
const VIRTIO: u8 = 5;
const DEVICES: u8 = VIRTIO + 4;
const SECTIONS: u8 = DEVICES;
const VCPU: u8 = DEVICES + 1;
const CONFIGURATION: u8 = DEVICES + 2;
const KINDS: u8 = DEVICES + 3;

pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let Some(first) = input.u8() else { return };
    memory::limit(64 * data.len() + (4 << 20));
    let wrong = if first & 0x80 != 0 { input.u32() } else { None };
    match first % 0x80 % KINDS {
        kind @ ..VIRTIO => virtio_device(kind, wrong, input.0),
        kind @ VIRTIO..DEVICES => {
            let device = platform(kind - VIRTIO);
            load(&*device, wrong, input.0);
        }
        SECTIONS => sections(&mut input),
        VCPU => match VcpuState::decode(wrong.unwrap_or(VcpuState::VERSION), input.0) {
            Ok(state) => assert_eq!(state.encode(), input.0),
            Err(error) => assert!(!error.to_string().is_empty()),
        },
        _ => configuration(input.0),
    }
    memory::limit(512 << 20);
}

/// Loads it; what was loaded can be saved and loaded again, and is the same then.
fn load(device: &(impl SavedDevice + ?Sized), wrong: Option<u32>, bytes: &[u8]) -> bool {
    if let Err(error) = device.load(wrong.unwrap_or(device.version()), bytes) {
        let said = error.to_string();
        assert!(said.contains("saved state of"), "{said}");
        return false;
    }
    let saved = device.save();
    let back = device.load(device.version(), &saved);
    assert!(back.is_ok(), "what was saved here is refused here: {back:?}");
    assert_eq!(device.save(), saved, "another state came out than went in");
    true
}

fn virtio_device(kind: u8, wrong: Option<u32>, bytes: &[u8]) {
    let ram = virtio::ram();
    let (bench, _host) = virtio::device(kind, &ram);
    if !load(&**bench.device(), wrong, bytes) {
        return;
    }
    // The disk is another than the guest knows: said when it is taken over.
    let acquired = bench.device().acquire();
    bench.resume();
    for index in 0..4 {
        bench.serve_queue(index);
        bench.serve_descriptor(index);
    }
    if acquired.is_ok() {
        bench.device().release().expect("the disk is there");
    }
}

trait Whole: Device + SavedDevice {}
impl<T: Device + SavedDevice> Whole for T {}

fn platform(kind: u8) -> Box<dyn SavedDevice> {
    fn used<T: Whole + 'static>(device: T) -> Box<dyn SavedDevice> {
        Box::new(device)
    }
    match kind {
        0 => used(Serial::new(Arc::new(|| ()), std::io::sink(), Arc::new(|| ()))),
        1 => used(PowerManagement::new(Arc::new(|_| ()))),
        2 => used(Rtc::default()),
        _ => used(ResetControl::default()),
    }
}

fn sections(input: &mut Input) {
    const NAMES: [(&str, u32); 6] = [("clock", 0), ("pic", 0), ("pic", 1), ("ioapic", 0), ("pit", 0), ("vcpu", 0)];
    let mut found = Vec::new();
    while let (Some(which), Some(bytes)) = (input.u8(), input.counted()) {
        let (name, instance) = NAMES[usize::from(which) % NAMES.len()];
        found.push(Section { name: name.into(), instance, version: 1, bytes: bytes.to_vec() });
    }
    match fuzzing::decode(&found) {
        Ok(same) => assert!(same, "another state came out than went in"),
        Err(error) => assert!(!sentence(&error).is_empty()),
    }
}

fn here() -> Configuration {
    let pairs = [("memory", "1024"), ("vcpus", "2"), ("tsc-khz", "2000000"), ("cpu.physical-bits", "46")];
    let more = [("cpu.xsave", "2:256@576 9:8@2696"), ("device.serial", "1"), ("cpuid.7.0.ebx", "0x28")];
    pairs.into_iter().chain(more).map(|(key, value)| (key.into(), value.into())).collect()
}

/// `key=value` lines.
fn configuration(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let pair = |line: &str| line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    let source: Configuration = text.lines().filter_map(pair).collect();
    match fuzzing::compare(&here(), &source) {
        Ok(()) => {
            assert!(here().iter().all(|(key, _)| key.starts_with("cpuid.") || source.iter().any(|(it, _)| it == key)))
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A virtual CPU's state: no CPUID leaves, no MSRs, an XSAVE area of 4096 bytes.
fn vcpu() -> Vec<u8> {
    let fixed = |bytes: usize| vec![0; bytes];
    [
        &0u32.to_le_bytes()[..],
        &fixed(4 + 144 + 312),
        &64u32.to_le_bytes(),
        &fixed(64),
        &fixed(392 + 128 + 1024),
        &0u32.to_le_bytes(),
        &fixed(64),
        &2_000_000u32.to_le_bytes(),
        &7u64.to_le_bytes(),
    ]
    .concat()
}

pub fn seeds() -> Vec<Seed> {
    const NAMES: [&str; DEVICES as usize] =
        ["virtio-blk", "virtio-net", "virtio-rng", "virtio-console", "virtio-balloon", "serial", "pm", "rtc", "reset"];
    let mut seeds = Vec::new();
    for (kind, name) in (0..).zip(NAMES) {
        let saved = if kind < VIRTIO {
            let (bench, _host) = virtio::device(kind, &virtio::ram());
            bench.device().acquire().expect("the disk is there");
            let saved = bench.device().save();
            bench.device().release().expect("the disk is there");
            saved
        } else {
            platform(kind - VIRTIO).save()
        };
        seeds.push((name, [&[kind][..], &saved].concat()));
    }
    let clock = [&[7; 16][..], &1u32.to_le_bytes(), &[7; 8]].concat();
    let chip = |number: u32| [&number.to_le_bytes()[..], &[0; 516]].concat();
    let parts = [clock, chip(0), chip(1), chip(2), vec![0; 112], vcpu()];
    let sections: Vec<u8> = (0..).zip(&parts).flat_map(|(n, bytes)| [&[n][..], &counted(bytes)].concat()).collect();
    let lines: Vec<String> = here().iter().map(|(key, value)| format!("{key}={value}")).collect();
    seeds.push(("sections", [&[SECTIONS][..], &sections].concat()));
    seeds.push(("vcpu", [&[VCPU][..], &vcpu()].concat()));
    seeds.push(("configuration", [&[CONFIGURATION][..], lines.join("\n").as_bytes()].concat()));
    seeds.push(("version", [&[0x82][..], &2u32.to_le_bytes()].concat()));
    seeds
}
