//! The source's end: carries out what the real [`Source`] decides, one action a step, and serves
//! page requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use whimbrel_postcopy::bitmap::RamBitmap;
use whimbrel_postcopy::channel::ChannelError;
use whimbrel_postcopy::encoding::{Compressor, Page, PageEncoding, encode_xbzrle};
use whimbrel_postcopy::error::MigrationError;
use whimbrel_postcopy::guest::{GuestError, PausableGuest, PauseLock, PausedGuest, Pausing, Section};
use whimbrel_postcopy::memory::RamBlock;
use whimbrel_postcopy::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use whimbrel_postcopy::source::{Action, Hint, MultifdThresholds, Source, answer};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::wire::{BlockDescription, Features, Forward, Header, Reply, Request, decode_reply};

use crate::link::Pipe;
use crate::memory::{Log, ram};
use crate::plan::{Plan, Refusal, Thread};
use crate::world::World;

/// What waits to be sent: page contents are read when they go, not when they were chosen.
enum Item {
    Bytes(Vec<u8>),
    Pages(PageRun),
}

/// How pages are made messages of.
enum Means {
    Whole,
    Compressed(Compressor),
    /// Pages as they were sent, while the destination takes changes of them.
    XbzrleDecoder(HashMap<(BlockId, PageIndex), Page>),
}

pub struct SourceEnd {
    pub machine: Source,
    pub ram: Vec<RamBlock>,
    pub log: Log,
    pub pending: Arc<RamBitmap>,
    hint: Arc<Hint>,
    outgoing: Vec<Item>,
    means: Means,
    /// Runs that wait for a multifd channel; the senders take any of them.
    jobs: Vec<PageRun>,
    spread: bool,
    /// The action that waits for the senders.
    flushing: bool,
    senders_lost: bool,
    /// Waiting, perhaps until a moment.
    pub waiting: Option<Option<Duration>>,
    serving: bool,
    /// What the demand thread of this link has given.
    answered: RamBitmap,
    demand_lost: bool,
    pub linked: bool,
    /// The guest's vCPUs.
    pub running: bool,
    lock: PauseLock,
    pub cancelled: bool,
    pub door_closed: bool,
    pub postcopy_wanted: bool,
    /// The user says that a switchover may go on.
    pub go_on: bool,
    pub ended: bool,
    pub handed_over: bool,
}

/// The guest as its lock sees it: what its vCPUs do is in `running`.
struct Stands {
    ran: bool,
}

impl PausableGuest for Stands {
    fn pause(&self, pausing: Pausing) -> Result<PausedGuest, GuestError> {
        Ok(pausing.paused(self.ran))
    }
    fn resume(&self, _: PausedGuest) -> Result<(), GuestError> {
        Ok(())
    }
}

fn link_closed() -> MigrationError {
    MigrationError::Link { peer: "destination", source: ChannelError::Closed(None) }
}

/// The next whole message without page contents.
pub fn message(pipe: &Pipe) -> Result<Option<(Header, Vec<u8>)>, ChannelError> {
    let Some(head) = pipe.peek(Header::LEN) else { return Ok(None) };
    let header = Header::decode(head.try_into().unwrap())?;
    let whole = pipe.peek(Header::LEN + header.fields());
    Ok(whole.map(|bytes| (header, bytes[Header::LEN..].to_vec())))
}

