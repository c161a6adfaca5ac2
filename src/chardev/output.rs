//! The writing side and its backlog.

use std::collections::VecDeque;
use std::fs::File;
use std::io::ErrorKind::{BrokenPipe, ConnectionReset, QuotaExceeded, StorageFull};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Waker;

/// How much output waits for a slow reader, in bytes.
pub(super) const BACKLOG: usize = 256 << 10;

struct Link {
    label: &'static str,
    file: Option<File>,
    /// Whether the file may block, so that it is asked before each write.
    shared: bool,
    backlog: VecDeque<u8>,
    dropped: bool,
}

/// Where output goes; cloned freely. Never blocks and never fails: see the module's text.
#[derive(Clone)]
pub struct Output {
    link: Arc<Mutex<Link>>,
    waker: Waker,
}

impl Output {
    pub(super) fn new(label: &'static str, waker: Waker) -> Self {
        Self {
            link: Arc::new(Mutex::new(Link {
                label,
                file: None,
                shared: false,
                backlog: VecDeque::new(),
                dropped: false,
            })),
            waker,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on output goes to a non-blocking file.
    pub(super) fn connect(&self, file: File) {
        let mut link = self.lock();
        link.file = Some(file);
        link.shared = false;
    }

    /// From here on output goes to a file that may block.
    pub(super) fn connect_shared(&self, file: File) {
        let mut link = self.lock();
        link.file = Some(file);
        link.shared = true;
    }

    /// From here on output is dropped.
    pub(super) fn close(&self) {
        let mut link = self.lock();
        link.flush();
        link.file = None;
        link.backlog.clear();
        link.dropped = false;
    }

    /// Whether there is somewhere to write to.
    pub(super) fn is_connected(&self) -> bool {
        self.lock().file.is_some()
    }

    /// A descriptor to wait on, if something waits for it to take output.
    pub(super) fn waiting_for(&self) -> Option<File> {
        let link = self.lock();
        if link.backlog.is_empty() {
            return None;
        }
        link.file.as_ref()?.try_clone().ok()
    }

    /// Writes what waits, as far as it goes.
    pub(super) fn flush_backlog(&self) {
        self.lock().flush();
    }
}

impl Link {
    fn flush(&mut self) {
        while !self.backlog.is_empty() {
            let (bytes, _) = self.backlog.as_slices();
            let bytes = bytes.to_vec();
            match self.write_now(&bytes) {
                0 => return,
                count => drop(self.backlog.drain(..count)),
            }
        }
    }

    /// Writes what goes without waiting; how much that was. A reader that is gone takes everything.
    fn write_now(&mut self, bytes: &[u8]) -> usize {
        let Some(file) = self.file.as_mut() else {
            return bytes.len();
        };
        if self.shared && !takes_output(file) {
            return 0;
        }
        loop {
            match file.write(bytes) {
                Ok(count) => return count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return 0,
                // There may be room again later.
                Err(error) if matches!(error.kind(), StorageFull | QuotaExceeded) => {
                    self.drop_for(&error);
                    return bytes.len();
                }
                Err(error) => {
                    if !matches!(error.kind(), BrokenPipe | ConnectionReset) {
                        self.drop_for(&error);
                    }
                    self.file = None;
                    return bytes.len();
                }
            }
        }
    }

    fn drop_for(&mut self, error: &io::Error) {
        if !self.dropped {
            self.dropped = true;
            log::warn!("the output of {} cannot be written ({error}): it is dropped", self.label);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = BACKLOG - self.backlog.len();
        let kept = bytes.len().min(room);
        self.backlog.extend(&bytes[..kept]);
        if kept < bytes.len() && !self.dropped {
            self.dropped = true;
            log::warn!("nobody reads the output of {}: what comes now is dropped", self.label);
        }
    }
}

fn takes_output(file: &File) -> bool {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut link = self.lock();
        let had_file = link.file.is_some();
        let written = if link.backlog.is_empty() { link.write_now(bytes) } else { 0 };
        let rest = &bytes[written..];
        let first = link.backlog.is_empty();
        link.keep(rest);
        // The thread waits for the reader, or notices that it is gone.
        if (first && !rest.is_empty()) || (had_file && link.file.is_none()) {
            self.waker.wake();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
