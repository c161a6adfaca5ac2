//! Parameters by QEMU's names.

use std::path::{Path, PathBuf};
use std::time::Duration;

use whimbrel_postcopy::channel::{KEEPALIVE, KEEPALIVE_LEAST, KEEPALIVE_MOST};
use whimbrel_postcopy::encoding::ZeroPages;
use whimbrel_postcopy::ram::PAGE_SIZE;
use whimbrel_postcopy::source::{AutoConverge, Policy};

use super::setting::{Setting, SettingError};
use crate::net::{Schedule, Timing};

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
    /// `postcopy-policy`: when a migration turns to postcopy by itself. `x-postcopy-after` sets and
    /// shows the part of it that counts passes.
    pub postcopy_policy: Policy,
    /// `multifd-channels`: on how many channels pages go with capability `multifd`.
    pub multifd_channels: u8,
    /// `throttle-trigger-threshold`, `cpu-throttle-*` and `max-cpu-throttle`: how capability
    /// auto-converge slows the guest down.
    pub auto_converge: AutoConverge,
    /// `vcpu-dirty-limit`: what each vCPU may dirty with capability dirty-limit, in MiB per second.
    pub vcpu_dirty_limit: u64,
    /// `x-vcpu-dirty-limit-period`: how often that is measured.
    pub dirty_limit_period: Duration,
    /// `multifd-compression`: whether pages go compressed, and by what.
    pub compression: MultifdCompression,
    /// `multifd-zlib-level`: 0 for none to 9 for the most that `zlib` can do.
    pub zlib_level: u8,
    /// `multifd-zstd-level`: 1 to 20 for the most that `zstd` can do; 0 is its own choice.
    pub zstd_level: u8,
    /// `xbzrle-cache-size`: so many bytes of pages are kept as they were sent, with capability
    /// `xbzrle`; a power of two, at least a page.
    pub xbzrle_cache: u64,
    /// `zero-page-detection`: which thread looks for zero pages. Capability `zero-blocks` is
    /// whether one does.
    pub zero_pages: ZeroPages,
    /// `x-reconnect`: for so long a postcopy whose link broke tries by itself to connect to the
    /// same address again, and its destination listens there; zero: `migrate_recover` and `migrate
    /// -r` do it.
    pub reconnect: Duration,
    /// `announce-*`: how a guest that arrives here, or that `announce_self` is said of, is
    /// announced to the network.
    pub announce: Schedule,
    /// `x-keepalive`: how long a peer may be silent.
    pub keepalive: Duration,
    /// `tls-creds`: the directory with the certificates; `None`: no TLS.
    pub tls_creds: Option<PathBuf>,
    /// `tls-hostname`: what the destination's certificate must be for, if not for the host that is
    /// connected to.
    pub tls_hostname: Option<String>,
    /// `direct-io`: the pages of a file with mapped RAM are written, and read in order, past the
    /// host's page cache.
    pub direct_io: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            max_bandwidth: 0,
            max_postcopy_bandwidth: 0,
            avail_switchover_bandwidth: 0,
            downtime_limit: Duration::from_millis(300),
            postcopy_policy: Policy::Manual,
            multifd_channels: 2,
            auto_converge: AutoConverge { threshold: 50, initial: 20, increment: 10, tailslow: false, most: 99 },
            vcpu_dirty_limit: 1,
            dirty_limit_period: Duration::from_secs(1),
            compression: MultifdCompression::None,
            zlib_level: 1,
            zstd_level: 1,
            xbzrle_cache: 64 << 20,
            zero_pages: ZeroPages::default(),
            reconnect: Duration::ZERO,
            announce: Schedule::default(),
            keepalive: KEEPALIVE,
            tls_creds: None,
            tls_hostname: None,
            direct_io: false,
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
    /// The passes of [`Parameters::postcopy_policy`]; -1 is any other policy, set to it: never.
    PostcopyAfter,
    /// See [`Parameters::postcopy_policy`].
    PostcopyPolicy,
    /// See [`Parameters::multifd_channels`].
    MultifdChannels,
    /// A number of [`Parameters::auto_converge`], in percent.
    Converge(Percentage),
    /// That of [`Parameters::auto_converge`] which is on or off.
    ThrottleTailslow,
    /// See [`Parameters::vcpu_dirty_limit`].
    VcpuDirtyLimit,
    /// See [`Parameters::dirty_limit_period`]; counted in milliseconds.
    DirtyLimitPeriod,
    /// See [`Parameters::compression`].
    MultifdCompression,
    /// See [`Parameters::zlib_level`].
    MultifdZlibLevel,
    /// See [`Parameters::zstd_level`].
    MultifdZstdLevel,
    /// See [`Parameters::xbzrle_cache`].
    XbzrleCacheSize,
    /// See [`Parameters::zero_pages`].
    ZeroPageDetection,
    /// See [`Parameters::reconnect`]; counted in seconds.
    Reconnect,
    /// See [`Parameters::keepalive`]; counted in milliseconds.
    Keepalive,
    /// See [`Parameters::tls_creds`].
    TlsCreds,
    /// See [`Parameters::tls_hostname`].
    TlsHostname,
    /// See [`Parameters::direct_io`].
    DirectIo,
    /// Which kind of migration it is. There is one.
    Mode,
}