impl SourceEnd {
    pub fn new(plan: &Plan) -> Self {
        let ram = ram(&plan.blocks);
        let pending = Arc::new(RamBitmap::new(&ram));
        let hint = Arc::new(Hint::default());
        let blocks = ram
            .iter()
            .map(|block| BlockDescription { name: block.name().into(), guest_address: 0, pages: block.pages() })
            .collect();
        let introduction = vec![
            Forward::Configuration(vec![("vcpus".into(), "2".into())]),
            Forward::Ram { page_size: PAGE_SIZE as u32, blocks },
            Forward::Description("{}".into()),
        ];
        let features = if plan.refusal == Refusal::Postcopy { Features::default() } else { Features::POSTCOPY };
        let many = (!plan.multifd_lines.is_empty()).then_some(plan.many);
        let means = match plan.contents {
            PageEncoding::Whole => Means::Whole,
            PageEncoding::Compressed(packing) => Means::Compressed(Compressor::new(packing).unwrap()),
            PageEncoding::Xbzrle { .. } => Means::XbzrleDecoder(HashMap::new()),
        };
        let precopy = many.filter(|_| !matches!(means, Means::XbzrleDecoder(_)));
        let many = MultifdThresholds { precopy, postcopy: many.filter(|_| plan.multifd_background) };
        Self {
            machine: Source::new(introduction, features, plan.limits, pending.clone(), hint.clone(), many),
            log: Log::new(&ram, plan.forgets),
            answered: RamBitmap::new(&ram),
            ram,
            pending,
            hint,
            outgoing: Vec::new(),
            means,
            jobs: Vec::new(),
            spread: false,
            flushing: false,
            senders_lost: false,
            waiting: None,
            serving: false,
            demand_lost: false,
            linked: true,
            running: plan.running,
            lock: PauseLock::default(),
            cancelled: false,
            door_closed: false,
            postcopy_wanted: false,
            go_on: false,
            ended: false,
            handed_over: false,
        }
    }

    /// A new link stands.
    pub fn recover(&mut self) {
        assert!(self.machine.recover());
        self.forget();
        (self.spread, self.flushing, self.senders_lost) = (false, false, false);
        (self.linked, self.serving, self.demand_lost, self.waiting) = (true, false, false, None);
        self.answered = RamBitmap::new(&self.ram);
    }
}

impl SourceEnd {
    /// From here on pages are placed, not written.
    fn end_changes(&mut self) {
        if let Means::XbzrleDecoder(_) = self.means {
            self.means = Means::Whole;
        }
    }

    fn forget(&mut self) {
        self.outgoing.clear();
        self.jobs.clear();
    }
}

impl World {
    /// The driver's thread; whether anything was done.
    pub fn step_source(&mut self) -> bool {
        let source = &mut self.source;
        if source.ended || !source.linked {
            return false;
        }
        if self.link.control.is_full(self.now) && !source.cancelled {
            return false;
        }
        let result = match source.waiting {
            Some(until) => match self.look_up() {
                Ok(false) if until.is_none_or(|until| until > self.now) => return false,
                other => {
                    self.source.waiting = None;
                    other.map(drop)
                }
            },
            None if source.flushing => match self.look_up() {
                Ok(false) => return self.flush_multifd(),
                other => other.map(drop),
            },
            None => {
                let action = source.machine.next(self.now);
                self.carry_out_action(action)
            }
        };
        if let Err(error) = result {
            self.source_failed(error);
        }
        let source = &mut self.source;
        if source.machine.status() == Status::PostcopyPaused {
            source.linked = false;
            self.link.finish_source();
        }
        true
    }

    /// A thread ends wherever it stands.
    pub fn source_thread_dies(&mut self, thread: Thread) {
        let source = &mut self.source;
        if source.ended || !source.linked {
            return;
        }
        match thread {
            Thread::Driver => {
                source.waiting = None;
                self.source_failed(MigrationError::ThreadDied("source"));
            }
            Thread::Multifd => source.senders_lost |= !self.link.multifd.is_empty(),
            Thread::Demand => {
                source.demand_lost |= source.serving;
                source.serving = false;
            }
        }
    }

    fn source_failed(&mut self, error: MigrationError) {
        let source = &mut self.source;
        source.forget();
        source.flushing = false;
        let broken = matches!(&error, MigrationError::Link { .. });
        if source.cancelled && broken {
            return source.machine.cancel();
        }
        while broken && let Ok(Some((header, fields))) = message(&self.link.replies) {
            self.link.replies.take(Header::LEN + header.fields());
            if let Ok(reply @ Reply::NotStarted(_)) = decode_reply(header, &fields) {
                return source.machine.reply(reply, self.now);
            }
        }
        source.machine.fail(error);
    }

