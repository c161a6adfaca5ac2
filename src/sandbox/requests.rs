//! Numbers of `ioctl` requests, as linux/kvm.h, linux/userfaultfd.h, linux/if_tun.h, linux/fs.h and
//! asm-generic/ioctls.h have them.

use kvm_bindings::{
    KVMIO, kvm_clear_dirty_log, kvm_clock_data, kvm_cpuid2, kvm_debugregs, kvm_device_attr, kvm_dirty_log,
    kvm_irq_level, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msrs, kvm_pit_state2, kvm_regs, kvm_sregs,
    kvm_userspace_memory_region, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};

const NONE: u64 = 0;
const WRITE: u64 = 1;
const READ: u64 = 2;
const BOTH: u64 = 3;

const fn number(direction: u64, kind: u64, number: u64, size: usize) -> u64 {
    direction << 30 | (size as u64) << 16 | kind << 8 | number
}

const fn kvm<T>(direction: u64, call: u64) -> u64 {
    number(direction, KVMIO as u64, call, size_of::<T>())
}

pub const KVM_RUN: u64 = kvm::<()>(NONE, 0x80);
pub const KVM_GET_DIRTY_LOG: u64 = kvm::<kvm_dirty_log>(WRITE, 0x42);
pub const KVM_CLEAR_DIRTY_LOG: u64 = kvm::<kvm_clear_dirty_log>(BOTH, 0xc0);
pub const KVM_SET_USER_MEMORY_REGION: u64 = kvm::<kvm_userspace_memory_region>(WRITE, 0x46);
pub const KVM_GET_REGS: u64 = kvm::<kvm_regs>(READ, 0x81);
pub const KVM_GET_SREGS: u64 = kvm::<kvm_sregs>(READ, 0x83);
pub const KVM_GET_MSRS: u64 = kvm::<kvm_msrs>(BOTH, 0x88);
pub const KVM_IRQ_LINE: u64 = kvm::<kvm_irq_level>(WRITE, 0x61);
pub const KVM_GET_VCPU_EVENTS: u64 = kvm::<kvm_vcpu_events>(READ, 0x9f);
pub const KVM_GET_LAPIC: u64 = kvm::<kvm_lapic_state>(READ, 0x8e);
pub const KVM_GET_MP_STATE: u64 = kvm::<kvm_mp_state>(READ, 0x98);
pub const KVM_GET_DEBUGREGS: u64 = kvm::<kvm_debugregs>(READ, 0xa1);
pub const KVM_GET_XCRS: u64 = kvm::<kvm_xcrs>(READ, 0xa6);

/// What a machine that is built already still asks of KVM: running, state, the dirty log. Nothing
/// that makes a VM, a vCPU or a device, or ties an event to one.
pub const KVM: [u64; 36] = [
    KVM_RUN,
    KVM_IRQ_LINE,
    KVM_GET_DIRTY_LOG,
    KVM_CLEAR_DIRTY_LOG,
    KVM_SET_USER_MEMORY_REGION,
    KVM_GET_REGS,
    kvm::<kvm_regs>(WRITE, 0x82),
    KVM_GET_SREGS,
    kvm::<kvm_sregs>(WRITE, 0x84),
    KVM_GET_MSRS,
    kvm::<kvm_msrs>(WRITE, 0x89),
    KVM_GET_LAPIC,
    kvm::<kvm_lapic_state>(WRITE, 0x8f),
    kvm::<kvm_cpuid2>(WRITE, 0x90),
    KVM_GET_MP_STATE,
    kvm::<kvm_mp_state>(WRITE, 0x99),
    KVM_GET_VCPU_EVENTS,
    kvm::<kvm_vcpu_events>(WRITE, 0xa0),
    KVM_GET_DEBUGREGS,
    kvm::<kvm_debugregs>(WRITE, 0xa2),
    kvm::<kvm_xsave>(READ, 0xa4),
    kvm::<kvm_xsave>(WRITE, 0xa5),
    kvm::<kvm_xsave>(READ, 0xcf),
    KVM_GET_XCRS,
    kvm::<kvm_xcrs>(WRITE, 0xa7),
    kvm::<()>(NONE, 0xa3),
    kvm::<()>(NONE, 0xa2),
    kvm::<()>(NONE, 0xad),
    kvm::<kvm_device_attr>(WRITE, 0xe1),
    kvm::<kvm_device_attr>(WRITE, 0xe2),
    kvm::<kvm_irqchip>(BOTH, 0x62),
    kvm::<kvm_irqchip>(READ, 0x63),
    kvm::<kvm_pit_state2>(READ, 0x9f),
    kvm::<kvm_pit_state2>(WRITE, 0xa0),
    kvm::<kvm_clock_data>(READ, 0x7c),
    kvm::<kvm_clock_data>(WRITE, 0x7b),
];

