//! Why a kernel cannot be booted.

use crate::size::format_size;
use std::io;

use vm_memory::GuestMemoryError;

use super::layout::{HOLE, RAM_ABOVE_HOLE};

/// Why a part of a kernel cannot be where it wants to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// RAM ends before.
    #[error("beyond its end: use --memory {}M or more", .needed >> 20)]
    TooLittle {
        /// The bytes of RAM with which it would fit.
        needed: u64,
    },
    /// Something of the boot's own is there.
    #[error("where {what} is put ({:#x} to {:#x}): link it at 1 MiB or above", .kept.0, .kept.1)]
    Kept {
        /// What.
        what: &'static str,
        /// Its first byte, and the byte after its last.
        kept: (u64, u64),
    },
    /// Devices are there.
    #[error(
        "where devices are and never RAM ({HOLE:#x} to {RAM_ABOVE_HOLE:#x}): no --memory helps, link it below 3 GiB"
    )]
    Hole,
    /// Nothing can be there.
    #[error("where {}: no --memory helps, link it below 3 GiB", if *.address_space { "no processor has memory" } else { "a kernel cannot be started" })]
    Beyond {
        /// Whether it is beyond all memory.
        address_space: bool,
    },
}

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
    /// Nothing that is known.
    #[error("kernel {name} is neither an ELF (vmlinux) nor a bzImage (vmlinuz): give one of these")]
    NotAKernel {
        /// The kernel.
        name: String,
    },
    /// Compressed as a whole.
    #[error(
        "kernel {name} is compressed with {by}: unpack it with '{tool}', or give the bzImage (vmlinuz), which unpacks itself"
    )]
    Compressed {
        /// The kernel.
        name: String,
        /// What compressed it.
        by: &'static str,
        /// What unpacks it.
        tool: &'static str,
    },
    /// Something else that is known.
    #[error("kernel {name} is {what}: {advice}")]
    Foreign {
        /// The kernel.
        name: String,
        /// What it is.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// A bzImage of 32 bits, or from before Linux 3.8.
    #[error("kernel {name} has no 64-bit entry (boot protocol 2.12): give an x86-64 kernel, Linux 3.8 or newer")]
    No64BitEntry {
        /// The kernel.
        name: String,
    },
    /// A bzImage that ends too early.
    #[error("kernel {name} is cut off: it has {bytes} bytes, its header speaks of {wanted}; copy it again")]
    CutOff {
        /// The kernel.
        name: String,
        /// How long it is.
        bytes: u64,
        /// How long it should be.
        wanted: u64,
    },
    /// No PVH note.
    #[error("kernel {name} has no PVH entry note: build it with CONFIG_PVH, or give its bzImage (vmlinuz)")]
    NoPvhNote {
        /// The kernel.
        name: String,
    },
    /// A multiboot kernel.
    #[error(
        "kernel {name} is a {protocol} kernel, to be started by GRUB, and has no PVH entry note: give one that has, or a bzImage (vmlinuz)"
    )]
    Multiboot {
        /// The kernel.
        name: String,
        /// Which protocol.
        protocol: &'static str,
    },
    /// It cannot be where it wants to be.
    #[error("kernel {name} does not fit: it wants guest RAM from {start:#x} to {end:#x}, {why}")]
    KernelDoesNotFit {
        /// The kernel.
        name: String,
        /// Its first byte.
        start: u64,
        /// The byte after its last.
        end: u64,
        /// What is there, and what to do.
        why: Misfit,
    },
    /// Its headers contradict themselves.
    #[error("kernel {name} is damaged: {what}; build or copy it again")]
    Damaged {
        /// The kernel.
        name: String,
        /// What was found.
        what: String,
    },
    /// The initrd does not fit.
    #[error("initrd {name} of {size} does not fit between the kernel's end at {start:#x} and {limit:#x}: {}", initrd_advice(*.more), size = format_size(*.bytes as u64))]
    InitrdDoesNotFit {
        /// The initrd.
        name: String,
        /// Its length.
        bytes: usize,
        /// Where the kernel ends.
        start: u64,
        /// What it must end below: where low RAM ends, or what the kernel's header says.
        limit: u64,
        /// The bytes of RAM with which it would fit, if there are.
        more: Option<u64>,
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
    /// More devices than there is room to describe.
    #[error("the ACPI tables of {bytes} bytes do not fit into the {limit} bytes kept for them; use fewer devices")]
    AcpiTooLong {
        /// Their length.
        bytes: u64,
        /// How long they may be.
        limit: u64,
    },
    /// Guest RAM cannot be written.
    #[error("boot data cannot be written into guest RAM")]
    Memory(#[from] GuestMemoryError),
    /// The boot parameters cannot be written.
    #[error("the PVH start info cannot be written into guest RAM")]
    StartInfo(#[source] linux_loader::configurator::Error),
}

fn initrd_advice(more: Option<u64>) -> String {
    more.map_or_else(
        || "no --memory helps; use a smaller one".into(),
        |bytes| format!("use --memory {}M or more", bytes >> 20),
    )
}
