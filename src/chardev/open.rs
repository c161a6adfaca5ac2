//! Opening each kind of character device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use whimbrel_postcopy::channel::listen_private;
use whimbrel_postcopy::error::sentence;

use super::terminal::RawTerminal;
use super::{CharDeviceError, Output};
use crate::config::CharDevice;
use crate::stdio::Answer;

/// Where input comes from.
pub(super) enum Endpoint {
    /// Nothing comes and nothing goes.
    Null,
    /// Only output.
    Mute,
    /// A connected socket, standard input, or the controlling side of a pseudo-terminal.
    Stream {
        file: File,
        /// What must live as long: a terminal's raw mode, or a pseudo-terminal's other side, without which
        /// this side would report an error again and again.
        _keep: Option<Box<dyn Send>>,
    },
    /// Clients come one at a time.
    Server(Listener),
}

impl Endpoint {
    /// Opens `device`; its writing side goes to `output`.
    pub fn open(device: &CharDevice, label: &str, output: &Output) -> Result<Self, CharDeviceError> {
        match device {
            CharDevice::Null => Ok(Self::Null),
            CharDevice::Stdio => stdio(output).map_err(CharDeviceError::Stdio),
            CharDevice::File(path) => {
                file(path, output).map_err(|source| CharDeviceError::File { path: path.clone(), source })
            }
            CharDevice::Unix { path, server: false } => {
                connect(path, output).map_err(|source| CharDeviceError::Connect { path: path.clone(), source })
            }
            CharDevice::Unix { path, server: true } => Listener::bind(path)
                .map(Self::Server)
                .map_err(|source| CharDeviceError::Listen { path: path.clone(), source }),
            CharDevice::Pty => pty(label, output).map_err(CharDeviceError::Pty),
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

fn stdio(output: &Output) -> io::Result<Endpoint> {
    let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    // Standard output's description is shared with other processes, so it cannot be made non-blocking.
    output.connect_shared(out);
    let keep = RawTerminal::enter()?.map(|raw| Box::new(raw) as Box<dyn Send>);
    // Not `io::stdin()`, whose buffer would hide from poll what it holds.
    let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    Ok(Endpoint::Stream { file, _keep: keep })
}

/// A FIFO is opened for reading too: then neither opening nor writing waits for, or fails without, a reader.
fn file(path: &Path, output: &Output) -> io::Result<Endpoint> {
    let fifo = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NONBLOCK);
    if fifo {
        options.read(true);
    } else {
        options.create(true).truncate(true);
    }
    output.connect(options.open(path)?);
    Ok(Endpoint::Mute)
}

fn connect(path: &Path, output: &Output) -> io::Result<Endpoint> {
    let stream = stream(UnixStream::connect(path)?)?;
    output.connect(stream.try_clone()?);
    Ok(Endpoint::Stream { file: stream, _keep: None })
}

/// A connected socket as a non-blocking file.
pub(super) fn stream(socket: UnixStream) -> io::Result<File> {
    socket.set_nonblocking(true)?;
    Ok(File::from(OwnedFd::from(socket)))
}

fn pty(label: &str, output: &Output) -> io::Result<Endpoint> {
    let OpenptyResult { master, slave } = openpty(None, None)?;
    let mut settings = tcgetattr(&slave)?;
    cfmakeraw(&mut settings);
    tcsetattr(&slave, SetArg::TCSANOW, &settings)?;
    fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let name = nix::unistd::ttyname(&slave)?;
    // As QEMU does, so that scripts find it; in the log for who has closed that.
    let mut answer = Answer::begin();
    answer.line(&format!("char device redirected to {} (label {label})", name.display()));
    log::info!("{label}: the pseudo-terminal is {}", name.display());
    if let Err(error) = answer.finish() {
        log::warn!("{}", sentence(&error));
    }
    let master = File::from(master);
    output.connect(master.try_clone()?);
    Ok(Endpoint::Stream { file: master, _keep: Some(Box::new(slave)) })
}

/// A listening socket, for this user only; its path goes away with it.
pub(super) struct Listener {
    pub socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    fn bind(path: &Path) -> io::Result<Self> {
        // A socket that an earlier process left behind; one that somebody still listens on stays.
        let stale = std::fs::symlink_metadata(path).is_ok_and(|at| at.file_type().is_socket())
            && UnixStream::connect(path).is_err();
        if stale {
            std::fs::remove_file(path)?;
        }
        let socket = listen_private(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path: path.into() })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
