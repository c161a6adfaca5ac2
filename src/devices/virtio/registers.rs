//! What a driver reads and writes in the transport's registers (virtio 1.2, section 4.2.2): a state
//! machine without any input or output.

use virtio_queue::QueueState;

use super::Kind;
use crate::state::layout::{Count, Field, Type};
use crate::state::{StateError, StateReader, StateWriter};

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// What is saved of a queue.
const QUEUE: &[Field] = &[
    Field("queue size", Type::U32),
    Field("queue's readiness", Type::U8),
    Field("descriptor table", Type::U64),
    Field("available ring", Type::U64),
    Field("used ring", Type::U64),
];
/// Who made the device, as PCI would say: none.
const VENDOR: u32 = 0;

/// The ring's features and the transport's (section 6).
pub(super) const INDIRECT: u64 = 1 << 28;
pub(super) const EVENT_INDEX: u64 = 1 << 29;
pub(super) const VERSION_1: u64 = 1 << 32;

/// Status bits (section 2.1).
const FEATURES_OK: u32 = 8;
const DRIVER_OK: u32 = 4;
const NEEDS_RESET: u32 = 64;
/// Those that a driver sets.
const DRIVERS: u32 = 0x8f;

/// Where things are.
pub(super) mod offset {
    pub const MAGIC: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE: u64 = 0x008;
    pub const VENDOR: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SELECT: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SELECT: u64 = 0x024;
    pub const QUEUE_SELECT: u64 = 0x030;
    pub const QUEUE_SIZE_MAX: u64 = 0x034;
    pub const QUEUE_SIZE: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESCRIPTORS: u64 = 0x080;
    pub const QUEUE_AVAILABLE: u64 = 0x090;
    pub const QUEUE_USED: u64 = 0x0a0;
    pub const SHARED_MEMORY_LENGTH: u64 = 0x0b0;
    pub const SHARED_MEMORY_BASE: u64 = 0x0b8;
    pub const GENERATION: u64 = 0x0fc;
    pub const CONFIG: u64 = 0x100;
}

/// What a write asks of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    /// The driver is ready: [`Registers::queues`] and [`Registers::features`] say what it set up.
    Start,
    /// The driver lets go of everything.
    Reset,
    /// A notification that did not come by way of an ioeventfd.
    Notify(u32),
    /// The driver has seen these causes of an interrupt.
    Acknowledge(u32),
}

