//! The machine's state as sections, and back.
//!
//! | section | instances | layout |
//! |---|---|---|
//! | `clock` | 1 | `machine/clock.rs` |
//! | `pic`, `ioapic`, `pit` | 2, 1, 1 | `machine/chipset.rs` |
//! | `vcpu` | one a vCPU | `vcpu/state.rs` |
//! | `serial`, `reset-control`, `power-management`, `rtc` | 1 each | `devices/` |
//! | `virtio-*` | one a device, the instance is its slot | `devices/virtio/device.rs` |

use std::sync::Arc;
use std::sync::atomic::Ordering;

use whimbrel_postcopy::guest::Section;
use whimbrel_postcopy::logging as log;

use super::chipset::{self, Chipset};
use super::clock::{self, HostTsc, Moment};
use super::{Machine, SavedStateError};
use crate::kvm::VcpuHandle;
use crate::state::layout::StateLayout;
use crate::vcpu::{LoadFor, TscStart, Vcpu, VcpuState, VcpuStateError};

const VCPU: &str = "vcpu";
/// How far two TSC frequencies may lie apart and still count as one, in parts per million: what NTP
/// corrects.
const TSC_TOLERANCE: u64 = 250;

impl Machine {
    /// Everything but RAM; the guest stands still.
    pub(super) fn save_sections(&self) -> Result<Vec<Section>, SavedStateError> {
        let moment = Moment::now(&self.vm)?;
        let mut sections =
            vec![Section { name: clock::SECTION.into(), instance: 0, version: clock::VERSION, bytes: moment.encode() }];
        for vcpu in self.vcpus.iter() {
            sections.push(self.save_vcpu(vcpu, &moment)?);
        }
        sections.extend(Chipset::save(&self.vm)?.encode());
        sections.extend(self.devices.iter().map(|device| Section {
            name: device.name().into(),
            instance: device.instance(),
            version: device.version(),
            bytes: device.save(),
        }));
        Ok(sections)
    }

    /// How all of that is laid out. May be asked at any time.
    pub(super) fn section_layouts(&self) -> Vec<StateLayout> {
        let layout = |name, version, fields| StateLayout { name, version, fields };
        let mut layouts = vec![
            layout(clock::SECTION, clock::VERSION, Moment::LAYOUT.to_vec()),
            layout(VCPU, VcpuState::VERSION, VcpuState::LAYOUT.to_vec()),
        ];
        layouts.extend(Chipset::layouts());
        for device in &self.devices {
            // Two disks are laid out alike.
            if !layouts.iter().any(|known| known.name == device.name()) {
                layouts.push(layout(device.name(), device.version(), device.layout()));
            }
        }
        layouts
    }

    fn save_vcpu(&self, vcpu: &Vcpu, moment: &Moment) -> Result<Section, SavedStateError> {
        let failed = |source| SavedStateError::Vcpu { index: vcpu.index(), source };
        let host = (moment.host_tsc, self.processor.tsc_khz);
        let state = VcpuState::save(vcpu, &self.msrs, host);
        Ok(Section {
            name: VCPU.into(),
            instance: vcpu.index().into(),
            version: VcpuState::VERSION,
            bytes: state.map_err(failed)?.encode(),
        })
    }

    /// Loads what [`Self::save_sections`] gave, perhaps on another host. All sections must be
    /// there, and those of CPUs, chipset and clock are read to the end, before anything is changed.
    /// The guest stands still.
    pub(super) fn load_sections(&self, sections: &[Section]) -> Result<(), SavedStateError> {
        self.check_sections(sections)?;
        let find = |name: &'static str, instance| find(sections, name, instance);
        let (version, bytes) = find(clock::SECTION, 0)?;
        let saved = Moment::decode(version, bytes)?;
        let chipset = Chipset::decode(find)?;
        let mut states = Vec::with_capacity(self.vcpus.len());
        for vcpu in self.vcpus.iter() {
            let (version, bytes) = find(VCPU, vcpu.index().into())?;
            states.push(VcpuState::decode(version, bytes)?);
        }

        chipset.load(&self.vm)?;
        self.start_time(&saved, &states)?;
        for (vcpu, state) in self.vcpus.iter().zip(&states) {
            let failed = |source| SavedStateError::Vcpu { index: vcpu.index(), source };
            state.load(vcpu, &self.msrs, LoadFor::Arrival).map_err(failed)?;
        }
        // Once more: KVM goes by other bases once it has seen that all TSCs agree.
        Moment::now(&self.vm)?.start_clock(&saved, &self.vm)?;
        for device in &self.devices {
            let (version, bytes) = find(device.name(), device.instance())?;
            device.load(version, bytes)?;
        }
        Ok(())
    }

    /// Whether the sections are those of a machine like this one, and those of CPUs, chipset and
    /// clock can be read.
    pub(super) fn check_state(&self, sections: &[Section]) -> Result<(), SavedStateError> {
        self.check_sections(sections)?;
        let find = |name: &'static str, instance| find(sections, name, instance);
        let (version, bytes) = find(clock::SECTION, 0)?;
        Moment::decode(version, bytes)?;
        Chipset::decode(find)?;
        for vcpu in self.vcpus.iter() {
            let (version, bytes) = find(VCPU, vcpu.index().into())?;
            if !VcpuState::decode(version, bytes)?.is_of_one_shown(vcpu) {
                return Err(SavedStateError::OtherProcessor);
            }
        }
        self.devices.iter().try_for_each(|device| find(device.name(), device.instance()).map(drop))
    }

