//! An allocator that ends the process when one piece of memory is larger than a lie may cost.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The largest piece that may be asked for, in bytes.
static MOST: AtomicUsize = AtomicUsize::new(512 << 20);

#[global_allocator]
static ALLOCATOR: Limited = Limited;

struct Limited;

/// From now on no piece of memory may be larger.
pub fn limit(bytes: usize) {
    MOST.store(bytes, Ordering::Relaxed);
}

fn judged<R>(bytes: usize, work: impl FnOnce() -> R) -> R {
    // What is said of a failure needs memory, too.
    if bytes > MOST.load(Ordering::Relaxed) && !std::thread::panicking() {
        panic!("{bytes} bytes of memory are asked for at once");
    }
    work()
}

// SAFETY: Everything is the system's allocator's; besides that there is only a comparison.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: The caller's promises are passed on.
        judged(layout.size(), || unsafe { System.alloc(layout) })
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: As above.
        judged(layout.size(), || unsafe { System.alloc_zeroed(layout) })
    }
    unsafe fn realloc(&self, old: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: As above.
        judged(bytes, || unsafe { System.realloc(old, layout, bytes) })
    }
    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: As above.
        unsafe { System.dealloc(old, layout) }
    }
}
