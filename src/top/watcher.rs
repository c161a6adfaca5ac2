//! The thread that asks: a virtual machine that is slow holds up no key.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::map;
use super::snapshot::Snapshot;
use crate::client::{Connection, QmpAddress, QmpError};
use crate::sentence::sentence;

/// What became of a look.
pub enum News {
    /// The answers.
    Seen(Box<Snapshot>),
    /// Nobody is there, for this reason.
    Lost(String),
}

/// The thread's other end. The thread ends by itself once this is gone.
pub struct Watcher {
    /// What it has seen.
    pub news: Receiver<News>,
    cells: Arc<AtomicU32>,
    _alive: Sender<()>,
}

impl Watcher {
    /// Looks every `interval`, first by way of `vm`.
    pub fn start(vm: Connection, qmp: QmpAddress, interval: Duration) -> std::io::Result<Self> {
        let cells = Arc::new(AtomicU32::new(map::ONCE));
        let (tell, news) = bounded(1);
        let (alive, ended) = bounded(0);
        let thread = Thread { qmp, interval, cells: Arc::clone(&cells), tell, ended };
        std::thread::Builder::new().name("watcher".into()).spawn(move || thread.run(vm))?;
        Ok(Self { news, cells, _alive: alive })
    }

    /// The map has so many cells from now on.
    pub fn set_cells(&self, cells: u32) {
        self.cells.store(cells, Ordering::Relaxed);
    }
}

struct Thread {
    qmp: QmpAddress,
    interval: Duration,
    cells: Arc<AtomicU32>,
    tell: Sender<News>,
    ended: Receiver<()>,
}

impl Thread {
    fn run(self, vm: Connection) {
        let mut vm = Some(vm);
        loop {
            let news = match self.look(&mut vm) {
                Ok(snapshot) => News::Seen(Box::new(snapshot)),
                Err(error) => {
                    // After an answer that did not come in time the next one would be to another
                    // question.
                    vm = None;
                    News::Lost(sentence(&error))
                }
            };
            let heard = self.tell.send(news).is_ok();
            if !heard || self.ended.recv_timeout(self.interval) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn look(&self, vm: &mut Option<Connection>) -> Result<Snapshot, QmpError> {
        let vm = match vm {
            Some(vm) => vm,
            none => none.insert(Connection::open(&self.qmp)?),
        };
        vm.forget_events();
        Snapshot::take(vm, self.cells.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    use serde_json::{Value, json};

    use super::*;

    /// Greets, negotiates, and answers so many questions more, each with the next of the numbers as
    /// the machine's name.
    fn serve(stream: UnixStream, names: impl Iterator<Item = u32>) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let say = |value: Value| writeln!(&stream, "{value}").unwrap();
        say(json!({"QMP": {}}));
        lines.next().unwrap().unwrap();
        say(json!({"return": {}}));
        for name in names {
            let Some(Ok(_)) = lines.next() else { return };
            say(json!({"event": "STOP"}));
            say(json!({"return": {"name": name.to_string()}}));
        }
    }

    #[test]
    fn a_machine_that_ends_and_starts_anew_is_seen_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let qmp = QmpAddress::Unix(path);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // Four questions are one look; the second is cut short.
                serve(listener.accept().unwrap().0, 0..6);
                serve(listener.accept().unwrap().0, 100..104);
            });
            let vm = Connection::open(&qmp).unwrap();
            let watcher = Watcher::start(vm, qmp, Duration::from_millis(1)).unwrap();
            let next = || watcher.news.recv_timeout(Duration::from_secs(20)).unwrap();
            assert!(matches!(next(), News::Seen(snapshot) if snapshot.name() == Some("0")));
            assert!(matches!(next(), News::Lost(why) if why.contains("connection")));
            assert!(matches!(next(), News::Seen(snapshot) if snapshot.name() == Some("100")));
        });
    }
}
