//! The command line: raw arguments in, one validated configuration out. Nothing after this asks
//! clap anything.

mod analyze;
mod cpu;
mod demo;
mod disk;
mod migrate;
mod net;
mod parse;
mod restore;
mod run;
mod settings;
#[cfg(feature = "top")]
mod top;
mod without_top;

use clap::{Parser, Subcommand};

pub use analyze::{AnalyzeArgs, NoOffset};
pub use demo::{DemoArgs, TooLittleMemory};
pub use migrate::MigrateArgs;
pub use restore::RestoreArgs;
pub use run::{CliError, RunArgs};
pub use settings::NoSetting;
#[cfg(feature = "top")]
pub use top::TopArgs;
pub use without_top::{NoTop, WithoutTop};

/// A KVM virtual machine monitor built around postcopy-first live migration.
#[derive(Debug, Parser)]
#[command(
    name = "whimbrel",
    version,
    about,
    long_about = "Whimbrel runs a virtual machine on KVM and moves it, running, to another host: by precopy (memory \
                  first, then the CPUs), by postcopy (the CPUs first; memory follows, touched pages before all \
                  others), or by both in turn.",
    after_long_help = "ENVIRONMENT:\n  RUST_LOG   what is logged to standard error: error, warn, info (default), debug, trace; \
                       for one part only, such as whimbrel::monitor=debug\n  WHIMBREL_SECCOMP\n             what 'run' does at a system call that it does not need: refuse (default), or kill the process\n  RUST_BACKTRACE\n             1: a panic of 'run' logs where it came from\n  NOTIFY_SOCKET\n             the service manager that 'run' tells when the machine is up, and what it does (sd_notify)\n\n\
                       EXIT STATUS:\n  0 when all went well; the guest's own code when it used the exit port; 1 on failure; \
                       2 when the command line is wrong. 'migrate' has more, which its own help lists.\n\n\
                       'whimbrel COMMAND --help' has the details and examples of each command."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
// Their long descriptions are given here, because clap prefers a variant's comment to one that
// stands at its arguments.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a virtual machine, or wait for one to arrive
    #[command(long_about = run::ABOUT)]
    Run(Box<RunArgs>),
    /// Run a guest that was written to a file
    #[command(long_about = restore::ABOUT)]
    Restore(Box<RestoreArgs>),
    /// Move a running virtual machine to another host
    #[command(long_about = migrate::ABOUT)]
    Migrate(Box<MigrateArgs>),
    /// Watch a migration as it goes on
    #[cfg(feature = "top")]
    #[command(long_about = top::ABOUT)]
    Top(TopArgs),
    /// Refused: the program was built without it
    #[cfg(not(feature = "top"))]
    #[command(hide = true)]
    Top(WithoutTop),
    /// Take a recorded migration apart
    #[command(long_about = analyze::ABOUT)]
    Analyze(AnalyzeArgs),
    /// Show a live guest moving in every mode, with what each costs; needs no arguments
    #[command(long_about = demo::ABOUT)]
    Demo(DemoArgs),
    /// The half of 'run' that starts commands; 'run' starts it itself
    #[command(hide = true, name = crate::launcher::SUBCOMMAND)]
    Launcher,
}

#[cfg(test)]
mod tests;
