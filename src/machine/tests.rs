//! The machine on real KVM. Without `/dev/kvm` each of these says so and passes.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};
use whimbrel_postcopy::bitmap::PageBitmap;
use whimbrel_postcopy::guest::{
    DestinationGuest, DirtyLog, GuestRam, OutgoingGuest, PausableGuest, PauseLock, PausedGuest, SectionLayout,
    SourceGuest,
};
use whimbrel_postcopy::ram::{BlockId, PageIndex, PageRun};

use super::clock::Moment;
use super::*;
use crate::boot::testing::{bzimage, pvh_elf};
use crate::config::{BootConfig, CharDevice, DeviceConfig, Kernel, MachineConfig, MemoryConfig};
use crate::kvm::Hypervisor;
use crate::net::Schedule;
use crate::vcpu::{CpuModel, TscStart, VcpuState};

mod cpu;

mod disks;

mod stuck;

const LIMIT: Duration = Duration::from_secs(20);
const BASE: u64 = 0x10_0000;
/// Where the counting guest counts, and the page that it writes.
const COUNTER: GuestAddress = GuestAddress(0x20_0000);

/// Counts in 32-bit protected mode: `1: inc dword [0x200000]; jmp 1b`.
const COUNT: &[u8] = &[0xff, 0x05, 0, 0, 0x20, 0, 0xeb, 0xf8];
/// Leaves with code 42: `mov al, 42; out 0xf4, al; 1: hlt; jmp 1b`.
const EXIT: &[u8] = &[0xb0, 42, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd];
/// A triple fault: an empty IDT, then an interrupt through it: `lidt [0x180000]; ud2`.
const TRIPLE_FAULT: &[u8] = &[0x0f, 0x01, 0x1d, 0, 0, 0x18, 0, 0x0f, 0x0b];
/// Counts once a life, then resets by port 0x64, unless it is the third: `inc dword [0x200000]; cmp
/// dword [0x200000], 3; je 2f; mov al, 0xfe; out 0x64, al; 1: hlt; jmp 1b; 2: mov al, 7; out 0xf4,
/// al; jmp 1b`.
const RESET_TWICE: &[u8] = &[
    0xff, 0x05, 0, 0, 0x20, 0, 0x83, 0x3d, 0, 0, 0x20, 0, 3, 0x74, 7, 0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd, 0xb0,
    7, 0xe6, 0xf4, 0xeb, 0xf7,
];
/// In long mode, entered by Linux's 64-bit protocol: leaves with the code 42 if RSI leads to boot
/// parameters with the magic number "HdrS", through a stack and the segments of the GDT: `cmp dword
/// [rsi+0x202], 0x53726448; jne 1f; mov esp, 0x8000; push 0x10; lea rax, [rip+3]; push rax; lretq;
/// mov eax, 0x18; mov ss, eax; push 42; pop rax; out 0xf4, al; 1: hlt; jmp 1b`.
const LINUX64: &[u8] = &[
    0x81, 0xbe, 0x02, 0x02, 0, 0, 0x48, 0x64, 0x72, 0x53, 0x75, 0x1f, 0xbc, 0, 0x80, 0, 0, 0x6a, 0x10, 0x48, 0x8d,
    0x05, 3, 0, 0, 0, 0x50, 0x48, 0xcb, 0xb8, 0x18, 0, 0, 0, 0x8e, 0xd0, 0x6a, 42, 0x58, 0xe6, 0xf4, 0x90, 0x90, 0xf4,
    0xeb, 0xfd,
];
/// Powers off by the sleep register: `mov dx, 0x604; mov ax, 0x3400; out dx, ax; 1: hlt; jmp 1b`.
const POWER_OFF: &[u8] = &[0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef, 0xf4, 0xeb, 0xfd];
/// Leaves with code 9 once the power button was pressed: `mov dx, 0x600; 1: in ax, dx; test ah, 1;
/// jz 1b; mov al, 9; out 0xf4, al; jmp 1b`.
const AWAIT_BUTTON: &[u8] =
    &[0x66, 0xba, 0x00, 0x06, 0x66, 0xed, 0xf6, 0xc4, 1, 0x74, 0xf9, 0xb0, 9, 0xe6, 0xf4, 0xeb, 0xf3];
