//! What `--cpu` does to a guest on real KVM. The guests here run in ring 0, where KVM answers
//! CPUID.

use super::*;
use crate::cli::{Cli, Command};
use crate::vcpu::{FeatureSet, Level};

/// Where the guest leaves what CPUID told it.
const ANSWER: GuestAddress = GuestAddress(0x20_0010);

/// `--cpu` as a user writes it.
fn model(text: &str) -> CpuModel {
    use clap::Parser;
    let Command::Run(args) = Cli::try_parse_from(["whimbrel", "run", "--kernel", "k", "--cpu", text]).unwrap().command
    else {
        panic!("another command");
    };
    args.validate().unwrap().machine.cpu
}

fn with_cpu(text: &str) -> MachineConfig {
    MachineConfig { cpu: model(text), ..config(1) }
}

/// `mov eax, function; mov ecx, index; cpuid`, then the four registers to [`ANSWER`] and [`EXIT`].
fn ask(function: u32, index: u32) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend(function.to_le_bytes());
    code.push(0xb9);
    code.extend(index.to_le_bytes());
    code.extend([0x0f, 0xa2, 0xa3, 0x10, 0, 0x20, 0, 0x89, 0x1d, 0x14, 0, 0x20, 0]);
    code.extend([0x89, 0x0d, 0x18, 0, 0x20, 0, 0x89, 0x15, 0x1c, 0, 0x20, 0]);
    code.extend(EXIT);
    code
}

/// What a guest with that `--cpu` is told by CPUID.
fn told(cpu: &str, function: u32, index: u32) -> [u32; 4] {
    let rig = rig(with_cpu(cpu), Some(&ask(function, index)));
    rig.machine.cont().unwrap();
    assert_eq!(rig.await_shutdown(), ShutdownCause::GuestExit(42));
    rig.machine.ram.memory().read_obj(ANSWER).unwrap()
}

#[test]
fn the_guest_sees_what_was_chosen() {
    if no_kvm() {
        return;
    }
    const NX: u32 = 1 << 20;
    assert_eq!(told("host", 0x8000_0001, 0)[3] & NX, NX);
    assert_eq!(told("host,-nx", 0x8000_0001, 0)[3] & NX, 0);
    assert_eq!(told("baseline-v1", 1, 0)[0], 0xf61);
    let name: Vec<u8> = told("baseline-v1", 0x8000_0002, 0).into_iter().flat_map(u32::to_le_bytes).collect();
    assert_eq!(name, b"Whimbrel baselin");
    // CMPXCHG16B belongs to the next level. Features that a KVM without hardware underneath does
    // not offer are not looked at: it cannot hide them.
    const CX16: u32 = 1 << 13;
    assert_eq!((told("host", 1, 0)[2] & CX16, told("baseline-v1", 1, 0)[2] & CX16), (CX16, 0));
}

/// `lidt` of an empty IDT, then EFER.NXE is set: `mov ecx, 0xc0000080; rdmsr; or eax, 1 << 11;
/// wrmsr`, then [`EXIT`].
#[test]
fn kvm_refuses_what_hangs_on_a_feature_that_is_not_shown() {
    if no_kvm() {
        return;
    }
    let mut code = TRIPLE_FAULT[..7].to_vec();
    code.extend([0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32, 0x0d, 0, 8, 0, 0, 0x0f, 0x30]);
    code.extend(EXIT);
    for (cpu, end) in [("host", ShutdownCause::GuestExit(42)), ("host,-nx", ShutdownCause::GuestPanic)] {
        let rig = rig(with_cpu(cpu), Some(&code));
        rig.machine.cont().unwrap();
        assert_eq!(rig.await_shutdown(), end, "{cpu}");
    }
}

#[test]
fn a_guest_keeps_what_it_was_shown_wherever_it_goes() {
    if no_kvm() {
        return;
    }
    let source = rig(with_cpu("baseline-v1"), Some(COUNT));
    let shown = source.machine.vcpus[0].cpuid().clone();
    source.machine.cont().unwrap();
    source.await_count(10);
    let configuration = source.machine.configuration();
    let _paused = pause(&source.machine);
    let sections = source.machine.save().unwrap();
    for cpu in ["host", "max", "baseline-v1"] {
        let destination = rig(with_cpu(cpu), None);
        destination.machine.check_configuration(&configuration).unwrap();
        copy_ram(&source.machine, &destination.machine);
        destination.machine.load(&sections).unwrap();
        assert_eq!(*destination.machine.vcpus[0].cpuid(), shown, "{cpu}");
        // The next host is asked for what the guest needs, not for what this machine could have
        // shown.
        assert_eq!(destination.machine.configuration(), configuration, "{cpu}");
        destination.machine.run(true, &|| {}).unwrap();
        destination.await_count(source.count());
    }
}

#[test]
fn a_destination_that_was_started_with_less_says_so() {
    if no_kvm() {
        return;
    }
    let source = rig(with_cpu("host"), Some(COUNT));
    let destination = rig(with_cpu("host,-nx"), None);
    let error = destination.machine.check_configuration(&source.machine.configuration()).unwrap_err().to_string();
    assert!(error.contains("the guest was shown nx, which the destination's '--cpu host,-nx' leaves out"), "{error}");
    assert!(!error.contains("lacks"), "{error}");
    source.machine.check_configuration(&destination.machine.configuration()).unwrap();
}

#[test]
fn a_processor_that_the_host_cannot_show_is_refused() {
    if no_kvm() {
        return;
    }
    let offered = FeatureSet::of(&rig(config(1), None).machine.processor.offered);
    for level in Level::ALL {
        let missing = level.features().without(&offered).names();
        let cpu = format!("baseline-{level}");
        match Machine::build(&with_cpu(&cpu), Arc::new(|_| {})) {
            Ok(_) => assert!(missing.is_empty(), "{missing:?}"),
            Err(error) => {
                let error = error.to_string();
                assert!(!missing.is_empty() && error.contains(&missing.join(", ")), "{error}");
                assert!(error.contains(&cpu) && error.contains("; use --cpu "), "{error}");
            }
        }
    }
}

#[test]
fn msrs_of_hidden_features_are_not_sent() {
    if no_kvm() {
        return;
    }
    const ARCH_CAPABILITIES: u32 = 0x10a;
    let sends = |cpu: &str| {
        let rig = rig(with_cpu(cpu), None);
        let vcpu = &rig.machine.vcpus[0];
        let shown = vcpu.cpuid().clone();
        let saved = rig.machine.msrs.save(&vcpu.lock(), &shown).unwrap();
        let shows = FeatureSet::of(&shown).shows("arch_capabilities");
        (shows, saved.iter().any(|msr| msr.index == ARCH_CAPABILITIES))
    };
    assert_eq!(sends("host,-arch_capabilities"), (false, false));
    assert_eq!(sends("baseline-v1"), (false, false));
    let (shown, sent) = sends("host");
    assert_eq!(shown, sent);
}

#[test]
fn an_msr_that_is_not_here_matters_only_if_something_is_in_it() {
    if no_kvm() {
        return;
    }
    let rig = rig(config(1), None);
    let vcpu = rig.machine.vcpus[0].lock();
    let load = |index, data| {
        let msr = kvm_bindings::kvm_msr_entry { index, data, ..Default::default() };
        rig.machine.msrs.load(&vcpu, &[msr]).map_err(|error| error.to_string())
    };
    const NOWHERE: u32 = 0x1234;
    load(NOWHERE, 0).unwrap();
    let error = load(NOWHERE, 5).unwrap_err();
    assert!(error.contains("0x5") && error.contains("0x1234"), "{error}");
}
