//! The destination's end: takes messages through the real [`Destination`], places pages, serves
//! faults by the real [`Tracker`].

use std::collections::VecDeque;
use std::sync::Arc;

use whimbrel_postcopy::channel::ChannelError;
use whimbrel_postcopy::destination::{Compressed, Destination, Effect, GuestPlace, MultifdEpoch, Touch, Tracker};
use whimbrel_postcopy::encoding::{Decompressor, XbzrleDecoder};
use whimbrel_postcopy::error::MigrationError;
use whimbrel_postcopy::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::wire::{
    Forward, Header, Reply, Request, decode_demand, decode_forward, decode_multifd, fragments,
};

use crate::link::Pipe;
use crate::memory::{Populated, ram};
use crate::plan::{Plan, Refusal, Thread};
use crate::source::message;
use crate::world::World;

type Page = (BlockId, PageIndex);

/// The contents of a run that are being read off a channel.
#[derive(Clone, Copy)]
struct Contents {
    run: PageRun,
    watched: bool,
}

/// Contents that are not pages as they are, and are taken at once.
#[derive(Clone, Copy)]
enum Encoded {
    Compressed { packed: Compressed, watched: bool },
    XbzrleDecoder { run: PageRun, length: u32 },
}

impl Encoded {
    fn length(self) -> usize {
        match self {
            Self::Compressed { packed, .. } => packed.length as usize,
            Self::XbzrleDecoder { length, .. } => length as usize,
        }
    }
}

/// A multifd channel's thread.
#[derive(Clone, Default)]
struct Receiver {
    contents: Option<Contents>,
    encoded: Option<Encoded>,
    /// Placed, not yet counted as received.
    barriers: Option<PageRun>,
    /// It has come to the end of this stretch.
    there: bool,
}

pub struct DestinationEnd {
    pub machine: Destination,
    pub tracker: Arc<Tracker>,
    pub memory: Populated,
    contents: Option<Contents>,
    encoded: Option<Encoded>,
    demand_contents: Option<Contents>,
    receivers: Vec<Receiver>,
    stretch: Option<MultifdEpoch>,
    /// The control thread waits for the receivers.
    flushing: bool,
    /// Placed, not yet counted as received: by the control thread, by the fault loop.
    barriers: Option<PageRun>,
    demand_marks: Option<PageRun>,
    /// Pages that loading the state still has to touch; `None` when nothing is being loaded.
    loading: Option<Vec<Page>>,
    /// Touches of missing pages that the fault loop has not read.
    faults: VecDeque<Page>,
    /// Who waits for which page: vCPUs, and last the thread that loads.
    pub blocked: [Option<Page>; 3],
    rung: bool,
    demand_lost: bool,
    demand_open: bool,
    pub linked: bool,
    pub running: bool,
    pub has_run: bool,
    pub ended: bool,
}

const LOADER: usize = 2;

fn link_closed() -> MigrationError {
    MigrationError::Link { peer: "source", source: ChannelError::Closed(None) }
}

impl DestinationEnd {
    pub fn new(plan: &Plan) -> Self {
        let ram = ram(&plan.blocks);
        let tracker = Arc::new(Tracker::new(&ram));
        Self {
            machine: Destination::new(tracker.clone()),
            tracker,
            memory: Populated::new(ram),
            contents: None,
            encoded: None,
            demand_contents: None,
            receivers: vec![Receiver::default(); plan.multifd_lines.len()],
            stretch: None,
            flushing: false,
            barriers: None,
            demand_marks: None,
            loading: None,
            faults: VecDeque::new(),
            blocked: [None; 3],
            rung: false,
            demand_lost: false,
            demand_open: true,
            linked: true,
            running: false,
            has_run: false,
            ended: false,
        }
    }

    /// The link's threads end: what they have placed counts.
    fn forget_link(&mut self) {
        for receiver in &mut self.receivers {
            if let Some(run) = receiver.barriers.take() {
                self.rung |= self.tracker.placed(run);
            }
            *receiver = Receiver::default();
        }
        (self.contents, self.encoded, self.stretch, self.flushing) = (None, None, None, false);
    }

    fn wake(&mut self, run: PageRun) {
        let inside = |page: &Page| page.0 == run.block && (run.start..run.end()).contains(&page.1);
        self.blocked.iter_mut().filter(|page| page.as_ref().is_some_and(inside)).for_each(|page| *page = None);
    }

    fn fill(&mut self, run: PageRun, contents: Option<&[u8]>) {
        self.memory.fill(run, contents);
        self.wake(run);
    }

