//! `info snapshots` and `query-jobs`, as QEMU shows them.

use serde_json::{Value, json};

use crate::snapshots::{JobInfo, SnapshotInfo, date_of};

/// For people: a table. Dates are in UTC.
pub fn info_snapshots(all: &[SnapshotInfo]) -> String {
    if all.is_empty() {
        return "There is no snapshot available.\n".to_owned();
    }
    let mut text = "List of snapshots present on all disks:\n".to_owned();
    text.push_str(&row(["ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"]));
    for it in all {
        let [year, month, day, hour, minute, second] = date_of(it.date);
        let date = format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}");
        let clock = it.clock.map_or_else(|| "--".to_owned(), clock);
        text.push_str(&row(["--", &it.tag.to_string(), &size(it.size), &date, &clock, "--"]));
    }
    text
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
