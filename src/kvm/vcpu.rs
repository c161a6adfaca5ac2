//! One vCPU: running it, its exits, its registers.

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_IO, KVM_SYSTEM_EVENT_RESET, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, Msrs,
    kvm_cpuid_entry2, kvm_debugregs, kvm_device_attr, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_run,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::{Capabilities, Kick, KvmError};

nix::ioctl_read!(ioctl_get_xsave, KVMIO, 0xa4, kvm_xsave);
nix::ioctl_read!(ioctl_get_xsave2, KVMIO, 0xcf, kvm_xsave);
nix::ioctl_write_ptr!(ioctl_set_xsave, KVMIO, 0xa5, kvm_xsave);
nix::ioctl_write_ptr!(ioctl_set_device_attr, KVMIO, 0xe1, kvm_device_attr);
nix::ioctl_write_ptr!(ioctl_get_device_attr, KVMIO, 0xe2, kvm_device_attr);
nix::ioctl_write_ptr!(ioctl_has_device_attr, KVMIO, 0xe3, kvm_device_attr);

/// Why the guest was left.
#[derive(Debug)]
pub enum Exit<'a> {
    /// A signal or `immediate_exit`: nothing is pending in the vCPU.
    Interrupted,
    /// Reads from a port: `data` is to be filled, `size` bytes an access.
    IoIn {
        /// The port.
        port: u16,
        /// Bytes of one access: 1, 2 or 4.
        size: usize,
        /// All accesses (a string instruction does several).
        data: &'a mut [u8],
    },
    /// Writes to a port.
    IoOut {
        /// The port.
        port: u16,
        /// Bytes of one access: 1, 2 or 4.
        size: usize,
        /// All accesses.
        data: &'a [u8],
    },
    /// A read from guest-physical memory that nothing backs.
    MmioRead {
        /// The guest-physical address.
        address: u64,
        /// To be filled.
        data: &'a mut [u8],
    },
    /// A write to guest-physical memory that nothing backs.
    MmioWrite {
        /// The guest-physical address.
        address: u64,
        /// What was written.
        data: &'a [u8],
    },
    /// The guest asks to be reset.
    ResetRequest,
    /// The guest powers off.
    PowerOff,
    /// A triple fault.
    TripleFault,
    /// KVM gives up on the guest; the text says why.
    Fatal(String),
    /// An exit that needs no answer.
    Ignored,
}

/// A vCPU of KVM.
pub struct VcpuHandle {
    fd: VcpuFd,
    run: *mut kvm_run,
    xsave: Vec<u8>,
    xsave2: bool,
    tsc_offset: bool,
}

// SAFETY: `run` points into the mapping that `fd` owns; it is only used through `&mut self`.
unsafe impl Send for VcpuHandle {}

impl VcpuHandle {
    pub(super) fn new(mut fd: VcpuFd, capabilities: &Capabilities) -> Self {
        let run = std::ptr::from_mut(fd.get_kvm_run());
        let mut vcpu =
            Self { fd, run, xsave: vec![0; capabilities.xsave_size], xsave2: capabilities.xsave2, tsc_offset: false };
        let attribute = tsc_offset_attribute(0);
        // SAFETY: The kernel only looks whether it knows the attribute; it does not follow the
        // address.
        let known = unsafe { ioctl_has_device_attr(vcpu.fd.as_raw_fd(), &attribute) };
        vcpu.tsc_offset = known.is_ok();
        vcpu
    }

    /// The handle by which other threads interrupt this vCPU; valid while this vCPU exists.
    pub fn kick(&self) -> Kick {
        // SAFETY: `run` is valid while `fd` lives; `vcpu::Vcpu` owns both and drops the kick with
        // the vCPU.
        unsafe { Kick::new(&raw mut (*self.run).immediate_exit) }
    }

