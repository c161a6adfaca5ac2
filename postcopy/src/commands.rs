//! [`CommandQueue`]: what users, and the engine's other threads, want of a migration's thread.
//!
//! Each side has one queue, and one thread takes from it: the one that drives the migration. Its
//! policy:
//!
//! - *Order*: commands are carried out in the order in which they came, between two messages.
//! - *Coalesced*: a command replaces an older one of its kind that still waits. So new limits
//!   replace those before them, and a link is not broken twice.
//! - *Refused*: the handle refuses what cannot be done at once and changes nothing then. What comes
//!   too late is taken and dropped.
//! - *A broken link*: the queue outlives it. Where another one is awaited, commands that speak of
//!   the link or of the switchover are dropped; limits, and where to join again, count.
//! - *Waiting*: [`CommandQueue::ends_link`] is seen without a lock by every thread that sends,
//!   receives or connects. Whoever sees it stops waiting, and the owner then takes the command.
//! - *The end of the process* is no command in the queue: it is said once and is true for good.
//!
//! A cancel is no command either: between it and the hand-over one compare-and-exchange decides
//! (`source/control.rs`).

use std::collections::VecDeque;
use std::mem::discriminant;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use crate::channel::Wake;
use crate::host::{Mutex, MutexGuard};

/// What can wait in a queue.
pub(crate) trait Command {
    /// Whether the link is to end for it, whatever its threads are waiting for.
    fn ends_link(&self) -> bool;
}

/// See the module's text.
pub(crate) struct CommandQueue<C> {
    waiting: Mutex<VecDeque<C>>,
    /// Whether one of those that wait ends the link. Written with the lock held.
    ends_link: AtomicBool,
    abandoned: AtomicBool,
    wake: Arc<Wake>,
}

impl<C: Command> CommandQueue<C> {
    /// Empty; `wake` wakes its owner.
    pub fn new(wake: Arc<Wake>) -> Self {
        Self { waiting: Mutex::default(), ends_link: AtomicBool::new(false), abandoned: AtomicBool::new(false), wake }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<C>> {
        // Commands are put in and taken out whole: as good as before, whoever panicked.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, waiting: &VecDeque<C>) {
        self.ends_link.store(waiting.iter().any(Command::ends_link), Ordering::Release);
    }

    /// Adds a command and wakes the owner.
    pub fn push(&self, command: C) {
        let mut waiting = self.waiting();
        waiting.retain(|older| discriminant(older) != discriminant(&command));
        waiting.push_back(command);
        self.note(&waiting);
        drop(waiting);
        self.wake.ring();
    }

    /// The next command. Owner only.
    pub fn next(&self) -> Option<C> {
        let mut waiting = self.waiting();
        let command = waiting.pop_front();
        self.note(&waiting);
        command
    }

    /// Takes a command that ends the link, out of turn; whether there was one. Owner only.
    pub fn take_end(&self) -> bool {
        let mut waiting = self.waiting();
        let before = waiting.len();
        waiting.retain(|command| !command.ends_link());
        self.note(&waiting);
        waiting.len() < before
    }

    /// Whether such a command waits.
    pub fn any(&self, such: impl Fn(&C) -> bool) -> bool {
        self.waiting().iter().any(such)
    }

    /// The process ends.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.wake.ring();
    }

    /// Whether the process ends.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Whether whoever waits for the peer is to stop waiting.
    pub fn ends_link(&self) -> bool {
        self.is_abandoned() || self.ends_link.load(Ordering::Acquire)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    enum Want {
        Break,
        Limit(u32),
        Join(&'static str),
    }

    impl Command for Want {
        fn ends_link(&self) -> bool {
            *self == Want::Break
        }
    }

    fn queue() -> CommandQueue<Want> {
        CommandQueue::new(Arc::new(Wake::new().unwrap()))
    }

    #[test]
    fn commands_come_in_order_and_the_newest_of_a_kind_counts() {
        let queue = queue();
        for command in [Want::Limit(1), Want::Join("here"), Want::Limit(2), Want::Join("there")] {
            queue.push(command);
        }
        assert!(queue.any(|command| matches!(command, Want::Join(_))));
        let order: Vec<_> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(order, [Want::Limit(2), Want::Join("there")]);
    }

    #[test]
    fn whoever_waits_sees_a_command_that_ends_the_link_until_it_is_taken() {
        let queue = queue();
        queue.push(Want::Limit(1));
        assert!(!queue.ends_link());
        queue.push(Want::Break);
        queue.push(Want::Break);
        assert!(queue.ends_link());
        assert!(queue.take_end() && !queue.take_end());
        assert!(!queue.ends_link());
        assert_eq!(queue.next(), Some(Want::Limit(1)));
        queue.push(Want::Break);
        assert_eq!(queue.next(), Some(Want::Break));
        assert!(!queue.ends_link());
    }

    #[test]
    fn the_end_of_the_process_is_true_for_good() {
        let queue = queue();
        queue.abandon();
        assert!(queue.ends_link() && queue.is_abandoned());
        assert!(!queue.take_end() && queue.next().is_none());
        assert!(queue.ends_link() && queue.is_abandoned());
    }
}