    /// Puts encoded contents where they belong; the run, if it is not counted as received yet.
    fn put(&mut self, encoded: Encoded, bytes: &[u8]) -> Option<PageRun> {
        match encoded {
            Encoded::Compressed { packed: Compressed { run, codec, .. }, watched } => {
                let mut decompressor = Decompressor::default();
                let raw = decompressor.unpack(codec, bytes, run.bytes()).unwrap();
                if watched {
                    self.fill(run, Some(raw));
                    return Some(run);
                }
                self.memory.write(run, raw);
                self.tracker.placed(run);
            }
            Encoded::XbzrleDecoder { run, .. } => {
                assert!(self.tracker.has(run.block, run.start), "what changed of {run} came before it did");
                assert!(!self.memory.watched && run.count == 1);
                let mut changes = XbzrleDecoder::of(&bytes[2..]);
                while let Some((at, new)) = changes.take().unwrap() {
                    self.memory.ram[usize::from(run.block.0)].write(run.start, at, new);
                }
            }
        }
        None
    }

    /// A touch by `who`; whether it went through.
    fn touch(&mut self, who: usize, page: Page) -> bool {
        let open = self.memory.is_open(page.0, page.1);
        if !open && self.blocked[who].is_none() {
            self.blocked[who] = Some(page);
            self.faults.push_back(page);
        }
        open
    }
}

impl World {
    /// The control thread; whether anything was done.
    pub fn step_destination(&mut self) -> bool {
        let destination = &mut self.destination;
        if let Some(run) = destination.barriers.take() {
            destination.rung |= destination.tracker.placed(run);
            return true;
        }
        if destination.ended || !destination.linked {
            return false;
        }
        let worked = match self.destination_work() {
            Ok(worked) => worked,
            Err(error) => {
                self.destination_failed(error);
                true
            }
        };
        let destination = &mut self.destination;
        if destination.machine.status() == Status::Completed && destination.memory.watched {
            // RAM is watched no more: whoever waits touches again.
            destination.memory.watched = false;
            destination.blocked = [None; 3];
        }
        if destination.machine.is_over() {
            destination.ended = true;
            self.link.finish_destination();
        }
        worked
    }

    pub fn destination_failed(&mut self, error: MigrationError) {
        let machine = &self.destination.machine;
        let awaited = machine.owns_guest() || machine.never_ran();
        let told = !awaited && self.reply(&Reply::NotStarted("it will not".into())).is_ok();
        let destination = &mut self.destination;
        destination.forget_link();
        destination.loading = None;
        destination.machine.fail(error);
        if destination.machine.never_ran() && told {
            return destination.machine.said_never();
        }
        if !destination.machine.is_over() {
            destination.linked = false;
            self.link.finish_destination();
        }
    }

    /// A thread ends wherever it stands: what it has placed and not counted is not counted.
    pub fn destination_thread_dies(&mut self, thread: Thread) {
        let destination = &mut self.destination;
        if destination.ended || !destination.linked {
            return;
        }
        match thread {
            Thread::Driver => {
                destination.barriers = None;
                self.destination_failed(MigrationError::ThreadDied("incoming"));
            }
            Thread::Multifd if !destination.receivers.is_empty() => {
                let number = self.random.below(destination.receivers.len() as u64) as usize;
                destination.receivers[number] = Receiver::default();
                self.link.multifd[number].end_at_once();
            }
            Thread::Multifd => {}
            Thread::Demand => {
                destination.demand_marks = None;
                self.lose_demand();
            }
        }
    }

    fn destination_work(&mut self) -> Result<bool, MigrationError> {
        if self.destination.loading.is_some() {
            return self.go_on_loading();
        }
        if let Some(contents) = self.destination.contents {
            return self.take_contents(contents);
        }
        if let Some(encoded) = self.destination.encoded {
            return self.take_encoded(encoded);
        }
        if self.destination.flushing {
            return self.flush_pages();
        }
        let destination = &mut self.destination;
        if std::mem::take(&mut destination.rung) {
            if destination.machine.all_received() {
                self.reply(&Reply::AllReceived)?;
            } else if destination.machine.status() == Status::Completed {
                destination.demand_lost = false;
            } else if std::mem::take(&mut destination.demand_lost) {
                return Err(link_closed());
            }
            return Ok(true);
        }
        let lost = |source| MigrationError::Link { peer: "source", source };
        let Some((header, fields)) = message(&self.link.control).map_err(lost)? else {
            return if self.link.control.has_ended() { Err(link_closed()) } else { Ok(false) };
        };
        self.link.control.take(Header::LEN + header.fields());
        let message = decode_forward(header, &fields).map_err(|error| lost(error.into()))?;
        let effect = destination.machine.message(message, &destination.memory.ram)?;
        self.carry_out_effect(effect)?;
        Ok(true)
    }

