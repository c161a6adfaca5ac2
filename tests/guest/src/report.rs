//! vCPU 0's conversation with the outside: heartbeats, findings, and the answers to commands.
//!
//! A byte is an exit to the monitor: 3 us on good hardware, 60 us on hosts whose KVM has none
//! underneath, where a whole line every millisecond would leave the guest no time to work. So a
//! beat sends as many bytes of the current line as a sixteenth of the time pays for, down to one.
//! Whoever measures for how long the guest was still should look at bytes, not at lines. Commands
//! are read and other records sent between two lines.

use core::fmt::Write;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use crate::cpu::{exit, timestamp};
use crate::hist::{self, BUCKETS};
use crate::serial::{self, Record};
use crate::shared::{CONTROL, COUNTERS, Finding, HOLD_PAUSE, HOLD_VERIFY, NEXT_EPOCH, Plan, finding, note, total};

/// Bytes of a heartbeat line.
const LINE: usize = 14;

/// How many bytes a beat may send, by the time that asking the serial port takes.
pub fn affordable_bytes(beat_ticks: u64) -> u64 {
    let mut least = u64::MAX;
    for _ in 0..8 {
        let start = timestamp();
        serial::status();
        least = least.min(timestamp().wrapping_sub(start));
    }
    (beat_ticks / 16 / least.max(1)).clamp(1, LINE as u64)
}

/// What vCPU 0 does besides its visits.
pub struct Reporter {
    plan: &'static Plan,
    began: u64,
    last_beat: u64,
    reported: usize,
    line: [u8; LINE],
    sent: usize,
}

impl Reporter {
    /// Begins to beat.
    pub fn new(plan: &'static Plan) -> Self {
        let now = timestamp();
        Self { plan, began: now, last_beat: now, reported: 0, line: [0; LINE], sent: LINE }
    }

    /// Whether a heartbeat is due. A TSC that went back makes one due too, or the guest would fall
    /// silent.
    #[inline(always)]
    pub fn is_due(&self, now: u64) -> bool {
        now.wrapping_sub(self.last_beat) >= self.plan.beat_ticks
    }

    /// Gives a sign of life and, between two lines, does what the waiting byte says, if there is
    /// one.
    #[cold]
    pub fn beat(&mut self, now: u64) {
        if self.send_beat(now) {
            let command = serial::receive();
            self.finish_line();
            self.obey(command);
        }
    }

    /// Gives a sign of life and says whether there is input. Says nothing if the last line is still
    /// on its way.
    fn send_beat(&mut self, now: u64) -> bool {
        let late = now.wrapping_sub(self.last_beat) - self.plan.beat_ticks;
        self.last_beat = if late < self.plan.beat_ticks { now - late } else { now };
        let mut has_input = false;
        if self.sent == LINE {
            let status = serial::status();
            if !status.can_send {
                return status.has_input;
            }
            has_input = status.has_input;
            self.report_findings();
            self.begin_line();
        }
        let next = LINE.min(self.sent + self.plan.beat_bytes);
        serial::send(&self.line[self.sent..next]);
        self.sent = next;
        has_input
    }

    fn begin_line(&mut self) {
        let visits = total(self.plan.cpus, |c| &c.visits) as u32;
        let errors = total(self.plan.cpus, |c| &c.errors).min(0xff) as u8;
        self.line = heartbeat(visits, errors);
        self.sent = 0;
    }

    fn finish_line(&mut self) {
        serial::send(&self.line[self.sent..]);
        self.sent = LINE;
    }

    fn beat_if_due(&mut self) {
        let now = timestamp();
        if self.is_due(now) {
            self.send_beat(now);
        }
    }

    fn report_findings(&mut self) {
        while let Some(Finding { cpu, page, want, damage }) = finding(self.reported) {
            self.reported += 1;
            let mut out = Record::new();
            let (front, back) = (damage.front, damage.back);
            // Writing to the port cannot fail.
            let _ = write!(out, "E vcpu={cpu} page={page} want={want} front={front} back={back} index=");
            let _ = match self.plan.pattern.index(damage.name) {
                Some(index) => write!(out, "{index}"),
                None => write!(out, "{:#x}", damage.name),
            };
            let _ = match damage.word {
                Some(word) => writeln!(out, " word={word}"),
                None => writeln!(out),
            };
        }
    }

