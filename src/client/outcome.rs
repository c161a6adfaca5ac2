//! [`End`]: how a driven migration ended: exit code, words, and JSON for programs.

use serde_json::{Map, Value, json};

use super::plan::{Plan, QmpAddress, Task};
use super::progress::summary;
use super::status::Progress;
use crate::migration::uri::{Stream, Uri};

/// What became of the migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest has arrived whole.
    Completed,
    /// It failed; the guest is on the source.
    Failed,
    /// It was taken back; the guest is on the source.
    Cancelled,
    /// The link broke in postcopy: the guest is on the destination, and some of its memory on the
    /// source.
    Paused,
    /// It goes on, and nobody looks: before the switch.
    LeftBefore,
    /// It goes on, and nobody looks: the guest is on the destination, and some of its memory on the
    /// source.
    LeftAfter,
    /// The monitor is gone, and what it would say is not known.
    Lost,
    /// It never began.
    Refused,
}

/// Each outcome that has an exit code of its own, as `--help` lists them.
pub const CODES: [(u8, &str); 7] = [
    (0, "the guest has arrived whole"),
    (1, "the migration failed: the guest stays where it was"),
    (2, "the command line is wrong"),
    (3, "the migration was cancelled: the guest stays where it was"),
    (4, "the migration is paused in two halves: the guest is on the destination, and part of its memory on the source"),
    (
        5,
        "the migration goes on, or may go on, without this command: left by --detach or a signal, or the monitor was lost",
    ),
    (6, "nothing began: the virtual machine cannot be reached, or it refused"),
];

impl Outcome {
    /// The exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Completed => 0,
            Self::Failed => 1,
            Self::Cancelled => 3,
            Self::Paused => 4,
            Self::LeftBefore | Self::LeftAfter | Self::Lost => 5,
            Self::Refused => 6,
        }
    }

    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Paused => "paused",
            Self::LeftBefore | Self::LeftAfter => "left-running",
            Self::Lost => "lost",
            Self::Refused => "refused",
        }
    }
}

/// A setting that this migration was given and that the virtual machine still has.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The parameter's or capability's name.
    pub name: String,
    /// What it is.
    pub now: Value,
    /// What it was before.
    pub before: Value,
}

/// How it ended.
#[derive(Debug)]
pub struct End {
    /// What became of it.
    pub outcome: Outcome,
    /// Why, where there is something to say.
    pub reason: Option<String>,
    /// The last answer to `query-migrate`; null if there was none.
    pub report: Value,
    /// What is still set.
    pub kept: Vec<Kept>,
}

impl End {
    /// Without anything but this.
    pub const fn of(outcome: Outcome, reason: Option<String>) -> Self {
        Self { outcome, reason, report: Value::Null, kept: Vec::new() }
    }

    /// On which side the guest is.
    fn guest(&self, plan: &Plan) -> &'static str {
        match self.outcome {
            Outcome::Completed => match (self.report["x-guest"].as_str(), plan.to()) {
                (Some("here"), _) => "source",
                (Some(_), Some(Uri::Stream(Stream::File { .. }))) => "file",
                (Some(_), _) => "stream",
                (None, _) => "destination",
            },
            Outcome::Failed | Outcome::Cancelled | Outcome::LeftBefore => "source",
            Outcome::Paused | Outcome::LeftAfter => "both",
            Outcome::Lost => "unknown",
            Outcome::Refused => "unmoved",
        }
    }

    /// What to type next.
    fn next(&self, plan: &Plan) -> Option<String> {
        let qmp = word(&plan.qmp);
        let follow = || format!("whimbrel migrate --qmp {qmp} --follow");
        match (self.outcome, plan.to()) {
            (Outcome::Completed, Some(Uri::Stream(Stream::File { path, .. }))) => {
                Some(format!("whimbrel restore {} and the machine's options", path.display()))
            }
            (Outcome::Paused, to) => {
                let to = to.map_or_else(|| "URI".to_owned(), ToString::to_string);
                Some(format!("whimbrel migrate --qmp {qmp} --recover --to {to} --destination-qmp SOCKET"))
            }
            (Outcome::LeftBefore | Outcome::LeftAfter | Outcome::Lost, _) => Some(follow()),
            _ => None,
        }
    }

    /// For standard error, where it is no success; with it, for standard output.
    pub fn sentence(&self, plan: &Plan) -> String {
        let reason = self.reason.as_deref().unwrap_or("no reason was given");
        let next = self.next(plan).map_or_else(String::new, |next| format!("\n  next: {next}"));
        match self.outcome {
            Outcome::Completed => {
                let to = |nowhere: &str| plan.to().map_or_else(|| nowhere.to_owned(), ToString::to_string);
                let where_it_is = match self.report["x-guest"].as_str() {
                    Some("here") => format!("The guest goes on here, and a snapshot of it is at {}.", to("its place")),
                    Some(_) => format!("The guest is at {}.", to("the file or stream to which it was written")),
                    None => format!("The guest is at {}.", to("its destination")),
                };
                summary(&Progress::of(&self.report), &where_it_is)
            }
            Outcome::Failed => format!("the migration failed, the guest stays where it is: {reason}"),
            Outcome::Cancelled => "the migration was cancelled, the guest stays where it is".to_owned(),
            Outcome::Paused => format!(
                "the migration is paused in two halves, the guest on the destination and part of its memory on the source: {reason}{next}"
            ),
            Outcome::LeftBefore => format!("the migration goes on; the guest is still on the source{next}"),
            Outcome::LeftAfter => format!(
                "the migration goes on: the guest is on the destination, and part of its memory still on the source{next}"
            ),
            Outcome::Lost => format!("it is not known what became of the migration: {reason}{next}"),
            Outcome::Refused => reason.to_owned(),
        }
    }

    /// What is still set, as a line; empty for nothing.
    pub fn kept_text(&self) -> String {
        let one = |it: &Kept| format!("{} = {} (before: {})", it.name, it.now, it.before);
        match &self.kept[..] {
            [] => String::new(),
            kept => format!(
                "still set in the virtual machine for this migration: {}",
                kept.iter().map(one).collect::<Vec<_>>().join(", ")
            ),
        }
    }

    /// For programs.
    pub fn to_json(&self, plan: &Plan) -> Value {
        let kept: Map<String, Value> =
            self.kept.iter().map(|it| (it.name.clone(), json!({"now": it.now, "before": it.before}))).collect();
        json!({
            "outcome": self.outcome.name(),
            "exit-code": self.outcome.code(),
            "reason": self.reason,
            "guest": self.guest(plan),
            "to": plan.to().map(ToString::to_string),
            "next": self.next(plan),
            "still-set": kept,
            "migration": self.report,
        })
    }
}

/// As a shell takes it.
fn word(qmp: &QmpAddress) -> String {
    let text = qmp.to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-:".contains(&byte);
    match text.bytes().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

impl Plan {
    /// Where the guest goes, if that was said.
    pub const fn to(&self) -> Option<&Uri> {
        match &self.task {
            Task::Move { to, .. } | Task::Recover { to, .. } => Some(to),
            Task::Follow => None,
        }
    }
}
