//! Whoever connects to a place where a guest is awaited, and is not its source: the source gets in
//! all the same, at once.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "common/certificates.rs"]
mod certificates;
mod common;

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use certificates::{Authority, Directory};
use common::{TestGuest, Watch};
use whimbrel_postcopy::channel::{Connector, DestinationTls, Dialer, Listener, SourceTls, TcpAddress, UnixAddress};
use whimbrel_postcopy::destination::{self, Options};
use whimbrel_postcopy::source::{self, Limits, Multifd};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::wire::{ChannelKind, Features, Hello, Token};

const STRANGERS: usize = 200;
const BLOCKS: [u64; 1] = [64];
/// Far more than it takes, and far less than one stranger is waited for.
const AT_ONCE: Duration = Duration::from_secs(1);

trait Stream: Write + Send {}
impl<T: Write + Send> Stream for T {}

/// A guest comes to `listener` by `dialer` while strangers, each of which has said something of its
/// own, keep what `connect` gives.
fn comes_in(listener: Listener, dialer: Dialer, connect: impl Fn() -> Box<dyn Stream>, tls: bool) {
    let hello = |number: usize| {
        // A stranger that speaks the protocol, and says no more.
        let token = Token([number as u8; 16]);
        let features = Features::default();
        Hello { versions: (1, 1), kind: ChannelKind::Control, recover: false, token, features }.encode()
    };
    let (leaves, arrives) = (TestGuest::new(&BLOCKS, true), TestGuest::new(&BLOCKS, false));
    leaves.write(0, 3, 1);
    let (source_watch, watch) = (Watch::new(), Watch::new());
    let mut arriving =
        destination::start_with(arrives.clone(), Box::new(listener), watch.clone(), Options::default()).unwrap();
    let strangers: Vec<_> = (0..STRANGERS)
        .map(|number| {
            let mut stranger = connect();
            let _ = match number % 8 {
                0 => stranger.write_all(&hello(number)[..number % 40]),
                1 => stranger.write_all(b"GET / HTTP/1.1\r\n\r\n"),
                2 if !tls => stranger.write_all(&hello(number)),
                // The first bytes of a handshake that does not go on.
                3 if tls => stranger.write_all(&[22, 3, 1, 2, 0, 1, 0]),
                _ => Ok(()),
            };
            stranger
        })
        .collect();
    let connector: Arc<dyn Connector> = Arc::new(dialer);
    let multifd = Multifd { channels: 3, postcopy: false };
    let mut leaving =
        source::start_with(leaves.clone(), connector, Limits::default(), source_watch.clone(), multifd).unwrap();
    source_watch.until(&[Status::Completed]);
    watch.until(&[Status::Completed]);
    let setup = leaving.report().setup_time;
    assert!(setup < AT_ONCE, "{setup:?}");
    leaving.join();
    arriving.join();
    assert!(arrives.is_running() && *arrives.read(0, 3) == TestGuest::stamp(3, 1));
    drop(strangers);
}

#[test]
fn beside_two_hundred_strangers_the_source_gets_in_at_once_over_tcp_and_with_tls() {
    let directory = Directory::complete(&Authority::new());
    for tls in [false, true] {
        let mut listener = Listener::tcp(&TcpAddress { host: "127.0.0.1".into(), port: 0 }).unwrap();
        let address = listener.address().unwrap();
        let mut dialer = Dialer::tcp(TcpAddress { host: "127.0.0.1".into(), port: address.port() });
        if tls {
            listener = listener.tls(DestinationTls::load(directory.path()).unwrap());
            dialer = dialer.tls(SourceTls::load(directory.path(), "127.0.0.1").unwrap());
        }
        comes_in(listener, dialer, || Box::new(TcpStream::connect(address).unwrap()), tls);
    }
}

#[test]
fn beside_two_hundred_strangers_the_source_gets_in_at_once_over_a_unix_socket() {
    let directory = Directory::new();
    let path = directory.path().join("in");
    let address = UnixAddress(path.clone());
    let listener = Listener::unix(&address).unwrap();
    comes_in(listener, Dialer::unix(address), || Box::new(UnixStream::connect(&path).unwrap()), false);
}
