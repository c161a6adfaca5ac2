//! The devices that the monitor emulates, and the bus that leads to them.
//!
//! Interrupt controllers, timer and clock are in the kernel; see [`crate::machine`]. A device knows
//! how to [`save`](SavedDevice::save) and [`load`](SavedDevice::load) itself and nothing of
//! migration.

mod bus;
mod exit_port;
mod pm;
mod reset;
mod rtc;
mod serial;
pub mod virtio;

pub use bus::{Action, Bus, Device};
pub use exit_port::ExitPort;
pub use pm::PowerManagement;
pub use reset::{KeyboardController, ResetControl};
pub use rtc::Rtc;
pub use serial::Serial;

use std::error::Error;

use crate::state::StateError;
use crate::state::layout::Field;

/// A device whose state goes into a migration.
pub trait SavedDevice: Send + Sync {
    /// Its name in saved state, the same on every host.
    fn name(&self) -> &'static str;

    /// Which of several alike, from 0.
    fn instance(&self) -> u32 {
        0
    }

    /// The version of the layout that [`Self::save`] writes.
    fn version(&self) -> u32;

    /// Its state; the guest stands still.
    fn save(&self) -> Vec<u8>;

    /// What [`Self::save`] writes, for tools that take it apart: each field by the name that
    /// [`Self::load`] has for it.
    fn layout(&self) -> Vec<Field>;

    /// Replaces its state; the guest stands still.
    fn load(&self, version: u32, bytes: &[u8]) -> Result<(), StateError>;

    /// Puts it into the state of a machine that was just switched on; the guest stands still.
    fn reset(&self);

    /// The guest leaves for another host: makes everything durable and gives up what only one host
    /// may have, such as the lock on a disk's image. The guest stands still. Once more does
    /// nothing.
    fn release(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }

    /// The guest arrives, or stays after all: takes what only one host may have. The guest stands
    /// still. Once more does nothing.
    fn acquire(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }
}
