//! Pages one process's memory from another over a socket, on demand and in the background, without
//! KVM.
//!
//! ```text
//! cargo run --release -p whimbrel-postcopy --example remote_pager                 both sides, by itself
//! cargo run --release -p whimbrel-postcopy --example remote_pager page 0:7000     waits for memory on port 7000
//! cargo run --release -p whimbrel-postcopy --example remote_pager serve HOST:7000 gives its memory away
//! ```
//!
//! The "guest" is a thread that adds up numbers which stand in its memory. Half of them are added
//! in the serving process; then the thread stops there and goes on in the paging process, where
//! every page that it touches is missing at first. At the end it says whether the sum is right.

use std::error::Error;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use whimbrel_postcopy::bitmap::PageBitmap;
use whimbrel_postcopy::channel::{Listener, TcpAddress};
use whimbrel_postcopy::guest::{
    Configuration, DestinationGuest, DirtyLog, GuestError, GuestRam, OutgoingGuest, PausableGuest, PausedGuest,
    Pausing, Section, SnapshotGuest, SourceGuest,
};
use whimbrel_postcopy::memory::{AnonymousRam, RamBlock};
use whimbrel_postcopy::progress::Observer;
use whimbrel_postcopy::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use whimbrel_postcopy::source::{Limits, Policy};
use whimbrel_postcopy::stats::{Report, Status};
use whimbrel_postcopy::{destination, source};

/// The memory that moves: 64 MiB.
const PAGES: u64 = 16 * 1024;
/// The background is slowed down to so many bytes per second, so that there is something left to
/// demand.
const BACKGROUND: u64 = 200 << 20;

/// The number that stands in a page: any function that two processes agree on.
fn number(page: u64) -> u64 {
    page.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// The `n`th page that is visited: each once, in an order that jumps about.
fn visited(n: u64) -> u64 {
    n * 7919 % PAGES
}

/// A process whose memory moves: what a virtual machine monitor would be.
struct Adder {
    ram: [RamBlock; 1],
    /// Numbers added so far, and their sum: the "CPU state".
    state: Mutex<(u64, u64)>,
    run: Sender<()>,
}

impl Adder {
    fn new() -> std::io::Result<(Arc<Self>, Receiver<()>)> {
        let (run, running) = channel();
        let ram = [AnonymousRam::block("numbers", PAGES)?];
        Ok((Arc::new(Self { ram, state: Mutex::default(), run }), running))
    }

    /// Adds numbers up to the `end`th.
    fn add_up_to(&self, end: u64) {
        let (from, mut sum) = self.state();
        let mut page = [0; PAGE_SIZE];
        for n in from..end {
            self.ram[0].read(PageIndex(visited(n)), &mut page);
            sum = page.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)).wrapping_add(sum);
        }
        self.set_state((end, sum));
    }

    fn state(&self) -> (u64, u64) {
        *self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn set_state(&self, to: (u64, u64)) {
        *self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = to;
    }
}

impl PausableGuest for Adder {
    // The thread has done its half before the migration starts: there is nothing to stop, and it
    // goes on there.
    fn pause(&self, pausing: Pausing) -> Result<PausedGuest, GuestError> {
        Ok(pausing.paused(true))
    }
    fn resume(&self, _: PausedGuest) -> Result<(), GuestError> {
        Ok(self.run.send(())?)
    }
}

impl GuestRam for Adder {
    fn ram(&self) -> &[RamBlock] {
        &self.ram
    }
}

impl DirtyLog for Adder {
    // Pages move only after the thread has stopped here, so that there is no dirty log to keep.
    fn start_dirty_log(&self) -> Result<(), GuestError> {
        Err("this program does not log its writes: it moves by postcopy at once".into())
    }
    fn sync_dirty(&self, _: BlockId, _: &PageBitmap) -> Result<(), GuestError> {
        Ok(())
    }
    fn clear_dirty(&self, _: PageRun, _: &PageBitmap) -> Result<(), GuestError> {
        Ok(())
    }
    fn stop_dirty_log(&self) -> Result<(), GuestError> {
        Ok(())
    }
}

impl OutgoingGuest for Adder {
    fn configuration(&self) -> Configuration {
        vec![("program".into(), "remote_pager 1".into())]
    }
}

impl SourceGuest for Adder {
    fn save(&self) -> Result<Vec<Section>, GuestError> {
        let (count, sum) = self.state();
        let bytes = [count.to_le_bytes(), sum.to_le_bytes()].concat();
        Ok(vec![Section { name: "adder".into(), instance: 0, version: 1, bytes }])
    }
    fn handed_over(&self) {}
}

impl SnapshotGuest for Adder {
    fn save_staying(&self) -> Result<Vec<Section>, GuestError> {
        self.save()
    }
}

