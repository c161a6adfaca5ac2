//! What need not be sent, or kept: RAM that the destination maps, and pages that it says it has.

use std::sync::Arc;

use super::{Action, Asking, Outcome, Released, SHARED, Source, State};
use crate::error::MigrationError;
use crate::wire::{Features, Forward, Fragment};

impl Source {
    /// The same; in postcopy the host gets back what the destination says it has. `released` is
    /// shared with the thread that answers requests.
    pub fn releasing(self, released: Arc<Released>) -> Self {
        Self { asking: Some(Asking::new(released)), ..self }
    }

    /// Whether the guest has gone, and its RAM with it: nothing of it is needed here any more, not
    /// even for another look.
    pub fn leaves_ram(&self) -> bool {
        let released = self.asking.is_some() && self.listening;
        matches!(self.state, State::Ended(Outcome::Completed)) && (self.limits.ignore_shared || released)
    }

    /// RAM is the destination's as it is: nothing is pending, and nothing has to be logged.
    pub(super) fn share(&mut self) {
        if !self.destination.contains(Features::SHARED_RAM) {
            self.state = State::Describing;
            return self.fail(MigrationError::NoSharedRam);
        }
        self.pending.clear_all();
        self.state = State::Sharing;
        self.then([Action::ShareRam, Action::Send(Forward::Barrier(SHARED)), Action::Wait(None)]);
    }

    /// Whether the destination is about to tell which pages it has, while the background waits.
    pub(super) fn is_asking(&self) -> bool {
        self.asking.as_ref().is_some_and(Asking::is_open)
    }

    /// The destination has these pages: they are not sent any more. `false` if there are none such.
    pub(super) fn has_received(&mut self, fragment: &Fragment) -> bool {
        let fits = fragment.fits(&self.pending);
        match self.pending.block(fragment.block).filter(|_| fits) {
            Some(bitmap) => fragment.iter().for_each(|(word, bits)| {
                bitmap.clear_word(word, bits);
            }),
            None => self.fail(MigrationError::NoSuchPages(format!("pages of block {}", fragment.block.0))),
        }
        fits
    }
}
