//! Answers page requests: the only thread on the source that a demanded page passes through.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::control::{Shared, SourceCommand};
use super::outgoing::Outgoing;
use super::scheduler::Hint;
use crate::bitmap::RamBitmap;
use crate::channel::{Channel, ChannelError, MessageReader, Wake};
use crate::error::MigrationError;
use crate::guest::{EngineThread, SourceGuest};
use crate::panics::catch;
use crate::progress::Phase;
use crate::ram::PageRun;
use crate::thread_priority::raise_priority;
use crate::wire::Request;

/// What to send for a request: each page of it. Pending ones are claimed, so that the background
/// does not send them, too. One that is not pending any more is on its way in the background,
/// behind everything that the socket and the link hold: somebody waits for it, so it is sent once
/// more, ahead of all that. Whichever comes second finds the page there and changes nothing.
/// `answered` are the pages given on this channel: however often a page is asked for, it is given
/// once.
///
/// Shared by the thread below and the tests without threads.
pub fn answer(
    pending: &RamBitmap,
    answered: &RamBitmap,
    request: &Request,
    mut give: impl FnMut(PageRun),
) -> Result<(), MigrationError> {
    let asked: u64 = request.0.iter().map(|run| u64::from(run.count)).sum();
    if asked > MOST_PAGES {
        return Err(MigrationError::Refused(format!("{asked} pages in one request, more than {MOST_PAGES}")));
    }
    for run in &request.0 {
        if !pending.holds(*run) {
            return Err(MigrationError::NoSuchPages(run.to_string()));
        }
        let Some(bitmap) = pending.block(run.block) else { continue };
        for page in run.pages() {
            bitmap.claim(page);
            let single = PageRun::single(run.block, page);
            if answered.set_run(single) > 0 {
                give(single);
            }
        }
    }
    Ok(())
}

/// Serves one demand channel until it ends.
pub(super) struct DemandServer {
    guest: Arc<dyn SourceGuest>,
    shared: Arc<Shared>,
    hint: Arc<Hint>,
    reader: MessageReader,
    wake: Wake,
    outgoing: Outgoing,
    answered: RamBitmap,
}

/// So many of the first pages go before it is looked whether somebody asks for another one.
const FIRST_AT_ONCE: u32 = 16;

/// What one request may ask for: a peer that asks for more makes us hold 16 MiB worth of answers.
const MOST_PAGES: u64 = 4096;

/// Requests are small: 256 of them at once.
const READ_BUFFER: usize = 64 * 1024;

impl DemandServer {
    pub fn new(
        guest: Arc<dyn SourceGuest>,
        shared: Arc<Shared>,
        hint: Arc<Hint>,
        channel: Arc<Channel>,
    ) -> std::io::Result<Self> {
        let reader = MessageReader::new(channel, READ_BUFFER);
        let answered = RamBitmap::new(guest.ram());
        Ok(Self { guest, shared, hint, reader, wake: Wake::new()?, outgoing: Outgoing::default(), answered })
    }

    /// Until the channel ends; the driver is told how.
    pub fn run(mut self) {
        self.guest.thread_begins(EngineThread::DemandServer);
        raise_priority();
        if let Err(error) = catch("demand", || self.serve()) {
            self.shared.commands.push(SourceCommand::DemandLost(error));
        }
    }

    fn serve(&mut self) -> Result<(), MigrationError> {
        self.give_first()?;
        loop {
            self.serve_one()?;
        }
    }

    /// What the guest would ask for first goes unasked, as far as it has not gone yet. Whoever asks
    /// meanwhile is answered first.
    fn give_first(&mut self) -> Result<(), MigrationError> {
        let pending = self.shared.pending.clone();
        let mut waiting = 0;
        for run in self.guest.first_pages().into_iter().filter(|run| pending.holds(*run)) {
            for claimed in run.pieces(FIRST_AT_ONCE).flat_map(|piece| claim(&pending, piece)) {
                self.answered.set_run(claimed);
                self.outgoing.push_run(self.guest.ram(), claimed);
                waiting += claimed.count;
                if waiting >= FIRST_AT_ONCE {
                    waiting = 0;
                    self.send()?;
                    self.serve_waiting()?;
                }
            }
        }
        self.send()
    }

    fn serve_waiting(&mut self) -> Result<(), MigrationError> {
        while let Some((header, fields)) = self.reader.try_message().map_err(lost)? {
            let request = Request::decode(header, fields).map_err(|error| lost(error.into()))?;
            self.answer(&request)?;
        }
        Ok(())
    }

