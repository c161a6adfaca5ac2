//! A vCPU's saved registers.
//!
//! # Layout, version 1 (little-endian; kernel structures as they are)
//! ```text
//! u32 n, n x kvm_cpuid_entry2 (40)   what CPUID shows
//! u32                                mp_state
//! kvm_regs (144)  kvm_sregs (312)
//! u32 n, n bytes                     XSAVE area
//! kvm_xcrs (392)  kvm_debugregs (128)  kvm_lapic_state (1024)
//! u32 n, n x { u32 index, u32 0, u64 value }   MSRs, IA32_TSC left out
//! kvm_vcpu_events (64)
//! u32                                TSC frequency in kHz
//! u64                                TSC at the moment of the clock section
//! ```

use kvm_bindings::{
    kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs,
};

use super::msrs::{TSC, entry, is_of_the_processor};
use super::{MsrError, MsrTable, Vcpu};
use crate::kvm::layouts::{CPUID_ENTRY, DEBUGREGS, EVENTS, LAPIC, MSR_ENTRY, REGS, SREGS, XCRS};
use crate::kvm::{KernelStruct, KvmError, as_bytes, from_bytes};
use crate::state::layout::{Count, Field, Type};
use crate::state::{StateError, StateReader, StateWriter};

const DEVICE: &str = "vcpu";

/// Why a vCPU's state cannot be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum VcpuStateError {
    /// The bytes are not a vCPU's state.
    #[error(transparent)]
    State(#[from] StateError),
    /// KVM refuses.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// An MSR cannot be loaded.
    #[error(transparent)]
    Msr(#[from] MsrError),
    /// The guest's clock rate cannot be had here.
    #[error("the guest's TSC runs at {wanted} kHz, this host's at {here} kHz, and this host cannot scale it")]
    TscRate {
        /// What the guest knows.
        wanted: u32,
        /// What the host has.
        here: u32,
    },
}

/// How a loaded vCPU's TSC is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TscStart {
    /// By its offset from the host's TSC: exact.
    Offset(u64),
    /// By its value. KVM makes those of several vCPUs agree if they are written within a second, so
    /// nothing may come between.
    Value(u64),
}

impl TscStart {
    /// Starts the vCPU's TSC.
    pub fn apply(self, vcpu: &Vcpu, table: &MsrTable) -> Result<(), VcpuStateError> {
        let vcpu = vcpu.lock();
        match self {
            Self::Offset(offset) => vcpu.set_tsc_offset(offset)?,
            Self::Value(value) => table.load(&vcpu, &[entry(TSC, value)])?,
        }
        Ok(())
    }
}

/// What a state is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadFor {
    /// A guest arrives. Its TSC has been started.
    Arrival,
    /// The guest is reset: the TSC goes on, and CPUID and the MSRs that say what the processor is,
    /// which KVM does not let a vCPU change that ran, stay: they may be those of another host.
    Reset,
}

/// Everything that makes up a stopped vCPU.
#[derive(Clone)]
pub struct VcpuState {
    cpuid: Vec<kvm_cpuid_entry2>,
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Vec<u8>,
    xcrs: kvm_xcrs,
    debugregs: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
    /// The TSC's frequency in kHz.
    pub tsc_khz: u32,
    /// The TSC at the moment that the clock's saved state names.
    pub tsc: u64,
}

impl VcpuState {
    /// The layout's version.
    pub const VERSION: u32 = 1;

