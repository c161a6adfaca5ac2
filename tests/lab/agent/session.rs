//! One order of the lab, carried out.

use std::io::{Read, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::frame;

/// The half of the connection that output goes to, shared by everything that has some.
type Output = Arc<Mutex<TcpStream>>;

/// Carries out the order, to its last frame.
pub fn carry_out(lab: TcpStream, kind: u8, content: Vec<u8>) {
    let text = String::from_utf8_lossy(&content).into_owned();
    let done = match kind {
        b'S' => run(&lab, &text),
        b'C' => relay(&lab, &text),
        other => say(&lab, b'e', format!("unknown order {other:#x}\n").as_bytes()).map(|()| 1),
    };
    let status = done.unwrap_or_else(|error| {
        let _ = say(&lab, b'e', format!("{text}: {error}\n").as_bytes());
        127
    });
    // The lab may be gone; there is nobody else to tell.
    let _ = say(&lab, b'x', status.to_string().as_bytes());
    let _ = lab.shutdown(Shutdown::Both);
}

fn say(mut lab: &TcpStream, kind: u8, content: &[u8]) -> Result<()> {
    frame::write(&mut lab, kind, content)
}

/// Runs a shell command in a process group of its own and returns its exit status.
fn run(lab: &TcpStream, command: &str) -> Result<i32> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let output = Arc::new(Mutex::new(lab.try_clone()?));
    let pumps = [
        child.stdout.take().map(|from| pump(from, &output, b'o')),
        child.stderr.take().map(|from| pump(from, &output, b'e')),
    ];
    let finished = Arc::new(AtomicBool::new(false));
    feed(&mut child, lab.try_clone()?, &finished);
    let status = child.wait()?;
    finished.store(true, Ordering::SeqCst);
    pumps.into_iter().flatten().for_each(|pump| drop(pump.join()));
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// Gives the lab's input to the child, in a thread; a lab that goes away takes the child's process
/// group along.
fn feed(child: &mut Child, mut lab: TcpStream, finished: &Arc<AtomicBool>) {
    let mut input = child.stdin.take();
    let group = format!("-{}", child.id());
    let finished = Arc::clone(finished);
    thread::spawn(move || {
        while let Ok((b'i', bytes)) = frame::read(&mut lab) {
            let open = match &mut input {
                Some(to) if !bytes.is_empty() => to.write_all(&bytes).is_ok(),
                _ => false,
            };
            if !open {
                input = None;
            }
        }
        if !finished.load(Ordering::SeqCst) {
            let _ = Command::new("/bin/kill").args(["-KILL", &group]).status();
        }
    });
}

/// Sends what can be read to the lab, in a thread, until there is no more of it.
fn pump(mut from: impl Read + Send + 'static, output: &Output, kind: u8) -> JoinHandle<()> {
    let output = Arc::clone(output);
    thread::spawn(move || {
        let mut piece = [0; 16384];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            let sent = output.lock().map(|mut lab| frame::write(&mut *lab, kind, &piece[..length]));
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    })
}

/// Connects to a unix socket and relays both ways until either side ends.
fn relay(lab: &TcpStream, path: &str) -> Result<i32> {
    let mut socket = UnixStream::connect(path)?;
    let output = Arc::new(Mutex::new(lab.try_clone()?));
    let mut input = lab.try_clone()?;
    let reader = pump(socket.try_clone()?, &output, b'o');
    // An empty frame tells the lab that the connection stands: a socket may have nothing to say for
    // long.
    say(lab, b'o', b"")?;
    thread::spawn(move || {
        while let Ok((b'i', bytes)) = frame::read(&mut input) {
            if bytes.is_empty() || socket.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = socket.shutdown(Shutdown::Both);
    });
    drop(reader.join());
    Ok(0)
}
