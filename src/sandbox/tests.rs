//! Whether the lists bite. A thread that is locked in cannot be let out again, and a forbidden call
//! may end the process: so each attempt is made in a process of its own, which is this test program
//! again, told by its environment to run [`attempts`].

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{TcpListener, ToSocketAddrs, UdpSocket};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Output};

use super::*;

const KIND: &str = "WHIMBREL_TEST_KIND";
const ATTEMPT: &str = "WHIMBREL_TEST_ATTEMPT";

/// Those that serve a guest or take what a peer sends, and start no thread.
const NARROW: [Thread; 12] = [
    Thread::Vcpu,
    Thread::Throttle,
    Thread::DirtyRate,
    Thread::Disk,
    Thread::Net,
    Thread::Device,
    Thread::Character,
    Thread::DemandServer,
    Thread::MultifdSender,
    Thread::Faults,
    Thread::MultifdReceiver,
    Thread::SnapshotWrites,
];

/// A system call by number, with arguments that do no harm.
fn call(number: libc::c_long, arguments: [usize; 3]) -> io::Result<()> {
    raw::attempt(number, arguments)
}

fn socket(family: i32, kind: i32) -> io::Result<()> {
    call(libc::SYS_socket, [family as usize, kind as usize, 0])
}

/// What an intruder would try. Each works, or fails with something else than EPERM, in a thread
/// that is not locked in (as root).
fn attempt(name: &str) -> io::Result<()> {
    match name {
        "run a program" => Err(Command::new("/bin/true").exec()),
        "trace" => call(libc::SYS_ptrace, [libc::PTRACE_TRACEME as usize, 0, 0]),
        "read another process" => call(libc::SYS_process_vm_readv, [1, 0, 0]),
        "load a program into the kernel" => call(libc::SYS_bpf, [0, 0, 0]),
        "mount" => call(libc::SYS_mount, [0, 0, 0]),
        "keys" => call(libc::SYS_keyctl, [0, 0, 0]),
        "module" => call(libc::SYS_finit_module, [usize::MAX, 0, 0]),
        "new user" => call(libc::SYS_setresuid, [0, 0, 0]),
        "raw socket" => socket(libc::AF_INET6, libc::SOCK_RAW | libc::SOCK_CLOEXEC),
        "packet socket" => socket(libc::AF_PACKET, libc::SOCK_DGRAM),
        "routing socket" => socket(libc::AF_NETLINK, libc::SOCK_RAW),
        "map code" => raw::attempt_to_map_code(),
        "make a file" => OpenOptions::new().append(true).create(true).open("/dev/null").map(drop),
        "write a file" => OpenOptions::new().write(true).open("/dev/null").map(drop),
        "read a file" => File::open("/dev/null").map(drop),
        "tcp socket" => TcpListener::bind("127.0.0.1:0").map(drop),
        "udp socket" => UdpSocket::bind("127.0.0.1:0").map(drop),
        "start a thread" => std::thread::Builder::new().spawn(|| ()).map(|thread| drop(thread.join())),
        "start a hidden thread" => call(libc::SYS_clone3, [0, 0, 0]),
        "signal another process" => call(libc::SYS_tgkill, [1, 1, 0]),
        "type into the terminal" => call(libc::SYS_ioctl, [0, libc::TIOCSTI as usize, 0]),
        "make a vm" => call(libc::SYS_ioctl, [0, 0xae01, 0]),
        "attach a tap" => call(libc::SYS_ioctl, [0, libc::TUNSETIFF as usize, 0]),
        "be dumped" => call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as usize, 1, 0]),
        "change its root" => call(libc::SYS_chroot, [0, 0, 0]),
        "another thread's priority" => call(libc::SYS_setpriority, [libc::PRIO_PROCESS as usize, 1, 0]),
        // What must work.
        "allocate" => {
            drop(std::hint::black_box(vec![1u8; 8 << 20]));
            drop(std::hint::black_box((0..200).map(|_| vec![1u8; 32 << 10]).collect::<Vec<_>>()));
            Ok(())
        }
        "panic" => {
            std::panic::catch_unwind(|| panic!("on purpose")).map_or(Ok(()), |()| Err(io::Error::other("no panic")))
        }
        "resolve" => {
            let found = ("localhost", 1).to_socket_addrs()?.next();
            // Of a name that does not exist (RFC 6761), and with no name server at hand either,
            // only the refusals matter.
            let _ = ("nobody.invalid", 1).to_socket_addrs();
            found.map(drop).ok_or(io::ErrorKind::NotFound.into())
        }
        other => panic!("no such attempt: {other}"),
    }
}

/// Not a test of its own: what the processes below run.
#[test]
#[ignore = "run by the other tests of this module, in processes of their own"]
fn attempts() {
    let (Ok(kind), Ok(names)) = (std::env::var(KIND), std::env::var(ATTEMPT)) else { return };
    let kind = Thread::ALL.into_iter().find(|it| format!("{it:?}") == kind).unwrap();
    begin(Mode::of(false, std::env::var(VARIABLE).ok().as_deref()).unwrap()).unwrap();
    // Like the engine's threads, in a thread that was locked in as what starts them.
    match kind {
        Thread::DemandServer | Thread::MultifdSender => enter(Thread::Source),
        Thread::SnapshotWrites => enter(Thread::Snapshot),
        Thread::Faults | Thread::Populate | Thread::MultifdReceiver => enter(Thread::Destination),
        _ => {}
    }
    enter(kind);
    assert!(!SANDBOX.get().unwrap().failed.load(Ordering::Acquire));
    for name in names.split(',') {
        let outcome = attempt(name).map_err(|error| error.raw_os_error());
        eprintln!("{name}: {outcome:?}");
    }
}

