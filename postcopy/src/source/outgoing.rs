//! Runs of pages on their way out: zero pages become zero runs, the rest goes straight from guest
//! RAM to the socket, if nothing else is wished for.

use super::xbzrle::XbzrleEncoder;
use crate::channel::{Batch, Channel, ChannelError, Wake};
use crate::encoding::{Compressor, Encoding, PageEncoding, ZeroPages};
use crate::error::MigrationError;
use crate::host::scaled;
use crate::memory::RamBlock;
use crate::ram::{PageIndex, PageRun};
use crate::wire::{Forward, MAX_COMPRESSED_PAGES};

/// A batch is sent once it holds so many bytes: enough that the call is cheap, few enough that they
/// stay in the cache.
const BATCH_BYTES: u64 = 256 * 1024;
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
    /// Pages of which only the changes were sent.
    pub changed: u64,
}

impl std::ops::AddAssign for Sent {
    fn add_assign(&mut self, more: Self) {
        *self = Self {
            bytes: self.bytes + more.bytes,
            normal: self.normal + more.normal,
            zero: self.zero + more.zero,
            changed: self.changed + more.changed,
        };
    }
}

/// The messages that wait to be sent.
#[derive(Default)]
pub struct Outgoing {
    batch: Batch,
    zeros: Vec<PageRun>,
    sent: Sent,
    torn: bool,
    means: Encoder,
    /// Zero pages go like all others.
    unseen: bool,
}

/// What makes messages of pages.
#[derive(Default)]
enum Encoder {
    /// Nothing: they go straight from guest RAM.
    #[default]
    Whole,
    Compressed(Box<Compressor>),
    /// While the destination takes changes.
    Xbzrle(Box<XbzrleEncoder>),
    /// Not any more. To give its memory back takes longer than the blackout has time for.
    Done(Box<XbzrleEncoder>),
}

impl Outgoing {
    /// For pages in this encoding. Errors: no memory for it.
    pub fn new(encoding: Encoding, ram: &[RamBlock]) -> Result<Self, MigrationError> {
        let means = match encoding.contents {
            PageEncoding::Whole => Encoder::Whole,
            PageEncoding::Compressed(packing) => {
                Encoder::Compressed(Box::new(Compressor::new(packing).map_err(MigrationError::Compressor)?))
            }
            PageEncoding::Xbzrle { cache } => Encoder::Xbzrle(Box::new(XbzrleEncoder::new(ram, cache))),
        };
        Ok(Self { means, unseen: encoding.zero_pages == ZeroPages::Unseen, ..Self::default() })
    }

    /// Adds a message without contents, behind everything before it.
    pub fn push(&mut self, message: &Forward) {
        self.end_zeros();
        self.batch.push(message);
    }

    /// A precopy pass begins.
    pub fn begin_pass(&mut self, pass: u32) {
        if let Encoder::Xbzrle(changed) = &mut self.means {
            changed.begin_pass(pass);
        }
    }

    /// The destination takes no changes of pages from here on.
    pub fn end_changes(&mut self) {
        self.means = match std::mem::take(&mut self.means) {
            Encoder::Xbzrle(changed) => Encoder::Done(changed),
            means => means,
        };
    }

    /// What is kept of sent pages, if that is done.
    pub fn changed(&mut self) -> Option<&mut XbzrleEncoder> {
        match &mut self.means {
            Encoder::Xbzrle(changed) | Encoder::Done(changed) => Some(changed),
            Encoder::Whole | Encoder::Compressed(_) => None,
        }
    }

    /// Adds the run as it is now.
    pub fn push_run(&mut self, ram: &[RamBlock], run: PageRun) {
        let block = &ram[usize::from(run.block.0)];
        if let Encoder::Xbzrle(changed) = &mut self.means {
            let (zeros, batch, mut zero) = (&mut self.zeros, &mut self.batch, 0);
            let seen = (!self.unseen).then_some(|page: PageRun| {
                zero += 1;
                collect(zeros, page);
            });
            let went = changed.push(block, run, batch, seen);
            self.sent += Sent { bytes: 0, normal: went.whole, zero, changed: went.changes };
            if self.zeros.len() >= MOST_ZEROS {
                self.end_zeros();
            }
        } else if self.unseen {
            self.push_known(ram, run, false);
        } else {
            parts(block, run).for_each(|(part, zero)| self.push_known(ram, part, zero));
        }
    }

    /// Adds the run, of which is known whether it is zero.
    pub fn push_known(&mut self, ram: &[RamBlock], run: PageRun, zero: bool) {
        if zero {
            self.sent.zero += u64::from(run.count);
            self.push_zeros(run);
            return;
        }
        self.sent.normal += u64::from(run.count);
        let Encoder::Compressed(compressor) = &mut self.means else { return self.batch.push(&Forward::Pages(run)) };
        let (block, codec) = (&ram[usize::from(run.block.0)], compressor.codec());
        for piece in run.pieces(MAX_COMPRESSED_PAGES) {
            match compressor.pack(block, piece) {
                Some(packed) => {
                    let length = packed.len() as u32;
                    self.batch.push_with(&Forward::Compressed { run: piece, codec, length }, packed);
                }
                None => self.batch.push(&Forward::Pages(piece)),
            }
        }
    }

    fn push_zeros(&mut self, run: PageRun) {
        collect(&mut self.zeros, run);
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
        self.batch.bytes() as u64 >= scaled(BATCH_BYTES) || self.batch.is_full()
    }

    /// Sends everything; tells what went since the last time. Empty afterwards, also after an
    /// error.
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
                // The stream may have ended inside a message: whatever followed would be taken for
                // its rest.
                self.torn = true;
                Err(error)
            }
        }
    }

    /// Forgets what waits. A torn stream stays torn.
    pub fn clear(&mut self) {
        let torn = self.torn;
        self.renew();
        self.torn = torn;
    }

    /// A new link: nothing of the old one's counts.
    pub fn renew(&mut self) {
        // Pages were taken down as sent that never will be.
        self.end_changes();
        *self = Self { means: std::mem::take(&mut self.means), unseen: self.unseen, ..Self::default() };
    }
}

/// The run in parts that are zero as they are now, and parts that are not.
pub(super) fn parts(block: &RamBlock, run: PageRun) -> impl Iterator<Item = (PageRun, bool)> + '_ {
    let mut start = run.start.0;
    std::iter::from_fn(move || {
        if start >= run.end().0 {
            return None;
        }
        let zero = block.is_zero(PageIndex(start));
        let same = |page: &u64| block.is_zero(PageIndex(*page)) == zero;
        let end = start + 1 + (start + 1..run.end().0).take_while(same).count() as u64;
        let part = PageRun { block: run.block, start: PageIndex(start), count: (end - start) as u32 };
        start = end;
        Some((part, zero))
    })
}

/// Adds the run to those that wait, to the last of them if it goes on there.
fn collect(zeros: &mut Vec<PageRun>, run: PageRun) {
    match zeros.last_mut() {
        Some(last) if last.block == run.block && last.end() == run.start => match last.count.checked_add(run.count) {
            Some(count) => last.count = count,
            None => zeros.push(run),
        },
        _ => zeros.push(run),
    }
}
