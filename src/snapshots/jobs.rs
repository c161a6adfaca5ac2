//! [`Jobs`]: what is under way and what became of it, by QEMU's names.
//!
//! ```text
//!   created -> running -> waiting -> pending -> concluded -> null      (dismissed)
//!                 \-> aborting ------------------^
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::SnapshotError;
use crate::sentence::sentence;

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `snapshot-save`, `savevm`.
    Save,
    /// `snapshot-load`, `loadvm`.
    Load,
    /// `snapshot-delete`, `delvm`.
    Delete,
}

impl Kind {
    /// QEMU's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Save => "snapshot-save",
            Self::Load => "snapshot-load",
            Self::Delete => "snapshot-delete",
        }
    }
}

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStatus {
    /// It is new.
    Created,
    /// It is at work.
    Running,
    /// The work is done.
    Waiting,
    /// What came of it is being kept.
    Pending,
    /// It failed.
    Aborting,
    /// It is over.
    Concluded,
    /// It is forgotten.
    Null,
}

impl JobStatus {
    /// QEMU's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Pending => "pending",
            Self::Aborting => "aborting",
            Self::Concluded => "concluded",
            Self::Null => "null",
        }
    }
}

/// A job at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobInfo {
    /// Its name.
    pub id: String,
    /// What it does.
    pub kind: Kind,
    /// How it stands.
    pub status: JobStatus,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// How far it is, and how far it will go.
    pub progress: (u64, u64),
}

impl JobInfo {
    /// Whether nobody gave it a name: it is for people, who are told of it at once, and nobody
    /// else's business.
    pub fn is_internal(&self) -> bool {
        self.id.starts_with(INTERNAL)
    }
}

/// No name that a program may give begins so.
const INTERNAL: char = '#';

/// So many internal jobs that are over are remembered.
const KEPT: usize = 8;

/// A job's status changed (event `JOB_STATUS_CHANGE`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEvent {
    /// Its name.
    pub id: String,
    /// How it stands now.
    pub status: JobStatus,
    /// See [`JobInfo::is_internal`].
    pub internal: bool,
}

#[derive(Default)]
struct List {
    jobs: Vec<JobInfo>,
    made: u64,
}

/// All jobs, the concluded ones until they are dismissed.
pub struct Jobs {
    list: Mutex<List>,
    events: Arc<dyn Fn(JobEvent) + Send + Sync>,
}

