//! One VM: memory slots, interrupt chips, timer and clock.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CLOCK_REALTIME, KVM_DIRTY_LOG_INITIALLY_SET,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_MEM_LOG_DIRTY_PAGES, KVM_PIT_SPEAKER_DUMMY, kvm_clock_data,
    kvm_enable_cap, kvm_irqchip, kvm_pit_config, kvm_pit_state2, kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, VmFd};
use nix::sys::eventfd::EventFd;

use super::raw::zeroed;
use super::{Capabilities, GuestRam, KvmError, ManualProtect, VcpuHandle};

/// Four pages below 4 GiB for the real mode of processors that cannot do it themselves, out of the
/// way of RAM and devices: the identity map, then the TSS of three pages
/// (Documentation/virt/kvm/api.rst).
const IDENTITY_MAP: u64 = 0xfffb_c000;
const TSS: usize = 0xfffb_d000;

/// A VM of KVM.
pub struct Vm {
    pub(super) fd: VmFd,
    capabilities: Capabilities,
}

impl Vm {
    pub(super) fn new(fd: VmFd, capabilities: Capabilities) -> Result<Self, KvmError> {
        fd.set_identity_map_address(IDENTITY_MAP).map_err(KvmError::ioctl("KVM_SET_IDENTITY_MAP_ADDR"))?;
        fd.set_tss_address(TSS).map_err(KvmError::ioctl("KVM_SET_TSS_ADDR"))?;
        fd.create_irq_chip().map_err(KvmError::ioctl("KVM_CREATE_IRQCHIP"))?;
        let timer = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(timer).map_err(KvmError::ioctl("KVM_CREATE_PIT2"))?;
        let vm = Self { fd, capabilities };
        vm.enable_manual_protect()?;
        Ok(vm)
    }

    /// What the host's KVM can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn enable_manual_protect(&self) -> Result<(), KvmError> {
        let flags = match self.capabilities.manual_protect {
            ManualProtect::No => return Ok(()),
            ManualProtect::Yes => KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
            ManualProtect::InitiallySet => KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET,
        };
        let cap = kvm_enable_cap {
            cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
            args: [flags.into(), 0, 0, 0],
            ..Default::default()
        };
        self.fd.enable_cap(&cap).map_err(KvmError::ioctl("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2"))
    }

    /// Shows `ram` to the guest, block by block, each in the slot of its number; with `logged`,
    /// writes to it are logged. May be called again to switch the log.
    pub fn map(&self, ram: &GuestRam, logged: bool) -> Result<(), KvmError> {
        for (slot, range) in ram.ranges().iter().enumerate() {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: if logged { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
                guest_phys_addr: range.guest_address,
                memory_size: range.bytes,
                userspace_addr: ram.host_address(slot),
            };
            // SAFETY: The mapping behind the range lives as long as `ram`, which the machine drops
            // after the VM and its vCPUs; vm-memory hands out only volatile accesses to it.
            unsafe { self.fd.set_user_memory_region(region) }.map_err(KvmError::ioctl("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }

    /// A new vCPU with the APIC id `index`.
    pub fn create_vcpu(&self, index: u8) -> Result<VcpuHandle, KvmError> {
        let fd = self.fd.create_vcpu(index.into()).map_err(KvmError::ioctl("KVM_CREATE_VCPU"))?;
        Ok(VcpuHandle::new(fd, &self.capabilities))
    }

    /// Raises and lowers an interrupt line. Unlike an irqfd, whose work is done later by the
    /// kernel, the edge is in the interrupt controllers when this returns, and so in their saved
    /// state.
    pub fn pulse_irq(&self, line: u32) -> Result<(), KvmError> {
        self.set_irq(line, true)?;
        self.set_irq(line, false)
    }

    /// Sets the level of an interrupt line. Done when this returns.
    pub fn set_irq(&self, line: u32, level: bool) -> Result<(), KvmError> {
        self.fd.set_irq_line(line, level).map_err(KvmError::ioctl("KVM_IRQ_LINE"))
    }

    /// Has every write to `notification` raise the edge-triggered line `gsi` (an irqfd). The kernel
    /// does so a little later.
    pub fn interrupt_by(&self, notification: &EventFd, gsi: u32) -> Result<(), KvmError> {
        self.fd.register_irqfd(&borrowed(notification), gsi).map_err(KvmError::ioctl("KVM_IRQFD"))
    }

    /// Has a guest's write of the four bytes `value` to `address` count up `notification`, without
    /// an exit to this process (an ioeventfd).
    pub fn notify_by(&self, notification: &EventFd, address: u64, value: u32) -> Result<(), KvmError> {
        self.fd
            .register_ioevent(&borrowed(notification), &IoEventAddress::Mmio(address), value)
            .map_err(KvmError::ioctl("KVM_IOEVENTFD"))
    }

    /// Chip `id`'s state: 0 and 1 are the two PICs, 2 is the I/O APIC.
    pub fn irqchip(&self, id: u32) -> Result<kvm_irqchip, KvmError> {
        let mut chip = kvm_irqchip { chip_id: id, ..zeroed() };
        self.fd.get_irqchip(&mut chip).map_err(KvmError::ioctl("KVM_GET_IRQCHIP"))?;
        Ok(chip)
    }

    /// Sets the state of the chip that `chip` names.
    pub fn set_irqchip(&self, chip: &kvm_irqchip) -> Result<(), KvmError> {
        self.fd.set_irqchip(chip).map_err(KvmError::ioctl("KVM_SET_IRQCHIP"))
    }

    /// The timer's state.
    pub fn pit(&self) -> Result<kvm_pit_state2, KvmError> {
        self.fd.get_pit2().map_err(KvmError::ioctl("KVM_GET_PIT2"))
    }

    /// Sets the timer's state.
    pub fn set_pit(&self, state: &kvm_pit_state2) -> Result<(), KvmError> {
        self.fd.set_pit2(state).map_err(KvmError::ioctl("KVM_SET_PIT2"))
    }

    /// kvmclock now.
    pub fn clock(&self) -> Result<kvm_clock_data, KvmError> {
        self.fd.get_clock().map_err(KvmError::ioctl("KVM_GET_CLOCK"))
    }

    /// Sets kvmclock to `nanoseconds`; where `realtime` (wall clock in nanoseconds) is given, to
    /// that plus what has passed since. `realtime` needs [`Capabilities::clock_realtime`].
    pub fn set_clock(&self, nanoseconds: u64, realtime: Option<u64>) -> Result<(), KvmError> {
        let clock = kvm_clock_data {
            clock: nanoseconds,
            flags: realtime.map_or(0, |_| KVM_CLOCK_REALTIME),
            realtime: realtime.unwrap_or(0),
            ..Default::default()
        };
        self.fd.set_clock(&clock).map_err(KvmError::ioctl("KVM_SET_CLOCK"))
    }
}

/// The descriptor in the type that `kvm-ioctls` asks for. Not closed when dropped.
fn borrowed(notification: &EventFd) -> ManuallyDrop<vmm_sys_util::eventfd::EventFd> {
    let fd = notification.as_fd().as_raw_fd();
    // SAFETY: The descriptor is an eventfd, and is only used while `notification` is borrowed; it
    // is not closed.
    ManuallyDrop::new(unsafe { vmm_sys_util::eventfd::EventFd::from_raw_fd(fd) })
}
