//! Whole migrations over TLS, and who is not let in, with real threads, sockets and userfaultfd.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "common/certificates.rs"]
mod certificates;
mod common;
#[path = "../../tests/e2e/support/skip.rs"]
mod skip;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use certificates::{Authority, Directory, Wanted};
use common::{Random, TestGuest, Watch};
use whimbrel_postcopy::channel::{
    Channel, Connector, DestinationTls, Dialer, Listener, SourceTls, TcpAddress, UnixAddress,
};
use whimbrel_postcopy::destination::{self, DestinationHandle};
use whimbrel_postcopy::source::{self, Limits, Multifd, Policy, SourceHandle};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::uffd::Uffd;

const PAGES: u64 = 3000;
/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

fn denied() -> bool {
    Uffd::open().inspect_err(|error| skip::skip(&whimbrel_postcopy::error::sentence(error))).is_err()
}

/// What the engine logs, all tests of this program together.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());
static MORE: Condvar = Condvar::new();

fn log_lines() -> MutexGuard<'static, Vec<String>> {
    // A test that fails must not take the engine's threads of the others along, which log.
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        log_lines().push(record.args().to_string());
        MORE.notify_all();
    }
    fn flush(&self) {}
}

fn listen_to_log() {
    // Another test may have been first.
    let _ = log::set_logger(&Logger);
    log::set_max_level(log::LevelFilter::Debug);
}

/// Waits for a line: the other side may hear first why it was turned away.
fn logged(sentence: &str) -> bool {
    let missing = |lines: &mut Vec<String>| !lines.iter().any(|line| line.contains(sentence));
    let waited = MORE.wait_timeout_while(log_lines(), LIMIT, missing).unwrap_or_else(PoisonError::into_inner);
    !waited.1.timed_out()
}

fn to(port: u16) -> TcpAddress {
    TcpAddress { host: "127.0.0.1".into(), port }
}

fn dialer(directory: &Directory, host: &str, port: u16) -> Dialer {
    Dialer::tcp(to(port)).tls(SourceTls::load(directory.path(), host).unwrap())
}

/// Somebody who waits for a guest.
struct Arriving {
    guest: Arc<TestGuest>,
    handle: DestinationHandle,
    watch: Arc<Watch>,
    port: u16,
}

impl Arriving {
    fn at(directory: Option<&Directory>) -> Self {
        let mut listener = Listener::tcp(&to(0)).unwrap();
        if let Some(directory) = directory {
            listener = listener.tls(DestinationTls::load(directory.path()).unwrap());
        }
        let (guest, watch) = (TestGuest::new(&[PAGES], false), Watch::new());
        let port = listener.port().unwrap();
        let handle = destination::start(guest.clone(), Box::new(listener), watch.clone()).unwrap();
        Self { guest, handle, watch, port }
    }
}

/// A guest that leaves, and what it has written last into each page.
struct Leaving {
    guest: Arc<TestGuest>,
    handle: SourceHandle,
    watch: Arc<Watch>,
    generations: Mutex<Vec<u64>>,
    wrong: AtomicU64,
}

impl Leaving {
    fn by(connector: Arc<dyn Connector>, limits: Limits, channels: u8) -> Self {
        let (guest, watch) = (TestGuest::new(&[PAGES], true), Watch::new());
        let generations: Vec<u64> = (0..PAGES).map(|page| u64::from(page % 7 != 0)).collect();
        (0..PAGES).filter(|page| page % 7 != 0).for_each(|page| guest.write(0, page, 1));
        let multifd = Multifd { channels, postcopy: true };
        let handle = source::start_with(guest.clone(), connector, limits, watch.clone(), multifd).unwrap();
        Self { guest, handle, watch, generations: Mutex::new(generations), wrong: AtomicU64::new(0) }
    }

    fn visit(&self, guest: &TestGuest, random: &mut Random) {
        let page = random.below(PAGES);
        let generation = &mut self.generations.lock().unwrap()[page as usize];
        if *guest.read(0, page) != TestGuest::stamp(page, *generation) {
            self.wrong.fetch_add(1, Ordering::SeqCst);
        }
        if random.below(2) == 0 {
            *generation += 1;
            guest.write(0, page, *generation);
        }
    }

