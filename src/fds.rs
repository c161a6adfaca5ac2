//! Descriptors that somebody handed to this process: over a monitor's unix socket, [`Handed`] until
//! a command names them and [`NamedFds`] from then on; or when it was started, [`Inherited`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::os::{adopt_fd, duplicate_fd};

/// How many names there can be: a client that forgets to close must not use up what the machine
/// itself needs.
const MAX_NAMES: usize = 64;

/// What came with one message; the next message's take their place.
#[derive(Debug, Default)]
pub struct Handed(Vec<OwnedFd>);

impl Handed {
    /// Closes what nobody took, and keeps `fds`.
    pub fn replace(&mut self, fds: Vec<OwnedFd>) {
        self.0 = fds;
    }

    /// The first of them; the others are closed, as in QEMU.
    pub fn take(&mut self) -> Option<OwnedFd> {
        std::mem::take(&mut self.0).into_iter().next()
    }
}

/// Why a descriptor was not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FdsError {
    /// A number is an inherited descriptor, and no name.
    #[error("Parameter 'fdname' expects a name not starting with a digit")]
    NotAName,
    /// Too many.
    #[error("{MAX_NAMES} file descriptors have names already: take one back with closefd first")]
    Full,
    /// Nobody handed it over.
    #[error("no file descriptor is named '{0}': hand one over with 'getfd {0}' first")]
    NoSuchName(String),
    /// A number that this process did not have when it was started, or that was used before.
    #[error(
        "no file descriptor '{0}' was handed over when this process was started, or it has been used up: hand one over with 'getfd NAME'"
    )]
    NotInherited(RawFd),
    /// The number of one that has its use.
    #[error("file descriptor '{0}' is {1}: hand another one over with 'getfd NAME'")]
    Used(RawFd, &'static str),
}

/// What the three standard descriptors are while something of the machine has them.
const IN_USE: [&str; 3] = [
    "standard input, which a serial port, console or monitor reads",
    "standard output, which a serial port, console or monitor writes to",
    "standard error, where the log goes",
];

/// The descriptors that this process was started with.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Those above the standard ones, which nothing else knows of.
    free: BTreeMap<RawFd, OwnedFd>,
    /// Standard input and output, unless something has them.
    standard: BTreeMap<RawFd, OwnedFd>,
    /// Numbers that have another use, and which.
    used: BTreeMap<RawFd, &'static str>,
    /// Device and inode of the standard ones that something has.
    files: Vec<(RawFd, (u64, u64))>,
}

impl Inherited {
    /// Takes them over, so that no program that this process starts has them, too. For the first
    /// moment of a process, before it opens anything. `nets` are numbers that network cards use;
    /// `stdio` is whether a serial port, a console or a monitor has standard input and output.
    pub fn take_over(nets: &[RawFd], stdio: bool) -> Self {
        let mut this = Self::default();
        for number in open_numbers() {
            match number {
                0 | 1 if !stdio => drop(duplicate_fd(number).map(|fd| this.standard.insert(number, fd))),
                0..=2 => {
                    this.used.insert(number, IN_USE[number as usize]);
                    let file = duplicate_fd(number).ok().and_then(|fd| File::from(fd).metadata().ok());
                    // A device such as /dev/null has no contents that could be mixed up.
                    if let Some(file) = file.filter(|it| it.is_file() || it.file_type().is_fifo()) {
                        this.files.push((number, (file.dev(), file.ino())));
                    }
                }
                _ if nets.contains(&number) => drop(this.used.insert(number, "a network card's")),
                _ => drop(adopt_fd(number).map(|fd| this.free.insert(number, fd))),
            }
        }
        this
    }

    fn take(&mut self, number: RawFd) -> Result<OwnedFd, FdsError> {
        if let Some(use_) = self.used.get(&number) {
            return Err(FdsError::Used(number, use_));
        }
        if let Some(fd) = self.standard.remove(&number) {
            // Whoever is at the other end of a pipe waits for the last of its descriptors to go.
            if let Ok(nothing) = File::options().read(true).write(true).open("/dev/null") {
                let _ = match number {
                    0 => rustix::stdio::dup2_stdin(&nothing),
                    _ => rustix::stdio::dup2_stdout(&nothing),
                };
            }
            return Ok(fd);
        }
        self.free.remove(&number).ok_or(FdsError::NotInherited(number))
    }
}

/// The numbers of all descriptors that are open now.
fn open_numbers() -> Vec<RawFd> {
    let of = |entry: io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    let numbers: Vec<RawFd> = match std::fs::read_dir("/proc/self/fd") {
        Ok(all) => all.filter_map(of).collect(),
        Err(_) => (0..1024).collect(),
    };
    // The directory's own is closed by now.
    numbers.into_iter().filter(|number| duplicate_fd(*number).is_ok()).collect()
}

