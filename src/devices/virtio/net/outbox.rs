//! Frames from the driver to the tap (section 5.1.6.2).

use std::io::{self, ErrorKind, IoSlice};

use super::super::{Broken, Chain, Ring};
use super::inbox::LARGEST;
use crate::kvm::GuestMemory;
use crate::net::{HEADER, Tap};

/// How many frames are sent before something else gets its turn.
const TURN: usize = 16;

/// Sends what the driver has in its queue.
pub struct Outbox(Vec<u8>);

impl Default for Outbox {
    fn default() -> Self {
        Self(vec![0; LARGEST])
    }
}

impl Outbox {
    /// Sends some of what there is; whether there may be more.
    pub fn send(&mut self, tap: &Tap, ring: &mut Ring, memory: &GuestMemory) -> Result<bool, Broken> {
        ring.serve_some(memory, TURN, |chain| {
            let length = self.collect(chain, memory)?;
            send(tap, &[IoSlice::new(&self.0[..length])]);
            Ok(0)
        })
    }

    fn collect(&mut self, chain: &Chain, memory: &GuestMemory) -> Result<usize, Broken> {
        let bytes = chain.readable_bytes();
        if !(HEADER as u64..=LARGEST as u64).contains(&bytes) {
            return Err(Broken(format!("a frame with its header has {bytes} bytes")));
        }
        chain.read_at(memory, 0, &mut self.0[..bytes as usize])
    }
}

/// Sends one frame, its header in front. One that the host does not take is lost, as on any wire.
pub fn send(tap: &Tap, pieces: &[IoSlice<'_>]) {
    loop {
        match tap.send(pieces) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return lost(tap, &error),
            Ok(_) => return,
        }
    }
}

fn lost(tap: &Tap, error: &io::Error) {
    // EINVAL: a header that makes no sense. EIO: the interface is down. Either may come with every
    // frame.
    log::debug!("a frame is lost: tap '{}' does not take it: {error}", tap.name());
}
