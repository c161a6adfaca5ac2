use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use whimbrel_postcopy::stats::Status;

use super::*;
use crate::monitor::endpoint::send_with;
use crate::monitor::fake::FakeVm;

fn qmp(path: &Path) -> MonitorConfig {
    MonitorConfig { face: MonitorFace::Qmp, endpoint: MonitorEndpoint::UnixServer(path.to_owned()) }
}

/// Serves QMP at a socket for `clients`, who end it through the sink; what the loop ended with.
fn serve<T: Send>(
    vm: impl Fn() -> FakeVm + Send + Sync,
    clients: impl FnOnce(&Path, EventSink) -> T + Send,
) -> (Ending, T) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    let (started, ready) = mpsc::channel();
    thread::scope(|scope| {
        let serving = scope.spawn(|| {
            let (mut main_loop, sink) = MainLoop::open(&[qmp(&path)]).unwrap();
            started.send(sink).unwrap();
            main_loop.run(&vm()).unwrap()
        });
        let result = clients(&path, ready.recv().unwrap());
        (serving.join().unwrap(), result)
    })
}

struct Peer(BufReader<UnixStream>);

impl Peer {
    fn new(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut peer = Self(BufReader::new(stream));
        assert!(peer.line().contains("\"QMP\""));
        peer.send("{\"execute\":\"qmp_capabilities\"}");
        assert!(peer.line().contains("return"));
        peer
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// The next line, empty at the end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }
}

#[test]
fn several_clients_hear_the_same_events() {
    let (ending, ()) = serve(FakeVm::new, |path, sink| {
        let (mut one, mut two) = (Peer::new(path), Peer::new(path));
        two.send("{\"execute\":\"query-name\"}");
        assert!(two.line().contains("guest"));
        sink.machine()(MachineEvent::Stop);
        for peer in [&mut one, &mut two] {
            assert!(peer.line().contains("STOP"));
        }
        sink.machine()(MachineEvent::Shutdown(ShutdownCause::GuestExit(7)));
        for peer in [&mut one, &mut two] {
            assert!(peer.line().contains("guest-shutdown"));
        }
    });
    assert_eq!(ending.exit_code(), 7);
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let (ending, ()) = serve(FakeVm::new, |path, sink| {
        let mut slow = Peer::new(path);
        // Hears but does not read: enough events to fill its socket and its share of our memory.
        let deaf = Peer::new(path);
        let tell = sink.machine();
        for _ in 0..40_000 {
            tell(MachineEvent::Resume);
        }
        let mut quick = Peer::new(path);
        quick.send("{\"execute\":\"query-status\"}");
        while !quick.line().contains("running") {}
        // Both non-readers were dropped; what reached them stays readable, then comes the end.
        while !slow.line().is_empty() {}
        drop(deaf);
        sink.quit();
        while !quick.line().contains("host-qmp-quit") {}
    });
    assert_eq!(ending, Ending::Quit);
}

#[test]
fn clients_that_say_nothing_keep_nobody_out() {
    let (ending, ()) = serve(FakeVm::new, |path, sink| {
        let mut first = Peer::new(path);
        let silent: Vec<_> = (0..2 * MAX_CLIENTS).map(|_| UnixStream::connect(path).unwrap()).collect();
        let mut last = Peer::new(path);
        last.send("{\"execute\":\"query-name\"}");
        assert!(last.line().contains("guest"));
        // Who has spoken keeps its place, who came first of the others has lost it.
        first.send("{\"execute\":\"query-name\"}");
        assert!(first.line().contains("guest"));
        let mut read = Vec::new();
        (&silent[0]).read_to_end(&mut read).unwrap();
        // Where many come at once it goes before it was greeted.
        assert!(read.is_empty() || read.starts_with(b"{\"QMP\""));
        drop(silent);
        sink.quit();
    });
    assert_eq!(ending, Ending::Quit);
}

#[test]
fn a_descriptor_is_handed_over_named_and_closed() {
    serve(FakeVm::new, |path, sink| {
        let mut peer = Peer::new(path);
        let (mut reader, writer) = io::pipe().unwrap();
        send_with(peer.0.get_ref(), br#"{"execute":"getfd","arguments":{"fdname":"wire"}}"#, &[writer.as_fd()]);
        assert!(peer.line().contains("return"));
        drop(writer);
        // Another client's command finds it; there is none with this one.
        let mut other = Peer::new(path);
        other.send(r#"{"execute":"getfd","arguments":{"fdname":"wire"}}"#);
        assert!(other.line().contains("No file descriptor supplied via SCM_RIGHTS"));
        other.send(r#"{"execute":"closefd","arguments":{"fdname":"wire"}}"#);
        assert!(other.line().contains("return"));
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        other.send(r#"{"execute":"closefd","arguments":{"fdname":"wire"}}"#);
        assert!(other.line().contains("File descriptor named 'wire' not found"));
        sink.quit();
    });
}

#[test]
fn the_balloon_is_told_of_now_and_then_and_at_last() {
    serve(FakeVm::new, |path, sink| {
        let mut peer = Peer::new(path);
        let tell = sink.machine();
        let start = Instant::now();
        for times in [1, 1000] {
            for _ in 0..times {
                tell(MachineEvent::BalloonChange);
            }
            let line = peer.line();
            assert!(line.contains("BALLOON_CHANGE") && line.contains("314572800"), "{line}");
        }
        assert!(start.elapsed() >= Duration::from_millis(900));
        sink.quit();
        assert!(peer.line().contains("SHUTDOWN"));
    });
}

#[test]
fn migration_events_need_their_capability() {
    let vm = || {
        let vm = FakeVm::new();
        let mut on = vm.capabilities.get();
        on.set(Capability::Events, true).unwrap();
        vm.capabilities.set(on);
        vm
    };
    let tell = |path: &Path, sink: EventSink| {
        let mut peer = Peer::new(path);
        sink.migration()(MigrationEvent::Pass(1));
        sink.quit();
        peer.line()
    };
    assert!(serve(vm, tell).1.contains("MIGRATION_PASS"));
    assert!(serve(FakeVm::new, tell).1.contains("SHUTDOWN"));
}

#[test]
fn a_failed_arrival_ends_the_process() {
    let failed = |side| {
        move || {
            let vm = FakeVm::new();
            vm.set_status(side, Status::Failed, Some("wrong size"));
            vm
        }
    };
    let tell = |_: &Path, sink: EventSink| {
        sink.migration()(MigrationEvent::Status(Status::Failed));
        sink.quit();
    };
    let (ending, ()) = serve(failed(Side::Destination), tell);
    assert_eq!(ending, Ending::IncomingFailed("wrong size".to_owned()));
    assert_eq!(ending.exit_code(), 1);
    assert_eq!(serve(failed(Side::Source), tell).0, Ending::Quit);
}

#[test]
fn a_crashed_guest_stays_while_somebody_looks() {
    let crash = MachineEvent::Shutdown(ShutdownCause::GuestPanic);
    let (ending, ()) = serve(FakeVm::new, |path, sink| {
        let mut peer = Peer::new(path);
        sink.machine()(crash);
        assert!(peer.line().contains("guest-panic"));
        peer.send("{\"execute\":\"query-name\"}");
        assert!(peer.line().contains("guest"));
    });
    assert_eq!(ending.exit_code(), 1);
    let (ending, ()) = serve(FakeVm::new, |_, sink| sink.machine()(crash));
    assert_eq!(ending.exit_code(), 1);
}
