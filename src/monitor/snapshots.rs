//! `info snapshots` and `query-jobs`, as QEMU shows them.

use serde_json::{Value, json};

use crate::snapshots::{JobInfo, Owner, SnapshotInfo, date_of};

/// For people: a table. Dates are in UTC.
pub fn info_snapshots(all: &[SnapshotInfo]) -> String {
    let (ours, others): (Vec<_>, Vec<_>) = all.iter().partition(|it| it.owner == Owner::Ours);
    let mut text = match ours.is_empty() {
        true => "There is no snapshot available.\n".to_owned(),
        false => {
            "List of snapshots present on all disks:\n".to_owned()
                + &row(["ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"])
        }
    };
    for it in ours {
        let clock = it.clock.map_or_else(|| "--".to_owned(), clock);
        text.push_str(&row(["--", &it.tag.to_string(), &size(it.size), &date(it), &clock, "--"]));
    }
    if !others.is_empty() {
        text.push_str("\nSnapshots in the same directory that are not of this machine, and can neither be loaded nor deleted here:\n");
        text.push_str(&foreign(["TAG", "VM_SIZE", "DATE", "OF"]));
    }
    for it in others {
        let of = match &it.owner {
            Owner::Another(machine) => machine.as_str(),
            Owner::Ours | Owner::Unknown => "(its file does not say)",
        };
        text.push_str(&foreign([&it.tag.to_string(), &size(it.size), &date(it), of]));
    }
    text
}

fn date(it: &SnapshotInfo) -> String {
    let [year, month, day, hour, minute, second] = date_of(it.date);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

fn foreign([tag, size, date, of]: [&str; 4]) -> String {
    format!("{tag:<24} {size:>8} {date:>19} {of}\n")
}

fn row([id, tag, size, date, clock, icount]: [&str; 6]) -> String {
    format!("{id:<7} {tag:<16} {size:>8} {date:>19} {clock:>15} {icount:>10}\n")
}

/// Nanoseconds as hours, minutes, seconds and thousandths.
fn clock(nanoseconds: u64) -> String {
    let ms = nanoseconds / 1_000_000;
    format!("{:04}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

/// Three figures and a unit.
fn size(bytes: u64) -> String {
    let (mut number, mut unit) = (bytes as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if number < 1000.0 {
            break;
        }
        (number, unit) = (number / 1024.0, next);
    }
    let digits = if number >= 100.0 {
        0
    } else if number >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{number:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}

/// For programs. What people began is none of their business.
pub fn query_jobs(all: &[JobInfo]) -> Value {
    all.iter().filter(|job| !job.is_internal()).map(object).collect()
}

fn object(job: &JobInfo) -> Value {
    let mut object = json!({
        "id": job.id,
        "type": job.kind.name(),
        "status": job.status.name(),
        "current-progress": job.progress.0,
        "total-progress": job.progress.1,
    });
    if let Some(error) = &job.error {
        object["error"] = error.as_str().into();
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_another_machines_is_listed_as_that() {
        let of = |tag: &str, owner| SnapshotInfo {
            tag: tag.parse().unwrap(),
            size: 1000,
            date: std::time::UNIX_EPOCH,
            clock: None,
            owner,
        };
        let others = [of("b", Owner::Another("machine 'web'".to_owned())), of("c", Owner::Unknown)];
        let text = info_snapshots(&others);
        assert!(text.starts_with("There is no snapshot available.\n\nSnapshots in the same directory"), "{text}");
        let all = [&[of("a", Owner::Ours)], &others[..]].concat();
        let text = info_snapshots(&all);
        let (ours, theirs) = text.split_once("\n\n").unwrap();
        assert!(ours.lines().nth(2).unwrap().contains(" a ") && ours.lines().count() == 3, "{text}");
        assert!(theirs.contains("b ") && theirs.contains("1970-01-01 00:00:00 machine 'web'\n"), "{text}");
        assert!(theirs.contains("c ") && theirs.ends_with("(its file does not say)\n"), "{text}");
    }

    #[test]
    fn sizes_have_three_figures() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (6_951_077, "6.63 MiB"),
            (33 << 20, "33 MiB"),
            (100 << 20, "100 MiB"),
            (1 << 30, "1 GiB"),
            (5_905_580_032, "5.5 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
