//! Which kind of thread may make which system calls.
//!
//! Found by tracing the tests; held by running them with [`Mode::Kill`](super::Mode::Kill).

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use super::Thread;
use super::never::NEVER;
use super::requests;

/// Allowed calls, by number: under any of these conditions, or always where there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls(BTreeMap<c_long, Vec<Vec<SeccompCondition>>>);

/// The flags with which glibc starts a thread; a process would have others.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u64;

/// Argument `index`, of which the kernel looks at 32 bits.
fn argument(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
}

impl Calls {
    fn any(mut self, calls: &[c_long]) -> Self {
        for call in calls {
            self.0.insert(*call, Vec::new());
        }
        self
    }

    fn when(mut self, call: c_long, conditions: Vec<SeccompCondition>) -> Self {
        match self.0.get_mut(&call) {
            // Always already.
            Some(rules) if rules.is_empty() => {}
            Some(rules) if rules.contains(&conditions) => {}
            Some(rules) => rules.push(conditions),
            None => {
                self.0.insert(call, vec![conditions]);
            }
        }
        self
    }

    /// Where argument `index` is one of `values`.
    fn one_of(self, call: c_long, index: u8, values: &[u64]) -> Result<Self, BackendError> {
        values
            .iter()
            .try_fold(self, |calls, value| Ok(calls.when(call, vec![argument(index, SeccompCmpOp::Eq, *value)?])))
    }

    /// Where argument `index` has none of the bits `mask`.
    fn without(self, call: c_long, index: u8, mask: u64) -> Result<Self, BackendError> {
        Ok(self.when(call, vec![argument(index, SeccompCmpOp::MaskedEq(mask), 0)?]))
    }

    fn ioctl(self, requests: &[u64]) -> Result<Self, BackendError> {
        self.one_of(libc::SYS_ioctl, 1, requests)
    }

    fn fcntl(self, commands: &[i32]) -> Result<Self, BackendError> {
        let commands: Vec<u64> = commands.iter().map(|command| *command as u64).collect();
        self.one_of(libc::SYS_fcntl, 1, &commands)
    }

    fn and(mut self, other: Self) -> Self {
        for (call, rules) in other.0 {
            if rules.is_empty() {
                self.0.insert(call, rules);
            } else {
                self = rules.into_iter().fold(self, |calls, rule| calls.when(call, rule));
            }
        }
        self
    }

    /// Whether everything that `other` allows is allowed here.
    #[cfg(test)]
    pub fn contains(&self, other: &Self) -> bool {
        other.0.iter().all(|(call, rules)| match self.0.get(call) {
            None => false,
            Some(ours) => ours.is_empty() || !rules.is_empty() && rules.iter().all(|rule| ours.contains(rule)),
        })
    }

    /// Whether nothing here is on the list `other`.
    #[cfg(test)]
    pub fn has_none_of(&self, other: &Self) -> bool {
        other.0.keys().all(|call| !self.0.contains_key(call))
    }

    /// As the compiler takes them.
    pub fn rules(self) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
        let rules = |conditions: Vec<_>| conditions.into_iter().map(SeccompRule::new).collect::<Result<_, _>>();
        self.0.into_iter().map(|(call, conditions)| Ok((call, rules(conditions)?))).collect()
    }
}

/// Calls that end the process in either mode, whoever makes them. There is no good reason for any
/// of them in here, so there is no guest to be lost by mistake; what makes them is an attacker.
pub fn never() -> Calls {
    Calls::default().any(NEVER)
}

/// Calls that fail with `ENOSYS` in either mode: libraries try them and know what to do without.
pub fn missing() -> Result<Calls, BackendError> {
    // clone3 hides from a filter what it is to start; clone, which glibc tries next, does not. The
    // resolver asks the routing socket which addresses the host has, and tries both kinds where it
    // is not told.
    Calls::default().any(&[libc::SYS_clone3]).one_of(libc::SYS_socket, 0, &[libc::AF_NETLINK as u64])
}