    fn serve_one(&mut self) -> Result<(), MigrationError> {
        let request = self.next_request().map_err(lost)?;
        self.answer(&request)
    }

    fn next_request(&mut self) -> Result<Request, ChannelError> {
        let header = self.reader.header(&self.wake)?;
        let fields = self.reader.fields_in_place(header)?;
        Ok(Request::decode(header, fields)?)
    }

    fn answer(&mut self, request: &Request) -> Result<(), MigrationError> {
        let released = self.shared.released.clone();
        // Until all of it was sent.
        let _answering = released.as_ref().map(|released| released.answer());
        let (ram, outgoing) = (self.guest.ram(), &mut self.outgoing);
        answer(&self.shared.pending, &self.answered, request, |page| {
            // The destination has said that it has it: it did not know that yet when it asked.
            if !released.as_ref().is_some_and(|released| released.has(page)) {
                outgoing.push_run(ram, page);
            }
        })?;
        if let Some(last) = request.0.last() {
            self.hint.demanded(*last);
        }
        self.shared.progress.requested(request.0.iter().map(|run| u64::from(run.count)).sum());
        self.send()
    }

    fn send(&mut self) -> Result<(), MigrationError> {
        let channel = self.reader.channel();
        let sent = self.outgoing.send(self.guest.ram(), channel, &self.wake, &|| false).map_err(lost)?;
        self.shared.demanded_bytes.fetch_add(sent.bytes as u64, Ordering::Relaxed);
        self.shared.progress.moved(Phase::Postcopy, sent.bytes as u64, sent.normal, sent.zero);
        Ok(())
    }
}

/// Claims what is pending of the run, in runs.
fn claim(pending: &RamBitmap, run: PageRun) -> Vec<PageRun> {
    let mut runs: Vec<PageRun> = Vec::new();
    let Some(bitmap) = pending.block(run.block) else { return runs };
    for page in run.pages().filter(|page| bitmap.claim(*page)) {
        match runs.last_mut() {
            Some(last) if last.end() == page => last.count += 1,
            _ => runs.push(PageRun::single(run.block, page)),
        }
    }
    runs
}

fn lost(source: ChannelError) -> MigrationError {
    MigrationError::Link { peer: "destination", source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram::{BlockId, PageIndex};

    fn request(start: u64, count: u32) -> Request {
        Request(vec![PageRun { block: BlockId(0), start: PageIndex(start), count }])
    }

    #[test]
    fn every_page_asked_for_is_given_once_and_the_background_does_not_send_it_too() {
        let pending = RamBitmap::with_pages([10]);
        pending.set_run(PageRun { block: BlockId(0), start: PageIndex(2), count: 3 });
        let answered = RamBitmap::with_pages([10]);
        let mut given = Vec::new();
        answer(&pending, &answered, &request(0, 4), |run| given.push(run.start.0)).unwrap();
        answer(&pending, &answered, &request(3, 2), |run| given.push(run.start.0)).unwrap();
        assert_eq!(given, [0, 1, 2, 3, 4]);
        assert_eq!(pending.count(), 0);
    }

    #[test]
    fn only_what_is_pending_of_a_run_is_claimed_and_nothing_beside_it() {
        let pending = RamBitmap::with_pages([20]);
        let run = |start, count| PageRun { block: BlockId(0), start: PageIndex(start), count };
        for part in [run(1, 3), run(6, 2), run(12, 4)] {
            pending.set_run(part);
        }
        assert_eq!(claim(&pending, run(2, 12)), [run(2, 2), run(6, 2), run(12, 2)]);
        assert_eq!(pending.count(), 3);
    }

    #[test]
    fn pages_outside_ram_are_refused_by_name() {
        let pending = RamBitmap::with_pages([10]);
        let answered = RamBitmap::with_pages([10]);
        for bad in [request(10, 1), request(9, 2), request(u64::MAX - 1, 1)] {
            assert!(
                matches!(answer(&pending, &answered, &bad, |_| ()), Err(MigrationError::NoSuchPages(_))),
                "{bad:?}"
            );
        }
        let elsewhere = Request(vec![PageRun::single(BlockId(1), PageIndex(0))]);
        assert!(answer(&pending, &answered, &elsewhere, |_| ()).is_err());
    }
}
