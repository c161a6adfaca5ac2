use std::path::PathBuf;

use clap::{CommandFactory, Parser};

use super::*;
use crate::config::{CharDevice, Kernel, MemoryConfig, MonitorEndpoint, MonitorFace};
use crate::migration::uri::Uri;
use crate::run::{Incoming, RunConfig};

fn run_config(arguments: &str) -> Result<RunConfig, String> {
    let words = ["whimbrel", "run"].into_iter().chain(arguments.split_whitespace());
    match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
        Command::Run(args) => args.validate().map_err(|error| error.to_string()),
        _ => Err("another command".to_owned()),
    }
}

fn plan(arguments: &str) -> Result<crate::client::Plan, String> {
    let words = ["whimbrel", "migrate"].into_iter().chain(arguments.split_whitespace());
    match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
        Command::Migrate(args) => args.validate().map_err(|error| error.to_string()),
        _ => Err("another command".to_owned()),
    }
}

#[test]
fn clap_agrees_with_itself() {
    Cli::command().debug_assert();
}

/// A variant's comment takes the place of what stands at its arguments, so that the long text was
/// never shown.
#[test]
fn the_long_help_of_every_subcommand_is_shown_and_longer_than_the_short_one() {
    let about = [
        ("run", run::ABOUT),
        ("restore", restore::ABOUT),
        ("migrate", migrate::ABOUT),
        #[cfg(feature = "top")]
        ("top", top::ABOUT),
        ("analyze", analyze::ABOUT),
        ("demo", demo::ABOUT),
    ];
    let help = |words: &[&str]| {
        let words = ["whimbrel"].iter().chain(words);
        let text = Cli::try_parse_from(words).unwrap_err().to_string();
        // As wide as the terminal is, if there is one.
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let visible = Cli::command()
        .get_subcommands()
        .filter(|it| !it.is_hide_set())
        .map(|it| it.get_name().to_owned())
        .collect::<Vec<_>>();
    assert_eq!(visible, about.map(|(name, _)| name));
    for (name, about) in about {
        let about = about.split_whitespace().collect::<Vec<_>>().join(" ");
        let (long, short) = (help(&[name, "--help"]), help(&[name, "-h"]));
        assert!(long.contains(&about) && !short.contains(&about) && short.len() < long.len(), "{name}: {long}");
        assert_eq!(help(&["help", name]), long);
    }
    let long = help(&["--help"]);
    assert!(long.contains("EXIT STATUS") && long.contains("ENVIRONMENT"), "{long}");
}

#[test]
fn the_least_that_runs() {
    let config = run_config("--kernel builtin:test").unwrap();
    assert_eq!(config.machine.memory, MemoryConfig { size: 512 << 20, shared: false });
    assert_eq!(config.machine.vcpus, 1);
    assert_eq!(config.machine.serial, CharDevice::Stdio);
    assert_eq!(config.machine.boot.unwrap().kernel, Kernel::BuiltinTest);
    assert!(config.monitors.is_empty() && config.incoming.is_none() && !config.machine.paused);
}

#[test]
fn everything_at_once() {
    let config = run_config(
        "--kernel k --initrd i --append a=1 --memory 1G,shared=on --cpus 4 --serial unix:/s,server \
         --monitor stdio --monitor unix:/m --qmp unix:/q,server=on,wait=off --qmp tcp:127.0.0.1:0,server \
         --postcopy-after 0 --tls-dir certificates --paused --name n",
    )
    .unwrap();
    let boot = config.machine.boot.unwrap();
    assert_eq!(boot.kernel, Kernel::File(PathBuf::from("k")));
    assert_eq!((boot.initrd, boot.cmdline.as_str()), (Some("i".into()), "a=1"));
    assert!(config.machine.memory.shared && config.machine.paused);
    assert_eq!(config.postcopy_after, Some(0));
    // The monitor takes it back as it is.
    assert_eq!(config.tls_dir, Some(std::env::current_dir().unwrap().join("certificates")));
    let places: Vec<_> = config.monitors.into_iter().map(|it| (it.face, it.endpoint)).collect();
    assert_eq!(
        places,
        [
            (MonitorFace::Hmp, MonitorEndpoint::Stdio),
            (MonitorFace::Hmp, MonitorEndpoint::UnixClient("/m".into())),
            (MonitorFace::Qmp, MonitorEndpoint::UnixServer("/q".into())),
            (MonitorFace::Qmp, MonitorEndpoint::TcpServer { host: "127.0.0.1".to_owned(), port: 0 }),
        ]
    );
}

#[test]
fn a_guest_that_comes_by_standard_input_has_it_alone() {
    for incoming in ["fd:0", "fd:1", "file:/dev/stdin", "file:/proc/self/fd/0,offset=4096"] {
        let config = run_config(&format!("--incoming {incoming}")).unwrap();
        assert_eq!(config.machine.serial, CharDevice::Null, "{incoming}");
        for other in ["--serial stdio", "--console stdio", "--monitor stdio", "--qmp stdio"] {
            let error = run_config(&format!("--incoming {incoming} {other}")).unwrap_err();
            let option = other.split(' ').next().unwrap();
            assert!(error.to_string().contains(&format!("the guest that comes in and {option}")), "{error}");
        }
    }
    assert_eq!(run_config("--incoming fd:3").unwrap().machine.serial, CharDevice::Stdio);
}

#[test]
fn a_monitor_on_stdio_takes_it_from_the_serial_port() {
    let config = run_config("--kernel k --monitor stdio").unwrap();
    assert_eq!(config.machine.serial, CharDevice::Null);
    let error = run_config("--kernel k --monitor stdio --serial stdio").unwrap_err();
    assert!(error.contains("--serial") && error.contains("--monitor"), "{error}");
    let error = run_config("--kernel k --monitor stdio --qmp stdio").unwrap_err();
    assert!(error.contains("--monitor") && error.contains("--qmp"), "{error}");
}

#[test]
fn a_console_has_a_place_of_its_own() {
    let config = run_config("--kernel k --console unix:/c,server --rng --balloon").unwrap().machine;
    assert_eq!(config.serial, CharDevice::Stdio);
    assert_eq!(config.devices.console, Some(CharDevice::Unix { path: "/c".into(), server: true }));
    assert!(config.devices.rng && config.devices.balloon);
    let config = run_config("--kernel k --console stdio").unwrap().machine;
    assert_eq!((config.serial, config.devices.console), (CharDevice::Null, Some(CharDevice::Stdio)));
    let config = run_config("--kernel k").unwrap().machine;
    assert!(config.devices.console.is_none() && !config.devices.balloon);
}

#[test]
fn a_destination_needs_no_kernel_and_keeps_one_for_resets() {
    let config = run_config("--incoming tcp:0.0.0.0:4444 --paused").unwrap();
    assert!(matches!(config.incoming, Some(Incoming::At(_))) && config.machine.paused);
    assert!(config.machine.arriving && config.machine.boot.is_none());
    let config = run_config("--kernel k --append x --incoming defer").unwrap();
    assert_eq!(config.incoming, Some(Incoming::Deferred));
    assert!(config.machine.arriving && config.machine.boot.is_some());
    assert!(run_config("").unwrap_err().contains("--kernel FILE"));
}

#[test]
fn disks_keep_their_order() {
    let config = run_config("--kernel k --disk path=b,format=raw --disk path=a,format=qcow2,readonly").unwrap();
    let disks: Vec<_> =
        config.machine.devices.disks.iter().map(|it| (it.path.to_str().unwrap(), it.read_only)).collect();
    assert_eq!(disks, [("b", false), ("a", true)]);
}

#[test]
fn what_is_restored_comes_from_its_file_and_from_nowhere_else() {
    let restore = |text: &str| {
        let words = ["whimbrel", "restore"].into_iter().chain(text.split_whitespace());
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Restore(args) => args.validate().map_err(|error| error.to_string()),
            _ => Err("another command".to_owned()),
        }
    };
    let incoming = restore("/guest --offset 1M --lazy").unwrap().incoming;
    assert_eq!(incoming, Some(Incoming::At("file:/guest,offset=1M,lazy=on".parse().unwrap())));
    for other in ["--incoming tcp:h:1", "--incoming defer"] {
        let error = restore(&format!("/guest {other}")).unwrap_err();
        assert!(error.contains("cannot be used with") && error.contains("--incoming"), "{error}");
    }
    assert!(restore("/guest --offset x").unwrap_err().contains("such as 4096"));
    let error = run_config("--kernel k --snapshots /nowhere/at/all").unwrap_err();
    assert!(error.contains("/nowhere/at/all") && error.contains("mkdir"), "{error}");
}

