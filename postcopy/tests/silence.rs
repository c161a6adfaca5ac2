//! A network that swallows everything: both sides notice within the time that they were given,
//! whether anything is under way or not. In two network namespaces, joined by a pair of virtual
//! cards. The only test here that looks at the time: it is what is tested.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "../../tests/e2e/support/skip.rs"]
mod skip;

use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use common::{TestGuest, Watch};
use nix::sched::{CloneFlags, unshare};
use whimbrel_postcopy::channel::{Dialer, Listener, TcpAddress};
use whimbrel_postcopy::destination;
use whimbrel_postcopy::source::{self, Limits, Policy};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::uffd::Uffd;

const PAGES: u64 = 40_000;
const BOUND: Duration = Duration::from_secs(2);
/// A busy host may be late by so much before it looks, and to run the commands that make the
/// network silent.
const LATE: Duration = Duration::from_millis(400);

type Work = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own; what it starts and opens is there, too.
struct Host {
    work: Sender<Work>,
    namespace: String,
}

impl Host {
    fn new() -> nix::Result<Self> {
        let (work, works) = channel::<Work>();
        let (told, tells) = channel();
        std::thread::spawn(move || {
            let done = unshare(CloneFlags::CLONE_NEWNET);
            told.send(done.map(|()| nix::unistd::gettid())).unwrap();
            works.into_iter().for_each(|work| work());
        });
        let thread = tells.recv().unwrap()?;
        Ok(Self { work, namespace: format!("/proc/{}/task/{thread}/ns/net", std::process::id()) })
    }

    fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        let (told, tells) = channel();
        self.work.send(Box::new(move || told.send(work()).unwrap())).unwrap();
        tells.recv().unwrap()
    }

    fn ip(&self, command: &str) -> Result<(), String> {
        let command = command.to_owned();
        self.run(move || {
            let output = Command::new("ip").args(command.split(' ')).output().map_err(|error| error.to_string())?;
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            output.status.success().then_some(()).ok_or(format!("'ip {command}' failed: {why}"))
        })
    }
}

/// The source's host and the destination's, at 10.9.8.1 and 10.9.8.2.
fn hosts() -> Result<[Host; 2], String> {
    let host = || Host::new().map_err(|error| format!("no network namespace can be made here: {error}"));
    let (here, there) = (host()?, host()?);
    here.ip(&format!("link add va type veth peer name vb netns {}", there.namespace))?;
    for (host, card, address) in [(&here, "va", 1), (&there, "vb", 2)] {
        host.ip(&format!("addr add 10.9.8.{address}/24 dev {card}"))?;
        host.ip(&format!("link set {card} up"))?;
    }
    Ok([here, there])
}

/// Sends everything to a card that nobody has.
fn silence([here, there]: &[Host; 2]) {
    for (host, peer, card) in [(here, 2, "va"), (there, 1, "vb")] {
        host.ip(&format!("neigh replace 10.9.8.{peer} lladdr 02:00:00:00:00:99 dev {card} nud permanent")).unwrap();
    }
}

#[test]
fn silence_is_noticed_in_time() {
    if let Err(error) = Uffd::open() {
        return skip::skip(&whimbrel_postcopy::error::sentence(&error));
    }
    for (name, postcopy_bandwidth) in [("idle", 1), ("busy", 8 << 20)] {
        let hosts = match hosts() {
            Ok(hosts) => hosts,
            Err(why) => return skip::skip(&why),
        };
        let watches = [Watch::new(), Watch::new()];
        let address = TcpAddress { host: "10.9.8.2".into(), port: 4444 };
        let (guest, watch, at) = (TestGuest::new(&[PAGES], false), watches[1].clone(), address.clone());
        let mut arriving = hosts[1].run(move || {
            let listener = Listener::tcp(&at).unwrap().keepalive(BOUND);
            destination::start(guest, Box::new(listener), watch).unwrap()
        });
        let limits = Limits { policy: Policy::AfterPasses(0), postcopy_bandwidth, ..Limits::default() };
        let (guest, watch) = (TestGuest::new(&[PAGES], true), watches[0].clone());
        (0..PAGES).for_each(|page| guest.write(0, page, 1));
        let mut leaving = hosts[0]
            .run(move || source::start(guest, Arc::new(Dialer::tcp(address).keepalive(BOUND)), limits, watch).unwrap());
        watches.iter().for_each(|watch| assert_eq!(watch.until(&[Status::PostcopyActive]), Status::PostcopyActive));
        // A link that is idle for longer than that is not taken for lost.
        std::thread::sleep(BOUND + LATE);
        assert_eq!(leaving.report().status, Status::PostcopyActive, "{:?}", leaving.report().error);
        assert_eq!(arriving.report().status, Status::PostcopyActive, "{:?}", arriving.report().error);
        let begun = Instant::now();
        silence(&hosts);
        for (side, watch) in ["source", "destination"].into_iter().zip(&watches) {
            watch.until(&[Status::PostcopyPaused]);
            let took = begun.elapsed();
            println!("{name}: the {side} noticed after {took:?}");
            assert!(took < BOUND + LATE, "{name}: the {side} noticed only after {took:?}");
        }
        leaving.abandon();
        arriving.abandon();
    }
}
