//! [`MappedRecording`]: the source's channels, where each page gets its place in a file.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::StreamFileError;
use super::Access;
use super::store::Store;
use crate::channel::{Channel, ChannelError, Connector, MessageReader, Wake};
use crate::error::sentence;
use crate::logging as log;
use crate::wire::{Answer, Features, Forward, Hello, Reply, VERSION_MAX, decode_forward, tag};

/// What is read at once where contents are short, in bytes.
const BUFFER: usize = 256 * 1024;

/// Gives the channels of one precopy, and keeps what comes over them in a file with mapped RAM.
///
/// As with [`crate::stream::Recording`] a thread of its own does the writing, and the guest is
/// given up when all of it is safe.
pub struct MappedRecording {
    next: Mutex<Next>,
}

/// Which channel is asked for next.
enum Next {
    Control(Opening),
    Demand,
    None,
}

impl MappedRecording {
    /// Into `file`, from byte `offset` on; what stands before it stays, the rest goes at once.
    /// Errors: it is no regular file, or its file system does not do `access`.
    pub fn new(file: File, offset: u64, access: Access) -> io::Result<Self> {
        Self::check(&file, access)?;
        // What was there is no guest's from here on.
        file.set_len(offset)?;
        Ok(Self { next: Mutex::new(Next::Control(Opening { file, offset, access })) })
    }

    /// Whether [`MappedRecording::new`] takes the file. Changes nothing.
    pub fn check(file: &File, access: Access) -> io::Result<()> {
        if !file.metadata()?.is_file() {
            return Err(io::Error::other(StreamFileError::NotRegular));
        }
        access.check(file).map_err(|error| io::Error::new(error.kind(), StreamFileError::NoDirectIo(error)))
    }
}

impl Connector for MappedRecording {
    fn connect(&self) -> io::Result<Channel> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let (ours, theirs) = Channel::pair()?;
        let wake = Wake::new()?;
        // A destination that can do nothing but take pages as they are.
        let welcome = Answer::Welcome { version: VERSION_MAX, features: Features::default() };
        ours.send(&welcome.encode(), &wake, &|| false).map_err(io::Error::other)?;
        match std::mem::replace(&mut *next, Next::None) {
            Next::Control(opening) => {
                let peer = Arc::new(ours);
                let reader = MessageReader::new(peer.clone(), BUFFER);
                let recorder = Recorder { peer, reader, wake, stage: Stage::Introduced(opening, Vec::new()) };
                std::thread::Builder::new().name("mig-record".into()).spawn(log::carried(move || recorder.run()))?;
                *next = Next::Demand;
            }
            // Without postcopy nothing is asked for on it: nobody has to listen.
            Next::Demand => {}
            Next::None => return Err(io::Error::other("a guest that goes to a file cannot be joined again")),
        }
        Ok(theirs)
    }

    fn only_keeps(&self) -> bool {
        true
    }
}

/// The file before anything is known of the guest.
struct Opening {
    file: File,
    offset: u64,
    access: Access,
}

/// How far it has come.
enum Stage {
    /// With the messages that came.
    Introduced(Opening, Vec<Forward>),
    Written(Box<Store>),
    /// The guest is safe, or it stays: whatever else the source says goes nowhere.
    Over,
}

/// The thread behind the control channel.
struct Recorder {
    peer: Arc<Channel>,
    reader: MessageReader,
    /// Nobody rings it.
    wake: Wake,
    stage: Stage,
}

impl Recorder {
    fn run(mut self) {
        let Err(error) = self.record();
        log::debug!("nothing more is recorded: {}", sentence(&error));
    }

    /// Until the source closes the channel.
    fn record(&mut self) -> Result<Infallible, ChannelError> {
        let mut hello = [0; Hello::LEN];
        self.reader.contents_to(&mut hello)?;
        // What follows is of this version, whichever others the source speaks.
        let hello = Hello { versions: (VERSION_MAX, VERSION_MAX), ..Hello::decode(&hello)? };
        loop {
            let header = self.reader.header(&self.wake)?;
            let fields = self.reader.fields(header)?;
            let message = decode_forward(header, &fields)?;
            match self.take(&hello, message) {
                Ok(None) => {}
                Ok(Some(reply)) => self.say(&reply)?,
                Err(Failure::Source(error)) => return Err(error),
                Err(Failure::File(error)) => {
                    self.give_up(&format!("the file could not be written: {}", sentence(&error)))?
                }
                Err(Failure::Unsafe(error)) => self.give_up(&format!("the file is not safe: {}", sentence(&error)))?,
            }
        }
    }

