//! A file of numbered records, each safe on the disk before its number is printed.

use std::fs::OpenOptions;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::path::Path;
use std::time::Duration;

use crate::say;

/// Length of a record with its line end: whoever reads the file needs no index.
const LENGTH: usize = 32;
/// Between two records.
const PAUSE: Duration = Duration::from_millis(20);

/// Appends for ever, after the records that are there already.
pub fn run(path: &Path) -> Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let mut written = Vec::new();
    file.read_to_end(&mut written)?;
    let mut number = count(&written)?;
    loop {
        file.write_all(&record(number))?;
        file.sync_data()?;
        number += 1;
        say(&format!("records {number}"));
        std::thread::sleep(PAUSE);
    }
}

/// A record: its number, padded.
fn record(number: u64) -> [u8; LENGTH] {
    let mut bytes = [b'\n'; LENGTH];
    bytes[..LENGTH - 1].copy_from_slice(format!("record {number:023} ").as_bytes());
    bytes
}

/// How many records these bytes are; an error if they are none.
fn count(bytes: &[u8]) -> Result<u64> {
    let (records, rest) = bytes.as_chunks::<LENGTH>();
    let whole = rest.is_empty() && records.iter().enumerate().all(|(number, found)| *found == record(number as u64));
    match whole {
        true => Ok(records.len() as u64),
        false => Err(Error::new(ErrorKind::InvalidData, "the file does not hold what was written to it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_and_a_torn_or_missing_one_is_noticed() {
        let file: Vec<u8> = (0..3).flat_map(record).collect();
        assert_eq!(count(&file).unwrap(), 3);
        assert!(count(&file[..file.len() - 1]).is_err());
        assert!(count(&file[LENGTH..]).is_err());
    }
}