/// Echoes: `mov dx, 0x3fd; 1: in al, dx; test al, 1; jz 1b; mov dx, 0x3f8; in al, dx; out dx, al;
/// jmp 0`.
const ECHO: &[u8] =
    &[0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 1, 0x74, 0xfb, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0xeb, 0xef];

fn no_kvm() -> bool {
    match Hypervisor::open() {
        Ok(_) => false,
        Err(error) => {
            crate::skip::skip(&error.to_string());
            true
        }
    }
}

struct Rig {
    machine: Arc<Machine>,
    events: Receiver<MachineEvent>,
    _kernel: Option<tempfile::NamedTempFile>,
}

fn config(vcpus: u8) -> MachineConfig {
    MachineConfig {
        boot: None,
        arriving: true,
        memory: MemoryConfig { size: 32 << 20, shared: false },
        vcpus,
        cpu: CpuModel::default(),
        serial: CharDevice::Null,
        devices: DeviceConfig::default(),
        name: None,
        uuid: None,
        paused: false,
    }
}

fn rig(config: MachineConfig, code: Option<&[u8]>) -> Rig {
    rig_with(config, code.map(|code| pvh_elf(BASE, code, 0x1000)))
}

/// Pauses the machine as a migration does.
fn pause(machine: &Machine) -> PausedGuest {
    PauseLock::default().pause(machine).unwrap()
}

fn rig_with(mut config: MachineConfig, kernel: Option<Vec<u8>>) -> Rig {
    let kernel = kernel.map(|kernel| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), kernel).unwrap();
        config.arriving = false;
        config.boot =
            Some(BootConfig { kernel: Kernel::File(file.path().into()), initrd: None, cmdline: String::new() });
        file
    });
    crate::sandbox::begin_for_tests();
    let (sender, events) = mpsc::channel();
    let sender = Mutex::new(sender);
    let tell = move |event| {
        let _ = sender.lock().unwrap().send(event);
    };
    Rig { machine: Machine::build(&config, Arc::new(tell)).unwrap(), events, _kernel: kernel }
}

impl Rig {
    fn count(&self) -> u32 {
        self.machine.ram.memory().read_obj(COUNTER).unwrap()
    }

    fn await_count(&self, above: u32) {
        let start = Instant::now();
        while self.count() <= above {
            assert!(start.elapsed() < LIMIT, "the guest does not count");
            std::thread::yield_now();
        }
    }

    fn await_shutdown(&self) -> ShutdownCause {
        loop {
            if let MachineEvent::Shutdown(cause) = self.events.recv_timeout(LIMIT).unwrap() {
                return cause;
            }
        }
    }
}

fn copy_ram(from: &Machine, to: &Machine) {
    let mut page = [0; 4096];
    for at in (0..from.memory_size()).step_by(4096) {
        from.ram.memory().read_slice(&mut page, GuestAddress(at)).unwrap();
        if page != [0; 4096] {
            to.ram.memory().write_slice(&page, GuestAddress(at)).unwrap();
        }
    }
}

#[test]
fn only_a_guest_that_runs_is_announced() {
    if no_kvm() {
        return;
    }
    let rig = rig(config(1), Some(COUNT));
    let announce = |names: &[String]| rig.machine.announce(names, "", Schedule::default());
    assert!(announce(&[]).unwrap_err().to_string().contains("prelaunch"));
    rig.machine.cont().unwrap();
    announce(&[]).unwrap();
    assert!(announce(&["net0".to_owned()]).unwrap_err().to_string().contains("'net0'"));
    rig.machine.stop().unwrap();
    assert!(announce(&[]).unwrap_err().to_string().contains("paused"));
}

#[test]
fn the_exit_port_ends_the_guest() {
    if no_kvm() {
        return;
    }
    let rig = rig(config(1), Some(EXIT));
    assert_eq!(rig.machine.run_state(), RunState::Prelaunch);
    rig.machine.cont().unwrap();
    assert_eq!(rig.await_shutdown(), ShutdownCause::GuestExit(42));
    assert_eq!(rig.machine.run_state(), RunState::Shutdown);
    assert!(rig.machine.cont().is_err());
}

#[test]
fn a_triple_fault_stops_the_guest() {
    if no_kvm() {
        return;
    }
    let rig = rig(config(1), Some(TRIPLE_FAULT));
    rig.machine.cont().unwrap();
    assert_eq!(rig.await_shutdown(), ShutdownCause::GuestPanic);
    assert_eq!(rig.machine.run_state(), RunState::InternalError);
    rig.machine.reset().unwrap();
    assert_eq!(rig.machine.run_state(), RunState::Prelaunch);
}

