//! `whimbrel run`.

use std::path::{Path, PathBuf};

use clap::Args;
use uuid::Uuid;

use super::{cpu, disk, net, parse};
use crate::config::{
    BootConfig, CharDevice, DeviceConfig, DiskConfig, Kernel, MachineConfig, MemoryConfig, MonitorConfig,
    MonitorEndpoint, MonitorFace, NetConfig,
};
use crate::migration::uri::{Stream, Uri, UriError};
use crate::run::{Incoming, RunConfig};
use crate::sandbox::{self, Mode, SandboxVariable};
use crate::vcpu::CpuModel;

/// Arguments that do not go together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CliError {
    /// Nothing to run.
    #[error("there is nothing to run; give --kernel FILE, or --incoming URI to wait for a guest")]
    NoKernel,
    /// Two readers of one standard input.
    #[error(
        "standard input and output are given to both {0} and {1}; give one of them another place, such as unix:PATH,server"
    )]
    StdioTwice(&'static str, &'static str),
    /// Two disks with one image.
    #[error("the disk image '{}' is given twice; two disks can share one only if both are 'readonly'", .0.display())]
    DiskTwice(PathBuf),
    /// Two listeners at one place.
    #[error("the socket '{0}' is given twice; give each its own path")]
    SocketTwice(String),
    /// The environment.
    #[error(transparent)]
    Sandbox(#[from] SandboxVariable),
    /// A place for snapshots that is none.
    #[error("--snapshots '{}' is no directory that can be used: create it first ('mkdir -p')", .0.display())]
    NoSnapshots(PathBuf),
    /// Network cards that get in each other's way.
    #[error(transparent)]
    Net(#[from] net::NetClash),
}

const RUN_EXAMPLES: &str = "\
EXAMPLES:
  Boot a kernel with a serial console on this terminal:
    whimbrel run --kernel vmlinuz --initrd initrd.img --memory 1G --cpus 2 --append 'console=ttyS0'

  Boot the built-in test guest, with a monitor on this terminal and QMP for programs:
    whimbrel run --kernel builtin:test --serial null --monitor stdio --qmp unix:/run/vm.qmp,server

  Wait on another host for that guest (same machine options), then move it there:
    whimbrel run --memory 512M --incoming tcp:0.0.0.0:4444
    (whimbrel) migrate tcp:otherhost:4444

PLACES:
  stdio              this terminal; only one of serial, console and monitors can have it
  null | none        nowhere (serial, console) | no monitor
  pty                a new pseudo-terminal, named in the log (serial, console)
  file:PATH          a file or FIFO, output only (serial, console); a file begins anew, and
                     must be empty or hold text
  unix:PATH          connects to a unix socket
  unix:PATH,server   listens there (mode 0600), does not wait, removes it at the end; a
                     dead process's socket is replaced, anything else there is refused
  tcp:HOST:PORT,server
                     listens there (monitors); port 0 takes a free one, named in the log.
                     A monitor has no password: stay on the loopback address.";

/// What the long help says first: see [`super::Command`].
pub(super) const ABOUT: &str = "Runs a virtual machine until the guest ends it, a monitor says 'quit', or SIGINT, SIGTERM or SIGHUP \
    arrives. With --incoming it waits for a guest that another Whimbrel sends; start it with the same \
    machine options: a difference that matters is refused before anything moves.\n\n\
    After the guest has left for another host the process stays, in state 'postmigrate', until 'quit'. \
    A failed incoming migration ends it with status 1.";

/// Arguments of `whimbrel run`.
#[derive(Args, Debug)]
#[command(after_long_help = RUN_EXAMPLES)]
pub struct RunArgs {
    /// A Linux kernel (vmlinuz), an ELF with a PVH note, or builtin:test for the test guest
    ///
    /// Not needed with --incoming, for the guest brings its memory along. Given there, with
    /// --initrd and --cmdline, it is what the guest boots from when it resets itself or is reset
    /// after it arrived.
    #[arg(long, value_name = "FILE|builtin:test", value_parser = parse::kernel, help_heading = "Boot")]
    kernel: Option<Kernel>,

    /// The kernel's initrd
    #[arg(long, value_name = "FILE", help_heading = "Boot")]
    initrd: Option<PathBuf>,

    /// The kernel's command line
    #[arg(
        long,
        visible_alias = "append",
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true,
        help_heading = "Boot"
    )]
    cmdline: String,

    /// Guest RAM: a multiple of 2 MiB, suffix K, M, G or T, a bare number in MiB
    ///
    /// 'shared=on' backs it by a memfd that other processes can map; the default, private memory,
    /// arrives faster in a migration.
    #[arg(long, value_name = "SIZE[,shared=on]", value_parser = parse::memory, default_value = "512M", help_heading = "Machine")]
    memory: MemoryConfig,

    /// Number of virtual CPUs, 1 to 16
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16), default_value_t = 1, help_heading = "Machine")]
    cpus: u8,

    /// A network card at a tap of the host; may be given several times
    ///
    /// A tap that exists is used as it is, joined to a bridge or not; one that does not is created,
    /// set up, and gone at the end. fd=N takes over a tap that whoever starts this process opened
    /// (with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR). Without 'mac' the address is made out of the
    /// host, the tap and --name. A guest that arrives keeps its own.
    #[arg(long = "net", value_name = "tap=NAME|fd=N[,mac=ADDRESS]", value_parser = net::net, help_heading = "Machine")]
    nets: Vec<NetConfig>,
    /// The processor that the guest is shown: host, max or baseline-v1 to -v4, with features more
    /// or less
    ///
    /// 'host' is everything that this host's KVM can show, 'max' the same. 'baseline-vN' is that
    /// level of the x86-64 psABI, alike on every host of one vendor, so that a guest can move
    /// between generations. '+FEATURE' adds, '-FEATURE' takes away, by the names of /proc/cpuinfo:
    /// 'baseline-v3,+aes', 'host,-avx512f'. A guest that arrives keeps what it was started with;
    /// with --incoming, this is the most that it may have been shown. docs/cpu.md has the details.
    #[arg(long, value_name = "MODEL[,±FEATURE]...", value_parser = cpu::cpu, default_value = "host", help_heading = "Machine")]
    cpu: CpuModel,

    /// A name for this virtual machine, shown by 'info name'
    #[arg(long, value_name = "NAME", help_heading = "Machine")]
    name: Option<String>,

    /// This virtual machine's identity, shown by 'info uuid'. With the migration capability
    /// 'validate-uuid' a guest arrives only where its own is
    #[arg(long, value_name = "UUID", value_parser = parse::uuid, help_heading = "Machine")]
    uuid: Option<Uuid>,

    /// Do not start the guest: 'cont' does
    ///
    /// With --incoming, the guest that arrives stays paused.
    #[arg(long, help_heading = "Machine")]
    paused: bool,

    /// A disk; may be given several times, in the order in which the guest sees them
    ///
    /// FILE is a raw or qcow2 image, or a block device; a comma in it is written twice. The format
    /// is never guessed. While the guest has it, the image is locked: no second virtual machine and
    /// no qemu-img can write to it. On the destination of a migration it is opened only when the
    /// guest arrives.
    #[arg(
        long = "disk",
        value_name = "path=FILE,format=raw|qcow2[,readonly][,serial=TEXT][,backing-format=raw|qcow2]",
        value_parser = disk::disk,
        help_heading = "Devices"
    )]
    disks: Vec<DiskConfig>,

    /// A source of entropy, filled from the host's
    #[arg(long, help_heading = "Devices")]
    rng: bool,

    /// A balloon: 'balloon SIZE' on the monitor asks the guest to make do with less memory
    ///
    /// A guest with such a driver also reports memory that it does not use at the moment (free page
    /// reporting): it is given back to the host and need not be sent by a migration.
    #[arg(long, help_heading = "Devices")]
    balloon: bool,

    /// A console without a serial port's cost, hvc0 in Linux, beside the serial port
    #[arg(long, value_name = "PLACE", value_parser = parse::serial, help_heading = "Connections")]
    console: Option<CharDevice>,

    /// Where the serial port goes [default: stdio, or null when a monitor, the console or
    /// '--incoming fd:0' has it]
    #[arg(long, value_name = "PLACE", value_parser = parse::serial, help_heading = "Connections")]
    serial: Option<CharDevice>,

    /// A monitor for people; may be given several times
    // `Option` inside: `none` is a value that means no monitor.
    #[arg(long = "monitor", value_name = "PLACE", value_parser = monitor_value, help_heading = "Connections")]
    monitors: Vec<MonitorValue>,

    /// A monitor for programs (QMP: JSON); may be given several times
    #[arg(long = "qmp", value_name = "PLACE", value_parser = monitor_value, help_heading = "Connections")]
    qmp: Vec<MonitorValue>,

    /// Wait for a guest at tcp:HOST:PORT or unix:PATH, or read it from exec:COMMAND, fd:NUMBER or
    /// file:PATH[,offset=N][,lazy=on]; 'defer': until 'migrate_incoming'
    ///
    /// While it waits, it takes memory for the guest's RAM from the host, as far as the host has
    /// more than an eighth of its memory to spare; what the guest turns out not to use is given
    /// back as the guest comes.
    #[arg(long, value_name = "URI|defer", value_parser = incoming, help_heading = "Migration")]
    incoming: Option<Incoming>,

    /// Whether a guest that does not arrive (refused, cancelled or cut off on its way) ends the
    /// process [default: on, or off with '--incoming defer']
    ///
    /// When off, the machine is as before and waits for the next attempt: at the same tcp: or unix:
    /// address, or for 'migrate_incoming'. That command's argument 'exit-on-error' decides for one
    /// attempt.
    #[arg(long, value_name = "on|off", value_parser = clap::builder::BoolishValueParser::new(), requires = "incoming", help_heading = "Migration")]
    exit_on_error: Option<bool>,

    /// Turn each migration out of here to postcopy after at most N precopy passes (0: at once)
    ///
    /// Without it a migration is precopy until someone says 'migrate_start_postcopy'. The migration
    /// parameter 'x-postcopy-after' changes it later.
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Migration")]
    postcopy_after: Option<u32>,

    /// Do not filter system calls, and let debuggers in: only to look for a fault
    ///
    /// Each thread is kept from the system calls that it does not need; one that is tried all the
    /// same is refused and named in the kernel's log ('dmesg', type=1326). docs/SECURITY.md says
    /// what that is good for.
    #[arg(long, help_heading = "Security")]
    no_seccomp: bool,
    /// Start no process beside this one: 'exec:' is refused, and 'file:' writes only to files that
    /// exist
    ///
    /// Without this, a small process beside this one starts the commands of 'migrate exec:COMMAND'
    /// and makes the files of 'migrate file:PATH', since the sandbox keeps this one from both.
    /// Whoever took this process over could have it do the same.
    #[arg(long, help_heading = "Security")]
    no_exec: bool,
    /// The directory for snapshots: 'savevm', 'loadvm', 'delvm' and 'info snapshots' work in it,
    /// and are refused without one
    ///
    /// Each snapshot is a file DIR/TAG.whimbrel with the whole machine, which 'whimbrel restore'
    /// runs, too. Machines may share it: each sees others' snapshots and leaves them alone. They
    /// are known by --uuid and --name, so give one.
    #[arg(long, value_name = "DIR", value_parser = parse::absolute, help_heading = "Migration")]
    snapshots: Option<PathBuf>,
    /// Encrypt migrations, and let in only who has a certificate: the directory with ca-cert.pem,
    /// server-cert.pem, server-key.pem, client-cert.pem and client-key.pem
    ///
    /// A guest arrives at the server and leaves from the client. A ca-crl.pem is
    /// honoured if it is there. The migration parameter 'tls-creds' changes it later.
    #[arg(long, value_name = "DIR", value_parser = parse::absolute, help_heading = "Migration")]
    tls_dir: Option<PathBuf>,
}

