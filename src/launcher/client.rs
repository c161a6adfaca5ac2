//! [`Launcher`]: the sandboxed half's end.

use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, SocketType, recvmsg,
    send, socketpair,
};

use super::{DONE, ENDED_WELL, LauncherError, MAX_ANSWER, MOST_FDS, Request, SUBCOMMAND};

/// Asks the launcher; [`Launcher::none`] has none to ask.
#[derive(Debug)]
pub struct Launcher(Option<Mutex<OwnedFd>>);

/// A command that reads, at the other end of a pipe. Dropping it ends the command.
#[derive(Debug)]
pub struct Reader {
    /// This end.
    pub pipe: OwnedFd,
    /// Where its end is told.
    pub end: End,
}

/// A command that writes, at the other end of a pipe.
#[derive(Debug)]
pub struct Writer {
    /// What it writes.
    pub pipe: OwnedFd,
    /// What it may read.
    pub answers: OwnedFd,
    /// Where its end is told. Dropping this does not end the command.
    pub end: End,
}

/// A command that reads and may answer. Dropping it ends the command.
#[derive(Debug)]
pub struct Talker {
    /// What it reads.
    pub to: OwnedFd,
    /// What it writes.
    pub from: OwnedFd,
    /// Where its end is told.
    pub end: End,
}

/// What a command's end is told on.
#[derive(Debug)]
pub struct End(OwnedFd);

impl End {
    /// How the command ended, if it did within `time`, though it had not yet read or written all.
    pub fn early(&self, time: Duration) -> Option<io::Error> {
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], time) {
            Ok(1..) => {}
            _ => return None,
        }
        Some(match self.said() {
            Ok(()) => io::Error::other("the command ended too early"),
            Err(error) => error,
        })
    }

    /// Waits for the command's end, once its pipe was closed. An error says how it ended if that
    /// was not well.
    pub fn wait(self) -> io::Result<()> {
        self.said()
    }

    fn said(&self) -> io::Result<()> {
        let mut said = Vec::new();
        std::fs::File::from(self.0.try_clone()?).read_to_end(&mut said)?;
        match said.as_slice() {
            ENDED_WELL => Ok(()),
            [] => Err(io::Error::other("nobody knows how the command ended")),
            words => Err(io::Error::other(format!("the command ended with {}", String::from_utf8_lossy(words)))),
        }
    }
}

impl Launcher {
    /// Nothing can be launched.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Starts the launcher's process, which ends with this one. Before the sandbox: it can do what
    /// this process can now.
    pub fn begin() -> io::Result<Self> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // It sees its socket's end, and is a child of nobody who would wait for it. Standard output
        // is a guest's, or its stream's.
        Command::new("/proc/self/exe").arg(SUBCOMMAND).stdin(Stdio::from(theirs)).stdout(Stdio::null()).spawn()?;
        Ok(Self(Some(Mutex::new(ours))))
    }

    /// A file to write to. It is made, readable by its owner alone, if there is none.
    pub fn file(&self, path: &Path) -> Result<OwnedFd, LauncherError> {
        let path = path.to_string_lossy();
        let [file] = self.ask(Request::File, "written", &path)?;
        Ok(file)
    }

    /// A new file, readable by its owner alone, in the place of any that is there.
    pub fn new_file(&self, path: &Path) -> Result<OwnedFd, LauncherError> {
        let [file] = self.ask(Request::New, "made", &path.to_string_lossy())?;
        Ok(file)
    }

    /// Gives a file another name, for good: in the place of whatever has that name.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), LauncherError> {
        let both = format!("{}\0{}", from.to_string_lossy(), to.to_string_lossy());
        self.ask(Request::Rename, "renamed", &both).map(|[]| ())
    }

    /// Removes a file.
    pub fn remove(&self, path: &Path) -> Result<(), LauncherError> {
        self.ask(Request::Remove, "removed", &path.to_string_lossy()).map(|[]| ())
    }

    /// Starts a command by the shell; what is written to the pipe it reads.
    pub fn reader(&self, command: &str) -> Result<Reader, LauncherError> {
        let [pipe, end] = self.ask(Request::Reader, "started", command)?;
        Ok(Reader { pipe, end: End(end) })
    }

    /// Starts a command by the shell, which writes, and may be answered.
    pub fn writer(&self, command: &str) -> Result<Writer, LauncherError> {
        let [pipe, answers, end] = self.ask(Request::Writer, "started", command)?;
        Ok(Writer { pipe, answers, end: End(end) })
    }

    /// Starts a command by the shell, which reads, and may answer.
    pub fn both(&self, command: &str) -> Result<Talker, LauncherError> {
        let [to, from, end] = self.ask(Request::Both, "started", command)?;
        Ok(Talker { to, from, end: End(end) })
    }

    /// Has it done, and gives the descriptors that come of it.
    fn ask<const N: usize>(
        &self,
        request: Request,
        doing: &'static str,
        what: &str,
    ) -> Result<[OwnedFd; N], LauncherError> {
        // The first of two names is a temporary one.
        let name = what.rsplit('\0').next().unwrap_or(what).to_owned();
        let Some(socket) = &self.0 else { return Err(LauncherError::Off(name, doing)) };
        let socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = |error: rustix::io::Errno| LauncherError::Gone(error.into());
        send(&*socket, &[&[request as u8], what.as_bytes()].concat(), SendFlags::NOSIGNAL).map_err(gone)?;
        let mut bytes = [0; MAX_ANSWER];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut handed = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut bytes)], &mut handed, RecvFlags::CMSG_CLOEXEC)
            .map_err(gone)?;
        let fds = handed.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fds: Vec<OwnedFd> = fds.flatten().collect();
        match (bytes[..got.bytes].split_first(), <[OwnedFd; N]>::try_from(fds)) {
            (Some((&DONE, _)), Ok(fds)) => Ok(fds),
            (Some((&DONE, _)), Err(_)) => Err(LauncherError::Gone(io::ErrorKind::InvalidData.into())),
            (Some((_, why)), _) => {
                let source = match why.split_first_chunk() {
                    Some((&number, _)) if i32::from_le_bytes(number) != 0 => {
                        io::Error::from_raw_os_error(i32::from_le_bytes(number))
                    }
                    Some((_, words)) => io::Error::other(String::from_utf8_lossy(words)),
                    None => io::ErrorKind::InvalidData.into(),
                };
                Err(LauncherError::Refused { what: name, doing, source })
            }
            (None, _) => Err(LauncherError::Gone(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}
