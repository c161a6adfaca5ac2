//! What the kernel complains of.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};

use crate::say;

/// Words of complaint. All that is in a kernel's log otherwise is its own affair.
const COMPLAINTS: &[&str] = &[
    "soft lockup",
    "hard LOCKUP",
    "rcu: INFO",
    "blocked for more than",
    "BUG:",
    "Oops",
    "Call Trace",
    "I/O error",
    "EXT4-fs error",
    "NETDEV WATCHDOG",
];

/// Repeats complaints, those of the past too, for ever.
pub fn run() -> Result<()> {
    let mut log = File::open("/dev/kmsg")?;
    // Each read gives one record.
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(length) => {
                if let Some(complaint) = complaint(&String::from_utf8_lossy(&record[..length])) {
                    say(&format!("kernel: ERROR {complaint}"));
                }
            }
            // The kernel overwrote what was not read in time.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) => return Err(Error::other(error)),
        }
    }
}

/// The text of a record ("priority,sequence,time,flags;text") if it is a complaint.
fn complaint(record: &str) -> Option<&str> {
    let text = record.split_once(';')?.1.lines().next()?;
    COMPLAINTS.iter().any(|words| text.contains(words)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_are_complaints_and_ordinary_words_are_none() {
        assert_eq!(
            complaint("4,1,2,-;watchdog: BUG: soft lockup - CPU#1 stuck for 26s!\n SUBSYSTEM=x"),
            Some("watchdog: BUG: soft lockup - CPU#1 stuck for 26s!")
        );
        assert!(complaint("3,9,9,-;rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:").is_some());
        assert!(complaint("6,9,9,-;EXT4-fs (vda): mounted filesystem").is_none());
        assert!(complaint("6,1,0,-;rcu: Hierarchical RCU implementation.").is_none());
    }
}
