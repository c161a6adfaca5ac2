//! `whimbrel restore`.

use std::path::PathBuf;

use clap::Args;

use super::run::{CliError, RunArgs};
use crate::migration::uri::{Reading, Stream, Uri};
use crate::run::{Incoming, RunConfig};

const RESTORE_EXAMPLES: &str = "\
EXAMPLES:
  Save a guest and end its machine, with its monitor:
    migrate file:/var/lib/vm/guest
    quit

  Run it on, with all of its memory read first:
    whimbrel restore /var/lib/vm/guest --memory 512M

  Run it on at once; its pages are read as it touches them, and the others behind it:
    whimbrel restore --lazy /var/lib/vm/guest --memory 512M";

/// What the long help says first: see [`super::Command`].
pub(super) const ABOUT: &str = "Runs a guest that was written to a file by 'migrate file:FILE', or by a command that wrote there what it \
    read. The other options are those of 'whimbrel run'; memory, CPUs and devices must be what they were.";

/// Arguments of `whimbrel restore`.
#[derive(Args, Debug)]
#[command(after_long_help = RESTORE_EXAMPLES)]
pub struct RestoreArgs {
    /// The file
    #[arg(conflicts_with = "incoming")]
    file: PathBuf,
    /// Where in the file the guest begins, in bytes, such as 4096, 0x1000 or 1M
    #[arg(long, value_name = "BYTES", value_parser = super::analyze::offset, default_value = "0")]
    offset: u64,
    /// Run the guest at once and read its pages as it touches them
    ///
    /// The file must not change until the guest has all of its memory: see 'info migrate'. It needs
    /// userfaultfd, as postcopy does.
    #[arg(long)]
    lazy: bool,
    #[command(flatten)]
    run: RunArgs,
}

impl RestoreArgs {
    /// Everything checked.
    pub fn validate(self) -> Result<RunConfig, CliError> {
        let reading = if self.lazy { Reading::OnDemand } else { Reading::InOrder };
        let stream = Stream::File { path: self.file, offset: self.offset, reading };
        self.run.arriving(Incoming::At(Uri::Stream(stream))).validate()
    }
}