    /// The guest works on wherever it is until it has arrived whole.
    fn arrives(mut self, at: &mut Arriving) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random(5);
                while self.guest.step(|| self.visit(&self.guest, &mut random)) {}
                at.guest.await_running();
                while at.handle.report().status != Status::Completed {
                    at.guest.step(|| self.visit(&at.guest, &mut random));
                }
            });
        });
        let ended = self.watch.until(&[Status::Completed, Status::Failed]);
        assert_eq!(ended, Status::Completed, "{:?}", self.handle.report().error);
        self.handle.join();
        at.handle.join();
        assert_eq!(self.wrong.load(Ordering::SeqCst), 0, "wrong pages seen while running");
        for (page, &generation) in (0..).zip(self.generations.lock().unwrap().iter()) {
            assert!(*at.guest.read(0, page) == TestGuest::stamp(page, generation), "page {page}");
        }
    }

    /// The migration fails and the guest stays: why.
    fn stays(self) -> String {
        assert_eq!(self.watch.until(&[Status::Completed, Status::Failed]), Status::Failed);
        assert!(self.guest.is_running());
        self.handle.report().error.unwrap()
    }
}

#[test]
fn every_mode_moves_a_running_guest_over_tls() {
    if denied() {
        return;
    }
    let directory = Directory::complete(&Authority::new());
    for (passes, multifd) in [(None, 0), (Some(0), 0), (Some(1), 0), (None, 4), (Some(0), 3), (Some(1), 2)] {
        println!("passes {passes:?} multifd {multifd}");
        let postcopy_bandwidth = if passes == Some(0) { 40 << 20 } else { 0 };
        let limits = Limits { policy: passes.into(), bandwidth: 200 << 20, postcopy_bandwidth, ..Limits::default() };
        let mut arriving = Arriving::at(Some(&directory));
        let connector = dialer(&directory, "localhost", arriving.port);
        Leaving::by(Arc::new(connector), limits, multifd).arrives(&mut arriving);
    }
}

#[test]
fn a_broken_link_is_joined_again_over_tls_also_a_unix_socket() {
    if denied() {
        return;
    }
    let directory = Directory::complete(&Authority::new());
    let limits = Limits { policy: Policy::AfterPasses(0), postcopy_bandwidth: 1 << 20, ..Limits::default() };
    let mut arriving = Arriving::at(Some(&directory));
    let leaving = Leaving::by(Arc::new(dialer(&directory, "127.0.0.1", arriving.port)), limits, 2);
    arriving.guest.await_running();
    for round in 1..=2 {
        leaving.watch.until_nth(Status::PostcopyActive, round);
        arriving.watch.until_nth(Status::PostcopyActive, round);
        leaving.handle.break_link();
        leaving.watch.until_nth(Status::PostcopyPaused, round);
        arriving.watch.until_nth(Status::PostcopyPaused, round);
        if round == 1 {
            let listener = Listener::tcp(&to(0)).unwrap().tls(DestinationTls::load(directory.path()).unwrap());
            let port = listener.port().unwrap();
            arriving.handle.recover(Box::new(listener));
            leaving.handle.recover(Arc::new(dialer(&directory, "localhost", port)));
        } else {
            let address = UnixAddress(directory.path().join("socket"));
            let listener = Listener::unix(&address).unwrap().tls(DestinationTls::load(directory.path()).unwrap());
            arriving.handle.recover(Box::new(listener));
            leaving.handle.set_limits(Limits::default());
            let tls = SourceTls::load(directory.path(), "localhost").unwrap();
            leaving.handle.recover(Arc::new(Dialer::unix(address).tls(tls)));
        }
    }
    leaving.arrives(&mut arriving);
}

