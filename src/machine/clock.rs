//! kvmclock and the TSCs: the guest's time goes on by the wall time that passes while it moves.
//!
//! The source notes kvmclock, the wall clock and its own TSC of one moment, and each vCPU's TSC of
//! that moment. The destination asks for the same three now. What the wall clocks differ by has
//! passed; a wall clock that is behind counts as no time at all, for a guest must never see its
//! time go back.

use std::time::{SystemTime, UNIX_EPOCH};

use kvm_bindings::{KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME};

use crate::kvm::{KvmError, Vm};
use crate::state::layout::{Field, Type};
use crate::state::{StateError, StateReader, StateWriter};
use crate::vcpu::TscStart;

/// The layout's version.
pub(super) const VERSION: u32 = 1;
/// The section's name.
pub(super) const SECTION: &str = "clock";

/// kvmclock, the wall clock and the host's TSC at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// kvmclock in nanoseconds.
    pub kvmclock: u64,
    /// The wall clock in nanoseconds since 1970.
    pub realtime: u64,
    /// Whether KVM itself told the wall clock, so that it is of exactly the same moment.
    exact: bool,
    /// The host's TSC, where KVM tells it.
    pub host_tsc: Option<u64>,
}

impl Moment {
    /// Now, on this host.
    pub fn now(vm: &Vm) -> Result<Self, KvmError> {
        let clock = vm.clock()?;
        let exact = clock.flags & KVM_CLOCK_REALTIME != 0;
        Ok(Self {
            kvmclock: clock.clock,
            realtime: if exact { clock.realtime } else { wall_clock() },
            exact,
            host_tsc: (clock.flags & KVM_CLOCK_HOST_TSC != 0).then_some(clock.host_tsc),
        })
    }

    /// Layout, version 1: u64 kvmclock, u64 wall clock, u32 whether the next is there, u64 host
    /// TSC.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = StateWriter::with_capacity(28);
        writer.u64(self.kvmclock);
        writer.u64(self.realtime);
        writer.u32(self.host_tsc.is_some().into());
        writer.u64(self.host_tsc.unwrap_or(0));
        writer.finish()
    }

    /// The same for tools.
    pub const LAYOUT: &[Field] = &[
        Field("kvmclock", Type::U64),
        Field("wall clock", Type::U64),
        Field("flag", Type::U32),
        Field("host TSC", Type::U64),
    ];

    /// From bytes.
    pub fn decode(version: u32, bytes: &[u8]) -> Result<Self, StateError> {
        let mut reader = StateReader::new(SECTION, version, VERSION, bytes)?;
        let kvmclock = reader.u64("kvmclock")?;
        let realtime = reader.u64("wall clock")?;
        let there = reader.u32("flag")?;
        let tsc = reader.u64("host TSC")?;
        if there > 1 {
            return Err(reader.impossible("flag", there.into()));
        }
        reader.finish()?;
        Ok(Self { kvmclock, realtime, exact: true, host_tsc: (there == 1).then_some(tsc) })
    }

    /// Nanoseconds from `earlier` (another host's moment) to this one, by the wall clocks.
    pub fn since(&self, earlier: &Self) -> u64 {
        self.realtime.saturating_sub(earlier.realtime)
    }

    /// How a TSC that stood at `tsc` in the moment `saved` (of another host) is started now, on a
    /// host whose TSC runs at `host_khz`, if the vCPU takes an offset.
    pub fn start_tsc(&self, saved: &Self, tsc: u64, khz: u32, host: Option<HostTsc>) -> TscStart {
        let passed = u128::from(self.since(saved)) * u128::from(khz) / 1_000_000;
        let wanted = tsc.wrapping_add(passed as u64);
        match (host, self.host_tsc) {
            (Some(host), Some(now)) => TscStart::Offset(wanted.wrapping_sub(host.scale(now, khz))),
            _ => TscStart::Value(wanted),
        }
    }

    /// Starts kvmclock where it stood in the moment `saved` of another host, plus what has passed
    /// since.
    pub fn start_clock(&self, saved: &Self, vm: &Vm) -> Result<(), KvmError> {
        if vm.capabilities().clock_realtime && self.exact {
            return vm.set_clock(saved.kvmclock, Some(saved.realtime));
        }
        let passed = wall_clock().saturating_sub(saved.realtime);
        vm.set_clock(saved.kvmclock.saturating_add(passed), None)
    }
}

/// The host's TSC, seen from a vCPU whose TSC is started by offset.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostTsc {
    /// Its frequency.
    pub khz: u32,
    /// Whether KVM scales it to the guest's frequency.
    pub scaled: bool,
}

impl HostTsc {
    fn scale(self, tsc: u64, guest_khz: u32) -> u64 {
        if !self.scaled || self.khz == 0 {
            return tsc;
        }
        (u128::from(tsc) * u128::from(guest_khz) / u128::from(self.khz)) as u64
    }
}

fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn moment(realtime: u64, host_tsc: Option<u64>) -> Moment {
        Moment { kvmclock: 5_000, realtime, exact: true, host_tsc }
    }

    #[test]
    fn bytes_and_back() {
        for tsc in [None, Some(99)] {
            let saved = moment(1_000_000, tsc);
            assert_eq!(Moment::decode(1, &saved.encode()).unwrap(), saved);
        }
        assert!(Moment::decode(2, &moment(1, None).encode()).is_err());
        assert!(Moment::decode(1, &[0; 27]).is_err());
    }

    #[test]
    fn its_layout_is_what_is_read() {
        let bytes = moment(1_000_000, Some(99)).encode();
        crate::state::testing::assert_layout(Moment::LAYOUT, &bytes, || {
            Moment::decode(1, &bytes).unwrap();
        });
    }

    #[test]
    fn the_tsc_goes_on_by_the_wall_time() {
        // One millisecond at 2 GHz is two million ticks.
        let saved = moment(1_000_000, Some(7));
        let now = moment(2_000_000, Some(40_000_000));
        let host = HostTsc { khz: 2_000_000, scaled: false };
        assert_eq!(now.start_tsc(&saved, 100, 2_000_000, None), TscStart::Value(2_000_100));
        assert_eq!(
            now.start_tsc(&saved, 100, 2_000_000, Some(host)),
            TscStart::Offset(2_000_100u64.wrapping_sub(40_000_000))
        );
        let scaled = HostTsc { khz: 4_000_000, scaled: true };
        assert_eq!(
            now.start_tsc(&saved, 100, 2_000_000, Some(scaled)),
            TscStart::Offset(2_000_100u64.wrapping_sub(20_000_000))
        );
    }

    #[test]
    fn a_wall_clock_that_is_behind_does_not_turn_time_back() {
        let saved = moment(2_000_000, None);
        let now = moment(1_000_000, None);
        assert_eq!(now.since(&saved), 0);
        assert_eq!(now.start_tsc(&saved, 100, 2_000_000, None), TscStart::Value(100));
    }
}
