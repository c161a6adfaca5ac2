//! The sandbox: what is left to whoever takes over a thread of `whimbrel run`.
//! [`SECURITY.md`](../../docs/SECURITY.md) has the threats.
//!
//! Each thread, as it begins, gives up the privileges and the system calls that its kind does not
//! need ([`enter`]). The vCPUs' and the devices' threads, which serve a guest that may be hostile,
//! open no file and no socket, start no thread and run no program; the same holds for those that
//! take pages from a peer.
//!
//! A filter is inherited by what a thread starts, and a further one only narrows: so each kind has
//! at least the calls of the kinds that it starts (a test holds that). The main thread comes last,
//! after the machine was built.
//!
//! ```text
//!   main ─┬─ vcpuN, throttle, control, one for each device, one for each character device
//!         ├─ dirty-rate, dirty-limit
//!         ├─ migration ─┬─ mig-demand
//!         │             └─ mig-fd-N
//!         ├─ incoming ──┬─ faults, populate
//!         │             └─ in-fd-N
//!         ├─ snapshot ─── snap-writes
//!         └─ snap-job
//! ```
//!
//! The first line's threads start before main narrows itself. Those from `migration` to
//! `snap-writes` are the engine's (`Guest::thread_begins`). `snap-job` does work of the monitors
//! that takes long, and may do what main may.
//!
//! What becomes of a call that is on no list: see [`Mode`].
//!
//! | file | what is in it |
//! |---|---|
//! | `calls` | which kind of thread may make which calls |
//! | `never` | the calls that nobody makes |
//! | `requests` | the numbers of the `ioctl` requests on those lists |
//! | `filter` | lists into programs for the kernel |
//! | `privileges` | capabilities, core dumps |
//! | `raw` | the system calls that have no safe wrapper |

mod backtrace;
mod calls;
mod filter;
mod never;
mod privileges;
mod raw;
mod requests;

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use filter::Filters;

/// The environment variable that chooses between refusing and killing.
pub const VARIABLE: &str = "WHIMBREL_SECCOMP";

/// An environment variable that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{VARIABLE} is '{0}'; give it 'refuse' (the default), or 'kill' to end the process at a forbidden system call")]
pub struct SandboxVariable(String);

/// Why the sandbox cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The lists.
    #[error("the system call filters cannot be made")]
    Compile(#[source] seccompiler::Error),
    /// The kernel.
    #[error("the kernel takes no system call filter (is it built with seccomp?); '--no-seccomp' runs without")]
    Install(#[source] io::Error),
    /// The kernel, about something else.
    #[error("this process's privileges cannot be given up")]
    Privileges(#[source] io::Error),
    /// Said in the log already.
    #[error("a thread could not be locked in; the log says why")]
    Thread,
}

/// What becomes of a system call that is on no list. Some end the process in either mode: those
/// that run programs, look into other processes or change the host (`calls::never`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It fails with `EPERM`, and the kernel's log says which thread made it: a list that forgot
    /// something must not cost a guest.
    ///
    /// The log is the kernel's because only that is safe. A handler of our own (`SECCOMP_RET_TRAP`)
    /// would have to run while the C library blocks all signals, as it does around the start and
    /// the end of a thread: then the kernel kills the process instead.
    Refuse,
    /// It ends the process: so that a test sees what a list forgot.
    Kill,
    /// No filter at all, for a debugger.
    Off,
}

impl Mode {
    /// What the command line and the environment ask for.
    pub fn of(no_seccomp: bool, variable: Option<&str>) -> Result<Self, SandboxVariable> {
        match variable {
            _ if no_seccomp => Ok(Self::Off),
            None | Some("" | "refuse") => Ok(Self::Refuse),
            Some("kill") => Ok(Self::Kill),
            Some(other) => Err(SandboxVariable(other.to_owned())),
        }
    }
}

/// A kind of thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// The monitors' thread, which starts the migrations'.
    Main,
    /// Runs a vCPU.
    Vcpu,
    /// Takes the vCPUs of a throttled guest out of it.
    Throttle,
    /// Measures how fast the guest writes to its memory.
    DirtyRate,
    /// Serves what the guest asks for: a reset, the end.
    Control,
    /// A disk's worker.
    Disk,
    /// A network card's worker.
    Net,
    /// Any other device's worker: console, entropy, balloon.
    Device,
    /// Reads a character device.
    Character,
    /// The source of a migration.
    Source,
    /// Answers page requests.
    DemandServer,
    /// Sends pages on a multifd channel.
    MultifdSender,
    /// The destination of a migration.
    Destination,
    /// The fault loop.
    Faults,
    /// Has the host provide memory ahead.
    Populate,
    /// Takes pages off a multifd channel.
    MultifdReceiver,
    /// Saves a guest that stays.
    Snapshot,
    /// Copies pages for a snapshot that the guest is about to write.
    SnapshotWrites,
}

