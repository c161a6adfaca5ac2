//! [`Streams`]: what `exec:`, `fd:` and `file:` stand for on this host.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{SockType, getsockopt, sockopt};
use whimbrel_postcopy::channel::{Acceptor, Channel, ChannelError, Connector, Wake};
use whimbrel_postcopy::stream::mapped::{Access, MappedPlaying, MappedRecording};
use whimbrel_postcopy::stream::{Descriptor, Listening, Paging, Playing, Recording, Sink, stream_fault};

use super::file_kind::something_else;
use super::files::{self, Direction, FileError};
use super::uri::{Reading, Stream};
use crate::fds::{FdsError, NamedFds};
use crate::host::files::FileKind;
use crate::launcher::{End, Launcher, LauncherError, Reader, Talker, Writer};

/// Why a stream cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A file or a command.
    #[error(transparent)]
    Launcher(#[from] LauncherError),
    /// A name that nobody gave, or a number that is nobody's to give.
    #[error(transparent)]
    Number(#[from] FdsError),
    /// A file that cannot be used for it, is in use, or holds what would be lost.
    #[error("{stream} cannot be {doing}")]
    File {
        /// Which.
        stream: Stream,
        /// Written or read.
        doing: &'static str,
        /// Why not.
        #[source]
        source: Box<FileError>,
    },
    /// The file that is to be read, or anything that is to be written.
    #[error("{stream} cannot be {doing}")]
    Open {
        /// Which.
        stream: Stream,
        /// Written or read.
        doing: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file holds no whole guest.
    #[error("no guest can be read from {stream}: {why}")]
    Unreadable {
        /// Which.
        stream: Stream,
        /// What is wrong with it.
        why: String,
    },
    /// `lazy=on` where a guest is to be written.
    #[error("{0}: lazy=on is for reading; leave it out to write a guest")]
    Lazy(Stream),
    /// `mapped-ram` to somewhere else than a file.
    #[error("{0}: mapped-ram is for file:PATH only")]
    Unmapped(Stream),
    /// `direct-io` where pages do not stand each at its place, or are not read in order.
    #[error("{stream}: direct-io reads files with mapped RAM, in order, and {why}; switch direct-io off to read it")]
    Indirect {
        /// Which.
        stream: Stream,
        /// Why it is not such.
        why: &'static str,
    },
}

/// How a guest is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One message after the other, as to a peer.
    Stream,
    /// Each page at its place in a file.
    Mapped(Access),
}

/// Opens streams: by the launcher, and with the descriptors that clients handed over.
#[derive(Debug)]
pub struct Streams {
    launcher: Arc<Launcher>,
    fds: Arc<NamedFds>,
}

impl Streams {
    /// Of this process.
    pub fn new(launcher: Arc<Launcher>, fds: Arc<NamedFds>) -> Self {
        Self { launcher, fds }
    }

    /// Where a guest is written to, and how long somebody who may answer there is listened for.
    pub fn record(&self, stream: &Stream, form: Form, listening: Listening) -> Result<Arc<dyn Connector>, StreamError> {
        let raise = |source| StreamError::Open { stream: stream.clone(), doing: WRITTEN, source };
        let refused = |error| refused(stream, WRITTEN, error);
        if let Form::Mapped(access) = form {
            let (path, offset) = match stream {
                Stream::File { path, offset, reading: Reading::InOrder } => (path, *offset),
                Stream::File { .. } => return Err(StreamError::Lazy(stream.clone())),
                _ => return Err(StreamError::Unmapped(stream.clone())),
            };
            let file = files::to_write(path, &self.launcher).map_err(refused)?;
            self.is_nobodys(&file).map_err(refused)?;
            MappedRecording::check(&file, access).map_err(raise)?;
            files::check_contents(&file, offset).map_err(refused)?;
            return Ok(Arc::new(MappedRecording::new(file, offset, access).map_err(raise)?));
        }
        let (sink, back): (Box<dyn Sink>, _) = match stream {
            Stream::Exec(command) => {
                let Talker { to, from, end } = self.launcher.both(command)?;
                (Box::new(Command { pipe: Descriptor::new(to).map_err(raise)?, end }), Some(from))
            }
            Stream::Fd(name) => {
                let (descriptor, lock) = self.descriptor(name, Direction::Out).map_err(refused)?;
                let back = way_back(&descriptor).map_err(raise)?;
                (Box::new(Locked { stream: Descriptor::new(descriptor).map_err(raise)?, _lock: lock }), back)
            }
            Stream::File { .. } => (self.sink(stream)?, None),
        };
        match back {
            None => Ok(Arc::new(Recording::new(sink))),
            Some(back) => Ok(Arc::new(Recording::with_way_back(sink, back, listening).map_err(raise)?)),
        }
    }

    /// Where a guest is written to that stays: nobody can answer.
    pub fn sink(&self, stream: &Stream) -> Result<Box<dyn Sink>, StreamError> {
        let raise = |source| StreamError::Open { stream: stream.clone(), doing: WRITTEN, source };
        let refused = |error| refused(stream, WRITTEN, error);
        match stream {
            Stream::Exec(command) => {
                let Reader { pipe, end } = self.launcher.reader(command)?;
                Ok(Box::new(Command { pipe: Descriptor::new(pipe).map_err(raise)?, end }))
            }
            Stream::Fd(name) => {
                let (descriptor, lock) = self.descriptor(name, Direction::Out).map_err(refused)?;
                Ok(Box::new(Locked { stream: Descriptor::new(descriptor).map_err(raise)?, _lock: lock }))
            }
            Stream::File { reading: Reading::OnDemand, .. } => Err(StreamError::Lazy(stream.clone())),
            Stream::File { path, offset, .. } => {
                let mut file = files::to_write(path, &self.launcher).map_err(refused)?;
                self.is_nobodys(&file).map_err(refused)?;
                files::check_contents(&file, *offset).map_err(refused)?;
                // What stands in the file before the offset stays; the rest goes.
                match FileKind::from(file.metadata().map_err(raise)?.file_type()) {
                    FileKind::Regular => {
                        file.set_len(*offset).map_err(raise)?;
                        file.seek(SeekFrom::Start(*offset)).map_err(raise)?;
                    }
                    FileKind::BlockDevice => drop(file.seek(SeekFrom::Start(*offset)).map_err(raise)?),
                    _ => {}
                }
                Ok(Box::new(Descriptor::new(file.into()).map_err(raise)?))
            }
        }
    }

    /// Where a guest is read from; `access` is for files with mapped RAM.
    pub fn play(&self, stream: &Stream, access: Access) -> Result<Box<dyn Acceptor>, StreamError> {
        let raise = |source| StreamError::Open { stream: stream.clone(), doing: READ, source };
        let refused = |error| refused(stream, READ, error);
        let (source, back, lock) = match stream {
            Stream::Exec(command) => {
                let Writer { pipe, answers, end } = self.launcher.writer(command)?;
                let stream = Playing::with_way_back(pipe, answers).map_err(raise)?;
                return Ok(Box::new(Printed { stream, end }));
            }
            Stream::Fd(name) => {
                let (descriptor, lock) = self.descriptor(name, Direction::In).map_err(refused)?;
                let back = way_back(&descriptor).map_err(raise)?;
                (descriptor, back, lock)
            }
            Stream::File { path, offset, reading } => {
                let mut file = files::to_read(path).map_err(refused)?;
                self.is_nobodys(&file).map_err(refused)?;
                // A pipe has no places; what stands there first is the guest.
                if *offset > 0 || FileKind::from(file.metadata().map_err(raise)?.file_type()) != FileKind::Fifo {
                    file.seek(SeekFrom::Start(*offset)).map_err(raise)?;
                }
                if let Some(what) = something_else(&file, *offset).map_err(raise)? {
                    return Err(StreamError::Unreadable { stream: stream.clone(), why: what.to_owned() });
                }
                let unreadable = |error| StreamError::Unreadable { stream: stream.clone(), why: stream_fault(&error) };
                let indirect = |why| StreamError::Indirect { stream: stream.clone(), why };
                match reading {
                    Reading::InOrder => match MappedPlaying::of(&file, access).map_err(unreadable)? {
                        Some(playing) => return Ok(Box::new(playing)),
                        None if access == Access::Direct => return Err(indirect("this holds a stream")),
                        None => (file.into(), None, None),
                    },
                    Reading::OnDemand if access == Access::Direct => return Err(indirect("lazy=on does not")),
                    Reading::OnDemand => return Ok(Box::new(Paging::new(file).map_err(unreadable)?)),
                }
            }
        };
        let playing = match back {
            None => Playing::new(source),
            Some(back) => Playing::with_way_back(source, back),
        };
        Ok(Box::new(Locked { stream: playing.map_err(raise)?, _lock: lock }))
    }

    /// A name of `getfd`, or the number of a descriptor that this process was started with; used up
    /// by this. With what keeps others from the file behind it, if there is one.
    fn descriptor(&self, name: &str, direction: Direction) -> Result<(OwnedFd, Option<File>), FileError> {
        let descriptor = match name.parse::<RawFd>() {
            Ok(number) => self.fds.take_inherited(number)?,
            Err(_) => self.fds.take(name).ok_or_else(|| FdsError::NoSuchName(name.to_owned()))?,
        };
        let file = File::from(descriptor);
        let lock = files::check_handed(&file, direction)?;
        Ok((file.into(), lock))
    }

    /// Refuses a file that this process's standard input or output is, while a serial port or a
    /// monitor has those.
    fn is_nobodys(&self, file: &File) -> Result<(), FileError> {
        let found = file.metadata()?;
        match self.fds.use_of((found.dev(), found.ino())) {
            Some(has) => Err(FileError::Standard(has)),
            None => Ok(()),
        }
    }
}

/// For how long a command that reads or writes no more is given to end.
const LAST_WORDS: Duration = Duration::from_secs(1);

const WRITTEN: &str = "written";
const READ: &str = "read";

fn refused(stream: &Stream, doing: &'static str, error: FileError) -> StreamError {
    match error {
        // It names what it is about.
        FileError::Number(error) => StreamError::Number(error),
        // As the system's own error it gets the advice that goes with its number.
        FileError::System(source) | FileError::Launcher(LauncherError::Refused { source, .. }) => {
            StreamError::Open { stream: stream.clone(), doing, source }
        }
        error => StreamError::File { stream: stream.clone(), doing, source: error.into() },
    }
}

/// A stream, and what keeps others from the file behind it.
struct Locked<T> {
    stream: T,
    _lock: Option<File>,
}

impl Sink for Locked<Descriptor> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.stream.fd()
    }

    fn commit(self: Box<Self>) -> io::Result<()> {
        Box::new(self.stream).commit()
    }
}