#[test]
fn bad_values_are_named_with_what_would_be_right() {
    for (arguments, says) in [
        ("--memory 1", "at least 16 MiB"),
        ("--memory 17M", "multiple of 2 MiB"),
        ("--memory lots", "'lots' is not a size"),
        ("--memory 1G,huge=on", "'huge=on' is not an option"),
        ("--cpus 17", "1..=16"),
        ("--cpus 0", "1..=16"),
        ("--serial tty", "stdio, null, pty"),
        ("--serial file:", "lacks a path"),
        ("--qmp tcp:localhost:1", "tcp:HOST:PORT,server"),
        ("--qmp unix:/q,sever", "'sever' is not an option"),
        ("--monitor unix:,server", "lacks a path"),
        ("--incoming rdma:h:1", "'rdma:' is not supported"),
        ("--incoming nowhere", "not a migration address"),
        ("--kernel builtin:linux", "builtin:test"),
        ("--disk path=a", "lacks format=raw or format=qcow2"),
        ("--disk path=a,format=raw --disk path=a,format=raw,readonly", "'a' is given twice"),
        ("--console stdio --serial stdio", "both --serial and --console"),
        ("--console stdio --monitor stdio", "both --console and --monitor"),
        ("--console unix:/q,server --qmp unix:/q,server", "given twice"),
        ("--console tty", "stdio, null, pty"),
        ("--postcopy-after -1", "--postcopy-after"),
        ("--qmp unix:/q,server --monitor unix:/q,server", "given twice"),
    ] {
        let arguments = match arguments.contains("--kernel") {
            true => arguments.to_owned(),
            false => format!("--kernel k {arguments}"),
        };
        let error = run_config(&arguments).unwrap_err();
        assert!(error.contains(says), "{arguments}: {error}");
    }
}

