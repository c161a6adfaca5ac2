//! `whimbrel migrate`.

use std::fmt::Write;
use std::path::Path;

use clap::Args;
use clap::builder::StyledStr;

use super::settings::{NoSetting, SettingsArgs};
use crate::client::{CODES, Plan, QmpAddress, Task};
use crate::migration::uri::{Stream, Uri};

const EXAMPLES: &str = "\
EXAMPLES:
  Memory first, then the CPUs:
    whimbrel migrate --qmp /run/vm.qmp --to tcp:otherhost:4444

  The CPUs first, memory follows:
    whimbrel migrate --qmp /run/vm.qmp --to tcp:otherhost:4444 --mode postcopy

  One pass over memory, then the CPUs, with at most 100 MiB/s for what nobody waits for:
    whimbrel migrate --qmp /run/vm.qmp --to unix:/run/vm.in --mode hybrid --postcopy-bandwidth 100M

  Begin, and look later:
    whimbrel migrate --qmp /run/vm.qmp --to tcp:otherhost:4444 --detach
    whimbrel migrate --qmp /run/vm.qmp --follow

  Join the halves of a postcopy whose link broke:
    whimbrel migrate --qmp /run/vm.qmp --recover --to tcp:otherhost:4444 --destination-qmp /run/other.qmp

SIGNALS:
  Ctrl-C, SIGTERM and SIGHUP cancel: the guest stays where it is. Once it runs on the destination that is not possible any more: \
  Ctrl-C says so, and a second one leaves the migration to itself; SIGTERM and SIGHUP leave at once. With --follow \
  they only end the looking. SIGHUP does nothing under 'nohup'.

SETTINGS:
  What is set for this migration is put back when it has ended, unless somebody has changed it meanwhile. It stays while the migration \
  may still need it: after --detach, after a signal that left it to itself, in a pause, or when the monitor was lost; what stays is told.

EXIT STATUS:
";

const JSON: &str = "
JSON:
  One object: outcome (completed, failed, cancelled, paused, left-running, lost or refused), exit-code, reason, guest (source, destination, \
  both, file, stream, unknown; unmoved where nothing began), to, next (a command line), still-set, and migration, the \
  last answer to 'query-migrate'.
";

/// What the long help says first: see [`super::Command`].
pub(super) const ABOUT: &str = "Drives a running virtual machine through its QMP socket: sets what is wished for, starts the migration, \
    shows its progress on standard error and ends with a summary on standard output. The exit status tells what became of it.\n\n\
    What is not given stays as it is set in the virtual machine.";

/// Examples, signals and exit codes.
fn after_long_help() -> StyledStr {
    let mut text = EXAMPLES.to_owned();
    for (code, means) in CODES {
        // A text takes everything.
        let _ = writeln!(text, "  {code}  {means}");
    }
    (text + JSON).into()
}

/// Arguments of `whimbrel migrate`.
#[derive(Args, Debug)]
#[command(after_long_help = after_long_help())]
pub struct MigrateArgs {
    /// The QMP socket of the virtual machine: a path, unix:PATH or tcp:HOST:PORT
    #[arg(long, value_name = "SOCKET")]
    qmp: QmpAddress,

    /// Where another Whimbrel waits, tcp:HOST:PORT or unix:PATH, or a stream: file:PATH,
    /// exec:COMMAND or fd:NAME
    #[arg(long, value_name = "URI", required_unless_present = "follow")]
    to: Option<Uri>,

    /// End as soon as the migration has begun, with status 5
    #[arg(long, conflicts_with_all = ["follow", "recover"])]
    detach: bool,

    /// Look on at the migration that is under way there, or that ended last; on either side
    #[arg(long, conflicts_with_all = ["to", "recover", "SettingsArgs"])]
    follow: bool,

    /// Join the halves of a paused postcopy: SOCKET is the source's, URI where the destination
    /// waits again
    #[arg(long)]
    recover: bool,

    /// recover: the QMP socket of the destination, which is told to wait [default: it has been told
    /// by 'migrate_recover URI']
    #[arg(long, value_name = "SOCKET", requires = "recover")]
    destination_qmp: Option<QmpAddress>,

    /// recover: where the destination is to wait, if it sees that otherwise than the source, such
    /// as tcp:0.0.0.0:4444
    #[arg(long, value_name = "URI", requires = "destination_qmp")]
    listen: Option<Uri>,

    /// Tell the end as one JSON object on standard output
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    settings: SettingsArgs,
}

impl MigrateArgs {
    /// Checks the arguments against each other.
    pub fn validate(self) -> Result<Plan, NoSetting> {
        let mut settings = self.settings;
        let here = |uri| if matches!(self.qmp, QmpAddress::Unix(_)) { from_anywhere(uri) } else { uri };
        if matches!(self.qmp, QmpAddress::Unix(_)) {
            settings.make_absolute();
        }
        let task = match self.to.map(here) {
            None => Task::Follow,
            Some(to) if self.recover => {
                let listen = self.listen.unwrap_or_else(|| to.clone());
                Task::Recover { to, listen, destination: self.destination_qmp }
            }
            Some(to) => Task::Move { to, detach: self.detach },
        };
        Ok(Plan { qmp: self.qmp, task, settings: settings.validate()?, json: self.json })
    }
}

/// A path is meant from where it was typed, and the virtual machine stands elsewhere.
fn from_anywhere(uri: Uri) -> Uri {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match uri {
        Uri::Unix(path) => Uri::Unix(absolute(&path)),
        Uri::Stream(Stream::File { path, offset, reading }) => {
            Uri::Stream(Stream::File { path: absolute(&path), offset, reading })
        }
        other => other,
    }
}
