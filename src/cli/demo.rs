//! `whimbrel demo`.

use std::path::PathBuf;

use clap::Args;

use super::parse;
use super::settings::ModeName;
use crate::client::Mode;
use crate::config::MemoryConfig;
use crate::demo::Options;

/// The smallest RAM in which the test guest has something to lose, in bytes.
const MIN_MEMORY: u64 = 64 << 20;

/// What the long help says first: see [`super::Command`].
pub(super) const ABOUT: &str = "Boots the built-in test guest, moves it between two real processes over tcp loopback in every mode in \
    turn, and shows what each move costs: a table, and a picture of the guest's throughput over time. \
    After each move the guest looks at every byte of its memory; the status is 0 when not one is wrong.\n\n\
    Needs /dev/kvm and userfaultfd, twice the guest's memory, and about half a minute.";

/// Arguments of `whimbrel demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Guest RAM, as for 'run'; the guest writes to three quarters of it
    #[arg(long, value_name = "SIZE[,shared=on]", value_parser = parse::memory, default_value = "512M")]
    memory: MemoryConfig,

    /// Which modes, in which order
    #[arg(long, value_enum, value_delimiter = ',', value_name = "MODE,...", default_value = "precopy,postcopy,hybrid")]
    modes: Vec<ModeName>,

    /// Where the picture goes (SVG)
    #[arg(long, value_name = "FILE", default_value = "whimbrel-demo.svg")]
    out: PathBuf,

    /// Keep the processes' logs and the guest's heartbeats (CSV), and say where they are
    #[arg(long)]
    keep: bool,
}

/// Too little to show anything.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the demo's guest needs at least 64 MiB; give --memory 64M or more")]
pub struct TooLittleMemory;

impl DemoArgs {
    /// Checks what clap cannot.
    pub fn validate(self) -> Result<Options, TooLittleMemory> {
        if self.memory.size < MIN_MEMORY {
            return Err(TooLittleMemory);
        }
        let mode = |name: &ModeName| match name {
            ModeName::Precopy => Mode::Precopy,
            ModeName::Postcopy => Mode::Postcopy,
            ModeName::Hybrid => Mode::Hybrid { passes: 1 },
        };
        let modes = self.modes.iter().map(mode).collect();
        Ok(Options { memory: self.memory, modes, out: self.out, keep: self.keep })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;

    fn demo(arguments: &str) -> Result<Options, String> {
        let words = ["whimbrel", "demo"].into_iter().chain(arguments.split_whitespace());
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Demo(args) => args.validate().map_err(|error| error.to_string()),
            _ => Err("another command".to_owned()),
        }
    }

    #[test]
    fn nothing_needs_to_be_said() {
        let options = demo("").unwrap();
        assert_eq!(options.modes, [Mode::Precopy, Mode::Postcopy, Mode::Hybrid { passes: 1 }]);
        assert_eq!((options.out, options.keep), ("whimbrel-demo.svg".into(), false));
        assert_eq!(options.memory, MemoryConfig { size: 512 << 20, shared: false });
    }

    #[test]
    fn everything_may_be_said() {
        let options = demo("--memory 64M,shared=on --modes hybrid,precopy --out /x.svg --keep").unwrap();
        assert_eq!(options.modes, [Mode::Hybrid { passes: 1 }, Mode::Precopy]);
        assert_eq!((options.memory_argument().as_str(), options.working_set()), ("67108864B,shared=on", 48 << 20));
        assert!(options.keep && options.out.ends_with("x.svg"));
        // What the children are given is what was asked for.
        assert_eq!(parse::memory(&options.memory_argument()), Ok(options.memory));
    }

    #[test]
    fn too_little_and_unknown_are_refused() {
        assert!(demo("--memory 32M").unwrap_err().contains("64M"));
        assert!(demo("--modes fast").unwrap_err().contains("precopy"));
    }
}