/// What `--monitor` and `--qmp` hold. A type of its own: clap would take a bare `Option` for an
/// optional argument.
#[derive(Clone, Debug)]
struct MonitorValue(Option<MonitorEndpoint>);

fn monitor_value(text: &str) -> Result<MonitorValue, parse::ValueError> {
    parse::monitor(text).map(MonitorValue)
}

fn incoming(text: &str) -> Result<Incoming, UriError> {
    match text {
        "defer" => Ok(Incoming::Deferred),
        _ => text.parse::<Uri>().map(Incoming::At),
    }
}

impl RunArgs {
    /// The same, waiting for this guest.
    pub(super) fn arriving(self, incoming: Incoming) -> Self {
        Self { incoming: Some(incoming), ..self }
    }

    /// Checks what clap cannot: the arguments against each other.
    pub fn validate(self) -> Result<RunConfig, CliError> {
        let endpoints = |values: Vec<MonitorValue>, face| {
            values.into_iter().filter_map(|value| value.0).map(move |endpoint| MonitorConfig { face, endpoint })
        };
        let monitors: Vec<_> =
            endpoints(self.monitors, MonitorFace::Hmp).chain(endpoints(self.qmp, MonitorFace::Qmp)).collect();
        let comes_in = self.incoming.as_ref().filter(|it| takes_stdio(it)).map(|_| GUEST);
        let stdio_is_taken = self.console == Some(CharDevice::Stdio)
            || monitors.iter().any(|it| it.endpoint == MonitorEndpoint::Stdio)
            || comes_in.is_some();
        let serial = self.serial.unwrap_or(match stdio_is_taken {
            true => CharDevice::Null,
            false => CharDevice::Stdio,
        });
        let devices: Vec<_> =
            [("--serial", Some(&serial)), ("--console", self.console.as_ref())].into_iter().filter_map(given).collect();
        check_stdio(comes_in, &devices, &monitors)?;
        check_sockets(&devices, &monitors)?;
        disk::check_twice(&self.disks).map_err(CliError::DiskTwice)?;
        net::check(&self.nets)?;
        if let Some(directory) = self.snapshots.as_ref().filter(|directory| !directory.is_dir()) {
            return Err(CliError::NoSnapshots(directory.clone()));
        }

        let boot = self.kernel.map(|kernel| BootConfig { kernel, initrd: self.initrd, cmdline: self.cmdline });
        if boot.is_none() && self.incoming.is_none() {
            return Err(CliError::NoKernel);
        }
        let exit_on_error = self.exit_on_error.unwrap_or(self.incoming != Some(Incoming::Deferred));
        Ok(RunConfig {
            exit_on_error,
            machine: MachineConfig {
                boot,
                arriving: self.incoming.is_some(),
                memory: self.memory,
                vcpus: self.cpus,
                cpu: self.cpu,
                serial,
                devices: DeviceConfig {
                    disks: self.disks,
                    nets: self.nets,
                    console: self.console,
                    rng: self.rng,
                    balloon: self.balloon,
                },
                name: self.name,
                uuid: self.uuid,
                paused: self.paused,
            },
            monitors,
            incoming: self.incoming,
            postcopy_after: self.postcopy_after,
            sandbox: Mode::of(self.no_seccomp, std::env::var(sandbox::VARIABLE).ok().as_deref())?,
            no_exec: self.no_exec,
            snapshots: self.snapshots,
            tls_dir: self.tls_dir,
        })
    }
}

