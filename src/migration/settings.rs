//! Changing capabilities and parameters.

use whimbrel_postcopy::encoding::ZeroPages;
use whimbrel_postcopy::source::Policy;

use super::CommandRefused;
use super::active::Active;
use super::capabilities::{Capabilities, Capability};
use super::control::Migration;
use super::options::limits;
use super::parameters::{Live, PARAMETERS, Parameter, Parameters};
use super::rules::{self, Subject};
use crate::sync::lock;

impl Migration {
    /// The capabilities as they stand.
    pub fn capabilities(&self) -> Capabilities {
        lock(&self.settings).capabilities
    }

    /// Replaces them. While a migration runs, also while one is waited for, only those that are
    /// live may change: the rest has been agreed with the peer or is in use.
    pub fn set_capabilities(&self, new: Capabilities) -> Result<(), CommandRefused> {
        let active = lock(&self.active);
        let mut settings = lock(&self.settings);
        let old = settings.capabilities;
        if active.is_under_way() && !old.differs_live_only(new) {
            return Err(CommandRefused::InProgress);
        }
        rules::check(&Subject { capabilities: new, ..settings.subject(active.route()) })?;
        let looks = new.get(Capability::ZeroBlocks);
        if looks != old.get(Capability::ZeroBlocks) {
            settings.parameters.zero_pages = if looks { ZeroPages::default() } else { ZeroPages::Unseen };
        }
        if new.get(Capability::BackgroundSnapshot) && !old.get(Capability::BackgroundSnapshot) {
            self.can_watch_writes()?;
        }
        self.machine.take_late(new.get(Capability::LateBlockActivate));
        settings.capabilities = new;
        Ok(())
    }

    /// The parameters as they stand.
    pub fn parameters(&self) -> Parameters {
        lock(&self.settings).parameters.clone()
    }

    /// Replaces them; takes effect at once, also in a running migration, as far as each one's
    /// [`Live`] allows.
    pub fn set_parameters(&self, new: Parameters) -> Result<(), CommandRefused> {
        let active = lock(&self.active);
        let mut settings = lock(&self.settings);
        rules::check(&Subject { parameters: &new, ..settings.subject(active.route()) })?;
        let old = &settings.parameters;
        let fixed = |it: &Parameter| match it.live {
            Live::Always => false,
            Live::WhilePaused => !active.is_paused(),
            Live::Never => true,
        };
        if active.is_under_way() && PARAMETERS.iter().any(|it| fixed(it) && old.get(it) != new.get(it)) {
            return Err(CommandRefused::InProgress);
        }
        if let Active::Outgoing(handle, _) = &*active
            && active.is_under_way()
            && new.postcopy_policy != Policy::Manual
            && new.postcopy_policy != old.postcopy_policy
            && handle.has_no_postcopy()
        {
            return Err(CommandRefused::NoPostcopyThere);
        }
        self.machine.network().set_schedule(new.announce);
        match &*active {
            Active::Incoming(handle) => handle.set_reconnects(!new.reconnect.is_zero()),
            Active::Outgoing(..) | Active::Saving(..) | Active::Loading(_) | Active::None => {}
        }
        settings.capabilities =
            settings.capabilities.with_it(Capability::ZeroBlocks, new.zero_pages != ZeroPages::Unseen);
        settings.parameters = new;
        if let Active::Outgoing(handle, _) = &*active {
            handle.set_limits(limits(&settings, self.vcpus()));
        }
        Ok(())
    }
}
