//! What has no safe wrapper: installing a filter, a setting of the C library's allocator, and where
//! the calling thread stands.

use std::ffi::{c_int, c_void};
use std::io;

use seccompiler::BpfProgram;

/// More functions than this do not stand in a backtrace.
const MOST_FRAMES: usize = 128;

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

/// The code addresses that the calling thread's functions return to, innermost first, as offsets
/// into the program's file. Asks the system nothing, so that it works in every thread that is
/// locked in.
pub fn return_addresses() -> Vec<usize> {
    unsafe extern "C" {
        /// Where the linker had the program begin.
        static __executable_start: u8;
        fn _Unwind_Backtrace(each: extern "C" fn(*mut c_void, *mut c_void) -> c_int, data: *mut c_void) -> c_int;
        fn _Unwind_GetIP(context: *mut c_void) -> usize;
    }
    extern "C" fn note(context: *mut c_void, data: *mut c_void) -> c_int {
        const GO_ON: c_int = 0;
        const END: c_int = 5;
        // SAFETY: `data` is the list below, which lives until `_Unwind_Backtrace` returns and is
        // nobody else's meanwhile.
        let found = unsafe { &mut *data.cast::<Vec<usize>>() };
        // SAFETY: the unwinder calls this with a context that is valid for the call.
        found.push(unsafe { _Unwind_GetIP(context) });
        if found.len() < MOST_FRAMES { GO_ON } else { END }
    }
    let mut found: Vec<usize> = Vec::with_capacity(MOST_FRAMES);
    // SAFETY: the C++ ABI's unwinder, which Rust's own panics use; `note` matches its type.
    unsafe { _Unwind_Backtrace(note, (&raw mut found).cast()) };
    let start = (&raw const __executable_start).addr();
    // The instruction before the one that is returned to is the call.
    found.into_iter().filter_map(|address| address.checked_sub(start + 1)).collect()
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
