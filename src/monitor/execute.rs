//! Carries a request out: the one place where commands act, whichever face they came by.

use super::error::CommandError;
use super::hmp;
use super::request::{Reply, Request, Whose};
use super::vm::Vm;
use crate::fds::Handed;

/// Executes `request`, of a client that handed over some descriptors, on `vm`. Returns at once.
pub fn execute(request: Request, vm: &dyn Vm, handed: &mut Handed) -> Result<Reply, CommandError> {
    match request {
        Request::Migrate { uri, resume, .. } => {
            match resume {
                true => vm.migrate_resume(&uri)?,
                false => vm.migrate(&uri)?,
            }
            Ok(Reply::Done)
        }
        Request::MigrateIncoming { uri, exit_on_error } => Ok(Reply::Listening(vm.incoming(&uri, exit_on_error)?)),
        Request::MigrateRecover(uri) => Ok(Reply::Listening(vm.recover(&uri)?)),
        Request::MigrateCancel => done(vm.migrate_cancel()),
        Request::MigrateStartPostcopy => done(vm.start_postcopy()),
        Request::MigrateContinue => done(vm.migrate_continue()),
        Request::MigratePause => done(vm.migrate_pause()),
        Request::Yank { migration } => match !migration || vm.yank() {
            true => Ok(Reply::Done),
            false => Err(CommandError::NothingToYank("migration".to_owned())),
        },
        Request::QueryYank => Ok(Reply::Yank(vm.has_link())),
        Request::SetCapabilities(changes) => {
            let mut all = vm.capabilities();
            for (capability, on) in changes {
                all.set(capability, on)?;
            }
            done(vm.set_capabilities(all))
        }
        Request::SetParameters(changes) => {
            let mut all = vm.parameters();
            for (parameter, value) in changes {
                all.set(parameter, value)?;
            }
            done(vm.set_parameters(all))
        }
        Request::QueryMigrate { all } => {
            Ok(Reply::Migration { report: vm.report().map(Box::new), listening: vm.listening(), all })
        }
        Request::QueryPages(buckets) => Ok(Reply::Pages(vm.page_map(buckets))),
        Request::MeasureDirtyRate(plan) => {
            vm.measure_dirty_rate(plan)?;
            Ok(Reply::Measuring(plan))
        }
        Request::QueryDirtyRate(unit) => Ok(Reply::DirtyRate(vm.dirty_rate(), unit)),
        Request::SetDirtyLimit { vcpu, rate } => {
            vm.set_dirty_limit(vcpu, rate)?;
            Ok(Reply::DirtyLimitChanged)
        }
        Request::CancelDirtyLimit { vcpu } => {
            vm.cancel_dirty_limit(vcpu)?;
            Ok(Reply::DirtyLimitChanged)
        }
        Request::QueryDirtyLimit => Ok(Reply::DirtyLimits(vm.dirty_limits())),
        Request::QueryCapabilities => Ok(Reply::Capabilities(vm.capabilities())),
        Request::QueryParameters => Ok(Reply::Parameters(vm.parameters())),
        Request::QueryStatus => Ok(Reply::Status(vm.run_state())),
        Request::QueryCpus => Ok(Reply::Cpus(vm.vcpus())),
        Request::QueryRegisters(whose) => registers(vm, whose),
        Request::QueryBlock => Ok(Reply::Block(vm.disks())),
        Request::QueryVersion => Ok(Reply::Version),
        Request::QueryName => Ok(Reply::Name(vm.name())),
        Request::QueryUuid => Ok(Reply::Uuid(vm.uuid())),
        Request::QueryKvm => Ok(Reply::Kvm),
        Request::QueryAccelerators => Ok(Reply::Accelerators),
        Request::QueryCommands => Ok(Reply::Commands),
        Request::QuerySchema => Ok(Reply::Schema),
        Request::Stop => done(vm.stop()),
        Request::Cont => done(vm.cont()),
        Request::SystemReset => done(vm.reset()),
        Request::AnnounceSelf { schedule, interfaces, id } => {
            let schedule = schedule.unwrap_or_else(|| vm.parameters().announce);
            done(vm.announce(&interfaces, &id, schedule))
        }
        Request::Snapshot(act) => Ok(Reply::Job(vm.snapshot(&act)?)),
        Request::QuerySnapshots => Ok(Reply::Snapshots(vm.list_snapshots()?)),
        Request::QueryJobs => Ok(Reply::Jobs(vm.jobs())),
        Request::DismissJob(id) => done(vm.dismiss_job(&id)),
        Request::QueryNetwork => Ok(Reply::Network(vm.network())),
        Request::SetBalloon(bytes) => done(vm.set_balloon(bytes)),
        Request::QueryBalloon => Ok(Reply::Balloon(vm.balloon_actual()?)),
        Request::GetFd(name) => {
            let fd = handed.take().ok_or(CommandError::NoFd)?;
            done(vm.fds().keep(&name, fd))
        }
        Request::CloseFd(name) => match vm.fds().take(&name) {
            Some(_) => Ok(Reply::Done),
            None => Err(CommandError::UnknownFd(name)),
        },
        Request::SystemPowerdown => done(vm.powerdown()),
        Request::Quit => {
            vm.quit();
            Ok(Reply::Done)
        }
        Request::Help(topic) => Ok(Reply::Help(topic)),
        Request::HumanMonitorCommand { line, vcpu } => {
            let refused = CommandError::OutOfRange { name: "cpu-index", expected: "a CPU number" };
            let vcpu = usize::try_from(vcpu.unwrap_or(0)).ok().filter(|it| *it < vm.vcpus().len()).ok_or(refused)?;
            Ok(Reply::Text(hmp::run_detached(&line, vm, vcpu)))
        }
    }
}

fn registers(vm: &dyn Vm, whose: Whose) -> Result<Reply, CommandError> {
    let mut all: Vec<_> = vm.registers()?.into_iter().enumerate().collect();
    let one = match whose {
        Whose::All => None,
        Whose::Current => Some(0),
        Whose::Of(index) => Some(index),
    };
    if let Some(index) = one {
        all.retain(|it| it.0 == index);
        if all.is_empty() {
            return Err(CommandError::NoSuchVcpu(index));
        }
    }
    Ok(Reply::Registers(all))
}

fn done<E: Into<CommandError>>(result: Result<(), E>) -> Result<Reply, CommandError> {
    result.map(|()| Reply::Done).map_err(Into::into)
}
