//! [`listen`]: one thread that hears both serial ports and notes when.

use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::DemoError;
use super::trace::Side;

/// The listening thread's nice value: on a busy host it must be there when a byte arrives.
const NICE: i32 = -15;

/// Bytes that the guest sent, with the time of their arrival since the beginning of the demo.
pub struct Heard {
    /// From where.
    pub side: Side,
    /// When.
    pub at: Duration,
    /// What.
    pub bytes: Vec<u8>,
}

/// Begins to listen; ends when both processes have, or when nobody wants to know any more.
pub fn listen(consoles: [(Side, UnixStream); 2], began: Instant, heard: Sender<Heard>) -> Result<(), DemoError> {
    let raise = |source| DemoError::Start { role: "listening", source };
    let listening = thread::Builder::new().name("listen".to_owned()).spawn(move || {
        // Only the calling thread's, in Linux. Without the privilege times are as good as the host
        // is idle.
        let _ = rustix::process::setpriority_process(None, NICE);
        serve(Vec::from(consoles), began, &heard);
    });
    listening.map(drop).map_err(raise)
}

/// One thread for both, in the order source, destination: a thread each could take the times in the
/// wrong order.
fn serve(mut consoles: Vec<(Side, UnixStream)>, began: Instant, heard: &Sender<Heard>) {
    let mut buffer = [0; 4096];
    while !consoles.is_empty() {
        let mut fds: Vec<_> =
            consoles.iter().map(|(_, console)| PollFd::new(console.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return,
        }
        let at = began.elapsed();
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect::<Vec<_>>().into_iter();
        let mut wanted = true;
        consoles.retain_mut(|(side, console)| match ready.next() {
            Some(true) => match console.read(&mut buffer) {
                Ok(0) => false,
                Ok(count) => {
                    wanted &= heard.send(Heard { side: *side, at, bytes: buffer[..count].to_vec() }).is_ok();
                    true
                }
                Err(error) => error.kind() == ErrorKind::Interrupted,
            },
            _ => true,
        });
        if !wanted {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn both_are_heard_until_both_have_ended() {
        let (mut source, a) = UnixStream::pair().unwrap();
        let (mut destination, b) = UnixStream::pair().unwrap();
        let (sender, heard) = crossbeam_channel::unbounded();
        listen([(Side::Source, a), (Side::Destination, b)], Instant::now(), sender).unwrap();
        source.write_all(b"s").unwrap();
        let first = heard.recv().unwrap();
        drop(source);
        destination.write_all(b"d").unwrap();
        let second = heard.recv().unwrap();
        drop(destination);
        assert_eq!((first.side, &first.bytes[..]), (Side::Source, &b"s"[..]));
        assert_eq!((second.side, &second.bytes[..]), (Side::Destination, &b"d"[..]));
        assert!(first.at <= second.at);
        assert!(heard.recv().is_err(), "the thread has ended");
    }
}
