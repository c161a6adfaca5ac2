//! [`Paging`]: a recorded guest that runs at once, its pages read from the file as it touches them.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::index::{Index, Outline};
use super::welcomed;
use crate::bitmap::RamBitmap;
use crate::channel::{Acceptor, Channel, ChannelError, MessageReader, Wake};
use crate::error::{MigrationError, sentence};
use crate::logging as log;
use crate::ram::{PAGE_SIZE, PageIndex, PageRun};
use crate::thread_priority::raise_priority;
use crate::wire::{ChannelKind, Features, Forward, Hello, Reply, Request, decode_reply};

/// Holds the longest reply, and the longest request.
const READ_BUFFER: usize = 128 * 1024;
/// The background reads so many pages at once: a demanded page waits for the disk behind no more
/// than this.
const AT_ONCE: u32 = 64;

/// Gives the channels of a postcopy whose source is a file that a [`super::Recording`] wrote.
///
/// The destination is the same as in any postcopy: it loads the state, runs the guest, and asks for
/// the pages that are touched. Two threads answer it from the file, one for what is asked for and
/// one for all the rest. The file must not change before the guest has all of it.
pub struct Paging {
    next: RefCell<Next>,
}

/// Which channel is given next.
enum Next {
    Control(Box<(File, Index)>),
    Demand(Box<Channel>),
    None,
}

impl Paging {
    /// From the stream that begins where `file` stands: looks through all of it but the pages'
    /// contents. Errors: it is damaged or was cut, or cannot be read anywhere but in order.
    pub fn new(mut file: File) -> Result<Self, ChannelError> {
        if !super::index::is_seekable(&mut file) {
            return Err(ChannelError::Io(io::Error::other("pages can be demanded of a file only, not of a pipe")));
        }
        let index = Index::of(file.try_clone()?)?;
        Ok(Self { next: RefCell::new(Next::Control(Box::new((file, index)))) })
    }

    /// What the file holds besides pages; nothing once the guest is being given.
    pub fn outline(&self) -> Outline {
        match &*self.next.borrow() {
            Next::Control(recorded) => recorded.1.outline(),
            Next::Demand(_) | Next::None => Outline::default(),
        }
    }
}

impl Acceptor for Paging {
    fn is_stream(&self) -> bool {
        true
    }

    fn accept(&self, _wake: &Wake) -> Result<Channel, ChannelError> {
        match self.next.replace(Next::None) {
            Next::Control(recorded) => {
                let (file, index) = *recorded;
                let (control, demand) = begin(file, index)?;
                self.next.replace(Next::Demand(Box::new(demand)));
                Ok(control)
            }
            Next::Demand(channel) => Ok(*channel),
            Next::None => Err(ChannelError::Closed(None)),
        }
    }
}

/// Begins to serve: the destination's ends of the control and of the demand channel.
fn begin(file: File, index: Index) -> Result<(Channel, Channel), ChannelError> {
    let wake = Wake::new()?;
    let ((ours, control), (asked, demand)) = (Channel::pair()?, Channel::pair()?);
    for (channel, kind) in [(&ours, ChannelKind::Control), (&asked, ChannelKind::Demand)] {
        let hello = Hello { kind, features: Features::POSTCOPY, recover: false, ..index.hello };
        channel.send(&hello.encode(), &wake, &|| false)?;
    }
    let pending = RamBitmap::with_pages(index.pages());
    pending.set_all();
    let shelf = Arc::new(Shelf { file, index, pending });
    let server = Server { line: Line::new(shelf.clone(), asked)? };
    let pusher = Pusher { line: Line::new(shelf, ours)? };
    std::thread::Builder::new().name("page-demand".into()).spawn(log::carried(move || server.run()))?;
    std::thread::Builder::new().name("page-push".into()).spawn(log::carried(move || pusher.run()))?;
    Ok((control, demand))
}

/// What both threads share.
struct Shelf {
    file: File,
    index: Index,
    /// Pages that nobody has sent.
    pending: RamBitmap,
}

/// One channel to the destination.
struct Line {
    shelf: Arc<Shelf>,
    channel: Arc<Channel>,
    replies: MessageReader,
    /// Nobody rings it.
    wake: Wake,
    bytes: Vec<u8>,
}

impl Line {
    fn new(shelf: Arc<Shelf>, channel: Channel) -> io::Result<Self> {
        let channel = Arc::new(channel);
        let replies = MessageReader::new(channel.clone(), READ_BUFFER);
        Ok(Self { shelf, channel, replies, wake: Wake::new()?, bytes: Vec::new() })
    }