#[test]
fn everything_of_one_move_can_be_said() {
    use crate::client::Task;
    let set = |text: &str| {
        let plan = plan(&format!("--qmp /q --to tcp:h:1 {text}"))?;
        let parameters = plan.settings.parameters.iter().map(|(it, to)| format!("{}={to}", it.name));
        let capabilities = plan.settings.capabilities.iter().map(|(it, on)| format!("{}={on}", it.name()));
        Ok::<_, String>(capabilities.chain(parameters).collect::<Vec<_>>().join(" "))
    };
    for (text, says) in [
        ("", ""),
        ("--mode precopy", "postcopy-policy='manual'"),
        ("--mode postcopy", "postcopy-ram=true postcopy-policy='after-passes=0'"),
        ("--mode hybrid", "postcopy-ram=true postcopy-policy='after-passes=1'"),
        ("--mode hybrid --passes 3", "postcopy-ram=true postcopy-policy='after-passes=3'"),
        ("--postcopy-policy time=5", "postcopy-ram=true postcopy-policy='time=5'"),
        ("--bandwidth 10 --downtime-limit 50", "max-bandwidth=10485760 downtime-limit=50"),
        (
            "--postcopy-bandwidth 1K --switchover-bandwidth 1G",
            "max-postcopy-bandwidth=1024 avail-switchover-bandwidth=1073741824",
        ),
        ("--channels 4", "multifd=true multifd-channels=4"),
        ("--channels 0", "multifd=false"),
        ("--compression zstd", "multifd-compression='zstd'"),
        ("--compression zlib:9", "multifd-compression='zlib' multifd-zlib-level=9"),
        ("--xbzrle on --auto-converge off", "xbzrle=true auto-converge=false"),
        ("--dirty-limit 10", "dirty-limit=true vcpu-dirty-limit=10"),
        ("--reconnect 60 --keepalive 5000", "x-reconnect=60 x-keepalive=5000"),
        ("--tls-dir /c --tls-hostname h", "tls-creds='/c' tls-hostname='h'"),
        ("--tls-dir=", "tls-creds=''"),
        ("--parameter cpu-throttle-initial=30 --capability release-ram=on", "release-ram=true cpu-throttle-initial=30"),
        ("--parameter x-postcopy-after=-1", "postcopy-policy='manual'"),
        ("--parameter max-bandwidth=1M", "max-bandwidth=1048576"),
        ("--capability zero-blocks=off", "zero-page-detection='none'"),
    ] {
        assert_eq!(set(text).as_deref(), Ok(says), "{text}");
    }
    for (text, says) in [
        ("--passes 3", "--mode hybrid"),
        ("--mode precopy --postcopy-policy stalled", "cannot be used with"),
        ("--postcopy-policy never", "'postcopy-policy' expects"),
        ("--compression zip", "'zip' is no way to compress"),
        ("--compression none:3", "'none:3' is no way"),
        ("--compression zstd:21", "multifd-zstd-level' expects"),
        ("--parameter max-bandwith=1", "did you mean 'max-bandwidth'?"),
        ("--parameter max-bandwidth", "lacks a value"),
        ("--parameter multifd-channels=0", "between 1 and 255"),
        ("--parameter tls-authz=x", "not supported"),
        ("--capability postcopy_ram=on", "did you mean 'postcopy-ram'?"),
        ("--capability xbzrle=yes", "neither 'on' nor 'off'"),
        ("--bandwidth 1 --parameter max-bandwidth=2", "'max-bandwidth' is given twice"),
        ("--detach --follow", "cannot be used with"),
        ("--listen tcp:h:1", "--destination-qmp"),
    ] {
        let error = set(text).unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
    assert!(plan("--qmp /q").unwrap_err().contains("--to"));
    assert!(plan("--qmp /q --follow --bandwidth 1").unwrap_err().contains("cannot be used with"));
    assert_eq!(plan("--qmp /q --follow --json").map(|it| (it.task, it.json)), Ok((Task::Follow, true)));
    let recover = plan("--qmp /q --recover --to tcp:h:1 --destination-qmp /d --listen tcp:0.0.0.0:1").unwrap().task;
    let at = |text: &str| text.parse::<Uri>().unwrap();
    assert_eq!(
        recover,
        Task::Recover { to: at("tcp:h:1"), listen: at("tcp:0.0.0.0:1"), destination: "/d".parse().ok() }
    );
}

/// The machine's own directory is another one.
#[test]
fn a_path_is_meant_from_where_it_was_typed() {
    let here = std::env::current_dir().unwrap();
    for (given, meant) in [("file:guest,offset=4096", "file:{}/guest,offset=4096"), ("unix:in", "unix:{}/in")] {
        let to = plan(&format!("--qmp q --to {given}")).unwrap().to().unwrap().to_string();
        assert_eq!(to, meant.replace("{}", here.to_str().unwrap()));
        // Of another host's directories nothing is known.
        assert_eq!(plan(&format!("--qmp tcp:h:1 --to {given}")).unwrap().to().unwrap().to_string(), given);
    }
}