/// A character device together with the option that gives it.
type Given<'a> = (&'static str, &'a CharDevice);

fn given<'a>((option, device): (&'static str, Option<&'a CharDevice>)) -> Option<Given<'a>> {
    device.map(|device| (option, device))
}

/// A guest that has standard input or output, as messages call it.
const GUEST: &str = "the guest that comes in";

/// Whether the guest comes by standard input or output: by number, or by one of the names that
/// files have for it.
fn takes_stdio(incoming: &Incoming) -> bool {
    match incoming {
        Incoming::At(Uri::Stream(Stream::Fd(number))) => matches!(number.parse(), Ok(0 | 1)),
        Incoming::At(Uri::Stream(Stream::File { path, .. })) => {
            ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"].iter().any(|name| path == Path::new(name))
        }
        _ => false,
    }
}

fn check_stdio(
    comes_in: Option<&'static str>,
    devices: &[Given<'_>],
    monitors: &[MonitorConfig],
) -> Result<(), CliError> {
    let devices = devices.iter().filter(|(_, device)| **device == CharDevice::Stdio).map(|(option, _)| *option);
    let monitors = monitors.iter().filter(|it| it.endpoint == MonitorEndpoint::Stdio).map(|it| match it.face {
        MonitorFace::Hmp => "--monitor",
        MonitorFace::Qmp => "--qmp",
    });
    let mut owners = comes_in.into_iter().chain(devices).chain(monitors);
    match (owners.next(), owners.next()) {
        (Some(first), Some(second)) => Err(CliError::StdioTwice(first, second)),
        _ => Ok(()),
    }
}

fn check_sockets(devices: &[Given<'_>], monitors: &[MonitorConfig]) -> Result<(), CliError> {
    let devices = devices.iter().filter_map(|(_, device)| match device {
        CharDevice::Unix { path, server: true } => Some(path),
        _ => None,
    });
    let monitors = monitors.iter().filter_map(|it| match &it.endpoint {
        MonitorEndpoint::UnixServer(path) => Some(path),
        _ => None,
    });
    let mut seen = Vec::new();
    for path in devices.chain(monitors) {
        if seen.contains(&path) {
            return Err(CliError::SocketTwice(path.display().to_string()));
        }
        seen.push(path);
    }
    Ok(())
}
