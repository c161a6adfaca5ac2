//! The bare-metal test guest: a guest that knows what its memory should hold.
//!
//! It boots by the PVH note of its ELF (under Whimbrel, QEMU and others), starts all vCPUs, and
//! from then on works in ring 3 with IOPL 3: on hosts whose KVM has no hardware underneath, ring 0
//! is emulated slowly and incompletely, ring 3 runs at full speed. Interrupts stay off; there is no
//! kernel to go back to.
//!
//! Each vCPU visits the pages of its share of the working set. A page carries its index and its
//! generation at both ends (`page.rs`), and what the generation should be is kept elsewhere, so a
//! page that was lost, is stale, torn or swapped is noticed at its next visit. vCPU 0 also talks
//! (`report.rs`); one record a line:
//!
//! ```text
//! B whimbrel-guest 1 cpus=N pages=P tsc_khz=K [modules=N module_bytes=B]    the visits begin
//! H VVVVVVVV EE      heartbeat: visits so far (hex, low 32 bits), errors so far (hex, at most ff)
//! E vcpu=C page=P want=GENERATION front=G back=G index=I [word=W]           the first 16 integrity errors
//! S {json}           the answer to `s`: counters, and a histogram of the visits' latencies in nanoseconds
//! V pages=P errors=N the answer to `v`: every byte of every page was looked at; N of them were wrong
//! X sentence         why the guest gave up; it leaves with code 3
//! ```
//!
//! Input, one byte each: `s`tatistics, `r`eset the histogram, `v`erify, `p`ause and `c`ontinue the
//! visits, `q`uit (exit code 0, or 1 if there were errors). A sign of life goes out every
//! millisecond: a whole heartbeat where the monitor is quick, a byte of one where it is not
//! (`report.rs`). The command line's words are in `cmdline.rs`. A damaged page is made whole after
//! it has been reported, so one error counts once.
//!
//! | file | what is in it |
//! |---|---|
//! | `boot.s` | entry, tables, trampoline: all of ring 0 |
//! | `main.rs` | from there to the first visit |
//! | `start_info.rs`, `extents.rs`, `paging.rs` | which RAM there is, and reaching it |
//! | `clock.rs`, `smp.rs` | the TSC's frequency, the other vCPUs |
//! | `page.rs`, `hist.rs`, `cmdline.rs` | pure logic, tested on the host (`tests/guest_logic.rs`), as is `extents.rs` |
//! | `shared.rs`, `work.rs`, `report.rs`, `serial.rs` | plan and counters, the visits, the talk |
#![no_std]
#![no_main]

use core::arch::global_asm;
use core::fmt;
use core::panic::PanicInfo;
use core::ptr;
use core::sync::atomic::{
    AtomicUsize,
    Ordering::{AcqRel, Acquire},
};

use cmdline::Options;
use report::Reporter;
use shared::{CONTROL, HOLD_FILL, Plan};
use start_info::Handover;
use work::Worker;

mod clock;
mod cmdline;
mod cpu;
mod extents;
mod hist;
mod intrinsics;
mod page;
mod paging;
mod report;
mod serial;
mod shared;
mod smp;
mod start_info;
mod work;

global_asm!(include_str!("boot.s"), options(att_syntax, raw));

unsafe extern "C" {
    static mut bss_start: u8;
    static mut bss_end: u8;
    static image_end: u8;
}

/// vCPUs whose share is filled.
static FILLED: AtomicUsize = AtomicUsize::new(0);

/// Where boot.s leaves every vCPU: in ring 3, on a stack of its own.
#[unsafe(no_mangle)]
extern "C" fn guest_entry(cpu: usize, start_info: u64) -> ! {
    if cpu == 0 {
        boot_processor(start_info)
    }
    let plan = shared::plan();
    if cpu >= plan.cpus {
        cpu::park(); // came too late, or more came than `cpus=` said
    }
    let mut worker = Worker::new(plan, cpu);
    worker.fill();
    FILLED.fetch_add(1, AcqRel);
    worker.run(None)
}

