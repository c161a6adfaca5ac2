//! [`MappedPlaying`]: the destination's channels, where what comes over them stands in a file with
//! mapped RAM.

use std::cell::RefCell;
use std::fs::File;
use std::io::Seek;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::Access;
use super::layout::{Area, Layout, MappedError};
use super::staging::Staging;
use crate::channel::{Acceptor, Channel, ChannelError, Wake};
use crate::error::sentence;
use crate::logging as log;
use crate::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use crate::stream::{answer_for_source, await_end, welcomed};
use crate::wire::{ChannelKind, Forward, Hello, MAX_RUN_PAGES};

/// Read at once, in pages: as many as a message holds.
const WINDOW: u64 = MAX_RUN_PAGES as u64;
/// A run of fewer pages than this is sent along with others.
const FEW: u32 = 16;
/// Messages with few pages wait for each other up to so many bytes.
const MOST_WAITING: usize = 256 * 1024;
/// And zero runs up to so many.
const MOST_ZEROS: usize = 1024;

/// Gives the channels of a migration that a [`super::MappedRecording`] wrote, its pages read in
/// order.
pub struct MappedPlaying {
    next: RefCell<Next>,
}

/// Which channel is given next.
enum Next {
    Control(Box<Stored>),
    Demand(Box<Channel>),
    None,
}

/// A guest in a file.
struct Stored {
    file: File,
    layout: Layout,
    access: Access,
}

impl MappedPlaying {
    /// Of the guest that begins where `file` stands; `None` if that is a stream. Errors: it is
    /// damaged or not whole, or cannot be read so.
    pub fn of(file: &File, access: Access) -> Result<Option<Self>, ChannelError> {
        let mut file = file.try_clone()?;
        // Where a pipe stands nobody knows.
        let Ok(base) = file.stream_position() else { return Ok(None) };
        let Some(layout) = Layout::of(&file, base)? else { return Ok(None) };
        if access == Access::Direct {
            let aligned = |area: &Area| area.at.is_multiple_of(PAGE_SIZE as u64);
            if !layout.areas.iter().all(aligned) {
                return Err(MappedError::NotAligned.into());
            }
            access.check(&file).map_err(MappedError::NoDirect)?;
        }
        Ok(Some(Self { next: RefCell::new(Next::Control(Box::new(Stored { file, layout, access }))) }))
    }
}

impl Acceptor for MappedPlaying {
    fn is_stream(&self) -> bool {
        true
    }

    fn accept(&self, _wake: &Wake) -> Result<Channel, ChannelError> {
        match self.next.replace(Next::None) {
            Next::Control(stored) => {
                let (control, demand) = play(*stored)?;
                self.next.replace(Next::Demand(Box::new(demand)));
                Ok(control)
            }
            Next::Demand(channel) => Ok(*channel),
            Next::None => Err(ChannelError::Closed(None)),
        }
    }
}

/// Begins to play: the destination's ends of the control and of the demand channel.
fn play(stored: Stored) -> Result<(Channel, Channel), ChannelError> {
    let wake = Wake::new()?;
    let ((ours, control), (asked, demand)) = (Channel::pair()?, Channel::pair()?);
    for (channel, kind) in [(&ours, ChannelKind::Control), (&asked, ChannelKind::Demand)] {
        let hello = Hello { kind, recover: false, ..stored.layout.hello };
        channel.send(&hello.encode(), &wake, &|| false)?;
    }
    let player = Player {
        stored,
        peer: Arc::new(ours),
        _asked: asked,
        wake,
        staging: Staging::new(WINDOW as usize * PAGE_SIZE),
        waiting: Vec::new(),
        zeros: Vec::new(),
    };
    std::thread::Builder::new().name("mig-play".into()).spawn(log::carried(move || player.run()))?;
    Ok((control, demand))
}

/// The thread behind the control channel.
struct Player {
    stored: Stored,
    peer: Arc<Channel>,
    /// The other end of the demand channel, on which nobody answers: no page is missing.
    _asked: Channel,
    /// Nobody rings it.
    wake: Wake,
    staging: Staging,
    /// Messages that are to be sent.
    waiting: Vec<u8>,
    zeros: Vec<PageRun>,
}

impl Player {
    fn run(mut self) {
        match self.forward().and_then(|()| answer_for_source(&self.peer, &self.wake)) {
            // The destination has said itself why it closed the channel.
            Ok(()) | Err(ChannelError::Closed(None)) => {}
            Err(error) => {
                log::error!("the guest cannot be read from its file: {}", sentence(&error));
                self.waiting.clear();
                Forward::Cancel(sentence(&error)).encode(&mut self.waiting);
                let _ = self.send();
            }
        }
        await_end(&self.peer, &self.wake);
    }

