//! The validated machine: what `cli` makes out of raw arguments, once.

use std::os::fd::RawFd;
use std::path::PathBuf;

use uuid::Uuid;

use crate::migration::uri::Uri;
use crate::net::MacAddr;
use crate::sandbox::Mode;
use crate::vcpu::CpuModel;

/// Everything [`crate::machine::Machine::build`] needs. Every value in it has been checked.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// What to boot. With [`MachineConfig::arriving`] it is not loaded but by a reset, and may be
    /// missing.
    pub boot: Option<BootConfig>,
    /// A guest is to arrive (`--incoming`).
    pub arriving: bool,
    /// Guest RAM.
    pub memory: MemoryConfig,
    /// How many vCPUs, 1 to 16.
    pub vcpus: u8,
    /// The processor that the guest is shown; with [`MachineConfig::arriving`], the most that it
    /// may have been shown.
    pub cpu: CpuModel,
    /// Where the serial port goes.
    pub serial: CharDevice,
    /// What is plugged into it beside that.
    pub devices: DeviceConfig,
    /// `--name`.
    pub name: Option<String>,
    /// `--uuid`.
    pub uuid: Option<Uuid>,
    /// `--paused`: does not start by itself; a guest that arrives stays paused, whatever it was on
    /// the source.
    pub paused: bool,
}

/// The virtio devices.
#[derive(Clone, Debug, Default)]
pub struct DeviceConfig {
    /// The disks, in the order in which they were given.
    pub disks: Vec<DiskConfig>,
    /// The network cards (`--net`), in the order in which they were given.
    pub nets: Vec<NetConfig>,
    /// Where the virtio console goes; `None`: there is no such console.
    pub console: Option<CharDevice>,
    /// A source of entropy.
    pub rng: bool,
    /// A balloon, with free page reporting.
    pub balloon: bool,
}

/// Everything that `whimbrel run` needs: the machine and what stands around it.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// The machine itself.
    pub machine: MachineConfig,
    /// Its monitors, in the order in which they were given.
    pub monitors: Vec<MonitorConfig>,
    /// Whether a guest is to arrive.
    pub incoming: Option<Incoming>,
    /// A guest that was to arrive and does not ends the process, unless `migrate-incoming` says
    /// otherwise.
    pub exit_on_error: bool,
    /// What becomes of system calls that no thread needs.
    pub sandbox: Mode,
    /// `--no-exec`: no command can be started and no file be made.
    pub no_exec: bool,
    /// `--snapshots`: where they are.
    pub snapshots: Option<PathBuf>,
    /// `--postcopy-after`: the first value of the parameter `x-postcopy-after`.
    pub postcopy_after: Option<u32>,
    /// `--tls-dir`: the first value of the parameter `tls-creds`.
    pub tls_dir: Option<PathBuf>,
}

/// How a guest is to arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// Listens at this address at once.
    At(Uri),
    /// Waits for `migrate_incoming`.
    Deferred,
}

/// One `--monitor` or `--qmp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorConfig {
    /// Which language is spoken there.
    pub face: MonitorFace,
    /// Where.
    pub endpoint: MonitorEndpoint,
}

/// A monitor's language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MonitorFace {
    /// Lines for people (`--monitor`).
    Hmp,
    /// JSON for programs (`--qmp`).
    Qmp,
}

/// Where a monitor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MonitorEndpoint {
    /// This process's standard input and output.
    Stdio,
    /// Connects to a unix socket, once, at the start.
    UnixClient(PathBuf),
    /// Listens at a unix socket.
    UnixServer(PathBuf),
    /// Listens at a tcp port; 0 asks the system for one.
    TcpServer {
        /// Name or address, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

/// What to boot.
#[derive(Clone, Debug)]
pub struct BootConfig {
    /// A bzImage, an ELF with a PVH note, or the guest that is built in.
    pub kernel: Kernel,
    /// A file that is handed over as the kernel's initrd (to a PVH kernel: its first module).
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// Where the kernel comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// A file.
    File(PathBuf),
    /// The test guest inside this program (`--kernel builtin:test`).
    BuiltinTest,
}

/// Guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Bytes: a multiple of 2 MiB, at least 16 MiB.
    pub size: u64,
    /// Backed by a memfd and mapped shared, instead of private anonymous memory.
    pub shared: bool,
}

/// One `--disk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// A regular file or a block device.
    pub path: PathBuf,
    /// What it holds. Never guessed: a guest that may write a raw disk from its first byte on could
    /// choose.
    pub format: ImageFormat,
    /// The guest may not write to it, and other readers may share it.
    pub read_only: bool,
    /// What the backing files hold whose format is not written down in the image above them.
    pub backing_format: Option<ImageFormat>,
    /// What the guest reads as the disk's serial number: at most 20 printable ASCII characters; may
    /// be empty.
    pub serial: String,
}

/// The format of a disk image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU's format, version 2 or 3, with backing files.
    Qcow2,
}

impl ImageFormat {
    /// Its name on the command line and in monitors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// A character device, as `--serial` and `--monitor` name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CharDevice {
    /// This process's standard input and output.
    Stdio,
    /// Nowhere.
    Null,
    /// Output to a file or FIFO.
    File(PathBuf),
    /// A unix socket: listens if `server`, else connects.
    Unix {
        /// The socket's path.
        path: PathBuf,
        /// Listen, not waiting for a client.
        server: bool,
    },
    /// A new pseudo-terminal; its name is printed.
    Pty,
}

/// A network card (`--net`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// Its other end.
    pub tap: TapSource,
    /// Its address; `None`: one made out of the host, the tap and the machine's name.
    pub mac: Option<MacAddr>,
}

/// Where a card's tap comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapSource {
    /// The interface of that name, which is created if there is none.
    Named(String),
    /// A tap that is open already, under that number in this process.
    Inherited(RawFd),
}