    /// Reads a stopped vCPU. `host` is the host's TSC at the moment of the clock's state, where KVM
    /// told it, and its frequency in kHz; without, or where the guest's TSC is scaled (and so is
    /// not the host's plus an offset), the TSC is that of the moment of reading.
    pub fn save(
        vcpu: &Vcpu,
        table: &MsrTable,
        (host_tsc, host_khz): (Option<u64>, u32),
    ) -> Result<Self, VcpuStateError> {
        let cpuid = vcpu.cpuid().clone();
        let mut vcpu = vcpu.lock();
        // First: KVM takes pending INIT and SIPI into account here, which changes what follows.
        let mp_state = vcpu.mp_state()?;
        let mut msrs = table.save(&vcpu, &cpuid)?;
        let read = msrs.iter().position(|msr| msr.index == TSC);
        let read = read.map_or(0, |at| msrs.remove(at).data);
        let tsc_khz = vcpu.tsc_khz()?;
        let tsc = match (host_tsc, vcpu.tsc_offset()?) {
            (Some(host), Some(offset)) if tsc_khz == host_khz => host.wrapping_add(offset),
            _ => read,
        };
        Ok(Self {
            cpuid,
            mp_state,
            regs: vcpu.regs()?,
            sregs: vcpu.sregs()?,
            xsave: vcpu.xsave()?.to_vec(),
            xcrs: vcpu.xcrs()?,
            debugregs: vcpu.debugregs()?,
            lapic: vcpu.lapic()?,
            msrs,
            tsc_khz,
            tsc,
            // Last: the calls before may have turned a pending event into another.
            events: vcpu.events()?,
        })
    }

    /// Whether it is of a vCPU that was shown what this one is.
    pub fn is_of_one_shown(&self, vcpu: &Vcpu) -> bool {
        *vcpu.cpuid() == self.cpuid
    }

    /// Gives it all to a stopped vCPU, in the order that KVM needs: the LAPIC after the APIC base
    /// (sregs) and before the TSC deadline (MSRs), which comes after the TSC ([`TscStart::apply`]);
    /// events after the registers, whose setting clears pending exceptions.
    pub fn load(&self, vcpu: &Vcpu, table: &MsrTable, purpose: LoadFor) -> Result<(), VcpuStateError> {
        let mut shown = vcpu.cpuid();
        let mut vcpu = vcpu.lock();
        if purpose == LoadFor::Arrival && *shown != self.cpuid {
            vcpu.set_cpuid(&self.cpuid)?;
            shown.clone_from(&self.cpuid);
        }
        vcpu.set_mp_state(self.mp_state)?;
        vcpu.set_regs(&self.regs)?;
        vcpu.set_sregs(&self.sregs)?;
        vcpu.set_xsave(&self.xsave)?;
        vcpu.set_xcrs(&self.xcrs)?;
        vcpu.set_debugregs(&self.debugregs)?;
        vcpu.set_lapic(&self.lapic)?;
        match purpose {
            LoadFor::Arrival => table.load(&vcpu, &self.msrs)?,
            LoadFor::Reset => {
                let changeable = self.msrs.iter().filter(|msr| !is_of_the_processor(msr.index));
                table.load(&vcpu, &changeable.copied().collect::<Vec<_>>())?;
            }
        }
        vcpu.set_events(&self.events)?;
        Ok(())
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer =
            StateWriter::with_capacity(2200 + self.cpuid.len() * 40 + self.msrs.len() * 16 + self.xsave.len());
        writer.u32(self.cpuid.len() as u32);
        for leaf in &self.cpuid {
            writer.bytes(as_bytes(leaf));
        }
        writer.u32(self.mp_state.mp_state);
        writer.bytes(as_bytes(&self.regs));
        writer.bytes(as_bytes(&self.sregs));
        writer.u32(self.xsave.len() as u32);
        writer.bytes(&self.xsave);
        writer.bytes(as_bytes(&self.xcrs));
        writer.bytes(as_bytes(&self.debugregs));
        writer.bytes(as_bytes(&self.lapic));
        writer.u32(self.msrs.len() as u32);
        for msr in &self.msrs {
            writer.bytes(as_bytes(msr));
        }
        writer.bytes(as_bytes(&self.events));
        writer.u32(self.tsc_khz);
        writer.u64(self.tsc);
        writer.finish()
    }

    /// The same for tools.
    pub const LAYOUT: &[Field] = &[
        Field("CPUID leaves", Type::List(Count::Prefix, &Type::Struct(CPUID_ENTRY))),
        Field("mp_state", Type::U32),
        Field("registers", Type::Struct(REGS)),
        Field("segment registers", Type::Struct(SREGS)),
        Field("XSAVE area", Type::Bytes(Count::Prefix)),
        Field("extended control registers", Type::Struct(XCRS)),
        Field("debug registers", Type::Struct(DEBUGREGS)),
        Field("LAPIC", Type::Struct(LAPIC)),
        Field("MSRs", Type::List(Count::Prefix, &Type::Struct(MSR_ENTRY))),
        Field("events", Type::Struct(EVENTS)),
        Field("TSC frequency", Type::U32),
        Field("TSC", Type::U64),
    ];

