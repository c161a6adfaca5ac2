//! The messages as values. Their numbers and bytes are the codec's business.

use super::Fragment;
use crate::encoding::Codec;
use crate::guest::{Configuration, Section};
use crate::ram::PageRun;

/// The longest run of pages in one message.
pub const MAX_RUN_PAGES: u32 = 1024;

/// Message numbers.
pub mod tag {
    /// [`super::Forward::Configuration`].
    pub const CONFIGURATION: u16 = 1;
    /// [`super::Forward::Ram`].
    pub const RAM: u16 = 2;
    /// [`super::Forward::Description`].
    pub const DESCRIPTION: u16 = 3;
    /// [`super::Forward::PassBegin`].
    pub const PASS_BEGIN: u16 = 4;
    /// [`super::Forward::PassEnd`].
    pub const PASS_END: u16 = 5;
    /// [`super::Forward::Pages`], also an answer on the demand channel.
    pub const PAGES: u16 = 6;
    /// [`super::Forward::Zeros`], also an answer on the demand channel.
    pub const ZEROS: u16 = 7;
    /// [`super::Forward::Discard`].
    pub const DISCARD: u16 = 8;
    /// [`super::Forward::Listen`].
    pub const LISTEN: u16 = 9;
    /// [`super::Forward::State`].
    pub const STATE: u16 = 10;
    /// [`super::Forward::HandOver`].
    pub const HAND_OVER: u16 = 11;
    /// [`super::Forward::Complete`].
    pub const COMPLETE: u16 = 12;
    /// [`super::Forward::Cancel`].
    pub const CANCEL: u16 = 13;
    /// [`super::Forward::Barrier`].
    pub const BARRIER: u16 = 14;
    /// [`super::Forward::MultifdStart`].
    pub const MULTIFD_START: u16 = 15;
    /// [`super::Forward::MultifdFlush`], also the last of its stretch on each multifd channel.
    pub const MULTIFD_FLUSH: u16 = 16;
    /// [`super::Forward::Goodbye`].
    pub const GOODBYE: u16 = 17;
    /// [`super::Forward::Compressed`].
    pub const COMPRESSED: u16 = 18;
    /// [`super::Forward::Xbzrle`].
    pub const XBZRLE: u16 = 19;
    /// [`super::Forward::SharedRam`].
    pub const SHARED_RAM: u16 = 20;
    /// Tells a file with mapped RAM from a stream; no message on a channel.
    pub const MAPPED: u16 = 21;
    /// [`super::Reply::Accepted`].
    pub const ACCEPTED: u16 = 64;
    /// [`super::Reply::Listening`].
    pub const LISTENING: u16 = 65;
    /// [`super::Reply::Ready`].
    pub const READY: u16 = 66;
    /// [`super::Reply::Running`].
    pub const RUNNING: u16 = 67;
    /// [`super::Reply::NotStarted`].
    pub const NOT_STARTED: u16 = 68;
    /// [`super::Reply::AllReceived`].
    pub const ALL_RECEIVED: u16 = 69;
    /// [`super::Reply::Received`].
    pub const RECEIVED: u16 = 70;
    /// [`super::Reply::ReceivedEnd`].
    pub const RECEIVED_END: u16 = 71;
    /// [`super::Reply::BarrierAck`].
    pub const BARRIER_ACK: u16 = 72;
    /// [`super::Request`].
    pub const REQUEST: u16 = 128;

