//! [`Backend`]: what a kind of device must do. Everything else is the same for all of them.

use std::error::Error;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::worker_gate::WorkerGate;
use super::{ConfigSpace, Ring, WorkerEvents};
use crate::kvm::GuestMemory;
use crate::state::StateError;
use crate::state::layout::Field;

/// What kind of device it is; constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The device's number in the specification (section 5).
    pub id: u32,
    /// Its name in saved state, such as `virtio-rng`.
    pub name: &'static str,
    /// The version of the layout of [`Backend::save`], 1 to 255.
    pub version: u8,
    /// The largest size of each of its queues: powers of two.
    pub queues: &'static [u16],
}

/// The driver broke the protocol: a ring or a request makes no sense, so that nothing on it can be
/// trusted any more. The device tells the driver that it needs a reset, and does nothing until
/// then.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub String);

/// What a backend works with while it serves something.
pub struct Work<'a> {
    /// Guest RAM. Writes through it are noted for a migration.
    pub memory: &'a GuestMemory,
    /// The queues, as many as [`Kind::queues`] says. One that the driver did not set up is empty
    /// for ever.
    pub rings: &'a mut [Ring],
    /// Which of the backend's descriptors are listened to.
    pub watch: &'a WorkerEvents,
    /// What the driver sees behind the registers.
    pub config: &'a ConfigSpace,
    /// What may take the host long is done through it.
    pub host: Host<'a>,
}

/// Who wants a device to stand still waits for the host longer than for a page of a migration,
/// which may never come.
#[derive(Clone, Copy)]
pub struct Host<'a>(pub(super) &'a WorkerGate);

impl Host<'_> {
    /// Runs `work`, a flush for example, which touches no guest RAM.
    pub fn run<R>(self, work: impl FnOnce() -> R) -> R {
        self.0.at_host(work)
    }
}

/// A kind of device, as its worker's thread drives it. All calls come one after the other; while
/// one of them lasts nothing else of the device happens, so it must not wait for anything but guest
/// RAM and what it drives. The parts that other threads need (a monitor's commands) are the
/// backend's own business; its descriptor wakes the worker.
pub trait Backend: Send {
    /// What it is.
    fn kind(&self) -> Kind;

    /// The feature bits that are offered, without those of the transport and the ring, which
    /// [`super::VirtioDevice`] adds.
    fn features(&self) -> u64;

    /// What the driver reads behind the registers; changes are made through it at any time.
    fn config(&self) -> Arc<ConfigSpace>;

    /// The driver wrote something behind the registers, where [`ConfigSpace::with_writable`] lets
    /// it; it stands there already. Called on a vCPU's thread, with the worker parked; nothing by
    /// default.
    fn config_written(&mut self) {}

    /// The descriptors that it wants to be woken by, beside its queues; constant. The worker
    /// listens to all of them at first.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// The driver is ready and took `features` of those that were offered. After a load, too.
    fn start(&mut self, _features: u64) {}

    /// The driver let go: back to how it was when the machine was switched on.
    fn reset(&mut self) {}

    /// The machine goes on after it stood still, or begins; the driver may or may not be ready.
    fn resumed(&mut self, _work: &mut Work<'_>) -> Result<(), Broken> {
        Ok(())
    }

    /// Queue `index` may have something. Called more often than it has.
    fn queue_ready(&mut self, index: usize, work: &mut Work<'_>) -> Result<(), Broken>;

    /// Descriptor `index` of [`Self::descriptors`] is readable.
    fn descriptor_ready(&mut self, _index: usize, _work: &mut Work<'_>) -> Result<(), Broken> {
        Ok(())
    }

    /// Its own state, beside that of transport and queues.
    fn save(&self) -> Vec<u8>;

    /// What [`Self::save`] writes, for tools that take it apart: each field by the name that
    /// [`Self::load`] has for it.
    fn layout(&self) -> &'static [Field];

    /// Takes what [`Self::save`] gave, in the layout `version`.
    fn load(&mut self, version: u8, bytes: &[u8]) -> Result<(), StateError>;

    /// The guest leaves: makes everything durable and gives up what only one host may have.
    /// Idempotent.
    fn release(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }

    /// The guest stays or arrives: takes (again) what only one host may have. Idempotent.
    fn acquire(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }
}