fn process(kind: Thread, mode: &str, names: &[&str]) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sandbox::tests::attempts", "--ignored", "--nocapture", "--test-threads=1"])
        .env(KIND, format!("{kind:?}"))
        .env(VARIABLE, mode)
        .env(ATTEMPT, names.join(","))
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap()
}

/// What became of each attempt, in order; all made by one thread of that kind.
fn outcomes(kind: Thread, mode: &str, names: &[&str]) -> Vec<String> {
    let output = process(kind, mode, names);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{kind:?}, {mode}: {}\n{said}", output.status);
    let of = |name: &&str| said.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")[..])).map(str::to_owned);
    names.iter().map(|name| of(name).unwrap_or_else(|| panic!("{kind:?}: nothing about '{name}':\n{said}"))).collect()
}

fn assert_all(kind: Thread, mode: &str, names: &[&str], expected: &str) {
    for (name, outcome) in names.iter().zip(outcomes(kind, mode, names)) {
        assert_eq!(outcome, expected, "{kind:?}, {mode}: {name}");
    }
}

const REFUSED: &str = "Err(Some(1))";
const MISSING: &str = "Err(Some(38))";

#[test]
fn no_thread_does_what_only_an_intruder_would() {
    let names = [
        "raw socket",
        "packet socket",
        "map code",
        "make a file",
        "signal another process",
        "type into the terminal",
        "make a vm",
        "attach a tap",
        "be dumped",
        "another thread's priority",
    ];
    for kind in Thread::ALL {
        assert_all(kind, "refuse", &names, REFUSED);
    }
}

#[test]
fn who_serves_a_guest_or_takes_from_a_peer_opens_nothing_and_starts_nothing() {
    let names = ["read a file", "write a file", "tcp socket", "udp socket", "start a thread"];
    for kind in NARROW {
        assert_all(kind, "refuse", &names, REFUSED);
    }
    assert_all(Thread::Populate, "refuse", &names[1..], REFUSED);
    assert_all(Thread::Control, "refuse", &names[2..], REFUSED);
}

#[test]
fn the_gravest_calls_end_the_process_whatever_the_mode() {
    let names = [
        "run a program",
        "trace",
        "read another process",
        "load a program into the kernel",
        "mount",
        "keys",
        "module",
        "new user",
        "change its root",
    ];
    for name in names {
        for kind in [Thread::Main, Thread::Vcpu, Thread::Faults] {
            let status = process(kind, "refuse", &[name]).status;
            assert_eq!(status.signal(), Some(libc::SIGSYS), "{kind:?}: {name}: {status}");
        }
    }
}

#[test]
fn in_the_mode_of_the_tests_any_forbidden_call_ends_the_process() {
    for kind in Thread::ALL {
        let status = process(kind, "kill", &["raw socket"]).status;
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{kind:?}: {status}");
    }
    for kind in NARROW {
        let status = process(kind, "kill", &["read a file"]).status;
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{kind:?}: {status}");
    }
}

#[test]
fn what_libraries_do_without_is_missing_and_kills_nobody() {
    for kind in [Thread::Main, Thread::Source, Thread::Destination] {
        for mode in ["refuse", "kill"] {
            assert_all(kind, mode, &["routing socket", "start a hidden thread"], MISSING);
        }
    }
}

#[test]
fn every_thread_can_do_what_every_thread_must() {
    for kind in Thread::ALL {
        let output = process(kind, "kill", &["allocate", "panic"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{kind:?}: {}\n{said}", output.status);
        assert!(said.contains("on purpose"), "{kind:?}:\n{said}");
        // The command that the backtrace gives, as whoever reads it would.
        let command = said.lines().find_map(|line| line.strip_prefix("backtrace: ")).unwrap();
        let words: Vec<_> = command.split(' ').collect();
        let named = Command::new(words[0]).args(&words[1..]).output().unwrap();
        let named = String::from_utf8_lossy(&named.stdout);
        assert!(named.contains("sandbox::tests::attempt"), "{kind:?}: {command}\n{named}");
    }
}

#[test]
fn who_connects_or_listens_resolves_names_and_starts_threads() {
    for kind in [Thread::Main, Thread::Source, Thread::Destination] {
        assert_all(kind, "kill", &["resolve", "start a thread"], "Ok(())");
    }
}

#[test]
fn a_thread_has_every_call_of_those_that_it_starts() {
    use Thread::*;
    for (parent, children) in [
        (Main, &[Source, Destination, DirtyRate][..]),
        (Source, &[DemandServer, MultifdSender]),
        (Destination, &[Faults, Populate, MultifdReceiver]),
    ] {
        for child in children {
            let (ours, theirs) = (calls::of(parent).unwrap(), calls::of(*child).unwrap());
            assert!(ours.contains(&theirs), "{parent:?} lacks calls of {child:?}");
            // A destination that may listen again by itself does all that the main thread does.
            assert!(*child == Destination || !theirs.contains(&ours), "{child:?} is no narrower than {parent:?}");
        }
    }
}

#[test]
fn the_gravest_calls_are_on_no_list() {
    let never = calls::never();
    for kind in Thread::ALL {
        assert!(calls::of(kind).unwrap().has_none_of(&never), "{kind:?}");
    }
}

#[test]
fn modes_are_chosen_by_name() {
    assert_eq!(Mode::of(false, None), Ok(Mode::Refuse));
    assert_eq!(Mode::of(false, Some("kill")), Ok(Mode::Kill));
    assert_eq!(Mode::of(true, Some("kill")), Ok(Mode::Off));
    let error = Mode::of(false, Some("off")).unwrap_err().to_string();
    assert!(error.contains("'off'") && error.contains("'kill'"), "{error}");
}
