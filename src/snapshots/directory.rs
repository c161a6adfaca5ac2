//! [`Directory`]: the directory with the snapshots.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use whimbrel_postcopy::stream::Outline;

use super::{Identity, SnapshotError, Tag};
use crate::host::files::{self, FileKind};
use crate::machine::Machine;

const SUFFIX: &str = ".whimbrel";

/// One snapshot as `info snapshots` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its name.
    pub tag: Tag,
    /// Its file, in bytes.
    pub size: u64,
    /// When it was saved.
    pub date: SystemTime,
    /// The guest's clock then, in nanoseconds; `None` if its file does not say.
    pub clock: Option<u64>,
    /// Whose it is.
    pub owner: Owner,
}

/// Whose a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This machine's.
    Ours,
    /// Another machine's, whose name or UUID this is.
    Another(String),
    /// Its file does not say.
    Unknown,
}

impl Owner {
    /// Of the snapshot with this label.
    pub fn of(label: &str, here: &Identity) -> Self {
        match Identity::parse(label) {
            None => Self::Unknown,
            Some(machine) if here.is(&machine) => Self::Ours,
            Some(machine) => Self::Another(machine.to_string()),
        }
    }
}

/// A directory.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// This one, which may not be there yet.
    pub fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// The snapshot's file.
    pub fn file(&self, tag: &Tag) -> PathBuf {
        self.0.join(format!("{tag}{SUFFIX}"))
    }

    /// Where it is written before it is whole: no snapshot has such a name.
    pub fn draft(&self, tag: &Tag) -> PathBuf {
        self.0.join(format!(".{tag}{SUFFIX}.part"))
    }

    /// Whether there is one of this name.
    pub fn has(&self, tag: &Tag) -> bool {
        self.file(tag).exists()
    }

    /// Those that there are, whoever saved them, the oldest first.
    pub fn list(&self, here: &Identity) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        let unlisted = |source| SnapshotError::List { path: self.0.clone(), source };
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(unlisted)? {
            let path = entry.map_err(unlisted)?.path();
            // One that goes away meanwhile is not listed.
            all.extend(tag_of(&path).and_then(|tag| info(tag, &path, here)));
        }
        all.sort_by(|one, other| (one.date, &one.tag).cmp(&(other.date, &other.tag)));
        Ok(all)
    }
}

fn tag_of(path: &Path) -> Option<Tag> {
    path.file_name()?.to_str()?.strip_suffix(SUFFIX)?.parse().ok()
}

/// Opens a snapshot's file; whatever else has such a name is none.
pub(super) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<(File, fs::Metadata)> {
    files::open(path, options, &[FileKind::Regular], "a regular file")
}

fn info(tag: Tag, path: &Path, here: &Identity) -> Option<SnapshotInfo> {
    let (file, about) = open(path, OpenOptions::new().read(true)).ok()?;
    let outline = Outline::of(file).unwrap_or_default();
    let (clock, owner) = (Machine::clock_of(&outline.state), Owner::of(&outline.label, here));
    Some(SnapshotInfo { tag, size: about.len(), date: about.modified().ok()?, clock, owner })
}

/// A name for a snapshot that got none, as QEMU makes them.
pub(super) fn tag_of_now() -> Result<Tag, SnapshotError> {
    let [year, month, day, hour, minute, second] = date_of(SystemTime::now());
    format!("vm-{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}").parse()
}

/// Year, month, day, hour, minute and second (UTC).
pub fn date_of(time: SystemTime) -> [u64; 6] {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March end with the day that some of them have.
    let (era, day_of_era) = ((days + 719_468) / 146_097, (days + 719_468) % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    [year, month, day, rest / 3600, rest / 60 % 60, rest % 60]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_the_calendars() {
        for (seconds, date) in [
            (0, [1970, 1, 1, 0, 0, 0]),
            (951_782_399, [2000, 2, 28, 23, 59, 59]),
            (951_782_400, [2000, 2, 29, 0, 0, 0]),
            (1_709_251_199, [2024, 2, 29, 23, 59, 59]),
            (1_767_225_599, [2025, 12, 31, 23, 59, 59]),
            (4_107_542_400, [2100, 3, 1, 0, 0, 0]),
        ] {
            assert_eq!(date_of(UNIX_EPOCH + Duration::from_secs(seconds)), date, "{seconds}");
        }
    }

    #[test]
    fn only_snapshots_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let place = Directory::new(dir.path().to_owned());
        let here = Identity::parse(r#"{"start": "0"}"#).unwrap();
        let tag: Tag = "b".parse().unwrap();
        assert!(!place.has(&tag) && place.list(&here).unwrap().is_empty());
        for name in ["b.whimbrel", ".c.whimbrel.part", "d", ".e.whimbrel"] {
            fs::write(dir.path().join(name), b"four").unwrap();
        }
        fs::create_dir(dir.path().join("f.whimbrel")).unwrap();
        // Nobody is waited for.
        nix::unistd::mkfifo(&dir.path().join("g.whimbrel"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let all = place.list(&here).unwrap();
        let told = all.iter().map(|it| (&it.tag, it.size, it.clock, &it.owner)).collect::<Vec<_>>();
        assert_eq!(told, [(&tag, 4, None, &Owner::Unknown)]);
        assert!(place.has(&tag));
        assert!(place.draft(&tag).ends_with(".b.whimbrel.part"));
        let nowhere = Directory::new(dir.path().join("nowhere"));
        assert!(nowhere.list(&here).unwrap_err().to_string().contains("nowhere cannot be listed"));
    }
}
