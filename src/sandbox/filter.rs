//! The lists as programs for the kernel, compiled once: some threads begin while a guest stands
//! still.

use std::io;

use seccompiler::{BackendError, BpfProgram, Error, SeccompAction, SeccompFilter, TargetArch};

use super::calls::{self, Calls};
use super::{Mode, Thread, raw};

/// All programs of a process.
pub struct Filters {
    /// In the order in which they are installed: the kernel takes the gravest answer of all that
    /// are.
    for_all: [BpfProgram; 2],
    /// In the order of [`Thread::ALL`].
    kinds: Vec<BpfProgram>,
}

impl Filters {
    /// For `mode`, which is not [`Mode::Off`].
    pub fn compile(mode: Mode) -> Result<Self, Error> {
        let otherwise = match mode {
            Mode::Kill => SeccompAction::KillProcess,
            Mode::Refuse | Mode::Off => SeccompAction::Errno(libc::EPERM as u32),
        };
        let missing = SeccompAction::Errno(libc::ENOSYS as u32);
        let for_all = [
            program(calls::never(), SeccompAction::KillProcess, SeccompAction::Allow)?,
            program(calls::missing()?, missing, SeccompAction::Allow)?,
        ];
        let compile = |kind: &Thread| program(calls::of(*kind)?, SeccompAction::Allow, otherwise.clone());
        let kinds = Thread::ALL.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { for_all, kinds })
    }

    /// What holds for every thread of the process: for the first thread, before there is another.
    pub fn install_for_all(&self) -> io::Result<()> {
        self.for_all.iter().try_for_each(raw::install)
    }

    /// What holds for the calling thread, one of this kind.
    pub fn install(&self, kind: Thread) -> io::Result<()> {
        self.kinds.get(kind as usize).map_or(Ok(()), raw::install)
    }
}

fn program(calls: Calls, listed: SeccompAction, otherwise: SeccompAction) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(calls.rules()?, otherwise, listed, TargetArch::x86_64)?.try_into()
}
