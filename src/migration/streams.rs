//! [`Streams`]: what `exec:`, `fd:` and `file:` stand for on this host.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use nix::sys::socket::{SockType, getsockopt, sockopt};
use whimbrel_postcopy::channel::{Acceptor, ChannelError, Connector};
use whimbrel_postcopy::stream::mapped::{Access, MappedPlaying, MappedRecording};
use whimbrel_postcopy::stream::{Descriptor, Listening, Paging, Playing, Recording, Sink};

use super::uri::{Reading, Stream};
use crate::fds::NamedFds;
use crate::kvm::duplicate_fd;
use crate::launcher::{End, Launcher, LauncherError, Reader, Talker, Writer};

/// Why a stream cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A file or a command.
    #[error(transparent)]
    Launcher(#[from] LauncherError),
    /// Nobody handed it over.
    #[error("no file descriptor is named '{0}': hand one over with 'getfd {0}' first")]
    NoSuchName(String),
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
    #[error("no guest can be read from {stream}")]
    Unreadable {
        /// Which.
        stream: Stream,
        /// Why not.
        #[source]
        source: ChannelError,
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
        let raise = |source| StreamError::Open { stream: stream.clone(), doing: "written", source };
        if let Form::Mapped(access) = form {
            let (path, offset) = match stream {
                Stream::File { path, offset, reading: Reading::InOrder } => (path, *offset),
                Stream::File { .. } => return Err(StreamError::Lazy(stream.clone())),
                _ => return Err(StreamError::Unmapped(stream.clone())),
            };
            let file = self.open(path, raise)?;
            return Ok(Arc::new(MappedRecording::new(file, offset, access).map_err(raise)?));
        }
        let (sink, back): (Box<dyn Sink>, _) = match stream {
            Stream::Exec(command) => {
                let Talker { to, from, end } = self.launcher.both(command)?;
                (Box::new(Command { pipe: Descriptor::new(to).map_err(raise)?, end }), Some(from))
            }
            Stream::Fd(name) => {
                let descriptor = self.descriptor(name)?;
                let back = way_back(&descriptor).map_err(raise)?;
                (Box::new(Descriptor::new(descriptor).map_err(raise)?), back)
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
        let raise = |source| StreamError::Open { stream: stream.clone(), doing: "written", source };
        match stream {
            Stream::Exec(command) => {
                let Reader { pipe, end } = self.launcher.reader(command)?;
                Ok(Box::new(Command { pipe: Descriptor::new(pipe).map_err(raise)?, end }))
            }
            Stream::Fd(name) => Ok(Box::new(Descriptor::new(self.descriptor(name)?).map_err(raise)?)),
            Stream::File { reading: Reading::OnDemand, .. } => Err(StreamError::Lazy(stream.clone())),
            Stream::File { path, offset, .. } => {
                Ok(Box::new(Descriptor::new(self.file(path, *offset, raise)?).map_err(raise)?))
            }
        }
    }

    /// Where a guest is read from; `access` is for files with mapped RAM.
    pub fn play(&self, stream: &Stream, access: Access) -> Result<Box<dyn Acceptor>, StreamError> {
        let raise = |source| StreamError::Open { stream: stream.clone(), doing: "read", source };
        let (source, back) = match stream {
            Stream::Exec(command) => {
                let Writer { pipe, answers } = self.launcher.writer(command)?;
                (pipe, Some(answers))
            }
            Stream::Fd(name) => {
                let descriptor = self.descriptor(name)?;
                let back = way_back(&descriptor).map_err(raise)?;
                (descriptor, back)
            }
            Stream::File { path, offset, reading } => {
                let mut file = File::open(path).map_err(raise)?;
                file.seek(SeekFrom::Start(*offset)).map_err(raise)?;
                let unreadable = |source| StreamError::Unreadable { stream: stream.clone(), source };
                let indirect = |why| StreamError::Indirect { stream: stream.clone(), why };
                match reading {
                    Reading::InOrder => match MappedPlaying::of(&file, access).map_err(unreadable)? {
                        Some(playing) => return Ok(Box::new(playing)),
                        None if access == Access::Direct => return Err(indirect("this holds a stream")),
                        None => (file.into(), None),
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
        Ok(Box::new(playing.map_err(raise)?))
    }

    /// A name of `getfd`, which is used up by this, or the number of a descriptor that this process was started with.
    fn descriptor(&self, name: &str) -> Result<OwnedFd, StreamError> {
        let none = || StreamError::NoSuchName(name.to_owned());
        match name.parse::<RawFd>() {
            Ok(number) => duplicate_fd(number).map_err(|_| none()),
            Err(_) => self.fds.take(name).ok_or_else(none),
        }
    }

    /// What stands in the file before `offset` stays; the rest goes.
    fn file(&self, path: &Path, offset: u64, raise: impl Fn(io::Error) -> StreamError) -> Result<OwnedFd, StreamError> {
        let mut file = self.open(path, &raise)?;
        if file.metadata().map_err(&raise)?.is_file() {
            file.set_len(offset).map_err(&raise)?;
            file.seek(SeekFrom::Start(offset)).map_err(&raise)?;
        }
        Ok(file.into())
    }

    /// For writing, all that stands in it left as it is.
    fn open(&self, path: &Path, raise: impl Fn(io::Error) -> StreamError) -> Result<File, StreamError> {
        // One that exists needs no help.
        match File::options().write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(File::from(self.launcher.file(path)?)),
            opened => opened.map_err(raise),
        }
    }
}

/// The other direction of a descriptor that has one: a stream socket's.
fn way_back(descriptor: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    match getsockopt(descriptor, sockopt::SockType) {
        Ok(SockType::Stream) => Ok(Some(descriptor.try_clone()?)),
        _ => Ok(None),
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
}
