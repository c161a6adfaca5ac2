//! Snapshots: the guest as it was, in files of one directory, one a snapshot, and the jobs that
//! save, load and delete them.
//!
//! | file | what is in it |
//! |---|---|
//! | `tag` | what a snapshot may be called |
//! | `place` | the directory: names, lists |
//! | `identity` | which machine a snapshot is of |
//! | `jobs` | what is under way and what became of it, by QEMU's names |
//! | `work` | the jobs' work, each on a thread of its own; `save` and `load` are the long ones |
//!
//! A file is the stream that `migrate file:` writes, so that `whimbrel restore` runs it, too.

mod directory;
mod identity;
mod jobs;
mod load;
mod save;
mod tag;
mod work;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use whimbrel_postcopy::channel::ChannelError;

use crate::launcher::{Launcher, LauncherError};
use crate::migration::files::FileError;
use crate::migration::{CommandRefused, Migration};

pub use directory::{Directory, Owner, SnapshotInfo, date_of};
pub use identity::Identity;
pub use jobs::{JobEvent, JobInfo, JobStatus, Jobs, Kind};
pub use tag::Tag;

/// Why a snapshot cannot be saved, loaded, deleted or listed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Nobody has said where they are.
    #[error("there is no place for snapshots: start the machine with '--snapshots DIR'")]
    NoPlace,
    /// A name that would be no file's.
    #[error(
        "'{0}' is no name for a snapshot: take 1 to 200 characters, no '/' and no control characters, the first of them no '.'"
    )]
    Tag(String),
    /// Programs do not overwrite.
    #[error("Snapshot '{0}' already exists: delete it first")]
    Exists(Tag),
    /// There is none.
    #[error("Snapshot '{0}' does not exist: 'info snapshots' lists them")]
    Missing(Tag),
    /// The directory.
    #[error("the snapshots in {path} cannot be listed")]
    List {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file that cannot be opened.
    #[error("snapshot '{tag}' cannot be read")]
    Open {
        /// Whose.
        tag: Tag,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file that holds no whole guest.
    #[error("snapshot '{tag}' holds no guest")]
    Damaged {
        /// Which.
        tag: Tag,
        /// Why not.
        #[source]
        source: ChannelError,
    },
    /// A file that somebody has.
    #[error("snapshot '{tag}' is in use: {source}")]
    InUse {
        /// Whose.
        tag: Tag,
        /// By whom.
        source: Box<FileError>,
    },
    /// Another machine shares the directory.
    #[error(
        "snapshot '{tag}' is of {owner}, not of this machine: give this one another name, or run that one's guest with 'whimbrel restore {}'",
        path.display()
    )]
    Another {
        /// Which.
        tag: Tag,
        /// Whose it is.
        owner: String,
        /// Its file.
        path: PathBuf,
    },
    /// Who knows where it comes from.
    #[error(
        "snapshot '{tag}' does not say of which machine it is: run its guest with 'whimbrel restore {0}', or remove the file {0}",
        path.display()
    )]
    Unknown {
        /// Which.
        tag: Tag,
        /// Its file.
        path: PathBuf,
    },
    /// A file that cannot be made, renamed or removed.
    #[error(transparent)]
    Launcher(#[from] LauncherError),
    /// A snapshot's guest is not one for this machine, or this is no moment for it.
    #[error("snapshot '{tag}' cannot be loaded")]
    Unfit {
        /// Which.
        tag: Tag,
        /// Why not.
        #[source]
        source: CommandRefused,
    },
    /// This is no moment for it.
    #[error(transparent)]
    Migration(#[from] CommandRefused),
    /// It was begun.
    #[error("{0}")]
    Failed(String),
    /// Another job.
    #[error("job '{0}' is under way: wait for its end")]
    Busy(String),
    /// `job-id`.
    #[error("Invalid job ID '{0}': it begins with a letter, and has letters, digits, '-', '.' and '_'")]
    JobId(String),
    /// `job-id` again.
    #[error("Job ID '{0}' already in use: dismiss it first")]
    JobExists(String),
    /// `job-dismiss` of nothing.
    #[error("Job not found")]
    NoJob,
    /// `job-dismiss` too early.
    #[error("Job '{0}' in state 'running' cannot accept command verb 'dismiss'")]
    JobRuns(String),
    /// A thread.
    #[error("the host refused a resource to the job")]
    Resource(#[source] std::io::Error),
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// To do what.
    pub kind: Kind,
    /// The snapshot's name; one is made up to save without.
    pub tag: Option<String>,
    /// The job's name; `None` for people, who wait for its end and overwrite.
    pub job: Option<String>,
}

/// This machine's snapshots. No method waits for a guest.
pub struct Snapshots {
    place: Option<Directory>,
    identity: Identity,
    /// Open as long as this machine is the one that was started so: see [`Identity::claim`].
    _claim: Option<File>,
    launcher: Arc<Launcher>,
    migration: Arc<Migration>,
    jobs: Arc<Jobs>,
}

impl Snapshots {
    /// Those of machine `identity` in `directory`; `events` is called from the jobs' threads.
    pub fn new(
        directory: Option<PathBuf>,
        mut identity: Identity,
        launcher: Arc<Launcher>,
        migration: Arc<Migration>,
        events: Arc<dyn Fn(JobEvent) + Send + Sync>,
    ) -> Self {
        let claim = directory.as_deref().and_then(|directory| identity.claim(directory));
        let (place, jobs) = (directory.map(Directory::new), Arc::new(Jobs::new(events)));
        Self { place, identity, _claim: claim, launcher, migration, jobs }
    }

    fn place(&self) -> Result<&Directory, SnapshotError> {
        self.place.as_ref().ok_or(SnapshotError::NoPlace)
    }

    /// Those that there are, also other machines', the oldest first.
    pub fn list_snapshots(&self) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        self.place()?.list(&self.identity)
    }

    /// All jobs, the internal ones, too.
    pub fn jobs(&self) -> Vec<JobInfo> {
        self.jobs.all()
    }

    /// `job-dismiss`: forgets a job that is over.
    pub fn dismiss_job(&self, id: &str) -> Result<(), SnapshotError> {
        self.jobs.dismiss(id)
    }

    /// Begins; gives the job's name. What can be told at once is refused at once.
    pub fn snapshot(&self, operation: &Operation) -> Result<String, SnapshotError> {
        let place = self.place()?;
        let tag: Tag = match &operation.tag {
            Some(tag) => tag.parse()?,
            None => directory::tag_of_now()?,
        };
        match operation.kind {
            Kind::Save if operation.job.is_some() && place.has(&tag) => return Err(SnapshotError::Exists(tag)),
            Kind::Load | Kind::Delete if !place.has(&tag) => return Err(SnapshotError::Missing(tag)),
            Kind::Save | Kind::Load => drop(self.migration.idle()?),
            Kind::Delete => {}
        }
        let id = self.jobs.begin(operation.job.as_deref(), operation.kind)?;
        let work = work::Work {
            file: place.file(&tag),
            draft: place.draft(&tag),
            tag,
            identity: self.identity.clone(),
            launcher: self.launcher.clone(),
            migration: self.migration.clone(),
        };
        let (jobs, kind, name) = (self.jobs.clone(), operation.kind, id.clone());
        let thread = std::thread::Builder::new().name("snap-job".into()).spawn(move || {
            let done = work.carry_out(kind);
            jobs.end(&name, work.progress(kind), done);
        });
        if let Err(error) = thread {
            self.jobs.forget(&id);
            return Err(SnapshotError::Resource(error));
        }
        Ok(id)
    }
}
