//! `whimbrel top`.

use std::time::Duration;

use clap::Args;

use crate::client::QmpAddress;
use crate::top::{Form, Options};

const TOP_EXAMPLES: &str = "\
EXAMPLES:
  Watch the guest arrive:
    whimbrel top /run/there.qmp

  One look, for a script:
    whimbrel top --once --json /run/there.qmp

Keys: q quits. A virtual machine that ends or starts anew meanwhile is waited for.";

/// What the long help says first: see [`super::Command`].
pub(super) const ABOUT: &str = "Shows a migration as it goes on, through the QMP socket of the source or of the destination: progress, rates, what the guest \
    dirties against what the link carries, how long touched pages took to come, how long each vCPU waited for them, and which \
    pages have arrived. It only asks: nothing about the migration changes.";

/// Arguments of `whimbrel top`.
#[derive(Args, Debug)]
#[command(after_long_help = TOP_EXAMPLES)]
pub struct TopArgs {
    /// The QMP socket of the virtual machine: a path, unix:PATH or tcp:HOST:PORT
    #[arg(value_name = "SOCKET")]
    qmp: QmpAddress,

    /// Show how it stands now, and end
    #[arg(long)]
    once: bool,

    /// With --once: as JSON
    #[arg(long, requires = "once")]
    json: bool,

    /// How often the virtual machine is asked, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 250, conflicts_with = "once",
          value_parser = clap::value_parser!(u64).range(50..=60_000))]
    interval: u64,
}

impl TopArgs {
    /// What was asked for.
    pub fn options(self) -> Options {
        let form = match (self.once, self.json) {
            (true, true) => Form::Json,
            (true, false) => Form::Text,
            (false, _) => Form::Live { interval: Duration::from_millis(self.interval) },
        };
        Options { qmp: self.qmp, form }
    }
}
