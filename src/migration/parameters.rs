//! Capabilities and parameters by QEMU's names.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use whimbrel_postcopy::channel::{KEEPALIVE, KEEPALIVE_LEAST, KEEPALIVE_MOST};

use crate::net::{Schedule, Timing};

/// What a migration may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// `postcopy-ram`: the destination may run before all pages are there.
    pub postcopy_ram: bool,
    /// `events`: emit MIGRATION and MIGRATION_PASS events.
    pub events: bool,
    /// `postcopy-blocktime`: measure how long vCPUs wait for pages.
    pub postcopy_blocktime: bool,
    /// `multifd`: the pages of a guest that leaves go on [`Parameters::multifd_channels`] at once. One that arrives comes on as many as its source
    /// opens.
    pub multifd: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self { postcopy_ram: true, events: false, postcopy_blocktime: true, multifd: true }
    }
}

/// A capability or parameter that cannot be set so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// QEMU knows it, this program does not have it.
    #[error("capability {0} is not supported")]
    CapabilityUnsupported(&'static str),
    /// It is how this program works.
    #[error("capability {0} is always on here and cannot be switched off")]
    AlwaysOn(&'static str),
    /// QEMU knows it, this program does not have it.
    #[error("parameter {0} is not supported")]
    ParameterUnsupported(&'static str),
    /// Outside what makes sense.
    #[error("Parameter '{name}' expects {expected}")]
    OutOfRange {
        /// The parameter.
        name: &'static str,
        /// What would be right.
        expected: &'static str,
    },
}

/// A capability that this program has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// See [`Capabilities::postcopy_ram`].
    PostcopyRam,
    /// Always on: the destination always answers.
    ReturnPath,
    /// See [`Capabilities::events`].
    Events,
    /// Always on: demand pages always have a channel of their own.
    PostcopyPreempt,
    /// See [`Capabilities::postcopy_blocktime`].
    PostcopyBlocktime,
    /// See [`Capabilities::multifd`].
    Multifd,
}

impl Capability {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 6] = [
        Self::PostcopyRam,
        Self::ReturnPath,
        Self::Events,
        Self::PostcopyPreempt,
        Self::PostcopyBlocktime,
        Self::Multifd,
    ];

    /// QEMU's capabilities that are not built here.
    pub const UNSUPPORTED: [&'static str; 18] = [
        "xbzrle",
        "rdma-pin-all",
        "auto-converge",
        "zero-blocks",
        "compress",
        "x-colo",
        "release-ram",
        "pause-before-switchover",
        "dirty-bitmaps",
        "late-block-activate",
        "x-ignore-shared",
        "validate-uuid",
        "background-snapshot",
        "zero-copy-send",
        "switchover-ack",
        "dirty-limit",
        "mapped-ram",
        "block",
    ];

    /// QEMU's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PostcopyRam => "postcopy-ram",
            Self::ReturnPath => "return-path",
            Self::Events => "events",
            Self::PostcopyPreempt => "postcopy-preempt",
            Self::PostcopyBlocktime => "postcopy-blocktime",
            Self::Multifd => "multifd",
        }
    }

    /// Finds a capability: `None` for a name that QEMU does not know either.
    pub fn find(name: &str) -> Option<Result<Self, SettingError>> {
        if let Some(found) = Self::ALL.into_iter().find(|it| it.name() == name) {
            return Some(Ok(found));
        }
        let known = Self::UNSUPPORTED.into_iter().find(|it| *it == name)?;
        Some(Err(SettingError::CapabilityUnsupported(known)))
    }
}

impl Capabilities {
    /// Whether `capability` is on.
    pub const fn get(&self, capability: Capability) -> bool {
        match capability {
            Capability::PostcopyRam => self.postcopy_ram,
            Capability::ReturnPath | Capability::PostcopyPreempt => true,
            Capability::Events => self.events,
            Capability::PostcopyBlocktime => self.postcopy_blocktime,
            Capability::Multifd => self.multifd,
        }
    }

    /// Switches `capability`.
    pub fn set(&mut self, capability: Capability, on: bool) -> Result<(), SettingError> {
        match capability {
            Capability::PostcopyRam => self.postcopy_ram = on,
            Capability::Events => self.events = on,
            Capability::PostcopyBlocktime => self.postcopy_blocktime = on,
            Capability::Multifd => self.multifd = on,
            Capability::ReturnPath | Capability::PostcopyPreempt if on => {}
            Capability::ReturnPath | Capability::PostcopyPreempt => {
                return Err(SettingError::AlwaysOn(capability.name()));
            }
        }
        Ok(())
    }
}

/// What a parameter is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// A number, in the parameter's own unit.
    Number(i64),
    /// A text, empty for none.
    Text(String),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => write!(f, "'{text}'"),
        }
    }
}

