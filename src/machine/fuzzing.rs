//! Decoding saved state without a virtual machine, for `tests/fuzz`.

use whimbrel_postcopy::guest::{Configuration, Section};

use super::chipset::Chipset;
use super::clock::{self, HostTsc, Moment};
use super::saved::find;
use super::{ConfigurationError, SavedStateError, configuration};
use crate::vcpu::VcpuState;

/// Reads the sections of clock, chipset and first vCPU, and computes what would be given to KVM of
/// them. What is decoded encodes to the same bytes again, or this is `false`.
pub fn decode(sections: &[Section]) -> Result<bool, SavedStateError> {
    let find = |name: &'static str, instance| find(sections, name, instance);
    let (version, clock_bytes) = find(clock::SECTION, 0)?;
    let saved = Moment::decode(version, clock_bytes)?;
    let chipset = Chipset::decode(find)?;
    let (version, vcpu_bytes) = find("vcpu", 0)?;
    let state = VcpuState::decode(version, vcpu_bytes)?;
    let now = [&[7; 16][..], &1u32.to_le_bytes(), &[7; 8]].concat();
    let now = Moment::decode(clock::VERSION, &now)?;
    for scaled in [false, true] {
        now.start_tsc(&saved, state.tsc, state.tsc_khz, Some(HostTsc { khz: 2_000_000, scaled }));
    }
    let same_chipset = chipset.encode().iter().all(|section| {
        sections
            .iter()
            .any(|it| (&it.name, it.instance, &it.bytes) == (&section.name, section.instance, &section.bytes))
    });
    // A clock without a TSC has bytes of no meaning in its place.
    let same_clock = saved.host_tsc.is_none() || saved.encode() == clock_bytes;
    Ok(same_chipset && same_clock && state.encode() == vcpu_bytes)
}

/// What a host with the facts `here` says of those of `source`.
pub fn compare(here: &Configuration, source: &Configuration) -> Result<(), ConfigurationError> {
    configuration::check(here, source)
}
