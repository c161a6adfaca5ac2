//! Descriptors that somebody handed to this process over a monitor's unix socket: [`Handed`] until a command names them,
//! [`NamedFds`] from then on.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many names there can be: a client that forgets to close must not use up what the machine itself needs.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FdsError {
    /// A number is an inherited descriptor, and no name.
    #[error("Parameter 'fdname' expects a name not starting with a digit")]
    NotAName,
    /// Too many.
    #[error("{MAX_NAMES} file descriptors have names already: take one back with closefd first")]
    Full,
}

/// Descriptors by name, for whoever gets the name in an address such as `fd:NAME`.
#[derive(Debug, Default)]
pub struct NamedFds(Mutex<BTreeMap<String, OwnedFd>>);

impl NamedFds {
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
