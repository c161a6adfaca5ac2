//! What `whimbrel migrate` sets for one migration.

use clap::{Args, ValueEnum};

use super::parse;
use crate::client::{GivenTwice, Mode, Settings};
use crate::migration::capabilities::Capability;
use crate::migration::parameters::{PARAMETERS, Parameter, Parameters};
use crate::migration::reading::ReadError;
use crate::migration::setting::{Setting, SettingError};
use crate::nearest::hint;

/// A parameter and what it is set to.
type Given = (&'static Parameter, Setting);

/// Options that are set in the virtual machine for one migration.
#[derive(Args, Debug)]
pub struct SettingsArgs {
    /// How to move [default: as the virtual machine was told by --postcopy-after or
    /// 'postcopy-policy']
    #[arg(long, value_enum, help_heading = "Settings for this migration")]
    mode: Option<ModeName>,

    /// hybrid: how many precopy passes come before postcopy [default: 1]
    #[arg(long, value_name = "N", help_heading = "Settings for this migration")]
    passes: Option<u32>,

    /// When to turn to postcopy by itself: manual, stalled, after-passes=N or time=SECONDS
    #[arg(long, value_name = "POLICY", conflicts_with_all = ["mode", "passes"], help_heading = "Settings for this migration")]
    postcopy_policy: Option<String>,

    /// Limit per second, suffix K, M, G or T, a bare number in MiB; 0: none
    #[arg(long, value_name = "SIZE", value_parser = parse::bandwidth, help_heading = "Settings for this migration")]
    bandwidth: Option<u64>,

    /// The same for pages that nobody waits for, in postcopy
    #[arg(long, value_name = "SIZE", value_parser = parse::bandwidth, help_heading = "Settings for this migration")]
    postcopy_bandwidth: Option<u64>,

    /// precopy: what the link is taken to carry when it is decided whether to switch; 0: as
    /// measured
    #[arg(long, value_name = "SIZE", value_parser = parse::bandwidth, help_heading = "Settings for this migration")]
    switchover_bandwidth: Option<u64>,

    /// precopy: how long the guest may stand still, in milliseconds
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(..=2_000_000), help_heading = "Settings for this migration")]
    downtime_limit: Option<u64>,

    /// On how many channels pages go at once, 1 to 255; 0: on the main one only
    #[arg(long, value_name = "N", help_heading = "Settings for this migration")]
    channels: Option<u8>,

    /// Compress pages: none, or zlib or zstd with a level if wanted, such as zstd:7
    #[arg(long, value_name = "METHOD[:LEVEL]", help_heading = "Settings for this migration")]
    compression: Option<String>,

    /// Send what has changed of a page that went before
    ///
    /// 'xbzrle-cache-size' says how many bytes of pages are kept for that.
    #[arg(long, value_name = "on|off", value_parser = on_off, help_heading = "Settings for this migration")]
    xbzrle: Option<bool>,

    /// Slow the guest down as far as it takes, if it writes faster than its memory can be sent
    #[arg(long, value_name = "on|off", value_parser = on_off, help_heading = "Settings for this migration")]
    auto_converge: Option<bool>,

    /// The same, by no more than keeps each vCPU at so many MiB per second; 0: off
    #[arg(long, value_name = "MIB", help_heading = "Settings for this migration")]
    dirty_limit: Option<u32>,

    /// postcopy: for how many seconds a link that broke is connected again by itself; 0: never. The
    /// destination's 'x-reconnect' must be set, too
    #[arg(long, value_name = "SECONDS", help_heading = "Settings for this migration")]
    reconnect: Option<u32>,

    /// How long the peer may be silent, in milliseconds
    #[arg(long, value_name = "MS", help_heading = "Settings for this migration")]
    keepalive: Option<u32>,

    /// Encrypt: the directory with the certificates, on the host of the virtual machine; '' for not
    #[arg(long, value_name = "DIR", help_heading = "Settings for this migration")]
    tls_dir: Option<String>,

    /// What the destination's certificate must be for [default: the host in --to]
    #[arg(long, value_name = "NAME", help_heading = "Settings for this migration")]
    tls_hostname: Option<String>,

    /// Any other migration parameter, as 'migrate_set_parameter' takes it; may be given several
    /// times
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = parameter, help_heading = "Settings for this migration")]
    parameters: Vec<Given>,

    /// Any other migration capability, as 'migrate_set_capability' takes it; may be given several
    /// times
    #[arg(long = "capability", value_name = "NAME=on|off", value_parser = capability, help_heading = "Settings for this migration")]
    capabilities: Vec<(Capability, bool)>,
}

/// `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ModeName {
    /// All memory first, then the CPUs
    Precopy,
    /// The CPUs at once, memory follows
    Postcopy,
    /// Some passes over memory, then the CPUs, then the rest
    Hybrid,
}

/// Something that cannot be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSetting {
    /// `--passes` without hybrid.
    #[error("--passes goes with --mode hybrid only; add that, or leave --passes out")]
    PassesWithoutHybrid,
    /// No such method.
    #[error("'{0}' is no way to compress; give none, zlib, zstd, or one of them with a level, such as zstd:7")]
    MultifdCompression(String),
    /// Outside of what makes sense.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// Two values.
    #[error(transparent)]
    Twice(#[from] GivenTwice),
    /// Not of the form.
    #[error("'{given}' lacks a value; write {expected}")]
    NoValue {
        /// What was given.
        given: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A name that does not exist.
    #[error("there is no {kind} '{name}'{hint}")]
    NoSuchName {
        /// What kind of thing it was to be.
        kind: &'static str,
        /// What was given.
        name: String,
        /// What it may have meant.
        hint: String,
    },
    /// Not of the parameter's kind.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Neither on nor off.
    #[error("'{0}' is neither 'on' nor 'off'")]
    OnOff(String),
}

fn on_off(text: &str) -> Result<bool, NoSetting> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(NoSetting::OnOff(text.to_owned())),
    }
}

