//! Descriptors of the simulated kernel, and waiting for them. Their numbers mean nothing to the
//! real one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::EfdFlags;

use super::memory;
use super::sockets::{Listening, Socket};
use super::uffd::Userfault;
use super::{block, now, point};

/// Higher than any number that the real kernel gives.
const FIRST: RawFd = 1 << 24;

pub(super) enum Object {
    Event(u64),
    Socket(Socket),
    Listening(Listening),
    Userfault(Userfault),
}

impl Object {
    fn ready(&self) -> PollFlags {
        match self {
            Self::Event(0) => PollFlags::empty(),
            Self::Event(_) => PollFlags::POLLIN,
            Self::Socket(socket) => socket.ready(),
            Self::Listening(listening) => listening.ready(),
            Self::Userfault(userfault) => userfault.ready(),
        }
    }
}

#[derive(Default)]
struct Table {
    objects: BTreeMap<RawFd, Object>,
    next: RawFd,
}

thread_local! {
    static TABLE: RefCell<Table> = RefCell::default();
}

pub(super) fn begin() {
    TABLE.with_borrow_mut(|it| *it = Table { objects: BTreeMap::new(), next: FIRST });
    memory::begin();
}

/// Whatever is still open was forgotten by somebody.
pub(super) fn end() {
    let left = TABLE.with_borrow(|it| it.objects.len());
    assert_eq!(left, 0, "descriptors are left open");
}

pub(super) fn open(object: Object) -> Descriptor {
    TABLE.with_borrow_mut(|it| {
        let number = it.next;
        it.next += 1;
        it.objects.insert(number, object);
        Descriptor(number)
    })
}

/// Looks at an object, or changes it.
pub(super) fn with<T>(number: RawFd, look: impl FnOnce(&mut Object) -> T) -> nix::Result<T> {
    TABLE.with_borrow_mut(|it| it.objects.get_mut(&number).map(look).ok_or(Errno::EBADF))
}

/// All that are open, in order.
pub(super) fn each(mut look: impl FnMut(&mut Object)) {
    TABLE.with_borrow_mut(|it| it.objects.values_mut().for_each(&mut look));
}

/// The first of which that is true.
pub(super) fn find(is: impl Fn(&Object) -> bool) -> Option<RawFd> {
    TABLE.with_borrow(|it| it.objects.iter().find(|(_, object)| is(object)).map(|(number, _)| *number))
}

/// A descriptor, closed when it is dropped.
#[derive(Debug)]
pub struct Descriptor(RawFd);

impl Drop for Descriptor {
    fn drop(&mut self) {
        // Outside of the borrow: what an object drops may close others.
        let object = TABLE.with_borrow_mut(|it| it.objects.remove(&self.0));
        drop(object);
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the number is open in the simulated kernel for as long as `self` lives, and no
        // other kernel is asked about it.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// Sockets of the real kernel have no place in a schedule.
macro_rules! refuse {
    ($($socket:ty)*) => {$(
        impl From<$socket> for Descriptor {
            fn from(fd: $socket) -> Self {
                panic!("{fd:?} is the real kernel's")
            }
        }
    )*};
}

refuse!(OwnedFd TcpStream UnixStream);

/// An eventfd.
#[derive(Debug)]
pub struct EventFd(Descriptor);

impl EventFd {
    pub fn from_flags(_flags: EfdFlags) -> nix::Result<Self> {
        Ok(Self(open(Object::Event(0))))
    }

    fn change<T>(&self, change: impl FnOnce(&mut u64) -> T) -> nix::Result<T> {
        with(self.0.0, |object| match object {
            Object::Event(count) => Ok(change(count)),
            _ => Err(Errno::EINVAL),
        })?
    }

    pub fn write(&self, count: u64) -> nix::Result<usize> {
        point();
        self.change(|it| *it += count).map(|()| 8)
    }

    pub fn read(&self) -> nix::Result<u64> {
        point();
        match self.change(std::mem::take)? {
            0 => Err(Errno::EAGAIN),
            count => Ok(count),
        }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn ready(number: RawFd, events: PollFlags) -> PollFlags {
    let always = PollFlags::POLLHUP | PollFlags::POLLERR;
    match with(number, |object| object.ready()) {
        Ok(ready) => ready & (events | always),
        Err(_) => PollFlags::POLLNVAL,
    }
}

/// As poll(2).
pub fn poll<T: Into<PollTimeout>>(fds: &mut [PollFd<'_>], timeout: T) -> nix::Result<i32> {
    point();
    let any = || fds.iter().any(|fd| !ready(fd.as_fd().as_raw_fd(), fd.events()).is_empty());
    let time = u64::try_from(i32::from(timeout.into())).ok().map(Duration::from_millis);
    if !any() && time != Some(Duration::ZERO) {
        block(time.map(|time| now() + time), &any);
    }
    let mut count = 0;
    for fd in fds.iter_mut() {
        let revents = ready(fd.as_fd().as_raw_fd(), fd.events());
        count += i32::from(!revents.is_empty());
        // SAFETY: `PollFd` is a transparent `struct pollfd` with a lifetime.
        unsafe { (*std::ptr::from_mut(fd).cast::<libc::pollfd>()).revents = revents.bits() };
    }
    Ok(count)
}