#[test]
fn a_guest_resets_itself() {
    if no_kvm() {
        return;
    }
    let rig = rig(config(2), Some(RESET_TWICE));
    rig.machine.cont().unwrap();
    assert_eq!(rig.await_shutdown(), ShutdownCause::GuestExit(7));
    assert_eq!(rig.count(), 3);
}

#[test]
fn a_bzimage_is_entered_in_long_mode() {
    if no_kvm() {
        return;
    }
    let rig = rig_with(config(2), Some(bzimage(LINUX64)));
    rig.machine.cont().unwrap();
    assert_eq!(rig.await_shutdown(), ShutdownCause::GuestExit(42));
}

#[test]
fn a_guest_powers_itself_off() {
    if no_kvm() {
        return;
    }
    let rig = rig(config(1), Some(POWER_OFF));
    rig.machine.cont().unwrap();
    assert_eq!(rig.await_shutdown(), ShutdownCause::GuestShutdown);
    assert_eq!(rig.machine.run_state(), RunState::Shutdown);
    assert!(rig.machine.powerdown().unwrap_err().to_string().contains("no guest runs"));
}

#[test]
fn the_power_button_reaches_a_guest_that_runs_or_will() {
    if no_kvm() {
        return;
    }
    for press_first in [true, false] {
        let rig = rig(config(1), Some(AWAIT_BUTTON));
        if press_first {
            rig.machine.powerdown().unwrap();
            assert_eq!(rig.events.recv_timeout(LIMIT).unwrap(), MachineEvent::Powerdown);
        }
        rig.machine.cont().unwrap();
        assert_eq!(rig.events.recv_timeout(LIMIT).unwrap(), MachineEvent::Resume);
        if !press_first {
            rig.machine.powerdown().unwrap();
            assert_eq!(rig.events.recv_timeout(LIMIT).unwrap(), MachineEvent::Powerdown);
        }
        assert_eq!(rig.await_shutdown(), ShutdownCause::GuestExit(9));
    }
    let arriving = rig(config(1), None);
    assert!(arriving.machine.powerdown().is_err());
}

#[test]
fn stop_and_cont_do_what_they_say_however_often() {
    if no_kvm() {
        return;
    }
    let rig = rig(config(2), Some(COUNT));
    rig.machine.cont().unwrap();
    for _ in 0..20 {
        rig.await_count(rig.count());
        rig.machine.stop().unwrap();
        rig.machine.stop().unwrap();
        let stopped = rig.count();
        std::thread::yield_now();
        assert_eq!(rig.count(), stopped);
        rig.machine.cont().unwrap();
        rig.machine.cont().unwrap();
    }
    rig.await_count(rig.count());
    rig.machine.reset().unwrap();
    rig.await_count(rig.count());
    rig.machine.shutdown();
    rig.machine.shutdown();
}

#[test]
fn a_look_at_the_registers_lets_the_guest_go_on_or_stand() {
    if no_kvm() {
        return;
    }
    let rig = rig(config(2), Some(COUNT));
    rig.machine.cont().unwrap();
    for _ in 0..20 {
        rig.await_count(rig.count());
        let texts = rig.machine.registers().unwrap();
        assert!(texts.len() == 2 && texts.iter().all(|it| it.contains(" rip=")), "{texts:?}");
    }
    rig.await_count(rig.count());
    rig.machine.stop().unwrap();
    let stopped = rig.count();
    assert_eq!(rig.machine.registers().unwrap(), rig.machine.registers().unwrap());
    assert_eq!(rig.machine.run_state(), RunState::Paused);
    assert_eq!(rig.count(), stopped);
}

