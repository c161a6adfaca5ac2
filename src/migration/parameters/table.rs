//! The table of migration parameters: [`PARAMETERS`].

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use whimbrel_postcopy::channel::{KEEPALIVE_LEAST, KEEPALIVE_MOST};
use whimbrel_postcopy::encoding::ZeroPages;
use whimbrel_postcopy::ram::PAGE_SIZE;
use whimbrel_postcopy::source::Policy;

use super::parameter::{Access, Form, Live, Parameter, Refused};
use super::{MultifdCompression, policy};
use crate::dirty::MAX_DIRTY_LIMIT;
use crate::migration::setting::SettingError;
use crate::net::Timing;

/// A number of a type that is smaller than `i128`.
macro_rules! number {
    ($range:expr, $($field:ident).+) => {
        Access::Number {
            range: $range,
            get: |all| i128::from(all.$($field).+),
            set: |all, number| {
                all.$($field).+ = number.try_into().ok()?;
                Some(())
            },
        }
    };
}

/// A `Duration` as a number of milliseconds.
macro_rules! milliseconds {
    ($range:expr, $field:ident) => {
        Access::Number {
            range: $range,
            get: |all| i128::try_from(all.$field.as_millis()).unwrap_or(i128::MAX),
            set: |all, ms| {
                all.$field = Duration::from_millis(ms.try_into().ok()?);
                Some(())
            },
        }
    };
}

/// On or off.
macro_rules! flag {
    ($($field:ident).+) => {
        Access::Flag { get: |all| all.$($field).+, set: |all, on| all.$($field).+ = on }
    };
}

/// One of the words of a list.
macro_rules! word {
    ($words:expr, $field:ident) => {
        Access::Text {
            get: |all| {
                let known = $words.iter().find(|(_, value)| *value == all.$field);
                known.map_or_else(String::new, |(word, _)| (*word).to_owned())
            },
            set: |all, text| {
                let known = $words.iter().find(|(word, _)| *word == text);
                all.$field = known.ok_or(Refused::NotAccepted)?.1;
                Ok(())
            },
        }
    };
}

/// A number of the schedule of announcements, which knows its own range.
macro_rules! announce {
    ($timing:expr) => {
        Access::Number {
            range: i128::MIN..=i128::MAX,
            get: |all| all.announce.get($timing).into(),
            set: |all, number| all.announce.set($timing, number.try_into().ok()?).ok(),
        }
    };
}

const SIZES: RangeInclusive<i128> = 0..=u64::MAX as i128;
const COMPRESSIONS: [(&str, MultifdCompression); 3] =
    [("none", MultifdCompression::None), ("zlib", MultifdCompression::Zlib), ("zstd", MultifdCompression::Zstd)];
/// Which thread looks for zero pages.
const ZERO_PAGES: [(&str, ZeroPages); 3] =
    [("none", ZeroPages::Unseen), ("legacy", ZeroPages::ByMigration), ("multifd", ZeroPages::BySender)];
/// The only `mode`.
const NORMAL: &str = "normal";
/// QEMU's other modes.
const OTHER_MODES: [&str; 3] = ["cpr-reboot", "cpr-transfer", "cpr-exec"];
/// QEMU's limit for `downtime-limit`: 2000 seconds.
const MAX_DOWNTIME_LIMIT_MS: i128 = 2_000_000;
/// QEMU's limit for `x-vcpu-dirty-limit-period`.
const MAX_DIRTY_LIMIT_PERIOD_MS: i128 = 1000;
/// A day: a source that is not back by then needs a person.
const MAX_RECONNECT_S: i128 = 86_400;
const BYTES_PER_SECOND: &str = "an integer of at least 0, in bytes/second";
const PERCENT: &str = "an integer in the range of 1 to 99";
const ON_OFF: &str = "'on' or 'off'";

/// What a row has unless it says otherwise.
const ROW: Parameter =
    Parameter { name: "", unit: "", form: Form::Number, live: Live::Always, expected: "", access: flag!(direct_io) };

