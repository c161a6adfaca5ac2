//! Signals that end a command, as flags that its loop looks at.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// What asks a command to end.
pub const ENDING: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Those of `signals` that are to be heard: whoever started this process under `nohup` wants it to
/// outlive the terminal.
pub fn heard(signals: &[i32]) -> impl Iterator<Item = i32> {
    let ignored = std::fs::read_to_string("/proc/self/status").map_or(0, |status| ignored(&status));
    signals.iter().copied().filter(move |signal| *signal != SIGHUP || ignored & 1 << (signal - 1) == 0)
}

/// Each of `signals` sets the flag, and does nothing else.
pub fn remember(signals: &[i32], flag: &Arc<AtomicBool>) -> io::Result<()> {
    heard(signals).try_for_each(|signal| signal_hook::flag::register(signal, Arc::clone(flag)).map(drop))
}

/// The signals that a process ignores, signal N as bit N - 1, out of its `status` in /proc.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hangup_that_was_ignored_at_the_start_stays_ignored() {
        assert_eq!(ignored("SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!(ignored("nothing"), 0);
        // The tests' own process ignores no SIGHUP.
        assert_eq!(heard(&ENDING).collect::<Vec<_>>(), ENDING);
    }
}