impl From<i64> for Setting {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Setting {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// How a migration runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// `max-bandwidth` in bytes per second, 0 for no limit.
    pub max_bandwidth: u64,
    /// `max-postcopy-bandwidth` in bytes per second for background pages, 0 for no limit.
    pub max_postcopy_bandwidth: u64,
    /// `avail-switchover-bandwidth` in bytes per second, 0 to measure it.
    pub avail_switchover_bandwidth: u64,
    /// `downtime-limit`.
    pub downtime_limit: Duration,
    /// `x-postcopy-after`: after how many precopy passes a migration turns to postcopy by itself (0: at once); `None`: never.
    pub postcopy_after: Option<u32>,
    /// `multifd-channels`: on how many channels pages go with capability `multifd`.
    pub multifd_channels: u8,
    /// `x-reconnect`: for so long a postcopy whose link broke tries by itself to connect to the same address again, and its destination
    /// listens there; zero: `migrate_recover` and `migrate -r` do it.
    pub reconnect: Duration,
    /// `announce-*`: how a guest that arrives here, or that `announce_self` is said of, is announced to the network.
    pub announce: Schedule,
    /// `x-keepalive`: how long a peer may be silent.
    pub keepalive: Duration,
    /// `tls-creds`: the directory with the certificates; `None`: no TLS.
    pub tls_creds: Option<PathBuf>,
    /// `tls-hostname`: what the destination's certificate must be for, if not for the host that is connected to.
    pub tls_hostname: Option<String>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            max_bandwidth: 0,
            max_postcopy_bandwidth: 0,
            avail_switchover_bandwidth: 0,
            downtime_limit: Duration::from_millis(300),
            postcopy_after: None,
            multifd_channels: 2,
            reconnect: Duration::ZERO,
            announce: Schedule::default(),
            keepalive: KEEPALIVE,
            tls_creds: None,
            tls_hostname: None,
        }
    }
}

/// A parameter that this program has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// See [`Parameters::announce`].
    Announce(Timing),
    /// See [`Parameters::max_bandwidth`].
    MaxBandwidth,
    /// See [`Parameters::max_postcopy_bandwidth`].
    MaxPostcopyBandwidth,
    /// See [`Parameters::avail_switchover_bandwidth`].
    AvailSwitchoverBandwidth,
    /// See [`Parameters::downtime_limit`]; counted in milliseconds.
    DowntimeLimit,
    /// See [`Parameters::postcopy_after`]; -1 is never.
    PostcopyAfter,
    /// See [`Parameters::multifd_channels`].
    MultifdChannels,
    /// See [`Parameters::reconnect`]; counted in seconds.
    Reconnect,
    /// See [`Parameters::keepalive`]; counted in milliseconds.
    Keepalive,
    /// See [`Parameters::tls_creds`].
    TlsCreds,
    /// See [`Parameters::tls_hostname`].
    TlsHostname,
}

