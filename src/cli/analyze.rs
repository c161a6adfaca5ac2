//! `whimbrel analyze`.

use std::path::PathBuf;

use clap::Args;

use crate::analyze::{Dump, Options};
use crate::migration::uri::parse_offset;

const ANALYZE_EXAMPLES: &str = "\
EXAMPLES:
  A guest that was written by 'migrate \"exec:cat > mig\"' or 'migrate file:mig', at the monitor:
    whimbrel analyze mig

  The registers of its processors:
    whimbrel analyze -d state mig

  Its memory, as files of a directory:
    whimbrel analyze --extract there mig

Exit status: 0 if the stream is whole, 1 if it is damaged or was cut: what stands before the damage is shown.";

/// What the long help says first: see [`super::Command`].
pub(super) const ABOUT: &str = "Takes a recorded migration apart: messages, RAM blocks, pages by kind, bytes by pass, the state of each device field by \
    field. The format is read from the description in the stream, so a stream of another version is understood as well.";

/// Arguments of `whimbrel analyze`.
#[derive(Args, Debug)]
#[command(after_long_help = ANALYZE_EXAMPLES)]
pub struct AnalyzeArgs {
    /// The file, or - for standard input; FILE,offset=BYTES where the stream begins inside of it
    file: String,
    /// Where in the file the stream begins, in bytes
    #[arg(long, value_name = "BYTES", value_parser = offset)]
    offset: Option<u64>,
    /// What to show instead of the summary
    #[arg(short, long, value_name = "WHAT")]
    dump: Option<Dump>,
    /// Write each RAM block to DIR/NAME.ram, each saved state to DIR/NAME.INSTANCE.state and .json
    #[arg(short = 'x', long, value_name = "DIR")]
    extract: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// An offset that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an offset; give bytes, such as 4096, 0x1000 or 1M")]
pub struct NoOffset(String);

pub(super) fn offset(text: &str) -> Result<u64, NoOffset> {
    parse_offset(text).ok_or_else(|| NoOffset(text.to_owned()))
}

impl AnalyzeArgs {
    /// What was asked for.
    pub fn validate(self) -> Result<Options, NoOffset> {
        let (file, inside) = match self.file.rsplit_once(",offset=") {
            Some((file, inside)) => (file, Some(offset(inside)?)),
            None => (self.file.as_str(), None),
        };
        Ok(Options {
            file: file.into(),
            offset: self.offset.or(inside).unwrap_or_default(),
            dump: self.dump,
            json: self.json,
            extract: self.extract,
        })
    }
}
