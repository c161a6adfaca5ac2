//! A destination without its source: keeps the guest and waits until both sides are joined again.

use std::sync::atomic::Ordering;

use super::connection::Connection;
use super::control::DestinationCommand;
use super::driver::{Driver, Faults, INCOMING};
use super::state::{Destination, GuestPlace};
use crate::channel::Acceptor;
use crate::error::{MigrationError, PauseNote, sentence};
use crate::logging as log;
use crate::panics::catch;
use crate::stats::Status;
use crate::uffd::UffdError;
use crate::wire::{Reply, Token, fragments};

impl Driver {
    /// The link is gone, and the source has something to hear or to give: waits for a new link. A
    /// guest that runs here goes on with what is here. `None`: the process gives up.
    pub(super) fn await_recovery(
        &self,
        destination: &mut Destination,
        mut link: Connection,
        faults: &mut Result<Faults, UffdError>,
    ) -> Option<Connection> {
        link.close();
        let by_itself = !matches!(destination.error(), Some(MigrationError::PausedByUser));
        self.tell_of_loss(destination);
        loop {
            self.tell(destination);
            if self.shared.interrupted() {
                return None;
            }
            let given = self.take_commands();
            if let Some(acceptor) = given.or_else(|| by_itself.then(|| self.listen_again()).flatten()) {
                self.shared.listens.store(true, Ordering::Release);
                let joined = catch(INCOMING, || self.recover(&*acceptor, destination, link.token, faults));
                // Whoever is told that nobody listens any more may listen at the same place.
                drop(acceptor);
                self.shared.listens.store(false, Ordering::Release);
                match joined {
                    Ok(link) => return Some(link),
                    Err(error) => {
                        if !self.shared.has_recovery() {
                            let text = sentence(&error);
                            log::error!("the migration stays paused: {text}");
                            self.shared.progress.fail(text);
                        }
                        destination.fail(error);
                        continue;
                    }
                }
            }
            self.shared.wake.wait();
        }
    }

    /// What users want while no link is there, which is not to break it. Gives where to listen, if
    /// somebody has said so.
    fn take_commands(&self) -> Option<Box<dyn Acceptor>> {
        let mut given = None;
        while let Some(command) = self.shared.commands.next() {
            match command {
                DestinationCommand::Recover(acceptor) => given = Some(acceptor),
                DestinationCommand::SetReconnects(yes) => self.reconnects.set(yes),
                DestinationCommand::BreakLink => {}
            }
        }
        given
    }

    /// The place that the source knows already, if this side is to listen there by itself.
    fn listen_again(&self) -> Option<Box<dyn Acceptor>> {
        let again = self.shared.listen_again.as_ref().filter(|_| self.reconnects.get())?;
        match again() {
            Ok(acceptor) => Some(acceptor),
            Err(error) => {
                log::error!("{}", sentence(&PauseNote::NotListening(error)));
                None
            }
        }
    }

    fn tell_of_loss(&self, destination: &Destination) {
        let text = destination.error().map(|error| sentence(error)).unwrap_or_default();
        match destination.status() {
            Status::Completed => {
                return log::warn!("{}", sentence(&PauseNote::Unheard));
            }
            _ if destination.never_ran() => log::error!("{}", sentence(&PauseNote::NeverStarted(text.clone()))),
            _ => log::error!("the migration is paused, the guest goes on with the pages that are here: {text}"),
        }
        self.shared.progress.fail(text);
    }

    fn recover(
        &self,
        acceptor: &dyn Acceptor,
        destination: &mut Destination,
        token: Token,
        faults: &Result<Faults, UffdError>,
    ) -> Result<Connection, MigrationError> {
        let link = self.accept_link(acceptor, Some(token), true)?;
        self.shared.join_channels(link.channels());
        match destination.recover() {
            Some(GuestPlace::Never(why)) => self.reply(&link, &Reply::NotStarted(why))?,
            Some(GuestPlace::Here) => {
                self.tell(destination);
                for fragment in fragments(self.shared.tracker.received()) {
                    self.reply(&link, &Reply::Received(fragment))?;
                }
                self.reply(&link, &Reply::ReceivedEnd)?;
                destination.recovered();
                self.shared.progress.clear_error();
                if let Ok(faults) = faults {
                    faults.line.join_channel(link.demand.clone());
                }
            }
            None => {}
        }
        Ok(link)
    }
}
