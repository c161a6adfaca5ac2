//! Runs of pages on their way out: zero pages become zero runs, the rest goes straight from guest RAM to the socket.

use crate::channel::{Batch, Channel, ChannelError, Wake};
use crate::memory::RamBlock;
use crate::ram::{PageIndex, PageRun};
use crate::wire::Forward;

/// A batch is sent once it holds so many bytes: enough that the call is cheap, few enough that they stay in the cache.
const BATCH_BYTES: usize = 256 * 1024;
/// Zero runs wait for each other up to so many.
const MOST_ZEROS: usize = 1024;

/// What was put on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes, headers included.
    pub bytes: usize,
    /// Pages sent whole.
    pub normal: u64,
    /// Pages sent as zero.
    pub zero: u64,
}

impl std::ops::AddAssign for Sent {
    fn add_assign(&mut self, more: Self) {
        *self = Self { bytes: self.bytes + more.bytes, normal: self.normal + more.normal, zero: self.zero + more.zero };
    }
}

/// The messages that wait to be sent.
#[derive(Debug, Default)]
pub struct Outgoing {
    batch: Batch,
    zeros: Vec<PageRun>,
    sent: Sent,
    torn: bool,
}

impl Outgoing {
    /// Adds a message without contents, behind everything before it.
    pub fn push(&mut self, message: &Forward) {
        self.end_zeros();
        self.batch.push(message);
    }

    /// Adds the run as it is now.
    pub fn push_run(&mut self, ram: &[RamBlock], run: PageRun) {
        let block = &ram[usize::from(run.block.0)];
        let mut start = run.start.0;
        while start < run.end().0 {
            let zero = block.is_zero(PageIndex(start));
            let same = |page: &u64| block.is_zero(PageIndex(*page)) == zero;
            let end = start + 1 + (start + 1..run.end().0).take_while(same).count() as u64;
            let part = PageRun { block: run.block, start: PageIndex(start), count: (end - start) as u32 };
            if zero {
                self.sent.zero += u64::from(part.count);
                self.push_zeros(part);
            } else {
                self.sent.normal += u64::from(part.count);
                self.batch.push(&Forward::Pages(part));
            }
            start = end;
        }
    }

    fn push_zeros(&mut self, run: PageRun) {
        match self.zeros.last_mut() {
            Some(last) if last.block == run.block && last.end() == run.start => {
                match last.count.checked_add(run.count) {
                    Some(count) => last.count = count,
                    None => self.zeros.push(run),
                }
            }
            _ => self.zeros.push(run),
        }
        if self.zeros.len() >= MOST_ZEROS {
            self.end_zeros();
        }
    }

    fn end_zeros(&mut self) {
        if !self.zeros.is_empty() {
            self.batch.push(&Forward::Zeros(std::mem::take(&mut self.zeros)));
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.zeros.is_empty()
    }

    /// Whether it is time to send.
    pub fn is_due(&self) -> bool {
        self.batch.bytes() >= BATCH_BYTES || self.batch.is_full()
    }

    /// Sends everything; tells what went since the last time. Empty afterwards, also after an error.
    pub fn send(
        &mut self,
        ram: &[RamBlock],
        channel: &Channel,
        wake: &Wake,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Sent, ChannelError> {
        self.end_zeros();
        let counted = std::mem::take(&mut self.sent);
        if self.batch.is_empty() {
            return Ok(counted);
        }
        if self.torn {
            return Err(ChannelError::Closed(None));
        }
        match self.batch.send(ram, channel, wake, interrupted) {
            Ok(bytes) => Ok(Sent { bytes, ..counted }),
            Err(error) => {
                // The stream may have ended inside a message: whatever followed would be taken for its rest.
                self.torn = true;
                Err(error)
            }
        }
    }

    /// Forgets what waits. A torn stream stays torn.
    pub fn clear(&mut self) {
        *self = Self { torn: self.torn, ..Self::default() };
    }

    /// A new link: nothing of the old one's counts.
    pub fn renew(&mut self) {
        *self = Self::default();
    }
}