impl Acceptor for Locked<Playing> {
    fn is_stream(&self) -> bool {
        true
    }

    fn accept(&self, wake: &Wake) -> Result<Channel, ChannelError> {
        self.stream.accept(wake)
    }
}

/// The other direction of a descriptor that has one: a stream socket's.
fn way_back(descriptor: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    match getsockopt(descriptor, sockopt::SockType) {
        Ok(SockType::Stream) => Ok(Some(descriptor.try_clone()?)),
        _ => Ok(None),
    }
}

/// A command that writes the stream.
struct Printed {
    stream: Playing,
    end: End,
}

impl Acceptor for Printed {
    fn is_stream(&self) -> bool {
        true
    }

    fn accept(&self, wake: &Wake) -> Result<Channel, ChannelError> {
        self.stream.accept(wake).map_err(|error| match error {
            // Of one that wrote nothing that is a guest its end says more.
            ChannelError::Closed(_) => match self.end.early(LAST_WORDS) {
                Some(end) => ChannelError::Io(end),
                None => error,
            },
            _ => error,
        })
    }
}

/// A command that reads the stream: the guest is safe when it has ended well.
struct Command {
    pipe: Descriptor,
    end: End,
}

impl Sink for Command {
    fn fd(&self) -> BorrowedFd<'_> {
        self.pipe.fd()
    }

    fn commit(self: Box<Self>) -> io::Result<()> {
        drop(self.pipe);
        self.end.wait()
    }

    fn unwritten(&mut self, error: io::Error) -> io::Error {
        // Whoever reads no more has mostly ended, and how says more than that a pipe is broken.
        match error.kind() {
            io::ErrorKind::BrokenPipe => self.end.early(LAST_WORDS).unwrap_or(error),
            _ => error,
        }
    }
}
