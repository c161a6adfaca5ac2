#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

fn sink() -> (Receive, Receiver<Vec<u8>>) {
    let (sender, receiver) = mpsc::channel();
    let receive = move |bytes: &[u8]| {
        sender.send(bytes.to_vec()).unwrap();
        bytes.len()
    };
    (Box::new(receive), receiver)
}

/// Its thread is held to its system calls.
fn open(device: &CharDevice) -> CharBackend {
    crate::sandbox::begin_for_tests();
    CharBackend::open(device, "serial0").unwrap()
}

#[test]
fn a_server_is_for_this_user_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("serial");
    let _backend = open(&CharDevice::Unix { path: path.clone(), server: true });
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_server_takes_one_client_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("serial");
    let device = CharDevice::Unix { path: path.clone(), server: true };
    let backend = open(&device);
    let (receive, received) = sink();
    backend.start(receive).unwrap();
    backend.output().write_all(b"nobody hears this").unwrap();
    for round in 0..3u8 {
        let mut client = UnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.write_all(&[b'0' + round]).unwrap();
        assert_eq!(received.recv_timeout(LIMIT).unwrap(), [b'0' + round]);
        backend.output().write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
    }
    backend.close();
    assert!(!path.exists());
}

#[test]
fn connecting_goes_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("serial");
    let listener = UnixListener::bind(&path).unwrap();
    let device = CharDevice::Unix { path, server: false };
    let backend = open(&device);
    let (receive, received) = sink();
    backend.start(receive).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(LIMIT)).unwrap();
    peer.write_all(b"in").unwrap();
    assert_eq!(received.recv_timeout(LIMIT).unwrap(), b"in");
    backend.output().write_all(b"out").unwrap();
    let mut out = [0; 3];
    peer.read_exact(&mut out).unwrap();
    assert_eq!(&out, b"out");
}

#[test]
fn a_slow_reader_gets_the_backlog_in_order_and_blocks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("serial");
    let listener = UnixListener::bind(&path).unwrap();
    let device = CharDevice::Unix { path, server: false };
    let backend = open(&device);
    backend.start(sink().0).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(LIMIT)).unwrap();
    // More than the socket takes, less than socket and backlog together.
    let sent: Vec<u8> = (0..output::BACKLOG).map(|at| (at % 251) as u8).collect();
    backend.output().write_all(&sent).unwrap();
    let mut got = vec![0; sent.len()];
    peer.read_exact(&mut got).unwrap();
    assert!(got == sent);
    // Far more than both take: it comes back all the same.
    for _ in 0..20 {
        backend.output().write_all(&sent).unwrap();
    }
}

#[test]
fn input_that_is_not_taken_waits_and_is_offered_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("serial");
    let device = CharDevice::Unix { path: path.clone(), server: true };
    let backend = open(&device);
    let room = Arc::new(AtomicUsize::new(0));
    let (sender, received) = mpsc::channel();
    let left = room.clone();
    let receive = move |bytes: &[u8]| {
        let count = left.swap(0, Ordering::SeqCst).min(bytes.len());
        sender.send(bytes[..count].to_vec()).unwrap();
        count
    };
    backend.start(Box::new(receive)).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"abcdef").unwrap();
    let mut got = Vec::new();
    while got.len() < 6 {
        got.extend(received.recv_timeout(LIMIT).unwrap());
        room.store(2, Ordering::SeqCst);
        backend.waker().wake();
    }
    assert_eq!(got, b"abcdef");
}

#[test]
fn a_fifo_without_a_reader_does_not_hang() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let backend = open(&CharDevice::File(path.clone()));
    backend.start(sink().0).unwrap();
    backend.output().write_all(b"kept").unwrap();
    let mut reader = std::fs::File::open(&path).unwrap();
    let mut got = [0; 4];
    reader.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"kept");
}

#[test]
fn a_file_holds_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let backend = open(&CharDevice::File(path.clone()));
    backend.output().write_all(b"line\n").unwrap();
    backend.close();
    assert_eq!(std::fs::read(&path).unwrap(), b"line\n");
}

#[test]
fn a_file_is_one_machines_and_nothing_but_text_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let refused = |path: PathBuf| {
        let error = CharBackend::open(&CharDevice::File(path.clone()), "serial0").err().unwrap();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        crate::sentence::sentence(&error)
    };
    std::fs::write(at("log"), "yesterday's, longer than today's\n").unwrap();
    let backend = open(&CharDevice::File(at("log")));
    backend.output().write_all(b"today's\n").unwrap();
    assert!(refused(at("log")).contains("is being written by another process"));
    assert_eq!(std::fs::read(at("log")).unwrap(), b"today's\n");
    for (name, bytes) in
        [("vmlinux", &b"\x7fELF\x02\x01\x01\0"[..]), ("disk", &[0; 4096]), ("image", b"QFI\xfb\0\0\0\x03")]
    {
        std::fs::write(at(name), bytes).unwrap();
        assert!(refused(at(name)).contains("would be lost"), "{name}");
        assert_eq!(std::fs::read(at(name)).unwrap(), bytes);
    }
    let _living = UnixListener::bind(at("socket")).unwrap();
    assert!(refused(at("socket")).contains("it is a socket"));
    assert!(refused(folder.path().to_owned()).contains("it is a directory"));
}

#[test]
fn what_cannot_be_opened_is_named() {
    let missing = PathBuf::from("/nonexistent/serial");
    let device = CharDevice::Unix { path: missing.clone(), server: false };
    for device in [device, CharDevice::File(missing)] {
        let error = CharBackend::open(&device, "serial0").err().unwrap();
        assert!(error.to_string().contains("/nonexistent/serial"), "{error}");
    }
}
