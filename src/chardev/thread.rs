//! The thread: input, clients, and the backlog of a slow reader.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::open::{Endpoint, stream};
use super::{Output, Receive, Waker};
use crate::host::PrivateListener;

/// Serves the endpoint until the waker says stop.
pub(super) fn serve(mut endpoint: Endpoint, output: &Output, waker: &Waker, mut receive: Receive) {
    let mut client: Option<File> = None;
    let mut input_ended = false;
    let mut pending = Pending::default();
    while !waker.is_stopped() {
        pending.offer(&mut receive);
        if client.is_some() && !output.is_connected() {
            client = None;
        }
        let source = match (&endpoint, &client) {
            _ if input_ended || !pending.is_empty() => None,
            (Endpoint::Stream { file, .. }, _) => Some(Source::File(file)),
            (Endpoint::Server(_), Some(file)) => Some(Source::File(file)),
            (Endpoint::Server(listener), None) => Some(Source::Client(listener.as_fd())),
            (Endpoint::Null | Endpoint::Mute, _) => None,
        };
        if !wait(source.as_ref(), output, waker) {
            continue;
        }
        let ended = match source {
            Some(Source::File(file)) => pending.read(file),
            Some(Source::Client(_)) | None => false,
        };
        if let (Endpoint::Server(listener), None) = (&mut endpoint, &client) {
            client = accept(listener, output);
        } else if ended && client.take().is_some() {
            output.close();
        } else if ended {
            // Output may still have a reader: standard input is often /dev/null.
            input_ended = true;
        }
    }
}

/// What the thread waits for.
enum Source<'a> {
    File(&'a File),
    Client(BorrowedFd<'a>),
}

/// Sleeps until something happens; whether it is the source. Writes what waits on the way.
fn wait(source: Option<&Source<'_>>, output: &Output, waker: &Waker) -> bool {
    let slow_reader = output.waiting_for();
    let mut fds = vec![PollFd::new(waker.as_fd(), PollFlags::POLLIN)];
    if let Some(source) = source {
        let fd = match source {
            Source::File(file) => file.as_fd(),
            Source::Client(fd) => *fd,
        };
        fds.push(PollFd::new(fd, PollFlags::POLLIN));
    }
    if let Some(file) = &slow_reader {
        fds.push(PollFd::new(file.as_fd(), PollFlags::POLLOUT));
    }
    if poll(&mut fds, PollTimeout::NONE).is_err() {
        return false;
    }
    let happened = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
    if happened(&fds[0]) {
        waker.clear();
    }
    if slow_reader.is_some() && fds.last().is_some_and(happened) {
        output.flush_backlog();
    }
    source.is_some() && happened(&fds[1])
}

/// Takes the next client.
fn accept(listener: &PrivateListener, output: &Output) -> Option<File> {
    let socket = listener.accept().ok()?;
    let client = stream(socket).ok()?;
    output.connect(client.try_clone().ok()?);
    Some(client)
}

/// Input that was read and not taken yet.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    taken: usize,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }

    fn offer(&mut self, receive: &mut Receive) {
        while !self.is_empty() {
            match receive(&self.bytes[self.taken..]) {
                0 => return,
                count => self.taken += count,
            }
        }
    }

    /// Reads the next input; whether there will be no more.
    fn read(&mut self, mut source: impl Read) -> bool {
        self.bytes.resize(4096, 0);
        self.taken = 0;
        let result = source.read(&mut self.bytes);
        self.bytes.truncate(*result.as_ref().unwrap_or(&0));
        match result {
            Ok(count) => count == 0,
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
    }
}
