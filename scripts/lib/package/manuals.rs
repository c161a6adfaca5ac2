//! Writes what the command line's own description gives: manual pages and shell completions.
//!
//!     cargo run --example manuals -- DIRECTORY
//!
//! It makes `man1/`, `bash/`, `fish/` and `zsh/` there.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use whimbrel::cli::Cli;

fn main() -> ExitCode {
    let Some(directory) = env::args_os().nth(1) else {
        eprintln!("manuals: name the directory to write to");
        return ExitCode::from(2);
    };
    match write(Path::new(&directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manuals: {}: {error}", Path::new(&directory).display());
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &Path) -> Result<(), Box<dyn Error>> {
    let folder = |name: &str| -> Result<_, Box<dyn Error>> {
        let path = directory.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    };
    clap_mangen::generate_to(visible(), folder("man1")?)?;
    for (name, shell) in [("bash", Shell::Bash), ("fish", Shell::Fish), ("zsh", Shell::Zsh)] {
        clap_complete::generate_to(shell, &mut visible(), "whimbrel", folder(name)?)?;
    }
    Ok(())
}

/// The command line without what is not for people: the launcher, and `top` where it is not built.
fn visible() -> Command {
    let whole = Cli::command();
    let about = |text: Option<&clap::builder::StyledStr>| text.cloned().unwrap_or_default();
    Command::new("whimbrel")
        .version(env!("CARGO_PKG_VERSION"))
        .about(about(whole.get_about()))
        .long_about(about(whole.get_long_about()))
        .after_long_help(about(whole.get_after_long_help()))
        .subcommand_required(true)
        .subcommands(whole.get_subcommands().filter(|it| !it.is_hide_set()).cloned())
}