/// By their values, KVM makes the TSCs of several vCPUs agree only if no more than a second lies
/// between two of them.
#[test]
fn the_tscs_of_a_guest_that_arrives_start_by_one_offset() {
    if no_kvm() {
        return;
    }
    let (source, destination) = (rig(config(2), Some(COUNT)), rig(config(2), None));
    let capabilities = destination.machine.vm.capabilities();
    if !capabilities.clock_host_tsc || !destination.machine.vcpus[0].lock().has_tsc_offset() {
        return crate::skip::skip("this KVM does not tell the host's TSC together with its clock");
    }
    let _paused = pause(&source.machine);
    let sections = source.machine.save_sections().unwrap();
    let bytes = |name: &str| sections.iter().filter(|it| it.name == name).map(|it| &it.bytes[..]).collect::<Vec<_>>();
    let saved = Moment::decode(1, bytes("clock")[0]).unwrap();
    let states: Vec<_> = bytes("vcpu").into_iter().map(|bytes| VcpuState::decode(1, bytes).unwrap()).collect();
    let starts = destination.machine.tsc_starts(&saved, &states).unwrap();
    assert!(matches!(starts[..], [TscStart::Offset(one), TscStart::Offset(other)] if one == other), "{starts:?}");
}

#[test]
fn a_guest_goes_on_in_another_machine() {
    if no_kvm() {
        return;
    }
    let source = rig(config(2), Some(COUNT));
    let destination = rig(config(2), None);
    source.machine.cont().unwrap();
    source.await_count(1000);
    destination.machine.check_configuration(&source.machine.configuration()).unwrap();
    assert!(destination.machine.cont().is_err());

    let (one, other) = (pause(&source.machine), pause(&source.machine));
    assert!(one.running() && other.running());
    let left = source.count();
    let sections = source.machine.save().unwrap();
    assert_eq!(source.count(), left);
    copy_ram(&source.machine, &destination.machine);
    destination.machine.load(&sections).unwrap();
    let tscs = |machine: &Machine| -> Vec<u64> {
        let vcpus = machine.save_sections().unwrap().into_iter().filter(|section| section.name == "vcpu");
        vcpus.map(|section| crate::vcpu::VcpuState::decode(1, &section.bytes).unwrap().tsc).collect()
    };
    // One time line: what the destination shows first the source, which stands still, shows a
    // moment later.
    let (there, here) = (tscs(&destination.machine), tscs(&source.machine));
    let second = u64::from(source.machine.processor.tsc_khz) * 1000;
    assert!(there[0].abs_diff(here[0]) < second / 20, "{there:?} {here:?}");
    assert!(there[0].abs_diff(there[1]) < second / 1000, "{there:?}");
    destination.machine.run(true, &|| {}).unwrap();
    source.machine.handed_over();
    destination.await_count(left + 1000);
    assert_eq!(source.count(), left);
    assert_eq!(source.machine.run_state(), RunState::Postmigrate);
    assert!(source.machine.cont().is_err());
    assert_eq!(destination.machine.run_state(), RunState::Running);
}

#[test]
fn a_migration_that_fails_leaves_the_guest_running() {
    if no_kvm() {
        return;
    }
    let rig = rig(config(1), Some(COUNT));
    rig.machine.cont().unwrap();
    rig.await_count(10);
    for _ in 0..3 {
        let (one, other) = (pause(&rig.machine), pause(&rig.machine));
        rig.machine.save().unwrap();
        rig.machine.resume(one).unwrap();
        rig.machine.resume(other).unwrap();
        assert_eq!(rig.machine.run_state(), RunState::Running);
        rig.await_count(rig.count());
    }
    rig.machine.stop().unwrap();
    let paused = pause(&rig.machine);
    assert!(!paused.running());
    rig.machine.resume(paused).unwrap();
    assert_eq!(rig.machine.run_state(), RunState::Paused);
}

#[test]
fn sections_that_do_not_fit_are_refused_by_name() {
    if no_kvm() {
        return;
    }
    let source = rig(config(1), Some(COUNT));
    let destination = rig(config(1), None);
    let _paused = pause(&source.machine);
    let good = source.machine.save().unwrap();
    let refusal = |change: &dyn Fn(&mut Vec<whimbrel_postcopy::guest::Section>)| {
        let mut sections = good.clone();
        change(&mut sections);
        destination.machine.load(&sections).unwrap_err().to_string()
    };
    for at in 0..good.len() {
        let name = good[at].name.clone();
        assert!(refusal(&|all| all[at].version = 9).contains(&name));
        assert!(
            refusal(&|all| {
                all[at].bytes.pop();
            })
            .contains(&name)
        );
        assert!(refusal(&|all| drop(all.remove(at))).contains(&name));
        assert!(refusal(&|all| all.push(all[at].clone())).contains("twice"));
        assert!(refusal(&|all| all[at].instance = 7).contains(&name));
        assert!(refusal(&|all| all[at].instance = u32::MAX).contains(&name));
        assert!(refusal(&|all| all[at].name = "floppy".into()).contains("floppy"));
    }
    destination.machine.load(&good).unwrap();
}

