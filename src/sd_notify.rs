//! What a service manager is told (sd_notify(3)): when the machine is up, and what it does.
//!
//! A unit with `Type=notify` is up once its guest runs, or once it waits for one to arrive. What
//! `systemctl status` shows follows the guest and its migration.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The environment variable that names the manager's socket.
pub const VARIABLE: &str = "NOTIFY_SOCKET";

/// The service manager, if there is one. Whatever it does not take is lost, and never waited for.
#[derive(Debug, Default)]
pub struct ServiceManager {
    /// Written to, not sent to: every thread may write, and few may send.
    socket: Option<File>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ready: bool,
    guest: String,
    migration: Option<String>,
}

impl ServiceManager {
    /// The one that the environment names. To be called before the process is locked in.
    pub fn of_environment() -> Self {
        let Some(address) = std::env::var_os(VARIABLE).filter(|it| !it.is_empty()) else { return Self::default() };
        Self::at(&address).unwrap_or_else(|error| {
            log::warn!("the service manager at {VARIABLE}={} cannot be told: {error}", address.display());
            Self::default()
        })
    }

    /// The one at `address`: a path, or `@` and an abstract name.
    fn at(address: &OsStr) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        match address.as_bytes().strip_prefix(b"@") {
            Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => socket.connect(address)?,
        }
        Ok(Self { socket: Some(OwnedFd::from(socket).into()), ..Self::default() })
    }

    /// The machine is up: its guest runs or stands still, or one may come.
    pub fn ready(&self, guest: &str) {
        let mut state = self.state();
        if state.guest.is_empty() {
            guest.clone_into(&mut state.guest);
        }
        state.ready = true;
        self.tell(&format!("READY=1\n{}", state.line()));
    }

    /// What the guest does now.
    pub fn guest(&self, what: &str) {
        let mut state = self.state();
        what.clone_into(&mut state.guest);
        self.tell_state(&state);
    }

    /// Where its migration stands now.
    pub fn migration(&self, status: &str) {
        let mut state = self.state();
        state.migration = Some(status.to_owned());
        self.tell_state(&state);
    }

    /// The machine is about to end.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    fn tell_state(&self, state: &State) {
        // Until it is up, what is to be said of it goes together with that.
        if state.ready {
            self.tell(&state.line());
        }
    }

    fn tell(&self, message: &str) {
        let Some(mut socket) = self.socket.as_ref() else { return };
        // One call is one message.
        if let Err(error) = socket.write(message.as_bytes()) {
            log::debug!("the service manager was not told '{}': {error}", message.escape_debug());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn line(&self) -> String {
        match &self.migration {
            Some(status) => format!("STATUS=guest {}, migration {status}", self.guest),
            None => format!("STATUS=guest {}", self.guest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 1000];
        let count = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_hears_when_the_machine_is_up_what_it_does_and_when_it_ends() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("notify");
        let abstract_name = format!("whimbrel-test-{}", std::process::id());
        let named = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let nameless = UnixDatagram::bind_addr(&address).unwrap();
        for (ours, address) in [(named, path.into_os_string()), (nameless, format!("@{abstract_name}").into())] {
            let manager = ServiceManager::at(&address).unwrap();
            manager.migration("setup");
            manager.guest("running");
            manager.ready("awaited");
            assert_eq!(received(&ours), "READY=1\nSTATUS=guest running, migration setup");
            manager.guest("paused");
            assert_eq!(received(&ours), "STATUS=guest paused, migration setup");
            manager.stopping();
            assert_eq!(received(&ours), "STOPPING=1");
        }
    }

    #[test]
    fn without_a_manager_nothing_is_told_and_one_that_reads_nothing_is_not_waited_for() {
        let manager = ServiceManager::default();
        manager.ready("awaited");
        let (ours, _theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let manager = ServiceManager { socket: Some(OwnedFd::from(ours).into()), ..ServiceManager::default() };
        manager.ready("awaited");
        (0..100_000).for_each(|_| manager.guest("running"));
        assert!(ServiceManager::at(OsStr::new("/nonexistent/notify")).is_err());
    }
}
