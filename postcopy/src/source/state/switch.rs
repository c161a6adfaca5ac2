//! The switch: dropping what is stale, pausing, the last pages, and the one-way door.

use std::collections::VecDeque;

use super::{Action, Drops, Source, State, SwitchoverMode};
use crate::guest::{PausedGuest, Section};
use crate::ram::PageIndex;
use crate::wire::{Forward, MAX_RUN_PAGES, fragments};

/// Before the vCPUs stop, stale pages are dropped in rounds while they run, until a round finds
/// few.
const DROP_ROUNDS: u32 = 3;
/// So few newly stale pages are left to the pause.
const FEW_PAGES: u64 = 2048;

impl Source {
    pub(super) fn switch(&mut self, way: SwitchoverMode) -> Action {
        self.switch_now(way);
        self.queue.pop_front().unwrap_or(Action::Wait(None))
    }

    pub(super) fn switch_now(&mut self, way: SwitchoverMode) {
        self.flush_multifd();
        if way == SwitchoverMode::Postcopy && self.logging {
            self.state = State::Dropping(Drops { round: 1, told: 0, fresh: 0 });
            self.then([Action::Sync]);
        } else {
            self.state = State::Pausing(way);
            self.then([Action::Pause]);
        }
    }

    /// Hybrid, the guest still runs: what is stale already is dropped now, so that the pause has
    /// little left to drop.
    pub(super) fn drop_stale(&mut self, drops: Drops) {
        let stale = self.pending.count();
        let fresh = stale - drops.told;
        let told = fragments(&self.pending).map(|fragment| Action::Send(Forward::Discard(fragment)));
        self.queue.extend(told);
        self.then([Action::Send(Forward::Barrier(drops.round)), Action::Wait(None)]);
        self.state = State::AwaitDropped(Drops { told: stale, fresh, ..drops });
    }

    /// The destination has dropped what was stale.
    pub(super) fn dropped(&mut self, drops: Drops) {
        if drops.round < DROP_ROUNDS && drops.fresh > FEW_PAGES {
            self.then([Action::Sync]);
            self.state = State::Dropping(Drops { round: drops.round + 1, ..drops });
        } else {
            self.then([Action::Pause]);
            self.state = State::Pausing(SwitchoverMode::Postcopy);
        }
    }

    /// The vCPUs stand still.
    pub fn paused(&mut self, door: PausedGuest) {
        match self.take() {
            State::Pausing(way) if self.limits.hold => self.state = State::PreSwitchover(way, door),
            State::Pausing(way) => self.save(way, door),
            other => {
                self.state = other;
                self.then([Action::Resume(door)]);
            }
        }
    }

    pub(super) fn save(&mut self, way: SwitchoverMode, door: PausedGuest) {
        self.state = State::Saving(way, door);
        self.then([Action::Save]);
    }

    /// The state was taken. Taking it may have written to guest RAM, so the log is read after it.
    pub fn saved(&mut self, sections: Vec<Section>) {
        let State::Saving(way, door) = self.take() else { unreachable!("saved is the answer to Save") };
        if self.logging {
            self.state = State::FinalSync(way, door);
            self.then([Action::Sync, Action::Send(Forward::State(sections))]);
        } else {
            // Nothing was sent yet: everything is pending as it is.
            self.then([Action::Send(Forward::State(sections))]);
            self.send_last(way, door);
        }
    }

    pub(super) fn send_last(&mut self, way: SwitchoverMode, door: PausedGuest) {
        let mut last = VecDeque::new();
        match way {
            SwitchoverMode::Precopy => {
                let rest = std::mem::take(&mut self.queue);
                self.start_multifd(self.many.precopy);
                last.append(&mut self.queue);
                for (block, bitmap) in self.pending.blocks() {
                    while let Some(run) = bitmap.claim_run(block, PageIndex(0), MAX_RUN_PAGES) {
                        last.push_back(Action::SendRun(run));
                    }
                }
                self.flush_multifd();
                self.then(rest);
            }
            SwitchoverMode::Postcopy => {
                if self.listening {
                    last.push_back(Action::ServeDemand);
                } else {
                    // Pages can be placed alone once the destination has said that it is armed: see
                    // `Reply::Listening`.
                    let stale = fragments(&self.pending).map(|fragment| Action::Send(Forward::Discard(fragment)));
                    last.extend(stale);
                    last.push_back(Action::Send(Forward::Listen));
                    self.listening = true;
                }
            }
        }
        last.append(&mut self.queue);
        self.queue = last;
        self.then([Action::Wait(None)]);
        self.state = State::AwaitReady(way, door);
    }

    /// The last moment. `allowed` is whether nobody cancelled before; the driver's answer to
    /// [`Action::HandOver`].
    pub fn try_hand_over(&mut self, allowed: bool) {
        match self.take() {
            State::AwaitReady(way, door) if allowed => {
                let mut last = VecDeque::from([Action::Send(Forward::HandOver { running: door.running() })]);
                if way == SwitchoverMode::Precopy {
                    last.push_back(Action::Send(Forward::Complete));
                }
                last.push_back(Action::Wait(None));
                self.queue = last;
                self.state = State::AwaitRunning(way, door.hand_over());
            }
            other => {
                self.state = other;
                self.cancel();
            }
        }
    }
}
