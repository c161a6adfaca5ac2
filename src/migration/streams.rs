//! [`Streams`]: what `exec:`, `fd:` and `file:` stand for on this host.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use whimbrel_postcopy::channel::{Acceptor, ChannelError};
use whimbrel_postcopy::stream::{Descriptor, Paging, Playing, Recording, Sink};

use super::uri::{Reading, Stream};
use crate::fds::NamedFds;
use crate::kvm::duplicate_fd;
use crate::launcher::{End, Launcher, LauncherError, Reader};

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

    /// Where a guest is written to that leaves.
    pub fn record(&self, stream: &Stream) -> Result<Recording, StreamError> {
        Ok(Recording::new(self.sink(stream)?))
    }

    /// Where any guest is written to.
    pub fn sink(&self, stream: &Stream) -> Result<Box<dyn Sink>, StreamError> {
        let raise = |source| StreamError::Open { stream: stream.clone(), doing: "written", source };
        let sink: Box<dyn Sink> = match stream {
            Stream::Exec(command) => {
                let Reader { pipe, end } = self.launcher.reader(command)?;
                Box::new(Command { pipe: Descriptor::new(pipe).map_err(raise)?, end })
            }
            Stream::Fd(name) => Box::new(Descriptor::new(self.descriptor(name)?).map_err(raise)?),
            Stream::File { reading: Reading::OnDemand, .. } => return Err(StreamError::Lazy(stream.clone())),
            Stream::File { path, offset, .. } => {
                Box::new(Descriptor::new(self.file(path, *offset, raise)?).map_err(raise)?)
            }
        };
        Ok(sink)
    }

    /// Where a guest is read from.
    pub fn play(&self, stream: &Stream) -> Result<Box<dyn Acceptor>, StreamError> {
        let raise = |source| StreamError::Open { stream: stream.clone(), doing: "read", source };
        let source = match stream {
            Stream::Exec(command) => self.launcher.writer(command)?,
            Stream::Fd(name) => self.descriptor(name)?,
            Stream::File { path, offset, reading } => {
                let mut file = File::open(path).map_err(raise)?;
                file.seek(SeekFrom::Start(*offset)).map_err(raise)?;
                match reading {
                    Reading::InOrder => file.into(),
                    Reading::OnDemand => {
                        let unreadable = |source| StreamError::Unreadable { stream: stream.clone(), source };
                        return Ok(Box::new(Paging::new(file).map_err(unreadable)?));
                    }
                }
            }
        };
        Ok(Box::new(Playing::new(source).map_err(raise)?))
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
        // One that exists needs no help.
        let mut file = match File::options().write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::from(self.launcher.file(path)?),
            opened => opened.map_err(&raise)?,
        };
        if file.metadata().map_err(&raise)?.is_file() {
            file.set_len(offset).map_err(&raise)?;
            file.seek(SeekFrom::Start(offset)).map_err(&raise)?;
        }
        Ok(file.into())
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