/// Auto-converge's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Percentage {
    /// `throttle-trigger-threshold`.
    Threshold,
    /// `cpu-throttle-initial`.
    Initial,
    /// `cpu-throttle-increment`.
    Increment,
    /// `max-cpu-throttle`.
    Most,
}

impl Percentage {
    const fn of(self, converge: &AutoConverge) -> u8 {
        match self {
            Self::Threshold => converge.threshold,
            Self::Initial => converge.initial,
            Self::Increment => converge.increment,
            Self::Most => converge.most,
        }
    }

    fn set(self, converge: &mut AutoConverge, percent: u8) {
        *match self {
            Self::Threshold => &mut converge.threshold,
            Self::Initial => &mut converge.initial,
            Self::Increment => &mut converge.increment,
            Self::Most => &mut converge.most,
        } = percent;
    }

    const fn greatest(self) -> u8 {
        match self {
            Self::Threshold => 100,
            _ => 99,
        }
    }
}

/// What pages are compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MultifdCompression {
    /// They are not.
    None,
    /// zlib.
    Zlib,
    /// Zstandard.
    Zstd,
}

impl MultifdCompression {
    const ALL: [(&'static str, Self); 3] = [("none", Self::None), ("zlib", Self::Zlib), ("zstd", Self::Zstd)];
}

/// Which thread looks for zero pages, by QEMU's names.
const ZERO_PAGES: [(&str, ZeroPages); 3] =
    [("none", ZeroPages::Unseen), ("legacy", ZeroPages::ByMigration), ("multifd", ZeroPages::BySender)];

/// The value of this name.
fn named<T: Copy>(all: &[(&str, T)], name: &str) -> Option<T> {
    all.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

/// The name of this value.
fn name_of<T: PartialEq>(all: &[(&'static str, T)], value: &T) -> Setting {
    Setting::from(all.iter().find(|(_, known)| known == value).map_or("", |(name, _)| *name))
}

/// What a parameter is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A number.
    Number,
    /// A number of bytes per second, which people write with a suffix, or in MiB.
    Size,
    /// A number of bytes, which people write with a suffix, or as it is.
    Bytes,
    /// A text, empty for none.
    Text,
    /// One of some words.
    Word,
    /// On or off.
    Flag,
}

/// What is told of a parameter.
#[derive(Clone, Copy)]
struct Spec {
    name: &'static str,
    form: Form,
    unit: &'static str,
    expected: &'static str,
}

impl Spec {
    const fn new(name: &'static str, form: Form, unit: &'static str, expected: &'static str) -> Self {
        Self { name, form, unit, expected }
    }
}

impl Parameter {
    /// All of them, in the order in which they are shown: QEMU's, and behind them those that are
    /// ours.
    pub const ALL: [Self; 29] = [
        Self::Announce(Timing::Initial),
        Self::Announce(Timing::Max),
        Self::Announce(Timing::Rounds),
        Self::Announce(Timing::Step),
        Self::Converge(Percentage::Threshold),
        Self::Converge(Percentage::Initial),
        Self::Converge(Percentage::Increment),
        Self::ThrottleTailslow,
        Self::Converge(Percentage::Most),
        Self::TlsCreds,
        Self::TlsHostname,
        Self::MaxBandwidth,
        Self::AvailSwitchoverBandwidth,
        Self::MaxPostcopyBandwidth,
        Self::DowntimeLimit,
        Self::MultifdChannels,
        Self::MultifdCompression,
        Self::MultifdZlibLevel,
        Self::MultifdZstdLevel,
        Self::ZeroPageDetection,
        Self::XbzrleCacheSize,
        Self::DirtyLimitPeriod,
        Self::VcpuDirtyLimit,
        Self::Mode,
        Self::DirectIo,
        Self::PostcopyAfter,
        Self::PostcopyPolicy,
        Self::Reconnect,
        Self::Keepalive,
    ];

    /// The one that is not built and may be set to nothing.
    pub const NOTHING: &'static str = "tls-authz";

    /// QEMU's parameters that are not built here.
    pub const UNSUPPORTED: [&'static str; 6] = [
        Self::NOTHING,
        "x-checkpoint-delay",
        "block-bitmap-mapping",
        "multifd-qatzip-level",
        "x-rdma-chunk-size",
        "cpr-exec-command",
    ];

    /// All that is told of it.
    const fn spec(self) -> Spec {
        const SIZE: &str = "an integer of at least 0, in bytes/second";
        match self {
            Self::Announce(timing) => {
                let (name, unit) = match timing {
                    Timing::Initial => ("announce-initial", "ms"),
                    Timing::Max => ("announce-max", "ms"),
                    Timing::Rounds => ("announce-rounds", ""),
                    Timing::Step => ("announce-step", "ms"),
                };
                Spec::new(name, Form::Number, unit, timing.expected())
            }
            Self::MaxBandwidth => Spec::new("max-bandwidth", Form::Size, "bytes/second", SIZE),
            Self::MaxPostcopyBandwidth => Spec::new("max-postcopy-bandwidth", Form::Size, "bytes/second", SIZE),
            Self::AvailSwitchoverBandwidth => Spec::new("avail-switchover-bandwidth", Form::Size, "bytes/second", SIZE),
            Self::DowntimeLimit => {
                Spec::new("downtime-limit", Form::Number, "ms", "an integer in the range of 0 to 2000000 ms")
            }
            Self::PostcopyAfter => {
                let expected = "an integer from 0 to 4294967295, or -1 for never";
                Spec::new("x-postcopy-after", Form::Number, "passes", expected)
            }
            Self::PostcopyPolicy => {
                let expected = "'manual', 'stalled', 'after-passes=N' or 'time=SECONDS', of 1 to 86400 seconds";
                Spec::new("postcopy-policy", Form::Word, "", expected)
            }
            Self::MultifdChannels => Spec::new("multifd-channels", Form::Number, "", "a value between 1 and 255"),
            Self::Converge(percentage) => {
                let name = match percentage {
                    Percentage::Threshold => "throttle-trigger-threshold",
                    Percentage::Initial => "cpu-throttle-initial",
                    Percentage::Increment => "cpu-throttle-increment",
                    Percentage::Most => "max-cpu-throttle",
                };
                let expected = match percentage {
                    Percentage::Threshold => "an integer in the range of 1 to 100",
                    _ => "an integer in the range of 1 to 99",
                };
                Spec::new(name, Form::Number, "", expected)
            }
            Self::ThrottleTailslow => Spec::new("cpu-throttle-tailslow", Form::Flag, "", "'on' or 'off'"),
            Self::VcpuDirtyLimit => {
                Spec::new("vcpu-dirty-limit", Form::Number, "MB/s", "an integer in the range of 1 to 1048576 MB/s")
            }
            Self::DirtyLimitPeriod => {
                let expected = "an integer in the range of 1 to 1000 ms";
                Spec::new("x-vcpu-dirty-limit-period", Form::Number, "ms", expected)
            }
            Self::MultifdCompression => Spec::new("multifd-compression", Form::Word, "", "'none', 'zlib' or 'zstd'"),
            Self::MultifdZlibLevel => Spec::new("multifd-zlib-level", Form::Number, "", "a value between 0 and 9"),
            Self::MultifdZstdLevel => Spec::new("multifd-zstd-level", Form::Number, "", "a value between 0 and 20"),
            Self::XbzrleCacheSize => {
                let expected = "a power of two no less than the target page size";
                Spec::new("xbzrle-cache-size", Form::Bytes, "bytes", expected)
            }
            Self::ZeroPageDetection => {
                Spec::new("zero-page-detection", Form::Word, "", "'none', 'legacy' or 'multifd'")
            }
            Self::Reconnect => Spec::new("x-reconnect", Form::Number, "s", "an integer in the range of 0 to 86400 s"),
            Self::Keepalive => {
                Spec::new("x-keepalive", Form::Number, "ms", "an integer in the range of 2000 to 28800000 ms")
            }
            Self::TlsCreds => {
                let expected = "the path of a directory that begins with '/', or nothing for no TLS";
                Spec::new("tls-creds", Form::Text, "", expected)
            }
            Self::TlsHostname => {
                let expected = "a name or an address, or nothing for the host that is connected to";
                Spec::new("tls-hostname", Form::Text, "", expected)
            }
            Self::DirectIo => Spec::new("direct-io", Form::Flag, "", "'on' or 'off'"),
            Self::Mode => Spec::new("mode", Form::Word, "", "'normal'"),
        }
    }

    /// QEMU's name; `x-` for what is ours alone.
    pub const fn name(self) -> &'static str {
        self.spec().name
    }

    /// All names that are built.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().map(Self::name)
    }

    /// What it counts, as `info migrate_parameters` shows it; empty where the name says it.
    pub const fn unit(self) -> &'static str {
        self.spec().unit
    }

    /// What it is set to.
    pub const fn form(self) -> Form {
        self.spec().form
    }

    /// What values it takes, for messages.
    const fn expected(self) -> &'static str {
        self.spec().expected
    }

