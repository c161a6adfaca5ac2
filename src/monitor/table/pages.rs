//! The command on where the pages are.

use crate::monitor::args::{Args, Kind, Param};
use crate::monitor::command::{Command, qmp};
use crate::monitor::error::CommandError;
use crate::monitor::query_migrate::query_pages;

/// Parts of guest RAM that are told of unless asked for another number.
const BUCKETS: i64 = 1024;
/// The most of them: the answer stays far below what may wait for a client.
const MOST: u32 = 16_384;

pub(super) const COMMANDS: &[Command] = &[Command {
    help: "show which pages have arrived: how many of each of so many equal parts of guest RAM (1024 unless given, 16384 at most)",
    hmp: None,
    qmp: qmp("x-query-migrate-pages", &[Param::optional("buckets", Kind::Integer)], |args, cx| {
        Ok(query_pages(cx.vm.page_map(buckets(args)?).as_ref()))
    }),
}];

fn buckets(args: &Args) -> Result<u32, CommandError> {
    let refused = CommandError::OutOfRange { name: "buckets", expected: "a value between 1 and 16384" };
    let buckets = u32::try_from(args.integer("buckets").unwrap_or(BUCKETS)).ok();
    buckets.filter(|it| (1..=MOST).contains(it)).ok_or(refused)
}