impl Thread {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Main,
        Self::Vcpu,
        Self::Throttle,
        Self::DirtyRate,
        Self::Control,
        Self::Disk,
        Self::Net,
        Self::Device,
        Self::Character,
        Self::Source,
        Self::DemandServer,
        Self::MultifdSender,
        Self::Destination,
        Self::Faults,
        Self::Populate,
        Self::MultifdReceiver,
        Self::Snapshot,
        Self::SnapshotWrites,
    ];
}

/// What [`prepare`] made. A process has one sandbox, as it has one set of threads.
struct Sandbox {
    /// `None`: only privileges are given up.
    filters: Option<Filters>,
    /// Some thread could not be locked in.
    failed: AtomicBool,
}

static SANDBOX: OnceLock<Sandbox> = OnceLock::new();

/// For the process that is to run a machine, while it has but one thread: from here on no thread of
/// it can run a program or gain a privilege, and those that call [`enter`] are locked in.
pub fn begin(mode: Mode) -> Result<(), SandboxError> {
    rustix::thread::set_no_new_privs(true).map_err(|error| SandboxError::Privileges(error.into()))?;
    privileges::empty_bounding_set().map_err(SandboxError::Privileges)?;
    let filters = prepare(mode)?;
    if mode == Mode::Off {
        log::warn!(
            "--no-seccomp: nothing keeps a hostile guest or peer that takes this process over from any system call"
        );
    } else {
        // What is in memory, the guest's above all, is nobody's to read but root's: neither in a
        // core file nor by ptrace.
        privileges::hide_memory().map_err(SandboxError::Privileges)?;
    }
    let Some(filters) = filters else { return Ok(()) };
    backtrace::by_addresses();
    filters.install_for_all().map_err(SandboxError::Install)
}

/// Makes what [`enter`] needs. Threads that do not call that are as free as before. The first call
/// counts.
fn prepare(mode: Mode) -> Result<Option<&'static Filters>, SandboxError> {
    if mode != Mode::Off {
        look_up_beforehand();
    }
    let filters = match mode {
        Mode::Off => None,
        Mode::Refuse | Mode::Kill => Some(Filters::compile(mode).map_err(SandboxError::Compile)?),
    };
    let sandbox = SANDBOX.get_or_init(|| Sandbox { filters, failed: AtomicBool::new(false) });
    Ok(sandbox.filters.as_ref())
}

/// Libraries look some things up at the first need, which may be in a thread that cannot open
/// files: let them do that now.
fn look_up_beforehand() {
    // The C library's allocator: how many processors there are, and whether memory may be given
    // back, which it asks itself when a thread other than the first has much to free.
    raw::fix_number_of_arenas();
    let frees_much = || drop(std::hint::black_box((0..64).map(|_| vec![1u8; 32 << 10]).collect::<Vec<_>>()));
    if let Ok(thread) = std::thread::Builder::new().spawn(frees_much) {
        let _ = thread.join();
    }
}

/// Locks the calling thread in as one of this kind, for good. Does nothing in a process that did
/// not [`begin`].
pub fn enter(kind: Thread) {
    let Some(sandbox) = SANDBOX.get() else { return };
    if let Err(error) = lock_in(sandbox, kind) {
        log::error!("a thread ({kind:?}) cannot be locked in: {}", crate::sentence::sentence(&error));
        sandbox.failed.store(true, Ordering::Release);
    }
}

/// [`enter`] for the main thread, once the machine is built: an error if any thread before it could
/// not be locked in.
pub fn enter_main() -> Result<(), SandboxError> {
    let Some(sandbox) = SANDBOX.get() else { return Ok(()) };
    lock_in(sandbox, Thread::Main)?;
    if sandbox.failed.load(Ordering::Acquire) { Err(SandboxError::Thread) } else { Ok(()) }
}

fn lock_in(sandbox: &Sandbox, kind: Thread) -> Result<(), SandboxError> {
    privileges::keep_only(kind).map_err(SandboxError::Privileges)?;
    match &sandbox.filters {
        Some(filters) => filters.install(kind).map_err(SandboxError::Install),
        None => Ok(()),
    }
}

/// For unit tests whose threads are to be held to the lists: a call that is forgotten there ends
/// the test program.
#[cfg(test)]
pub fn begin_for_tests() {
    // Of this thread and those that it starts: without it a filter is a privilege.
    rustix::thread::set_no_new_privs(true).unwrap();
    prepare(Mode::Kill).unwrap();
}

#[cfg(test)]
mod tests;
