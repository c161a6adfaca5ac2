//! The visits: the reason for all the rest.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::cmdline::Order;
use crate::cpu::timestamp;
use crate::hist;
use crate::page::{ZERO_PAGE, below, mix};
use crate::report::Reporter;
use crate::shared::{CONTROL, COUNTERS, Counters, Finding, HOLD, Plan, count, note};

/// One vCPU's share of the working set and its way through it.
pub struct Worker {
    plan: &'static Plan,
    counters: &'static Counters,
    cpu: usize,
    first: u64,
    pages: u64,
    hot_pages: u64,
    cursor: u64,
    random: u64,
    write_below: u64,
    due: u64,
    obeyed: u32,
}

impl Worker {
    /// The worker of a vCPU.
    pub fn new(plan: &'static Plan, cpu: usize) -> Self {
        let share = |n: usize| plan.pages * n as u64 / plan.cpus as u64;
        let (first, pages) = (share(cpu), share(cpu + 1) - share(cpu));
        Self {
            plan,
            counters: &COUNTERS[cpu],
            cpu,
            first,
            pages,
            hot_pages: pages.div_ceil(10),
            cursor: 0,
            random: mix(plan.seed ^ mix(cpu as u64 + 1)) | 1,
            write_below: u64::from(plan.write_percent) * 0x10000 / 100,
            due: timestamp(),
            obeyed: 0,
        }
    }

    /// Makes every page of the share what it should be at first.
    pub fn fill(&mut self) {
        for index in self.first..self.first + self.pages {
            let generation = self.plan.pattern.first_generation(index);
            unsafe {
                *self.plan.generation(index) = generation;
                self.plan.pattern.fill(self.plan.page(index), index, generation);
            }
        }
    }

    /// Visits page after page for ever. One reading of the TSC ends a visit and begins the next.
    pub fn run(&mut self, mut reporter: Option<Reporter>) -> ! {
        let mut start = timestamp();
        loop {
            self.obey();
            if let Some(reporter) = &mut reporter
                && reporter.is_due(start)
            {
                reporter.beat(start);
                start = timestamp();
                continue;
            }
            if self.obeyed & HOLD != 0 || !self.is_due(start) {
                core::hint::spin_loop();
                start = timestamp();
                continue;
            }
            self.visit();
            let end = timestamp();
            self.record(end.wrapping_sub(start));
            start = end;
        }
    }

    #[inline(always)]
    fn obey(&mut self) {
        let control = CONTROL.load(Acquire);
        if control != self.obeyed {
            if (control ^ self.obeyed) & !HOLD != 0 {
                self.counters.clear_histogram();
            }
            self.obeyed = control;
            self.counters.obeyed.store(control, Release);
        }
    }

    /// Whether the rate allows a visit now. What was missed may be made up for, up to one
    /// heartbeat's worth.
    #[inline(always)]
    fn is_due(&mut self, now: u64) -> bool {
        let ticks = self.plan.visit_ticks;
        if ticks == 0 {
            return true;
        }
        let ahead = self.due.wrapping_sub(now) as i64;
        if ahead > ticks as i64 {
            self.due = now; // the TSC went back
        } else if ahead > 0 {
            return false;
        } else if ahead < -(self.plan.beat_ticks as i64) {
            self.due = now - self.plan.beat_ticks;
        }
        self.due = self.due.wrapping_add(ticks);
        true
    }

    #[inline(always)]
    fn visit(&mut self) {
        let random = self.draw();
        let index = self.first + self.choose(random);
        let pattern = &self.plan.pattern;
        let (page, expected) = unsafe { (self.plan.page(index), self.plan.generation(index)) };
        let generation = *expected;
        if let Err(damage) = pattern.check(page, index, generation) {
            note(Finding { cpu: self.cpu, page: index, want: generation, damage });
            pattern.fill(page, index, generation); // so that one error counts once
        } else if generation != ZERO_PAGE && random & 0xffff < self.write_below {
            *expected = pattern.write(page, index, generation);
            count(&self.counters.writes);
        }
    }

    /// A page of the share. Bits 16 to 31 choose between hot and cold, 32 to 63 the page.
    #[inline(always)]
    fn choose(&mut self, random: u64) -> u64 {
        match self.plan.order {
            Order::Sequential => {
                let page = self.cursor;
                self.cursor = if page + 1 < self.pages { page + 1 } else { 0 };
                page
            }
            Order::Random => below(self.pages, random),
            Order::Hot => {
                let cold = ((random >> 16) & 0xffff) * 10 < 0x10000 && self.pages > self.hot_pages;
                let (from, among) =
                    if cold { (self.hot_pages, self.pages - self.hot_pages) } else { (0, self.hot_pages) };
                from + below(among, random)
            }
        }
    }

    /// xorshift64*.
    #[inline(always)]
    fn draw(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    #[inline(always)]
    fn record(&mut self, mut ticks: u64) {
        let counters = self.counters;
        if (ticks as i64) < 0 {
            count(&counters.tsc_backwards);
            ticks = 0;
        }
        count(&counters.visits);
        count(&counters.histogram[hist::bucket(ticks)]);
        if ticks > counters.slowest.load(Relaxed) {
            counters.slowest.store(ticks, Relaxed);
        }
    }
}