    /// From bytes.
    pub fn decode(version: u32, bytes: &[u8]) -> Result<Self, StateError> {
        let mut reader = StateReader::new(DEVICE, version, Self::VERSION, bytes)?;
        let cpuid = structures(&mut reader, "CPUID leaves")?;
        let mp_state = structure(&mut reader, "mp_state")?;
        let regs = structure(&mut reader, "registers")?;
        let sregs = structure(&mut reader, "segment registers")?;
        let count = reader.count(1, "XSAVE area")?;
        let xsave = reader.bytes(count, "XSAVE area")?.to_vec();
        let state = Self {
            cpuid,
            mp_state,
            regs,
            sregs,
            xsave,
            xcrs: structure(&mut reader, "extended control registers")?,
            debugregs: structure(&mut reader, "debug registers")?,
            lapic: structure(&mut reader, "LAPIC")?,
            msrs: structures(&mut reader, "MSRs")?,
            events: structure(&mut reader, "events")?,
            tsc_khz: reader.u32("TSC frequency")?,
            tsc: reader.u64("TSC")?,
        };
        reader.finish()?;
        Ok(state)
    }
}

/// The next kernel structure.
fn structure<T: KernelStruct>(reader: &mut StateReader<'_>, field: &'static str) -> Result<T, StateError> {
    let bytes = reader.bytes(size_of::<T>(), field)?;
    from_bytes(bytes).ok_or(StateError::Truncated { device: DEVICE, field })
}

/// A count and that many kernel structures.
fn structures<T: KernelStruct>(reader: &mut StateReader<'_>, field: &'static str) -> Result<Vec<T>, StateError> {
    let count = reader.count(size_of::<T>(), field)?;
    (0..count).map(|_| structure(reader, field)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::kvm::zeroed;

    fn sample() -> VcpuState {
        VcpuState {
            cpuid: vec![kvm_cpuid_entry2 { function: 1, ecx: 0x8000_0000, ..zeroed() }],
            mp_state: kvm_mp_state { mp_state: 3 },
            regs: kvm_regs { rip: 0x10_0000, ..zeroed() },
            sregs: zeroed(),
            xsave: (0..=255).cycle().take(4096).collect(),
            xcrs: zeroed(),
            debugregs: zeroed(),
            lapic: zeroed(),
            msrs: vec![entry(0xc000_0080, 0x500), entry(0x6e0, 7)],
            events: zeroed(),
            tsc_khz: 2_000_000,
            tsc: 0x1234_5678_9abc,
        }
    }

    #[test]
    fn bytes_and_back() {
        let bytes = sample().encode();
        let back = VcpuState::decode(1, &bytes).unwrap();
        assert_eq!(back.encode(), bytes);
        assert_eq!(back.regs.rip, 0x10_0000);
        assert_eq!(back.msrs[0].data, 0x500);
        assert_eq!(back.tsc, 0x1234_5678_9abc);
    }

    #[test]
    fn its_layout_is_what_is_read() {
        let bytes = sample().encode();
        let load = || drop(VcpuState::decode(1, &bytes).unwrap());
        crate::state::testing::assert_layout(VcpuState::LAYOUT, &bytes, load);
    }

    #[test]
    fn cut_anywhere_it_is_refused() {
        let bytes = sample().encode();
        for length in 0..bytes.len() {
            assert!(VcpuState::decode(1, &bytes[..length]).is_err(), "{length}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(matches!(VcpuState::decode(1, &longer), Err(StateError::Trailing { count: 1, .. })));
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let error = VcpuState::decode(2, &sample().encode()).err().unwrap();
        assert!(error.to_string().contains("vcpu"), "{error}");
    }
}
