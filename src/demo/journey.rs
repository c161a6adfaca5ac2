//! [`travel`]: one guest, one move, from booting to verifying.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use serde_json::{Map, Value};

use super::live::Live;
use super::measure::{Marks, Measured};
use super::serial_capture::{Heard, listen};
use super::trace::{Side, Trace, Verdict};
use super::vm::Vm;
use super::{DemoError, Options};
use crate::client::{self, Mode, Phase, Progress};
use crate::migration::parameters::Parameter;
use crate::migration::uri::Uri;

/// How often the display is refreshed and signals are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Over how much of the past the guest's speed is shown.
const RECENT: Duration = Duration::from_millis(200);
/// The first visits touch pages that the host maps on the way: they are not measured.
const SETTLE: Duration = Duration::from_millis(500);
/// For how long the undisturbed guest is watched.
const CALM: Duration = Duration::from_millis(1500);
/// For how long the guest is watched after its arrival.
const AFTER: Duration = Duration::from_millis(2000);
/// How long any step may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Demand-page latency as the destination measured it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Median.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// The slowest.
    pub max: Duration,
}

/// A move that came to its end.
pub struct Journey {
    /// How the guest moved.
    pub mode: Mode,
    /// What the source says.
    pub report: Progress,
    /// What the destination says; `None` if no page was asked for.
    pub demand: Option<Demand>,
    /// What the guest found in its memory.
    pub verdict: Verdict,
    /// What the guest said, and when.
    pub trace: Trace,
    /// When what happened.
    pub marks: Marks,
    /// What the move cost the guest.
    pub measured: Measured,
}

impl Journey {
    /// Errors that the guest found, on its visits or when it looked at everything.
    pub fn errors(&self) -> u64 {
        self.trace.errors.max(self.verdict.errors)
    }
}

/// What all journeys of a demo share.
pub struct Context<'a> {
    /// The user's choice.
    pub options: &'a Options,
    /// For sockets and logs.
    pub directory: &'a Path,
    /// When the demo began.
    pub began: Instant,
    /// Set by Ctrl-C and its like.
    pub interrupted: &'a AtomicBool,
}

/// Moves a guest. Whatever the outcome, no process is left when it returns.
pub fn travel(context: &Context<'_>, mode: Mode) -> Result<Journey, DemoError> {
    let mut live = Live::new(mode.name());
    live.phase("boots", 0.0);
    let memory = ["--memory".to_owned(), context.options.memory_argument()];
    let kernel = ["--kernel", "builtin:test", "--cmdline"].map(str::to_owned);
    let words = format!("ws={} order=rand write=50 cpus=1", context.options.working_set());
    let incoming = ["--incoming", "tcp:127.0.0.1:0"].map(str::to_owned);
    let source = Vm::start(context.directory, mode.name(), Side::Source, &[&memory[..], &kernel, &[words]].concat())?;
    let destination = Vm::start(context.directory, mode.name(), Side::Destination, &[&memory[..], &incoming].concat())?;
    let (sender, heard) = unbounded();
    let consoles = [(Side::Source, source.console()?), (Side::Destination, destination.console()?)];
    listen(consoles, context.began, sender)?;
    let stage = Stage { context, mode, live, heard, source, destination, trace: Trace::default() };
    stage.play()
}

/// A journey under way.
struct Stage<'a> {
    context: &'a Context<'a>,
    mode: Mode,
    live: Live,
    heard: Receiver<Heard>,
    source: Vm,
    destination: Vm,
    trace: Trace,
}

