//! [`demo`]: one move after the other, then the table and the picture.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use tempfile::TempDir;

use super::journey::{Context, Journey, travel};
use super::{DemoError, Options, host, picture, table};
use crate::migration::check_host as check_kernel;
use crate::signals::{ENDING, remember};
use crate::size::format_size;
use crate::stdio::{Answer, say};

/// Shows all modes asked for: progress on standard error, the table on standard output, the picture
/// in its file.
pub fn demo(options: &Options) -> Result<(), DemoError> {
    check_host(options)?;
    // Only remembered by the signals: the loops act on it, so that the children are ended on every
    // way out.
    let interrupted = Arc::new(AtomicBool::new(false));
    remember(&ENDING, &interrupted).map_err(DemoError::Signal)?;
    let directory = tempfile::Builder::new().prefix("whimbrel-demo-").tempdir().map_err(DemoError::Directory)?;
    let place = Kept { directory, keep: options.keep };
    say(&format!(
        "A guest with {} of RAM writes to {} of it at full speed and moves between two processes over tcp loopback.",
        format_size(options.memory.size),
        format_size(options.working_set()),
    ));
    let context =
        Context { options, directory: place.directory.path(), began: Instant::now(), interrupted: &interrupted };
    let journeys = options.modes.iter().map(|mode| travel(&context, *mode)).collect::<Result<Vec<_>, _>>()?;

    let host = host::described();
    let mut answer = Answer::begin();
    answer.line(&format!("\n{}\nHost: {host}.", table::table(&journeys)));
    if journeys.iter().any(|journey| !journey.measured.steady) {
        answer.line(
            "The guest's speed swayed before it moved: other load on this host makes brownout and lost work rough.",
        );
    }
    write(&options.out, &picture::picture(options, &journeys, &host))?;
    answer.line(&format!("Guest throughput over time, as a picture: {}", options.out.display()));
    place.save(&journeys)?;
    no_damage(&journeys)?;
    Ok(answer.finish()?)
}

/// Everything that can be known to be missing before anything is started.
fn check_host(options: &Options) -> Result<(), DemoError> {
    check_kernel()?;
    match options.out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => {
            Err(DemoError::NoDirectory(options.out.clone()))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> Result<(), DemoError> {
    std::fs::write(path, text).map_err(|source: io::Error| DemoError::Write { path: path.into(), source })
}

/// The one thing that must never happen.
fn no_damage(journeys: &[Journey]) -> Result<(), DemoError> {
    let damaged: Vec<&Journey> = journeys.iter().filter(|journey| journey.errors() > 0).collect();
    let Some(first) = damaged.first() else { return Ok(()) };
    let modes: Vec<&str> = damaged.iter().map(|journey| journey.mode.name()).collect();
    Err(DemoError::Damaged {
        errors: damaged.iter().map(|journey| journey.errors()).sum(),
        modes: modes.join(", "),
        words: first.trace.complaint.clone().unwrap_or_else(|| "no page was named".to_owned()),
    })
}

/// The directory of sockets and logs. With `--keep` it stays, also when the demo fails.
struct Kept {
    directory: TempDir,
    keep: bool,
}

impl Kept {
    /// The heartbeats of each mode, for those who want to draw their own picture.
    fn save(&self, journeys: &[Journey]) -> Result<(), DemoError> {
        for journey in journeys.iter().filter(|_| self.keep) {
            let name = format!("{}-heartbeats.csv", journey.mode.name());
            write(&self.directory.path().join(name), &table::heartbeats(journey))?;
        }
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.keep {
            self.directory.disable_cleanup(true);
            say(&format!("Logs and heartbeats are kept in {}", self.directory.path().display()));
        }
    }
}
