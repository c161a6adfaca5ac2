//! What has no safe wrapper: installing a filter, and a setting of the C library's allocator.

use std::io;

use seccompiler::BpfProgram;

/// Puts `program` before every system call of the calling thread, and of what it will start.
/// Refusals are told in the kernel's log.
///
/// Not by `seccompiler::apply_filter`, which cannot have them told.
pub fn install(program: &BpfProgram) -> io::Result<()> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `program` and the instructions that it points to live until the call returns; the
    // kernel copies and checks them. Its `sock_filter` is the one of linux/filter.h, in both
    // crates.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_LOG,
            std::ptr::from_ref(&program),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const _: () = assert!(size_of::<seccompiler::sock_filter>() == size_of::<libc::sock_filter>());

/// Has glibc's allocator have as many arenas as it would have anyway, without asking the host for
/// its processors later.
pub fn fix_number_of_arenas() {
    #[cfg(target_env = "gnu")]
    {
        /// Arenas for each processor, as glibc has it.
        const EACH: usize = 8;
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // SAFETY: the call takes two numbers and changes a limit of the allocator, from any thread
        // at any time.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, (EACH * processors).min(1 << 16) as i32) };
    }
}

/// Any system call with up to three arguments, which must be such that it can do no harm if it is
/// let through.
#[cfg(test)]
pub fn attempt(call: libc::c_long, arguments: [usize; 3]) -> io::Result<()> {
    // SAFETY: the tests pass numbers and null pointers only, or what lives until the call returns.
    let result = unsafe { libc::syscall(call, arguments[0], arguments[1], arguments[2]) };
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether memory may become code.
#[cfg(test)]
pub fn attempt_to_map_code() -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_EXEC, flags, -1, 0) };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}