    fn carry_out_effect(&mut self, effect: Effect) -> Result<(), MigrationError> {
        let fails = |doing, yes: bool| match yes {
            true => Err(MigrationError::Guest { doing, source: "it will not".into() }),
            false => Ok(()),
        };
        let refusal = self.plan.refusal;
        let destination = &mut self.destination;
        match effect {
            Effect::None | Effect::Pass(_) | Effect::AwaitPages => {}
            Effect::Check(_) => {
                fails("take this guest", refusal == Refusal::Check)?;
                destination.machine.checked();
            }
            Effect::Accept => self.reply(&Reply::Accepted)?,
            Effect::Adopt(_) => unreachable!("nobody hands RAM over here"),
            Effect::Tell(number) | Effect::Barrier(number) => self.reply(&Reply::BarrierAck(number))?,
            Effect::MultifdStart(stretch) => {
                destination.stretch = Some(stretch);
                destination.receivers.iter_mut().for_each(|receiver| receiver.there = false);
            }
            Effect::MultifdFlush => destination.flushing = true,
            Effect::Write(run) => destination.contents = Some(Contents { run, watched: false }),
            Effect::Place(run) => destination.contents = Some(Contents { run, watched: true }),
            Effect::WriteCompressed(packed) => {
                destination.encoded = Some(Encoded::Compressed { packed, watched: false })
            }
            Effect::PlaceCompressed(packed) => {
                destination.encoded = Some(Encoded::Compressed { packed, watched: true })
            }
            Effect::Change(run, length) => destination.encoded = Some(Encoded::XbzrleDecoder { run, length }),
            Effect::WriteZeros(runs) => runs.into_iter().for_each(|run| {
                destination.memory.discard(run);
                destination.tracker.placed(run);
            }),
            Effect::PlaceZeros(runs) => runs.into_iter().for_each(|run| {
                destination.fill(run, None);
                destination.rung |= destination.tracker.placed(run);
            }),
            Effect::Discard(fragment) => destination.tracker.stale(&fragment, |run| destination.memory.discard(run)),
            Effect::Listen => {
                (destination.memory.watched, destination.memory.was_watched) = (true, true);
                self.reply(&Reply::Listening)?;
            }
            Effect::Load(sections) => {
                assert_eq!(sections[0].bytes, self.truth.state.to_le_bytes());
                fails("load its state", refusal == Refusal::Load)?;
                let pages = (0..self.random.below(4)).map(|_| self.truth.draw(&mut self.random)).collect();
                self.destination.loading = Some(pages);
            }
            Effect::Run { running } => {
                assert!(!self.source.running && self.source.door_closed);
                fails("run", refusal == Refusal::Run)?;
                (destination.running, destination.has_run) = (running, true);
                destination.machine.started();
                self.reply(&Reply::Running)?;
            }
            Effect::Finish => self.reply(&Reply::AllReceived)?,
        }
        Ok(())
    }

    fn reply(&mut self, reply: &Reply) -> Result<(), MigrationError> {
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        self.link.replies.send(&bytes, self.plan.line, self.now).map_err(|_| link_closed())
    }

    /// Loading touches guest RAM and waits for what is missing, as any thread does.
    fn go_on_loading(&mut self) -> Result<bool, MigrationError> {
        let destination = &mut self.destination;
        let pages = destination.loading.as_mut().unwrap();
        let Some(page) = pages.last().copied() else {
            destination.loading = None;
            destination.machine.loaded();
            self.reply(&Reply::Ready)?;
            return Ok(true);
        };
        let waits = destination.blocked[LOADER].is_some();
        if destination.touch(LOADER, page) {
            // A source that gave up has resumed its guest, which writes on: what is loaded here is
            // nobody's any more.
            if matches!(self.source.machine.status(), Status::Device | Status::PostcopyDevice) {
                self.truth.check(&destination.memory.ram, page.0, page.1, "loading destination");
            }
            destination.loading.as_mut().unwrap().pop();
            return Ok(true);
        }
        // A driver that loads hears of a lost link by its fault loop giving up on the load.
        if self.link.pages.has_ended() && self.link.pages.len() == 0 || destination.demand_lost {
            destination.loading = None;
            return Err(link_closed());
        }
        Ok(!waits)
    }

