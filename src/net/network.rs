//! [`Network`]: all cards of a machine.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::config::NetConfig;
use super::{Interface, InterfaceInfo, MacAddr, Schedule, Tap, TapError, TooManyAnnouncements};

/// What the cards cannot do.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A tap cannot be had.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// No descriptor left.
    #[error("a network card needs an eventfd, which the kernel refuses")]
    Event(#[source] io::Error),
    /// No such card.
    #[error("there is no network card '{0}'; 'info network' lists them")]
    NoInterface(String),
    /// Too many announcements.
    #[error(transparent)]
    TooMany(#[from] TooManyAnnouncements),
}

/// A machine's cards, in the order of the command line, and what is announced after a move.
#[derive(Debug, Default)]
pub struct Network {
    interfaces: Vec<Arc<Interface>>,
    after_move: Mutex<AfterMove>,
}

/// What a guest's arrival leads to.
#[derive(Debug, Default)]
struct AfterMove {
    schedule: Schedule,
    /// The guest arrived and did not run yet.
    pending: bool,
}

impl Network {
    /// Opens the taps of all cards. `machine` is the machine's name, or empty; it is a part of
    /// addresses that were not given.
    pub fn open(cards: &[NetConfig], machine: &str) -> Result<(Self, Vec<Tap>), NetworkError> {
        let mut network = Self::default();
        let mut taps = Vec::with_capacity(cards.len());
        for (index, card) in cards.iter().enumerate() {
            let tap = Tap::open(&card.tap)?;
            let mac = card.mac.unwrap_or_else(|| MacAddr::for_tap(tap.name(), machine));
            let interface = Interface::new(format!("net{index}"), tap.name().to_owned(), mac);
            network.interfaces.push(Arc::new(interface.map_err(NetworkError::Event)?));
            taps.push(tap);
        }
        Ok((network, taps))
    }

    /// The cards.
    pub fn interfaces(&self) -> &[Arc<Interface>] {
        &self.interfaces
    }

    /// What is to be shown of them.
    pub fn info(&self) -> Vec<InterfaceInfo> {
        self.interfaces.iter().map(|it| it.info()).collect()
    }

    /// Announces the guest through the cards in `names`, or through all if that is empty.
    pub fn announce(&self, names: &[String], id: &str, schedule: Schedule) -> Result<(), NetworkError> {
        // All or none.
        let chosen = match names {
            [] => self.interfaces.iter().collect(),
            _ => names.iter().map(|name| self.find(name)).collect::<Result<Vec<_>, _>>()?,
        };
        for interface in chosen {
            interface.announce(id, schedule)?;
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<&Arc<Interface>, NetworkError> {
        let found = self.interfaces.iter().find(|it| it.name() == name);
        found.ok_or_else(|| NetworkError::NoInterface(name.to_owned()))
    }

    /// How a guest that arrives is announced.
    pub fn set_schedule(&self, schedule: Schedule) {
        self.lock().schedule = schedule;
    }

    /// A guest has arrived. It is announced when it runs: [`Self::runs`].
    pub fn arrived(&self) {
        self.lock().pending = true;
    }

    /// The guest runs: the first time after its arrival it is announced.
    pub fn runs(&self) {
        let schedule = {
            let mut after = self.lock();
            match std::mem::take(&mut after.pending) {
                true => after.schedule,
                false => return,
            }
        };
        // The monitor's default name, so that an `announce_self` without one takes its place.
        if let Err(error) = self.announce(&[], "", schedule) {
            log::error!("the guest's arrival is not announced: {error}");
        }
    }

    /// The guest left: what was still to be announced of it here must not be.
    pub fn left(&self) {
        self.lock().pending = false;
        self.interfaces.iter().for_each(|it| it.fall_silent());
    }

    fn lock(&self) -> MutexGuard<'_, AfterMove> {
        self.after_move.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn network(cards: usize) -> Network {
        let card = |index| {
            let mac = MacAddr::new([0x52, 0x54, 0, 0, 0, index as u8]).unwrap();
            Arc::new(Interface::new(format!("net{index}"), format!("tap{index}"), mac).unwrap())
        };
        Network { interfaces: (0..cards).map(card).collect(), ..Network::default() }
    }

    /// Which cards have a round to make.
    fn due(network: &Network) -> Vec<&str> {
        let due = network.interfaces().iter().filter(|it| it.round(Instant::now()).0);
        due.map(|it| it.name()).collect()
    }

    #[test]
    fn all_cards_or_those_that_are_named() {
        let network = network(3);
        network.announce(&[], "", Schedule::default()).unwrap();
        assert_eq!(due(&network), ["net0", "net1", "net2"]);
        network.announce(&["net2".to_owned(), "net0".to_owned()], "", Schedule::default()).unwrap();
        assert_eq!(due(&network), ["net0", "net2"]);
    }

    #[test]
    fn a_name_that_does_not_exist_announces_nothing() {
        let network = network(1);
        let error = network.announce(&["net0".to_owned(), "net1".to_owned()], "", Schedule::default()).unwrap_err();
        assert!(error.to_string().contains("'net1'"), "{error}");
        assert!(due(&network).is_empty());
    }

    #[test]
    fn an_arrival_is_announced_once_and_only_when_the_guest_runs() {
        let network = network(1);
        network.set_schedule(Schedule { rounds: 1, ..Schedule::default() });
        network.runs();
        assert!(due(&network).is_empty(), "it did not arrive");
        network.arrived();
        assert!(due(&network).is_empty(), "it is paused");
        network.runs();
        assert_eq!(due(&network), ["net0"]);
        assert_eq!(network.interfaces()[0].round(Instant::now()).1, None, "the parameters count");
        network.runs();
        assert!(due(&network).is_empty(), "a stop and a cont later");
    }

    #[test]
    fn a_guest_that_left_is_not_announced() {
        let network = network(1);
        network.arrived();
        network.announce(&[], "", Schedule::default()).unwrap();
        network.left();
        network.runs();
        assert!(due(&network).is_empty());
    }
}
