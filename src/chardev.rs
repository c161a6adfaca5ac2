//! What is behind the serial port and the console: a terminal, a file, a socket, a pseudo-terminal
//! or nothing.
//!
//! Output is written by whoever has it (a vCPU's or a device's thread), without ever blocking: what
//! a slow reader does not take waits in a bounded backlog, and what does not fit there is dropped,
//! with one warning. Input is read by a thread of its own, and only when the last of it was taken:
//! the pipe, socket or terminal itself makes the other end wait, so no byte is lost.
//!
//! | file | what is in it |
//! |---|---|
//! | `open` | opening each kind of device |
//! | `output` | the writing side and its backlog |
//! | `thread` | the thread: input, clients, the backlog of a slow reader |
//! | `waker` | what wakes and ends it |
//! | `terminal` | this process's terminal, raw and back again |

mod config;
mod open;
mod output;
mod terminal;
mod thread;
mod waker;

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

pub use config::CharDevice;
pub use output::Output;
pub use waker::Waker;

use crate::sandbox;
use open::Endpoint;

/// Takes input and says how much of it.
pub type Receive = Box<dyn FnMut(&[u8]) -> usize + Send>;

/// A character device that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum CharDeviceError {
    /// A file or FIFO.
    #[error("{} cannot be opened for output", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket to connect to.
    #[error("the socket {} cannot be connected to (',server' behind it would listen there)", path.display())]
    Connect {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket to listen on.
    #[error("the socket {} cannot be listened on", path.display())]
    Listen {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A pseudo-terminal.
    #[error("no pseudo-terminal can be opened")]
    Pty(#[source] io::Error),
    /// Standard input and output.
    #[error("standard input and output cannot be used")]
    Stdio(#[source] io::Error),
    /// The thread or its wake-up.
    #[error("the thread of a character device cannot be started")]
    Thread(#[source] io::Error),
}

/// An open character device.
pub struct CharBackend {
    label: &'static str,
    output: Output,
    waker: Waker,
    endpoint: Mutex<Option<Endpoint>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl CharBackend {
    /// Opens it. Nobody is waited for. `label` names it for who is to find its pseudo-terminal.
    pub fn open(device: &CharDevice, label: &'static str) -> Result<Self, CharDeviceError> {
        let waker = Waker::new().map_err(CharDeviceError::Thread)?;
        let output = Output::new(label, waker.clone());
        let endpoint = Endpoint::open(device, label, &output)?;
        Ok(Self { label, output, waker, endpoint: Mutex::new(Some(endpoint)), thread: Mutex::new(None) })
    }

    /// The writing side.
    pub fn output(&self) -> Output {
        self.output.clone()
    }

    /// To be woken when input may be taken again.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Starts the thread, which gives all input to `receive`. Once.
    pub fn start(&self, receive: Receive) -> Result<(), CharDeviceError> {
        let endpoint = lock(&self.endpoint).take();
        let Some(endpoint) = endpoint.filter(|endpoint| !endpoint.is_null()) else {
            return Ok(());
        };
        let (output, waker) = (self.output.clone(), self.waker.clone());
        let thread = Builder::new()
            .name(self.label.into())
            .spawn(move || {
                sandbox::enter(sandbox::Thread::Character);
                thread::serve(endpoint, &output, &waker, receive);
            })
            .map_err(CharDeviceError::Thread)?;
        *lock(&self.thread) = Some(thread);
        Ok(())
    }

    /// Ends the thread and puts the terminal back. Idempotent.
    pub fn close(&self) {
        self.waker.stop();
        lock(&self.endpoint).take();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
        self.output.close();
    }
}

impl Drop for CharBackend {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
