//! How much memory the control groups that this process is in still let it take.
//!
//! A limit holds for a group and all below it, so each group above this process counts, in version
//! 2 and in version 1, wherever they are mounted. Groups that a container's view leaves out cannot
//! be asked; version 1 tells the lowest of their limits.

use std::path::{Component, Path, PathBuf};

use crate::host::read_to_string;

/// The room of the tightest group, in bytes; `None` without any limit.
pub(super) fn room() -> Option<u64> {
    room_below(Path::new("/"))
}

/// The same by the files below `root`.
fn room_below(root: &Path) -> Option<u64> {
    let own = read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let mounts = mounts.lines().filter_map(Mount::read);
    let rooms = mounts.filter_map(|mount| mount.room(&own, root));
    rooms.min()
}

/// A hierarchy of groups that may limit memory.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    /// The group that is seen at `point`.
    group: PathBuf,
    point: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Mount {
    /// A line of /proc/self/mountinfo (proc_pid_mountinfo(5)): numbers, then what is mounted and
    /// where; behind a dash its kind and options.
    fn read(line: &str) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (group, point) = (place.next()?, place.next()?);
        let mut kind = kind.split(' ');
        let version = match (kind.next()?, kind.nth(1)) {
            ("cgroup2", _) => Version::Two,
            ("cgroup", Some(options)) if options.split(',').any(|it| it == "memory") => Version::One,
            _ => return None,
        };
        Some(Self { version, group: unescaped(group), point: unescaped(point) })
    }

    /// The path of the process's group in this hierarchy, by /proc/self/cgroup.
    fn own<'a>(&self, told: &'a str) -> Option<&'a Path> {
        let mut lines = told.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            Some((fields.next()?, fields.next()?, fields.next()?))
        });
        let line = lines.find(|(number, controllers, _)| match self.version {
            Version::Two => *number == "0" && controllers.is_empty(),
            Version::One => controllers.split(',').any(|it| it == "memory"),
        });
        line.map(|(_, _, path)| Path::new(path))
    }

    /// The room of the tightest group from the process's own upwards.
    fn room(&self, told: &str, root: &Path) -> Option<u64> {
        let top = root.join(self.point.strip_prefix("/").ok()?);
        let own = self.own(told)?;
        // What is mounted may be a part of the hierarchy, which the process is in or not.
        let below = own.strip_prefix(&self.group).unwrap_or(Path::new(""));
        let below = if below.components().all(|it| matches!(it, Component::Normal(_))) { below } else { Path::new("") };
        let groups = below.ancestors().map(|part| top.join(part));
        match self.version {
            Version::Two => groups.filter_map(|group| room_of_two(&group)).min(),
            Version::One => room_of_one(groups),
        }
    }
}

/// memory.max ends the process, memory.high makes it wait. The topmost group has neither.
fn room_of_two(group: &Path) -> Option<u64> {
    let limit = ["memory.max", "memory.high"].into_iter().filter_map(|file| number(&group.join(file))).min()?;
    Some(limit.saturating_sub(number(&group.join("memory.current"))?))
}

/// From the process's own group upwards, as long as a group counts for the one above it: in kernels
/// before 5.11 that is a choice.
fn room_of_one(groups: impl Iterator<Item = PathBuf>) -> Option<u64> {
    let mut tightest: Option<u64> = None;
    for (above, group) in groups.enumerate() {
        if above > 0 && number(&group.join("memory.use_hierarchy")) == Some(0) {
            break;
        }
        let used = number(&group.join("memory.usage_in_bytes"));
        let limit = [number(&group.join("memory.limit_in_bytes")), inherited(&group)].into_iter().flatten().min();
        if let (Some(limit), Some(used)) = (limit.filter(|limit| *limit < UNLIMITED), used) {
            let room = limit.saturating_sub(used);
            tightest = Some(tightest.map_or(room, |other| other.min(room)));
        }
    }
    tightest
}

/// What version 1 says for "no limit" is the greatest number of bytes in whole pages.
const UNLIMITED: u64 = (i64::MAX as u64) & !0xffff;

/// The lowest limit of a group of version 1 and all above it, those that cannot be seen here, too.
fn inherited(group: &Path) -> Option<u64> {
    let told = read_to_string(group.join("memory.stat")).ok()?;
    told.lines().find_map(|line| line.strip_prefix("hierarchical_memory_limit ")?.trim().parse().ok())
}

/// A file with one number; `None` for "max", too.
fn number(file: &Path) -> Option<u64> {
    read_to_string(file).ok()?.trim().parse().ok()
}

/// A path of mountinfo, in which some bytes are written as three octal digits.
fn unescaped(path: &str) -> PathBuf {
    let mut text = path.to_owned();
    for (code, byte) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(code, byte);
    }
    text.into()
}

#[cfg(test)]
mod tests;