#[test]
fn who_is_not_let_in_reads_why_and_the_destination_waits_on() {
    if denied() {
        return;
    }
    listen_to_log();
    let (authority, other) = (Authority::new(), Authority::new());
    let here = Directory::complete(&authority);
    here.revoke(&authority, 99);
    let mut arriving = Arriving::at(Some(&here));
    let port = arriving.port;
    let source = |wanted: Wanted, signer: &Authority, trusted: &Authority| {
        let directory = Directory::new();
        directory.trust(trusted);
        directory.put("client", signer, &wanted);
        directory
    };
    let client = || Wanted { client: true, ..Wanted::default() };
    let refused = "the destination refused this side's certificate, client-cert.pem: it ";
    let cases = [
        (
            source(Wanted { years: (2019, 2020), ..client() }, &authority, &authority),
            format!("{refused}has expired or is not valid yet there; check"),
            "turned away: the source's certificate has expired; renew client-cert.pem there",
        ),
        (
            source(Wanted { years: (2099, 2100), ..client() }, &authority, &authority),
            format!("{refused}has expired or is not valid yet there; check"),
            "turned away: the source's certificate is not valid yet; check the clocks",
        ),
        (
            source(client(), &other, &authority),
            format!("{refused}is not signed by the authority in the ca-cert.pem there; use one"),
            "turned away: the source's certificate is not signed by the authority in this side's ca-cert.pem",
        ),
        (
            source(client(), &authority, &other),
            "the destination's certificate is not signed by the authority in this side's ca-cert.pem; use one".into(),
            "turned away: the source refused this side's certificate, server-cert.pem: it is not signed by",
        ),
        (
            source(Wanted { serial: 99, ..client() }, &authority, &authority),
            format!("{refused}has been revoked by the ca-crl.pem there; renew it"),
            "turned away: the source's certificate has been revoked by this side's ca-crl.pem; renew",
        ),
        (
            source(Wanted { client: false, ..client() }, &authority, &authority),
            format!("{refused}is not made for this purpose"),
            "turned away: the source's certificate is not made for TLS clients",
        ),
    ];
    for (directory, told, log) in cases {
        let error = Leaving::by(Arc::new(dialer(&directory, "localhost", port)), Limits::default(), 0).stays();
        assert!(error.contains(&told), "{error}");
        assert!(logged(log), "{log}: {:?}", log_lines().clone());
    }

    let error = Leaving::by(Arc::new(dialer(&here, "example.org", port)), Limits::default(), 0).stays();
    let told = "certificate is not for 'example.org' (the names in it: 127.0.0.1, localhost)";
    assert!(error.contains(told), "{error}");
    assert!(logged("turned away: the source refused this side's certificate, server-cert.pem: the name that"));

    let error = Leaving::by(Arc::new(to(port)), Limits::default(), 0).stays();
    let told = "the source does not use TLS and the destination does";
    assert!(error.contains(told), "{error}");
    assert!(logged(&format!("turned away: {told}")));

    // Nobody at all, or with no protocol that is spoken here; none of them goes away.
    let mut nobodies = Vec::new();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02", b""] {
        let mut nobody = TcpStream::connect(("127.0.0.1", port)).unwrap();
        nobody.write_all(bytes).unwrap();
        nobodies.push(nobody);
    }
    without_certificate(&here, port);
    let changing = Arc::new(Changing { port, authority: &authority, here: &here }.connector());
    let error = Leaving::by(changing, Limits::default(), 0).stays();
    assert!(error.contains("the peer refused: it has another certificate than the control channel"), "{error}");

    let connector = dialer(&here, "localhost", port);
    Leaving::by(Arc::new(connector), Limits::default(), 0).arrives(&mut arriving);
    assert!(logged("turned away: the source does not speak TLS (its first bytes are [47, 45, 54"));
    assert!(logged("turned away: the source presented no certificate; it needs client-cert.pem and its key"));
}

/// A source that has nothing to show.
fn without_certificate(directory: &Directory, port: u16) {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(directory.path().join("ca-cert.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut session = rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let at = ("127.0.0.1", port).to_socket_addrs().unwrap().next().unwrap();
    let mut socket = TcpStream::connect(at).unwrap();
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    let _ = stream.write_all(b"WHIMBREL");
    let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}

/// A source whose channels show different certificates.
struct Changing<'a> {
    port: u16,
    authority: &'a Authority,
    here: &'a Directory,
}

struct InTurn(Mutex<Vec<Dialer>>);

impl Connector for InTurn {
    fn connect(&self) -> std::io::Result<Channel> {
        self.0.lock().unwrap().pop().unwrap().connect()
    }
}

impl Changing<'_> {
    fn connector(&self) -> InTurn {
        let another = Directory::complete(self.authority);
        InTurn(Mutex::new([&another, self.here].map(|it| dialer(it, "localhost", self.port)).into()))
    }
}

