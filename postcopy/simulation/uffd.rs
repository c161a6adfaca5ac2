//! userfaultfd for missing pages, as Linux has it, under the names of `uffd.rs`'s calls.

use std::os::fd::{AsRawFd, RawFd};

use linux_raw_sys::general as sys;
use nix::errno::Errno;
use nix::poll::PollFlags;

use super::descriptors::{self, Descriptor, Object};
use super::memory::{self, PAGE};
use super::{block, fiber, is_present, point, random};

/// A thread that touched a missing page.
struct Waiter {
    number: u64,
    address: usize,
    thread: i32,
    read: bool,
    woken: bool,
}

/// One userfaultfd.
#[derive(Default)]
pub(super) struct Userfault {
    ranges: Vec<(usize, usize)>,
    waiters: Vec<Waiter>,
    next: u64,
    moves: bool,
}

impl Userfault {
    pub fn ready(&self) -> PollFlags {
        match self.waiters.iter().any(|waiter| !waiter.read && !waiter.woken) {
            true => PollFlags::POLLIN,
            false => PollFlags::empty(),
        }
    }

    fn watches(&self, address: usize) -> bool {
        self.ranges.iter().any(|(start, bytes)| (*start..start + bytes).contains(&address))
    }

    fn wake(&mut self, start: usize, bytes: usize) {
        let waiters = self.waiters.iter_mut();
        waiters.filter(|it| (start..start + bytes).contains(&it.address)).for_each(|it| it.woken = true);
    }
}

/// A new userfaultfd, of a kernel that can move pages or not.
pub fn open(_features: u32) -> std::io::Result<Descriptor> {
    Ok(descriptors::open(Object::Userfault(Userfault { moves: random(3) > 0, ..Userfault::default() })))
}

fn with<T>(number: RawFd, look: impl FnOnce(&mut Userfault) -> T) -> nix::Result<T> {
    descriptors::with(number, |object| match object {
        Object::Userfault(userfault) => Ok(look(userfault)),
        _ => Err(Errno::EINVAL),
    })?
}

/// Who watches the address, if anybody does.
pub(super) fn watcher(address: usize) -> Option<RawFd> {
    descriptors::find(|object| matches!(object, Object::Userfault(it) if it.watches(address)))
}

/// The calling thread waits for the page at `address`, or for whoever else wakes it.
pub(super) fn fault(number: RawFd, address: usize) {
    let thread = fiber().expect("only a fiber touches memory that is watched") as i32;
    let Ok(waiter) = with(number, |it| {
        it.next += 1;
        it.waiters.push(Waiter { number: it.next, address, thread, read: false, woken: false });
        it.next
    }) else {
        return;
    };
    // Where the userfaultfd is closed nobody is held up any more.
    let woken = || with(number, |it| it.waiters.iter().any(|it| it.number == waiter && it.woken)).unwrap_or(true);
    block(None, &woken);
    let _ = with(number, |it| it.waiters.retain(|it| it.number != waiter));
}

/// Who waits for which page, for the schedule's checks: threads and addresses.
pub fn waiting() -> Vec<(i32, usize)> {
    let mut found = Vec::new();
    descriptors::each(|object| {
        if let Object::Userfault(it) = object {
            found.extend(it.waiters.iter().filter(|it| !it.woken).map(|it| (it.thread, it.address)));
        }
    });
    found
}

/// As read(2): whole messages.
pub fn read(fd: &Descriptor, bytes: &mut [u8]) -> nix::Result<usize> {
    point();
    const MESSAGE: usize = size_of::<sys::uffd_msg>();
    let most = bytes.len() / MESSAGE;
    let faults: Vec<(usize, i32)> = with(fd.as_raw_fd(), |it| {
        let fresh = it.waiters.iter_mut().filter(|it| !it.read && !it.woken).take(most);
        fresh.map(|it| (std::mem::replace(&mut it.read, true), (it.address, it.thread)).1).collect()
    })?;
    if faults.is_empty() {
        return Err(Errno::EAGAIN);
    }
    type PageFault = sys::uffd_msg__bindgen_ty_1__bindgen_ty_1;
    for (message, (address, thread)) in bytes.chunks_exact_mut(MESSAGE).zip(&faults) {
        const ARGUMENT: usize = std::mem::offset_of!(sys::uffd_msg, arg);
        message[std::mem::offset_of!(sys::uffd_msg, event)] = sys::UFFD_EVENT_PAGEFAULT as u8;
        let mut put = |at: usize, bytes: &[u8]| message[at..at + bytes.len()].copy_from_slice(bytes);
        put(ARGUMENT + std::mem::offset_of!(PageFault, address), &address.to_ne_bytes());
        put(ARGUMENT + std::mem::offset_of!(PageFault, feat), &thread.to_ne_bytes());
    }
    Ok(faults.len() * MESSAGE)
}

