//! What the machine tells the world.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why the machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownCause {
    /// The guest powered off.
    GuestShutdown,
    /// The guest wrote `code` to the exit port: the process exits with `code`.
    GuestExit(u8),
    /// The guest triple-faulted or KVM gave up: the registers are in the log.
    GuestPanic,
    /// A monitor or a signal asked.
    HostQuit,
}

/// Something that happened to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// vCPUs stopped (event STOP).
    Stop,
    /// vCPUs started (event RESUME).
    Resume,
    /// The machine was reset (event RESET); `guest` when the guest asked.
    Reset {
        /// Whether the guest asked for it.
        guest: bool,
    },
    /// Somebody pressed the power button (event POWERDOWN).
    Powerdown,
    /// The guest's share of its memory changed (event BALLOON_CHANGE):
    /// [`super::Machine::see_balloon_change`] says to what, and until that was asked this is not
    /// told again.
    BalloonChange,
    /// The end (event SHUTDOWN); the process leaves after it.
    Shutdown(ShutdownCause),
}

/// One vCPU as `info cpus` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuInfo {
    /// Its number, from 0.
    pub index: usize,
    /// Its thread.
    pub thread_id: i32,
}

/// Who is told of events.
pub type Listener = Arc<dyn Fn(MachineEvent) + Send + Sync>;

/// Tells events in the order in which they happened, with no lock of the machine held.
///
/// Two threads whose operations follow each other may come to the telling the other way round, so
/// each first puts its events into one queue, in the order of operations, and then one of them
/// tells what stands there. A listener that calls the machine again adds to the queue that it is
/// being told from.
pub(super) struct Announcer {
    listener: Listener,
    queue: Mutex<VecDeque<MachineEvent>>,
    telling: Mutex<()>,
}

impl Announcer {
    pub fn new(listener: Listener) -> Self {
        Self { listener, queue: Mutex::default(), telling: Mutex::default() }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<MachineEvent>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts events into the queue; called with the operation's lock held.
    pub fn note(&self, events: Vec<MachineEvent>) {
        self.queue().extend(events);
    }

    /// Tells what stands in the queue, unless another thread is at it, which then does; called
    /// without a lock.
    pub fn tell(&self) {
        // Looked at again after each turn: something may have been put there just when the other's
        // turn ended.
        while !self.queue().is_empty() {
            let Ok(_turn) = self.telling.try_lock() else {
                return;
            };
            loop {
                let Some(event) = self.queue().pop_front() else {
                    break;
                };
                (self.listener)(event);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{OnceLock, Weak};

    use super::*;

    #[test]
    fn a_listener_that_causes_an_event_is_told_of_it_after_the_present_one() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let own: Arc<OnceLock<Weak<Announcer>>> = Arc::default();
        let listener = {
            let (told, own) = (told.clone(), own.clone());
            move |event| {
                told.lock().unwrap().push(event);
                if event == MachineEvent::Stop {
                    let announcer = own.get().unwrap().upgrade().unwrap();
                    announcer.note(vec![MachineEvent::Reset { guest: false }]);
                    announcer.tell();
                }
            }
        };
        let announcer = Arc::new(Announcer::new(Arc::new(listener)));
        own.set(Arc::downgrade(&announcer)).unwrap();
        announcer.note(vec![MachineEvent::Stop, MachineEvent::Resume]);
        announcer.tell();
        announcer.tell();
        let told = told.lock().unwrap().clone();
        assert_eq!(told, [MachineEvent::Stop, MachineEvent::Resume, MachineEvent::Reset { guest: false }]);
    }
}
