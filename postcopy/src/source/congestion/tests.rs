//! The pace against a small simulated link: a queue behind a token bucket, 64 KiB segments,
//! smoothed round trips.

use super::*;

const STEP: Duration = Duration::from_micros(100);
const SEGMENT: f64 = 65536.0;
const GIGABIT: u64 = 119_000_000;

struct Network {
    /// Bytes per second.
    rate: u64,
    /// What may go at once after a pause, in bytes.
    bucket: f64,
    /// The round trip without a queue.
    base: Duration,
    /// How much the hosts themselves send at most, in bytes per second.
    hosts: u64,
    /// What demanded pages take, in bytes per second.
    demanded_rate: u64,
    /// What congestion control allows to stand in the queue, in seconds of the link's rate.
    standing: f64,
    /// Which part of the bytes on their way is known to be there when a look is taken.
    own: f64,
    now: Duration,
    tokens: f64,
    queue: f64,
    window: f64,
    smoothed: f64,
    unacknowledged: f64,
    sample: Sample,
    pacing: PacingRate,
    pace: CongestionControl,
    changes: usize,
}

/// What was seen over a time.
struct Seen {
    used: f64,
    /// The queue's delay: mean, and the 99th percentile.
    mean: Duration,
    p99: Duration,
}

impl Network {
    fn new(rate: u64) -> Self {
        let base = Duration::from_micros(100);
        Self {
            rate,
            bucket: 131_072.0,
            base,
            hosts: 3_000_000_000,
            demanded_rate: 0,
            standing: 0.01,
            own: 1.0,
            now: Duration::from_secs(7),
            tokens: 131_072.0,
            queue: 0.0,
            window: 15_000.0,
            smoothed: base.as_secs_f64(),
            unacknowledged: 0.0,
            sample: Sample {
                at: Duration::ZERO,
                round_trip: base,
                shortest: base,
                arrived: 0,
                demanded: 0,
                acknowledgements: 0,
                receiver_limited: Duration::ZERO,
                segment: 1448,
                in_flight: 0,
                dry: false,
            },
            pacing: PacingRate::Unpaced,
            pace: CongestionControl::default(),
            changes: 0,
        }
    }

    fn delay(&self) -> f64 {
        self.queue / self.rate as f64
    }

    fn step(&mut self) {
        let step = STEP.as_secs_f64();
        self.now += STEP;
        let round_trip = self.base.as_secs_f64() + self.delay();
        let free = match self.pacing {
            PacingRate::Unpaced => (self.window / round_trip).min(self.hosts as f64),
            PacingRate::To(rate) => (rate as f64).min(self.hosts as f64),
        };
        // A paced connection has a window, too.
        let free = if self.delay() > 2.0 * self.standing { free.min(self.rate as f64) } else { free };
        // Slow start, until the queue is as long as congestion control bears.
        if self.delay() < self.standing {
            self.window = (self.window + free * step).min(64e6);
        } else {
            self.window *= 0.7;
        }
        let demanded = self.demanded_rate as f64 * step;
        let offered = self.queue + free * step + demanded;
        let possible = self.tokens + self.rate as f64 * step;
        let carried = offered.min(possible);
        self.tokens = (possible - carried).min(self.bucket);
        self.queue = offered - carried;
        self.sample.demanded += demanded as u64;
        let arrived = (carried - demanded).max(0.0);
        self.sample.arrived += arrived as u64;
        self.unacknowledged += arrived;
        while self.unacknowledged >= SEGMENT {
            self.unacknowledged -= SEGMENT;
            self.sample.acknowledgements += 1;
            self.smoothed += (round_trip - self.smoothed) / 8.0;
        }
        self.sample.at = self.now;
        self.sample.in_flight = (arrived / step * round_trip * self.own) as u64;
        self.sample.round_trip = Duration::from_secs_f64(self.smoothed);
        if self.pace.is_due(self.now)
            && let Some(pacing) = self.pace.looked(self.sample)
        {
            self.pacing = pacing;
            self.changes += 1;
        }
    }

    fn run(&mut self, milliseconds: u64) -> Seen {
        let (end, before) = (self.now + Duration::from_millis(milliseconds), self.sample);
        let mut delays = Vec::new();
        while self.now < end {
            self.step();
            delays.push(self.delay());
        }
        delays.sort_by(f64::total_cmp);
        let bytes = self.sample.arrived + self.sample.demanded - before.arrived - before.demanded;
        Seen {
            used: bytes as f64 / (self.rate as f64 * milliseconds as f64 / 1000.0),
            mean: Duration::from_secs_f64(delays.iter().sum::<f64>() / delays.len() as f64),
            p99: Duration::from_secs_f64(delays[delays.len() * 99 / 100]),
        }
    }

    fn settled(rate: u64) -> Self {
        let mut network = Self::new(rate);
        network.run(150);
        network
    }
}

fn micros(number: u64) -> Duration {
    Duration::from_micros(number)
}

#[test]
fn a_gigabit_link_is_full_and_its_queue_empty() {
    let seen = Network::settled(GIGABIT).run(2000);
    assert!(seen.used > 0.95, "{}", seen.used);
    assert!(seen.mean < micros(100) && seen.p99 < micros(600), "{:?} {:?}", seen.mean, seen.p99);
}

