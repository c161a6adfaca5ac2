//! What systemd is told of a machine: `NOTIFY_SOCKET`.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{Machine, Transport, host};

const LIMIT: Duration = Duration::from_secs(60);

/// A service manager's side.
struct Manager {
    room: TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let room = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(room.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Self { room, socket }
    }

    fn path(&self) -> PathBuf {
        self.room.path().join("notify")
    }

    fn starts(&self, machine: Machine) -> Machine {
        machine.after(&format!("export NOTIFY_SOCKET={}", self.path().display()))
    }

    fn next(&self) -> String {
        let mut bytes = [0; 4096];
        let count = self.socket.recv(&mut bytes).expect("nothing more is told");
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    /// Reads until it is told this.
    fn hears(&self, message: &str) {
        let since = Instant::now();
        while self.next() != message {
            assert!(since.elapsed() < LIMIT, "never told '{message}'");
        }
    }
}

#[test]
fn a_guest_that_moves_is_followed_on_both_sides() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (here, there) = (Manager::new(), Manager::new());
    let mut destination = there.starts(Machine::new("96M")).receive(Transport::Tcp);
    let told = there.next();
    assert!(told.starts_with("READY=1\nSTATUS=guest awaited"), "{told}");
    let mut source = here.starts(Machine::new("96M")).boot_and_begin("ws=64M");
    assert_eq!(here.next(), "READY=1\nSTATUS=guest running");
    source.set(serde_json::json!({"x-postcopy-after": 0}));
    let uri = destination.address();
    source.migrate(&uri);
    here.hears("STATUS=guest paused, migration completed");
    there.hears("STATUS=guest running, migration completed");
    destination.guest.assert_whole();
    for (vm, manager) in [(&mut source, &here), (&mut destination, &there)] {
        assert_eq!(vm.quit(), 0);
        manager.hears("STOPPING=1");
    }
}