fn boot_processor(start_info: u64) -> ! {
    clear_bss();
    serial::init();
    let lowest = (&raw const image_end) as u64;
    let handover = Handover::read(start_info, lowest, paging::HIGHEST).unwrap_or_else(|why| give_up(why));
    let line = handover.line().unwrap_or_else(|why| give_up(why));
    let options = Options::parse(line).unwrap_or_else(|why| give_up(why));

    let plan = shared::publish(make_plan(&handover, &options).unwrap_or_else(|why| give_up(why)));
    let mut worker = Worker::new(plan, 0);
    worker.fill();
    while FILLED.load(Acquire) + 1 < plan.cpus {
        core::hint::spin_loop();
    }
    plant(plan, &options);
    announce(plan, &handover);
    CONTROL.fetch_and(!HOLD_FILL, AcqRel);
    worker.run(Some(Reporter::new(plan)))
}

/// A monitor that resets the guest loads the image again, but need not clear what is not in the
/// file.
fn clear_bss() {
    let start = &raw mut bss_start;
    let len = (&raw const bss_end) as usize - start as usize;
    unsafe { ptr::write_bytes(start, 0, len) };
}

fn make_plan(handover: &Handover, options: &Options) -> Result<Plan, &'static str> {
    let tsc_khz = match options.tsc_khz {
        Some(khz) => khz,
        None => clock::calibrate()?,
    };
    let cpus = smp::start(options.cpus, tsc_khz)?;
    let mut ram = handover.ram.clone();
    paging::map(&mut ram)?;
    let wanted = options.working_set.map(|bytes| bytes / extents::PAGE_SIZE);
    let generations = ram.take(wanted.unwrap_or(ram.pages()) * 4).ok_or("no RAM for the table of generations")?;
    let pages = wanted.unwrap_or(ram.pages());
    if pages > ram.pages() {
        return Err("ws= asks for more than the RAM there is");
    }
    if pages < cpus as u64 || pages > u64::from(u32::MAX) {
        return Err("ws= must give every vCPU a page, and be less than 16 TiB");
    }
    let beat_ticks = tsc_khz * options.beat_us / 1000;
    Ok(Plan {
        cpus,
        pages,
        ram,
        generations,
        pattern: page::Pattern::new(options.seed, options.zero_percent).of_bits(options.bits),
        order: options.order,
        write_percent: options.write_percent,
        seed: options.seed,
        tsc_khz,
        visit_ticks: match options.rate {
            0 => 0,
            rate => (tsc_khz * 1000 * cpus as u64 / rate).max(1),
        },
        beat_ticks,
        beat_bytes: options.beat_bytes.unwrap_or_else(|| report::affordable_bytes(beat_ticks)) as usize,
    })
}

/// The damage that a test asked for, so that it can see the checker fail.
fn plant(plan: &Plan, options: &Options) {
    for (page, word) in [(options.plant, 1), (options.plant_word, 300)] {
        if let Some(page) = page {
            if page >= plan.pages {
                give_up("plant= and plant_word= must name a page of the working set");
            }
            unsafe { plan.page(page)[word] ^= 1 << 7 };
        }
    }
}

fn announce(plan: &Plan, handover: &Handover) {
    let Plan { cpus, pages, tsc_khz, .. } = plan;
    match handover.modules {
        0 => record!("B whimbrel-guest 1 cpus={cpus} pages={pages} tsc_khz={tsc_khz}"),
        n => {
            let bytes = handover.module_bytes;
            record!("B whimbrel-guest 1 cpus={cpus} pages={pages} tsc_khz={tsc_khz} modules={n} module_bytes={bytes}")
        }
    }
}

/// Says why and leaves with code 3. Begins a new line: another vCPU may have been in the middle of
/// one.
fn give_up(why: impl fmt::Display) -> ! {
    record!("\nX {why}");
    cpu::exit(3)
}

/// Where boot.s goes on after an exception.
#[unsafe(no_mangle)]
extern "C" fn guest_fault(vector: u64, error: u64, rip: u64, address: u64) -> ! {
    give_up(format_args!("exception {vector}, error code {error:#x}, at rip {rip:#x}, cr2 {address:#x}"))
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    give_up(info)
}