    /// Runs the guest until something needs the monitor.
    pub fn run(&mut self) -> Result<Exit<'_>, KvmError> {
        let run = self.run;
        match self.fd.run() {
            Ok(exit) => Ok(translate(exit, run)),
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => Ok(Exit::Interrupted),
                errno => Err(KvmError::Ioctl { call: "KVM_RUN", source: io::Error::from_raw_os_error(errno) }),
            },
        }
    }

    /// What CPUID shows; refused by KVM once the vCPU ran, unless it is the same.
    pub fn set_cpuid(&self, entries: &[kvm_cpuid_entry2]) -> Result<(), KvmError> {
        let cpuid = kvm_bindings::CpuId::from_entries(entries)
            .map_err(|_| KvmError::Lacking("room for that many CPUID leaves"))?;
        self.fd.set_cpuid2(&cpuid).map_err(KvmError::ioctl("KVM_SET_CPUID2"))
    }

    /// Reads MSRs into `entries`; the result is how many were read before the first that could not
    /// be.
    pub fn msrs(&self, entries: &mut [kvm_msr_entry]) -> Result<usize, KvmError> {
        let mut msrs = Msrs::from_entries(entries).map_err(|_| KvmError::Lacking("room for that many MSRs"))?;
        let count = self.fd.get_msrs(&mut msrs).map_err(KvmError::ioctl("KVM_GET_MSRS"))?;
        entries.copy_from_slice(msrs.as_slice());
        Ok(count)
    }

    /// Writes MSRs; the result is how many were written before the first that was refused.
    pub fn set_msrs(&self, entries: &[kvm_msr_entry]) -> Result<usize, KvmError> {
        let msrs = Msrs::from_entries(entries).map_err(|_| KvmError::Lacking("room for that many MSRs"))?;
        self.fd.set_msrs(&msrs).map_err(KvmError::ioctl("KVM_SET_MSRS"))
    }

    /// The XSAVE area.
    pub fn xsave(&mut self) -> Result<&[u8], KvmError> {
        let area = self.xsave.as_mut_ptr().cast();
        let fd = self.fd.as_raw_fd();
        if self.xsave2 {
            // SAFETY: The area is as long as KVM_CAP_XSAVE2 says, which is what the kernel writes.
            unsafe { ioctl_get_xsave2(fd, area) }.map_err(KvmError::errno("KVM_GET_XSAVE2"))?;
        } else {
            // SAFETY: The area is at least the 4096 bytes of a kvm_xsave.
            unsafe { ioctl_get_xsave(fd, area) }.map_err(KvmError::errno("KVM_GET_XSAVE"))?;
        }
        Ok(&self.xsave)
    }

    /// Sets the XSAVE area. One from another host may be shorter or longer than this host's;
    /// components that do not fit are ones that the guest's CPUID does not show.
    pub fn set_xsave(&mut self, area: &[u8]) -> Result<(), KvmError> {
        let (kept, beyond) = area.split_at(area.len().min(self.xsave.len()));
        if beyond.iter().any(|byte| *byte != 0) {
            return Err(KvmError::Lacking("room for the guest's extended registers (XSAVE)"));
        }
        self.xsave.fill(0);
        self.xsave[..kept.len()].copy_from_slice(kept);
        // SAFETY: The area is as long as the kernel reads: KVM_CAP_XSAVE2's size, or 4096 bytes.
        unsafe { ioctl_set_xsave(self.fd.as_raw_fd(), self.xsave.as_ptr().cast()) }
            .map_err(KvmError::errno("KVM_SET_XSAVE"))?;
        Ok(())
    }

    /// Whether KVM tells and takes the guest TSC's offset from the host's.
    pub fn has_tsc_offset(&self) -> bool {
        self.tsc_offset
    }

    /// The guest TSC's offset from the host's, where KVM tells it.
    pub fn tsc_offset(&self) -> Result<Option<u64>, KvmError> {
        if !self.tsc_offset {
            return Ok(None);
        }
        let mut offset = 0u64;
        let attribute = tsc_offset_attribute(std::ptr::from_mut(&mut offset) as u64);
        // SAFETY: The attribute's address is that of `offset`, which the kernel fills with eight
        // bytes.
        unsafe { ioctl_get_device_attr(self.fd.as_raw_fd(), &attribute) }
            .map_err(KvmError::errno("KVM_GET_DEVICE_ATTR for the TSC offset"))?;
        Ok(Some(offset))
    }

    /// Sets the guest TSC's offset from the host's. Only where [`Self::tsc_offset`] tells one.
    pub fn set_tsc_offset(&self, offset: u64) -> Result<(), KvmError> {
        let attribute = tsc_offset_attribute(std::ptr::from_ref(&offset) as u64);
        // SAFETY: The attribute's address is that of `offset`, from which the kernel reads eight
        // bytes.
        unsafe { ioctl_set_device_attr(self.fd.as_raw_fd(), &attribute) }
            .map_err(KvmError::errno("KVM_SET_DEVICE_ATTR for the TSC offset"))?;
        Ok(())
    }

    /// The guest TSC's frequency in kHz.
    pub fn tsc_khz(&self) -> Result<u32, KvmError> {
        self.fd.get_tsc_khz().map_err(KvmError::ioctl("KVM_GET_TSC_KHZ"))
    }

    /// Sets the guest TSC's frequency.
    pub fn set_tsc_khz(&self, khz: u32) -> Result<(), KvmError> {
        self.fd.set_tsc_khz(khz).map_err(KvmError::ioctl("KVM_SET_TSC_KHZ"))
    }

    /// Tells a guest that uses kvmclock that it was paused, so that its watchdogs do not bark. A
    /// guest that does not use kvmclock needs no telling, and KVM says so with an error that means
    /// nothing.
    pub fn announce_pause(&self) {
        let _ = self.fd.kvmclock_ctrl();
    }
}

