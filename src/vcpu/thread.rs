//! One vCPU's thread.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use super::{GuestRequest, Vcpu, VcpuGate, dump};
use crate::devices::{Action, Bus};
use crate::kvm::{Exit, VcpuHandle};
use crate::sandbox;
use crate::sentence::sentence;

/// Starts the thread of vCPU `index`, parked. `keep` (guest RAM) stays alive until the thread ends,
/// even where nobody could wait for that.
pub fn spawn(
    vcpus: Arc<[Arc<Vcpu>]>,
    index: usize,
    gate: Arc<VcpuGate>,
    bus: Arc<Bus>,
    keep: Arc<dyn Send + Sync>,
) -> io::Result<JoinHandle<()>> {
    Builder::new().name(format!("vcpu{index}")).spawn(move || {
        let _keep = keep;
        sandbox::enter(sandbox::Thread::Vcpu);
        let Some(vcpu) = vcpus.get(index) else {
            return;
        };
        vcpu.kick().adopt();
        warm_up(vcpu);
        while gate.park(vcpu.kick()) {
            if let Some(request) = stay_in_guest(vcpu, &vcpus, &gate, &bus) {
                gate.request(&vcpus, request);
            }
        }
    })
}

/// Starts the thread that has all vCPUs rest while the guest is throttled.
pub fn spawn_throttle(vcpus: Arc<[Arc<Vcpu>]>, gate: Arc<VcpuGate>) -> io::Result<JoinHandle<()>> {
    Builder::new().name("throttle".into()).spawn(move || {
        sandbox::enter(sandbox::Thread::Throttle);
        gate.keep_throttled(&vcpus);
    })
}

/// Has KVM make whatever it makes when a vCPU is run for the first time (a thread of its own for
/// the machine, most of all, which took more than a millisecond): not in the moment in which a
/// guest arrives. The guest is not entered.
fn warm_up(vcpu: &Vcpu) {
    vcpu.kick().set_immediate_exit(true);
    if let Err(error) = vcpu.lock().run() {
        log::debug!("vCPU {} is not run beforehand: {}", vcpu.index(), sentence(&error));
    }
}

/// What one entry into the guest led to.
enum Step {
    /// In again.
    Again,
    /// In again once that is told: what is pending must be completed before the vCPU may stand
    /// still.
    Ask(GuestRequest),
    /// A signal.
    Interrupted,
    /// This vCPU cannot go on.
    Died(String),
}

/// Runs the guest until it is interrupted, with nothing pending then: an access that a device has
/// answered is completed by the next `KVM_RUN`, which `immediate_exit` ends before the next
/// instruction. The result is the request of a vCPU that cannot be entered again.
fn stay_in_guest(vcpu: &Vcpu, vcpus: &[Arc<Vcpu>], gate: &VcpuGate, bus: &Bus) -> Option<GuestRequest> {
    let mut handle = vcpu.lock();
    loop {
        match step(&mut handle, bus) {
            Step::Again => {}
            Step::Ask(request) => gate.request(vcpus, request),
            Step::Interrupted if gate.reenter(vcpu.kick()) => {}
            Step::Interrupted => return None,
            Step::Died(reason) => {
                log::error!("vCPU {}: {reason}; its registers:\n{}", vcpu.index(), dump::registers(&handle));
                return Some(GuestRequest::Panic);
            }
        }
    }
}

/// Enters the guest once and serves what it comes out for.
fn step(handle: &mut VcpuHandle, bus: &Bus) -> Step {
    match handle.run() {
        Ok(Exit::Interrupted) => Step::Interrupted,
        Ok(Exit::TripleFault) => Step::Died("the guest met a triple fault".into()),
        Ok(Exit::Fatal(reason)) => Step::Died(reason),
        Ok(exit) => serve(exit, bus).map_or(Step::Again, Step::Ask),
        Err(error) => Step::Died(sentence(&error)),
    }
}

/// Answers an exit that devices answer.
fn serve(exit: Exit<'_>, bus: &Bus) -> Option<GuestRequest> {
    let action = match exit {
        Exit::IoIn { port, size, data } => {
            for access in data.chunks_mut(size) {
                bus.read_port(port, access);
            }
            Action::None
        }
        Exit::IoOut { port, size, data } => data
            .chunks(size)
            .map(|access| bus.write_port(port, access))
            .find(|action| *action != Action::None)
            .unwrap_or(Action::None),
        Exit::MmioRead { address, data } => {
            bus.read_memory(address, data);
            Action::None
        }
        Exit::MmioWrite { address, data } => bus.write_memory(address, data),
        Exit::ResetRequest => Action::Reset,
        Exit::PowerOff => Action::PowerOff,
        Exit::Ignored | Exit::Interrupted | Exit::TripleFault | Exit::Fatal(_) => Action::None,
    };
    match action {
        Action::None => None,
        Action::Reset => Some(GuestRequest::Reset),
        Action::PowerOff => Some(GuestRequest::PowerOff),
        Action::Exit(code) => Some(GuestRequest::Exit(code)),
    }
}
