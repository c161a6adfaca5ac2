//! [`Active`]: the last migration, under way or ended.

use whimbrel_postcopy::destination::DestinationHandle;
use whimbrel_postcopy::source::SourceHandle;
use whimbrel_postcopy::stats::{PageMap, Report, Status};
use whimbrel_postcopy::stream::Saving;

use super::rules::Route;

/// Which end of the migration a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest leaves.
    Source,
    /// The guest arrives.
    Destination,
}

impl Side {
    /// The name in `x-query-migrate-pages`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// The last migration, ended or not.
pub(super) enum Active {
    None,
    /// `migrate`.
    Outgoing(SourceHandle, Route),
    /// `migrate_incoming`.
    Incoming(DestinationHandle),
    /// A guest that stays is written: by `migrate`, or as a snapshot.
    Saving(Saving, Visible),
    /// A snapshot takes the guest's place.
    Loading(DestinationHandle),
}

/// Whether `query-migrate` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visible {
    Yes,
    /// It is the business of a job.
    No,
}

impl Active {
    /// As users see it.
    pub fn report(&self) -> Option<(Side, Report)> {
        match self {
            Self::None | Self::Saving(_, Visible::No) | Self::Loading(_) => None,
            Self::Outgoing(handle, _) => Some((Side::Source, handle.report())),
            Self::Saving(handle, Visible::Yes) => Some((Side::Source, handle.report())),
            Self::Incoming(handle) => Some((Side::Destination, handle.report())),
        }
    }

    /// How it stands, whoever sees it.
    pub fn any_report(&self) -> Option<Report> {
        match self {
            Self::None => None,
            Self::Outgoing(handle, _) => Some(handle.report()),
            Self::Saving(handle, _) => Some(handle.report()),
            Self::Incoming(handle) | Self::Loading(handle) => Some(handle.report()),
        }
    }

    pub fn is_paused(&self) -> bool {
        self.report().is_some_and(|(_, report)| report.status == Status::PostcopyPaused)
    }

    /// A link, or on the source a thread that waits for one.
    pub fn has_link(&self) -> bool {
        use Status::{Active, PostcopyActive, PostcopyDevice, PostcopyPaused, PostcopyRecover};
        self.report().is_some_and(|(side, report)| match side {
            Side::Source => !report.status.is_ended() && report.status != PostcopyPaused,
            Side::Destination => matches!(report.status, Active | PostcopyDevice | PostcopyActive | PostcopyRecover),
        })
    }

    /// Which way a guest that is leaving goes.
    pub fn route(&self) -> Option<Route> {
        match self {
            Self::Outgoing(_, route) if self.is_under_way() => Some(*route),
            Self::Saving(..) if self.is_under_way() => Some(Route::Stream),
            _ => None,
        }
    }

    pub fn is_under_way(&self) -> bool {
        self.any_report().is_some_and(|report| !report.status.is_ended())
    }

    /// Where the pages are, in so many parts of guest RAM, as users see it.
    pub fn page_map(&self, buckets: u32) -> Option<(Side, PageMap)> {
        match self {
            Self::None | Self::Saving(_, Visible::No) | Self::Loading(_) => None,
            Self::Outgoing(handle, _) => Some((Side::Source, handle.page_map(buckets))),
            Self::Saving(handle, Visible::Yes) => Some((Side::Source, handle.page_map(buckets))),
            Self::Incoming(handle) => Some((Side::Destination, handle.page_map(buckets))),
        }
    }

    /// Closes links and ends threads. A guest that has only half arrived keeps waiting for its
    /// missing pages until its vCPUs have ended, too.
    pub fn abandon(&mut self) {
        match self {
            Self::None => {}
            Self::Outgoing(handle, _) => handle.abandon(),
            Self::Saving(handle, _) => handle.abandon(),
            Self::Incoming(handle) | Self::Loading(handle) => handle.abandon(),
        }
    }

    /// The guest that came has no claim of its source on it any more, told of that or not: it is
    /// about to be sent or saved.
    pub fn disown_source(&mut self) {
        if let Self::Incoming(handle) = self {
            handle.abandon();
        }
    }
}