#[test]
fn a_destination_with_a_bad_certificate_or_without_tls_gets_no_guest() {
    if denied() {
        return;
    }
    listen_to_log();
    let authority = Authority::new();
    let source = Directory::complete(&authority);
    source.revoke(&authority, 98);
    let cases = [
        (Wanted { years: (2019, 2020), ..Wanted::default() }, "certificate has expired; renew server-cert.pem there"),
        (Wanted { years: (2099, 2100), ..Wanted::default() }, "certificate is not valid yet; check the clocks of both"),
        (Wanted { serial: 98, ..Wanted::default() }, "certificate has been revoked by this side's ca-crl.pem; renew"),
        (Wanted { client: true, ..Wanted::default() }, "certificate is not made for TLS servers; make server-cert.pem"),
        (
            Wanted { names: Vec::new(), ..Wanted::default() },
            "certificate is not for 'localhost' (the names in it: none)",
        ),
    ];
    for (wanted, told) in cases {
        let there = Directory::complete(&authority);
        there.put("server", &authority, &wanted);
        let mut arriving = Arriving::at(Some(&there));
        let connector = dialer(&source, "localhost", arriving.port);
        let error = Leaving::by(Arc::new(connector), Limits::default(), 0).stays();
        assert!(error.contains(&format!("failed: the destination's {told}")), "{error}");
        arriving.handle.abandon();
    }
    let mut arriving = Arriving::at(None);
    let error = Leaving::by(Arc::new(dialer(&source, "localhost", arriving.port)), Limits::default(), 0).stays();
    let told = "the destination does not use TLS and the source does";
    assert!(error.contains(told), "{error}");
    assert!(logged("turned away: the channel was not opened: the source uses TLS and the destination does not"));
    Leaving::by(Arc::new(to(arriving.port)), Limits::default(), 0).arrives(&mut arriving);
}

