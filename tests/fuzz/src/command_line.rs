//! Command lines, their arguments ending in NUL.

use clap::Parser;
use whimbrel::cli::{Cli, Command};
use whimbrel::migration::uri::Uri;
use whimbrel::size::{format_size, parse_size};

use crate::Seed;

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let arguments: Vec<&str> = text.split('\0').collect();
    for argument in &arguments {
        if let Ok(uri) = argument.parse::<Uri>() {
            assert_eq!(uri.to_string().parse(), Ok(uri), "an address reads back as it was written");
        }
        if let Ok(bytes) = parse_size(argument, 1) {
            assert!(i64::try_from(bytes).is_ok() && !format_size(bytes).is_empty());
        }
    }
    let cli = match Cli::try_parse_from(std::iter::once("whimbrel").chain(arguments)) {
        Ok(cli) => cli,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let refused = match cli.command {
        Command::Run(args) => args.validate().err().map(|it| it.to_string()),
        Command::Migrate(args) => args.validate().err().map(|it| it.to_string()),
        Command::Restore(args) => args.validate().err().map(|it| it.to_string()),
        Command::Analyze(args) => args.validate().err().map(|it| it.to_string()),
        Command::Top(args) => {
            drop(args.options());
            None
        }
        // It takes none.
        Command::Launcher => None,
        Command::Demo(args) => args.validate().err().map(|it| it.to_string()),
    };
    assert_ne!(refused.as_deref(), Some(""));
}

pub fn seeds() -> Vec<Seed> {
    let line = |words: &str| words.replace(' ', "\0").into_bytes();
    vec![
        (
            "boot",
            line("run --kernel vmlinuz --initrd i --memory 1.5G,shared=on --cpus 2 --append console=ttyS0 --name x"),
        ),
        (
            "devices",
            line(
                "run --kernel builtin:test --disk path=a,format=qcow2,readonly,serial=1 --net tap=t0,mac=52:54:00:12:34:56 --net fd=3 --rng --balloon --console pty",
            ),
        ),
        (
            "monitors",
            line(
                "run --kernel k --serial null --monitor unix:/run/m,server --qmp tcp:[::1]:0,server=on,wait=off --monitor stdio",
            ),
        ),
        ("cpu", line("run --kernel k --cpu baseline-v2,+avx2,-sse4a,aes=on,hle=off --paused")),
        ("incoming", line("run --memory 512M --incoming tcp:0.0.0.0:4444 --postcopy-after 2")),
        ("migrate", line("migrate unix:/run/m tcp:host:4444 --mode hybrid --downtime 100 --bandwidth 1G")),
        (
            "restore",
            line("restore --lazy --offset 4096 /srv/guest --memory 512M --uuid 6f0ec1a4-7d53-4a3c-9a56-0d1c1f2b3a4d"),
        ),
        ("top", line("top --once --json /run/there.qmp")),
        ("analyze", line("analyze --json -d state /srv/guest,offset=4096")),
        ("demo", line("demo --memory 256M --mode postcopy")),
        ("help", line("run --help")),
    ]
}