    fn forward(&mut self) -> Result<(), ChannelError> {
        welcomed(&self.peer, &self.wake)?;
        self.stored.layout.introduction.iter().for_each(|message| message.encode(&mut self.waiting));
        self.send()?;
        self.stored.access.set(&self.stored.file)?;
        for block in 0..self.stored.layout.areas.len() {
            self.block(BlockId(block as u16))?;
        }
        self.end_zeros();
        self.stored.layout.state.encode(&mut self.waiting);
        Forward::HandOver { running: self.stored.layout.running }.encode(&mut self.waiting);
        Forward::Complete.encode(&mut self.waiting);
        self.send()
    }

    /// All of a block's pages.
    fn block(&mut self, block: BlockId) -> Result<(), ChannelError> {
        let Some(pages) = self.area(block).map(|area| area.present.pages()) else { return Ok(()) };
        for begin in (0..pages).step_by(WINDOW as usize) {
            self.window(block, begin, pages.min(begin + WINDOW))?;
        }
        Ok(())
    }

    fn area(&self, block: BlockId) -> Option<&Area> {
        self.stored.layout.areas.get(usize::from(block.0))
    }

    /// The pages `begin..end`: what lies between the first and the last that are not zero is read
    /// at once.
    fn window(&mut self, block: BlockId, begin: u64, end: u64) -> Result<(), ChannelError> {
        let Some(Area { present, at }) = self.area(block) else { return Ok(()) };
        let runs: Vec<PageRun> = runs(present, block, begin, end);
        let at = *at;
        let (first, last) = match (runs.first(), runs.last()) {
            (Some(first), Some(last)) => (first.start.0, last.end().0),
            _ => (begin, begin),
        };
        let length = (last - first) as usize * PAGE_SIZE;
        self.stored
            .file
            .read_exact_at(&mut self.staging.as_mut()[..length], at + first * PAGE_SIZE as u64)
            .map_err(MappedError::Read)?;
        let mut next = begin;
        for run in runs {
            self.add_zeros(block, next, run.start.0);
            self.add_run(run, (run.start.0 - first) as usize * PAGE_SIZE)?;
            next = run.end().0;
        }
        self.add_zeros(block, next, end);
        Ok(())
    }

    /// Pages that stand in the staging from byte `at` on.
    fn add_run(&mut self, run: PageRun, at: usize) -> Result<(), ChannelError> {
        if run.count < FEW {
            Forward::Pages(run).encode(&mut self.waiting);
            self.waiting.extend_from_slice(&self.staging.as_ref()[at..at + run.bytes()]);
            return if self.waiting.len() < MOST_WAITING { Ok(()) } else { self.send() };
        }
        self.send()?;
        let mut head = Vec::new();
        Forward::Pages(run).encode(&mut head);
        // What stands before the run has gone, or is a page that does not go.
        self.peer.send(self.staging.headed(&head, at, run.bytes()), &self.wake, &|| false)
    }

    fn add_zeros(&mut self, block: BlockId, begin: u64, end: u64) {
        if begin == end {
            return;
        }
        let count = (end - begin) as u32;
        match self.zeros.last_mut() {
            Some(last) if last.block == block && last.end().0 == begin && last.count.checked_add(count).is_some() => {
                last.count += count;
            }
            _ => self.zeros.push(PageRun { block, start: PageIndex(begin), count }),
        }
        if self.zeros.len() >= MOST_ZEROS {
            self.end_zeros();
        }
    }

    fn end_zeros(&mut self) {
        if !self.zeros.is_empty() {
            Forward::Zeros(std::mem::take(&mut self.zeros)).encode(&mut self.waiting);
        }
    }

    fn send(&mut self) -> Result<(), ChannelError> {
        self.peer.send(&self.waiting, &self.wake, &|| false)?;
        self.waiting.clear();
        Ok(())
    }
}

/// The runs of set pages among `begin..end`.
fn runs(present: &crate::bitmap::PageBitmap, block: BlockId, begin: u64, end: u64) -> Vec<PageRun> {
    let mut from = begin;
    std::iter::from_fn(|| {
        let most = u32::try_from(end - from).unwrap_or(MAX_RUN_PAGES);
        let mut run = present.next_run(block, PageIndex(from), most).filter(|run| run.start.0 < end)?;
        run.count = run.count.min((end - run.start.0) as u32);
        from = run.end().0;
        Some(run)
    })
    .collect()
}
