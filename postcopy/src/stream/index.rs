//! [`Index`]: where in a recorded stream, or in a file with mapped RAM, each page's last contents
//! stand.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use super::mapped::{Area, Layout};
use super::page_table::PageTable;
use super::{BUFFER, StreamFileError};
use crate::channel::ChannelError;
use crate::guest::{Configuration, Section};
use crate::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use crate::wire::{BlockDescription, Forward, Header, Hello, decode_forward, tag};

/// No contents in the file: a page of zeros.
const ZERO: u64 = 0;
/// Guest RAM beyond this is no guest's: 64 TiB.
const MOST_PAGES: u64 = 1 << 34;

/// What a recorded stream holds besides pages.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    /// The machine that it was of.
    pub configuration: Configuration,
    /// Its RAM.
    pub blocks: Vec<BlockDescription>,
    /// CPUs and devices.
    pub state: Vec<Section>,
    /// Whether the guest ran.
    pub running: bool,
    /// What was said of it when it was saved ([`super::Sink::label`]).
    pub label: String,
}

impl Outline {
    /// Of the stream that begins where `file` stands, and that [`super::save`] wrote: whatever its
    /// size, little is read. Errors: it is damaged or was cut, or something else wrote it.
    pub fn of(mut file: File) -> Result<Self, ChannelError> {
        let begin = file.stream_position()?;
        let Some(PageTable { state, label, .. }) = PageTable::read(&file, begin)? else {
            return Err(damaged("no table stands behind it".to_owned()));
        };
        let mut walk = Walk::of(file, begin);
        walk.hello()?;
        let mut outline = Self { label, ..Self::default() };
        loop {
            match walk.message()? {
                Forward::PassBegin(_) => walk.go_to(begin + state)?,
                Forward::HandOver { running } => return Ok(Self { running, ..outline }),
                message => outline.note(&message),
            }
        }
    }

    fn note(&mut self, message: &Forward) {
        match message {
            Forward::Configuration(configuration) => self.configuration.clone_from(configuration),
            Forward::Ram { blocks, .. } => self.blocks.clone_from(blocks),
            Forward::State(state) => self.state.clone_from(state),
            _ => {}
        }
    }
}

/// What a recorded stream holds, without the pages' contents.
pub(super) struct Index {
    pub hello: Hello,
    /// The messages before the first pass.
    pub introduction: Vec<Forward>,
    pub state: Forward,
    /// Whether the guest ran.
    pub running: bool,
    /// See [`Outline::label`].
    label: String,
    blocks: Vec<Places>,
}

/// Where a block's pages stand in the file.
enum Places {
    /// For each page where its contents stand.
    Listed(Vec<u64>),
    Mapped(Area),
}

impl Places {
    fn pages(&self) -> u64 {
        match self {
            Self::Listed(places) => places.len() as u64,
            Self::Mapped(area) => area.present.pages(),
        }
    }

    /// `None`: there is no such page. `Some(None)`: it is all zero.
    fn of(&self, page: PageIndex) -> Option<Option<u64>> {
        match self {
            Self::Listed(places) => places.get(page.0 as usize).map(|at| Some(*at).filter(|at| *at != ZERO)),
            Self::Mapped(area) if page.0 >= area.present.pages() => None,
            Self::Mapped(area) => Some(area.present.test(page).then_some(area.at + page.0 * PAGE_SIZE as u64)),
        }
    }
}

/// Pages whose contents stand in a row, or that are all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub run: PageRun,
    /// Where in the file; `None` for zeros.
    pub at: Option<u64>,
}

/// Reads a stream, from `file`'s position on, without its pages' contents.
struct Walk {
    file: BufReader<File>,
    at: u64,
}

impl Walk {
    fn of(file: File, at: u64) -> Self {
        Self { file: BufReader::with_capacity(BUFFER / 16, file), at }
    }

    fn hello(&mut self) -> Result<Hello, ChannelError> {
        let mut hello = [0; Hello::LEN];
        self.read(&mut hello, "hello")?;
        let hello = Hello::decode(&hello)?;
        hello.choose()?;
        Ok(hello)
    }

    fn go_to(&mut self, at: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(at))?;
        self.at = at;
        Ok(())
    }

    fn read(&mut self, bytes: &mut [u8], what: &'static str) -> Result<(), ChannelError> {
        self.file.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ChannelError::Closed(Some(what)),
            _ => ChannelError::Io(error),
        })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn message(&mut self) -> Result<Forward, ChannelError> {
        let mut header = [0; Header::LEN];
        self.read(&mut header, "stream")?;
        let header = Header::decode(header)?;
        let mut fields = vec![0; header.fields()];
        self.read(&mut fields, tag::name(header.tag))?;
        Ok(decode_forward(header, &fields)?)
    }

    fn skip(&mut self, bytes: usize) -> io::Result<()> {
        self.file.seek_relative(bytes as i64)?;
        self.at += bytes as u64;
        Ok(())
    }
}

/// What a walk through a stream has found.
#[derive(Default)]
struct Found {
    introduction: Vec<Forward>,
    state: Option<Forward>,
    running: Option<bool>,
    /// For each block and page where its contents stand.
    blocks: Vec<Vec<u64>>,
}