fn parameter(text: &str) -> Result<Given, NoSetting> {
    let no_value = || NoSetting::NoValue { given: text.to_owned(), expected: "NAME=VALUE" };
    let (name, value) = text.split_once('=').ok_or_else(no_value)?;
    let no_such = || NoSetting::NoSuchName {
        kind: "migration parameter",
        name: name.to_owned(),
        hint: hint(name, PARAMETERS.iter().map(|it| it.name)),
    };
    let parameter = Parameter::find(name).ok_or_else(no_such)??;
    let setting = parameter.read(value)?;
    Parameters::default().set(parameter, setting.clone())?;
    Ok((parameter, setting))
}

fn capability(text: &str) -> Result<(Capability, bool), NoSetting> {
    let no_value = || NoSetting::NoValue { given: text.to_owned(), expected: "NAME=on or NAME=off" };
    let (name, state) = text.split_once('=').ok_or_else(no_value)?;
    let no_such = || NoSetting::NoSuchName {
        kind: "migration capability",
        name: name.to_owned(),
        hint: hint(name, Capability::names()),
    };
    Ok((Capability::find(name).ok_or_else(no_such)??, on_off(state)?))
}

impl SettingsArgs {
    /// The directory is meant from where it was typed.
    pub(super) fn make_absolute(&mut self) {
        let given = self.tls_dir.as_deref().filter(|directory| !directory.is_empty());
        if let Some(absolute) = given.and_then(|directory| parse::absolute(directory).ok()) {
            self.tls_dir = Some(absolute.to_string_lossy().into_owned());
        }
    }

    /// What is set, checked as far as it can be here.
    pub(super) fn validate(self) -> Result<Settings, NoSetting> {
        let mut all = Settings::default();
        let mode = match (self.mode, self.passes) {
            (Some(ModeName::Hybrid), passes) => Some(Mode::Hybrid { passes: passes.unwrap_or(1) }),
            (_, Some(_)) => return Err(NoSetting::PassesWithoutHybrid),
            (Some(ModeName::Precopy), None) => Some(Mode::Precopy),
            (Some(ModeName::Postcopy), None) => Some(Mode::Postcopy),
            (None, None) => None,
        };
        let policy = self.postcopy_policy.or_else(|| Some(mode?.policy()));
        if policy.as_deref().is_some_and(|policy| policy != "manual") {
            all.capability(Capability::PostcopyRam, true)?;
        }
        let mut capability = |capability, on: Option<bool>| on.map_or(Ok(()), |on| all.capability(capability, on));
        capability(Capability::Multifd, self.channels.map(|channels| channels > 0))?;
        capability(Capability::Xbzrle, self.xbzrle)?;
        capability(Capability::AutoConverge, self.auto_converge)?;
        capability(Capability::DirtyLimit, self.dirty_limit.map(|limit| limit > 0))?;
        for (named, on) in self.capabilities {
            capability(named, Some(on))?;
        }

        let number = |number: Option<u64>| number.map(|it| Setting::Number(it.into()));
        let text = |text: Option<String>| text.map(Setting::Text);
        let (method, level) = self.compression.as_deref().map(compression).transpose()?.unzip();
        let own = [
            (const { Parameter::of("postcopy-policy") }, text(policy)),
            (const { Parameter::of("max-bandwidth") }, number(self.bandwidth)),
            (const { Parameter::of("max-postcopy-bandwidth") }, number(self.postcopy_bandwidth)),
            (const { Parameter::of("avail-switchover-bandwidth") }, number(self.switchover_bandwidth)),
            (const { Parameter::of("downtime-limit") }, number(self.downtime_limit)),
            (const { Parameter::of("multifd-channels") }, number(self.channels.filter(|it| *it > 0).map(u64::from))),
            (const { Parameter::of("multifd-compression") }, method),
            (const { Parameter::of("vcpu-dirty-limit") }, number(self.dirty_limit.filter(|it| *it > 0).map(u64::from))),
            (const { Parameter::of("x-reconnect") }, number(self.reconnect.map(u64::from))),
            (const { Parameter::of("x-keepalive") }, number(self.keepalive.map(u64::from))),
            (const { Parameter::of("tls-creds") }, text(self.tls_dir)),
            (const { Parameter::of("tls-hostname") }, text(self.tls_hostname)),
        ];
        let given = own.into_iter().filter_map(|(parameter, setting)| Some((parameter, setting?)));
        for (parameter, setting) in given.chain(level.flatten()).chain(self.parameters) {
            Parameters::default().set(parameter, setting.clone())?;
            all.parameter(parameter, setting)?;
        }
        Ok(all)
    }
}

/// A method of compression, and its level.
fn compression(text: &str) -> Result<(Setting, Option<Given>), NoSetting> {
    let refuse = || NoSetting::MultifdCompression(text.to_owned());
    let (method, level) = text.split_once(':').map_or((text, None), |(method, level)| (method, Some(level)));
    let level = match (method, level) {
        ("none" | "zlib" | "zstd", None) => None,
        ("zlib", Some(level)) => Some((const { Parameter::of("multifd-zlib-level") }, level)),
        ("zstd", Some(level)) => Some((const { Parameter::of("multifd-zstd-level") }, level)),
        _ => return Err(refuse()),
    };
    let read = |(parameter, level): (_, &str)| match level.parse() {
        Ok(level) => Ok((parameter, Setting::Number(level))),
        Err(_) => Err(refuse()),
    };
    Ok((method.into(), level.map(read).transpose()?))
}
