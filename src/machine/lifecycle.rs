//! Stop, cont, reset, the power button, the guest's own requests, and the end.
//!
//! Each is one *operation*: they exclude each other, and what they have to tell is told after the
//! lock is given back, so that a listener may call the machine again.

use std::sync::{MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::kernel::enter;
use super::operation::{Left, Operation};
use super::timed_mutex::TimedMutexGuard;
use super::{Machine, MachineError, MachineEvent, RunState, ShutdownCause};
use crate::vcpu::{GuestRequest, LoadFor};

/// For how long no vCPU may come out of the guest while some are in it. Far more than one ever
/// needs, unless it waits for a page of a migration whose link is gone.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(1);
/// The same while no page can be missing: then it is the host that holds a vCPU up, for want of
/// memory or processors.
const HOST_LIMIT: Duration = Duration::from_secs(10);

/// For how long a user's command waits for the operation before it. Far more than one lasts, unless
/// it waits for a page of a migration whose link is gone, or for the host: the monitor must then be
/// free to recover the migration, or to quit.
const PATIENCE: Duration = Duration::from_secs(3);
impl Machine {
    /// Runs one operation and then tells what happened.
    pub(super) fn operate<R>(&self, action: impl FnOnce(&mut Operation) -> R) -> R {
        self.carry_out(self.operation.take(), action)
    }

    /// The same for who cannot wait for ever; `None` if another operation is not done in time.
    pub(super) fn operate_within<R>(&self, patience: Duration, action: impl FnOnce(&mut Operation) -> R) -> Option<R> {
        Some(self.carry_out(self.operation.lock_within(patience)?, action))
    }

    fn carry_out<R>(
        &self,
        mut operation: TimedMutexGuard<'_, Operation>,
        action: impl FnOnce(&mut Operation) -> R,
    ) -> R {
        let result = action(&mut operation);
        self.announcer.note(std::mem::take(&mut operation.events));
        drop(operation);
        self.announcer.tell();
        result
    }

    /// Runs a user's command. One for a guest that is still arriving is refused at once: the
    /// operation that loads it may wait for pages, and a monitor must not wait with it.
    pub(super) fn command(
        &self,
        action: impl FnOnce(&mut Operation) -> Result<(), MachineError>,
    ) -> Result<(), MachineError> {
        if self.run_state() == RunState::Inmigrate {
            return Err(MachineError::Refused(
                "the guest has not arrived yet: it starts by itself once it is here".into(),
            ));
        }
        self.operate_within(PATIENCE, action).unwrap_or(Err(MachineError::Busy))
    }

    /// Changes the run state, if that is legal.
    pub(super) fn become_state(&self, next: RunState) -> Result<(), MachineError> {
        let mut state = self.run_state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.may_become(next) {
            return Err(MachineError::Transition { from: *state, to: next });
        }
        *state = next;
        Ok(())
    }

    /// From `postmigrate` to `paused`: only for a guest that was written down, never for one that
    /// another host has.
    fn go_on_after_writing(&self) {
        let mut state = self.run_state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state == RunState::Postmigrate {
            *state = RunState::Paused;
        }
    }

    /// Stops every vCPU and the input, and deals with what the guest asked for on the way.
    pub(super) fn freeze(&self, operation: &mut Operation) -> Result<(), MachineError> {
        self.serial.set_receiving(false);
        self.gate.close(&self.vcpus);
        if !self.stands_still() {
            // A guest that asked for its end or a reset does not go on behind that: the control
            // thread still sees to it.
            if !self.gate.has_request() {
                self.thaw();
            }
            return Err(MachineError::Stuck);
        }
        // A reset writes to RAM, where a page may still be missing: only the control thread may
        // wait for one.
        if self.gate.request_is_reset() && self.ram.touch_may_wait() {
            return Err(MachineError::Busy);
        }
        self.settle(operation);
        Ok(())
    }

    /// Whether all vCPUs, whose gate is closed, and after them all devices come to stand still.
    /// Devices last: a vCPU may be waiting for one.
    fn stands_still(&self) -> bool {
        let limit = if self.ram.touch_may_wait() { STOP_LIMIT } else { HOST_LIMIT };
        self.gate.await_parked(limit) && self.peripherals.freeze(limit)
    }

    /// Lets vCPUs, devices and input go on. After a stop of any length a guest with kvmclock is
    /// told of it.
    pub(super) fn thaw(&self) {
        if self.vm.capabilities().kvmclock_ctrl {
            for vcpu in self.vcpus.iter() {
                // A vCPU that never came out needs no telling, and its lock is not to be had.
                if let Some(handle) = vcpu.try_lock() {
                    handle.announce_pause();
                }
            }
        }
        self.peripherals.thaw();
        self.serial.set_receiving(true);
        self.gate.open();
    }

    /// `stop`. Stopping what stands still already does nothing.
    pub fn stop(&self) -> Result<(), MachineError> {
        self.command(|operation| match self.run_state() {
            RunState::Running => {
                self.freeze(operation)?;
                if self.run_state() == RunState::Running {
                    self.become_state(RunState::Paused)?;
                    operation.tell(MachineEvent::Stop);
                }
                Ok(())
            }
            RunState::FinishMigrate => {
                operation.before_migration = Some(RunState::Paused);
                Ok(())
            }
            _ => Ok(()),
        })
    }

    /// `cont`. Refused in `inmigrate` (it then starts by itself once the guest is there), and in
    /// `postmigrate` unless the guest was only written down.
    pub fn cont(&self) -> Result<(), MachineError> {
        let refused = |words: &str| Err(MachineError::Refused(words.into()));
        self.command(|operation| match self.run_state() {
            RunState::Running => Ok(()),
            RunState::Prelaunch | RunState::Paused => {
                self.acquire(operation)?;
                self.become_state(RunState::Running)?;
                operation.tell(MachineEvent::Resume);
                self.thaw();
                self.network.runs();
                Ok(())
            }
            RunState::Postmigrate if operation.guest == Left::WrittenDown => {
                // Whoever has read it meanwhile and runs it has its disks, too: then it does not
                // run here.
                self.acquire(operation)?;
                operation.guest = Left::ForAnotherHost;
                self.go_on_after_writing();
                self.become_state(RunState::Running)?;
                operation.tell(MachineEvent::Resume);
                self.thaw();
                self.network.runs();
                Ok(())
            }
            RunState::FinishMigrate => refused("Migration is finishing: the guest goes on by itself if it fails"),
            RunState::Postmigrate => {
                refused("Guest was migrated away and runs at the destination: system_reset starts it afresh here")
            }
            // Refused by `command` already.
            RunState::Inmigrate => refused("Guest is waiting for an incoming migration"),
            RunState::InternalError | RunState::Shutdown => refused("Resetting the Virtual Machine is required"),
        })
    }

    /// `system_reset`.
    pub fn reset(&self) -> Result<(), MachineError> {
        self.command(|operation| match self.run_state() {
            // It writes to RAM, where a page may still be missing, and the monitor must not wait
            // for one.
            RunState::Running | RunState::Paused | RunState::Prelaunch if self.ram.touch_may_wait() => {
                if self.boot.is_none() {
                    return Err(MachineError::NoKernel);
                }
                self.gate.request(&self.vcpus, GuestRequest::HostReset);
                Ok(())
            }
            RunState::Running => {
                self.freeze(operation)?;
                // Unless the guest ended at that moment.
                if self.run_state() == RunState::Running {
                    let result = self.restart(operation, false);
                    self.thaw();
                    result?;
                }
                Ok(())
            }
            RunState::Prelaunch => self.restart(operation, false),
            RunState::Paused | RunState::Postmigrate | RunState::InternalError => {
                self.restart(operation, false)?;
                self.become_state(RunState::Prelaunch)
            }
            RunState::Inmigrate | RunState::FinishMigrate => {
                Err(MachineError::Refused("a migration is under way: the machine cannot be reset now".into()))
            }
            RunState::Shutdown => Err(MachineError::Refused("the machine has ended".into())),
        })
    }

    /// `system_powerdown`: presses the power button. What comes of that is up to the guest: a
    /// kernel that has not come so far yet, or is stopped, finds the press later. Where no guest
    /// can ever find it, this is refused.
    pub fn powerdown(&self) -> Result<(), MachineError> {
        let refused = |words: &str| Err(MachineError::Refused(words.into()));
        self.command(|operation| match self.run_state() {
            RunState::Running | RunState::Prelaunch | RunState::Paused => {
                self.power.press_power_button();
                operation.tell(MachineEvent::Powerdown);
                Ok(())
            }
            // Its state may be on its way already, without the press.
            RunState::FinishMigrate => refused("the guest is about to run at the destination: press the button there"),
            RunState::Postmigrate if operation.guest == Left::WrittenDown => {
                refused("the guest stands still since it was written: cont goes on with it first")
            }
            RunState::Postmigrate => refused("the guest runs at the destination: press the button there"),
            // Refused by `command` already.
            RunState::Inmigrate => refused("the guest has not arrived yet"),
            RunState::InternalError | RunState::Shutdown => {
                refused("no guest runs that could notice the power button: quit ends the process")
            }
        })
    }

    /// Puts everything back to the state of a machine just switched on and loads the kernel again.
    fn restart(&self, operation: &mut Operation, guest: bool) -> Result<(), MachineError> {
        let boot = self.boot.as_ref().ok_or(MachineError::NoKernel)?;
        if self.run_state() == RunState::Postmigrate {
            // A guest that took its RAM along runs in it.
            self.ram.leave().map_err(MachineError::Memory)?;
            operation.guest = Left::ForAnotherHost;
        }
        self.switch_on()?;
        enter(boot, &self.inventory, &self.ram, &self.vcpus)?;
        operation.tell(MachineEvent::Reset { guest });
        Ok(())
    }

    /// CPUs, chipset and devices as in a machine just switched on.
    pub(super) fn switch_on(&self) -> Result<(), MachineError> {
        self.switched_on.chipset.load(&self.vm)?;
        for (vcpu, state) in self.vcpus.iter().zip(&self.switched_on.vcpus) {
            state.load(vcpu, &self.msrs, LoadFor::Reset)?;
        }
        self.devices.iter().for_each(|device| device.reset());
        Ok(())
    }

    /// The control thread's work: what the guest asked for. The vCPU that asked has closed the
    /// gate.
    pub(super) fn serve_request(&self) {
        let served = self.operate(|operation| {
            // Closed already by who asked, unless another operation opened it since.
            self.gate.close(&self.vcpus);
            let still = self.stands_still();
            if still {
                let running = self.run_state() == RunState::Running;
                self.settle(operation);
                if running && self.run_state() == RunState::Running {
                    self.thaw();
                }
            } else {
                self.settle_stuck(operation);
            }
            still
        });
        if !served {
            // Without the turn: others get theirs before the next attempt.
            let _ = self.gate.await_parked(STOP_LIMIT) && self.peripherals.await_frozen(STOP_LIMIT);
        }
    }

    /// Deals with what the guest asked for while it ran; all vCPUs are out of it.
    fn settle(&self, operation: &mut Operation) {
        operation.waits = false;
        match self.gate.take_request() {
            None => {}
            Some(request @ (GuestRequest::Reset | GuestRequest::HostReset)) => {
                match self.restart(operation, request == GuestRequest::Reset) {
                    // Nobody runs it but who stopped it.
                    Ok(()) if self.run_state() == RunState::Paused => {
                        if let Err(error) = self.become_state(RunState::Prelaunch) {
                            log::error!("{error}");
                        }
                    }
                    Ok(()) => {}
                    Err(error) => {
                        log::error!("the guest cannot be reset and is ended instead: {error}");
                        self.end(operation, ShutdownCause::GuestShutdown);
                    }
                }
            }
            Some(GuestRequest::PowerOff) => self.end(operation, ShutdownCause::GuestShutdown),
            Some(GuestRequest::Exit(code)) => self.end(operation, ShutdownCause::GuestExit(code)),
            Some(GuestRequest::Panic) => self.end(operation, ShutdownCause::GuestPanic),
        }
    }

    /// Deals with what the guest asked for although a vCPU does not come out of it. An end needs
    /// none of them; a reset waits for them: the request stays and is served anew, with the lock
    /// given back in between.
    fn settle_stuck(&self, operation: &mut Operation) {
        if !self.gate.request_is_reset() {
            self.settle(operation);
        } else if !std::mem::replace(&mut operation.waits, true) {
            log::warn!("a reset was asked for and waits; {}", MachineError::Stuck);
        }
    }

    /// The guest is over.
    fn end(&self, operation: &mut Operation, cause: ShutdownCause) {
        self.serial.set_receiving(false);
        let state = match cause {
            ShutdownCause::GuestPanic => RunState::InternalError,
            _ => RunState::Shutdown,
        };
        match self.become_state(state) {
            Ok(()) => {
                operation.tell(MachineEvent::Stop);
                operation.tell(MachineEvent::Shutdown(cause));
            }
            Err(error) => log::debug!("the guest ended twice: {error}"),
        }
    }

    /// Ends every thread and puts the terminal back; RAM goes with the last reference. Idempotent.
    pub fn shutdown(&self) {
        self.serial.set_receiving(false);
        self.gate.shut(&self.vcpus);
        // Their last writes are finished first, as a guest would expect of a machine that is
        // switched off.
        let vcpus_out = self.gate.await_parked(STOP_LIMIT);
        let devices_done = self.peripherals.freeze(STOP_LIMIT);
        self.peripherals.shut();
        let threads = std::mem::take(&mut *self.lock_threads());
        // A vCPU may have waited for a device.
        let still = devices_done && (vcpus_out || self.gate.await_parked(STOP_LIMIT));
        if still && self.release_at_end() {
            let own = std::thread::current().id();
            for thread in threads {
                // The last reference may be dropped by one of them.
                if thread.thread().id() != own {
                    let _ = thread.join();
                }
            }
        } else {
            log::warn!("a vCPU, a device or an operation on the machine does not stop; it ends with the process");
        }
        self.backend.close();
        self.peripherals.close();
    }

    pub(super) fn lock_threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
