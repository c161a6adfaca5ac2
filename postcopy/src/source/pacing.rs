//! Holds the background of a postcopy to what leaves the network without a queue:
//! [`CongestionControl`] decides, this looks and sets.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::congestion::{CongestionControl, PacingRate, Sample};
use super::control::Shared;
use crate::channel::{Channel, Network};
use crate::host::Mutex;
use crate::logging as log;

/// The background's channels, and how fast they may go together.
pub(super) struct Pacer {
    channels: Vec<Arc<Channel>>,
    /// From when demanded pages share the link with the background.
    pace: Mutex<Option<CongestionControl>>,
}

impl Pacer {
    /// For the channels that the background goes on.
    pub fn new(channels: Vec<Arc<Channel>>) -> Self {
        Self { channels, pace: Mutex::new(None) }
    }

    /// Demanded pages share the link from now on.
    pub fn begin(&self) {
        self.channels.iter().for_each(|channel| channel.keep_short(self.channels.len()));
        let network = self.channels.iter().any(|channel| channel.network().is_some());
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner) = network.then(CongestionControl::default);
    }

    /// Looks at the network, if it is time to. To be called while a send waits for room: a socket
    /// that is never full has no queue behind it.
    pub fn look(&self, shared: &Shared) {
        // Whoever looks already looks for all.
        let Ok(mut pace) = self.pace.try_lock() else { return };
        let now = shared.progress.now();
        let Some(pace) = pace.as_mut().filter(|pace| pace.is_due(now)) else { return };
        let networks: Vec<Network> = self.channels.iter().filter_map(|channel| channel.network()).collect();
        let Some(sample) = sample(&networks, now, shared.demanded_bytes.load(Ordering::Relaxed)) else { return };
        let change = pace.looked(sample);
        log::trace!("{now:?} {networks:?} {pace:?}");
        let rate = match change {
            None => return,
            Some(PacingRate::Unpaced) => u64::MAX,
            Some(PacingRate::To(rate)) => rate / self.channels.len() as u64,
        };
        for channel in &self.channels {
            if let Err(error) = channel.pace(rate) {
                log::debug!("the background is not paced: {error}");
            }
        }
    }

    /// The background has nothing to send for now.
    pub fn idle(&self) {
        if let Ok(mut pace) = self.pace.try_lock()
            && let Some(pace) = pace.as_mut()
        {
            pace.idle();
        }
    }
}

/// What connections over the same way say about it together; `None` of none.
fn sample(networks: &[Network], at: Duration, demanded: u64) -> Option<Sample> {
    let count = networks.len() as u32;
    let sum = |figure: fn(&Network) -> u64| networks.iter().map(figure).sum();
    Some(Sample {
        at,
        round_trip: networks.iter().map(|network| network.round_trip).sum::<Duration>().checked_div(count)?,
        shortest: networks.iter().map(|network| network.shortest).min()?,
        arrived: sum(|network| network.arrived),
        demanded,
        // Each connection smooths its round trip over its own.
        acknowledgements: sum(|network| network.segments_in.into()) / u64::from(count),
        receiver_limited: networks.iter().map(|network| network.receiver_limited).max()?,
        segment: networks.iter().map(|network| network.segment).max()?,
        in_flight: sum(|network| network.in_flight),
        dry: networks.iter().all(|network| network.unsent == 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(round_trip: u64, arrived: u64, unsent: u64) -> Network {
        Network {
            round_trip: Duration::from_micros(round_trip),
            shortest: Duration::from_micros(round_trip / 2),
            segment: 1448,
            arrived,
            in_flight: 10_000,
            unsent,
            segments_in: 100,
            rate: 0,
            receiver_limited: Duration::ZERO,
            pace: u64::MAX,
        }
    }

    #[test]
    fn several_connections_speak_as_one_of_their_way() {
        let at = Duration::from_secs(1);
        assert_eq!(sample(&[], at, 0), None);
        let one = sample(&[network(300, 5000, 0)], at, 7).unwrap();
        assert_eq!((one.round_trip, one.arrived, one.demanded, one.dry), (Duration::from_micros(300), 5000, 7, true));
        let both = sample(&[network(300, 5000, 0), network(500, 3000, 1)], at, 7).unwrap();
        assert_eq!((both.round_trip, both.shortest), (Duration::from_micros(400), Duration::from_micros(150)));
        assert_eq!((both.arrived, both.in_flight, both.acknowledgements), (8000, 20_000, 100));
        assert!(!both.dry, "one of them has something to send");
    }
}