/// What another part of the device knows and the driver reads here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outside {
    pub cause: u32,
    pub needs_reset: bool,
    pub generation: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct QueueRegisters {
    size: u16,
    ready: bool,
    descriptors: u64,
    available: u64,
    used: u64,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Registers {
    kind: Kind,
    offered: u64,
    taken: u64,
    device_select: u32,
    driver_select: u32,
    queue_select: u32,
    status: u32,
    queues: Vec<QueueRegisters>,
}

impl Registers {
    /// Those of a device that was just switched on; `offered` are the backend's features.
    pub fn new(kind: Kind, offered: u64) -> Self {
        let queue = |size: &u16| QueueRegisters { size: *size, ready: false, descriptors: 0, available: 0, used: 0 };
        Self {
            kind,
            offered: offered | VERSION_1 | EVENT_INDEX | INDIRECT,
            taken: 0,
            device_select: 0,
            driver_select: 0,
            queue_select: 0,
            status: 0,
            queues: kind.queues.iter().map(queue).collect(),
        }
    }

    /// Back to the beginning.
    pub fn reset(&mut self) {
        *self = Self::new(self.kind, self.offered);
    }

    /// Whether the driver is ready, so that the queues are served.
    pub fn live(&self) -> bool {
        self.status & DRIVER_OK != 0
    }

    /// The features that the driver took.
    pub fn features(&self) -> u64 {
        self.taken
    }

    /// The queues as the driver set them up, at their beginning.
    pub fn queues(&self) -> Vec<QueueState> {
        let state = |(queue, max_size): (&QueueRegisters, &u16)| QueueState {
            max_size: *max_size,
            next_avail: 0,
            next_used: 0,
            event_idx_enabled: self.taken & EVENT_INDEX != 0,
            size: queue.size,
            ready: queue.ready,
            desc_table: queue.descriptors,
            avail_ring: queue.available,
            used_ring: queue.used,
        };
        self.queues.iter().zip(self.kind.queues).map(state).collect()
    }

    fn queue(&self) -> Option<&QueueRegisters> {
        self.queues.get(self.queue_select as usize)
    }

    /// A register of four bytes.
    pub fn read(&self, at: u64, outside: Outside) -> u32 {
        match at {
            offset::MAGIC => MAGIC,
            offset::VERSION => VERSION,
            offset::DEVICE => self.kind.id,
            offset::VENDOR => VENDOR,
            offset::DEVICE_FEATURES => half(self.offered, self.device_select),
            offset::QUEUE_SIZE_MAX => {
                self.kind.queues.get(self.queue_select as usize).map_or(0, |size| u32::from(*size))
            }
            offset::QUEUE_READY => self.queue().map_or(0, |queue| queue.ready.into()),
            offset::INTERRUPT_STATUS => outside.cause,
            offset::STATUS => self.status | if outside.needs_reset { NEEDS_RESET } else { 0 },
            offset::GENERATION => outside.generation,
            // No shared memory: all ones (section 4.2.2).
            offset::SHARED_MEMORY_LENGTH..offset::SHARED_MEMORY_BASE => u32::MAX,
            _ => 0,
        }
    }

    /// Writes a register of four bytes.
    pub fn write(&mut self, at: u64, value: u32) -> Effect {
        match at {
            offset::QUEUE_NOTIFY => return Effect::Notify(value),
            offset::INTERRUPT_ACK => return Effect::Acknowledge(value),
            offset::STATUS => return self.set_status(value),
            offset::DEVICE_FEATURES_SELECT => self.device_select = value,
            offset::DRIVER_FEATURES_SELECT => self.driver_select = value,
            offset::QUEUE_SELECT => self.queue_select = value,
            offset::DRIVER_FEATURES if self.status & FEATURES_OK == 0 && self.driver_select < 2 => {
                let shift = 32 * self.driver_select;
                self.taken = self.taken & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
            }
            _ => self.set_queue(at, value),
        }
        Effect::None
    }

    /// A register of the selected queue. A driver that is ready may not change its queues any more.
    fn set_queue(&mut self, at: u64, value: u32) {
        let Some(index) = (!self.live()).then_some(self.queue_select as usize) else {
            log::debug!("{}: a register at {at:#x} is written too late", self.kind.name);
            return;
        };
        let (Some(queue), Some(largest)) = (self.queues.get_mut(index), self.kind.queues.get(index)) else {
            return;
        };
        let place = match at & !4 {
            offset::QUEUE_DESCRIPTORS => &mut queue.descriptors,
            offset::QUEUE_AVAILABLE => &mut queue.available,
            offset::QUEUE_USED => &mut queue.used,
            _ => {
                match at {
                    offset::QUEUE_READY => queue.ready = value & 1 != 0,
                    // What cannot be stays as it was; a queue that is too small for its driver is
                    // the driver's bug.
                    offset::QUEUE_SIZE => match u16::try_from(value) {
                        Ok(size) if size.is_power_of_two() && size <= *largest => queue.size = size,
                        _ => log::debug!("{}: queue {index} cannot have the size {value}", self.kind.name),
                    },
                    _ => log::trace!("{}: nothing is at {at:#x}", self.kind.name),
                }
                return;
            }
        };
        let shift = if at & 4 == 0 { 0 } else { 32 };
        *place = *place & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
    }

    fn set_status(&mut self, value: u32) -> Effect {
        if value == 0 {
            self.reset();
            return Effect::Reset;
        }
        let was_live = self.live();
        // A driver takes nothing back but by a reset.
        let mut status = self.status | value & DRIVERS;
        let fits = self.taken & !self.offered == 0 && self.taken & VERSION_1 != 0;
        if !fits {
            status &= !FEATURES_OK;
        }
        if status & FEATURES_OK == 0 {
            status &= !DRIVER_OK;
        }
        self.status = status;
        if self.live() && !was_live { Effect::Start } else { Effect::None }
    }

    /// Layout, version 1: u32 selectors of device features, driver features and queue, u32 status,
    /// u64 features taken, u32 how many queues, and for each: u32 size, u8 ready, u64 addresses of
    /// descriptors, available ring, used ring.
    pub fn save(&self, writer: &mut StateWriter) {
        for value in [self.device_select, self.driver_select, self.queue_select, self.status] {
            writer.u32(value);
        }
        writer.u64(self.taken);
        writer.u32(self.queues.len() as u32);
        for queue in &self.queues {
            writer.u32(queue.size.into());
            writer.u8(queue.ready.into());
            for address in [queue.descriptors, queue.available, queue.used] {
                writer.u64(address);
            }
        }
    }

    /// The same for tools.
    pub const LAYOUT: &[Field] = &[
        Field("selector of device features", Type::U32),
        Field("selector of driver features", Type::U32),
        Field("selector of queues", Type::U32),
        Field("status", Type::U32),
        Field("features", Type::U64),
        Field("number of queues", Type::U32),
        Field("queues", Type::List(Count::Field("number of queues"), &Type::Struct(QUEUE))),
    ];

    /// Replaces them by what [`Self::save`] wrote. Features that are not offered here are refused.
    pub fn load(&mut self, reader: &mut StateReader<'_>) -> Result<(), StateError> {
        let mut new = Self::new(self.kind, self.offered);
        new.device_select = reader.u32("selector of device features")?;
        new.driver_select = reader.u32("selector of driver features")?;
        new.queue_select = reader.u32("selector of queues")?;
        new.status = reader.u32("status")?;
        if new.status & !DRIVERS != 0 {
            return Err(reader.impossible("status", new.status.into()));
        }
        new.taken = reader.u64("features")?;
        if new.taken & !self.offered != 0 {
            return Err(reader.impossible("features", new.taken & !self.offered));
        }
        let count = reader.u32("number of queues")?;
        if count as usize != self.queues.len() {
            return Err(reader.impossible("number of queues", count.into()));
        }
        for (queue, largest) in new.queues.iter_mut().zip(self.kind.queues) {
            let size = reader.u32("queue size")?;
            queue.size = match u16::try_from(size) {
                Ok(size) if size.is_power_of_two() && size <= *largest => size,
                _ => return Err(reader.impossible("queue size", size.into())),
            };
            queue.ready = reader.u8("queue's readiness")? != 0;
            queue.descriptors = reader.u64("descriptor table")?;
            queue.available = reader.u64("available ring")?;
            queue.used = reader.u64("used ring")?;
        }
        *self = new;
        Ok(())
    }
}

/// The low or the high half; nothing beyond.
fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
