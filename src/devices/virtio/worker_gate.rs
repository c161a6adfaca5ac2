//! The gate at which a device's worker stops.
//!
//! Two may hold it: the machine, while it stands still, and a vCPU, while its driver sets the
//! device up or resets it. The worker is parked once it has finished what it was at; what it drives
//! may be looked at then.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;

/// How much longer than for other things is waited for the host: a flush takes as long as a slow
/// disk needs for what was written.
const HOST_LIMIT: Duration = Duration::from_secs(30);
/// How long a worker that the host has answered may take to park.
const RETURN_LIMIT: Duration = Duration::from_secs(1);

/// Who holds the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// The machine stands still.
    Machine,
    /// The driver changes the device.
    Driver,
}

struct State {
    machine: bool,
    driver: bool,
    parked: bool,
    /// The worker waits for the host, not for the guest's RAM.
    at_host: bool,
    /// How often it did so and came back.
    host_answers: u64,
    shut: bool,
}

impl State {
    fn held(&self) -> bool {
        self.machine || self.driver
    }
}

/// See the module's text. Held by the machine at first.
pub(super) struct WorkerGate {
    state: Mutex<State>,
    changed: Condvar,
    /// Takes the worker out of its wait for events.
    wake: Arc<EventFd>,
}

impl WorkerGate {
    pub fn new(wake: Arc<EventFd>) -> Self {
        let state = State { machine: true, driver: false, parked: false, at_host: false, host_answers: 0, shut: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), wake }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A full counter wakes as well.
        let _ = self.wake.write(1);
    }

    /// Asks the worker to park, without waiting for it.
    pub fn hold(&self, holder: Holder) {
        let mut state = self.lock();
        match holder {
            Holder::Machine => state.machine = true,
            Holder::Driver => state.driver = true,
        }
        self.wake();
    }

    /// Lets the worker go on, unless the other holder still holds it.
    pub fn release(&self, holder: Holder) {
        let mut state = self.lock();
        match holder {
            Holder::Machine => state.machine = false,
            Holder::Driver => state.driver = false,
        }
        self.changed.notify_all();
    }

    /// Ends the worker, without waiting.
    pub fn shut(&self) {
        self.lock().shut = true;
        self.changed.notify_all();
        self.wake();
    }

    /// The worker's side: runs `work`, which asks the host for something and touches no guest RAM.
    /// Whoever waits for the worker to stand still has more patience with that: it ends by itself,
    /// which a wait for a page need not.
    pub fn at_host<R>(&self, work: impl FnOnce() -> R) -> R {
        self.lock().at_host = true;
        let result = work();
        let mut state = self.lock();
        state.at_host = false;
        state.host_answers += 1;
        self.changed.notify_all();
        result
    }

    /// Waits until the worker is parked, or has ended; `false` if it is not by `deadline`. While it
    /// waits for the host the deadline is put off, by [`HOST_LIMIT`] at most.
    pub fn await_parked(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.lock();
        let (mut soon, last) = (deadline, deadline.map(|deadline| deadline + HOST_LIMIT));
        let mut answers = state.host_answers;
        while !state.parked {
            if deadline.is_none() && state.shut {
                return false;
            }
            if std::mem::replace(&mut answers, state.host_answers) != state.host_answers {
                // It has to come from there to here.
                soon = soon.map(|soon| soon.max(Instant::now() + RETURN_LIMIT)).min(last);
            }
            let until = if state.at_host { last } else { soon };
            state = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return false,
                Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        true
    }

    /// The worker's side: waits while it is held. `false` once it is to end.
    pub fn park(&self) -> bool {
        let mut state = self.lock();
        state.parked = true;
        self.changed.notify_all();
        while state.held() && !state.shut {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.shut {
            return false;
        }
        state.parked = false;
        true
    }

    /// For a device without a worker: it always stands still.
    #[cfg(feature = "fuzzing")]
    pub fn stand_still(&self) {
        self.lock().parked = true;
    }

    /// The worker's side: whether it is to park.
    pub fn held(&self) -> bool {
        let state = self.lock();
        state.held() || state.shut
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn the_worker_goes_on_only_when_both_holders_let_go() {
        let gate = Arc::new(WorkerGate::new(Arc::new(EventFd::new().unwrap())));
        let (went, passes) = channel();
        let worker = {
            let gate = gate.clone();
            thread::spawn(move || {
                while gate.park() {
                    went.send(()).unwrap();
                    while !gate.held() {
                        thread::yield_now();
                    }
                }
            })
        };
        assert!(gate.await_parked(None));
        gate.hold(Holder::Driver);
        gate.release(Holder::Machine);
        assert!(passes.try_recv().is_err());
        gate.release(Holder::Driver);
        passes.recv().unwrap();
        gate.hold(Holder::Machine);
        assert!(gate.await_parked(None));
        gate.shut();
        worker.join().unwrap();
        assert!(passes.try_recv().is_err());
        // An ended worker does nothing any more, which is all that a waiter wants to know.
        assert!(gate.await_parked(Some(Instant::now())));
    }

    #[test]
    fn a_worker_that_waits_for_the_host_is_waited_for() {
        let gate = Arc::new(WorkerGate::new(Arc::new(EventFd::new().unwrap())));
        let (arrived, at_host) = channel();
        let (go_on, host) = channel::<()>();
        let worker = {
            let gate = gate.clone();
            thread::spawn(move || {
                gate.at_host(|| {
                    arrived.send(()).unwrap();
                    host.recv().unwrap();
                });
                while gate.park() {}
            })
        };
        at_host.recv().unwrap();
        let waiter = {
            let gate = gate.clone();
            thread::spawn(move || gate.await_parked(Some(Instant::now())))
        };
        // It would have given up by now, had it no patience.
        thread::sleep(Duration::from_millis(20));
        assert!(!waiter.is_finished());
        go_on.send(()).unwrap();
        assert!(waiter.join().unwrap());
        gate.shut();
        worker.join().unwrap();
    }

    #[test]
    fn who_waits_for_a_busy_worker_waits_until_the_deadline() {
        let gate = WorkerGate::new(Arc::new(EventFd::new().unwrap()));
        assert!(!gate.await_parked(Some(Instant::now())));
    }
}