/// What this kind may do.
pub fn of(kind: Thread) -> Result<Calls, BackendError> {
    let calls = common()?;
    Ok(match kind {
        Thread::Main => calls.and(starts_threads()?).and(migrates()?).and(listens()?).and(serves_monitors()?),
        Thread::Vcpu => calls.and(runs_a_vcpu()?),
        Thread::Throttle => calls,
        Thread::DirtyRate => calls.and(reads_the_dirty_log()?),
        Thread::Control => calls.and(owns_a_machine()?),
        Thread::Disk => calls.and(awaits_queues()).and(disk()?),
        Thread::Net => calls.and(awaits_queues()).and(net()?),
        Thread::Device => calls.and(awaits_queues()),
        Thread::Character => calls.and(character()?),
        Thread::Source => calls.and(starts_threads()?).and(migrates()?).and(connects()?),
        Thread::DemandServer => calls.and(sends()?).and(first_pages()?).and(sets_priority()?),
        Thread::MultifdSender => calls.and(sends()?),
        // It listens again by itself, if the user wants that.
        Thread::Destination => calls.and(starts_threads()?).and(migrates()?).and(accepts()?).and(listens()?),
        Thread::Faults => calls.and(sends()?).and(places()?).and(sets_priority()?),
        Thread::Populate => calls.and(reads_files()?).and(sets_priority()?),
        Thread::MultifdReceiver => calls.and(places()?).and(takes_turns()?),
        Thread::Snapshot => calls.and(starts_threads()?).and(migrates()?),
        Thread::SnapshotWrites => calls.and(sets_priority()?).and(lets_go()?),
    })
}

/// What every thread does: memory, locks, waking others, the log, a panic, its own end.
fn common() -> Result<Calls, BackendError> {
    let own_process = u64::from(std::process::id());
    Calls::default()
        .any(&[
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_readv,
            libc::SYS_writev,
            libc::SYS_close,
            libc::SYS_poll,
            libc::SYS_ppoll,
            libc::SYS_brk,
            libc::SYS_munmap,
            libc::SYS_mremap,
            libc::SYS_madvise,
            libc::SYS_futex,
            libc::SYS_sched_yield,
            libc::SYS_sched_getaffinity,
            libc::SYS_gettid,
            libc::SYS_getpid,
            libc::SYS_getcwd,
            libc::SYS_getrandom,
            libc::SYS_clock_gettime,
            libc::SYS_clock_getres,
            libc::SYS_clock_nanosleep,
            libc::SYS_nanosleep,
            libc::SYS_gettimeofday,
            libc::SYS_time,
            libc::SYS_rt_sigprocmask,
            libc::SYS_rt_sigaction,
            libc::SYS_rt_sigreturn,
            libc::SYS_sigaltstack,
            libc::SYS_restart_syscall,
            libc::SYS_exit,
            libc::SYS_exit_group,
        ])
        // No memory becomes code.
        .without(libc::SYS_mmap, 2, libc::PROT_EXEC as u64)?
        .without(libc::SYS_mprotect, 2, libc::PROT_EXEC as u64)?
        // Kicks a vCPU; aborts.
        .one_of(libc::SYS_tgkill, 0, &[own_process])?
        // The signal handler, which may run in any thread, writes to its socket so: without an
        // address.
        .when_null(libc::SYS_sendto, 4)?
        .fcntl(&[libc::F_GETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC])
}

