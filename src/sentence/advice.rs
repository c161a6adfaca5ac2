//! What to do about an error of the system: one sentence for each number, wherever it came up.

use std::io::{Error, ErrorKind};

use nix::errno::Errno;

/// What whoever reads the error may do; `None` where there is nothing to say that helps.
pub(super) fn advice(error: &Error) -> Option<&'static str> {
    let by_number = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => "check the path: that file, or a directory on the way to it, does not exist",
        Some(Errno::EADDRINUSE) => "something listens there already: end it, or give another address",
        Some(Errno::EADDRNOTAVAIL) => "that address is none of this host's: 'ip addr' lists those",
        Some(Errno::EACCES) => "this user may not: change the permissions of that path, or run as a user that may",
        Some(Errno::EROFS) => "the file system is mounted read-only: give a place on another one",
        Some(Errno::ENOSPC) => "the file system is full: make room there, or give a place on another one",
        Some(Errno::EDQUOT) => "this user's disk quota is used up: make room, or give another place",
        Some(Errno::EISDIR) => "that is a directory: give a file in it",
        Some(Errno::ENOTDIR) => "a part of the path is a file and no directory: check the path",
        Some(Errno::ELOOP) => "symbolic links on the path lead around in a circle: check where they point to",
        Some(Errno::ENAMETOOLONG) => "the path is too long: give a shorter one",
        Some(Errno::EMFILE) => "this process has as many files open as it may: raise its limit ('ulimit -n')",
        Some(Errno::ENFILE) => "the host has as many files open as it may: raise fs.file-max, or close some",
        Some(Errno::ECONNREFUSED) => "nobody listens there: start the other side first, and check the address",
        Some(Errno::EHOSTUNREACH | Errno::ENETUNREACH) => "no way leads there: check the address, routes and firewalls",
        Some(Errno::ETXTBSY) => "that file is a program that runs: give another one",
        Some(Errno::EFBIG) => "the file would grow larger than it may: raise the limit ('ulimit -f')",
        _ => "",
    };
    match error.kind() {
        _ if !by_number.is_empty() => Some(by_number),
        ErrorKind::TimedOut => Some("nothing answers: check the address, the network and firewalls"),
        // The system's resolver has numbers of its own, which do not come through.
        _ if error.to_string().contains("failed to lookup address information") => {
            Some("the host's name is not known here: check it, or give an address")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_an_advice_of_its_own() {
        let numbers = [2, 98, 99, 13, 30, 28, 122, 21, 20, 40, 36, 24, 23, 111, 113, 26, 27];
        let mut all: Vec<_> =
            numbers.iter().map(|number| advice(&Error::from_raw_os_error(*number)).unwrap()).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), numbers.len());
        assert!(advice(&ErrorKind::TimedOut.into()).unwrap().contains("answers"));
        assert_eq!(advice(&Error::other("something else")), None);
        assert_eq!(advice(&Error::from_raw_os_error(5)), None);
    }
}
