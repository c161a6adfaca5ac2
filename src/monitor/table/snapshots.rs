//! Commands on snapshots, and on the jobs that save, load and delete them.

use serde_json::{Value, json};

use crate::monitor::args::{Args, Kind, Param};
use crate::monitor::command::{Answer, Awaited, Command, Context, done, hmp, qmp, say};
use crate::monitor::error::CommandError;
use crate::snapshots::{self, JobInfo, Operation, Owner, SnapshotInfo, date_of};

const TAG: &str = "tag";
const JOB: &str = "job-id";
const VMSTATE: &str = "vmstate";
const DEVICES: &str = "devices";
const NAME: &[Param] = &[Param::required(TAG, Kind::Text)];
/// QEMU has the last two name block devices.
const WITH_STATE: &[Param] = &[
    Param::required(JOB, Kind::Text),
    Param::required(TAG, Kind::Text),
    Param::optional(VMSTATE, Kind::Text),
    Param::optional(DEVICES, Kind::Array),
];
const WITHOUT_STATE: &[Param] =
    &[Param::required(JOB, Kind::Text), Param::required(TAG, Kind::Text), Param::optional(DEVICES, Kind::Array)];

pub(super) const COMMANDS: &[Command] = &[
    Command {
        help: "save the machine as a snapshot, in the place of any of that name; the guest goes on (programs: as a job, and no other is replaced)",
        hmp: hmp("savevm", &[Param::optional(TAG, Kind::Text)], |args, cx| for_people(args, cx, snapshots::Kind::Save)),
        qmp: qmp("snapshot-save", WITH_STATE, |args, cx| for_programs(args, cx, snapshots::Kind::Save)),
    },
    Command {
        help: "put the machine back to a snapshot; it runs if it ran before this, and reads its memory as it needs it",
        hmp: hmp("loadvm", NAME, |args, cx| for_people(args, cx, snapshots::Kind::Load)),
        qmp: qmp("snapshot-load", WITH_STATE, |args, cx| for_programs(args, cx, snapshots::Kind::Load)),
    },
    Command {
        help: "delete a snapshot",
        hmp: hmp("delvm", NAME, |args, cx| for_people(args, cx, snapshots::Kind::Delete)),
        qmp: qmp("snapshot-delete", WITHOUT_STATE, |args, cx| for_programs(args, cx, snapshots::Kind::Delete)),
    },
    Command {
        help: "list the snapshots",
        hmp: hmp("info snapshots", &[], |_, cx| say(info_snapshots(&cx.vm.list_snapshots()?))),
        qmp: None,
    },
    Command { help: "list the jobs", hmp: None, qmp: qmp("query-jobs", &[], |_, cx| Ok(query_jobs(&cx.vm.jobs()))) },
    Command {
        help: "forget a job that is over",
        hmp: None,
        qmp: qmp("job-dismiss", &[Param::required("id", Kind::Text)], |args, cx| {
            done(cx.vm.dismiss_job(args.text("id")?))
        }),
    },
];

fn for_people(args: &Args, cx: &Context<'_>, kind: snapshots::Kind) -> Result<Answer, CommandError> {
    let operation = Operation { kind, tag: args.optional_text(TAG).map(str::to_owned), job: None };
    Ok(Answer { text: String::new(), waits: Some(Awaited::Job(cx.vm.snapshot(&operation)?)) })
}

fn for_programs(args: &Args, cx: &Context<'_>, kind: snapshots::Kind) -> Result<Value, CommandError> {
    if let Some(node) = args.optional_text(VMSTATE).filter(|node| !node.is_empty()) {
        return Err(CommandError::NoNode { name: VMSTATE, value: node.to_owned() });
    }
    if let Some(node) = args.texts(DEVICES)?.into_iter().next() {
        return Err(CommandError::NoNode { name: DEVICES, value: node });
    }
    let (tag, job) = (args.text(TAG)?.to_owned(), args.text(JOB)?.to_owned());
    done(cx.vm.snapshot(&Operation { kind, tag: Some(tag), job: Some(job) }).map(drop))
}

/// For people: a table. Dates are in UTC.
fn info_snapshots(all: &[SnapshotInfo]) -> String {
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
fn query_jobs(all: &[JobInfo]) -> Value {
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