    /// Finds a parameter: `None` for a name that QEMU does not know either.
    pub fn find(name: &str) -> Option<Result<Self, SettingError>> {
        if let Some(found) = Self::ALL.into_iter().find(|it| it.name() == name) {
            return Some(Ok(found));
        }
        let known = Self::UNSUPPORTED.into_iter().find(|it| *it == name)?;
        Some(Err(SettingError::ParameterUnsupported(known)))
    }
}

/// QEMU's limit for `downtime-limit`: 2000 seconds.
const MAX_DOWNTIME_LIMIT_MS: u64 = 2_000_000;
/// A day, for `postcopy-policy`.
const MAX_POLICY_S: u64 = 86_400;
/// A limit that no vCPU reaches, in MiB per second.
pub const MAX_DIRTY_LIMIT: u64 = 1 << 20;
/// QEMU's limit for `x-vcpu-dirty-limit-period`.
const MAX_DIRTY_LIMIT_PERIOD_MS: u64 = 1000;
/// A day: who has not come back by then needs a person.
const MAX_RECONNECT_S: u64 = 86_400;

/// A policy as it is set.
fn policy_text(policy: Policy) -> String {
    match policy {
        Policy::Manual => "manual".to_owned(),
        Policy::Stalled => "stalled".to_owned(),
        Policy::AfterPasses(passes) => format!("after-passes={passes}"),
        Policy::After(time) => format!("time={}", time.as_secs()),
    }
}

