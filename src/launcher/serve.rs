//! The launcher's own half: answers requests until the other half is gone.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::block::lock::{Access, Locked, lock};

use super::{DONE, ENDED_WELL, MAX_ANSWER, MAX_REQUEST, MOST_FDS, NOT_DONE, Request};

/// Serves the socket at standard input to its end. Errors: standard input is no such socket.
pub fn serve() -> io::Result<()> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let mut request = vec![0; MAX_REQUEST];
    let commands = Commands::default();
    loop {
        match recv(&socket, &mut request, RecvFlags::empty()) {
            Ok((0, _)) => break,
            Ok((count, _)) => answer(socket.as_fd(), launch(&request[..count], &commands))?,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    commands.end();
    Ok(())
}

/// What becomes of a command once nobody wants to hear of its end any more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unheard {
    /// It is ended: what it was to read is not to be kept.
    Ends,
    /// It goes on until what it writes to is closed.
    GoesOn,
}

/// The commands that run. None outlives the machine for which it was started.
#[derive(Clone, Default)]
struct Commands(Arc<Mutex<Vec<Pid>>>);

impl Commands {
    fn lock(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches one that was started, to its end: that is told where it is to be.
    fn watch(&self, child: Child, tell: io::PipeWriter, unheard: Unheard) -> io::Result<()> {
        let pid = Pid::from_child(&child);
        let ended = pidfd_open(pid, PidfdFlags::empty())?;
        self.lock().push(pid);
        let this = self.clone();
        std::thread::Builder::new().name("wait".into()).spawn(move || this.await_end(child, &ended, tell, unheard))?;
        Ok(())
    }

    fn await_end(&self, mut child: Child, ended: &OwnedFd, mut tell: io::PipeWriter, unheard: Unheard) {
        let pid = Pid::from_child(&child);
        let mut fds = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        if unheard == Unheard::Ends {
            fds.push(PollFd::new(tell.as_fd(), PollFlags::empty()));
        }
        while let Err(Errno::EINTR) = poll(&mut fds, PollTimeout::NONE) {}
        if !fds[0].any().unwrap_or(true) {
            end_group(pid);
            while let Err(Errno::EINTR) = poll(&mut fds[..1], PollTimeout::NONE) {}
        }
        drop(fds);
        let mut running = self.lock();
        // From here on its number may become another's.
        running.retain(|it| *it != pid);
        let said = match child.wait() {
            Ok(status) if status.success() => ENDED_WELL.to_vec(),
            Ok(status) => words(status).into_bytes(),
            Err(error) => error.to_string().into_bytes(),
        };
        drop(running);
        // Nobody may want to know any more.
        let _ = tell.write_all(&said);
    }

    fn end(&self) {
        for pid in self.lock().iter() {
            end_group(*pid);
        }
    }
}

/// A command leads a group of its own, with all that the shell started.
fn end_group(leader: Pid) {
    let _ = kill_process_group(leader, Signal::TERM);
}

fn launch(request: &[u8], commands: &Commands) -> io::Result<Vec<OwnedFd>> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let (kind, what) = request.split_first().ok_or_else(invalid)?;
    let what = std::str::from_utf8(what).map_err(|_| invalid())?;
    match Request::of(*kind).ok_or_else(invalid)? {
        Request::File => {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            Ok(vec![options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(what)?.into()])
        }
        Request::New => {
            let old = options(false).open(what);
            match old {
                // What an earlier process left behind, unless somebody is writing it.
                Ok(old) => {
                    lock(&old, Access::Write).or_else(unlockable)?;
                    std::fs::remove_file(what)?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let new = options(true).open(what)?;
            lock(&new, Access::Write).or_else(unlockable)?;
            Ok(vec![new.into()])
        }
        Request::Rename => {
            let (from, to) = what.split_once('\0').ok_or_else(invalid)?;
            std::fs::rename(from, to)?;
            keep_names(Path::new(to)).map(|()| Vec::new())
        }
        Request::Remove => {
            std::fs::remove_file(what)?;
            keep_names(Path::new(what)).map(|()| Vec::new())
        }
        Request::Reader => {
            let (read, write) = io::pipe()?;
            // What it prints is for whoever reads the log: standard output may be the guest's.
            let printed = io::stderr().as_fd().try_clone_to_owned()?;
            let child = shell(what).stdin(read).stdout(printed).spawn()?;
            Ok(vec![write.into(), tell_end(child, commands, Unheard::Ends)?])
        }
        Request::Writer => {
            let (read, write) = io::pipe()?;
            let (answers, answer) = io::pipe()?;
            let child = shell(what).stdin(answers).stdout(write).spawn()?;
            Ok(vec![read.into(), answer.into(), tell_end(child, commands, Unheard::GoesOn)?])
        }
        Request::Both => {
            let ((input, write), (read, output)) = (io::pipe()?, io::pipe()?);
            let child = shell(what).stdin(input).stdout(output).spawn()?;
            Ok(vec![write.into(), read.into(), tell_end(child, commands, Unheard::Ends)?])
        }
    }
}

/// A file that is made, or one that is there, and is never waited for.
fn options(new: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(new).mode(0o600);
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW);
    options
}

/// Where there are no locks nobody is kept from anything.
fn unlockable(locked: Locked) -> io::Result<()> {
    match locked {
        Locked::NoLocks(_) => Ok(()),
        used => Err(io::Error::other(used)),
    }
}

/// What was done to names in the file's directory is on the disk when this returns.
fn keep_names(file: &Path) -> io::Result<()> {
    let directory = file.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(directory)?.sync_all() {
        // Not every file system can.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        done => done,
    }
}

fn shell(command: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).process_group(0);
    shell
}

/// Where the child's end will be told.
fn tell_end(child: Child, commands: &Commands, unheard: Unheard) -> io::Result<OwnedFd> {
    let (read, write) = io::pipe()?;
    commands.watch(child, write, unheard)?;
    Ok(read.into())
}

fn words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code @ 126), _) => format!("exit code {code}: it cannot be executed"),
        (Some(code @ 127), _) => format!("exit code {code}: there is no such command"),
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn answer(socket: BorrowedFd<'_>, done: io::Result<Vec<OwnedFd>>) -> io::Result<()> {
    let (fds, text) = match done {
        Ok(fds) => (fds, vec![DONE]),
        Err(error) => {
            let number = error.raw_os_error().unwrap_or(0).to_le_bytes();
            (Vec::new(), [&[NOT_DONE], number.as_slice(), error.to_string().as_bytes()].concat())
        }
    };
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut handed = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        handed.push(SendAncillaryMessage::ScmRights(&fds));
    }
    sendmsg(socket, &[IoSlice::new(&text[..text.len().min(MAX_ANSWER)])], &mut handed, SendFlags::NOSIGNAL)?;
    Ok(())
}
