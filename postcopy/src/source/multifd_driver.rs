//! The migration's thread and the multifd channels: runs are given to them, and what they have sent
//! is counted.

use super::connection::Connection;
use super::driver::{Driver, lost_link};
use super::outgoing::parts;
use super::state::Source;
use crate::encoding::ZeroPages;
use crate::error::MigrationError;
use crate::progress::Phase;
use crate::ram::PageRun;
use crate::wire::Forward;

impl Driver {
    /// Gives the run to the multifd channels; looked through here first, if it is to be.
    pub(super) fn multifd_run(
        &mut self,
        run: PageRun,
        source: &mut Source,
        link: &mut Connection,
    ) -> Result<(), MigrationError> {
        let guest = self.guest.clone();
        if self.encoding.zero_pages != ZeroPages::ByMigration {
            return self.multifd_part(run, None, source, link);
        }
        let Some(block) = guest.ram().get(usize::from(run.block.0)) else { return Ok(()) };
        parts(block, run).try_for_each(|(part, zero)| self.multifd_part(part, Some(zero), source, link))
    }

    fn multifd_part(
        &mut self,
        part: PageRun,
        zero: Option<bool>,
        source: &mut Source,
        link: &mut Connection,
    ) -> Result<(), MigrationError> {
        let Some(multifd) = &mut link.multifd else { return Ok(()) };
        if multifd.push(part, zero, source.is_limited()) && !self.give(source, link)? {
            self.look_up(source, link)?;
        }
        Ok(())
    }

    /// Gives the next job of the multifd channels out. Whether something else happened while that
    /// had to wait.
    pub(super) fn give(&mut self, source: &mut Source, link: &mut Connection) -> Result<bool, MigrationError> {
        let mut happened = false;
        while let Some(multifd) = &mut link.multifd {
            let given = multifd.give()?;
            self.heard(source, link)?;
            if given {
                break;
            }
            happened |= self.await_senders(source, link)?;
        }
        Ok(happened)
    }

    /// Whatever was given out is sent, and every channel says that this was all.
    pub(super) fn flush_multifd(&mut self, source: &mut Source, link: &mut Connection) -> Result<(), MigrationError> {
        self.give(source, link)?;
        while link.multifd.as_ref().is_some_and(|multifd| !multifd.is_idle()) {
            self.await_senders(source, link)?;
        }
        self.heard(source, link)?;
        let Some(multifd) = link.multifd.as_mut().filter(|multifd| multifd.is_started()) else { return Ok(()) };
        let shared = &self.shared;
        multifd.flush_multifd(&shared.wake, &|| shared.interrupted()).map_err(lost_link)?;
        self.outgoing.push(&Forward::MultifdFlush);
        Ok(())
    }

    /// A sender rings, or something else happens: whether it did.
    fn await_senders(&mut self, source: &mut Source, link: &mut Connection) -> Result<bool, MigrationError> {
        if link.channel.wait(false, &self.shared.wake, None)?.woken {
            self.shared.wake.clear();
        }
        let happened = self.look_up(source, link)?;
        self.heard(source, link)?;
        Ok(happened)
    }

    /// What the senders have to say.
    pub(super) fn heard(&mut self, source: &mut Source, link: &Connection) -> Result<(), MigrationError> {
        if let Some(multifd) = &link.multifd {
            let sent = multifd.sent()?;
            self.count(sent, Phase::Multifd, source);
        }
        Ok(())
    }
}
