//! [`VirtioDevice`]: one device on the bus, and its saved state.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::sys::eventfd::{EfdFlags, EventFd};
use virtio_queue::QueueState;

use super::backend::Host;
use super::log_ratelimit::LogRateLimit;
use super::registers::{Effect, INDIRECT, Outside, Registers, offset};
use super::signal::Signal;
use super::worker::{self, Event};
use super::worker_gate::{Holder, WorkerGate};
use super::{Backend, Broken, ConfigSpace, Kind, Ring, Work, WorkerEvents};
use crate::devices::{Action, Device, SavedDevice};
use crate::kvm::{GuestRam, KvmError, Vm};
use crate::state::layout::{Count, Field, Type};
use crate::state::{StateError, StateReader, StateWriter};

/// Why a device cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum VirtioError {
    /// The host gives no descriptor or thread.
    #[error("a virtio device cannot be set up: the host gives no descriptor or thread")]
    Host(#[from] io::Error),
    /// KVM refuses to connect it.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// The layout's version of what [`SavedDevice::save`] writes around the backend's own.
const LAYOUT: u32 = 1;

/// Where a queue stands.
const RING: &[Field] = &[Field("next available", Type::U32), Field("next used", Type::U32)];

/// A virtio device. Its registers belong to the vCPUs, the rest to its worker; a vCPU that must
/// touch the rest parks the worker first.
pub struct VirtioDevice {
    kind: Kind,
    /// How the backend's own state is laid out. Asked for while the worker runs, so it is kept
    /// here.
    own: &'static [Field],
    slot: u32,
    registers: Mutex<Registers>,
    config: Arc<ConfigSpace>,
    signal: Signal,
    gate: Arc<WorkerGate>,
    notifications: Vec<Arc<EventFd>>,
    inner: Mutex<Inner>,
}

/// What the worker works with. Its lock is held by the worker while it is not parked.
pub(super) struct Inner {
    backend: Box<dyn Backend>,
    /// Empty while the driver is not ready.
    rings: Vec<Ring>,
    pub watch: WorkerEvents,
    pub wake: Arc<EventFd>,
    gate: Arc<WorkerGate>,
    pub notifications: Vec<Arc<EventFd>>,
    config: Arc<ConfigSpace>,
    ram: Arc<GuestRam>,
    complaints: LogRateLimit,
}

impl Inner {
    /// Lets the backend do something. A device whose driver is not ready has no queues.
    fn work(&mut self, step: impl FnOnce(&mut dyn Backend, &mut Work<'_>) -> Result<(), Broken>) -> Result<(), Broken> {
        let mut work = Work {
            memory: self.ram.memory(),
            rings: &mut self.rings,
            watch: &self.watch,
            config: &self.config,
            host: Host(&self.gate),
        };
        step(self.backend.as_mut(), &mut work)
    }

    /// The machine goes on: what the driver notified of meanwhile, or on another host, is not
    /// known, so every queue is looked at.
    pub fn resume(&mut self) -> Result<(), Broken> {
        self.work(|backend, work| backend.resumed(work))?;
        (0..self.rings.len()).try_for_each(|index| self.work(|backend, work| backend.queue_ready(index, work)))
    }

    pub fn serve(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Queue(index) if index < self.rings.len() => {
                self.work(|backend, work| backend.queue_ready(index, work))
            }
            Event::Queue(_) => Ok(()),
            Event::Descriptor(index) => self.work(|backend, work| backend.descriptor_ready(index, work)),
        }
    }

    /// Queues as `states` say, with what the driver took.
    fn set_up(&mut self, states: Vec<QueueState>, features: u64, signal: &Signal) -> Result<(), Broken> {
        let memory = self.ram.memory();
        let ring = |state| Ring::new(state, features & INDIRECT != 0, signal.clone(), self.gate.clone(), memory);
        self.rings = states.into_iter().map(ring).collect::<Result<_, _>>()?;
        self.backend.start(features);
        Ok(())
    }
}

impl VirtioDevice {
    /// A device in `slot`, whose registers the caller puts at `address` and whose interrupt is the
    /// line `gsi`. Its worker stands still until [`Self::thaw`].
    pub fn new(
        backend: Box<dyn Backend>,
        slot: u32,
        (address, gsi): (u64, u32),
        vm: &Vm,
        ram: &Arc<GuestRam>,
    ) -> Result<Arc<Self>, VirtioError> {
        let line = descriptor()?;
        vm.interrupt_by(&line, gsi)?;
        let device = Self::detached(backend, slot, line, ram)?;
        for (queue, notification) in (0..).zip(&device.notifications) {
            vm.notify_by(notification, address + offset::QUEUE_NOTIFY, queue)?;
        }
        Ok(device)
    }

    /// A device that no VM knows: interrupts go to `line`, notifications come by its registers
    /// only.
    pub(super) fn detached(
        backend: Box<dyn Backend>,
        slot: u32,
        line: Arc<EventFd>,
        ram: &Arc<GuestRam>,
    ) -> Result<Arc<Self>, VirtioError> {
        let kind = backend.kind();
        let wake = descriptor()?;
        let notifications = kind.queues.iter().map(|_| descriptor()).collect::<io::Result<Vec<_>>>()?;
        let watch = WorkerEvents::new(&wake, &notifications)?;
        for (index, fd) in backend.descriptors().into_iter().enumerate() {
            watch.add_descriptor(index, fd)?;
        }
        let signal = Signal::new(line);
        let gate = Arc::new(WorkerGate::new(wake.clone()));
        let config = backend.config();
        config.connect(signal.clone());
        Ok(Arc::new(Self {
            kind,
            own: backend.layout(),
            slot,
            registers: Mutex::new(Registers::new(kind, backend.features())),
            gate: gate.clone(),
            notifications: notifications.clone(),
            inner: Mutex::new(Inner {
                backend,
                rings: Vec::new(),
                watch,
                wake,
                gate,
                notifications,
                config: config.clone(),
                ram: ram.clone(),
                complaints: LogRateLimit::default(),
            }),
            config,
            signal,
        }))
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Starts the worker, parked.
    pub fn spawn(self: &Arc<Self>) -> io::Result<JoinHandle<()>> {
        worker::spawn(self.clone(), format!("{}{}", self.kind.name.trim_start_matches("virtio-"), self.slot))
    }

    pub(super) fn gate(&self) -> &WorkerGate {
        &self.gate
    }

    /// Waits for ever while the worker runs: have it parked first.
    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn registers(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the worker finish what it is at, without waiting for it.
    pub fn freeze(&self) {
        self.gate.hold(Holder::Machine);
    }

    /// Waits for the worker to stand still after [`Self::freeze`]; `false` if it does not by
    /// `deadline`: it may hang in a page fault that nobody answers.
    pub fn await_frozen(&self, deadline: Instant) -> bool {
        self.gate.await_parked(Some(deadline))
    }

    /// Lets the worker go on. An interrupt that the driver has not seen is sent again.
    pub fn thaw(&self) {
        self.signal.repeat();
        self.gate.release(Holder::Machine);
    }

    /// Ends the worker, without waiting for it.
    pub fn shut(&self) {
        self.gate.shut();
    }

    /// Nothing is done any more until the driver resets the device.
    pub(super) fn demand_reset(&self, inner: &mut Inner, broken: &Broken) {
        // A driver can do this, and reset the device, as fast as it likes.
        if let Some(unsaid) = inner.complaints.say(Instant::now()) {
            log::warn!(
                "{} {}: its driver broke the protocol, it needs a reset: {broken} (was not said {unsaid} times before)",
                self.kind.name,
                self.slot
            );
        }
        inner.rings.clear();
        self.signal.demand_reset();
    }

    /// A vCPU's side: changes what the worker works with, while that is parked.
    fn with_worker_parked(&self, change: impl FnOnce(&mut Inner) -> Result<(), Broken>) {
        self.gate.hold(Holder::Driver);
        if self.gate.await_parked(None) {
            let mut inner = self.inner();
            if let Err(broken) = change(&mut inner) {
                self.demand_reset(&mut inner, &broken);
            }
        }
        self.gate.release(Holder::Driver);
    }

    fn let_go(&self, inner: &mut Inner) {
        inner.rings.clear();
        inner.backend.reset();
        self.signal.set(0, false);
    }

    fn write_register(&self, at: u64, value: u32) {
        let mut registers = self.registers();
        match registers.write(at, value) {
            Effect::None => {}
            Effect::Acknowledge(seen) => self.signal.acknowledge(seen),
            Effect::Notify(queue) => {
                if let Some(notification) = self.notifications.get(queue as usize) {
                    // A full counter notifies as well.
                    let _ = notification.write(1);
                }
            }
            Effect::Start => {
                let (states, features) = (registers.queues(), registers.features());
                self.with_worker_parked(|inner| inner.set_up(states, features, &self.signal));
            }
            Effect::Reset => self.with_worker_parked(|inner| {
                self.let_go(inner);
                Ok(())
            }),
        }
    }

    fn write_config(&self, at: u64, data: &[u8]) {
        // One vCPU at a time changes the device: the first to end would let the worker go while the
        // other still needs it parked.
        let _alone = self.registers();
        if self.config.write(at as usize, data) {
            self.with_worker_parked(|inner| {
                inner.backend.config_written();
                Ok(())
            });
        }
    }

    fn impossible(&self, field: &'static str, value: u64) -> StateError {
        StateError::Value { device: self.kind.name, field, value }
    }

    /// Where each queue stands, after the registers: u32 next available and next used.
    fn save_rings(&self, inner: &Inner, writer: &mut StateWriter) {
        let states: Vec<_> = inner.rings.iter().map(Ring::state).collect();
        writer.u32(states.len() as u32);
        for state in states {
            writer.u32(state.next_avail.into());
            writer.u32(state.next_used.into());
        }
    }

    fn load_rings(&self, registers: &Registers, reader: &mut StateReader<'_>) -> Result<Vec<QueueState>, StateError> {
        let count = reader.count(8, "number of rings")?;
        let mut states = if count == 0 { Vec::new() } else { registers.queues() };
        if states.len() != count {
            return Err(self.impossible("number of rings", count as u64));
        }
        for state in &mut states {
            for (place, field) in [(&mut state.next_avail, "next available"), (&mut state.next_used, "next used")] {
                let value = reader.u32(field)?;
                *place = u16::try_from(value).map_err(|_| self.impossible(field, value.into()))?;
            }
        }
        Ok(states)
    }
}

impl Device for VirtioDevice {
    fn read(&self, at: u64, data: &mut [u8]) {
        if at >= offset::CONFIG {
            return self.config.read((at - offset::CONFIG) as usize, data);
        }
        let outside = Outside {
            cause: self.signal.cause(),
            needs_reset: self.signal.needs_reset(),
            generation: self.config.generation(),
        };
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(word) if at.is_multiple_of(4) => *word = self.registers().read(at, outside).to_le_bytes(),
            // Section 4.2.2.2: a driver uses aligned words only.
            _ => data.fill(0),
        }
    }

    fn write(&self, at: u64, data: &[u8]) -> Action {
        match <[u8; 4]>::try_from(data) {
            _ if at >= offset::CONFIG => self.write_config(at - offset::CONFIG, data),
            Ok(word) if at.is_multiple_of(4) => self.write_register(at, u32::from_le_bytes(word)),
            _ => log::debug!("{}: {} bytes are written at {at:#x}", self.kind.name, data.len()),
        }
        Action::None
    }
}

impl SavedDevice for VirtioDevice {
    fn name(&self) -> &'static str {
        self.kind.name
    }

    fn instance(&self) -> u32 {
        self.slot
    }

    fn version(&self) -> u32 {
        LAYOUT << 8 | u32::from(self.kind.version)
    }

    /// Layout, version 1: the registers (`virtio/registers.rs`), u32 causes of an interrupt not yet
    /// acknowledged, u8 whether a reset is needed, u32 the configuration's generation, u32 its
    /// length and its bytes, u32 how many rings (none while the driver is not ready) with u32 next
    /// available and u32 next used each, and the rest is the backend's own.
    fn save(&self) -> Vec<u8> {
        let mut writer = StateWriter::default();
        self.registers().save(&mut writer);
        writer.u32(self.signal.cause());
        writer.u8(self.signal.needs_reset().into());
        writer.u32(self.config.generation());
        let bytes = self.config.bytes();
        writer.u32(bytes.len() as u32);
        writer.bytes(&bytes);
        let inner = self.inner();
        self.save_rings(&inner, &mut writer);
        writer.bytes(&inner.backend.save());
        writer.finish()
    }

    fn layout(&self) -> Vec<Field> {
        let mut fields = Registers::LAYOUT.to_vec();
        fields.extend([
            Field("interrupt", Type::U32),
            Field("need of a reset", Type::U8),
            Field("configuration's generation", Type::U32),
            Field("configuration", Type::Bytes(Count::Prefix)),
            Field("number of rings", Type::U32),
            Field("rings", Type::List(Count::Field("number of rings"), &Type::Struct(RING))),
            Field(self.kind.name, Type::Struct(self.own)),
        ]);
        fields
    }

    fn load(&self, version: u32, bytes: &[u8]) -> Result<(), StateError> {
        let mut reader = StateReader::new(self.kind.name, version, self.version(), bytes)?;
        let mut registers = self.registers();
        registers.load(&mut reader)?;
        let cause = reader.u32("interrupt")?;
        let needs_reset = reader.u8("need of a reset")? != 0;
        let generation = reader.u32("configuration's generation")?;
        let length = reader.count(1, "configuration")?;
        let config = reader.bytes(length, "configuration")?;
        let states = self.load_rings(&registers, &mut reader)?;
        let mut inner = self.inner();
        if !self.config.restore(config, generation) {
            return Err(self.impossible("configuration's length", length as u64));
        }
        inner.backend.load(self.kind.version, reader.rest())?;
        self.signal.set(cause, needs_reset);
        inner.rings.clear();
        if !states.is_empty() {
            let features = registers.features();
            // Its driver worked with these queues on the source: what does not fit here is not the
            // driver's fault.
            inner
                .set_up(states, features, &self.signal)
                .map_err(|_| self.impossible("rings", registers.queues().first().map_or(0, |it| it.desc_table)))?;
        }
        Ok(())
    }

    fn reset(&self) {
        self.registers().reset();
        self.let_go(&mut self.inner());
    }

    fn release(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.inner().backend.release()
    }

    fn acquire(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.inner().backend.acquire()
    }
}

fn descriptor() -> io::Result<Arc<EventFd>> {
    Ok(Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?))
}

#[cfg(test)]
mod tests;
