//! The commands of a destination: `migrate_incoming`, `migrate_recover`, and what follows a
//! failure.

use whimbrel_postcopy::channel::Acceptor;
use whimbrel_postcopy::destination::{self, Options};

use whimbrel_postcopy::logging as log;
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::stream::mapped::Access;
use whimbrel_postcopy::wire::Features;

use super::CommandRefused;
use super::active::{Active, Side};
use super::capabilities::Capability;
use super::control::{Listening, Migration, OnFailure};
use super::error::NO_WAY_TO_JOIN;
use super::links::{listen, listen_again};
use super::options::{Settings, access};
use super::rules::{self, Route};
use super::uri::{Stream, Uri};
use crate::machine::RunState;
use crate::sentence::sentence;
use crate::sync::lock;

impl Migration {
    /// `migrate_incoming URI`, or `--incoming URI`. Listens before it returns; `Ok` is the address
    /// listened on (a tcp port 0 is resolved).
    pub fn incoming(&self, uri: &Uri, exit_on_error: Option<bool>) -> Result<Uri, CommandRefused> {
        self.listen_for_guest(
            uri,
            if exit_on_error.unwrap_or(self.exit_on_error) { OnFailure::Exit } else { OnFailure::Wait },
        )
    }

    /// `--incoming URI`: waits for a guest there, again and again unless the first failure ends the
    /// process.
    pub fn await_guest(&self, uri: &Uri) -> Result<Uri, CommandRefused> {
        self.listen_for_guest(uri, if self.exit_on_error { OnFailure::Exit } else { OnFailure::ListenAgain })
    }

    fn listen_for_guest(&self, uri: &Uri, on_failure: OnFailure) -> Result<Uri, CommandRefused> {
        let mut active = lock(&self.active);
        if self.machine.run_state() != RunState::Inmigrate {
            return Err(CommandRefused::NotIncoming);
        }
        if active.is_under_way() {
            return Err(CommandRefused::AlreadyListening);
        }
        let settings = lock(&self.settings);
        rules::check(&settings.subject(Some(uri.route())))?;
        let (acceptor, at, options) = self.acceptor(uri, &settings)?;
        let handle = destination::start_with(self.machine.clone(), acceptor, self.observer(Side::Destination), options)
            .map_err(CommandRefused::Resource)?;
        handle.set_reconnects(!settings.parameters.reconnect.is_zero());
        *active = Active::Incoming(handle);
        *lock(&self.awaited) = Some((at.clone(), on_failure));
        Ok(self.listens(Listening::ForGuest, at))
    }

    /// Who comes in at `uri`, the address with its real port, and what a guest may use.
    fn acceptor(&self, uri: &Uri, settings: &Settings) -> Result<(Box<dyn Acceptor>, Uri, Options), CommandRefused> {
        let always = Features::COMPRESSED.and(Features::XBZRLE).and(Features::RELEASE);
        Ok(match uri {
            Uri::Stream(stream) => {
                let postcopy = match uri.route() {
                    Route::Unix | Route::Tcp | Route::Stream => settings.capabilities.get(Capability::PostcopyRam),
                    // Whether pages are demanded is a matter of the file; the capability is about
                    // peers.
                    Route::File => true,
                };
                let features = always.and(if postcopy { Features::POSTCOPY } else { Features::default() });
                let options = Options { features, listen_again: None };
                (self.streams.play(stream, access(settings))?, uri.clone(), options)
            }
            _ => {
                let (listener, at) = listen(uri, &settings.parameters)?;
                let postcopy = settings.capabilities.get(Capability::PostcopyRam);
                let features = always.and(Features::MULTIFD);
                let features = if postcopy { features.and(Features::POSTCOPY) } else { features };
                // Which of the two ways RAM comes is the source's choice.
                let local = matches!(uri, Uri::Unix(_)) && settings.parameters.tls_creds.is_none();
                let shared = local && settings.shared_ram;
                let features = if shared { features.and(Features::SHARED_RAM) } else { features };
                let again = listen_again(at.clone(), self.settings.clone());
                (Box::new(listener), at, Options { features, listen_again: Some(again) })
            }
        })
    }

    fn listens(&self, whom: fn(Uri) -> Listening, at: Uri) -> Uri {
        log::info!("waiting for a guest at {at}");
        *lock(&self.listening) = Some(whom(at.clone()));
        at
    }

    /// Where a guest or a source is waited for, or was last.
    pub fn listening(&self) -> Option<Uri> {
        let completed = self.report().is_some_and(|(_, report)| report.status == Status::Completed);
        match lock(&self.listening).clone()? {
            Listening::ForGuest(_) if completed => None,
            Listening::ForGuest(at) | Listening::ForSource(at) => Some(at),
        }
    }

    /// The guest that was to arrive did not, which was told. Whether this destination stays, and
    /// waits for another.
    pub fn waits_for_another(&self) -> bool {
        let Some((uri, on_failure)) = lock(&self.awaited).clone() else { return false };
        let Some(error) = self.clear_failed(on_failure) else { return false };
        // A command or a file would only say the same again.
        let again = on_failure == OnFailure::ListenAgain && !matches!(uri, Uri::Stream(_));
        match again.then(|| self.listen_for_guest(&uri, on_failure)) {
            Some(Ok(_)) => {
                if let Active::Incoming(handle) = &*lock(&self.active) {
                    handle.recall(error);
                }
                return true;
            }
            Some(Err(error)) => log::error!("'migrate_incoming' says where to wait next: {}", sentence(&error)),
            None => {}
        }
        *lock(&self.listening) = None;
        log::info!("waiting for 'migrate_incoming'");
        true
    }

    /// Makes room for another guest after one that failed; its error. `None`: the process ends.
    fn clear_failed(&self, on_failure: OnFailure) -> Option<String> {
        let mut active = lock(&self.active);
        let Active::Incoming(handle) = &mut *active else { return None };
        let report = handle.report();
        if on_failure == OnFailure::Exit || report.status != Status::Failed {
            return None;
        }
        let error = report.error.unwrap_or_default();
        log::error!("the incoming migration failed: {error}");
        handle.clear_away();
        if let Err(error) = self.machine.await_another() {
            log::error!("no other guest can be waited for: {}", sentence(&error));
            return None;
        }
        Some(error)
    }

    /// `migrate_recover URI` on the destination: listens anew for the source of a paused postcopy.
    pub fn recover(&self, uri: &Uri) -> Result<Uri, CommandRefused> {
        let active = lock(&self.active);
        let Active::Incoming(handle) = &*active else { return Err(CommandRefused::NotPaused("arrives at")) };
        if !handle.can_recover() {
            return Err(CommandRefused::NotPaused("arrives at"));
        }
        let at = match uri {
            Uri::Stream(Stream::File { .. }) => return Err(NO_WAY_TO_JOIN),
            Uri::Stream(stream) => {
                handle.recover(self.streams.play(stream, Access::Cached)?);
                uri.clone()
            }
            // As in QEMU it may be said again.
            _ if handle.awaits_recovery() && self.last_place().as_ref() == Some(uri) => uri.clone(),
            _ => {
                let (listener, at) = listen(uri, &lock(&self.settings).parameters)?;
                handle.recover(Box::new(listener));
                at
            }
        };
        drop(active);
        Ok(self.listens(Listening::ForSource, at))
    }

    fn last_place(&self) -> Option<Uri> {
        match lock(&self.listening).clone()? {
            Listening::ForGuest(at) | Listening::ForSource(at) => Some(at),
        }
    }
}
