//! [`Session`]: one client's conversation, bytes in and bytes out, without a socket.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::event::Event;
use super::vm::Vm;

/// Whether a conversation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    /// It does.
    Continue,
    /// What is in the output is the last of it.
    Close,
}

/// One client's conversation.
pub trait Session {
    /// What the client sees first.
    fn greet(&mut self, out: &mut Vec<u8>);

    /// Takes what the client sent, split anywhere, and answers all that is complete.
    fn receive(&mut self, input: &[u8], vm: &dyn Vm, out: &mut Vec<u8>) -> Flow;

    /// Takes descriptors that came with what is received next.
    fn hand(&mut self, fds: Vec<OwnedFd>);

    /// Whether [`Session::receive`] wants more now. A client that waits for a migration is not read
    /// from.
    fn wants_input(&self) -> bool {
        true
    }

    /// Whether the answers that [`Session::receive`] gave are sent behind the events that the
    /// commands led to, as QEMU does.
    fn answers_behind_events(&self) -> bool {
        false
    }

    /// Something happened.
    fn notify(&mut self, event: &Event, vm: &dyn Vm, out: &mut Vec<u8>) -> Flow;

    /// How often [`Session::tick`] wants to be called; `None` while it does not.
    fn tick_every(&self) -> Option<Duration> {
        None
    }

    /// That much time has passed, and the client has taken all that was said before.
    fn tick(&mut self, _vm: &dyn Vm, _out: &mut Vec<u8>) -> Flow {
        Flow::Continue
    }
}