    fn obey(&mut self, command: u8) {
        match command {
            b's' => self.statistics(),
            b'r' => {
                CONTROL.fetch_add(NEXT_EPOCH, AcqRel);
                self.await_obedience();
            }
            b'v' => self.verify(),
            b'p' => _ = CONTROL.fetch_or(HOLD_PAUSE, AcqRel),
            b'c' => _ = CONTROL.fetch_and(!HOLD_PAUSE, AcqRel),
            b'q' => self.quit(),
            b'\r' | b'\n' => {}
            unknown => crate::record!("? unknown command {unknown:#04x}: s, r, v, p, c or q"),
        }
    }

    /// Waits until the other vCPUs act upon the control word. One that waits for a page may take a
    /// while.
    fn await_obedience(&mut self) {
        let control = CONTROL.load(Acquire);
        for counters in &COUNTERS[1..self.plan.cpus] {
            while counters.obeyed.load(Acquire) != control {
                core::hint::spin_loop();
                self.beat_if_due();
            }
        }
    }

    fn verify(&mut self) {
        CONTROL.fetch_or(HOLD_VERIFY, AcqRel);
        self.await_obedience();
        let mut errors = 0;
        for index in 0..self.plan.pages {
            self.beat_if_due();
            let (page, want) = unsafe { (self.plan.page(index), *self.plan.generation(index)) };
            if let Err(damage) = self.plan.pattern.verify(page, index, want) {
                errors += 1;
                note(Finding { cpu: 0, page: index, want, damage });
                self.plan.pattern.fill(page, index, want);
            }
        }
        CONTROL.fetch_and(!HOLD_VERIFY, AcqRel);
        self.finish_line();
        self.report_findings();
        crate::record!("V pages={} errors={errors}", self.plan.pages);
    }

    fn statistics(&self) {
        let Plan { cpus, pages, tsc_khz, beat_bytes, .. } = *self.plan;
        let visits = total(cpus, |c| &c.visits);
        let slowest = COUNTERS[..cpus].iter().map(|c| c.slowest.load(Relaxed)).max().unwrap_or(0);
        let mut out = Record::new();
        // Writing to the port cannot fail.
        let _ = write!(
            out,
            "S {{\"visits\":{visits},\"writes\":{},\"errors\":{},\"passes\":{},\"pages\":{pages},\"cpus\":{cpus},\
             \"elapsed_ns\":{},\"tsc_khz\":{tsc_khz},\"beat_bytes\":{beat_bytes},\"tsc_backwards\":{},\"max_ns\":{},\"hist\":[",
            total(cpus, |c| &c.writes),
            total(cpus, |c| &c.errors),
            visits / pages,
            hist::nanoseconds(timestamp().wrapping_sub(self.began), tsc_khz),
            total(cpus, |c| &c.tsc_backwards),
            hist::nanoseconds(slowest, tsc_khz),
        );
        write_histogram(&mut out, cpus, tsc_khz);
        let _ = out.write_str("]}\n");
    }

    fn quit(&mut self) {
        self.report_findings();
        exit(u8::from(total(self.plan.cpus, |c| &c.errors) > 0));
    }
}

/// The buckets that hold something. The smallest ones may begin in the same nanosecond and are then
/// one.
fn write_histogram(out: &mut Record, cpus: usize, tsc_khz: u64) {
    let mut pending: Option<(u64, u64)> = None;
    let mut separator = "";
    let mut emit = |(lower, visits): (u64, u64)| {
        let _ = write!(out, "{separator}[{lower},{visits}]");
        separator = ",";
    };
    for bucket in 0..BUCKETS {
        let visits = total(cpus, |c| &c.histogram[bucket]);
        if visits == 0 {
            continue;
        }
        let lower = hist::nanoseconds(hist::lower_bound(bucket), tsc_khz);
        pending = match pending {
            Some((same, before)) if same == lower => Some((same, before + visits)),
            Some(done) => {
                emit(done);
                Some((lower, visits))
            }
            None => Some((lower, visits)),
        };
    }
    if let Some(last) = pending {
        emit(last);
    }
}

/// `H VVVVVVVV EE\n`, without the formatting machinery: this may be sent a thousand times a second.
fn heartbeat(visits: u32, errors: u8) -> [u8; LINE] {
    let mut line = *b"H 00000000 00\n";
    for (i, digit) in line[2..10].iter_mut().enumerate() {
        *digit = hex(visits >> (28 - 4 * i));
    }
    line[11] = hex(u32::from(errors >> 4));
    line[12] = hex(u32::from(errors));
    line
}

fn hex(nibble: u32) -> u8 {
    b"0123456789abcdef"[(nibble & 15) as usize]
}
