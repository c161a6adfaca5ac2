//! The program: parse, build, run, exit code.
#![warn(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

use std::error::Error;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
#[cfg(not(feature = "top"))]
use whimbrel::cli::NoTop;
use whimbrel::cli::{Cli, Command};
use whimbrel::sentence::{self, sentence};
use whimbrel::stdio::{OutputError, say};
#[cfg(feature = "top")]
use whimbrel::top;
use whimbrel::{analyze, client, demo, launcher, run};

/// What clap exits with when the command line is wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    // A file that may not grow further (RLIMIT_FSIZE) is an error of that write, not the end of a
    // guest. All threads inherit this.
    let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return no_command(&error),
    };
    // Not what the crate of the queues says of each wrong ring: a guest could fill the log with
    // that.
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info,virtio_queue=off"))
        .format_timestamp_millis()
        .init();
    sentence::install();
    match cli.command {
        Command::Launcher => exit(launcher::serve().map(|()| 0)),
        Command::Run(args) => match args.validate() {
            Ok(config) => exit(run::run(&config)),
            Err(error) => fail(&error, USAGE),
        },
        Command::Restore(args) => match args.validate() {
            Ok(config) => exit(run::run(&config)),
            Err(error) => fail(&error, USAGE),
        },
        Command::Migrate(args) => match args.validate() {
            Ok(plan) => client::migrate(&plan).into(),
            Err(error) => fail(&error, USAGE),
        },
        #[cfg(feature = "top")]
        Command::Top(args) => exit(top::top(&args.options()).map(|()| 0)),
        #[cfg(not(feature = "top"))]
        Command::Top(_) => fail(&NoTop, USAGE),
        Command::Analyze(args) => match args.validate() {
            Ok(options) => exit(analyze::analyze(&options)),
            Err(error) => fail(&error, USAGE),
        },
        Command::Demo(args) => match args.validate() {
            Ok(options) => exit(demo::demo(&options).map(|()| 0)),
            Err(error) => fail(&error, USAGE),
        },
    }
}

fn exit<E: Error + 'static>(result: Result<u8, E>) -> ExitCode {
    match result {
        Ok(code) => code.into(),
        Err(error) => fail(&error, 1),
    }
}

/// One line on standard error: the error and what caused it.
fn fail(error: &(dyn Error + 'static), code: u8) -> ExitCode {
    say(&format!("whimbrel: {}", sentence(error)));
    code.into()
}

/// A text that was asked for, or what is wrong with the command line.
fn no_command(error: &clap::Error) -> ExitCode {
    let printed = error.print().and_then(|()| io::stdout().flush());
    match printed {
        // What is wrong stays so, heard or not; a reader that went away has seen what it wanted.
        _ if error.use_stderr() => USAGE.into(),
        Err(error) if error.kind() != ErrorKind::BrokenPipe => fail(&OutputError::from(error), 1),
        _ => ExitCode::SUCCESS,
    }
}
