//! The validated machine: what `cli` makes out of raw arguments, once.

use std::path::PathBuf;

/// Everything [`crate::machine::Machine::build`] needs. Every value in it has been checked.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// What to boot; `None` when a guest is to arrive (`--incoming`).
    pub boot: Option<BootConfig>,
    /// Guest RAM.
    pub memory: MemoryConfig,
    /// How many vCPUs, 1 to 16.
    pub vcpus: u8,
    /// Where the serial port goes.
    pub serial: CharDevice,
    /// `--name`.
    pub name: Option<String>,
}

/// What to boot.
#[derive(Clone, Debug)]
pub struct BootConfig {
    /// An ELF with a PVH note, or the guest that is built in.
    pub kernel: Kernel,
    /// A file that is handed over as the first module.
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
