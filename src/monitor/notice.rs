//! [`Notice`]: what the machine, the migration and the jobs tell the main loop, from any thread.

use std::sync::Arc;

use crossbeam_channel::Sender;
use mio::Waker;

use crate::machine::MachineEvent;
use crate::migration::MigrationEvent;
use crate::snapshots::JobEvent;

/// Something for the main loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// From the machine.
    Machine(MachineEvent),
    /// From the migration.
    Migration(MigrationEvent),
    /// From a job.
    Job(JobEvent),
    /// `quit`.
    Quit,
}

/// Where any thread tells the main loop something. Never blocks.
#[derive(Clone)]
pub struct EventSink {
    sender: Sender<Notice>,
    waker: Arc<Waker>,
}

impl EventSink {
    pub(super) fn new(sender: Sender<Notice>, waker: Arc<Waker>) -> Self {
        Self { sender, waker }
    }

    /// For [`crate::machine::Machine::build`].
    pub fn machine(&self) -> Arc<dyn Fn(MachineEvent) + Send + Sync> {
        let sink = self.clone();
        Arc::new(move |event| sink.tell(Notice::Machine(event)))
    }

    /// For [`crate::migration::Migration::new`].
    pub fn migration(&self) -> Arc<dyn Fn(MigrationEvent) + Send + Sync> {
        let sink = self.clone();
        Arc::new(move |event| sink.tell(Notice::Migration(event)))
    }

    /// For [`crate::snapshots::Snapshots::new`].
    pub fn jobs(&self) -> Arc<dyn Fn(JobEvent) + Send + Sync> {
        let sink = self.clone();
        Arc::new(move |event| sink.tell(Notice::Job(event)))
    }

    /// A monitor said `quit`.
    pub(super) fn quit(&self) {
        self.tell(Notice::Quit);
    }

    fn tell(&self, notice: Notice) {
        // A closed channel means that the main loop has ended: there is nobody left to tell.
        if self.sender.send(notice).is_ok()
            && let Err(error) = self.waker.wake()
        {
            log::error!("cannot wake the monitor: {error}");
        }
    }
}