impl Stage<'_> {
    fn play(mut self) -> Result<Journey, DemoError> {
        self.wait_until("for the guest to fill its memory", "fills its memory", |trace| trace.begun)?;
        self.watch("warms up", SETTLE)?;
        let calm = self.context.began.elapsed();
        self.watch("undisturbed", CALM)?;
        let start = self.context.began.elapsed();
        let report = self.migrate()?;
        let end = self.context.began.elapsed();
        let arrived = |trace: &Trace| trace.blackout().is_some();
        self.wait_until("for a sign of life on the destination", "arrives", arrived)?;
        self.watch("recovers", AFTER)?;
        let until = self.trace.beats.last().map_or(end, |beat| beat.at);
        let demand = demand(&query(&mut self.destination, Side::Destination)?);
        self.destination.say(b'v')?;
        self.wait_until("for the guest to verify its memory", "verifies", |trace| trace.verdict.is_some())?;
        let marks = Marks { calm, start, end, until };
        let cannot = || DemoError::NotMeasured(self.mode.name());
        let measured = Measured::of(&self.trace, &marks).ok_or_else(cannot)?;
        let verdict = self.trace.verdict.ok_or_else(cannot)?;
        let journey = Journey { mode: self.mode, report, demand, verdict, trace: self.trace, marks, measured };
        self.live.finish(&summary(&journey));
        Ok(journey)
    }

    /// Starts the migration and follows it to its end.
    fn migrate(&mut self) -> Result<Progress, DemoError> {
        let raise = |source| DemoError::Monitor { role: "source", source };
        let mode = (const { Parameter::of("postcopy-policy") }.name.to_owned(), self.mode.policy().into());
        let to = self.address()?;
        client::start(&mut self.source.monitor, &to, Map::from_iter([mode])).map_err(raise)?;
        let until = Instant::now() + PATIENCE;
        loop {
            let now = Progress::of(&query(&mut self.source, Side::Source)?);
            self.listen(Duration::ZERO)?;
            self.live.migration(&now, self.trace.recent_speed(RECENT));
            match now.phase() {
                Phase::Completed => return Ok(now),
                Phase::Failed | Phase::Cancelled | Phase::Paused => {
                    let why = now.error.unwrap_or_else(|| "no reason was given".to_owned());
                    return Err(DemoError::Failed { mode: self.mode.name(), status: now.status, why });
                }
                Phase::Revocable | Phase::Committed if Instant::now() >= until => {
                    return Err(self.too_slow("for the migration to end"));
                }
                Phase::Revocable | Phase::Committed => {}
            }
            // A change of status ends the wait at once.
            self.source.monitor.event(TICK).map_err(raise)?;
        }
    }

    /// Where the destination listens.
    fn address(&mut self) -> Result<Uri, DemoError> {
        let answer = query(&mut self.destination, Side::Destination)?;
        let port = answer["socket-address"][0]["port"].as_str().and_then(|port| port.parse().ok());
        let port = port.ok_or_else(|| DemoError::Ended {
            role: "destination",
            words: "it does not say where it listens".to_owned(),
        })?;
        Ok(Uri::Tcp { host: "127.0.0.1".to_owned(), port })
    }

    fn watch(&mut self, phase: &str, time: Duration) -> Result<(), DemoError> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.listen(left.min(TICK))?;
            self.live.phase(phase, self.trace.recent_speed(RECENT));
        }
        Ok(())
    }

    fn wait_until(
        &mut self,
        what: &'static str,
        phase: &str,
        happened: impl Fn(&Trace) -> bool,
    ) -> Result<(), DemoError> {
        let until = Instant::now() + PATIENCE;
        while !happened(&self.trace) {
            self.live.phase(phase, self.trace.recent_speed(RECENT));
            self.listen(TICK)?;
            if Instant::now() >= until {
                return Err(self.too_slow(what));
            }
        }
        Ok(())
    }

    /// Takes what the guest says within `time`, and sees to it that everybody is still there.
    fn listen(&mut self, time: Duration) -> Result<(), DemoError> {
        let until = Instant::now() + time;
        while let Ok(Heard { side, at, bytes }) = self.heard.recv_deadline(until) {
            self.trace.hear(side, at, &bytes);
        }
        if self.context.interrupted.load(Ordering::Relaxed) {
            return Err(DemoError::Interrupted);
        }
        match &self.trace.complaint {
            // The guest says no more; what it met on its visits is counted, and told at the end.
            Some(words) if !words.starts_with("vcpu=") => {
                return Err(DemoError::GaveUp { mode: self.mode.name(), words: words.clone() });
            }
            _ => {}
        }
        self.source.check()?;
        self.destination.check()
    }

    fn too_slow(&self, what: &'static str) -> DemoError {
        DemoError::TooSlow { mode: self.mode.name(), seconds: PATIENCE.as_secs(), what }
    }
}

fn query(vm: &mut Vm, side: Side) -> Result<Value, DemoError> {
    let answer = vm.monitor.execute("query-migrate", Map::new());
    answer.map_err(|source| DemoError::Monitor { role: side.role(), source })
}

/// What `query-migrate` of a destination says of demanded pages.
fn demand(answer: &Value) -> Option<Demand> {
    let pages = &answer["x-demand-pages"];
    let time = |name: &str| pages[name].as_u64().map(Duration::from_nanos);
    (pages["count"].as_u64()? > 0)
        .then(|| Some(Demand { p50: time("p50-ns")?, p99: time("p99-ns")?, max: time("max-ns")? }))?
}

fn summary(journey: &Journey) -> String {
    format!(
        "arrived in {} ms, blackout {:.1} ms, {} pages verified by the guest, {} errors",
        journey.report.total_ms,
        journey.measured.blackout.length().as_secs_f64() * 1e3,
        journey.verdict.pages,
        journey.errors(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn demand_is_known_only_if_pages_were_demanded() {
        let pages = |count| json!({"x-demand-pages": {"count": count, "p50-ns": 1000, "p99-ns": 2000, "max-ns": 3000}});
        let us = Duration::from_micros;
        assert_eq!(demand(&pages(3)), Some(Demand { p50: us(1), p99: us(2), max: us(3) }));
        assert_eq!(demand(&pages(0)), None);
        assert_eq!(demand(&json!({})), None);
    }
}