/// What is wrong with the files is said with the file's name, before anybody is connected to.
#[test]
fn files_that_cannot_be_used_are_named() {
    listen_to_log();
    use std::os::unix::fs::PermissionsExt;
    let authority = Authority::new();
    let directory = Directory::complete(&authority);
    let at = |name: &str| directory.path().join(name);
    let error = |host: &str| SourceTls::load(directory.path(), host).unwrap_err();
    let text = |host: &str| whimbrel_postcopy::error::sentence(&error(host));

    assert!(text("no name").starts_with("'no name' is no name or address that a certificate can have"));
    for name in ["ca-cert.pem", "client-cert.pem", "client-key.pem"] {
        let saved = std::fs::read(at(name)).unwrap();
        std::fs::write(at(name), "nothing").unwrap();
        assert!(text("localhost").contains(&format!("{name}' holds no ")), "{}", text("localhost"));
        std::fs::remove_file(at(name)).unwrap();
        let missing = text("localhost");
        assert!(missing.contains(&format!("/{name}': No such")), "{missing}");
        std::fs::write(at(name), saved).unwrap();
    }
    std::fs::write(at("ca-crl.pem"), "nothing").unwrap();
    assert!(text("localhost").contains("ca-crl.pem' holds no certificate revocation list in PEM form"));
    std::fs::remove_file(at("ca-crl.pem")).unwrap();

    std::fs::set_permissions(at("client-key.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
    SourceTls::load(directory.path(), "localhost").unwrap();
    let path = at("client-key.pem");
    assert!(logged(&format!("the private key '{}' can be read by others", path.display())));

    std::fs::copy(at("server-key.pem"), at("client-key.pem")).unwrap();
    let told = text("localhost");
    assert!(told.starts_with("the key '") && told.contains("client-key.pem' does not belong to the"), "{told}");
    std::fs::copy(at("client-key.pem"), at("server-key.pem")).unwrap();
    DestinationTls::load(directory.path()).unwrap();
    std::fs::copy(at("client-cert.pem"), at("server-cert.pem")).unwrap();
    assert!(
        DestinationTls::load(directory.path()).unwrap_err().to_string().contains("server-key.pem' does not belong")
    );
}

/// A migration between two sides that have these files.
fn moves(directory: &Directory) {
    let mut arriving = Arriving::at(Some(directory));
    let connector = dialer(directory, "localhost", arriving.port);
    Leaving::by(Arc::new(connector), Limits::default(), 0).arrives(&mut arriving);
}

#[test]
fn certificates_of_an_authority_in_between_go_with_its_own_behind_them() {
    if denied() {
        return;
    }
    listen_to_log();
    let authority = Authority::new();
    let between = authority.under();
    let directory = Directory::complete(&between);
    directory.trust(&authority);
    let mut arriving = Arriving::at(Some(&directory));
    let fails = |port| Leaving::by(Arc::new(dialer(&directory, "localhost", port)), Limits::default(), 0).stays();
    // None of it, then the destination's, then both.
    let told = |who: &str, file: &str| {
        format!(
            "the {who}'s certificate is not signed by the authority in this side's ca-cert.pem; use one authority on both sides, \
             and put the certificates of those between it and the {who} into {file} there, behind its own"
        )
    };
    let error = fails(arriving.port);
    assert!(error.contains(&told("destination", "server-cert.pem")), "{error}");
    assert!(logged(
        "server-cert.pem: it is not signed by the authority in the ca-cert.pem there; use one authority on"
    ));
    directory.append("server", &between);
    arriving.handle.abandon();
    let mut arriving = Arriving::at(Some(&directory));
    let error = fails(arriving.port);
    let refused = "client-cert.pem: it is not signed by the authority in the ca-cert.pem there; use one authority on \
                   both sides, and put the certificates of those between into this file, behind its own";
    assert!(error.contains(refused), "{error}");
    assert!(logged(&format!("turned away: {}", told("source", "client-cert.pem"))));
    directory.append("client", &between);
    let connector = dialer(&directory, "localhost", arriving.port);
    Leaving::by(Arc::new(connector), Limits::default(), 0).arrives(&mut arriving);
}

#[test]
fn keys_of_every_kind_that_can_be_made_here() {
    if denied() {
        return;
    }
    let authority = Authority::new();
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let directory = Directory::complete(&authority);
        directory.put("server", &authority, &Wanted { algorithm, ..Wanted::default() });
        directory.put("client", &authority, &Wanted { client: true, algorithm, ..Wanted::default() });
        moves(&directory);
    }
}

/// Where OpenSSL's program is to be had.
fn has_openssl() -> bool {
    let there = Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_ok_and(|it| it.success());
    if !there {
        skip::skip("there is no openssl here: install it");
    }
    there
}

fn openssl(directory: &Directory, words: &str) {
    let output = Command::new("openssl").args(words.split(' ')).current_dir(directory.path()).output().unwrap();
    assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What GnuTLS's certtool writes before a key.
const CERTTOOL: &str = "Public Key Info:\n\tPublic Key Algorithm: RSA\n\tKey Security Level: Medium (2048 bits)\n\n";

#[test]
fn keys_in_every_form_that_other_programs_write() {
    if denied() || !has_openssl() {
        return;
    }
    let authority = Authority::new();
    let forms = [
        ("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out", "BEGIN PRIVATE KEY"),
        ("genrsa -traditional -out", "BEGIN RSA PRIVATE KEY"),
        ("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out", "BEGIN PRIVATE KEY"),
        ("ecparam -name prime256v1 -genkey -noout -out", "BEGIN EC PRIVATE KEY"),
        // The curve stands in a block of its own before the key.
        ("ecparam -name secp384r1 -genkey -out", "BEGIN EC PARAMETERS"),
    ];
    for (make, form) in forms {
        println!("{make}");
        let directory = Directory::complete(&authority);
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("ca-key.pem"), authority.key()).unwrap();
        std::fs::write(at("ext"), "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n").unwrap();
        for who in ["server", "client"] {
            openssl(&directory, &format!("{make} {who}-key.pem"));
            let key = std::fs::read_to_string(at(&format!("{who}-key.pem"))).unwrap();
            assert!(key.contains(form), "{key}");
            openssl(&directory, &format!("req -new -key {who}-key.pem -subj /CN=host -out request"));
            let sign = "x509 -req -in request -CA ca-cert.pem -CAkey ca-key.pem -set_serial 5 -days 30 -extfile ext";
            openssl(&directory, &format!("{sign} -text -out {who}-cert.pem"));
            std::fs::write(at(&format!("{who}-key.pem")), CERTTOOL.to_owned() + &key).unwrap();
        }
        moves(&directory);
    }
    let directory = Directory::complete(&authority);
    let refused = [
        ("genrsa -out", "1024", "it is an RSA key of 1024 bits; a key is RSA of 2048, 3072 or 4096 bits, EC on"),
        // The library takes no RSA key between these, and says so of none.
        ("genrsa -out", "2560", "it is an RSA key of 2560 bits; a key is"),
        ("genpkey -algorithm RSA -aes256 -pass pass:x -out", "", "it is encrypted with a passphrase: take that off"),
        ("genrsa -traditional -aes256 -passout pass:x -out", "", "it is encrypted with a passphrase: take that off"),
        ("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out", "", "it is an EC key on P-521; a key is"),
        ("genpkey -algorithm ED448 -out", "", "it is an Ed448 key; a key is"),
        (
            "ecparam -name prime256v1 -param_enc explicit -genkey -noout -out",
            "",
            "explicit parameters instead of a named",
        ),
        ("genrsa -out", "2048", "does not belong to the certificate"),
    ];
    for (make, bits, told) in refused {
        for who in ["server", "client"] {
            openssl(&directory, format!("{make} {who}-key.pem {bits}").trim());
        }
        let (there, here) = (DestinationTls::load(directory.path()), SourceTls::load(directory.path(), "localhost"));
        for error in [there.err().unwrap(), here.err().unwrap()] {
            assert!(error.to_string().contains(told), "{error}");
        }
    }
}

/// The handshake's first message of a client or a server, in a record, as TLS 1.2 has it: no
/// extension tells of another version.
fn hello_of_tls_1_2(kind: u8, suites: &[u8], rest: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).unwrap().to_be_bytes();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend(suites);
    body.extend(rest);
    let mut record = vec![22, 3, 3];
    record.extend(length(body.len() + 4));
    record.extend([kind, 0]);
    record.extend(length(body.len()));
    record.extend(body);
    record
}