    /// Whether every receiver has come to the end.
    fn flush_pages(&mut self) -> Result<bool, MigrationError> {
        let destination = &mut self.destination;
        let missing = |(receiver, pipe): (&Receiver, &Pipe)| {
            let stuck = receiver.contents.is_some_and(|_| pipe.len() < PAGE_SIZE)
                || receiver.encoded.is_some_and(|encoded| pipe.len() < encoded.length())
                || message(pipe).is_ok_and(|it| it.is_none());
            !receiver.there && receiver.barriers.is_none() && pipe.has_ended() && stuck
        };
        if destination.receivers.iter().zip(&self.link.multifd).any(missing) {
            return Err(link_closed());
        }
        let all = destination.receivers.iter().all(|receiver| receiver.there);
        if all {
            (destination.flushing, destination.stretch) = (false, None);
        }
        Ok(all)
    }

    /// One of the multifd channels' threads; whether anything was done.
    pub fn step_receiver(&mut self) -> bool {
        let destination = &mut self.destination;
        if destination.receivers.is_empty() || destination.ended || !destination.linked {
            return false;
        }
        let first = self.random.below(destination.receivers.len() as u64) as usize;
        (0..self.destination.receivers.len()).any(|n| self.receive(first + n))
    }

    fn receive(&mut self, number: usize) -> bool {
        let number = number % self.destination.receivers.len();
        let (destination, pipe) = (&mut self.destination, &mut self.link.multifd[number]);
        let receiver = &mut destination.receivers[number];
        if let Some(run) = receiver.barriers.take() {
            destination.rung |= destination.tracker.placed(run);
            return true;
        }
        let Some(stretch) = destination.stretch.filter(|_| !receiver.there) else { return false };
        if let Some(contents) = receiver.contents {
            let count = 1 + self.random.below(u64::from(contents.run.count.min(64))) as u32;
            let run = PageRun { count, ..contents.run };
            if pipe.len() < run.bytes() {
                // The next time perhaps for fewer.
                return pipe.has_ended() && pipe.len() >= PAGE_SIZE;
            }
            let bytes = pipe.take(run.bytes());
            receiver.contents = rest(contents, run);
            if contents.watched {
                receiver.barriers = Some(run);
                destination.fill(run, Some(&bytes));
            } else {
                destination.memory.write(run, &bytes);
                destination.tracker.placed(run);
            }
            return true;
        }
        if let Some(encoded) = receiver.encoded {
            if pipe.len() < encoded.length() {
                return false;
            }
            receiver.encoded = None;
            let bytes = pipe.take(encoded.length());
            let barriers = destination.put(encoded, &bytes);
            destination.receivers[number].barriers = barriers;
            return true;
        }
        let Ok(Some((header, fields))) = message(pipe) else { return false };
        pipe.take(Header::LEN + header.fields());
        match decode_multifd(header, &fields).unwrap() {
            Forward::Pages(run) => {
                receiver.contents = Some(Contents { run, watched: stretch == MultifdEpoch::Postcopy });
            }
            Forward::Compressed { run, codec, length } => {
                let packed = Compressed { run, codec, length };
                receiver.encoded = Some(Encoded::Compressed { packed, watched: stretch == MultifdEpoch::Postcopy });
            }
            Forward::Zeros(runs) => runs.into_iter().for_each(|run| {
                if stretch == MultifdEpoch::Postcopy {
                    destination.fill(run, None);
                    destination.rung |= destination.tracker.placed(run);
                } else {
                    destination.memory.discard(run);
                    destination.tracker.placed(run);
                }
            }),
            Forward::MultifdFlush => receiver.there = true,
            other => panic!("{other:?} on a multifd channel"),
        }
        true
    }

    fn take_encoded(&mut self, encoded: Encoded) -> Result<bool, MigrationError> {
        let control = &mut self.link.control;
        if control.len() < encoded.length() {
            return if control.has_ended() { Err(link_closed()) } else { Ok(false) };
        }
        let bytes = control.take(encoded.length());
        let destination = &mut self.destination;
        destination.encoded = None;
        destination.barriers = destination.put(encoded, &bytes);
        Ok(true)
    }

    fn take_contents(&mut self, contents: Contents) -> Result<bool, MigrationError> {
        let count = 1 + self.random.below(u64::from(contents.run.count.min(64))) as u32;
        let run = PageRun { count, ..contents.run };
        if self.link.control.len() < run.bytes() {
            let stuck = self.link.control.has_ended() && self.link.control.len() < PAGE_SIZE;
            return if stuck { Err(link_closed()) } else { Ok(self.link.control.has_ended()) };
        }
        let bytes = self.link.control.take(run.bytes());
        let destination = &mut self.destination;
        destination.contents = rest(contents, run);
        if contents.watched {
            destination.fill(run, Some(&bytes));
            destination.barriers = Some(run);
        } else {
            destination.memory.write(run, &bytes);
            destination.tracker.placed(run);
        }
        Ok(true)
    }