/// The policy of this text.
fn policy(text: &str) -> Option<Policy> {
    // A number's own reader takes a sign, too.
    let number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
    match (text, text.split_once('=')) {
        ("manual", _) => Some(Policy::Manual),
        ("stalled", _) => Some(Policy::Stalled),
        (_, Some(("after-passes", digits))) => Some(Policy::AfterPasses(u32::try_from(number(digits)?).ok()?)),
        (_, Some(("time", digits))) => {
            let seconds = number(digits).filter(|seconds| (1..=MAX_POLICY_S).contains(seconds))?;
            Some(Policy::After(Duration::from_secs(seconds)))
        }
        _ => None,
    }
}

/// The only `mode`.
const NORMAL: &str = "normal";
/// QEMU's others.
const OTHER_MODES: [&str; 3] = ["cpr-reboot", "cpr-transfer", "cpr-exec"];

/// A level of compression.
fn level(value: i128, most: u8) -> Option<u8> {
    u8::try_from(value).ok().filter(|level| *level <= most)
}

impl Parameters {
    /// What the parameter is set to.
    pub fn get(&self, parameter: Parameter) -> Setting {
        let saturate = i128::from;
        let ms = |time: Duration| i128::try_from(time.as_millis()).unwrap_or(i128::MAX);
        Setting::Number(match parameter {
            Parameter::Mode => return Setting::from(NORMAL),
            Parameter::TlsCreds => {
                let path = self.tls_creds.as_deref().map(Path::to_string_lossy);
                return Setting::Text(path.unwrap_or_default().into_owned());
            }
            Parameter::ThrottleTailslow => return Setting::Flag(self.auto_converge.tailslow),
            Parameter::PostcopyPolicy => return Setting::Text(policy_text(self.postcopy_policy)),
            Parameter::DirectIo => return Setting::Flag(self.direct_io),
            Parameter::MultifdCompression => return name_of(&MultifdCompression::ALL, &self.compression),
            Parameter::ZeroPageDetection => return name_of(&ZERO_PAGES, &self.zero_pages),
            Parameter::TlsHostname => return Setting::Text(self.tls_hostname.clone().unwrap_or_default()),
            Parameter::Keepalive => ms(self.keepalive),
            Parameter::Announce(timing) => self.announce.get(timing).into(),
            Parameter::MaxBandwidth => saturate(self.max_bandwidth),
            Parameter::MaxPostcopyBandwidth => saturate(self.max_postcopy_bandwidth),
            Parameter::AvailSwitchoverBandwidth => saturate(self.avail_switchover_bandwidth),
            Parameter::DowntimeLimit => ms(self.downtime_limit),
            Parameter::PostcopyAfter => match self.postcopy_policy {
                Policy::AfterPasses(passes) => passes.into(),
                _ => -1,
            },
            Parameter::MultifdChannels => self.multifd_channels.into(),
            Parameter::Converge(percentage) => percentage.of(&self.auto_converge).into(),
            Parameter::VcpuDirtyLimit => saturate(self.vcpu_dirty_limit),
            Parameter::DirtyLimitPeriod => ms(self.dirty_limit_period),
            Parameter::MultifdZlibLevel => self.zlib_level.into(),
            Parameter::MultifdZstdLevel => self.zstd_level.into(),
            Parameter::XbzrleCacheSize => saturate(self.xbzrle_cache),
            Parameter::Reconnect => saturate(self.reconnect.as_secs()),
        })
    }

