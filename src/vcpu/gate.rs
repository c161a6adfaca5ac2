//! The gate through which every vCPU thread enters the guest.
//!
//! ```text
//!            open              closed              shut
//!   thread:  in the guest  ->  parks (counted)  -> ends
//! ```
//! Closing interrupts all vCPUs at once and then waits for them together, so the guest stops within
//! one wake-up whatever its number of vCPUs. A vCPU that dies or resets the machine closes the gate
//! itself and leaves a request; it never waits for its own stop.
//!
//! A guest that is throttled goes through an open gate in rounds: all vCPUs run, are taken out, and
//! rest for a while, as close to the gate as parked ones. The rest is a wait for the gate's next
//! change, so whoever closes it ends the rest, too.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Vcpu;
use crate::kvm::Kick;

/// What a guest, or the monitor for it, asked for, or what became of it. The vCPUs are stopping
/// when it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestRequest {
    /// A reset.
    Reset,
    /// The same, but it was the monitor that asked, which must not wait for it.
    HostReset,
    /// Power off.
    PowerOff,
    /// The end, with this exit code.
    Exit(u8),
    /// Nothing: it triple-faulted or KVM gave up. The log has the registers.
    Panic,
}

impl GuestRequest {
    fn is_reset(self) -> bool {
        matches!(self, Self::Reset | Self::HostReset)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    Open,
    Closed,
    Shut,
}

/// For how long the vCPUs of a throttled guest run, and for how long they rest after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DutyCycle {
    /// How long they run; not zero.
    pub run: Duration,
    /// How long they rest after they ran for [`Self::run`].
    pub rest: Duration,
}

impl DutyCycle {
    /// How long they rest after they ran for this long.
    fn rest_after(self, ran: Duration) -> Duration {
        let nanos = ran.as_nanos() * self.rest.as_nanos() / self.run.as_nanos().max(1);
        Duration::from_nanos(nanos.try_into().unwrap_or(u64::MAX))
    }
}

struct State {
    position: Position,
    parked: usize,
    request: Option<GuestRequest>,
    throttle: Option<DutyCycle>,
    round: Round,
}

/// Where in its round a throttled guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// The vCPUs run since then. They do from when the first of them is back: on a busy host a
    /// thread that wakes waits for a processor, and that is no part of its time in the guest.
    RunningSince(Instant),
    /// None goes back into the guest before then.
    RestingUntil(Instant),
}

impl State {
    /// For how long vCPUs are still to rest.
    fn rest(&self) -> Option<Duration> {
        match self.round {
            Round::RunningSince(_) => None,
            Round::RestingUntil(end) => end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()),
        }
    }

    /// How the vCPUs run and rest, while they may run at all.
    fn throttled(&self) -> Option<DutyCycle> {
        self.throttle.filter(|_| self.position == Position::Open)
    }
}

/// No rest is longer, however long a busy host kept the vCPUs running over their time before it.
const LONGEST_REST: Duration = Duration::from_millis(250);

/// See the module's text. Closed at first.
pub struct VcpuGate {
    vcpus: usize,
    state: Mutex<State>,
    changed: Condvar,
    /// What [`VcpuGate::keep_throttled`] waits for.
    throttled: Condvar,
}

