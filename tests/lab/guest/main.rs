//! The programs of the lab's guest. Each checks itself and prints what it has done: whole lines,
//! each in one write, that begin with its name. A line with the word `ERROR` fails whatever
//! scenario it happens in.
//!
//! | program | what it does |
//! |---|---|
//! | `memory [PAUSE_MS]` | counts in each page of 16 MiB for ever, and checks each count before it goes on |
//! | `records FILE` | appends numbered records, each synced before its number is printed |
//! | `clocks` | reads all clocks on each CPU: none may go back, not even from CPU to CPU |
//! | `entropy` | reads random numbers from the machine's own source |
//! | `console DEVICE` | numbers lines there for ever, and answers those that come in |
//! | `filler ORDER` | takes 32 MiB of memory, looks at it again, gives it back |
//! | `kernel` | prints what the kernel says of lockups, stalls and broken devices |
//! | `button COMMAND` | waits for the power button, then runs the command |

mod button;
mod clocks;
mod console;
mod entropy;
mod filler;
mod kernel;
mod memory;
mod records;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["memory"] => memory::run(memory::PAUSE),
        ["memory", pause] => match pause.parse() {
            Ok(pause) => memory::run(Duration::from_millis(pause)),
            Err(error) => Err(std::io::Error::other(error)),
        },
        ["records", file] => records::run(file.as_ref()),
        ["clocks"] => clocks::run(),
        ["entropy"] => entropy::run(),
        ["console", device] => console::run(device.as_ref()),
        ["filler", order] => filler::run(order),
        ["kernel"] => kernel::run(),
        ["button", command] => button::run(command),
        _ => {
            eprintln!(
                "usage: lab-guest memory [PAUSE_MS] | records FILE | clocks | entropy | console DEVICE | filler ORDER | kernel | button COMMAND"
            );
            return ExitCode::from(2);
        }
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    say(&format!("{}: ERROR {error}", words.join(" ")));
    ExitCode::FAILURE
}

/// Prints a line in one piece, so that lines of several programs do not mix.
fn say(line: &str) {
    // Without a console there is nobody to tell.
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}