impl Found {
    /// Notes a message, and goes behind the pages that follow it.
    fn take(&mut self, message: Forward, walk: &mut Walk) -> Result<(), ChannelError> {
        match message {
            Forward::Ram { page_size, blocks } => {
                self.blocks = room(&blocks.iter().map(|block| block.pages).collect::<Vec<_>>())?;
                self.introduction.push(Forward::Ram { page_size, blocks });
            }
            message @ (Forward::Configuration(_) | Forward::Description(_)) => self.introduction.push(message),
            Forward::Pages(run) => {
                let at = walk.at;
                let offsets = (0..).map(|page| at + page * PAGE_SIZE as u64);
                pages(&mut self.blocks, run)?.iter_mut().zip(offsets).for_each(|(place, offset)| *place = offset);
                walk.skip(run.bytes())?;
            }
            Forward::Zeros(all) => {
                for run in all {
                    pages(&mut self.blocks, run)?.fill(ZERO);
                }
            }
            Forward::PassEnd(_) | Forward::Barrier(_) => {}
            message @ Forward::State(_) => self.state = Some(message),
            Forward::HandOver { running } => self.running = Some(running),
            Forward::Cancel(why) => return Err(ChannelError::Refused(why)),
            message @ (Forward::Compressed { .. } | Forward::Xbzrle { .. }) => {
                let name = tag::name(message.tag());
                return Err(ChannelError::Io(io::Error::other(StreamFileError::NotWhole(name))));
            }
            message => {
                return Err(damaged(format!("'{}' stands where no stream has it", tag::name(message.tag()))));
            }
        }
        Ok(())
    }
}

impl Index {
    /// Of the stream that begins where `file` stands. Errors: it is damaged, or was cut.
    pub fn of(mut file: File) -> Result<Self, ChannelError> {
        let begin = file.stream_position()?;
        if let Some(Layout { hello, introduction, state, running, areas }) = Layout::of(&file, begin)? {
            let blocks = areas.into_iter().map(Places::Mapped).collect();
            return Ok(Self { hello, introduction, state, running, label: String::new(), blocks });
        }
        let mut table = PageTable::read(&file, begin)?;
        let label = table.as_mut().map(|table| std::mem::take(&mut table.label)).unwrap_or_default();
        let mut walk = Walk::of(file, begin);
        let hello = walk.hello()?;
        let mut found = Found::default();
        loop {
            match walk.message()? {
                Forward::PassBegin(_) => {
                    // Says what looking through all of it would.
                    if let Some(table) = table.take() {
                        fill(&mut found.blocks, begin, &table)?;
                        walk.go_to(begin + table.state)?;
                    }
                }
                Forward::Complete => break,
                message => found.take(message, &mut walk)?,
            }
        }
        // Pages that are not all there would be missed only when the guest asks for them.
        let length = walk.file.get_ref().metadata()?.len();
        match (found.state, found.running) {
            (Some(state), Some(running)) if walk.at <= length => {
                let blocks = found.blocks.into_iter().map(Places::Listed).collect();
                Ok(Self { hello, introduction: found.introduction, state, running, label, blocks })
            }
            _ => Err(damaged("it has no guest's state".to_owned())),
        }
    }

    /// Without the pages.
    pub fn outline(&self) -> Outline {
        let mut outline = Outline { running: self.running, label: self.label.clone(), ..Outline::default() };
        self.introduction.iter().chain([&self.state]).for_each(|message| outline.note(message));
        outline
    }

    /// How many pages each block has.
    pub fn pages(&self) -> impl Iterator<Item = u64> {
        self.blocks.iter().map(Places::pages)
    }

    /// The run in pieces whose contents stand in a row.
    pub fn extents(&self, run: PageRun) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        let Some(places) = self.blocks.get(usize::from(run.block.0)) else { return extents };
        for page in run.pages() {
            let Some(at) = places.of(page) else { break };
            match extents.last_mut() {
                Some(last) if at == last.at.map(|begin| begin + last.run.bytes() as u64) => last.run.count += 1,
                _ => extents.push(Extent { run: PageRun::single(run.block, page), at }),
            }
        }
        extents
    }
}

fn damaged(why: String) -> ChannelError {
    ChannelError::Io(io::Error::new(io::ErrorKind::InvalidData, format!("the stream is damaged: {why}")))
}

/// Room for the places of all pages, if there can be so many.
fn room(pages: &[u64]) -> Result<Vec<Vec<u64>>, ChannelError> {
    if pages.iter().try_fold(0u64, |sum, pages| sum.checked_add(*pages)).is_none_or(|sum| sum > MOST_PAGES) {
        return Err(damaged("its guest has more RAM than any".to_owned()));
    }
    let block = |pages: &u64| {
        let mut places = Vec::new();
        places
            .try_reserve_exact(*pages as usize)
            .map_err(|_| damaged(format!("no memory for {pages} pages' places")))?;
        places.resize(*pages as usize, ZERO);
        Ok(places)
    };
    pages.iter().map(block).collect()
}

/// Notes where a table says that pages stand, in the stream that begins at `begin`.
fn fill(blocks: &mut [Vec<u64>], begin: u64, table: &PageTable) -> Result<(), ChannelError> {
    for place in &table.places {
        let places = pages(blocks, place.run)?;
        if let Some(at) = place.at {
            let offsets = (0..).map(|page| begin + at + page * PAGE_SIZE as u64);
            places.iter_mut().zip(offsets).for_each(|(place, offset)| *place = offset);
        }
    }
    Ok(())
}

fn pages(blocks: &mut [Vec<u64>], run: PageRun) -> Result<&mut [u64], ChannelError> {
    let (BlockId(block), PageIndex(start), PageIndex(end)) = (run.block, run.start, run.end());
    let places = blocks.get_mut(usize::from(block)).and_then(|block| block.get_mut(start as usize..end as usize));
    places.ok_or_else(|| damaged(format!("{run} are not the guest's")))
}

/// Whether a stream can be indexed: it is a file, not a pipe.
pub(super) fn is_seekable(file: &mut File) -> bool {
    file.stream_position().is_ok()
}