impl VcpuGate {
    /// A closed gate for that many vCPU threads.
    pub fn new(vcpus: usize) -> Self {
        Self {
            vcpus,
            state: Mutex::new(State {
                position: Position::Closed,
                parked: 0,
                request: None,
                throttle: None,
                round: Round::RunningSince(Instant::now()),
            }),
            changed: Condvar::new(),
            throttled: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the vCPUs into the guest.
    pub fn open(&self) {
        let mut state = self.lock();
        if state.position == Position::Closed {
            state.position = Position::Open;
            state.round = Round::RunningSince(Instant::now());
            self.changed.notify_all();
            self.throttled.notify_all();
        }
    }

    /// Takes the vCPUs out of the guest, without waiting for them.
    pub fn close(&self, vcpus: &[Arc<Vcpu>]) {
        let mut state = self.lock();
        if state.position == Position::Open {
            state.position = Position::Closed;
        }
        self.end_rest(&mut state);
        // Under the lock: a thread clears its flag under it too, so neither undoes the other's
        // later word.
        vcpus.iter().for_each(|vcpu| vcpu.kick().interrupt());
    }

    /// Ends all vCPU threads and [`Self::await_request`], without waiting.
    pub fn shut(&self, vcpus: &[Arc<Vcpu>]) {
        let mut state = self.lock();
        state.position = Position::Shut;
        vcpus.iter().for_each(|vcpu| vcpu.kick().interrupt());
        self.changed.notify_all();
        self.throttled.notify_all();
    }

    /// Waits until every vCPU thread is out of the guest (or has ended). `false` if for `limit`
    /// none came: it may hang in a page fault that nobody answers. On a busy host many vCPUs come
    /// one after the other, and each that does shows that the rest may.
    pub fn await_parked(&self, limit: Duration) -> bool {
        let mut deadline = Instant::now() + limit;
        let mut state = self.lock();
        let mut parked = state.parked;
        while state.parked < self.vcpus {
            if state.parked > parked {
                parked = state.parked;
                deadline = Instant::now() + limit;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// A vCPU thread's side: waits outside until the gate opens. `false` once it is shut, then the
    /// thread ends.
    pub(super) fn park(&self, kick: &Kick) -> bool {
        let mut state = self.lock();
        state.parked += 1;
        self.changed.notify_all();
        while state.position == Position::Closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.position == Position::Shut {
            return false;
        }
        state.parked -= 1;
        kick.set_immediate_exit(false);
        true
    }

    /// A vCPU thread's side, after an interruption: whether it goes straight back into the guest,
    /// because the signal was another's, the gate has opened again meanwhile, or it was to rest and
    /// has.
    pub(super) fn reenter(&self, kick: &Kick) -> bool {
        let mut state = self.lock();
        while state.position == Position::Open {
            let Some(left) = state.rest() else {
                self.end_rest(&mut state);
                kick.set_immediate_exit(false);
                return true;
            };
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    /// From now on lets the vCPUs run and rest in turn, or run without rest. Returns at once.
    pub fn throttle(&self, throttle: Option<DutyCycle>) {
        let mut state = self.lock();
        if state.throttle.is_none() {
            state.round = Round::RunningSince(Instant::now());
        }
        state.throttle = throttle;
        if throttle.is_none() {
            self.end_rest(&mut state);
        }
        self.throttled.notify_all();
    }

    fn end_rest(&self, state: &mut State) {
        if matches!(state.round, Round::RestingUntil(_)) {
            state.round = Round::RunningSince(Instant::now());
            self.changed.notify_all();
            self.throttled.notify_all();
        }
    }

    /// The work of a thread of its own: has the vCPUs rest, round after round, while they are to.
    /// Returns once the gate is shut.
    pub(super) fn keep_throttled(&self, vcpus: &[Arc<Vcpu>]) {
        let mut state = self.lock();
        while state.position != Position::Shut {
            let (since, throttle) = match (state.round, state.throttled()) {
                (Round::RunningSince(since), Some(throttle)) => (since, throttle),
                // Whoever changes that notifies: the first vCPU that is back, for one.
                _ => {
                    state = self.throttled.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            let now = Instant::now();
            let due = since + throttle.run;
            if let Some(left) = due.checked_duration_since(now).filter(|left| !left.is_zero()) {
                state = self.throttled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            // By how long they ran, not by how long they should have: on a busy host this thread
            // comes late.
            let rest = throttle.rest_after(now - since).min(LONGEST_REST);
            state.round = Round::RestingUntil(now + rest);
            vcpus.iter().for_each(|vcpu| vcpu.kick().interrupt());
        }
    }

    /// Closes the gate and leaves word why, from a vCPU's thread or another. The first request
    /// wins, except that a guest that died needs no reset.
    pub fn request(&self, vcpus: &[Arc<Vcpu>], request: GuestRequest) {
        let mut state = self.lock();
        if state.position == Position::Open {
            state.position = Position::Closed;
        }
        self.end_rest(&mut state);
        if state.request.is_none() || !request.is_reset() {
            state.request = Some(request);
        }
        vcpus.iter().for_each(|vcpu| vcpu.kick().interrupt());
        self.changed.notify_all();
    }

    /// Waits until there is a request; leaves it there. `false` once the gate is shut.
    pub fn await_request(&self) -> bool {
        let mut state = self.lock();
        while state.request.is_none() && state.position != Position::Shut {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.position != Position::Shut
    }

    /// Whether there is a request for a reset.
    pub fn request_is_reset(&self) -> bool {
        self.lock().request.is_some_and(GuestRequest::is_reset)
    }

    /// Whether there is a request that nobody has taken yet.
    pub fn has_request(&self) -> bool {
        self.lock().request.is_some()
    }

    /// Takes the request, if there is one.
    pub fn take_request(&self) -> Option<GuestRequest> {
        self.lock().request.take()
    }
}
