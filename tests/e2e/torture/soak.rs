//! For hours: a guest goes from process to process over a link that is cut again and again.

use std::time::{Duration, Instant};

use serde_json::json;

use super::case::Mode;
use super::chance::Chance;
use super::journey::{Journey, Stand};
use super::report;
use crate::support::faulty_link::{Channel, Direction, Fault, Place, Plan};
use crate::support::vm::Footprint;
use crate::support::{Machine, Vm, host};

const MINUTES: &str = "WHIMBREL_SOAK_MINUTES";
const SLACK_KIB: u64 = 6144;
/// The memory of the first generations differs from the rest: the guest was booted there.
const WARM: u64 = 5;

/// What has been seen of one kind of process.
#[derive(Default)]
struct Range {
    rss: Option<(u64, u64)>,
    files: Option<(usize, usize)>,
    threads: Option<(usize, usize)>,
}

fn widen<T: Ord + Copy>(range: &mut Option<(T, T)>, value: T) {
    *range = Some(range.map_or((value, value), |(least, most)| (least.min(value), most.max(value))));
}

impl Range {
    fn take(&mut self, now: Footprint) {
        widen(&mut self.rss, now.rss_kib);
        widen(&mut self.files, now.files);
        widen(&mut self.threads, now.threads);
    }

    fn line(&self, what: &str) -> String {
        let (rss, files, threads) =
            (self.rss.unwrap_or_default(), self.files.unwrap_or_default(), self.threads.unwrap_or_default());
        format!(
            "{what}: RSS {} to {} KiB, open files {} to {}, threads {} to {}",
            rss.0, rss.1, files.0, files.1, threads.0, threads.1
        )
    }

    fn assert_flat(&self, what: &str) {
        let (Some(rss), Some(files)) = (self.rss, self.files) else { return };
        assert!(rss.1 < rss.0 + SLACK_KIB && files.0 == files.1, "it does not stay flat: {}", self.line(what));
    }
}

#[derive(Default)]
struct Tally {
    migrations: u64,
    cuts: u64,
    recoveries: u64,
    stayed: u64,
    cancelled: u64,
}

/// One move, however often it is cut on the way; the process where the guest is in the end, and
/// whether it moved.
fn travel(here: Vm, chance: &mut Chance, tally: &mut Tally) -> (Vm, bool) {
    let early = chance.below(8) == 0;
    // Somewhere in the stream, most often while the guest still runs here.
    let place = Place::Offset(chance.below(32 << 20) as u64);
    let plan = Plan { channel: Channel::Control, direction: Direction::Forth, place, fault: Fault::Cut };
    let mut journey = Journey::prepare(machine(), here, early.then_some(plan));
    let mode = [Mode::Hybrid, Mode::Hybrid, Mode::AtOnce][chance.below(3)];
    journey.source.set(json!({"max-bandwidth": 200 << 20, "max-postcopy-bandwidth": 16 << 20}));
    journey.begin(mode, chance.below(2) == 0);
    for _ in 0..chance.below(4) {
        if early {
            break;
        }
        // Not in between, where neither side could know.
        journey.until(|_, there| there.run == "running");
        (0..chance.below(6)).for_each(|_| _ = journey.destination.guest.await_heartbeat());
        journey.link.cut();
        tally.cuts += 1;
        match journey.settle(true) {
            Stand::Halves => {
                while !journey.join(None) {
                    journey.hears(Duration::from_millis(100));
                }
                tally.recoveries += 1;
            }
            _ => break,
        }
    }
    journey.source.set(json!({"max-bandwidth": 0, "max-postcopy-bandwidth": 0}));
    let mut stand = journey.settle(true);
    tally.cuts += u64::from(early && journey.link.has_struck());
    while matches!(stand, Stand::Halves | Stand::LastWordLost) {
        tally.recoveries += 1;
        while !journey.join(None) {
            journey.hears(Duration::from_millis(100));
        }
        stand = journey.settle(true);
    }
    let Journey { mut source, mut destination, .. } = journey;
    match stand {
        Stand::Source => {
            tally.stayed += 1;
            (source, false)
        }
        Stand::Destination => {
            tally.migrations += 1;
            assert_eq!(destination.qmp.status(), "running");
            assert_eq!(source.quit(), 0);
            destination.guest.await_visits(1);
            (destination, true)
        }
        Stand::Doubt => panic!("the guest ran on the destination, which says that it never did"),
        Stand::Halves | Stand::LastWordLost => unreachable!("joined above"),
    }
}

fn machine() -> Machine {
    Machine::new("64M").cpus(2)
}

#[test]
#[ignore = "the long form: scripts/torture soak"]
fn soak() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let minutes: f64 = std::env::var(MINUTES).ok().and_then(|text| text.parse().ok()).unwrap_or(30.0);
    let (begun, time) = (Instant::now(), Duration::from_secs_f64(minutes * 60.0));
    let mut chance = Chance::new("soak");
    let mut here = machine().boot_and_begin("ws=32M order=rand write=50 zero=20");
    // This one never gets away: what each attempt leaves behind would add up.
    let mut stays = Machine::new("32M").boot_and_begin("ws=8M rate=2000");
    let (mut moving, mut staying, mut tally) = (Range::default(), Range::default(), Tally::default());
    let mut told = Instant::now();
    while begun.elapsed() < time {
        let moved;
        (here, moved) = travel(here, &mut chance, &mut tally);
        here.guest.assert_whole();
        if moved && tally.migrations > WARM {
            moving.take(here.footprint());
        }
        stays = cancelled(stays, &mut chance);
        tally.cancelled += 1;
        if tally.cancelled > WARM {
            staying.take(stays.footprint());
        }
        if told.elapsed() > Duration::from_secs(15) {
            told = Instant::now();
            let Tally { migrations, cuts, recoveries, .. } = tally;
            let seconds = begun.elapsed().as_secs();
            println!(
                "{seconds} s: {migrations} migrations, {cuts} cuts, {recoveries} recoveries; {:?}",
                here.footprint()
            );
        }
    }
    stays.guest.assert_whole();
    let Tally { migrations, cuts, recoveries, stayed, cancelled } = tally;
    let seconds = begun.elapsed().as_secs();
    println!(
        "\nsoak of {seconds} s: {migrations} migrations, {cuts} cuts, {recoveries} recoveries, {stayed} stayed on the source, guests lost: 0"
    );
    println!("{}", moving.line("each destination after its move"));
    println!("{}", staying.line(&format!("one source of {cancelled} cancelled migrations")));
    report(
        "soak",
        "Destination",
        &format!("{migrations} migrations, {cuts} cuts, {recoveries} recoveries in {seconds} s"),
    );
    // Each generation is a process of its own: how much of its memory came in huge pages differs,
    // and its figures are for people.
    staying.assert_flat("one source of cancelled migrations");
    assert!(migrations > 0 && recoveries > 0);
}

fn cancelled(source: Vm, chance: &mut Chance) -> Vm {
    let mut journey = Journey::prepare(Machine::new("32M"), source, None);
    journey.source.set(json!({"max-bandwidth": 16 << 20}));
    journey.begin(Mode::Precopy, chance.below(2) == 0);
    (0..chance.below(20)).for_each(|_| _ = journey.source.guest.next_record());
    journey.source.qmp.query("migrate_cancel");
    assert_eq!(journey.settle(true), Stand::Source);
    journey.link.cut();
    journey.source
}