    /// The fault loop; whether anything was done.
    pub fn step_faults(&mut self) -> bool {
        let destination = &mut self.destination;
        if let Some(run) = destination.demand_marks.take() {
            destination.rung |= destination.tracker.placed(run);
            return true;
        }
        if !destination.faults.is_empty() && self.random.percent(60) {
            self.take_faults();
            return true;
        }
        if destination.demand_open && self.take_answer() {
            return true;
        }
        if !self.destination.faults.is_empty() {
            self.take_faults();
            return true;
        }
        false
    }

    fn take_faults(&mut self) {
        let destination = &mut self.destination;
        let mut wanted = Vec::new();
        for (block, page) in std::mem::take(&mut destination.faults) {
            let run = PageRun::single(block, page);
            match destination.tracker.touched(block, page) {
                Touch::Here => {
                    destination.fill(run, None);
                    destination.rung |= destination.tracker.placed(run);
                }
                Touch::Ask => wanted.push(run),
                Touch::Asked => {}
            }
            if destination.tracker.has(block, page) {
                destination.wake(run);
            }
        }
        self.request(wanted);
    }

    fn request(&mut self, wanted: Vec<PageRun>) {
        let destination = &mut self.destination;
        if wanted.is_empty() || !destination.demand_open {
            return;
        }
        let mut bytes = Vec::new();
        wanted.chunks(64).for_each(|some| Request(some.to_vec()).encode(&mut bytes));
        if self.link.requests.send(&bytes, self.plan.demand_line, self.now).is_err() {
            self.lose_demand();
        }
    }

    fn lose_demand(&mut self) {
        let destination = &mut self.destination;
        (destination.demand_open, destination.demand_lost, destination.rung) = (false, true, true);
        destination.demand_contents = None;
    }

    fn take_answer(&mut self) -> bool {
        let pages = &mut self.link.pages;
        let destination = &mut self.destination;
        if let Some(contents) = destination.demand_contents {
            let run = PageRun { count: 1, ..contents.run };
            if pages.len() >= PAGE_SIZE {
                let bytes = pages.take(PAGE_SIZE);
                destination.demand_contents = rest(contents, run);
                destination.fill(run, Some(&bytes));
                destination.demand_marks = Some(run);
                return true;
            }
        } else if let Some((header, fields)) = message(pages).unwrap() {
            pages.take(Header::LEN + header.fields());
            match decode_demand(header, &fields).unwrap() {
                Forward::Pages(run) => destination.demand_contents = Some(Contents { run, watched: true }),
                Forward::Zeros(runs) => runs.into_iter().for_each(|run| {
                    destination.fill(run, None);
                    destination.rung |= destination.tracker.placed(run);
                }),
                other => panic!("{other:?} on the demand channel"),
            }
            return true;
        }
        let ended = pages.has_ended();
        if ended {
            self.lose_demand();
        }
        ended
    }

    /// The destination's half of a new link: tells what it has, asks again for what it waits for.
    pub fn recover_destination(&mut self) {
        let destination = &mut self.destination;
        let standing = destination.machine.recover().unwrap();
        (destination.linked, destination.demand_lost, destination.demand_open) = (true, false, true);
        destination.demand_contents = None;
        if let GuestPlace::Never(why) = standing {
            let _ = self.reply(&Reply::NotStarted(why));
            return;
        }
        let tracker = destination.tracker.clone();
        for fragment in fragments(tracker.received()) {
            let _ = self.reply(&Reply::Received(fragment));
        }
        let _ = self.reply(&Reply::ReceivedEnd);
        self.destination.machine.recovered();
        self.request(tracker.ask_again());
    }

    /// A vCPU on the destination: reads or writes a page, if it is there.
    pub fn step_destination_guest(&mut self) {
        let destination = &mut self.destination;
        let who = self.random.below(LOADER as u64) as usize;
        if !destination.running || destination.blocked[who].is_some() {
            return;
        }
        let (block, page) = self.truth.draw(&mut self.random);
        if !destination.touch(who, (block, page)) {
            return;
        }
        self.truth.check(&destination.memory.ram, block, page, "destination");
        if self.random.percent(self.plan.writes_percent) {
            self.truth.write(&destination.memory.ram, block, page, &mut self.random);
            destination.memory.touch(block, page);
        }
    }
}

/// What is left of the contents once `run` of them was taken.
fn rest(contents: Contents, run: PageRun) -> Option<Contents> {
    let count = contents.run.count - run.count;
    (count > 0).then(|| Contents { run: PageRun { start: run.end(), count, ..run }, ..contents })
}