impl Calls {
    /// Where argument `index`, a pointer, is null.
    fn when_null(self, call: c_long, index: u8) -> Result<Self, BackendError> {
        let null = SeccompCondition::new(index, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
        Ok(self.when(call, vec![null]))
    }
}

fn awaits_queues() -> Calls {
    Calls::default().any(&[libc::SYS_epoll_wait, libc::SYS_epoll_pwait, libc::SYS_epoll_ctl])
}

/// A guest's accesses reach the devices' registers, and with them the tap and its timer, on the
/// vCPU's thread.
fn runs_a_vcpu() -> Result<Calls, BackendError> {
    Calls::default()
        .any(&[libc::SYS_epoll_ctl])
        .ioctl(&[
            requests::KVM_RUN,
            requests::KVM_IRQ_LINE,
            // For the log, when the guest is beyond help.
            requests::KVM_GET_REGS,
            requests::KVM_GET_SREGS,
            requests::KVM_GET_MSRS,
            requests::KVM_GET_VCPU_EVENTS,
            requests::KVM_GET_LAPIC,
            requests::KVM_GET_MP_STATE,
            requests::KVM_GET_DEBUGREGS,
            requests::KVM_GET_XCRS,
        ])
        .map(|calls| calls.any(&[libc::SYS_timerfd_settime]))?
        .ioctl(&[requests::TUNSETOFFLOAD])
}

/// Switches the log of what the guest writes, reads it, and re-arms it.
fn reads_the_dirty_log() -> Result<Calls, BackendError> {
    Calls::default().ioctl(&[
        requests::KVM_SET_USER_MEMORY_REGION,
        requests::KVM_GET_DIRTY_LOG,
        requests::KVM_CLEAR_DIRTY_LOG,
    ])
}

/// An image that is open.
fn disk() -> Result<Calls, BackendError> {
    Calls::default()
        .any(&[
            libc::SYS_pread64,
            libc::SYS_pwrite64,
            libc::SYS_preadv,
            libc::SYS_pwritev,
            libc::SYS_fsync,
            libc::SYS_fdatasync,
            libc::SYS_fallocate,
            libc::SYS_ftruncate,
            libc::SYS_lseek,
            libc::SYS_fstat,
            libc::SYS_newfstatat,
            libc::SYS_statx,
            libc::SYS_fstatfs,
        ])
        .ioctl(&requests::BLOCK)?
        // Letting go of a lock.
        .fcntl(&[libc::F_OFD_SETLK])
}

fn net() -> Result<Calls, BackendError> {
    Calls::default().any(&[libc::SYS_timerfd_settime]).ioctl(&[requests::TUNSETOFFLOAD])
}

fn character() -> Result<Calls, BackendError> {
    // A socket's file is looked at before it is removed.
    let calls = Calls::default().any(&[libc::SYS_accept4, libc::SYS_recvfrom, libc::SYS_unlink]);
    let calls = calls.any(&[libc::SYS_statx, libc::SYS_newfstatat, libc::SYS_lstat]);
    // What comes in for the serial port interrupts the guest.
    calls.ioctl(&requests::TERMINAL)?.ioctl(&[requests::FIONBIO, requests::KVM_IRQ_LINE])
}

/// Files that exist, for reading.
fn reads_files() -> Result<Calls, BackendError> {
    let writes = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u64;
    Calls::default()
        .any(&[
            libc::SYS_lseek,
            libc::SYS_pread64,
            libc::SYS_fstat,
            libc::SYS_newfstatat,
            libc::SYS_statx,
            libc::SYS_access,
            libc::SYS_readlink,
            libc::SYS_readlinkat,
        ])
        .without(libc::SYS_openat, 2, writes)
}

/// Files that exist, also for writing: a disk's when it is taken. None is made.
fn opens_files() -> Result<Calls, BackendError> {
    let calls = reads_files()?.without(libc::SYS_openat, 2, (libc::O_CREAT | libc::O_TRUNC) as u64)?;
    calls.any(&[libc::SYS_faccessat, libc::SYS_faccessat2]).fcntl(&[
        libc::F_OFD_SETLK,
        libc::F_OFD_GETLK,
        libc::F_SETFD,
    ])
}

/// Stops, loads, saves, resets, and drops a machine with its devices.
fn owns_a_machine() -> Result<Calls, BackendError> {
    let calls = opens_files()?.and(disk()?).and(net()?).and(awaits_queues());
    calls.any(&[libc::SYS_unlink]).ioctl(&requests::KVM)?.ioctl(&requests::TERMINAL)
}

/// What a thread needs whose children narrow themselves further.
fn starts_threads() -> Result<Calls, BackendError> {
    Calls::default()
        .any(&[
            libc::SYS_clone3,
            libc::SYS_set_robust_list,
            libc::SYS_rseq,
            libc::SYS_capget,
            libc::SYS_capset,
            libc::SYS_eventfd2,
        ])
        .one_of(libc::SYS_clone, 0, &[THREAD])?
        .one_of(libc::SYS_prctl, 0, &[libc::PR_SET_NAME as u64])?
        .one_of(libc::SYS_seccomp, 0, &[libc::SECCOMP_SET_MODE_FILTER.into()])
}

/// Everything that either side of a migration and the threads of its own do.
fn migrates() -> Result<Calls, BackendError> {
    let calls = owns_a_machine()?.and(sends()?).and(first_pages()?).and(places()?);
    let calls = calls.and(sets_priority()?).and(takes_turns()?).and(connects()?).and(accepts()?).and(lets_go()?);
    // To the thread that writes or reads a stream.
    let calls = calls.one_of(libc::SYS_socketpair, 0, &[libc::AF_UNIX as u64])?;
    // Whether memory that another process hands over can be cut off.
    calls.fcntl(&[libc::F_GET_SEALS])?.ioctl(&requests::UFFD_SET_UP)
}

/// On a channel that is open.
fn sends() -> Result<Calls, BackendError> {
    Calls::default()
        .any(&[
            libc::SYS_sendmsg,
            libc::SYS_recvfrom,
            libc::SYS_getsockopt,
            libc::SYS_setsockopt,
            libc::SYS_shutdown,
            // Pages are lent to a peer on this host.
            libc::SYS_pipe2,
            libc::SYS_vmsplice,
            libc::SYS_splice,
        ])
        .fcntl(&[libc::F_SETPIPE_SZ])
}

/// What the vCPUs' registers point at.
fn first_pages() -> Result<Calls, BackendError> {
    Calls::default().ioctl(&[requests::KVM_GET_REGS, requests::KVM_GET_SREGS, requests::KVM_GET_MSRS])
}

/// Takes pages off a channel and puts them in place.
fn places() -> Result<Calls, BackendError> {
    Calls::default()
        // How long the peer has been silent is asked of TCP.
        .any(&[libc::SYS_recvfrom, libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_shutdown])
        // A peer whose TLS is damaged is told so.
        .any(&[libc::SYS_sendmsg])
        .ioctl(&requests::UFFD_PLACE)?
        .ioctl(&[requests::UFFDIO_UNREGISTER])
}

/// Lets those go on who are about to write to pages that are kept as they are.
fn lets_go() -> Result<Calls, BackendError> {
    Calls::default().ioctl(&[requests::UFFDIO_WRITEPROTECT, requests::UFFDIO_UNREGISTER, requests::UFFDIO_WAKE])
}

/// Its own, not another thread's.
fn sets_priority() -> Result<Calls, BackendError> {
    let own = vec![argument(0, SeccompCmpOp::Eq, libc::PRIO_PROCESS.into())?, argument(1, SeccompCmpOp::Eq, 0)?];
    Ok(Calls::default().when(libc::SYS_setpriority, own))
}

/// Its own, not another thread's.
fn takes_turns() -> Result<Calls, BackendError> {
    Calls::default().one_of(libc::SYS_sched_getattr, 0, &[0])?.one_of(libc::SYS_sched_setattr, 0, &[0])
}

/// By name or address, over TCP or a unix socket.
fn connects() -> Result<Calls, BackendError> {
    // The lowest bits are the type; the others are flags.
    const TYPE: u64 = 0xf;
    let mut calls = Calls::default().any(&[
        libc::SYS_connect,
        libc::SYS_getsockname,
        libc::SYS_getpeername,
        // The resolver's.
        libc::SYS_bind,
        libc::SYS_sendto,
        libc::SYS_sendmmsg,
        libc::SYS_recvmsg,
        libc::SYS_uname,
    ]);
    for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            calls = calls.when(
                libc::SYS_socket,
                vec![
                    argument(0, SeccompCmpOp::Eq, family as u64)?,
                    argument(1, SeccompCmpOp::MaskedEq(TYPE), kind as u64)?,
                ],
            );
        }
    }
    // See `missing`.
    calls.one_of(libc::SYS_socket, 0, &[libc::AF_NETLINK as u64])?.ioctl(&[requests::FIONBIO, requests::FIONREAD])
}

/// On a socket that listens; also opens userfaultfd, where /dev/userfaultfd is not to be had.
fn accepts() -> Result<Calls, BackendError> {
    Ok(Calls::default().any(&[libc::SYS_accept4, libc::SYS_unlink, libc::SYS_userfaultfd]))
}

/// `migrate_incoming`, `migrate_recover`.
fn listens() -> Result<Calls, BackendError> {
    Ok(Calls::default().any(&[libc::SYS_bind, libc::SYS_listen, libc::SYS_fchmod]))
}

fn serves_monitors() -> Result<Calls, BackendError> {
    let calls = character()?.and(awaits_queues());
    // Clients hand descriptors over, which only recvmsg takes. Snapshots are listed. Whether
    // somebody writes to a FIFO is seen by tee; standard input and output are given away.
    let calls = calls.any(&[libc::SYS_getdents64, libc::SYS_tee, libc::SYS_dup2, libc::SYS_dup3]);
    Ok(calls.any(&[libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_shutdown]))
}
