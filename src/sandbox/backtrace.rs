//! The backtrace of a panic in a thread that is locked in.
//!
//! To name functions the standard library reads the program's debug information, which a thread
//! that opens no files cannot do, and which would take 60 to 100 MiB of each machine if it were
//! read before the threads are locked in. So a backtrace has the addresses, and the command that
//! names them: whoever reads the log has the program's file.

use std::fmt::Write;
use std::panic::PanicHookInfo;

use super::raw;
use crate::stdio::say;

/// Has panics of this process tell where they come from by addresses, if backtraces are asked for.
/// Without that the standard library's message has all that there is to say.
pub fn by_addresses() {
    // As the standard library reads it.
    if std::env::var_os("RUST_BACKTRACE").is_none_or(|value| value == "0") {
        return;
    }
    let program = std::env::current_exe().map_or_else(|_| "whimbrel".to_owned(), |it| it.display().to_string());
    std::panic::set_hook(Box::new(move |panic| say(&message(panic, &program))));
}

fn message(panic: &PanicHookInfo<'_>, program: &str) -> String {
    let thread = std::thread::current();
    let mut text = format!("\nthread '{}' {panic}\n", thread.name().unwrap_or("<unnamed>"));
    text.push_str("backtrace: addr2line -Cfpie ");
    text.push_str(program);
    for address in raw::return_addresses() {
        // Writing to a string does not fail.
        let _ = write!(text, " {address:#x}");
    }
    text
}