/// The pages of a range one after the other, as far as `fill` goes: what the call answers, and how
/// far it came, in bytes or as a negative error number.
fn fill(
    number: RawFd,
    start: usize,
    bytes: usize,
    wakes: bool,
    mut fill: impl FnMut(usize, usize) -> Result<(), Errno>,
) -> (nix::Result<i32>, i64) {
    point();
    let mut done = 0;
    let mut failed = None;
    // Now and then somebody else changes the memory map in the middle.
    let interrupted = if random(8) == 0 { random((bytes / PAGE) as u64 + 1) as usize * PAGE } else { usize::MAX };
    while done < bytes && failed.is_none() {
        let at = start + done;
        failed = match with(number, |it| it.watches(at)) {
            Ok(true) if done == interrupted => Some(Errno::EAGAIN),
            Ok(true) => fill(at, done).err(),
            _ => Some(Errno::ENOENT),
        };
        done += if failed.is_none() { PAGE } else { 0 };
    }
    if wakes {
        let _ = with(number, |it| it.wake(start, done));
    }
    match failed {
        None => (Ok(0), done as i64),
        Some(_) if done > 0 => (Err(Errno::EAGAIN), done as i64),
        Some(error) => (Err(error), -i64::from(error as i32)),
    }
}

/// A missing page is there from here on, with what `put` puts there.
fn come(at: usize, put: impl FnOnce(*mut u8)) -> Result<(), Errno> {
    if is_present(at) {
        return Err(Errno::EEXIST);
    }
    if memory::is_short() {
        return Err(Errno::ENOMEM);
    }
    put(at as *mut u8);
    memory::page(at, |there| *there = true);
    Ok(())
}

/// The calls on a userfaultfd, as the kernel's.
///
/// # Safety
/// As for those: each structure names memory that is mapped, and that nobody holds a reference to.
#[allow(clippy::missing_safety_doc)]
pub mod calls {
    use super::*;

    pub unsafe fn register(number: RawFd, order: *mut sys::uffdio_register) -> nix::Result<i32> {
        point();
        // SAFETY: the caller's.
        let order = unsafe { &mut *order };
        let moves = with(number, |it| {
            it.ranges.push((order.range.start as usize, order.range.len as usize));
            it.moves
        })?;
        let calls = [sys::_UFFDIO_COPY, sys::_UFFDIO_WAKE, sys::_UFFDIO_ZEROPAGE];
        order.ioctls = calls.iter().fold(0, |all, call| all | 1 << call);
        order.ioctls |= if moves { 1 << sys::_UFFDIO_MOVE } else { 0 };
        Ok(0)
    }

    pub unsafe fn unregister(number: RawFd, range: *mut sys::uffdio_range) -> nix::Result<i32> {
        point();
        // SAFETY: the caller's.
        let range = unsafe { &*range };
        with(number, |it| {
            it.ranges.retain(|(start, _)| *start != range.start as usize);
            it.wake(range.start as usize, range.len as usize);
        })?;
        Ok(0)
    }

    pub unsafe fn wake(number: RawFd, range: *mut sys::uffdio_range) -> nix::Result<i32> {
        point();
        // SAFETY: the caller's.
        let range = unsafe { &*range };
        with(number, |it| it.wake(range.start as usize, range.len as usize)).map(|()| 0)
    }

    pub unsafe fn copy(number: RawFd, order: *mut sys::uffdio_copy) -> nix::Result<i32> {
        // SAFETY: the caller's.
        let order = unsafe { &mut *order };
        let (result, done) = fill(number, order.dst as usize, order.len as usize, order.mode & 1 == 0, |at, done| {
            let from = (order.src as usize + done) as *const u8;
            // SAFETY: the caller's; the two do not overlap.
            come(at, |to| unsafe { std::ptr::copy_nonoverlapping(from, to, PAGE) })
        });
        order.copy = done;
        result
    }

    pub unsafe fn zeropage(number: RawFd, order: *mut sys::uffdio_zeropage) -> nix::Result<i32> {
        // SAFETY: the caller's.
        let order = unsafe { &mut *order };
        let (result, done) =
            fill(number, order.range.start as usize, order.range.len as usize, order.mode & 1 == 0, |at, _| {
                // SAFETY: the caller's.
                come(at, |to| unsafe { std::ptr::write_bytes(to, 0, PAGE) })
            });
        order.zeropage = done;
        result
    }

    pub unsafe fn move_pages(number: RawFd, order: *mut sys::uffdio_move) -> nix::Result<i32> {
        // SAFETY: the caller's.
        let order = unsafe { &mut *order };
        let (result, done) = fill(number, order.dst as usize, order.len as usize, order.mode & 1 == 0, |at, done| {
            let from = order.src as usize + done;
            match is_present(from) {
                false if is_present(at) => Err(Errno::EEXIST),
                false => Ok(()),
                // Memory is not taken, only moved.
                true if is_present(at) => Err(Errno::EEXIST),
                true => {
                    // SAFETY: the caller's; the two do not overlap.
                    unsafe {
                        std::ptr::copy_nonoverlapping(from as *const u8, at as *mut u8, PAGE);
                        std::ptr::write_bytes(from as *mut u8, 0, PAGE);
                    }
                    memory::page(from, |there| *there = false);
                    memory::page(at, |there| *there = true);
                    Ok(())
                }
            }
        });
        order.move_ = done;
        result
    }

    pub unsafe fn write_protect(_number: RawFd, _order: *mut sys::uffdio_writeprotect) -> nix::Result<i32> {
        Err(Errno::EINVAL)
    }
}
