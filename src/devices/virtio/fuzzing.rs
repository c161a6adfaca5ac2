//! A device without a virtual machine and without a thread, for `tests/fuzz`: whatever the worker
//! would do is done by the caller.

use std::io;
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::device::Inner;
use super::worker::Event;
use super::{Backend, Broken, VirtioDevice, VirtioError};
use crate::devices::Device;
use crate::kvm::GuestRam;

/// See the module's text.
pub struct Bench {
    device: Arc<VirtioDevice>,
    queues: usize,
}

impl Bench {
    /// The device that `backend` makes, as it is when the machine is switched on.
    pub fn new(backend: Box<dyn Backend>, ram: &Arc<GuestRam>) -> Result<Self, VirtioError> {
        let queues = backend.kind().queues.len();
        let line = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).map_err(io::Error::from)?;
        let device = VirtioDevice::detached(backend, 0, Arc::new(line), ram)?;
        device.gate().stand_still();
        device.thaw();
        Ok(Self { device, queues })
    }

    /// For its registers, its saved state, and having it stand still.
    pub fn device(&self) -> &Arc<VirtioDevice> {
        &self.device
    }

    /// How many queues it has.
    pub fn queues(&self) -> usize {
        self.queues
    }

    /// What the worker does when the machine goes on.
    pub fn resume(&self) {
        self.step(Inner::resume);
    }

    /// What the worker does when the driver notifies of a queue.
    pub fn serve_queue(&self, index: usize) {
        self.step(|inner| inner.serve(Event::Queue(index)));
    }

    /// What the worker does when a descriptor of the backend is readable.
    pub fn serve_descriptor(&self, index: usize) {
        self.step(|inner| inner.serve(Event::Descriptor(index)));
    }

    /// Whether the driver is told to reset the device.
    pub fn needs_reset(&self) -> bool {
        const NEEDS_RESET: u32 = 64;
        let mut status = [0; 4];
        self.device.read(super::registers::offset::STATUS, &mut status);
        u32::from_le_bytes(status) & NEEDS_RESET != 0
    }

    fn step(&self, step: impl FnOnce(&mut Inner) -> Result<(), Broken>) {
        let mut inner = self.device.inner();
        if let Err(broken) = step(&mut inner) {
            self.device.demand_reset(&mut inner, &broken);
        }
    }
}