/// Descriptors by name, for whoever gets the name in an address such as `fd:NAME`, and those that
/// have numbers.
#[derive(Debug, Default)]
pub struct NamedFds {
    named: Mutex<BTreeMap<String, OwnedFd>>,
    inherited: Mutex<Inherited>,
}

impl NamedFds {
    /// None with a name yet.
    pub fn new(inherited: Inherited) -> Self {
        Self { named: Mutex::default(), inherited: Mutex::new(inherited) }
    }

    /// Gives away a descriptor that this process was started with and that nothing else uses.
    pub fn take_inherited(&self, number: RawFd) -> Result<OwnedFd, FdsError> {
        self.inherited.lock().unwrap_or_else(PoisonError::into_inner).take(number)
    }

    /// What the file of this device and inode is to this process, if something of the machine has
    /// it as standard input or output.
    pub fn use_of(&self, file: (u64, u64)) -> Option<&'static str> {
        let inherited = self.inherited.lock().unwrap_or_else(PoisonError::into_inner);
        let found = inherited.files.iter().find(|(_, used)| *used == file);
        found.map(|(number, _)| IN_USE[*number as usize])
    }

    /// Keeps `fd` as `name`; one that had the name is closed.
    pub fn keep(&self, name: &str, fd: OwnedFd) -> Result<(), FdsError> {
        if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(FdsError::NotAName);
        }
        let mut all = self.lock();
        if all.len() >= MAX_NAMES && !all.contains_key(name) {
            return Err(FdsError::Full);
        }
        all.insert(name.to_owned(), fd);
        Ok(())
    }

    /// Gives a descriptor away, and forgets its name.
    pub fn take(&self, name: &str) -> Option<OwnedFd> {
        self.lock().remove(name)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, OwnedFd>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};

    use super::*;

    /// One end, and whether the other has been closed since.
    fn end() -> (OwnedFd, impl FnMut() -> bool) {
        let (mut reader, writer) = pipe().unwrap();
        (writer.into(), move || reader.read(&mut [0]).is_ok_and(|count| count == 0))
    }

    #[test]
    fn a_name_is_used_once_and_a_second_of_it_closes_the_first() {
        let fds = NamedFds::default();
        let ((one, mut one_is_closed), (two, mut two_is_closed)) = (end(), end());
        fds.keep("a", one).unwrap();
        fds.keep("a", two).unwrap();
        assert!(one_is_closed());
        drop(fds.take("a").unwrap());
        assert!(two_is_closed());
        assert!(fds.take("a").is_none());
    }

    #[test]
    fn a_number_is_used_once_and_only_if_nothing_else_uses_it() {
        let (mut inherited, mut closed) = (Inherited::default(), end());
        inherited.free.insert(7, closed.0);
        inherited.used.insert(8, "a network card's");
        let metadata = File::open("/dev/null").unwrap().metadata().unwrap();
        inherited.files.push((0, (metadata.dev(), metadata.ino())));
        let fds = NamedFds::new(inherited);
        drop(fds.take_inherited(7).unwrap());
        assert!(closed.1());
        assert_eq!(fds.take_inherited(7).unwrap_err(), FdsError::NotInherited(7));
        assert_eq!(fds.take_inherited(8).unwrap_err(), FdsError::Used(8, "a network card's"));
        // One that this process has opened itself.
        let own = File::open("/dev/null").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&own);
        assert_eq!(fds.take_inherited(number).unwrap_err(), FdsError::NotInherited(number));
        assert!(fds.use_of((metadata.dev(), metadata.ino())).unwrap().starts_with("standard input"));
        assert_eq!(fds.use_of((metadata.dev(), metadata.ino() + 1)), None);
    }

    #[test]
    fn names_are_few_and_no_numbers() {
        let fds = NamedFds::default();
        for name in ["", "0", "7up"] {
            assert_eq!(fds.keep(name, end().0), Err(FdsError::NotAName));
        }
        for n in 0..MAX_NAMES {
            fds.keep(&format!("n{n}"), end().0).unwrap();
        }
        assert_eq!(fds.keep("one more", end().0), Err(FdsError::Full));
        fds.keep("n1", end().0).unwrap();
        fds.take("n0").unwrap();
        fds.keep("one more", end().0).unwrap();
    }

    #[test]
    fn what_came_with_one_message_is_taken_once_or_closed() {
        let mut handed = Handed::default();
        let ((one, mut one_is_closed), (two, mut two_is_closed), (three, mut three_is_closed)) = (end(), end(), end());
        handed.replace(vec![one]);
        handed.replace(vec![two, three]);
        assert!(one_is_closed());
        let taken = handed.take().unwrap();
        assert!(three_is_closed());
        assert!(handed.take().is_none());
        drop(taken);
        assert!(two_is_closed());
    }
}