#[test]
fn the_dirty_log_sees_guest_and_monitor_and_is_rearmed() {
    if no_kvm() {
        return;
    }
    let rig = rig(config(1), Some(COUNT));
    let machine = &rig.machine;
    let block = BlockId(0);
    let pages = machine.ram()[0].pages();
    let whole = PageRun { block, start: PageIndex(0), count: pages as u32 };
    let set = |bitmap: &PageBitmap, page: u64| bitmap.word(page as usize / 64) >> (page % 64) & 1 == 1;
    machine.cont().unwrap();
    rig.await_count(0);
    machine.start_dirty_log().unwrap();
    // Every page may be dirty at first.
    let first = PageBitmap::new(pages);
    machine.sync_dirty(block, &first).unwrap();
    machine.clear_dirty(whole, &first).unwrap();

    rig.await_count(rig.count());
    machine.ram.memory().write_obj(1u8, GuestAddress(0x50_0000)).unwrap();
    for _ in 0..3 {
        rig.await_count(rig.count());
        let dirty = PageBitmap::new(pages);
        machine.sync_dirty(block, &dirty).unwrap();
        assert!(set(&dirty, 0x200), "the guest's page");
        machine.clear_dirty(whole, &dirty).unwrap();
    }
    let paused = pause(machine);
    let before = PageBitmap::new(pages);
    machine.sync_dirty(block, &before).unwrap();
    machine.clear_dirty(whole, &before).unwrap();
    let quiet = PageBitmap::new(pages);
    machine.sync_dirty(block, &quiet).unwrap();
    assert!((0..pages).all(|page| !set(&quiet, page)), "nobody wrote");
    machine.ram.memory().write_obj(1u8, GuestAddress(0x60_0fff)).unwrap();
    machine.sync_dirty(block, &quiet).unwrap();
    assert!(set(&quiet, 0x600), "the monitor's page");
    machine.stop_dirty_log().unwrap();
    machine.resume(paused).unwrap();
    rig.await_count(rig.count());
}

#[test]
fn serial_input_is_echoed_and_none_is_lost_while_the_guest_stands_still() {
    use std::io::{Read, Write};
    if no_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("serial");
    let mut config = config(1);
    config.serial = CharDevice::Unix { path: path.clone(), server: true };
    let rig = rig(config, Some(ECHO));
    let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    let text: Vec<u8> = (0..500u32).map(|at| b'a' + (at % 26) as u8).collect();
    client.write_all(&text[..200]).unwrap();
    rig.machine.cont().unwrap();
    client.write_all(&text[200..]).unwrap();
    let mut echo = vec![0; text.len()];
    client.read_exact(&mut echo[..100]).unwrap();
    rig.machine.stop().unwrap();
    rig.machine.cont().unwrap();
    client.read_exact(&mut echo[100..]).unwrap();
    assert!(echo == text);
}

#[test]
fn the_phases_of_a_blackout_in_microseconds() {
    if no_kvm() {
        return;
    }
    let mut figures = Vec::new();
    for _ in 0..9 {
        let source = rig(config(2), Some(COUNT));
        let destination = rig(config(2), None);
        source.machine.cont().unwrap();
        source.await_count(100);
        let mut times = Vec::new();
        let mut clock = Instant::now();
        let mut lap = |times: &mut Vec<u128>| {
            times.push(clock.elapsed().as_micros());
            clock = Instant::now();
        };
        let _paused = pause(&source.machine);
        lap(&mut times);
        let sections = source.machine.save().unwrap();
        lap(&mut times);
        copy_ram(&source.machine, &destination.machine);
        lap(&mut times);
        destination.machine.load(&sections).unwrap();
        lap(&mut times);
        destination.machine.run(true, &|| {}).unwrap();
        lap(&mut times);
        let at = source.count();
        destination.await_count(at);
        lap(&mut times);
        figures.push(times);
    }
    for (at, name) in ["pause", "save", "copy", "load", "run", "first work"].iter().enumerate() {
        let mut column: Vec<_> = figures.iter().map(|row| row[at]).collect();
        column.sort_unstable();
        println!("{name:>10}: {column:?} us");
        // Generous: this is a test, not a benchmark, and the host may be busy.
        assert!(column[column.len() / 2] < 500_000, "{name}");
    }
}

