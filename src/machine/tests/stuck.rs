//! Pages that do not come, as after a postcopy's link broke: whoever touches one waits, and the
//! monitor must not.

use whimbrel_postcopy::uffd::Uffd;

use super::*;

/// A page of the guest's code, and that of its counter.
const CODE: u64 = BASE / 4096;
const COUNTERS: u64 = COUNTER.0 / 4096;

/// A guest whose `missing` pages are awaited; `None` where nothing can be made missing.
fn waiting(missing: &[u64]) -> Option<(Rig, Uffd)> {
    if no_kvm() {
        return None;
    }
    let Ok(uffd) = Uffd::open() else {
        crate::skip::skip("userfaultfd");
        return None;
    };
    let rig = rig(config(1), Some(COUNT));
    let machine = &rig.machine;
    machine.ram.set_mode(crate::kvm::RamMode::Arriving);
    let block = &machine.ram.blocks()[0];
    for page in missing {
        block.discard(PageRun { block: BlockId(0), start: PageIndex(*page), count: 1 }).unwrap();
    }
    uffd.register(block).unwrap();
    Some((rig, uffd))
}

/// How long what a monitor asks for may take.
fn soon<R>(what: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = what();
    assert!(start.elapsed() < Duration::from_secs(8), "the monitor waits");
    result
}

/// Until the vCPU has run into the missing page.
fn await_stuck(machine: &Machine) {
    let start = Instant::now();
    while !matches!(machine.stop(), Err(MachineError::Stuck)) {
        assert!(start.elapsed() < LIMIT, "no vCPU waits");
        machine.cont().unwrap();
    }
}

#[test]
fn a_reset_waits_for_a_vcpu_and_for_the_kernels_pages_and_the_monitor_for_neither() {
    let Some((rig, uffd)) = waiting(&[COUNTERS]) else {
        return;
    };
    let machine = &rig.machine;
    machine.cont().unwrap();
    await_stuck(machine);
    soon(|| machine.reset()).unwrap();
    for _ in 0..3 {
        // The control thread tries and tries; still others get their turn.
        assert!(matches!(soon(|| machine.stop()), Err(MachineError::Stuck)));
    }
    assert!(soon(|| machine.powerdown()).is_ok());
    let block = &machine.ram.blocks()[0];
    block.discard(PageRun { block: BlockId(0), start: PageIndex(CODE), count: 1 }).unwrap();
    uffd.zero(block, PageRun { block: BlockId(0), start: PageIndex(COUNTERS), count: 1 }).unwrap();
    // Now the vCPU comes out, and the reset waits for the page that it is to write the kernel into.
    let start = Instant::now();
    while !matches!(soon(|| machine.powerdown()), Err(MachineError::Busy)) {
        assert!(start.elapsed() < LIMIT, "the reset does not begin");
    }
    assert!(matches!(soon(|| machine.stop()), Err(MachineError::Busy)));
    assert_eq!(machine.run_state(), RunState::Running);
    uffd.unregister(block).unwrap();
    machine.arrived();
    while rig.events.recv_timeout(LIMIT).unwrap() != (MachineEvent::Reset { guest: false }) {}
    rig.await_count(rig.count());
    machine.stop().unwrap();
}

#[test]
fn a_stopped_guest_is_reset_when_the_pages_have_come() {
    let Some((rig, uffd)) = waiting(&[CODE]) else {
        return;
    };
    let machine = &rig.machine;
    machine.become_state(RunState::Running).unwrap();
    machine.become_state(RunState::Paused).unwrap();
    soon(|| machine.reset()).unwrap();
    assert_eq!(machine.run_state(), RunState::Paused);
    uffd.unregister(&machine.ram.blocks()[0]).unwrap();
    machine.arrived();
    while rig.events.recv_timeout(LIMIT).unwrap() != (MachineEvent::Reset { guest: false }) {}
    assert_eq!(machine.run_state(), RunState::Prelaunch);
    machine.cont().unwrap();
    rig.await_count(0);
}

#[test]
fn the_process_can_end_although_a_reset_waits() {
    let Some((rig, uffd)) = waiting(&[CODE]) else {
        return;
    };
    let machine = &rig.machine;
    soon(|| machine.reset()).unwrap();
    let start = Instant::now();
    while !matches!(soon(|| machine.powerdown()), Err(MachineError::Busy)) {
        assert!(start.elapsed() < LIMIT, "the reset does not begin");
    }
    soon(|| machine.shutdown());
    uffd.unregister(&machine.ram.blocks()[0]).unwrap();
}
