//! The validated machine: what `cli` makes out of raw arguments, once.

use std::path::PathBuf;

use uuid::Uuid;

pub use crate::block::{DiskConfig, ImageFormat};
pub use crate::boot::{BootConfig, Kernel};
pub use crate::chardev::CharDevice;
pub use crate::net::{NetConfig, TapSource};
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

/// Guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Bytes: a multiple of 2 MiB, at least 16 MiB.
    pub size: u64,
    /// Backed by a memfd and mapped shared, instead of private anonymous memory.
    pub shared: bool,
}
