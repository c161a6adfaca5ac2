//! Threads as fibers, with what the engine uses of [`std::thread`].

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use super::{fibers, now, point};

pub use std::thread::panicking;

#[derive(Debug, Default)]
pub struct Builder {
    name: String,
}

impl Builder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn name(self, name: String) -> Self {
        Self { name }
    }

    pub fn spawn<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
        point();
        let result = Shared(Rc::default());
        let slot = Shared(result.0.clone());
        let number = fibers::begin(self.name, move || {
            let slot = slot;
            let ended = catch_unwind(AssertUnwindSafe(work));
            *slot.0.borrow_mut() = Some(ended);
        });
        Ok(JoinHandle { number, result })
    }
}

type Ended<T> = Result<T, Box<dyn Any + Send>>;

/// Shared by fibers of one thread of the system.
struct Shared<T>(Rc<RefCell<Option<Ended<T>>>>);

// SAFETY: the fibers of a schedule, who alone have it, are all on one thread.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

pub struct JoinHandle<T> {
    number: usize,
    result: Shared<T>,
}

impl<T> JoinHandle<T> {
    pub fn join(self) -> Ended<T> {
        fibers::block(None, &|| fibers::has_ended(self.number));
        self.result.0.borrow_mut().take().expect("joined once")
    }

    pub fn is_finished(&self) -> bool {
        fibers::has_ended(self.number)
    }
}

pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    Builder::new().spawn(work).expect("a fiber")
}

/// The name of the calling thread.
pub fn name() -> String {
    fibers::name()
}

pub fn yield_now() {
    fibers::block(None, &|| true);
}

pub fn sleep(time: Duration) {
    let until = now() + time;
    fibers::block(Some(until), &|| now() >= until);
}
