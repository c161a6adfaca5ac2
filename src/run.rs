//! `whimbrel run`: builds the machine, its migration and its monitors, joins them, and serves until
//! the end.

mod config;

use std::sync::Arc;

pub use config::{Incoming, RunConfig};

use crate::config::{CharDevice, MonitorEndpoint, TapSource};
use crate::fds::{Inherited, NamedFds};
use crate::launcher::Launcher;
use crate::machine::{Machine, MachineError, MachineEvent};
use crate::migration::parameters::Parameters;
use crate::migration::streams::Streams;
use crate::migration::{CommandRefused, Migration, MigrationEvent};
use crate::monitor::{Ending, LiveVm, MainLoop, MonitorError};
use crate::sandbox::{self, SandboxError};
use crate::sd_notify::ServiceManager;
use crate::snapshots::{Identity, Snapshots};

/// Why a machine could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The monitors.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// The machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The process that starts commands.
    #[error("the process that starts commands could not be started; --no-exec runs without it")]
    Launcher(#[source] std::io::Error),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Waiting for a guest.
    #[error(transparent)]
    Migration(#[from] CommandRefused),
    /// The guest that was to arrive will not.
    #[error("the incoming migration failed: {0}")]
    IncomingFailed(String),
}

/// Runs the machine to its end; `Ok` is the exit code.
pub fn run(config: &RunConfig) -> Result<u8, RunError> {
    let fds = Arc::new(NamedFds::new(inherited(config)));
    // It can do what the sandbox takes from this process.
    let launcher = match config.no_exec {
        true => Launcher::none(),
        false => Launcher::begin().map_err(RunError::Launcher)?,
    };
    let launcher = Arc::new(launcher);
    let manager = Arc::new(ServiceManager::of_environment());
    sandbox::begin(config.sandbox)?;
    // Monitors first: a wrong place is refused before gigabytes are mapped.
    let (mut main_loop, events) = MainLoop::open(&config.monitors)?;
    let machine = Machine::build(&config.machine, machine_events(events.machine(), &manager))?;
    let parameters = Parameters {
        postcopy_policy: config.postcopy_after.into(),
        tls_creds: config.tls_dir.clone(),
        ..Parameters::default()
    };
    let streams = Streams::new(launcher.clone(), fds.clone());
    let migration_events = migration_events(events.migration(), &manager);
    let migration = Migration::new(machine.clone(), parameters, streams, config.exit_on_error, migration_events);
    let identity = Identity::of(&config.machine);
    let snapshots = Snapshots::new(config.snapshots.clone(), identity, launcher, migration.clone(), events.jobs());
    let name = config.machine.name.clone();
    // Everything that needs privilege is open, and all threads but the migrations' are locked in
    // already.
    sandbox::enter_main()?;
    let vm = LiveVm { name, machine: machine.clone(), migration: migration.clone(), snapshots, fds, events };

    let ending = begin(config, &machine, &migration).and_then(|at_first| {
        manager.ready(at_first);
        Ok(main_loop.run(&vm)?)
    });
    manager.stopping();
    // The link first, so that the peer learns of it at once; its handle lives on until the vCPUs
    // have ended.
    migration.abandon();
    machine.shutdown();
    match ending? {
        Ending::IncomingFailed(error) => Err(RunError::IncomingFailed(error)),
        ending => Ok(ending.exit_code()),
    }
}

/// The descriptors that this process was started with, and what uses them.
fn inherited(config: &RunConfig) -> Inherited {
    let devices = &config.machine.devices;
    let nets: Vec<_> = devices
        .nets
        .iter()
        .filter_map(|net| match net.tap {
            TapSource::Inherited(number) => Some(number),
            TapSource::Named(_) => None,
        })
        .collect();
    let places = [Some(&config.machine.serial), devices.console.as_ref()];
    let stdio = places.contains(&Some(&CharDevice::Stdio))
        || config.monitors.iter().any(|monitor| monitor.endpoint == MonitorEndpoint::Stdio);
    Inherited::take_over(&nets, stdio)
}

type Listener<E> = Arc<dyn Fn(E) + Send + Sync>;

/// For the monitors and for the service manager.
fn machine_events(tell: Listener<MachineEvent>, manager: &Arc<ServiceManager>) -> Listener<MachineEvent> {
    let manager = manager.clone();
    Arc::new(move |event| {
        match event {
            MachineEvent::Resume => manager.guest("running"),
            MachineEvent::Stop => manager.guest("paused"),
            _ => {}
        }
        tell(event);
    })
}

/// The same of its migrations.
fn migration_events(tell: Listener<MigrationEvent>, manager: &Arc<ServiceManager>) -> Listener<MigrationEvent> {
    let manager = manager.clone();
    Arc::new(move |event| {
        if let MigrationEvent::Status(status) = &event {
            manager.migration(status.name());
        }
        tell(event);
    })
}

/// Starts the guest, or waits for one; says what it does at first, for a service manager.
fn begin(config: &RunConfig, machine: &Machine, migration: &Migration) -> Result<&'static str, RunError> {
    match &config.incoming {
        Some(Incoming::At(uri)) => {
            migration.await_guest(uri)?;
            Ok("awaited")
        }
        Some(Incoming::Deferred) => {
            log::info!("waiting for 'migrate_incoming'");
            Ok("awaited")
        }
        None if config.machine.paused => {
            log::info!("paused: 'cont' starts the guest");
            Ok("paused")
        }
        None => {
            machine.cont()?;
            Ok("running")
        }
    }
}
