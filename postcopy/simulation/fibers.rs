//! The scheduler: which fiber runs next, and when the clock goes on.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::time::Duration;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::{descriptors, random, sockets};

/// A fiber's stack, in bytes. What is never touched of it takes no memory.
const STACK: usize = 512 * 1024;

/// A schedule with more turns than this goes round in circles.
const MOST_TURNS: u64 = 2_000_000;

type Switch = Yielder<(), ()>;

/// What a fiber waits for: asked by the scheduler while the fiber, on whose stack it stands, is
/// suspended.
type Condition = *const dyn Fn() -> bool;

struct Fiber {
    name: String,
    /// Never dropped where it stands: that of a schedule that failed would run the engine.
    coroutine: Option<ManuallyDrop<Coroutine<(), (), (), DefaultStack>>>,
    switch: *const Switch,
    waits_for: Option<Condition>,
    until: Option<Duration>,
}

#[derive(Default)]
struct Scheduler {
    fibers: Vec<Fiber>,
    current: Option<usize>,
    now: Duration,
    turns: u64,
    stacks: Vec<DefaultStack>,
}

thread_local! {
    static SCHEDULER: RefCell<Scheduler> = RefCell::default();
}

/// The virtual clock, from the begin of the schedule.
pub fn now() -> Duration {
    SCHEDULER.with_borrow(|it| it.now)
}

/// The number of the fiber that runs, in the order in which they began; `None` outside of all.
pub fn fiber() -> Option<usize> {
    SCHEDULER.with_borrow(|it| it.current)
}

/// The name of the fiber that runs.
pub(super) fn name() -> String {
    SCHEDULER.with_borrow(|it| it.current.map(|at| it.fibers[at].name.clone()).unwrap_or_default())
}

/// The running fiber asks something of its host: another may have its turn first.
pub fn point() {
    // Whoever is unwinding is let through: what it holds is gone soon.
    if fiber().is_some() && !std::thread::panicking() && random(6) == 0 {
        block(None, &|| true);
    }
}

/// The same between two steps of which there are many.
pub(super) fn rare_point() {
    if fiber().is_some() && !std::thread::panicking() && random(100) == 0 {
        block(None, &|| true);
    }
}

