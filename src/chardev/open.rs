//! Opening each kind of character device.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

use super::terminal::RawTerminal;
use super::{CharDevice, CharDeviceError, Output};
use crate::block::lock::{Access, Locked, lock};
use crate::host::files::{self, FileKind};
use crate::host::{PrivateListener, connect_private};
use crate::sentence::sentence;
use crate::stdio::Answer;

/// So long a server may take to make room for this client.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where input comes from.
pub(super) enum Endpoint {
    /// Nothing comes and nothing goes.
    Null,
    /// Only output.
    Mute,
    /// A connected socket, standard input, or the controlling side of a pseudo-terminal.
    Stream {
        file: File,
        /// What must live as long: a terminal's raw mode, or a pseudo-terminal's other side,
        /// without which this side would report an error again and again.
        _keep: Option<Box<dyn Send>>,
    },
    /// Clients come one at a time.
    Server(PrivateListener),
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
            CharDevice::Unix { path, server: true } => PrivateListener::bind(path)
                .map(Self::Server)
                .map_err(|error| CharDeviceError::Listen { path: path.clone(), source: error.into() }),
            CharDevice::Pty => pty(label, output).map_err(CharDeviceError::Pty),
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

fn stdio(output: &Output) -> io::Result<Endpoint> {
    let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    // Standard output's description is shared with other processes, so it cannot be made
    // non-blocking.
    output.connect_shared(out);
    let keep = RawTerminal::enter()?.map(|raw| Box::new(raw) as Box<dyn Send>);
    // Not `io::stdin()`, whose buffer would hide from poll what it holds.
    let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    Ok(Endpoint::Stream { file, _keep: keep })
}

/// A FIFO is opened for reading too: then neither opening nor writing waits for, or fails without,
/// a reader. A regular file is this process's alone and begins anew, unless it holds what is
/// nobody's log.
fn file(path: &Path, output: &Output) -> io::Result<Endpoint> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let file = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            options.create(true).truncate(false).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?
        }
        Err(error) => return Err(error),
        Ok(found) => {
            if found.file_type().is_char_device() {
                options.read(false);
            }
            let kinds = [FileKind::Regular, FileKind::Fifo, FileKind::CharacterDevice];
            files::open(path, &mut options, &kinds, "a file, a FIFO or a terminal")?.0
        }
    };
    if file.metadata()?.is_file() {
        match lock(&file, Access::Write) {
            Ok(()) | Err(Locked::NoLocks(_)) => {}
            Err(used) => return Err(io::Error::other(used)),
        }
        if is_binary(&file)? {
            return Err(io::Error::other(
                "it holds something else than text, which would be lost; remove it first, or give another path",
            ));
        }
        file.set_len(0)?;
    }
    output.connect(file);
    Ok(Endpoint::Mute)
}

/// Whether the file begins with something that is no text, such as a disk image, a kernel or a
/// saved guest.
fn is_binary(file: &File) -> io::Result<bool> {
    let mut begin = [0; 512];
    let count = file.read_at(&mut begin, 0)?;
    Ok(begin[..count].contains(&0))
}

fn connect(path: &Path, output: &Output) -> io::Result<Endpoint> {
    let stream = stream(connect_private(path, PATIENCE)?)?;
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