    /// Sets what is of the parameter's kind.
    pub fn set(&mut self, parameter: Parameter, setting: impl Into<Setting>) -> Result<(), SettingError> {
        match setting.into() {
            Setting::Number(number) => self.set_number(parameter, number),
            Setting::Text(text) => self.set_text(parameter, text),
            Setting::Flag(on) => self.set_flag(parameter, on),
        }
    }

    fn set_flag(&mut self, parameter: Parameter, on: bool) -> Result<(), SettingError> {
        match parameter {
            Parameter::DirectIo => self.direct_io = on,
            Parameter::ThrottleTailslow => self.auto_converge.tailslow = on,
            _ => return Err(SettingError::OutOfRange { name: parameter.name(), expected: parameter.expected() }),
        }
        Ok(())
    }

    fn set_text(&mut self, parameter: Parameter, text: String) -> Result<(), SettingError> {
        let refuse = || SettingError::OutOfRange { name: parameter.name(), expected: parameter.expected() };
        let given = Some(text).filter(|text| !text.is_empty());
        let not_accepted = |value: Option<String>| SettingError::NotAccepted {
            name: parameter.name(),
            value: value.unwrap_or_default(),
            expected: parameter.expected(),
        };
        match parameter {
            Parameter::PostcopyPolicy => {
                self.postcopy_policy = given.as_deref().and_then(policy).ok_or_else(refuse)?;
            }
            Parameter::MultifdCompression => {
                let known = given.as_deref().and_then(|name| named(&MultifdCompression::ALL, name));
                self.compression = known.ok_or_else(|| not_accepted(given))?;
            }
            Parameter::ZeroPageDetection => {
                let known = given.as_deref().and_then(|name| named(&ZERO_PAGES, name));
                self.zero_pages = known.ok_or_else(|| not_accepted(given))?;
            }
            Parameter::Mode => match given.as_deref() {
                Some(NORMAL) => {}
                Some(mode) if OTHER_MODES.contains(&mode) => {
                    return Err(SettingError::ModeUnsupported(given.unwrap_or_default()));
                }
                _ => return Err(not_accepted(given)),
            },
            // A path that begins elsewhere would be looked for where the process was started.
            Parameter::TlsCreds if given.as_ref().is_none_or(|path| path.starts_with('/')) => {
                self.tls_creds = given.map(PathBuf::from);
            }
            Parameter::TlsHostname => self.tls_hostname = given,
            _ => return Err(refuse()),
        }
        Ok(())
    }

