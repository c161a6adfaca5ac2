//! Telling of a host's disk that fails, without filling its log as well.

use std::time::Instant;

use crate::block::BlockError;
use crate::devices::virtio::log_ratelimit::LogRateLimit;
use crate::sentence::sentence;

/// One disk's complaints.
#[derive(Debug, Default)]
pub(super) struct Complaints(LogRateLimit);

impl Complaints {
    /// A request failed.
    pub fn about(&mut self, error: &BlockError) {
        // What the driver should not have asked for is the driver's to know.
        if let BlockError::Range { .. } | BlockError::ReadOnly(_) = error {
            log::debug!("a guest's disk request is refused: {error}");
        } else if let Some(unsaid) = self.0.say(Instant::now()) {
            let words = sentence(error);
            log::error!("{words} (the guest is told; {unsaid} such errors before this one were not logged)");
        }
    }
}