    fn carry_out_action(&mut self, action: Action) -> Result<(), MigrationError> {
        let fails = |doing, yes: bool| match yes {
            true => Err(MigrationError::Guest { doing, source: "it will not".into() }),
            false => Ok(()),
        };
        let source = &mut self.source;
        match action {
            Action::Send(message) => {
                if matches!(message, Forward::Listen | Forward::HandOver { .. }) {
                    source.end_changes();
                }
                let mut bytes = Vec::new();
                message.encode(&mut bytes);
                source.outgoing.push(Item::Bytes(bytes));
            }
            Action::SendRun(run) if source.spread => {
                source.jobs.push(run);
                self.look_up()?;
            }
            Action::MultifdStart => {
                source.spread = true;
                let mut bytes = Vec::new();
                Forward::MultifdStart.encode(&mut bytes);
                source.outgoing.push(Item::Bytes(bytes));
                self.flush()?;
            }
            Action::MultifdFlush => source.flushing = true,
            Action::SendRun(run) => {
                self.push_run(run);
                if self.random.percent(50) {
                    self.flush()?;
                    self.look_up()?;
                }
            }
            Action::ShareRam | Action::Release(_) => unreachable!("nobody wants that here"),
            Action::StartLog => source.log.on = true,
            Action::StopLog => source.log.on = false,
            Action::Sync => {
                source.log.sync(&source.pending);
                source.machine.synced(self.now);
            }
            Action::Measure => {
                let seen = RamBitmap::with_pages(source.pending.blocks().map(|(_, bitmap)| bitmap.pages()));
                source.log.sync(&seen);
                for (block, bitmap) in seen.blocks() {
                    for word in 0..bitmap.len_words() {
                        source.pending.block(block).unwrap().or_word(word, bitmap.word(word));
                    }
                    source.log.clear(PageRun { block, start: PageIndex(0), count: bitmap.pages() as u32 }, bitmap);
                }
                source.machine.measured(seen.count(), self.now);
            }
            Action::ClearLog(run) => source.log.clear(run, source.pending.block(run.block).unwrap()),
            Action::ServeDemand => source.serving = true,
            Action::Pause => {
                fails("pause", self.plan.refusal == Refusal::Pause)?;
                let was = std::mem::replace(&mut source.running, false);
                source.machine.paused(source.lock.pause(&Stands { ran: was }).unwrap());
            }
            Action::Save => {
                fails("save its state", self.plan.refusal == Refusal::Save)?;
                let sections = self.save();
                self.source.machine.saved(sections);
            }
            Action::Resume(door) => {
                assert!(!self.destination.has_run, "the guest resumes on the source after it ran on the destination");
                assert!(!source.running && !source.handed_over);
                source.running = door.running();
                source.lock.resume(&Stands { ran: source.running }, door).unwrap();
            }
            Action::HandOver => {
                assert!(source.machine.throttle().is_none(), "a guest is throttled that was paused");
                let allowed = !source.cancelled;
                source.door_closed |= allowed;
                source.machine.try_hand_over(allowed);
            }
            Action::HandedOver => self.forget_guest(),
            Action::Wait(until) => {
                self.flush()?;
                if !self.look_up()? {
                    self.source.waiting = Some(until);
                }
            }
            Action::End => {
                assert!(self.source.machine.throttle().is_none(), "the guest stays throttled");
                let _ = self.flush();
                self.source.ended = true;
                self.link.finish_source();
            }
        }
        Ok(())
    }

    /// Saving a device may write guest RAM.
    fn save(&mut self) -> Vec<Section> {
        for _ in 0..self.random.below(3) {
            let (block, page) = self.truth.draw(&mut self.random);
            self.truth.write(&self.source.ram, block, page, &mut self.random);
            self.source.log.wrote(block, page);
        }
        self.truth.state += 1;
        vec![Section { name: "cpu".into(), instance: 0, version: 1, bytes: self.truth.state.to_le_bytes().to_vec() }]
    }

    /// The source is free to drop everything, and does.
    fn forget_guest(&mut self) {
        assert_eq!(self.destination.tracker.missing(), 0, "the source lets go of pages that the destination lacks");
        self.source.handed_over = true;
        for block in &self.source.ram {
            (0..block.pages()).for_each(|page| block.write(PageIndex(page), 0, &[0xee; PAGE_SIZE]));
        }
    }

