//! Putting the machine together.

use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex};
use std::thread::Builder;
use std::time::Duration;

use vm_memory::GuestMemoryBackend;

use super::chipset::Chipset;
use super::event::{Announcer, Listener};
use super::kernel::enter;
use super::machine::{Identity, Processor, SwitchedOn};
use super::operation::{Operation, Ownership};
use super::peripherals::Peripherals;
use super::timed_mutex::TimedMutex;
use super::{Machine, MachineError, RunState};
use crate::boot::acpi::Inventory;
use crate::boot::ram_ranges;
use crate::chardev::{CharBackend, Output};
use crate::config::{CharDevice, MachineConfig};
use crate::devices::{Bus, ExitPort, KeyboardController, PowerManagement, ResetControl, Rtc, SavedDevice, Serial};
use crate::kvm::{DirtyLog, GuestRam, Hypervisor, RamMode, Vm, install_kick_signal};
use crate::net::Network;
use crate::sandbox;
use crate::sentence;
use crate::vcpu::{self, CpuModel, GuestCpu, HostCaps, MsrTable, Vcpu, VcpuGate, VcpuState, physical_bits};

/// How long threads may take to start.
const START_LIMIT: Duration = Duration::from_secs(10);

impl Machine {
    /// Builds it: RAM, vCPUs, devices; with a kernel also loads that. Nothing runs yet. `events` is
    /// called from any thread and only takes note: a device that tells something may hold locks of
    /// the machine.
    pub fn build(config: &MachineConfig, events: Listener) -> Result<Arc<Self>, MachineError> {
        sentence::install();
        install_kick_signal()?;
        let hypervisor = Hypervisor::open()?;
        let ram = Arc::new(GuestRam::new(&ram_ranges(config.memory.size), config.memory.shared)?);
        if config.arriving {
            ram.set_mode(RamMode::Arriving);
        }
        let vm = Arc::new(hypervisor.create_vm()?);
        vm.map(&ram, false)?;
        let offer = offer(&hypervisor, config.vcpus)?;
        let cpu = GuestCpu::fit(config.cpu, &offer)?;
        let vcpus = build_vcpus(&vm, config.vcpus, &cpu)?;
        let processor = processor(&vcpus, &offer, config.cpu)?;
        check_reach(&ram, &processor)?;
        let msrs = probe_msrs(&hypervisor, &vcpus)?;
        let switched_on = SwitchedOn { chipset: Chipset::save(&vm)?, vcpus: save_vcpus(&vcpus, &msrs)? };
        let (network, taps) = Network::open(&config.devices.nets, config.name.as_deref().unwrap_or_default())?;
        let cards = network.interfaces().iter().cloned().zip(taps).collect();
        let peripherals = Peripherals::build(&config.devices, cards, &vm, &ram, &events)?;
        let inventory = Inventory { vcpus: config.vcpus, virtio: peripherals.slots() };
        if let (Some(boot), false) = (&config.boot, config.arriving) {
            enter(boot, &inventory, &ram, &vcpus)?;
        }
        let board = Board::build(&vm, &config.serial, &peripherals)?;
        let pages = ram.blocks().iter().map(|block| block.pages());
        let machine = Arc::new(Self {
            dirty_log: DirtyLog::new(&vm, pages),
            gate: Arc::new(VcpuGate::new(vcpus.len())),
            vcpus,
            vm,
            ram,
            serial: board.serial,
            power: board.power,
            backend: board.backend,
            devices: board.devices,
            peripherals,
            network,
            msrs,
            arrives_paused: config.paused,
            takes_late: AtomicBool::new(false),
            identity: Identity { uuid: config.uuid, is_told: AtomicBool::new(false) },
            boot: config.boot.clone(),
            inventory,
            switched_on,
            processor,
            run_state: Mutex::new(if config.arriving { RunState::Inmigrate } else { RunState::Prelaunch }),
            operation: TimedMutex::new(Operation::new(Ownership::Released)),
            threads: Mutex::new(Vec::new()),
            announcer: Announcer::new(events),
        });
        machine.start_threads(&Arc::new(board.bus))?;
        if !config.arriving {
            machine.operate(|operation| machine.acquire(operation))?;
        }
        Ok(machine)
    }

    /// Starts the vCPU threads, parked, and the control thread, which serves what the guest asks
    /// for.
    fn start_threads(self: &Arc<Self>, bus: &Arc<Bus>) -> Result<(), MachineError> {
        let mut threads = self.lock_threads();
        for index in 0..self.vcpus.len() {
            let thread = vcpu::spawn(self.vcpus.clone(), index, self.gate.clone(), bus.clone(), self.ram.clone());
            threads.push(thread.map_err(MachineError::Thread)?);
        }
        let throttle = vcpu::spawn_throttle(self.vcpus.clone(), self.gate.clone());
        threads.push(throttle.map_err(MachineError::Thread)?);
        let (gate, machine) = (self.gate.clone(), Arc::downgrade(self));
        let control = Builder::new().name("control".into()).spawn(move || {
            sandbox::enter(sandbox::Thread::Control);
            while gate.await_request() {
                match machine.upgrade() {
                    Some(machine) => machine.serve_request(),
                    None => return,
                }
            }
        });
        threads.push(control.map_err(MachineError::Thread)?);
        threads.extend(self.peripherals.spawn().map_err(MachineError::Thread)?);
        drop(threads);
        // Their numbers are known once they parked.
        if !self.gate.await_parked(START_LIMIT) || !self.peripherals.await_frozen(START_LIMIT) {
            return Err(MachineError::Stuck);
        }
        let serial = Arc::downgrade(&self.serial);
        let receive = move |bytes: &[u8]| serial.upgrade().map_or(0, |port| port.receive(bytes));
        self.backend.start(Box::new(receive))?;
        self.peripherals.listen()?;
        Ok(())
    }
}