    fn set_number(&mut self, parameter: Parameter, value: i128) -> Result<(), SettingError> {
        let refuse = || SettingError::OutOfRange { name: parameter.name(), expected: parameter.expected() };
        let unsigned = || u64::try_from(value).map_err(|_| refuse());
        match parameter {
            Parameter::Announce(timing) => {
                let value = i64::try_from(value).map_err(|_| refuse())?;
                self.announce.set(timing, value).map_err(|_| refuse())?;
            }
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
            Parameter::MultifdZlibLevel => self.zlib_level = level(value, 9).ok_or_else(refuse)?,
            Parameter::MultifdZstdLevel => self.zstd_level = level(value, 20).ok_or_else(refuse)?,
            Parameter::XbzrleCacheSize => {
                let bytes = unsigned()?;
                if bytes < PAGE_SIZE as u64 || !bytes.is_power_of_two() {
                    return Err(refuse());
                }
                self.xbzrle_cache = bytes;
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
            Parameter::Converge(percentage) => {
                let in_range = |percent: &u8| (1..=percentage.greatest()).contains(percent);
                let percent = u8::try_from(value).ok().filter(in_range).ok_or_else(refuse)?;
                percentage.set(&mut self.auto_converge, percent);
            }
            Parameter::VcpuDirtyLimit => {
                let limit = unsigned()?;
                if !(1..=MAX_DIRTY_LIMIT).contains(&limit) {
                    return Err(refuse());
                }
                self.vcpu_dirty_limit = limit;
            }
            Parameter::DirtyLimitPeriod => {
                let ms = unsigned()?;
                if !(1..=MAX_DIRTY_LIMIT_PERIOD_MS).contains(&ms) {
                    return Err(refuse());
                }
                self.dirty_limit_period = Duration::from_millis(ms);
            }
            Parameter::TlsCreds
            | Parameter::TlsHostname
            | Parameter::Mode
            | Parameter::PostcopyPolicy
            | Parameter::ThrottleTailslow
            | Parameter::DirectIo
            | Parameter::MultifdCompression
            | Parameter::ZeroPageDetection => return Err(refuse()),
            Parameter::PostcopyAfter if value == -1 => self.postcopy_policy = Policy::Manual,
            Parameter::PostcopyAfter => {
                self.postcopy_policy = Policy::AfterPasses(u32::try_from(value).map_err(|_| refuse())?);
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
                Parameter::PostcopyPolicy => "stalled".into(),
                Parameter::MultifdCompression => "zstd".into(),
                Parameter::ZeroPageDetection => "legacy".into(),
                Parameter::XbzrleCacheSize => 4096.into(),
                Parameter::TlsCreds => "/etc/pki".into(),
                Parameter::ThrottleTailslow => true.into(),
                Parameter::TlsHostname => "host.example.org".into(),
                Parameter::DirectIo => true.into(),
                Parameter::Mode => "normal".into(),
                _ => Setting::Number(7),
            };
            all.set(parameter, setting.clone()).unwrap();
            assert_eq!(all.get(parameter), setting, "{}", parameter.name());
            let others = Parameter::ALL.into_iter().filter(|it| *it != parameter);
            // Two names of one thing.
            let policy = |it: &Parameter| matches!(it, Parameter::PostcopyAfter | Parameter::PostcopyPolicy);
            for other in others.filter(|it| !(policy(it) && policy(&parameter))) {
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
            (Parameter::DirectIo, 1),
            (Parameter::Mode, 0),
            (Parameter::ThrottleTailslow, 1),
            (Parameter::Converge(Percentage::Threshold), 101),
            (Parameter::Converge(Percentage::Initial), 0),
            (Parameter::Converge(Percentage::Increment), 100),
            (Parameter::Converge(Percentage::Most), 100),
            (Parameter::Converge(Percentage::Most), 257),
            (Parameter::VcpuDirtyLimit, 0),
            (Parameter::DirtyLimitPeriod, 0),
            (Parameter::DirtyLimitPeriod, 1001),
            (Parameter::MultifdCompression, 1),
            (Parameter::MultifdZlibLevel, 10),
            (Parameter::MultifdZstdLevel, 21),
            (Parameter::MultifdZstdLevel, -1),
            (Parameter::XbzrleCacheSize, 2048),
            (Parameter::XbzrleCacheSize, 12288),
        ] {
            assert!(all.set(parameter, value).is_err());
        }
        for (parameter, text) in [
            (Parameter::MaxBandwidth, "7"),
            (Parameter::TlsCreds, "pki"),
            (Parameter::DirectIo, "on"),
            (Parameter::MultifdCompression, "qpl"),
            (Parameter::ZeroPageDetection, ""),
            (Parameter::Mode, "cpr-transfer"),
            (Parameter::Mode, ""),
        ] {
            assert!(all.set(parameter, text).is_err());
        }
        assert!(all.set(Parameter::MaxBandwidth, true).is_err());
        for text in ["", "never", "stalled=1", "time", "time=", "time=0", "time=86401", "time=+5", "after-passes=-1"] {
            assert!(all.set(Parameter::PostcopyPolicy, text).is_err(), "{text}");
        }
        assert!(all.set(Parameter::PostcopyPolicy, "after-passes=4294967296").is_err());
        assert_eq!(all, Parameters::default());
        all.set(Parameter::PostcopyAfter, -1).unwrap();
        assert_eq!(all.postcopy_policy, Policy::Manual);
    }

    #[test]
    fn every_policy_reads_back_and_shows_its_passes_under_the_older_name() {
        for (text, policy, passes) in [
            ("manual", Policy::Manual, -1),
            ("stalled", Policy::Stalled, -1),
            ("after-passes=0", Policy::AfterPasses(0), 0),
            ("after-passes=7", Policy::AfterPasses(7), 7),
            ("time=86400", Policy::After(Duration::from_secs(86_400)), -1),
        ] {
            let mut all = Parameters::default();
            all.set(Parameter::PostcopyPolicy, text).unwrap();
            assert_eq!(all.postcopy_policy, policy);
            assert_eq!(all.get(Parameter::PostcopyPolicy), text.into());
            assert_eq!(all.get(Parameter::PostcopyAfter), passes.into());
            all.set(Parameter::PostcopyAfter, 3).unwrap();
            assert_eq!(all.get(Parameter::PostcopyPolicy), "after-passes=3".into());
        }
    }

    #[test]
    fn names_are_known_supported_or_neither() {
        assert!(matches!(Parameter::find("tls-authz"), Some(Err(_))));
        assert_eq!(Parameter::find("warp"), None);
    }
}
