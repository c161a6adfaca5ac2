//! [`Settings`], and the engine's options that follow from them.

use std::num::NonZero;

use whimbrel_postcopy::encoding::{Compression, Encoding, PageEncoding};
use whimbrel_postcopy::source::{DirtyLimit, Limits, Multifd, ThrottlePolicy};
use whimbrel_postcopy::stream::mapped::Access;

use super::capabilities::{Capabilities, Capability};
use super::parameters::{MultifdCompression, Parameters};
use super::rules::{Route, Subject};
use super::streams::Form;

/// A vCPU and the thread that answers its requests.
const SPARE_PROCESSORS: usize = 2;

/// What is set for migrations.
pub(super) struct Settings {
    pub capabilities: Capabilities,
    pub parameters: Parameters,
    /// Of the machine, for life.
    pub shared_ram: bool,
}

impl Settings {
    /// As the rules see it.
    pub fn subject(&self, route: Option<Route>) -> Subject<'_> {
        Subject { capabilities: self.capabilities, parameters: &self.parameters, route, shared_ram: self.shared_ram }
    }
}

/// Bytes in a MiB.
const MIB: u64 = 1 << 20;

/// What is done about a guest of so many vCPUs that writes too fast. Who writes what cannot be told
/// apart, so a limit for each is one for all.
fn throttle_policy(settings: &Settings, vcpus: u64) -> ThrottlePolicy {
    let parameters = &settings.parameters;
    let on = |capability| settings.capabilities.get(capability);
    if on(Capability::AutoConverge) {
        ThrottlePolicy::AutoConverge(parameters.auto_converge)
    } else if on(Capability::DirtyLimit) {
        ThrottlePolicy::DirtyLimit(DirtyLimit {
            threshold: parameters.auto_converge.threshold,
            rate: parameters.vcpu_dirty_limit * vcpus * MIB,
            period: parameters.dirty_limit_period,
        })
    } else {
        ThrottlePolicy::Off
    }
}

pub(super) fn limits(settings: &Settings, vcpus: u64) -> Limits {
    let parameters = &settings.parameters;
    Limits {
        downtime: parameters.downtime_limit,
        bandwidth: parameters.max_bandwidth,
        postcopy_bandwidth: parameters.max_postcopy_bandwidth,
        switchover_bandwidth: parameters.avail_switchover_bandwidth,
        policy: parameters.postcopy_policy,
        throttling: throttle_policy(settings, vcpus),
        hold: settings.capabilities.get(Capability::PauseBeforeSwitchover),
        ignore_shared: settings.capabilities.get(Capability::IgnoreShared),
        release: settings.capabilities.get(Capability::ReleaseRam),
        reconnect: parameters.reconnect,
        encoding: encoding(settings),
    }
}

/// How a guest is written to a file.
pub(super) fn form(settings: &Settings) -> Form {
    match settings.capabilities.get(Capability::MappedRam) {
        true => Form::Mapped(access(settings)),
        false => Form::Stream,
    }
}

pub(super) fn access(settings: &Settings) -> Access {
    if settings.parameters.direct_io { Access::Direct } else { Access::Cached }
}

pub(super) fn encoding(settings: &Settings) -> Encoding {
    let parameters = &settings.parameters;
    let contents = match parameters.compression {
        // The rules let only one of them be.
        _ if settings.capabilities.get(Capability::Xbzrle) => PageEncoding::Xbzrle { cache: parameters.xbzrle_cache },
        MultifdCompression::None => PageEncoding::Whole,
        MultifdCompression::Zlib => PageEncoding::Compressed(Compression::Zlib(parameters.zlib_level)),
        MultifdCompression::Zstd => PageEncoding::Compressed(Compression::Zstd(parameters.zstd_level)),
    };
    Encoding { zero_pages: parameters.zero_pages, contents }
}

pub(super) fn multifd(settings: &Settings) -> Multifd {
    // For RAM that is not sent they would be opened for nothing.
    if !settings.capabilities.get(Capability::Multifd) || settings.capabilities.get(Capability::IgnoreShared) {
        return Multifd::default();
    }
    let channels = settings.parameters.multifd_channels;
    // In a postcopy demanded pages need processors more than the background does: it is spread
    // where some are left.
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let spare = processors >= usize::from(channels) + SPARE_PROCESSORS;
    // What the destination has, it tells of one channel at a time.
    Multifd { channels, postcopy: spare && !settings.capabilities.get(Capability::ReleaseRam) }
}