impl DestinationGuest for Adder {
    fn check_configuration(&self, source: &Configuration) -> Result<(), GuestError> {
        if *source == self.configuration() {
            Ok(())
        } else {
            Err(format!("this is another program: {source:?}").into())
        }
    }
    fn load(&self, sections: &[Section]) -> Result<(), GuestError> {
        let [Section { version: 1, bytes, .. }] = sections else {
            return Err("one section of version 1 expected".into());
        };
        let word =
            |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|word| u64::from_le_bytes(*word));
        let (Some(count), Some(sum)) = (word(0), word(8)) else { return Err("the section is too short".into()) };
        self.set_state((count, sum));
        Ok(())
    }
    fn run(&self, _: bool, sure: &dyn Fn()) -> Result<(), GuestError> {
        sure();
        Ok(self.run.send(())?)
    }
    fn vcpu_of_thread(&self, _: i32) -> Option<usize> {
        Some(0)
    }
    fn vcpus(&self) -> usize {
        1
    }
}

/// Prints each change of status with the time since the start.
struct Teller {
    who: &'static str,
    begun: Instant,
}

impl Teller {
    fn new(who: &'static str) -> Arc<Self> {
        Arc::new(Self { who, begun: Instant::now() })
    }
}

impl Observer for Teller {
    fn status(&self, status: Status) {
        println!("{:>7} {:7.1} ms  {}", self.who, self.begun.elapsed().as_secs_f64() * 1e3, status.name());
    }
    fn pass(&self, _: u64) {}
}

fn address(text: &str) -> Result<TcpAddress, Box<dyn Error>> {
    let (host, port) = text.rsplit_once(':').ok_or("an address is HOST:PORT")?;
    Ok(TcpAddress { host: host.into(), port: port.parse()? })
}

/// Fills memory, does half of the work, gives memory and work away.
fn serve(to: &str) -> Result<(), Box<dyn Error>> {
    let (adder, _) = Adder::new()?;
    for page in 0..PAGES {
        adder.ram[0].write(PageIndex(page), 0, &number(page).to_le_bytes());
    }
    adder.add_up_to(PAGES / 2);
    let limits = Limits { policy: Policy::AfterPasses(0), postcopy_bandwidth: BACKGROUND, ..Limits::default() };
    let mut handle = source::start(adder, Arc::new(address(to)?), limits, Teller::new("serve"))?;
    handle.join();
    let report = handle.report();
    ended(&report)?;
    let pushed = report.ram.normal.saturating_sub(report.ram.postcopy_requests);
    println!("  serve {} pages demanded, about {pushed} pushed in the background", report.ram.postcopy_requests);
    Ok(())
}

/// Takes memory and work over, and finishes the work while memory arrives.
fn page(listener: Listener) -> Result<(), Box<dyn Error>> {
    let (adder, run) = Adder::new()?;
    let mut handle = destination::start(adder.clone(), Box::new(listener), Teller::new("page"))?;
    let worker = {
        let adder = adder.clone();
        std::thread::spawn(move || {
            let runs = run.recv_timeout(Duration::from_secs(60)).is_ok();
            adder.add_up_to(if runs { PAGES } else { 0 });
        })
    };
    handle.join();
    ended(&handle.report())?;
    worker.join().map_err(|_| "the adding thread died")?;
    tell(&handle.report());
    let want = (0..PAGES).map(number).fold(0, u64::wrapping_add);
    let (count, sum) = adder.state();
    if (count, sum) != (PAGES, want) {
        return Err(format!("the sum of {count} numbers is {sum:#x}, not {want:#x}").into());
    }
    println!("   page the sum of {count} numbers is right: {sum:#x}");
    Ok(())
}

fn ended(report: &Report) -> Result<(), Box<dyn Error>> {
    match report.status {
        Status::Completed => Ok(()),
        status => Err(report.error.clone().unwrap_or(status.name().to_owned()).into()),
    }
}

fn tell(report: &Report) {
    let mib = report.ram.transferred as f64 / f64::from(1 << 20);
    println!("   page {mib:.0} MiB in {:.0} ms", report.total_time.as_secs_f64() * 1e3);
    if let Some(demand) = &report.demand {
        println!(
            "   page {} touches waited: p50 {:?}, p99 {:?}, max {:?}; {:?} in all",
            demand.count,
            demand.p50,
            demand.p99,
            demand.max,
            report.blocktime.unwrap_or_default()
        );
    }
}

/// Pages here, serves from a second process of this program.
fn both() -> Result<(), Box<dyn Error>> {
    let listener = Listener::tcp(&TcpAddress { host: "127.0.0.1".into(), port: 0 })?;
    let to = format!("127.0.0.1:{}", listener.port().ok_or("the listener has no port")?);
    let mut serving = Command::new(std::env::current_exe()?).args(["serve", &to]).stdin(Stdio::null()).spawn()?;
    let paged = page(listener);
    if paged.is_err() {
        serving.kill()?;
    }
    let served = serving.wait()?;
    paged?;
    if served.success() { Ok(()) } else { Err("the serving process failed".into()) }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        [] => both(),
        ["serve", to] => serve(to),
        ["page", at] => address(at).and_then(|address| page(Listener::tcp(&address)?)),
        _ => Err("usage: remote_pager [serve HOST:PORT | page HOST:PORT]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("remote_pager: {error}");
            ExitCode::FAILURE
        }
    }
}