/// Suspends the fiber until `ready`, or until that moment. Whether it is ready.
pub fn block(until: Option<Duration>, ready: &dyn Fn() -> bool) -> bool {
    let switch = SCHEDULER.with_borrow_mut(|it| {
        let current = it.current.expect("only a fiber can wait");
        let fiber = &mut it.fibers[current];
        // SAFETY: the scheduler asks it only while this call lasts, since whoever is resumed waits
        // for nothing; the lifetime is left out because no type can say so.
        let ready: Condition = unsafe { std::mem::transmute::<&dyn Fn() -> bool, &'static dyn Fn() -> bool>(ready) };
        (fiber.waits_for, fiber.until) = (Some(ready), until);
        fiber.switch
    });
    // SAFETY: the switch stands on the running fiber's own stack for as long as that lives.
    unsafe { (*switch).suspend(()) };
    ready()
}

/// Adds a fiber. Its own panics are its own business.
pub(super) fn begin(name: String, work: impl FnOnce() + 'static) -> usize {
    SCHEDULER.with_borrow_mut(|it| {
        let number = it.fibers.len();
        let stack = it.stacks.pop().unwrap_or_else(|| DefaultStack::new(STACK).expect("memory for a stack"));
        let coroutine = Coroutine::with_stack(stack, move |switch: &Switch, ()| {
            SCHEDULER.with_borrow_mut(|it| it.fibers[number].switch = switch);
            work();
        });
        let switch = std::ptr::null();
        it.fibers.push(Fiber {
            name,
            coroutine: Some(ManuallyDrop::new(coroutine)),
            switch,
            waits_for: None,
            until: None,
        });
        number
    })
}

/// Whether the fiber has ended.
pub(super) fn has_ended(number: usize) -> bool {
    SCHEDULER.with_borrow(|it| it.fibers[number].coroutine.is_none() && it.current != Some(number))
}

/// Plays one schedule: `main` is its first fiber and ends after all others. `check` is called
/// between turns.
pub fn run(seed: u64, main: impl FnOnce() + 'static, mut check: impl FnMut()) {
    random::begin(seed);
    descriptors::begin();
    SCHEDULER.with_borrow_mut(|it| {
        it.fibers.clear();
        (it.now, it.turns, it.current) = (Duration::ZERO, 0, None);
    });
    begin("main".into(), main);
    while !has_ended(0) {
        match choose() {
            Some(number) => take_turn(number),
            None => wait(),
        }
        check();
    }
    let left = SCHEDULER.with_borrow_mut(|it| {
        let left: Vec<_> = it.fibers.iter().filter(|it| it.coroutine.is_some()).map(|it| it.name.clone()).collect();
        it.fibers.clear();
        left
    });
    assert!(left.is_empty(), "threads outlive the schedule: {left:?}");
    descriptors::end();
}

/// One of those that can run.
fn choose() -> Option<usize> {
    let (count, now) = SCHEDULER.with_borrow(|it| (it.fibers.len(), it.now));
    let first = random(count as u64) as usize;
    (0..count).map(|n| (first + n) % count).find(|number| {
        let waits = SCHEDULER.with_borrow(|it| {
            let fiber = &it.fibers[*number];
            fiber.coroutine.as_ref().map(|_| (fiber.waits_for, fiber.until.is_some_and(|until| until <= now)))
        });
        match waits {
            None => false,
            Some((None, _) | (_, true)) => true,
            // SAFETY: the fiber is suspended inside the call that this was given to.
            Some((Some(ready), _)) => unsafe { (*ready)() },
        }
    })
}

fn take_turn(number: usize) {
    let step = Duration::from_nanos(random(4000));
    let mut coroutine = SCHEDULER.with_borrow_mut(|it| {
        it.turns += 1;
        it.now += step;
        it.current = Some(number);
        (it.fibers[number].waits_for, it.fibers[number].until) = (None, None);
        it.fibers[number].coroutine.take().expect("a fiber that has not ended")
    });
    let result = coroutine.resume(());
    SCHEDULER.with_borrow_mut(|it| {
        it.current = None;
        match result {
            CoroutineResult::Yield(()) => it.fibers[number].coroutine = Some(coroutine),
            CoroutineResult::Return(()) => it.stacks.push(ManuallyDrop::into_inner(coroutine).into_stack()),
        }
    });
    let turns = SCHEDULER.with_borrow(|it| it.turns);
    assert!(turns < MOST_TURNS, "no end is reached: {}", describe());
}

/// Nobody can run: the clock goes on to the next moment at which somebody may.
fn wait() {
    let next = SCHEDULER.with_borrow(|it| {
        let alive = it.fibers.iter().filter(|fiber| fiber.coroutine.is_some());
        alive.filter_map(|fiber| fiber.until).chain(sockets::next_event(it.now)).min()
    });
    let Some(next) = next else { panic!("nobody can run, and nothing will change that: {}", describe()) };
    SCHEDULER.with_borrow_mut(|it| {
        assert!(next > it.now, "the clock does not go on");
        it.now = next;
        it.turns += 1;
    });
}

/// How many turns the schedule has taken.
pub fn turns() -> u64 {
    SCHEDULER.with_borrow(|it| it.turns)
}

/// The fibers, for whoever looks into a schedule that failed.
pub fn describe() -> String {
    SCHEDULER.with_borrow(|it| {
        let alive = it.fibers.iter().filter(|fiber| fiber.coroutine.is_some());
        let names: Vec<_> = alive.map(|fiber| format!("{} (until {:?})", fiber.name, fiber.until)).collect();
        format!("at {:?} after {} turns, alive: {}", it.now, it.turns, names.join(", "))
    })
}