macro_rules! registers {
    ($($get:ident $set:ident $get_fd:ident $set_fd:ident $type:ty, $get_call:literal $set_call:literal, $what:literal;)*) => {
        impl VcpuHandle {$(
            #[doc = concat!("Reads ", $what, ".")]
            pub fn $get(&self) -> Result<$type, KvmError> {
                self.fd.$get_fd().map_err(KvmError::ioctl($get_call))
            }
            #[doc = concat!("Sets ", $what, ".")]
            pub fn $set(&self, value: &$type) -> Result<(), KvmError> {
                self.fd.$set_fd(value).map_err(KvmError::ioctl($set_call))
            }
        )*}
    };
}

registers! {
    regs set_regs get_regs set_regs kvm_regs, "KVM_GET_REGS" "KVM_SET_REGS", "the general registers";
    sregs set_sregs get_sregs set_sregs kvm_sregs, "KVM_GET_SREGS" "KVM_SET_SREGS", "segment and control registers";
    xcrs set_xcrs get_xcrs set_xcrs kvm_xcrs, "KVM_GET_XCRS" "KVM_SET_XCRS", "extended control registers";
    debugregs set_debugregs get_debug_regs set_debug_regs kvm_debugregs, "KVM_GET_DEBUGREGS" "KVM_SET_DEBUGREGS", "debug registers";
    lapic set_lapic get_lapic set_lapic kvm_lapic_state, "KVM_GET_LAPIC" "KVM_SET_LAPIC", "the local interrupt controller";
    events set_events get_vcpu_events set_vcpu_events kvm_vcpu_events, "KVM_GET_VCPU_EVENTS" "KVM_SET_VCPU_EVENTS", "pending events";
}

impl VcpuHandle {
    /// Whether the vCPU runs, halts or waits to be started.
    pub fn mp_state(&self) -> Result<kvm_mp_state, KvmError> {
        self.fd.get_mp_state().map_err(KvmError::ioctl("KVM_GET_MP_STATE"))
    }

    /// Sets whether the vCPU runs, halts or waits to be started.
    pub fn set_mp_state(&self, state: kvm_mp_state) -> Result<(), KvmError> {
        self.fd.set_mp_state(state).map_err(KvmError::ioctl("KVM_SET_MP_STATE"))
    }
}

/// The attribute KVM_VCPU_TSC_OFFSET (Documentation/virt/kvm/devices/vcpu.rst), its value at
/// `address`.
fn tsc_offset_attribute(address: u64) -> kvm_device_attr {
    kvm_device_attr { flags: 0, group: KVM_VCPU_TSC_CTRL, attr: KVM_VCPU_TSC_OFFSET.into(), addr: address }
}

/// The exit in our words. `run` is the vCPU's shared page.
fn translate(exit: VcpuExit<'_>, run: *mut kvm_run) -> Exit<'_> {
    match exit {
        VcpuExit::IoIn(port, data) => Exit::IoIn { port, size: access_size(run), data },
        VcpuExit::IoOut(port, data) => Exit::IoOut { port, size: access_size(run), data },
        VcpuExit::MmioRead(address, data) => Exit::MmioRead { address, data },
        VcpuExit::MmioWrite(address, data) => Exit::MmioWrite { address, data },
        VcpuExit::Intr => Exit::Interrupted,
        VcpuExit::Hlt | VcpuExit::IrqWindowOpen | VcpuExit::SetTpr => Exit::Ignored,
        VcpuExit::Shutdown => Exit::TripleFault,
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => Exit::ResetRequest,
        VcpuExit::SystemEvent(..) => Exit::PowerOff,
        VcpuExit::FailEntry(reason, cpu) => {
            Exit::Fatal(format!("the processor refuses to enter the guest on CPU {cpu}, reason {reason:#x}"))
        }
        VcpuExit::InternalError => Exit::Fatal(internal_error(run)),
        other => Exit::Fatal(format!("KVM left the guest with {other:?}")),
    }
}

/// How wide each access of an I/O exit is. `kvm-ioctls` hands out only the product with the count,
/// which cannot tell two bytes written to one port from one word.
fn access_size(run: *mut kvm_run) -> usize {
    // SAFETY: `run` is mapped while the vCPU exists; the union holds `io` when the exit is an I/O
    // exit.
    unsafe {
        debug_assert_eq!((*run).exit_reason, KVM_EXIT_IO);
        usize::from((*run).__bindgen_anon_1.io.size).max(1)
    }
}

/// What KVM says about an internal error.
fn internal_error(run: *mut kvm_run) -> String {
    // SAFETY: `run` is mapped while the vCPU exists; the union holds `internal` for an internal
    // error.
    let internal = unsafe {
        debug_assert_eq!((*run).exit_reason, KVM_EXIT_INTERNAL_ERROR);
        (*run).__bindgen_anon_1.internal
    };
    let count = (internal.ndata as usize).min(internal.data.len());
    let what = match internal.suberror {
        1 => "an instruction that KVM cannot emulate",
        2 => "two exceptions at once",
        3 => "an event that could not be delivered",
        _ => "an internal error",
    };
    format!("KVM met {what} (suberror {}, data {:x?})", internal.suberror, &internal.data[..count])
}