    /// What a destination would say to this.
    fn take(&mut self, hello: &Hello, message: Forward) -> Result<Option<Reply>, Failure> {
        match (&mut self.stage, message) {
            (Stage::Over, Forward::Pages(run)) => self.reader.skip(run.bytes()).map_err(Failure::Source)?,
            (Stage::Over, _) => {}
            (Stage::Introduced(_, messages), message @ (Forward::Configuration(_) | Forward::Ram { .. })) => {
                messages.push(message);
            }
            (Stage::Introduced(..), message @ Forward::Description(_)) => {
                self.begin(hello, message)?;
                return Ok(Some(Reply::Accepted));
            }
            // A destination needs no passes: each page is there once.
            (Stage::Written(_), Forward::PassBegin(_) | Forward::PassEnd(_)) => {}
            (Stage::Written(store), Forward::Pages(run)) => {
                let (reader, mut left) = (&mut self.reader, run.bytes());
                let taken = store.pages(run, |bytes| {
                    left -= bytes.len();
                    reader.contents_to(bytes).map_err(Failure::Source)
                });
                if let Err(Failure::File(_)) = taken {
                    // The next message stands behind them.
                    reader.skip(left).map_err(Failure::Source)?;
                }
                taken?;
            }
            (Stage::Written(store), Forward::Zeros(runs)) => runs.into_iter().try_for_each(|run| store.zeros(run))?,
            (Stage::Written(store), Forward::Barrier(number)) => {
                store.flush()?;
                return Ok(Some(Reply::BarrierAck(number)));
            }
            (Stage::Written(store), message @ Forward::State(_)) => {
                store.keep(&message);
                return Ok(Some(Reply::Ready));
            }
            (Stage::Written(store), message @ Forward::HandOver { .. }) => store.keep(&message),
            (Stage::Written(_), message @ Forward::Complete) => {
                self.commit(&message)?;
                return Ok(Some(Reply::Running));
            }
            (_, Forward::Cancel(_)) => self.stage = Stage::Over,
            (_, message) => {
                let name = tag::name(message.tag());
                return Err(io::Error::other(format!("'{name}' stands where no file with mapped RAM has it")).into());
            }
        }
        Ok(None)
    }

    fn begin(&mut self, hello: &Hello, description: Forward) -> Result<(), Failure> {
        let Stage::Introduced(Opening { file, offset, access }, mut messages) =
            std::mem::replace(&mut self.stage, Stage::Over)
        else {
            return Ok(());
        };
        messages.push(description);
        let ram = messages.iter().find_map(|message| match message {
            Forward::Ram { blocks, .. } => Some(blocks.iter().map(|block| block.pages).collect::<Vec<_>>()),
            _ => None,
        });
        let store = Store::begin(file, offset, access, hello, &messages, &ram.unwrap_or_default())?;
        self.stage = Stage::Written(Box::new(store));
        Ok(())
    }

    /// The guest is whole: what the source says from here on is a farewell.
    fn commit(&mut self, complete: &Forward) -> Result<(), Failure> {
        let Stage::Written(mut store) = std::mem::replace(&mut self.stage, Stage::Over) else { return Ok(()) };
        store.keep(complete);
        store.commit().map_err(Failure::Unsafe)
    }

    /// The guest stays; whatever else the source says goes nowhere.
    fn give_up(&mut self, why: &str) -> Result<(), ChannelError> {
        self.stage = Stage::Over;
        self.say(&Reply::NotStarted(why.to_owned()))
    }

    fn say(&self, reply: &Reply) -> Result<(), ChannelError> {
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        if *reply == Reply::Running {
            Reply::AllReceived.encode(&mut bytes);
        }
        self.peer.send(&bytes, &self.wake, &|| false)
    }
}

/// Why something was not taken.
enum Failure {
    /// The source went away.
    Source(ChannelError),
    /// The file takes nothing more.
    File(io::Error),
    /// It took everything and does not keep it.
    Unsafe(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}
