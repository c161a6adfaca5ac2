//! [`Proxy`]: a link between two processes that counts what goes over it, and can be slow, hang and
//! be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use whimbrel_postcopy::wire::{ChannelKind, Hello};

use super::LIMIT;

/// Bytes per second on a slow demand channel.
const SLOW: u64 = 2 << 20;
/// How much of them goes on at a time.
const PIECE: usize = 16 << 10;

/// A TCP link. Connections are forwarded to the target in the order in which they come.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: String,
    /// Both ends of every connection so far.
    ends: Mutex<Vec<(TcpStream, TcpStream)>>,
    /// Bytes towards the target, all connections together.
    forwarded: AtomicU64,
    flow: Mutex<Flow>,
    changed: Condvar,
    /// Whether demanded pages go on slowly. Changes with `flow` locked.
    slow: AtomicBool,
}

/// How bytes go on, in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Runs,
    /// Until the next bytes come.
    ToHang,
    /// In the middle of something.
    Hangs,
}

impl Proxy {
    /// To `target`, an address `tcp:HOST:PORT`.
    pub fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let target = target.strip_prefix("tcp:").unwrap().to_owned();
        let shared = Arc::new(Shared {
            target,
            ends: Mutex::default(),
            forwarded: AtomicU64::new(0),
            flow: Mutex::new(Flow::Runs),
            changed: Condvar::new(),
            slow: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        // Ends with the test's process: a listener cannot be woken, and there are few.
        thread::spawn(move || {
            for near in listener.incoming() {
                accepting.forward(near.unwrap());
            }
        });
        Self { address, shared }
    }

    /// Demanded pages go on slowly, until [`Self::hurry`]: a guest that touches all of its memory
    /// at once does not end a postcopy before the test has had its say. Not for a link with TLS.
    pub fn slow(self) -> Self {
        self.shared.slow.store(true, Ordering::Relaxed);
        self
    }

    /// Nothing is slow any more.
    pub fn hurry(&self) {
        let flow = self.shared.flow.lock().unwrap();
        self.shared.slow.store(false, Ordering::Relaxed);
        drop(flow);
        self.shared.changed.notify_all();
    }

    /// Where to connect instead of the target.
    pub fn address(&self) -> String {
        format!("tcp:{}", self.address)
    }

    /// Bytes that went towards the target so far.
    pub fn forwarded(&self) -> u64 {
        self.shared.forwarded.load(Ordering::Relaxed)
    }

    /// From now on nothing goes on, and neither side hears of it: as with a switch that lost its
    /// power. That happens in the middle of the next bytes, which must be on their way.
    pub fn hang(&self) {
        let mut flow = self.shared.flow.lock().unwrap();
        *flow = Flow::ToHang;
        let hangs = self.shared.changed.wait_timeout_while(flow, LIMIT, |flow| *flow != Flow::Hangs).unwrap();
        assert!(!hangs.1.timed_out(), "nothing goes over the link that is to hang");
    }

    /// Cuts every connection: both sides see its end at once. Later ones work.
    pub fn cut(&self) {
        *self.shared.flow.lock().unwrap() = Flow::Runs;
        self.shared.changed.notify_all();
        for (near, far) in self.shared.ends.lock().unwrap().drain(..) {
            // One that is gone already needs no cutting.
            let _ = near.shutdown(Shutdown::Both);
            let _ = far.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn forward(self: &Arc<Self>, near: TcpStream) {
        let Ok(far) = TcpStream::connect(&self.target) else {
            // Nobody listens there any more: `near` is closed, as it would be without a proxy.
            return;
        };
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        let clone = |stream: &TcpStream| stream.try_clone().unwrap();
        self.ends.lock().unwrap().push((clone(&near), clone(&far)));
        let back = (clone(&far), clone(&near));
        let there = Arc::clone(self);
        thread::spawn(move || {
            let demanded = there.is_slow() && is_demand(&near);
            there.copy(near, far, |bytes| {
                there.forwarded.fetch_add(bytes, Ordering::Relaxed);
                if demanded {
                    there.take_time(bytes);
                }
            });
        });
        let here = Arc::clone(self);
        thread::spawn(move || here.copy(back.0, back.1, |_| ()));
    }

    /// Copies until either side ends, and hands the end on.
    fn copy(&self, mut from: TcpStream, mut to: TcpStream, count: impl Fn(u64)) {
        let mut buffer = vec![0; if self.is_slow() { PIECE } else { 256 << 10 }];
        while let Ok(bytes @ 1..) = from.read(&mut buffer) {
            let half = bytes / 2;
            if to.write_all(&buffer[..half]).is_err() {
                break;
            }
            self.wait_while_it_hangs();
            if to.write_all(&buffer[half..bytes]).is_err() {
                break;
            }
            count(bytes as u64);
        }
        self.wait_while_it_hangs();
        let _ = to.shutdown(Shutdown::Write);
        let _ = from.shutdown(Shutdown::Read);
    }

    fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    /// As long as so many bytes take on a slow link; no longer than it is slow.
    fn take_time(&self, bytes: u64) {
        let time = Duration::from_nanos(bytes * 1_000_000_000 / SLOW);
        let flow = self.flow.lock().unwrap();
        drop(self.changed.wait_timeout_while(flow, time, |_| self.is_slow()).unwrap());
    }

    fn wait_while_it_hangs(&self) {
        let mut flow = self.flow.lock().unwrap();
        if *flow == Flow::ToHang {
            *flow = Flow::Hangs;
            self.changed.notify_all();
        }
        drop(self.changed.wait_while(flow, |flow| *flow != Flow::Runs).unwrap());
    }
}

/// Whether a connection is a migration's demand channel, by its first words, which stay unread.
fn is_demand(connection: &TcpStream) -> bool {
    let mut hello = [0; Hello::LEN];
    while let Ok(bytes @ 1..) = connection.peek(&mut hello) {
        if bytes == Hello::LEN {
            return Hello::decode(&hello).is_ok_and(|hello| hello.kind == ChannelKind::Demand);
        }
        thread::yield_now();
    }
    false
}
