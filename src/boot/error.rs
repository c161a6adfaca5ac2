//! Why a kernel cannot be booted.

use std::io;

use vm_memory::GuestMemoryError;

/// A kernel, initrd or command line that cannot be booted. Each names what it is about.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file cannot be read.
    #[error("{what} {name} cannot be read")]
    Read {
        /// Kernel or initrd.
        what: &'static str,
        /// The file.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not an ELF of this machine.
    #[error("kernel {name} is not an x86-64 ELF: give an uncompressed kernel (vmlinux)")]
    NotElf {
        /// The kernel.
        name: String,
    },
    /// No PVH note.
    #[error("kernel {name} has no PVH entry note: build it with CONFIG_PVH, or give another kernel")]
    NoPvhNote {
        /// The kernel.
        name: String,
    },
    /// It does not fit.
    #[error("kernel {name} does not fit: it needs guest RAM from {start:#x} to {end:#x}; use more --memory")]
    KernelDoesNotFit {
        /// The kernel.
        name: String,
        /// Its first byte.
        start: u64,
        /// The byte after its last.
        end: u64,
    },
    /// Its headers contradict themselves.
    #[error("kernel {name} is damaged")]
    Damaged {
        /// The kernel.
        name: String,
        /// What was found.
        #[source]
        source: linux_loader::loader::Error,
    },
    /// The initrd does not fit.
    #[error("initrd {name} of {bytes} bytes does not fit above the kernel; use more --memory")]
    InitrdDoesNotFit {
        /// The initrd.
        name: String,
        /// Its length.
        bytes: usize,
    },
    /// The command line is too long or holds a NUL.
    #[error(
        "the kernel's command line cannot be handed over: it has {bytes} bytes, {limit} at most, and none may be NUL"
    )]
    CommandLine {
        /// Its length.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Guest RAM cannot be written.
    #[error("boot data cannot be written into guest RAM")]
    Memory(#[from] GuestMemoryError),
    /// The boot parameters cannot be written.
    #[error("the PVH start info cannot be written into guest RAM")]
    StartInfo(#[source] linux_loader::configurator::Error),
}