    /// Every sender is done: says so on every channel.
    fn flush_multifd(&mut self) -> bool {
        let source = &mut self.source;
        if !source.jobs.is_empty() {
            return false;
        }
        (source.flushing, source.spread) = (false, false);
        let mut bytes = Vec::new();
        Forward::MultifdFlush.encode(&mut bytes);
        for (pipe, line) in self.link.multifd.iter_mut().zip(&self.plan.multifd_lines) {
            source.senders_lost |= pipe.send(&bytes, *line, self.now).is_err();
        }
        source.outgoing.push(Item::Bytes(bytes));
        true
    }

    /// One of the senders; whether anything was done. It reads the pages now.
    pub fn step_sender(&mut self) -> bool {
        let source = &mut self.source;
        if source.jobs.is_empty() || !source.linked {
            return false;
        }
        let channel = self.random.below(self.link.multifd.len() as u64) as usize;
        if self.link.multifd[channel].is_full(self.now) {
            return false;
        }
        let job = source.jobs.swap_remove(self.random.below(source.jobs.len() as u64) as usize);
        let before = std::mem::take(&mut source.outgoing);
        self.push_run(job);
        let items = std::mem::replace(&mut self.source.outgoing, before);
        let bytes = encode(&self.source.ram, items, &mut self.source.means);
        let line = self.plan.multifd_lines[channel];
        match self.link.multifd[channel].send(&bytes, line, self.now) {
            Ok(()) => self.source.machine.sent(bytes.len(), self.now),
            Err(_) => self.source.senders_lost = true,
        }
        true
    }

    fn push_run(&mut self, run: PageRun) {
        let source = &mut self.source;
        let block = &source.ram[usize::from(run.block.0)];
        let mut zeros: Vec<PageRun> = Vec::new();
        for page in run.pages() {
            if block.is_zero(page) {
                if let Means::XbzrleDecoder(sent) = &mut source.means {
                    sent.remove(&(run.block, page));
                }
                match zeros.last_mut() {
                    Some(last) if last.end() == page => last.count += 1,
                    _ => zeros.push(PageRun::single(run.block, page)),
                }
            } else {
                match source.outgoing.last_mut() {
                    Some(Item::Pages(last)) if last.block == run.block && last.end() == page && last.count < 1024 => {
                        last.count += 1;
                    }
                    _ => source.outgoing.push(Item::Pages(PageRun::single(run.block, page))),
                }
            }
        }
        if !zeros.is_empty() {
            let mut bytes = Vec::new();
            Forward::Zeros(zeros).encode(&mut bytes);
            source.outgoing.push(Item::Bytes(bytes));
        }
    }

    fn flush(&mut self) -> Result<(), MigrationError> {
        let items = std::mem::take(&mut self.source.outgoing);
        let bytes = encode(&self.source.ram, items, &mut self.source.means);
        if !bytes.is_empty() {
            self.link.control.send(&bytes, self.plan.line, self.now).map_err(|_| link_closed())?;
            self.source.machine.sent(bytes.len(), self.now);
        }
        Ok(())
    }

    /// Commands and replies that are there; whether there were any.
    fn look_up(&mut self) -> Result<bool, MigrationError> {
        let source = &mut self.source;
        if source.cancelled && !source.machine.status().is_ended() {
            source.forget();
            source.flushing = false;
            source.machine.cancel();
            return Ok(true);
        }
        if std::mem::take(&mut source.postcopy_wanted) {
            source.machine.start_postcopy()?;
        }
        if std::mem::take(&mut source.go_on) && source.machine.go_on() {
            return Ok(true);
        }
        if source.senders_lost || std::mem::take(&mut source.demand_lost) && !source.machine.awaits_last_word() {
            return Err(link_closed());
        }
        let lost = |source| MigrationError::Link { peer: "destination", source };
        let Some((header, fields)) = message(&self.link.replies).map_err(lost)? else {
            return if self.link.replies.has_ended() { Err(link_closed()) } else { Ok(false) };
        };
        self.link.replies.take(Header::LEN + header.fields());
        let reply = decode_reply(header, &fields).map_err(|error| lost(error.into()))?;
        source.machine.reply(reply, self.now);
        Ok(true)
    }

