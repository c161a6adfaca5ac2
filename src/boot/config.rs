//! What to boot, as the command line says it.

use std::path::PathBuf;

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
