//! Precopy passes: which run next, and what the end of a pass leads to.

use std::time::Duration;

use super::super::convergence::{PassFigures, Verdict, bandwidth, decide, expected_downtime};
use super::{Action, LIMITED_PAGES, Pass, Source, State, SwitchoverMode};
use crate::logging as log;
use crate::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use crate::wire::{Forward, MAX_RUN_PAGES};

/// The log is re-armed for so many pages at a time: a call (and a TLB flush) each 16 MiB.
const CLEAR_PAGES: u64 = 4096;

impl Source {
    pub(super) fn begin_pass(&mut self, number: u32, begun: Duration) {
        self.figures.passes = number;
        self.then([Action::Send(Forward::PassBegin(number))]);
        self.start_multifd(self.many.precopy);
        self.state = State::Precopy(Pass {
            number,
            begin_pages: self.pending.count(),
            begun,
            sent: 0,
            moved: 0,
            at: (BlockId(0), PageIndex(0)),
            cleared_to: PageIndex(0),
        });
    }

    pub(super) fn next_of_pass(&mut self, now: Duration) -> Action {
        if self.wants_postcopy(now) {
            return self.switch(SwitchoverMode::Postcopy);
        }
        let State::Precopy(mut pass) = self.take() else { unreachable!("called in a pass") };
        let measuring = self.next_measuring(&pass);
        if measuring.is_some_and(|then| now >= then) {
            self.state = State::Precopy(pass);
            return Action::Measure;
        }
        if let Some(then) = self.pace.wait_until(self.limits.bandwidth, now) {
            self.state = State::Precopy(pass);
            return Action::Wait(Some(measuring.map_or(then, |measuring| then.min(measuring))));
        }
        loop {
            let (block, from) = pass.at;
            let Some(bitmap) = self.pending.block(block) else {
                let number = pass.number;
                self.state = State::EndOfPass(pass);
                // What waits in buffers would lengthen the blackout and flatter the bandwidth: the
                // pass ends when it is there.
                self.flush_multifd();
                self.then([Forward::PassEnd(number), Forward::Barrier(number)].map(Action::Send));
                self.then([Action::Wait(None)]);
                return self.next(now);
            };
            let Some(next) = bitmap.next_set(from) else {
                pass.at = (BlockId(block.0 + 1), PageIndex(0));
                pass.cleared_to = PageIndex(0);
                continue;
            };
            if next >= pass.cleared_to {
                // Re-arm the log before the pages are read: a write in between is then seen again
                // by the next sync.
                let start = next.0 / CLEAR_PAGES * CLEAR_PAGES;
                let end = (start + CLEAR_PAGES).min(bitmap.pages());
                pass.cleared_to = PageIndex(end);
                pass.at = (block, next);
                self.state = State::Precopy(pass);
                return Action::ClearLog(PageRun { block, start: PageIndex(start), count: (end - start) as u32 });
            }
            let most = if self.limits.bandwidth == 0 { MAX_RUN_PAGES } else { LIMITED_PAGES };
            let most = (pass.cleared_to.0 - next.0).min(u64::from(most)) as u32;
            let Some(run) = bitmap.claim_run(block, next, most) else { continue };
            pass.at = (block, run.end());
            self.state = State::Precopy(pass);
            return Action::SendRun(run);
        }
    }

    pub(super) fn end_pass(&mut self, pass: Pass, now: Duration) {
        let page = PAGE_SIZE as u64;
        let remaining = self.pending.count();
        let figures = PassFigures {
            number: pass.number,
            begin: pass.begin_pages * page,
            sent: pass.sent,
            moved: pass.moved,
            elapsed: now.saturating_sub(pass.begun),
            remaining: remaining * page,
            ended: now,
        };
        let expected = expected_downtime(figures.remaining, bandwidth(&figures, &self.limits));
        self.figures.expected_downtime = Some(expected);
        self.figures.dirty_rate = (u128::from(remaining) * 1_000_000_000 / figures.elapsed.as_nanos().max(1)) as u64;
        let verdict = if self.postcopy_wanted { Verdict::Postcopy } else { decide(&figures, &self.limits) };
        log::info!(
            "pass {}: {} KiB sent in {:?}, {} KiB dirtied meanwhile, expected downtime {expected:?}: {verdict:?}",
            pass.number,
            pass.sent / 1024,
            figures.elapsed,
            figures.remaining / 1024,
        );
        match verdict {
            Verdict::Continue => self.begin_pass(pass.number + 1, now),
            Verdict::Switchover => {
                self.switch_now(SwitchoverMode::Precopy);
            }
            Verdict::Postcopy => {
                self.switch_now(SwitchoverMode::Postcopy);
            }
        }
    }
}