    /// Adds pages to what is to be sent.
    fn add(&mut self, run: PageRun) -> io::Result<()> {
        for extent in self.shelf.index.extents(run) {
            match extent.at {
                None => Forward::Zeros(vec![extent.run]).encode(&mut self.bytes),
                Some(at) => {
                    Forward::Pages(extent.run).encode(&mut self.bytes);
                    let begin = self.bytes.len();
                    self.bytes.resize(begin + extent.run.bytes(), 0);
                    self.shelf.file.read_exact_at(&mut self.bytes[begin..], at)?;
                }
            }
        }
        Ok(())
    }

    fn say(&mut self, message: &Forward) -> Result<(), ChannelError> {
        message.encode(&mut self.bytes);
        self.send()
    }

    fn send(&mut self) -> Result<(), ChannelError> {
        self.channel.send(&self.bytes, &self.wake, &|| false)?;
        self.bytes.clear();
        Ok(())
    }

    fn reply(&mut self) -> Result<Reply, ChannelError> {
        let header = self.replies.header(&self.wake)?;
        let fields = self.replies.fields(header)?;
        Ok(decode_reply(header, &fields)?)
    }

    /// Waits for this reply.
    fn expect(&mut self, wanted: &Reply) -> Result<(), ChannelError> {
        match self.reply()? {
            reply if reply == *wanted => Ok(()),
            Reply::NotStarted(why) => Err(ChannelError::Refused(why)),
            _ => Err(ChannelError::Refused("it answered out of order".to_owned())),
        }
    }
}

/// Gives what is asked for.
struct Server {
    line: Line,
}

impl Server {
    fn run(mut self) {
        raise_priority();
        match self.serve() {
            Ok(()) | Err(MigrationError::Link { source: ChannelError::Closed(None), .. }) => {}
            Err(error) => log::error!("a page that the guest waits for cannot be read: {}", sentence(&error)),
        }
        self.line.channel.shutdown();
    }

    fn serve(&mut self) -> Result<(), MigrationError> {
        let lost = |source: ChannelError| MigrationError::Link { peer: "destination", source };
        welcomed(&self.line.channel, &self.line.wake).map_err(lost)?;
        let shelf = self.line.shelf.clone();
        let answered = RamBitmap::with_pages(shelf.index.pages());
        loop {
            let header = self.line.replies.header(&self.line.wake).map_err(lost)?;
            let fields = self.line.replies.fields(header).map_err(lost)?;
            let request = Request::decode(header, &fields).map_err(|error| lost(error.into()))?;
            let mut read = Ok(());
            crate::source::answer(&shelf.pending, &answered, &request, |run| {
                if read.is_ok() {
                    read = self.line.add(run);
                }
            })?;
            read?;
            self.line.send().map_err(lost)?;
        }
    }
}

/// Says what a source says, and sends all the rest.
struct Pusher {
    line: Line,
}

impl Pusher {
    fn run(mut self) {
        match self.push() {
            // The destination has said itself why it closed the channel.
            Ok(()) | Err(ChannelError::Closed(None)) => {}
            Err(error) => log::error!("the guest cannot be read from its file: {}", sentence(&error)),
        }
        self.line.channel.finish();
        while self.line.reply().is_ok() {}
    }

    fn push(&mut self) -> Result<(), ChannelError> {
        if !welcomed(&self.line.channel, &self.line.wake)?.contains(Features::POSTCOPY) {
            return self
                .line
                .say(&Forward::Cancel("pages cannot be demanded here: userfaultfd is not available".to_owned()));
        }
        let shelf = self.line.shelf.clone();
        for message in &shelf.index.introduction {
            self.line.say(message)?;
        }
        self.line.expect(&Reply::Accepted)?;
        self.line.say(&Forward::Listen)?;
        self.line.expect(&Reply::Listening)?;
        self.line.say(&shelf.index.state)?;
        self.line.expect(&Reply::Ready)?;
        self.line.say(&Forward::HandOver { running: shelf.index.running })?;
        self.line.expect(&Reply::Running)?;
        self.background()?;
        self.line.say(&Forward::Complete)?;
        self.line.expect(&Reply::AllReceived)?;
        self.line.say(&Forward::Goodbye)
    }

    /// All pages that nobody has asked for, in order.
    fn background(&mut self) -> Result<(), ChannelError> {
        let shelf = self.line.shelf.clone();
        for (block, pending) in shelf.pending.blocks() {
            let mut from = PageIndex(0);
            while let Some(run) = pending.claim_run(block, from, AT_ONCE) {
                from = run.end();
                self.line.add(run)?;
                if self.line.bytes.len() >= AT_ONCE as usize * PAGE_SIZE {
                    self.line.send()?;
                }
            }
        }
        self.line.send()
    }
}
