//! The thread that serves one device's queues.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;

use super::device::Inner;
use super::{Broken, VirtioDevice};
use crate::sandbox::{self, Thread};

/// Epoll's data of the gate's wake-up, of queue 0 and of descriptor 0. No device has that many
/// queues.
const WAKE: u64 = 0;
const QUEUES: u64 = 1;
const DESCRIPTORS: u64 = 1 << 16;
/// Numbers of the kinds of device whose workers need more of the host than the others.
const NET: u32 = 1;
const DISK: u32 = 2;
/// How many events are taken at once.
const BATCH: usize = 16;

/// What wakes a worker.
pub struct WorkerEvents(Epoll);

impl WorkerEvents {
    pub(super) fn new(wake: &EventFd, notifications: &[Arc<EventFd>]) -> io::Result<Self> {
        let watch = Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        watch.add(wake.as_fd(), WAKE, EpollFlags::EPOLLIN)?;
        for (index, notification) in (QUEUES..).zip(notifications) {
            watch.add(notification.as_fd(), index, EpollFlags::EPOLLIN)?;
        }
        Ok(watch)
    }

    fn add(&self, fd: BorrowedFd<'_>, data: u64, events: EpollFlags) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(events, data))?)
    }

    pub(super) fn add_descriptor(&self, index: usize, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.add(fd, DESCRIPTORS + index as u64, EpollFlags::EPOLLIN)
    }

    /// Listens to the backend's descriptor `index` or, where it could not use what comes, stops
    /// doing so.
    pub fn listen(&self, index: usize, fd: BorrowedFd<'_>, on: bool) {
        // Taken out, not only muted: a descriptor that has failed is reported as long as it is in
        // the set.
        let result = if on { self.add_descriptor(index, fd) } else { self.0.delete(fd).map_err(Into::into) };
        match result.map_err(|error| (error.raw_os_error(), error)) {
            Ok(()) | Err((Some(libc::EEXIST | libc::ENOENT), _)) => {}
            Err((_, error)) => log::error!("a device's input cannot be switched: {error}"),
        }
    }
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Queue(usize),
    Descriptor(usize),
}

/// Starts the worker of `device`, parked. It keeps the device, and with it what the device uses,
/// alive.
pub(super) fn spawn(device: Arc<VirtioDevice>, name: String) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name).spawn(move || {
        sandbox::enter(match device.kind().id {
            NET => Thread::Net,
            DISK => Thread::Disk,
            _ => Thread::Device,
        });
        while device.gate().park() {
            let mut inner = device.inner();
            device.guard(&mut inner, Inner::resume);
            while !device.gate().held() {
                for event in device.await_events(&inner) {
                    device.guard(&mut inner, |inner| inner.serve(event));
                }
            }
        }
    })
}

impl VirtioDevice {
    /// Waits for something to happen; nothing if the gate woke it.
    fn await_events(&self, inner: &Inner) -> Vec<Event> {
        let mut events = [EpollEvent::empty(); BATCH];
        let count = match inner.watch.0.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(error) => {
                log::error!("a device's events cannot be awaited: {error}");
                self.gate().shut();
                0
            }
        };
        let mut happened = Vec::with_capacity(count);
        for event in &events[..count] {
            match event.data() {
                WAKE => {
                    let _ = inner.wake.read();
                }
                index if index >= DESCRIPTORS => happened.push(Event::Descriptor((index - DESCRIPTORS) as usize)),
                index => {
                    let queue = (index - QUEUES) as usize;
                    let _ = inner.notifications[queue].read();
                    happened.push(Event::Queue(queue));
                }
            }
        }
        happened
    }

    /// Runs one step of the backend; one that finds the driver broken stops the device until a
    /// reset.
    fn guard(&self, inner: &mut Inner, step: impl FnOnce(&mut Inner) -> Result<(), Broken>) {
        if let Err(broken) = step(inner) {
            self.demand_reset(inner, &broken);
        }
    }
}
