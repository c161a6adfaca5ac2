//! [`Model`]: all that the screen shows.

use std::time::Duration;

use super::history::History;
use super::snapshot::Snapshot;

/// How long an answer may be awaited before that is worth a word.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether anybody answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// The virtual machine answered last.
    Live,
    /// Nobody is there, for this reason.
    Lost(String),
}

/// All that the screen shows. Times are counted on any clock that only goes forward.
#[derive(Clone, Debug)]
pub struct Model {
    /// The socket.
    pub place: String,
    /// The last answers.
    pub snapshot: Snapshot,
    /// The rates so far.
    pub history: History,
    link: Link,
    answered: Duration,
    now: Duration,
}

impl Model {
    /// Before the first answer of whoever listens at `place`.
    pub fn new(place: String) -> Self {
        let (answered, now) = (Duration::ZERO, Duration::ZERO);
        Self { place, snapshot: Snapshot::default(), history: History::default(), link: Link::Live, answered, now }
    }

    /// An answer came.
    pub fn saw(&mut self, snapshot: Snapshot, at: Duration) {
        self.history.add(&snapshot, at);
        self.snapshot = snapshot;
        self.link = Link::Live;
        (self.answered, self.now) = (at, at);
    }

    /// Nobody is there.
    pub fn lost(&mut self, why: String) {
        self.link = Link::Lost(why);
    }

    /// Time passed.
    pub fn tick(&mut self, now: Duration) {
        self.now = now;
    }

    /// What is wrong with the link, as a sentence.
    pub fn trouble(&self) -> Option<String> {
        let silent = self.now.saturating_sub(self.answered);
        match &self.link {
            Link::Lost(why) => Some(format!("gone, the above is what was seen last: {why}")),
            Link::Live if silent >= PATIENCE => {
                Some(format!("the virtual machine has not answered for {} s", silent.as_secs()))
            }
            Link::Live => None,
        }
    }
}