/// The alert `protocol_version`, fatal.
const PROTOCOL_VERSION: [u8; 7] = [21, 3, 3, 0, 2, 2, 70];
const TOO_OLD: &str = "does not speak TLS 1.3, and this side nothing else; see that a Whimbrel answers there";

#[test]
fn a_peer_that_speaks_only_tls_1_2_is_refused_and_told_so() {
    if denied() {
        return;
    }
    listen_to_log();
    let directory = Directory::complete(&Authority::new());
    let mut arriving = Arriving::at(Some(&directory));
    let mut old = TcpStream::connect(("127.0.0.1", arriving.port)).unwrap();
    // Curves, their form, and signatures.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 8, 0, 6, 4, 3, 8, 4, 4, 1];
    let mut rest = vec![1, 0, 0, 26];
    rest.extend(extensions);
    old.write_all(&hello_of_tls_1_2(1, &[0, 4, 0xc0, 0x2b, 0xc0, 0x2f], &rest)).unwrap();
    let mut answer = Vec::new();
    old.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, PROTOCOL_VERSION);
    assert!(logged(&format!("turned away: the source {TOO_OLD}")), "{:?}", log_lines().clone());
    // It waits on.
    let connector = dialer(&directory, "localhost", arriving.port);
    Leaving::by(Arc::new(connector), Limits::default(), 0).arrives(&mut arriving);

    // A server that chooses the old version, and one that will not.
    for says in [hello_of_tls_1_2(2, &[0xc0, 0x2b], &[0]), PROTOCOL_VERSION.to_vec()] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let old = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut header = [0; 5];
            stream.read_exact(&mut header).unwrap();
            stream.read_exact(&mut vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))]).unwrap();
            stream.write_all(&says).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            (says, answer)
        });
        let error = Leaving::by(Arc::new(dialer(&directory, "localhost", port)), Limits::default(), 0).stays();
        assert!(error.contains(&format!("the destination {TOO_OLD}")), "{error}");
        let (says, answer) = old.join().unwrap();
        assert!(says == PROTOCOL_VERSION || answer.ends_with(&PROTOCOL_VERSION), "{answer:?}");
    }
}

#[test]
fn openssl_that_is_held_to_tls_1_2_is_refused() {
    if denied() || !has_openssl() {
        return;
    }
    listen_to_log();
    let directory = Directory::complete(&Authority::new());
    let mut arriving = Arriving::at(Some(&directory));
    let client = |version: &str| {
        let to = format!("127.0.0.1:{}", arriving.port);
        let files = ["-CAfile", "ca-cert.pem", "-cert", "client-cert.pem", "-key", "client-key.pem"];
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &to, version])
            .args(files)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let said = client("-tls1_2");
    assert!(said.contains("alert protocol version"), "{said}");
    assert!(logged(&format!("turned away: the source {TOO_OLD}")));
    // It is the version, and nothing else.
    let said = client("-tls1_3");
    assert!(said.contains("New, TLSv1.3, Cipher is"), "{said}");
    arriving.handle.abandon();
}