const fn uffd(direction: u64, call: u64, bytes: usize) -> u64 {
    number(direction, 0xaa, call, bytes)
}

/// Filling and waking, the most frequent first.
pub const UFFD_PLACE: [u64; 4] = [
    uffd(BOTH, 0x03, 40), // UFFDIO_COPY
    uffd(BOTH, 0x05, 40), // UFFDIO_MOVE
    uffd(READ, 0x02, 16), // UFFDIO_WAKE
    uffd(BOTH, 0x04, 32), // UFFDIO_ZEROPAGE
];

/// Opening one, and which memory it watches.
pub const UFFD_SET_UP: [u64; 4] = [
    uffd(NONE, 0x00, 0),  // USERFAULTFD_IOC_NEW
    uffd(BOTH, 0x3f, 24), // UFFDIO_API
    uffd(BOTH, 0x00, 32), // UFFDIO_REGISTER
    uffd(READ, 0x01, 16), // UFFDIO_UNREGISTER
];
pub const UFFDIO_UNREGISTER: u64 = UFFD_SET_UP[3];
pub const UFFDIO_WAKE: u64 = UFFD_PLACE[2];
/// Protecting guest RAM against writes, and letting go of it.
pub const UFFDIO_WRITEPROTECT: u64 = uffd(BOTH, 0x06, 24);

/// What the guest takes off the host's hands; one that attaches an interface is not among them.
pub const TUNSETOFFLOAD: u64 = number(WRITE, b'T' as u64, 208, 4);

/// Sizes of a block device.
pub const BLOCK: [u64; 2] = [number(READ, 0x12, 114, 8), libc::BLKSSZGET];

/// A terminal's settings, in both forms that C libraries use. Not among them: TIOCSTI, which types
/// into it.
pub const TERMINAL: [u64; 8] = [
    0x5401,      // TCGETS
    0x5402,      // TCSETS
    0x5403,      // TCSETSW
    0x5404,      // TCSETSF
    0x802c_542a, // TCGETS2
    0x402c_542b, // TCSETS2
    0x402c_542c, // TCSETSW2
    0x402c_542d, // TCSETSF2
];

pub const FIONBIO: u64 = 0x5421;
pub const FIONREAD: u64 = 0x541b;

#[cfg(test)]
mod tests {
    use super::*;

    /// As strace and the kernel's headers show them.
    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!((KVM_RUN, KVM_GET_REGS, KVM_IRQ_LINE), (0xae80, 0x8090_ae81, 0x4008_ae61));
        assert_eq!(KVM_GET_MSRS, 0xc008_ae88);
        assert_eq!(UFFD_PLACE[0], 0xc028_aa03);
        assert_eq!(UFFDIO_WRITEPROTECT, 0xc018_aa06);
        assert_eq!(UFFD_SET_UP, [0xaa00, 0xc018_aa3f, 0xc020_aa00, 0x8010_aa01]);
        assert_eq!(TUNSETOFFLOAD, libc::TUNSETOFFLOAD);
        assert_eq!(TERMINAL[..2], [libc::TCGETS, libc::TCSETS]);
        assert_eq!((FIONBIO, FIONREAD), (libc::FIONBIO, libc::FIONREAD));
    }
}
