//! The commands of a source: `migrate` and what steers a migration that it began.

use std::sync::Arc;

use whimbrel_postcopy::channel::Connector;
use whimbrel_postcopy::encoding::PageEncoding;
use whimbrel_postcopy::source::{self, Multifd, Policy};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::stream::Listening;

use super::CommandRefused;
use super::active::{Active, Side, Visible};
use super::capabilities::Capability;
use super::control::Migration;
use super::error::NO_WAY_TO_JOIN;
use super::links::connector;
use super::options::{Settings, encoding, form, limits, multifd};
use super::rules::{self, Route};
use super::uri::{Stream, Uri};
use crate::machine::RunState;
use crate::sync::lock;

impl Migration {
    /// `migrate -d URI`: begins; the rest is told by events and [`Migration::report`].
    pub fn migrate(&self, uri: &Uri) -> Result<(), CommandRefused> {
        let mut active = lock(&self.active);
        match self.machine.run_state() {
            RunState::Inmigrate => return Err(CommandRefused::Incoming),
            _ if active.is_under_way() => return Err(CommandRefused::InProgress),
            RunState::Running | RunState::Paused | RunState::Prelaunch => {}
            state => return Err(CommandRefused::NoGuest(state)),
        }
        let settings = lock(&self.settings);
        let route = uri.route();
        rules::check(&settings.subject(Some(route)))?;
        self.machine.tell_uuid(settings.capabilities.get(Capability::ValidateUuid));
        if settings.capabilities.get(Capability::BackgroundSnapshot)
            && let Uri::Stream(stream) = uri
        {
            drop(settings);
            return self.migrate_in_background(&mut active, stream);
        }
        self.dirtying.has_log()?;
        let limits = limits(&settings, self.vcpus());
        // A stream is one channel, however many are wished for.
        let (connector, multifd) = match uri {
            Uri::Stream(stream) => (self.record(stream, &settings)?, Multifd::default()),
            _ => (connector(uri, &settings.parameters)?, multifd(&settings)),
        };
        active.disown_source();
        if let Active::Outgoing(before, _) = &mut *active {
            // It has ended, and its last event comes before this one's first.
            before.join();
        }
        let handle = source::start_with(self.machine.clone(), connector, limits, self.observer(Side::Source), multifd)
            .map_err(CommandRefused::Resource)?;
        *active = Active::Outgoing(handle, route);
        Ok(())
    }

    /// Where a guest that leaves on `stream` goes. What only a destination that answers can take
    /// begins with its answer.
    fn record(&self, stream: &Stream, settings: &Settings) -> Result<Arc<dyn Connector>, CommandRefused> {
        let by_postcopy = settings.parameters.postcopy_policy != Policy::Manual;
        let listening = if by_postcopy || encoding(settings).contents != PageEncoding::Whole {
            Listening::Needed
        } else if settings.capabilities.get(Capability::PostcopyRam) {
            Listening::Wished
        } else {
            Listening::Aside
        };
        Ok(self.streams.record(stream, form(settings), listening)?)
    }

    /// `migrate -r URI`: joins a paused postcopy again.
    pub fn migrate_resume(&self, uri: &Uri) -> Result<(), CommandRefused> {
        match &*lock(&self.active) {
            Active::Outgoing(handle, _) if handle.report().status == Status::PostcopyPaused => {
                let settings = lock(&self.settings);
                handle.recover(match uri {
                    Uri::Stream(Stream::File { .. }) => return Err(NO_WAY_TO_JOIN),
                    Uri::Stream(stream) => self.record(stream, &settings)?,
                    _ => connector(uri, &settings.parameters)?,
                });
                Ok(())
            }
            _ => Err(CommandRefused::NotPaused("leaves")),
        }
    }

    /// `migrate_cancel`. Without a migration it does nothing, as in QEMU.
    pub fn migrate_cancel(&self) -> Result<(), CommandRefused> {
        match &*lock(&self.active) {
            Active::Outgoing(handle, _) if !handle.report().status.is_ended() => Ok(handle.cancel()?),
            Active::Saving(handle, Visible::Yes) if !handle.report().status.is_ended() => {
                handle.cancel();
                Ok(())
            }
            Active::Incoming(handle) if !handle.report().status.is_ended() => Err(CommandRefused::CancelHere),
            _ => Ok(()),
        }
    }

    /// `migrate_start_postcopy`.
    pub fn start_postcopy(&self) -> Result<(), CommandRefused> {
        if !lock(&self.settings).capabilities.get(Capability::PostcopyRam) {
            return Err(CommandRefused::PostcopyOff);
        }
        let whole = lock(&self.settings).capabilities.get(Capability::IgnoreShared);
        match &*lock(&self.active) {
            Active::Outgoing(handle, _) if whole && !handle.report().status.is_ended() => {
                Err(CommandRefused::NothingToFetch)
            }
            Active::Outgoing(handle, route) if !handle.report().status.is_ended() => {
                handle.start_postcopy().map_err(|_| match route {
                    Route::Unix | Route::Tcp => CommandRefused::NoPostcopyThere,
                    Route::Stream | Route::File => CommandRefused::NoWayBack("postcopy"),
                })
            }
            Active::Saving(handle, Visible::Yes) if !handle.report().status.is_ended() => {
                Err(CommandRefused::NoWayBack("postcopy"))
            }
            Active::Incoming(handle) if !handle.report().status.is_ended() => Err(CommandRefused::NotTheSource),
            _ => Err(CommandRefused::NotMigrating),
        }
    }

    /// `migrate_continue`: goes on with a switchover that `pause-before-switchover` holds.
    pub fn migrate_continue(&self) -> Result<(), CommandRefused> {
        match &*lock(&self.active) {
            Active::Outgoing(handle, _) if handle.go_on() => Ok(()),
            active => Err(CommandRefused::NotHeld(active.report().map_or(Status::None, |(_, report)| report.status))),
        }
    }

    /// `migrate_pause`: breaks the link on purpose where that leaves two halves: from the hand-over
    /// on, also while they are being joined.
    pub fn migrate_pause(&self) -> Result<(), CommandRefused> {
        use Status::{Device, PostcopyActive, PostcopyRecover, PostcopyRecoverSetup};
        match &*lock(&self.active) {
            Active::Outgoing(handle, _) => match handle.report().status {
                PostcopyActive | PostcopyRecover | PostcopyRecoverSetup => handle.break_link(),
                // All pages are there and its word is missing: nobody else can end that wait.
                Device if handle.is_handed_over() => handle.break_link(),
                _ => return Err(CommandRefused::NotPostcopy),
            },
            Active::Incoming(handle) if matches!(handle.report().status, PostcopyActive | PostcopyRecover) => {
                handle.break_link();
            }
            _ => return Err(CommandRefused::NotPostcopy),
        }
        Ok(())
    }

    /// Whether there is a link that [`Migration::yank`] can break.
    pub fn has_link(&self) -> bool {
        lock(&self.active).has_link()
    }

    /// `yank`: breaks the link whatever it is at. Before the hand-over the migration fails and the
    /// guest stays, from then on it pauses. `false` without a link.
    pub fn yank(&self) -> bool {
        let active = lock(&self.active);
        if !active.has_link() {
            return false;
        }
        match &*active {
            Active::None | Active::Saving(..) | Active::Loading(_) => {}
            Active::Outgoing(handle, _) => handle.break_link(),
            Active::Incoming(handle) => handle.break_link(),
        }
        true
    }
}
