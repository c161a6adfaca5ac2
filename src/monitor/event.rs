//! [`Event`]: what QMP's clients are told of what happens by itself.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::vm::Vm;
use crate::machine::{MachineEvent, ShutdownCause};
use crate::migration::MigrationEvent;
use crate::snapshots::JobEvent;

/// A QMP event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// QEMU's name.
    pub name: &'static str,
    /// Its `data`, if it has any.
    pub data: Option<Value>,
    /// When it happened.
    pub at: SystemTime,
}

impl Event {
    /// All names that an event can have.
    pub const NAMES: [&str; 9] = [
        "MIGRATION",
        "MIGRATION_PASS",
        "STOP",
        "RESUME",
        "RESET",
        "SHUTDOWN",
        "POWERDOWN",
        "BALLOON_CHANGE",
        "JOB_STATUS_CHANGE",
    ];

    fn new(name: &'static str, data: Option<Value>) -> Self {
        Self { name, data, at: SystemTime::now() }
    }

    /// The machine's events.
    pub fn of_machine(event: MachineEvent, vm: &dyn Vm) -> Self {
        match event {
            MachineEvent::Stop => Self::new("STOP", None),
            MachineEvent::Resume => Self::new("RESUME", None),
            MachineEvent::Reset { guest } => {
                let reason = match guest {
                    true => "guest-reset",
                    false => "host-qmp-system-reset",
                };
                Self::new("RESET", Some(json!({"guest": guest, "reason": reason})))
            }
            // Without a balloon there is no such event.
            MachineEvent::BalloonChange => {
                Self::new("BALLOON_CHANGE", vm.see_balloon_change().ok().map(|actual| json!({"actual": actual})))
            }
            MachineEvent::Powerdown => Self::new("POWERDOWN", None),
            MachineEvent::Shutdown(cause) => match cause {
                ShutdownCause::GuestShutdown | ShutdownCause::GuestExit(_) => Self::shutdown(true, "guest-shutdown"),
                ShutdownCause::GuestPanic => Self::shutdown(true, "guest-panic"),
                ShutdownCause::HostQuit => Self::shutdown(false, "host-qmp-quit"),
            },
        }
    }

    /// The migration's events.
    pub fn of_migration(event: &MigrationEvent) -> Self {
        match event {
            MigrationEvent::Status(status) => Self::new("MIGRATION", Some(json!({"status": status.name()}))),
            MigrationEvent::Pass(pass) => Self::new("MIGRATION_PASS", Some(json!({"pass": pass}))),
        }
    }

    /// A job's event.
    pub fn of_job(event: &JobEvent) -> Self {
        Self::new("JOB_STATUS_CHANGE", Some(json!({"id": event.id, "status": event.status.name()})))
    }

    /// SHUTDOWN.
    pub fn shutdown(guest: bool, reason: &'static str) -> Self {
        Self::new("SHUTDOWN", Some(json!({"guest": guest, "reason": reason})))
    }

    /// As QMP writes it.
    pub fn to_json(&self) -> Value {
        let at = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut value = json!({
            "timestamp": {"seconds": at.as_secs(), "microseconds": at.subsec_micros()},
            "event": self.name,
        });
        if let (Some(data), Some(fields)) = (&self.data, value.as_object_mut()) {
            fields.insert("data".to_owned(), data.clone());
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::fake::FakeVm;

    #[test]
    fn every_name_is_used_and_none_is_missing() {
        let machine = [
            MachineEvent::Stop,
            MachineEvent::Resume,
            MachineEvent::Reset { guest: true },
            MachineEvent::Shutdown(ShutdownCause::HostQuit),
            MachineEvent::Powerdown,
            MachineEvent::BalloonChange,
        ];
        let migration = [MigrationEvent::Status(whimbrel_postcopy::stats::Status::Active), MigrationEvent::Pass(1)];
        let vm = FakeVm::new();
        let machine = machine.into_iter().map(|it| Event::of_machine(it, &vm));
        let job = JobEvent { id: "a".into(), status: crate::snapshots::JobStatus::Running, internal: false };
        let others = migration.iter().map(Event::of_migration).chain([Event::of_job(&job)]);
        let mut names: Vec<_> = machine.chain(others).map(|it| it.name).collect();
        let mut all = Event::NAMES.to_vec();
        names.sort_unstable();
        all.sort_unstable();
        assert_eq!(names, all);
    }
}