/// All parameters in the order in which they are shown: QEMU's order, then those that QEMU does not
/// have.
pub static PARAMETERS: [Parameter; 29] = [
    Parameter {
        name: "announce-initial",
        unit: "ms",
        expected: Timing::Initial.expected(),
        access: announce!(Timing::Initial),
        ..ROW
    },
    Parameter {
        name: "announce-max",
        unit: "ms",
        expected: Timing::Max.expected(),
        access: announce!(Timing::Max),
        ..ROW
    },
    Parameter {
        name: "announce-rounds",
        expected: Timing::Rounds.expected(),
        access: announce!(Timing::Rounds),
        ..ROW
    },
    Parameter {
        name: "announce-step",
        unit: "ms",
        expected: Timing::Step.expected(),
        access: announce!(Timing::Step),
        ..ROW
    },
    Parameter {
        name: "throttle-trigger-threshold",
        expected: "an integer in the range of 1 to 100",
        access: number!(1..=100, auto_converge.threshold),
        ..ROW
    },
    Parameter {
        name: "cpu-throttle-initial",
        expected: PERCENT,
        access: number!(1..=99, auto_converge.initial),
        ..ROW
    },
    Parameter {
        name: "cpu-throttle-increment",
        expected: PERCENT,
        access: number!(1..=99, auto_converge.increment),
        ..ROW
    },
    Parameter {
        name: "cpu-throttle-tailslow",
        form: Form::Flag,
        expected: ON_OFF,
        access: flag!(auto_converge.tailslow),
        ..ROW
    },
    Parameter { name: "max-cpu-throttle", expected: PERCENT, access: number!(1..=99, auto_converge.most), ..ROW },
    Parameter {
        name: "tls-creds",
        form: Form::Text,
        live: Live::WhilePaused,
        expected: "the path of a directory that begins with '/', or nothing for no TLS",
        access: Access::Text {
            get: |all| all.tls_creds.as_deref().map(Path::to_string_lossy).unwrap_or_default().into_owned(),
            set: |all, path| {
                // A relative path would depend on the directory in which the process was started.
                if !path.is_empty() && !path.starts_with('/') {
                    return Err(Refused::OutOfRange);
                }
                all.tls_creds = Some(path).filter(|path| !path.is_empty()).map(PathBuf::from);
                Ok(())
            },
        },
        ..ROW
    },
    Parameter {
        name: "tls-hostname",
        form: Form::Text,
        live: Live::WhilePaused,
        expected: "a name or an address, or nothing for the host that is connected to",
        access: Access::Text {
            get: |all| all.tls_hostname.clone().unwrap_or_default(),
            set: |all, name| {
                all.tls_hostname = Some(name.to_owned()).filter(|name| !name.is_empty());
                Ok(())
            },
        },
        ..ROW
    },
    Parameter {
        name: "max-bandwidth",
        unit: "bytes/second",
        form: Form::Size,
        expected: BYTES_PER_SECOND,
        access: number!(SIZES, max_bandwidth),
        ..ROW
    },
    Parameter {
        name: "avail-switchover-bandwidth",
        unit: "bytes/second",
        form: Form::Size,
        expected: BYTES_PER_SECOND,
        access: number!(SIZES, avail_switchover_bandwidth),
        ..ROW
    },
    Parameter {
        name: "max-postcopy-bandwidth",
        unit: "bytes/second",
        form: Form::Size,
        expected: BYTES_PER_SECOND,
        access: number!(SIZES, max_postcopy_bandwidth),
        ..ROW
    },
    Parameter {
        name: "downtime-limit",
        unit: "ms",
        expected: "an integer in the range of 0 to 2000000 ms",
        access: milliseconds!(0..=MAX_DOWNTIME_LIMIT_MS, downtime_limit),
        ..ROW
    },
    Parameter {
        name: "multifd-channels",
        live: Live::Never,
        expected: "a value between 1 and 255",
        access: number!(1..=255, multifd_channels),
        ..ROW
    },
    Parameter {
        name: "multifd-compression",
        form: Form::Word,
        live: Live::Never,
        expected: "'none', 'zlib' or 'zstd'",
        access: word!(COMPRESSIONS, compression),
        ..ROW
    },
    Parameter {
        name: "multifd-zlib-level",
        live: Live::Never,
        expected: "a value between 0 and 9",
        access: number!(0..=9, zlib_level),
        ..ROW
    },
    Parameter {
        name: "multifd-zstd-level",
        live: Live::Never,
        expected: "a value between 0 and 20",
        access: number!(0..=20, zstd_level),
        ..ROW
    },
    Parameter {
        name: "zero-page-detection",
        form: Form::Word,
        live: Live::Never,
        expected: "'none', 'legacy' or 'multifd'",
        access: word!(ZERO_PAGES, zero_pages),
        ..ROW
    },
    Parameter {
        name: "xbzrle-cache-size",
        unit: "bytes",
        form: Form::Bytes,
        expected: "a power of two no less than the target page size",
        access: Access::Number {
            range: PAGE_SIZE as i128..=u64::MAX as i128,
            get: |all| all.xbzrle_cache.into(),
            set: |all, bytes| {
                all.xbzrle_cache = u64::try_from(bytes).ok().filter(|bytes| bytes.is_power_of_two())?;
                Some(())
            },
        },
        ..ROW
    },
    Parameter {
        name: "x-vcpu-dirty-limit-period",
        unit: "ms",
        expected: "an integer in the range of 1 to 1000 ms",
        access: milliseconds!(1..=MAX_DIRTY_LIMIT_PERIOD_MS, dirty_limit_period),
        ..ROW
    },
    Parameter {
        name: "vcpu-dirty-limit",
        unit: "MB/s",
        expected: "an integer in the range of 1 to 1048576 MB/s",
        access: number!(1..=MAX_DIRTY_LIMIT as i128, vcpu_dirty_limit),
        ..ROW
    },
    Parameter {
        name: "mode",
        form: Form::Word,
        expected: "'normal'",
        access: Access::Text {
            get: |_| NORMAL.to_owned(),
            set: |_, mode| match mode {
                NORMAL => Ok(()),
                _ if OTHER_MODES.contains(&mode) => Err(Refused::Mode),
                _ => Err(Refused::NotAccepted),
            },
        },
        ..ROW
    },
    Parameter { name: "direct-io", form: Form::Flag, expected: ON_OFF, access: flag!(direct_io), ..ROW },
    // The passes of `postcopy-policy`; -1 stands for any other policy, and sets the one of QEMU.
    Parameter {
        name: "x-postcopy-after",
        unit: "passes",
        expected: "an integer from 0 to 4294967295, or -1 for never",
        access: Access::Number {
            range: -1..=u32::MAX as i128,
            get: |all| match all.postcopy_policy {
                Policy::AfterPasses(passes) => passes.into(),
                _ => -1,
            },
            set: |all, passes| {
                all.postcopy_policy = u32::try_from(passes).map_or(Policy::Manual, Policy::AfterPasses);
                Some(())
            },
        },
        ..ROW
    },
    Parameter {
        name: "postcopy-policy",
        form: Form::Word,
        expected: "'manual', 'stalled', 'after-passes=N' or 'time=SECONDS', of 1 to 86400 seconds",
        access: Access::Text {
            get: |all| policy::text_of(all.postcopy_policy),
            set: |all, text| {
                all.postcopy_policy = policy::parse(text).ok_or(Refused::OutOfRange)?;
                Ok(())
            },
        },
        ..ROW
    },
    Parameter {
        name: "x-reconnect",
        unit: "s",
        expected: "an integer in the range of 0 to 86400 s",
        access: Access::Number {
            range: 0..=MAX_RECONNECT_S,
            get: |all| all.reconnect.as_secs().into(),
            set: |all, seconds| {
                all.reconnect = Duration::from_secs(seconds.try_into().ok()?);
                Some(())
            },
        },
        ..ROW
    },
    Parameter {
        name: "x-keepalive",
        unit: "ms",
        expected: "an integer in the range of 2000 to 28800000 ms",
        access: milliseconds!(KEEPALIVE_LEAST.as_millis() as i128..=KEEPALIVE_MOST.as_millis() as i128, keepalive),
        ..ROW
    },
];

impl Parameter {
    /// The one of [`UNSUPPORTED`](Self::UNSUPPORTED) that may be set to nothing.
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

    /// Finds a parameter: `None` for a name that QEMU does not know either.
    pub fn find(name: &str) -> Option<Result<&'static Self, SettingError>> {
        if let Some(found) = PARAMETERS.iter().find(|it| it.name == name) {
            return Some(Ok(found));
        }
        let known = Self::UNSUPPORTED.into_iter().find(|it| *it == name)?;
        Some(Err(SettingError::ParameterUnsupported(known)))
    }

    /// The parameter of a name that is known when the program is compiled: `const {
    /// Parameter::of("max-bandwidth") }`. A name without a row does not compile there.
    pub const fn of(name: &str) -> &'static Self {
        let mut at = 0;
        while !is_same(PARAMETERS[at].name, name) {
            at += 1;
        }
        &PARAMETERS[at]
    }
}

/// `==` in constants.
const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}