    /// Every message's number and name, for the stream's description of itself.
    pub const NAMES: [(u16, &str); 31] = [
        (CONFIGURATION, "configuration"),
        (RAM, "ram"),
        (DESCRIPTION, "description"),
        (PASS_BEGIN, "pass-begin"),
        (PASS_END, "pass-end"),
        (PAGES, "pages"),
        (ZEROS, "zeros"),
        (DISCARD, "discard"),
        (LISTEN, "arm"),
        (STATE, "state"),
        (HAND_OVER, "hand-over"),
        (COMPLETE, "complete"),
        (CANCEL, "cancel"),
        (BARRIER, "mark"),
        (MULTIFD_START, "spread"),
        (MULTIFD_FLUSH, "gather"),
        (GOODBYE, "goodbye"),
        (COMPRESSED, "packed"),
        (XBZRLE, "delta"),
        (SHARED_RAM, "shared-ram"),
        (MAPPED, "mapped"),
        (ACCEPTED, "accepted"),
        (LISTENING, "armed"),
        (READY, "ready"),
        (RUNNING, "running"),
        (NOT_STARTED, "not-started"),
        (ALL_RECEIVED, "all-received"),
        (RECEIVED, "received"),
        (RECEIVED_END, "received-end"),
        (BARRIER_ACK, "reached"),
        (REQUEST, "request"),
    ];

    /// A message number's name.
    pub fn name(tag: u16) -> &'static str {
        NAMES.iter().find(|(number, _)| *number == tag).map_or("unknown", |(_, name)| name)
    }
}

/// One RAM block as the source describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDescription {
    /// Its name.
    pub name: String,
    /// Where the guest sees it, in bytes.
    pub guest_address: u64,
    /// Its length in pages.
    pub pages: u64,
}

/// Source to destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forward {
    /// What the destination must match.
    Configuration(Configuration),
    /// The RAM blocks and the page size in bytes.
    Ram {
        /// Bytes a page.
        page_size: u32,
        /// In the order of their numbers.
        blocks: Vec<BlockDescription>,
    },
    /// JSON for tools that read a recorded stream.
    Description(String),
    /// A precopy pass begins, counted from 1.
    PassBegin(u32),
    /// It ends.
    PassEnd(u32),
    /// A run of pages; their contents follow the message.
    Pages(PageRun),
    /// Runs of pages that are all zero.
    Zeros(Vec<PageRun>),
    /// Pages sent before that are stale: drop them.
    Discard(Fragment),
    /// No stale page is left: watch guest RAM for touches of missing pages.
    Listen,
    /// CPU and device state. Load it, do not run.
    State(Vec<Section>),
    /// The guest is the destination's. `running`: start the vCPUs.
    HandOver {
        /// Whether the guest was running when it was paused.
        running: bool,
    },
    /// Every page has been sent.
    Complete,
    /// The source keeps the guest; one sentence why.
    Cancel(String),
    /// Say so when everything before this has been dealt with.
    Barrier(u32),
    /// From here on pages come on the multifd channels.
    MultifdStart,
    /// No more of them there: what follows is of a time after all of them.
    MultifdFlush,
    /// The source knows that every page is in place: nothing is left to say.
    Goodbye,
    /// A run of pages; their contents follow the message, compressed.
    Compressed {
        /// At most [`crate::encoding::MAX_COMPRESSED_PAGES`] of them.
        run: PageRun,
        /// What with.
        codec: Codec,
        /// How many bytes follow.
        length: u32,
    },
    /// A run of pages that were sent before; what has changed of them follows the message: for each
    /// page a length of two bytes, and so many bytes of [`crate::encoding::XbzrleDecoder`].
    Xbzrle {
        /// At most [`crate::encoding::MAX_COMPRESSED_PAGES`] of them.
        run: PageRun,
        /// How many bytes follow.
        length: u32,
    },
    /// So many files are all of RAM, in the order of the blocks. They come with the first byte of
    /// this message, over a unix socket.
    SharedRam(u32),
}

/// Destination to source, on the control channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Configuration and RAM fit.
    Accepted,
    /// Missing pages are watched.
    Listening,
    /// The state is loaded, the guest can run.
    Ready,
    /// The guest has been started here (or is paused here, if it came paused).
    Running,
    /// The guest was not and will not be started here; one sentence why.
    NotStarted(String),
    /// Every page is in place.
    AllReceived,
    /// Pages that are in place, after a reconnect.
    Received(Fragment),
    /// That was the last [`Reply::Received`].
    ReceivedEnd,
    /// Everything before this [`Forward::Barrier`] has been dealt with.
    BarrierAck(u32),
}

/// Destination to source, on the demand channel: pages that somebody waits for, most urgent first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request(pub Vec<PageRun>);