/// A line of the test guest that begins with `letter`.
fn line(reader: &mut impl std::io::BufRead, letter: char) -> String {
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the serial port closed");
        assert!(!line.starts_with('E'), "the guest found an error: {line}");
        // A reset may cut a record off: the next one then begins in the middle of the line.
        let cut = format!("{letter} whimbrel");
        if line.starts_with(letter) || line.contains(&cut) {
            return line;
        }
    }
}

#[test]
fn the_test_guest_moves_with_two_vcpus_and_all_its_memory() {
    use std::io::{BufReader, Write};
    use std::os::unix::net::UnixStream;
    if no_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let build = |name: &str, boots: bool| {
        let path = folder.path().join(name);
        let mut config = config(2);
        config.memory.shared = boots;
        config.serial = CharDevice::Unix { path: path.clone(), server: true };
        config.arriving = !boots;
        config.boot = Some(BootConfig {
            kernel: Kernel::BuiltinTest,
            initrd: None,
            cmdline: "ws=8M order=rand write=50 cpus=2".into(),
        });
        let rig = rig(config, None);
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        (rig, BufReader::new(stream.try_clone().unwrap()), stream)
    };
    let (source, mut heard, _speak) = build("source", true);
    source.machine.cont().unwrap();
    assert!(line(&mut heard, 'B').contains("cpus=2"));
    line(&mut heard, 'H');

    let (destination, mut heard, mut speak) = build("destination", false);
    assert!(pause(&source.machine).running());
    let sections = source.machine.save().unwrap();
    copy_ram(&source.machine, &destination.machine);
    destination.machine.load(&sections).unwrap();
    // Input that comes before the guest waits for it.
    speak.write_all(b"v").unwrap();
    destination.machine.run(true, &|| {}).unwrap();
    source.machine.handed_over();
    let verified = line(&mut heard, 'V');
    assert!(verified.contains("errors=0"), "{verified}");
    // The kernel that was given along with `--incoming` is what a reset boots.
    destination.machine.reset().unwrap();
    assert!(line(&mut heard, 'B').contains("cpus=2"));
    speak.write_all(b"q").unwrap();
    assert_eq!(destination.await_shutdown(), ShutdownCause::GuestExit(0));
}

#[test]
fn sixteen_vcpus_and_ram_beyond_the_hole_work() {
    if no_kvm() {
        return;
    }
    let mut config = config(16);
    config.memory.size = 5 << 30;
    let rig = rig(config, Some(COUNT));
    assert_eq!(rig.machine.vcpus().len(), 16);
    assert_eq!(rig.machine.ram().len(), 2);
    rig.machine.cont().unwrap();
    rig.await_count(10);
    rig.machine.stop().unwrap();
    let first = rig.machine.vcpus()[0].thread_id;
    assert_eq!(rig.machine.vcpu_of_thread(first), Some(0));
    assert_eq!(rig.machine.vcpu_of_thread(1), None);
}

#[test]
fn a_guest_that_arrives_gives_no_memory_back_before_all_of_it_is_here() {
    if no_kvm() {
        return;
    }
    let mut config = config(1);
    config.devices.balloon = true;
    let rig = rig(config, None);
    let machine = &rig.machine;
    let page = GuestAddress(0x50_0000);
    machine.ram.memory().write_obj(7u8, page).unwrap();
    machine.ram.discard(page.0, 4096).unwrap();
    assert_eq!(machine.ram.memory().read_obj::<u8>(page).unwrap(), 7);
    machine.arrived();
    machine.ram.discard(page.0, 4096).unwrap();
    assert_eq!(machine.ram.memory().read_obj::<u8>(page).unwrap(), 0);
}

