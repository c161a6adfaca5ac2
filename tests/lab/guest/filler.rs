//! Much memory, taken and given back: what the kernel has no use for then, its balloon driver
//! reports to the machine.

use std::fs::{self, File};
use std::io::{Error, Read, Result, Write};

use crate::say;

/// In the initramfs: a file there is memory and nothing else.
const FILE: &str = "/tmp/filler";
const PAGE: usize = 4096;
const PAGES: u64 = (32 << 20) / PAGE as u64;

/// Carries out an order and says that it is done: `write` takes the memory, `check` reads it again,
/// `remove` gives it back.
pub fn run(order: &str) -> Result<()> {
    match order {
        "write" => write(File::create(FILE)?)?,
        "check" => check(File::open(FILE)?)?,
        "remove" => fs::remove_file(FILE)?,
        _ => return Err(Error::other("the order is none of write, check, remove")),
    }
    say(&format!("filler: {order} done"));
    Ok(())
}

fn write(mut file: impl Write) -> Result<()> {
    (0..PAGES).try_for_each(|number| file.write_all(&page(number)))
}

fn check(mut file: impl Read) -> Result<()> {
    for number in 0..PAGES {
        let mut found = [0; PAGE];
        file.read_exact(&mut found)?;
        if found != page(number) {
            return Err(Error::other(format!("page {number} does not hold what was written to it")));
        }
    }
    Ok(())
}

/// A page's content: no two are alike, and none is zero, which need not be sent.
fn page(number: u64) -> [u8; PAGE] {
    let mut page = [0x5a; PAGE];
    page[..8].copy_from_slice(&number.to_le_bytes());
    page[PAGE - 8..].copy_from_slice(&(!number).to_le_bytes());
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_became_zeros_is_noticed() {
        let mut file = Vec::new();
        write(&mut file).unwrap();
        check(&file[..]).unwrap();
        file[5 * PAGE..6 * PAGE].fill(0);
        assert!(check(&file[..]).unwrap_err().to_string().starts_with("page 5 "));
    }
}