    /// The demand thread; whether anything was done.
    pub fn step_demand(&mut self) -> bool {
        let source = &mut self.source;
        if !source.serving {
            return false;
        }
        let Some((header, fields)) = message(&self.link.requests).unwrap() else {
            if self.link.requests.has_ended() {
                (source.serving, source.demand_lost) = (false, true);
                return true;
            }
            return false;
        };
        self.link.requests.take(Header::LEN + header.fields());
        let request = Request::decode(header, &fields).unwrap();
        let mut bytes = Vec::new();
        answer(&source.pending, &source.answered, &request, |run| {
            if source.ram[usize::from(run.block.0)].is_zero(run.start) {
                Forward::Zeros(vec![run]).encode(&mut bytes);
            } else {
                pages(&source.ram, run, &mut bytes);
            }
        })
        .unwrap();
        source.hint.demanded(*request.0.last().unwrap());
        if self.link.pages.send(&bytes, self.plan.demand_line, self.now).is_err() {
            (source.serving, source.demand_lost) = (false, true);
        }
        true
    }

    /// A vCPU on the source: reads or writes a page.
    pub fn step_source_guest(&mut self) {
        if !self.source.running {
            return;
        }
        let (block, page) = self.truth.draw(&mut self.random);
        self.truth.check(&self.source.ram, block, page, "source");
        if !self.is_calm() && self.random.percent(self.plan.writes_percent) {
            self.truth.write(&self.source.ram, block, page, &mut self.random);
            self.source.log.wrote(block, page);
        }
    }
}

/// What waits, with the pages as they are now.
fn encode(ram: &[RamBlock], items: Vec<Item>, means: &mut Means) -> Vec<u8> {
    let mut bytes = Vec::new();
    for item in items {
        match item {
            Item::Bytes(more) => bytes.extend(more),
            Item::Pages(run) => match means {
                Means::Whole => pages(ram, run, &mut bytes),
                Means::Compressed(compressor) => {
                    run.pieces(64).for_each(|piece| packed(ram, piece, compressor, &mut bytes))
                }
                Means::XbzrleDecoder(sent) => {
                    run.pages().for_each(|page| changes(ram, run.block, page, sent, &mut bytes))
                }
            },
        }
    }
    bytes
}

/// A run of compressed pages as a message with its contents.
fn packed(ram: &[RamBlock], run: PageRun, compressor: &mut Compressor, bytes: &mut Vec<u8>) {
    let codec = compressor.codec();
    match compressor.pack(&ram[usize::from(run.block.0)], run) {
        Some(packed) => {
            Forward::Compressed { run, codec, length: packed.len() as u32 }.encode(bytes);
            bytes.extend_from_slice(packed);
        }
        None => pages(ram, run, bytes),
    }
}

/// What has changed of a page, or all of it, as a message.
fn changes(
    ram: &[RamBlock],
    block: BlockId,
    page: PageIndex,
    sent: &mut HashMap<(BlockId, PageIndex), Page>,
    bytes: &mut Vec<u8>,
) {
    let (run, mut now, mut changed) = (PageRun::single(block, page), [0; PAGE_SIZE], Vec::new());
    ram[usize::from(block.0)].read(page, &mut now);
    match sent.insert((block, page), now) {
        Some(then) if encode_xbzrle(&then, &now, &mut changed) => {
            Forward::Xbzrle { run, length: 2 + changed.len() as u32 }.encode(bytes);
            bytes.extend((changed.len() as u16).to_le_bytes());
            bytes.extend(changed);
        }
        _ => {
            Forward::Pages(run).encode(bytes);
            bytes.extend(now);
        }
    }
}

/// A run of pages as a message with its contents.
fn pages(ram: &[RamBlock], run: PageRun, bytes: &mut Vec<u8>) {
    Forward::Pages(run).encode(bytes);
    for page in run.pages() {
        let mut contents = [0; PAGE_SIZE];
        ram[usize::from(run.block.0)].read(page, &mut contents);
        bytes.extend(contents);
    }
}