/// What the host can show the vCPUs of such a machine.
fn offer(hypervisor: &Hypervisor, vcpus: u8) -> Result<HostCaps, MachineError> {
    let capabilities = hypervisor.capabilities();
    if usize::from(vcpus) > capabilities.max_vcpus {
        return Err(MachineError::TooManyVcpus(capabilities.max_vcpus));
    }
    Ok(HostCaps::new(hypervisor.supported_cpuid()?, vcpus, capabilities.tsc_deadline))
}

fn build_vcpus(vm: &Vm, count: u8, cpu: &GuestCpu<'_>) -> Result<Arc<[Arc<Vcpu>]>, MachineError> {
    (0..count)
        .map(|index| {
            let handle = vm.create_vcpu(index)?;
            let cpuid = cpu.leaves(index);
            handle.set_cpuid(&cpuid)?;
            vcpu::prepare(&handle)?;
            Ok(Arc::new(Vcpu::new(index, cpuid, handle)))
        })
        .collect()
}

fn probe_msrs(hypervisor: &Hypervisor, vcpus: &[Arc<Vcpu>]) -> Result<MsrTable, MachineError> {
    let listed = hypervisor.msr_indices()?;
    match vcpus.first() {
        Some(first) => Ok(MsrTable::probe(&first.lock(), &listed)?),
        None => Ok(MsrTable::default()),
    }
}

fn save_vcpus(vcpus: &[Arc<Vcpu>], msrs: &MsrTable) -> Result<Vec<VcpuState>, MachineError> {
    vcpus.iter().map(|vcpu| Ok(VcpuState::save(vcpu, msrs, (None, 0))?)).collect()
}

/// What vCPU 0 shows and could show, which but for the topology is what all do.
fn processor(vcpus: &[Arc<Vcpu>], offer: &HostCaps, model: CpuModel) -> Result<Processor, MachineError> {
    let tsc_khz = match vcpus.first() {
        Some(first) => first.lock().tsc_khz()?,
        None => 0,
    };
    Ok(Processor {
        offered: offer.leaves(0),
        chosen: vcpus.first().map(|vcpu| vcpu.cpuid().clone()).unwrap_or_default(),
        model,
        tsc_khz,
        guest_tsc_khz: AtomicU32::new(tsc_khz),
    })
}

/// Whether the guest can address all of its RAM.
fn check_reach(ram: &GuestRam, processor: &Processor) -> Result<(), MachineError> {
    let bits = physical_bits(&processor.chosen);
    let beyond = ram.memory().last_addr().0.checked_shr(bits).unwrap_or(0);
    if beyond == 0 { Ok(()) } else { Err(MachineError::AddressBits { bits }) }
}

/// The devices and what they are plugged into.
struct Board {
    serial: Arc<Serial<Output>>,
    power: Arc<PowerManagement>,
    backend: CharBackend,
    devices: Vec<Arc<dyn SavedDevice>>,
    bus: Bus,
}

impl Board {
    fn build(vm: &Arc<Vm>, serial: &CharDevice, peripherals: &Peripherals) -> Result<Self, MachineError> {
        let backend = CharBackend::open(serial, "serial0")?;
        let waker = backend.waker();
        let pulsed = vm.clone();
        let interrupt = move || {
            if let Err(error) = pulsed.pulse_irq(Serial::<Output>::IRQ) {
                log::error!("an interrupt of the serial port is lost: {error}");
            }
        };
        let room = move || waker.wake();
        let serial = Arc::new(Serial::new(Arc::new(interrupt), backend.output(), Arc::new(room)));
        let levelled = vm.clone();
        let sci = move |level| {
            if let Err(error) = levelled.set_irq(PowerManagement::IRQ, level) {
                log::error!("the interrupt of the power button cannot be set: {error}");
            }
        };
        let power = Arc::new(PowerManagement::new(Arc::new(sci)));
        let rtc = Arc::new(Rtc::default());
        let reset_control = Arc::new(ResetControl::default());
        let mut bus = Bus::default();
        let first = Serial::<Output>::PORT;
        bus.claim_ports(first..first + Serial::<Output>::PORTS, serial.clone());
        bus.claim_ports(KeyboardController::PORT..KeyboardController::PORT + 1, Arc::new(KeyboardController));
        bus.claim_ports(ResetControl::PORT..ResetControl::PORT + 1, reset_control.clone());
        bus.claim_ports(PowerManagement::PORT..PowerManagement::PORT + PowerManagement::PORTS, power.clone());
        bus.claim_ports(Rtc::PORT..Rtc::PORT + Rtc::PORTS, rtc.clone());
        bus.claim_ports(ExitPort::PORT..ExitPort::PORT + 1, Arc::new(ExitPort));
        peripherals.plug(&mut bus);
        let mut devices: Vec<Arc<dyn SavedDevice>> = vec![serial.clone(), reset_control, power.clone(), rtc];
        devices.extend(peripherals.saved());
        Ok(Self { devices, serial, power, backend, bus })
    }
}