#[test]
fn the_balloons_target_is_set_where_the_guest_is_and_travels_with_it() {
    if no_kvm() {
        return;
    }
    let with_balloon = || {
        let mut config = config(1);
        config.devices.balloon = true;
        config
    };
    let source = rig(with_balloon(), Some(COUNT));
    let machine = &source.machine;
    machine.set_balloon(24 << 20).unwrap();
    assert_eq!(machine.balloon_actual().unwrap(), 32 << 20);
    machine.cont().unwrap();
    let _paused = pause(machine);
    assert!(machine.set_balloon(16 << 20).unwrap_err().to_string().contains("leaves"));
    let sections = machine.save().unwrap();
    let destination = rig(with_balloon(), None);
    assert!(destination.machine.set_balloon(16 << 20).is_err());
    destination.machine.load(&sections).unwrap();
    let balloon = |machine: &Machine| {
        machine.save_sections().unwrap().into_iter().find(|section| section.name == "virtio-balloon").unwrap().bytes
    };
    assert_eq!(balloon(&destination.machine), balloon(machine));
    let without = rig(config(1), Some(COUNT));
    assert!(matches!(without.machine.set_balloon(1 << 20), Err(MachineError::NoBalloon)));
}

#[test]
fn memory_that_was_given_back_is_sent_as_zero_pages() {
    use crate::launcher::Launcher;
    use crate::migration::Migration;
    use crate::migration::parameters::Parameters;
    use crate::migration::streams::Streams;
    use whimbrel_postcopy::stats::Status;
    if no_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let uri = format!("unix:{}", folder.path().join("m").display()).parse().unwrap();
    let (source, destination) = (rig(config(1), Some(COUNT)), rig(config(1), None));
    let (sender, ended) = mpsc::channel();
    let [leaving, arriving] = [&source, &destination].map(|rig| {
        let sender = Mutex::new(sender.clone());
        let tell = move |event| drop(sender.lock().unwrap().send(event));
        let streams = Streams::new(Arc::new(Launcher::none()), Arc::default());
        Migration::new(rig.machine.clone(), Parameters::default(), streams, true, Arc::new(tell))
    });
    // 4 MiB that differ, of which 3 are given back.
    let (start, bytes, given) = (8u64 << 20, 4u64 << 20, 3u64 << 20);
    for at in (start..start + bytes).step_by(4096) {
        source.machine.ram.memory().write_obj(at, GuestAddress(at)).unwrap();
    }
    source.machine.ram.discard(start, given).unwrap();
    arriving.incoming(&uri, Some(true)).unwrap();
    leaving.migrate(&uri).unwrap();
    let status = |migration: &Migration| migration.report().unwrap().1.status;
    while status(&leaving) != Status::Completed || status(&arriving) != Status::Completed {
        ended.recv_timeout(LIMIT).unwrap();
        assert!(status(&leaving) != Status::Failed && status(&arriving) != Status::Failed);
    }
    let ram = leaving.report().unwrap().1.ram;
    // The kernel's pages are a handful.
    let data = (bytes - given) / 4096;
    assert!((data..data + 100).contains(&ram.normal), "{} pages of data", ram.normal);
    assert!(ram.duplicate >= given / 4096, "{} zero pages", ram.duplicate);
    let there = |at: u64| destination.machine.ram.memory().read_obj::<u64>(GuestAddress(at)).unwrap();
    assert!((start..start + given).step_by(4096).all(|at| there(at) == 0));
    assert!((start + given..start + bytes).step_by(4096).all(|at| there(at) == at));
}

/// What a stream says of its states is enough to read all of them.
#[test]
fn every_section_is_what_its_layout_says() {
    use whimbrel_postcopy::wire::description::describe;
    if no_kvm() {
        return;
    }
    let devices = DeviceConfig { console: Some(CharDevice::Null), rng: true, balloon: true, ..DeviceConfig::default() };
    let rig = rig(MachineConfig { devices, ..config(2) }, None);
    let layouts = rig.machine.describe_state();
    let sections = rig.machine.save_sections().unwrap();
    assert!(sections.len() >= 14, "{sections:?}");
    for section in sections {
        let described = |it: &&SectionLayout| it.name == section.name && it.version == section.version;
        let layout = layouts.iter().find(described).unwrap();
        let leaves = crate::analyze::leaves(&layout.fields, &section.bytes);
        assert_eq!(leaves.iter().map(|(_, bytes)| bytes).sum::<usize>(), section.bytes.len(), "{section:?}");
    }
    let description = describe(&layouts);
    assert!(serde_json::from_str::<serde_json::Value>(&description).is_ok(), "{description}");
    // A destination takes 1 MiB.
    assert!(description.len() < 64 << 10, "{} bytes", description.len());
}