impl Parameter {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 14] = [
        Self::Announce(Timing::Initial),
        Self::Announce(Timing::Max),
        Self::Announce(Timing::Rounds),
        Self::Announce(Timing::Step),
        Self::MaxBandwidth,
        Self::MaxPostcopyBandwidth,
        Self::AvailSwitchoverBandwidth,
        Self::DowntimeLimit,
        Self::PostcopyAfter,
        Self::MultifdChannels,
        Self::Reconnect,
        Self::Keepalive,
        Self::TlsCreds,
        Self::TlsHostname,
    ];

    /// QEMU's parameters that are not built here.
    pub const UNSUPPORTED: [&'static str; 17] = [
        "throttle-trigger-threshold",
        "cpu-throttle-initial",
        "cpu-throttle-increment",
        "cpu-throttle-tailslow",
        "max-cpu-throttle",
        "tls-authz",
        "multifd-compression",
        "multifd-zlib-level",
        "multifd-zstd-level",
        "xbzrle-cache-size",
        "x-checkpoint-delay",
        "block-bitmap-mapping",
        "x-vcpu-dirty-limit-period",
        "vcpu-dirty-limit",
        "zero-page-detection",
        "mode",
        "direct-io",
    ];

    /// QEMU's name; `x-` for what is ours alone.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Announce(Timing::Initial) => "announce-initial",
            Self::Announce(Timing::Max) => "announce-max",
            Self::Announce(Timing::Rounds) => "announce-rounds",
            Self::Announce(Timing::Step) => "announce-step",
            Self::MaxBandwidth => "max-bandwidth",
            Self::MaxPostcopyBandwidth => "max-postcopy-bandwidth",
            Self::AvailSwitchoverBandwidth => "avail-switchover-bandwidth",
            Self::DowntimeLimit => "downtime-limit",
            Self::PostcopyAfter => "x-postcopy-after",
            Self::MultifdChannels => "multifd-channels",
            Self::Reconnect => "x-reconnect",
            Self::Keepalive => "x-keepalive",
            Self::TlsCreds => "tls-creds",
            Self::TlsHostname => "tls-hostname",
        }
    }

    /// What it counts, as `info migrate_parameters` shows it; empty where the name says it.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Announce(Timing::Rounds) | Self::MultifdChannels | Self::TlsCreds | Self::TlsHostname => "",
            Self::Announce(_) | Self::Keepalive => "ms",
            Self::MaxBandwidth | Self::MaxPostcopyBandwidth | Self::AvailSwitchoverBandwidth => "bytes/second",
            Self::DowntimeLimit => "ms",
            Self::PostcopyAfter => "passes",
            Self::Reconnect => "s",
        }
    }

    /// Whether it is a bandwidth, which people write with a suffix.
    pub const fn is_bandwidth(self) -> bool {
        matches!(self, Self::MaxBandwidth | Self::MaxPostcopyBandwidth | Self::AvailSwitchoverBandwidth)
    }

    /// Whether it is a text and not a number.
    pub const fn is_text(self) -> bool {
        matches!(self, Self::TlsCreds | Self::TlsHostname)
    }

    /// Finds a parameter: `None` for a name that QEMU does not know either.
    pub fn find(name: &str) -> Option<Result<Self, SettingError>> {
        if let Some(found) = Self::ALL.into_iter().find(|it| it.name() == name) {
            return Some(Ok(found));
        }
        let known = Self::UNSUPPORTED.into_iter().find(|it| *it == name)?;
        Some(Err(SettingError::ParameterUnsupported(known)))
    }

    /// What values it takes, for messages.
    const fn expected(self) -> &'static str {
        match self {
            Self::Announce(timing) => timing.expected(),
            Self::MaxBandwidth | Self::MaxPostcopyBandwidth | Self::AvailSwitchoverBandwidth => {
                "an integer of at least 0, in bytes/second"
            }
            Self::DowntimeLimit => "an integer in the range of 0 to 2000000 ms",
            Self::MultifdChannels => "a value between 1 and 255",
            Self::Reconnect => "an integer in the range of 0 to 86400 s",
            Self::PostcopyAfter => "an integer from 0 to 4294967295, or -1 for never",
            Self::Keepalive => "an integer in the range of 2000 to 28800000 ms",
            Self::TlsCreds => "the path of a directory that begins with '/', or nothing for no TLS",
            Self::TlsHostname => "a name or an address, or nothing for the host that is connected to",
        }
    }
}

/// QEMU's limit for `downtime-limit`: 2000 seconds.
const MAX_DOWNTIME_LIMIT_MS: u64 = 2_000_000;
/// A day: who has not come back by then needs a person.
const MAX_RECONNECT_S: u64 = 86_400;

impl Parameters {
    /// What the parameter is set to.
    pub fn get(&self, parameter: Parameter) -> Setting {
        let saturate = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Setting::Number(match parameter {
            Parameter::TlsCreds => {
                let path = self.tls_creds.as_deref().map(Path::to_string_lossy);
                return Setting::Text(path.unwrap_or_default().into_owned());
            }
            Parameter::TlsHostname => return Setting::Text(self.tls_hostname.clone().unwrap_or_default()),
            Parameter::Keepalive => i64::try_from(self.keepalive.as_millis()).unwrap_or(i64::MAX),
            Parameter::Announce(timing) => self.announce.get(timing),
            Parameter::MaxBandwidth => saturate(self.max_bandwidth),
            Parameter::MaxPostcopyBandwidth => saturate(self.max_postcopy_bandwidth),
            Parameter::AvailSwitchoverBandwidth => saturate(self.avail_switchover_bandwidth),
            Parameter::DowntimeLimit => i64::try_from(self.downtime_limit.as_millis()).unwrap_or(i64::MAX),
            Parameter::PostcopyAfter => self.postcopy_after.map_or(-1, i64::from),
            Parameter::MultifdChannels => self.multifd_channels.into(),
            Parameter::Reconnect => saturate(self.reconnect.as_secs()),
        })
    }

    /// Sets what is of the parameter's kind.
    pub fn set(&mut self, parameter: Parameter, setting: impl Into<Setting>) -> Result<(), SettingError> {
        match setting.into() {
            Setting::Number(number) => self.set_number(parameter, number),
            Setting::Text(text) => self.set_text(parameter, text),
        }
    }

    fn set_text(&mut self, parameter: Parameter, text: String) -> Result<(), SettingError> {
        let given = Some(text).filter(|text| !text.is_empty());
        match parameter {
            // A path that begins elsewhere would be looked for where the process was started.
            Parameter::TlsCreds if given.as_ref().is_none_or(|path| path.starts_with('/')) => {
                self.tls_creds = given.map(PathBuf::from);
            }
            Parameter::TlsHostname => self.tls_hostname = given,
            _ => return Err(SettingError::OutOfRange { name: parameter.name(), expected: parameter.expected() }),
        }
        Ok(())
    }