    /// Starts kvmclock and all TSCs, before anything that may take long: loading a vCPU's state
    /// touches guest RAM, which may have to come from the source first.
    fn start_time(&self, saved: &Moment, states: &[VcpuState]) -> Result<(), SavedStateError> {
        let starts = self.tsc_starts(saved, states)?;
        log::debug!("the TSCs start as {starts:x?}");
        for (vcpu, start) in self.vcpus.iter().zip(starts) {
            let failed = |source| SavedStateError::Vcpu { index: vcpu.index(), source };
            start.apply(vcpu, &self.msrs).map_err(failed)?;
        }
        Ok(())
    }

    /// Starts kvmclock; gives how each vCPU's TSC is to start.
    pub(super) fn tsc_starts(&self, saved: &Moment, states: &[VcpuState]) -> Result<Vec<TscStart>, SavedStateError> {
        // Before its clock is set for the first time KVM does not tell the host's TSC of the same
        // moment.
        Moment::now(&self.vm)?.start_clock(saved, &self.vm)?;
        let now = Moment::now(&self.vm)?;
        // One TSC for all where the source could not tell them of one moment.
        let shared = states.first().map_or(0, |state| state.tsc);
        let start = |(vcpu, state): (&Arc<Vcpu>, &VcpuState)| {
            let failed = |source| SavedStateError::Vcpu { index: vcpu.index(), source };
            let tsc = if saved.host_tsc.is_some() { state.tsc } else { shared };
            let handle = vcpu.lock();
            let scaled = self.set_tsc_rate(&handle, state.tsc_khz).map_err(failed)?;
            let host = handle.has_tsc_offset().then_some(HostTsc { khz: self.processor.tsc_khz, scaled });
            Ok(now.start_tsc(saved, tsc, state.tsc_khz, host))
        };
        self.vcpus.iter().zip(states).map(start).collect()
    }

    /// Has the TSC run at the guest's frequency; whether KVM scales it for that.
    fn set_tsc_rate(&self, vcpu: &VcpuHandle, wanted: u32) -> Result<bool, VcpuStateError> {
        let here = self.processor.tsc_khz;
        if same_rate(wanted, here) {
            return Ok(false);
        }
        if !self.vm.capabilities().tsc_control {
            return Err(VcpuStateError::TscRate { wanted, here });
        }
        vcpu.set_tsc_khz(wanted)?;
        self.processor.guest_tsc_khz.store(wanted, Ordering::Relaxed);
        Ok(true)
    }

    /// Whether the sections are those of a machine like this one.
    fn check_sections(&self, sections: &[Section]) -> Result<(), SavedStateError> {
        let single = |section: &Section, name: &str| section.name == name && section.instance == 0;
        for (at, section) in sections.iter().enumerate() {
            let (name, instance) = (section.name.clone(), section.instance);
            let known = single(section, clock::SECTION)
                || (name == VCPU && (instance as usize) < self.vcpus.len())
                || chipset::SECTIONS.iter().any(|(chip, count)| name == *chip && instance < *count)
                || self.devices.iter().any(|device| name == device.name() && instance == device.instance());
            if !known {
                return Err(SavedStateError::Unknown { name, instance });
            }
            let before = &sections[..at];
            if before.iter().any(|other| other.name == name && other.instance == instance) {
                return Err(SavedStateError::Twice { name, instance });
            }
        }
        Ok(())
    }
}

/// What kvmclock stood at when this was saved.
pub(super) fn kvmclock(sections: &[Section]) -> Option<u64> {
    let (version, bytes) = find(sections, clock::SECTION, 0).ok()?;
    Some(Moment::decode(version, bytes).ok()?.kvmclock)
}

/// Whether a guest that knows one frequency in kHz does not notice the other.
pub(super) fn same_rate(one: u32, other: u32) -> bool {
    u64::from(one.abs_diff(other)) * 1_000_000 <= u64::from(other) * TSC_TOLERANCE
}

/// A section's version and bytes.
pub(super) fn find<'a>(sections: &'a [Section], name: &str, instance: u32) -> Result<(u32, &'a [u8]), SavedStateError> {
    sections
        .iter()
        .find(|section| section.name == name && section.instance == instance)
        .map(|section| (section.version, section.bytes.as_slice()))
        .ok_or_else(|| SavedStateError::Missing { name: name.into(), instance })
}

#[cfg(test)]
mod tests {
    use super::same_rate;

    #[test]
    fn rates_that_ntp_corrects_are_the_same() {
        assert!(same_rate(2_000_000, 2_000_000));
        assert!(same_rate(2_000_400, 2_000_000));
        assert!(!same_rate(2_001_000, 2_000_000));
        assert!(!same_rate(2_000_000, 0));
    }
}