impl Jobs {
    /// None.
    pub fn new(events: Arc<dyn Fn(JobEvent) + Send + Sync>) -> Self {
        Self { list: Mutex::default(), events }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new one, called so, that runs; gives its name. One runs at a time.
    pub fn begin(&self, id: Option<&str>, kind: Kind) -> Result<String, SnapshotError> {
        let mut list = self.list();
        if let Some(id) = id {
            if !is_well_formed(id) {
                return Err(SnapshotError::JobId(id.escape_debug().collect()));
            }
            if list.jobs.iter().any(|job| job.id == id) {
                return Err(SnapshotError::JobExists(id.to_owned()));
            }
        }
        if let Some(other) = list.jobs.iter().find(|job| job.status != JobStatus::Concluded) {
            return Err(SnapshotError::Busy(other.id.clone()));
        }
        // Those for people whom nobody waited for are not kept for ever.
        let over = list.jobs.iter().filter(|job| job.is_internal()).count().saturating_sub(KEPT);
        let mut dropped = 0;
        list.jobs.retain(|job| {
            let drops = job.is_internal() && dropped < over;
            dropped += usize::from(drops);
            !drops
        });
        list.made += 1;
        let id = id.map_or_else(|| format!("{INTERNAL}{}{}", kind.name(), list.made), str::to_owned);
        list.jobs.push(JobInfo { id: id.clone(), kind, status: JobStatus::Created, error: None, progress: (0, 1) });
        drop(list);
        self.tell(&id, JobStatus::Created);
        self.enter(&id, JobStatus::Running);
        Ok(id)
    }

    /// It came to its end.
    pub fn end(&self, id: &str, progress: u64, done: Result<(), SnapshotError>) {
        let steps: &[JobStatus] = match done {
            Ok(()) => &[JobStatus::Waiting, JobStatus::Pending],
            Err(_) => &[JobStatus::Aborting],
        };
        steps.iter().for_each(|step| self.enter(id, *step));
        if let Some(job) = self.list().jobs.iter_mut().find(|job| job.id == id) {
            job.error = done.err().map(|error| sentence(&error));
            job.progress = if job.error.is_none() { (progress, progress) } else { (0, progress) };
        }
        self.enter(id, JobStatus::Concluded);
    }

    /// It could not even begin.
    pub fn forget(&self, id: &str) {
        self.list().jobs.retain(|job| job.id != id);
        self.tell(id, JobStatus::Null);
    }

    /// `job-dismiss`: a concluded one is forgotten.
    pub fn dismiss(&self, id: &str) -> Result<(), SnapshotError> {
        let status = self.list().jobs.iter().find(|job| job.id == id).map(|job| job.status);
        match status {
            None => Err(SnapshotError::NoJob),
            Some(JobStatus::Concluded) => {
                self.forget(id);
                Ok(())
            }
            Some(_) => Err(SnapshotError::JobRuns(id.to_owned())),
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<JobInfo> {
        self.list().jobs.clone()
    }

    fn enter(&self, id: &str, status: JobStatus) {
        if let Some(job) = self.list().jobs.iter_mut().find(|job| job.id == id) {
            job.status = status;
        }
        self.tell(id, status);
    }

    fn tell(&self, id: &str, status: JobStatus) {
        (self.events)(JobEvent { id: id.to_owned(), status, internal: id.starts_with(INTERNAL) });
    }
}

fn is_well_formed(id: &str) -> bool {
    id.starts_with(|c: char| c.is_ascii_alphabetic())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs() -> (Jobs, Arc<Mutex<Vec<String>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = told.clone();
        let events = move |event: JobEvent| sink.lock().unwrap().push(event.status.name().to_owned());
        (Jobs::new(Arc::new(events)), told)
    }

    #[test]
    fn a_job_goes_through_qemus_states() {
        let (jobs, told) = jobs();
        assert_eq!(jobs.begin(Some("save0"), Kind::Save).unwrap(), "save0");
        assert!(matches!(jobs.begin(None, Kind::Load), Err(SnapshotError::Busy(_))));
        assert!(matches!(jobs.dismiss("save0"), Err(SnapshotError::JobRuns(_))));
        jobs.end("save0", 7, Ok(()));
        assert!(matches!(jobs.begin(Some("save0"), Kind::Save), Err(SnapshotError::JobExists(_))));
        let all = jobs.all();
        assert_eq!((all[0].status, all[0].progress, &all[0].error), (JobStatus::Concluded, (7, 7), &None));
        jobs.dismiss("save0").unwrap();
        assert!(matches!(jobs.dismiss("save0"), Err(SnapshotError::NoJob)));
        assert_eq!(told.lock().unwrap().join(" "), "created running waiting pending concluded null");
    }

    #[test]
    fn one_that_fails_says_why() {
        let (jobs, told) = jobs();
        let id = jobs.begin(None, Kind::Load).unwrap();
        jobs.end(&id, 7, Err(SnapshotError::Failed("no room".to_owned())));
        let all = jobs.all();
        assert!(all[0].is_internal());
        assert_eq!(all[0].error.as_deref(), Some("no room"));
        assert_eq!(told.lock().unwrap().join(" "), "created running aborting concluded");
    }

    #[test]
    fn names_are_checked() {
        let (jobs, _) = jobs();
        for id in ["", "#1", "1a", "a b", "a/b", "ä"] {
            assert!(matches!(jobs.begin(Some(id), Kind::Save), Err(SnapshotError::JobId(_))), "{id}");
        }
    }
}