#[test]
fn the_first_queue_is_gone_within_twenty_milliseconds() {
    let mut network = Network::new(GIGABIT);
    network.run(20);
    let seen = network.run(20);
    assert!(seen.mean < micros(300), "{:?}", seen.mean);
}

#[test]
fn slower_links_and_faster_ones_are_filled_too() {
    // At 100 Mb/s 64 KiB alone take 5 ms, and so does learning anything.
    for (rate, most) in [(GIGABIT / 10, 2000), (GIGABIT / 4, 300), (GIGABIT * 5 / 2, 300)] {
        let mut network = Network::settled(rate);
        network.run(300);
        let seen = network.run(2000);
        assert!(seen.used > 0.9, "{rate}: {}", seen.used);
        assert!(seen.mean < micros(most), "{rate}: {:?}", seen.mean);
    }
}

#[test]
fn demanded_pages_take_their_share_from_the_background() {
    let mut network = Network::settled(GIGABIT);
    network.demanded_rate = 20_000_000;
    network.run(50);
    let seen = network.run(1000);
    assert!(seen.used > 0.94, "{}", seen.used);
    assert!(seen.mean < micros(100), "{:?}", seen.mean);
}

#[test]
fn a_link_that_becomes_slower_has_no_queue_for_long() {
    for slower in [2, 4, 10] {
        let mut network = Network::settled(GIGABIT);
        network.rate = GIGABIT / slower;
        network.run(150);
        let seen = network.run(500);
        assert!(seen.used > 0.9, "{slower}: {}", seen.used);
        assert!(seen.mean < micros(400), "{slower}: {:?}", seen.mean);
    }
}

#[test]
fn a_link_that_becomes_faster_is_filled_within_a_quarter_of_a_second() {
    for faster in [2, 5] {
        let mut network = Network::settled(GIGABIT);
        network.rate = GIGABIT * faster;
        network.run(250);
        let seen = network.run(500);
        assert!(seen.used > 0.9, "{faster}: {}", seen.used);
    }
}

#[test]
fn where_the_hosts_are_slower_than_the_link_nothing_is_ever_set() {
    let mut network = Network::new(3_000_000_000);
    network.hosts = 2_500_000_000;
    network.run(1000);
    assert_eq!((network.changes, network.pacing), (0, PacingRate::Unpaced));
}

#[test]
fn loopback_is_no_link_however_long_its_round_trips() {
    let mut network = Network::new(GIGABIT);
    network.sample.segment = 65483;
    network.run(1000);
    assert_eq!(network.changes, 0);
}

#[test]
fn a_receiver_that_takes_no_more_is_no_queue() {
    let mut network = Network::new(GIGABIT);
    for _ in 0..1000 {
        network.sample.receiver_limited += STEP;
        network.step();
    }
    assert_eq!(network.changes, 0);
}

#[test]
fn a_way_that_becomes_longer_is_no_queue_for_ever() {
    let mut network = Network::settled(GIGABIT);
    network.base = Duration::from_millis(2);
    network.run(300);
    let seen = network.run(1000);
    assert!(seen.used > 0.9, "{}", seen.used);
}

#[test]
fn a_single_late_acknowledgement_changes_nothing() {
    let mut network = Network::settled(GIGABIT);
    let settled = |network: &Network| match network.pace.state {
        State::Cruising { since, .. } => network.now - since < PROBE_AFTER / 2,
        _ => false,
    };
    while !settled(&network) {
        network.step();
    }
    let before = network.pace.state.clone();
    (network.smoothed, network.own) = (network.smoothed + 0.002, 100.0);
    network.run(1);
    network.smoothed = network.base.as_secs_f64();
    network.run(2);
    assert_eq!(network.pace.state, before);
}

#[test]
fn nothing_is_measured_across_a_pause() {
    let mut network = Network::new(GIGABIT);
    network.run(6);
    assert!(network.pace.measured(Duration::ZERO).is_some());
    network.pace.idle();
    assert_eq!(network.pace.measured(Duration::ZERO), None);
}

#[test]
fn the_round_trips_between_two_samples_are_told_from_the_smoothed_ones() {
    let (before, mut smoothed) = (Sample { round_trip: micros(100), ..Network::new(1).sample }, 100.0);
    for _ in 0..3 {
        smoothed += (900.0 - smoothed) / 8.0;
    }
    let after = Sample { round_trip: Duration::from_nanos((smoothed * 1000.0) as u64), acknowledgements: 3, ..before };
    let found = round_trip_since(&before, &after).unwrap();
    assert!(found.abs_diff(micros(900)) < micros(1), "{found:?}");
    assert_eq!(round_trip_since(&after, &after), None);
}

#[test]
fn a_host_without_time_is_no_queue() {
    let mut network = Network::settled(GIGABIT);
    let before = network.changes;
    network.base = Duration::from_millis(1);
    network.hosts = GIGABIT / 2;
    network.sample.dry = true;
    let seen = network.run(40);
    network.base = Duration::from_micros(100);
    network.hosts = 3_000_000_000;
    network.sample.dry = false;
    assert!(seen.used < 0.6 && network.changes < before + 3, "{} {}", seen.used, network.changes - before);
    assert!(network.run(20).used > 0.93);
}

#[test]
fn round_trips_that_grow_without_bytes_on_their_way_are_no_queue_of_ours() {
    let mut network = Network::new(GIGABIT);
    network.own = 0.1;
    network.run(500);
    assert_eq!(network.changes, 0);
}