    fn set_number(&mut self, parameter: Parameter, value: i64) -> Result<(), SettingError> {
        let refuse = || SettingError::OutOfRange { name: parameter.name(), expected: parameter.expected() };
        let unsigned = || u64::try_from(value).map_err(|_| refuse());
        match parameter {
            Parameter::Announce(timing) => self.announce.set(timing, value).map_err(|_| refuse())?,
            Parameter::MaxBandwidth => self.max_bandwidth = unsigned()?,
            Parameter::MaxPostcopyBandwidth => self.max_postcopy_bandwidth = unsigned()?,
            Parameter::AvailSwitchoverBandwidth => self.avail_switchover_bandwidth = unsigned()?,
            Parameter::DowntimeLimit => {
                let ms = unsigned()?;
                if ms > MAX_DOWNTIME_LIMIT_MS {
                    return Err(refuse());
                }
                self.downtime_limit = Duration::from_millis(ms);
            }
            Parameter::MultifdChannels => {
                self.multifd_channels = u8::try_from(value).ok().filter(|count| *count > 0).ok_or_else(refuse)?;
            }
            Parameter::Reconnect => {
                let seconds = unsigned()?;
                if seconds > MAX_RECONNECT_S {
                    return Err(refuse());
                }
                self.reconnect = Duration::from_secs(seconds);
            }
            Parameter::Keepalive => {
                let time = Duration::from_millis(unsigned()?);
                if !(KEEPALIVE_LEAST..=KEEPALIVE_MOST).contains(&time) {
                    return Err(refuse());
                }
                self.keepalive = time;
            }
            Parameter::TlsCreds | Parameter::TlsHostname => return Err(refuse()),
            Parameter::PostcopyAfter if value == -1 => self.postcopy_after = None,
            Parameter::PostcopyAfter => {
                self.postcopy_after = Some(u32::try_from(value).map_err(|_| refuse())?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_reads_back_what_was_set() {
        for parameter in Parameter::ALL {
            let mut all = Parameters::default();
            let setting = match parameter {
                Parameter::Keepalive => 2000.into(),
                Parameter::TlsCreds => "/etc/pki".into(),
                Parameter::TlsHostname => "host.example.org".into(),
                _ => Setting::Number(7),
            };
            all.set(parameter, setting.clone()).unwrap();
            assert_eq!(all.get(parameter), setting, "{}", parameter.name());
            for other in Parameter::ALL.into_iter().filter(|it| *it != parameter) {
                assert_eq!(all.get(other), Parameters::default().get(other));
            }
        }
    }

    #[test]
    fn values_out_of_range_change_nothing() {
        let mut all = Parameters::default();
        for (parameter, value) in [
            (Parameter::MaxBandwidth, -1),
            (Parameter::DowntimeLimit, 2_000_001),
            (Parameter::PostcopyAfter, -2),
            (Parameter::Announce(Timing::Rounds), 1001),
            (Parameter::Announce(Timing::Step), 0),
            (Parameter::PostcopyAfter, 1 << 32),
            (Parameter::MultifdChannels, 0),
            (Parameter::MultifdChannels, 256),
            (Parameter::Reconnect, 86_401),
            (Parameter::Keepalive, 1999),
            (Parameter::Keepalive, 28_800_001),
            (Parameter::TlsCreds, 7),
        ] {
            assert!(all.set(parameter, value).is_err());
        }
        for (parameter, text) in [(Parameter::MaxBandwidth, "7"), (Parameter::TlsCreds, "pki")] {
            assert!(all.set(parameter, text).is_err());
        }
        assert_eq!(all, Parameters::default());
        all.set(Parameter::PostcopyAfter, -1).unwrap();
        assert_eq!(all.postcopy_after, None);
    }

    #[test]
    fn what_is_always_on_cannot_be_switched_off() {
        let mut all = Capabilities::default();
        all.set(Capability::ReturnPath, true).unwrap();
        assert_eq!(all.set(Capability::PostcopyPreempt, false), Err(SettingError::AlwaysOn("postcopy-preempt")));
    }

    #[test]
    fn names_are_known_supported_or_neither() {
        assert_eq!(Capability::find("events"), Some(Ok(Capability::Events)));
        assert!(matches!(Capability::find("xbzrle"), Some(Err(_))));
        assert_eq!(Capability::find("warp"), None);
        assert!(matches!(Parameter::find("tls-authz"), Some(Err(_))));
        assert_eq!(Parameter::find("warp"), None);
    }
}
