//! The interrupt controllers and the timer that KVM keeps for the whole VM.

use kvm_bindings::{kvm_irqchip, kvm_pit_state2};
use whimbrel_postcopy::guest::Section;

use crate::kvm::layouts::{IOAPIC as IOAPIC_FIELDS, PIC, PIT};
use crate::kvm::{KernelStruct, KvmError, Vm, as_bytes, from_bytes};
use crate::state::layout::{Field, StateLayout, Type};
use crate::state::{StateError, StateReader};

/// The layouts' version, of each chip: the kernel's structure, as it is.
pub(super) const VERSION: u32 = 1;
/// Names of the sections, with how many of each there are.
pub(super) const SECTIONS: [(&str, u32); 3] = [("pic", 2), ("ioapic", 1), ("pit", 1)];

/// KVM's number of the I/O APIC among the interrupt chips; 0 and 1 are the PICs.
const IOAPIC: u32 = 2;

/// Their state.
pub(super) struct Chipset {
    pics: [kvm_irqchip; 2],
    ioapic: kvm_irqchip,
    pit: kvm_pit_state2,
}

impl Chipset {
    /// Reads it; the guest stands still.
    pub fn save(vm: &Vm) -> Result<Self, KvmError> {
        Ok(Self { pics: [vm.irqchip(0)?, vm.irqchip(1)?], ioapic: vm.irqchip(IOAPIC)?, pit: vm.pit()? })
    }

    /// Sets it; the guest stands still.
    pub fn load(&self, vm: &Vm) -> Result<(), KvmError> {
        for pic in &self.pics {
            vm.set_irqchip(pic)?;
        }
        vm.set_irqchip(&self.ioapic)?;
        vm.set_pit(&self.pit)
    }

    /// As sections.
    pub fn encode(&self) -> [Section; 4] {
        let section = |name: &str, instance, bytes: &[u8]| Section {
            name: name.into(),
            instance,
            version: VERSION,
            bytes: bytes.to_vec(),
        };
        [
            section("pic", 0, as_bytes(&self.pics[0])),
            section("pic", 1, as_bytes(&self.pics[1])),
            section("ioapic", 0, as_bytes(&self.ioapic)),
            section("pit", 0, as_bytes(&self.pit)),
        ]
    }

    /// The same for tools.
    pub fn layouts() -> [StateLayout; 3] {
        let layout = |name, structure| StateLayout {
            name,
            version: VERSION,
            fields: vec![Field("registers", Type::Struct(structure))],
        };
        [layout("pic", PIC), layout("ioapic", IOAPIC_FIELDS), layout("pit", PIT)]
    }

    /// From sections; `find` gives version and bytes of a section.
    pub fn decode<'a, E: From<StateError>>(
        find: impl Fn(&'static str, u32) -> Result<(u32, &'a [u8]), E>,
    ) -> Result<Self, E> {
        let chip = |name, instance, id| -> Result<kvm_irqchip, E> {
            let chip: kvm_irqchip = structure(name, find(name, instance)?)?;
            if chip.chip_id != id {
                return Err(StateError::Value { device: name, field: "chip number", value: chip.chip_id.into() }.into());
            }
            Ok(chip)
        };
        Ok(Self {
            pics: [chip("pic", 0, 0)?, chip("pic", 1, 1)?],
            ioapic: chip("ioapic", 0, IOAPIC)?,
            pit: structure("pit", find("pit", 0)?)?,
        })
    }
}

/// A section that is one kernel structure.
fn structure<T: KernelStruct>(device: &'static str, (version, bytes): (u32, &[u8])) -> Result<T, StateError> {
    let mut reader = StateReader::new(device, version, VERSION, bytes)?;
    let structure = from_bytes(reader.bytes(size_of::<T>(), "registers")?);
    reader.finish()?;
    structure.ok_or(StateError::Truncated { device, field: "registers" })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::kvm::zeroed;
    use crate::state::testing::assert_layout;

    #[test]
    fn their_layouts_are_what_is_read() {
        let chipset = Chipset { pics: [zeroed(), zeroed()], ioapic: zeroed(), pit: zeroed() };
        for section in chipset.encode() {
            let layout = Chipset::layouts().into_iter().find(|layout| layout.name == section.name).unwrap();
            let saved = (section.version, section.bytes.as_slice());
            assert_layout(&layout.fields, &section.bytes, || match layout.name {
                "pit" => assert_eq!(structure::<kvm_pit_state2>(layout.name, saved).unwrap().flags, 0),
                name => assert_eq!(structure::<kvm_irqchip>(name, saved).unwrap().chip_id, 0),
            });
        }
    }
}
