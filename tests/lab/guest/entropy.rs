//! Random numbers from the virtual machine's own source.

use std::fs::{self, File};
use std::io::{Error, Read, Result};
use std::time::Duration;

use crate::say;

/// Bytes asked for at a time: several requests of the driver's.
const PIECE: usize = 256;
/// Between two pieces.
const PAUSE: Duration = Duration::from_millis(100);

/// Reads for ever, and prints how many pieces there were. Ends with an error if one cannot be
/// random.
pub fn run() -> Result<()> {
    let source = fs::read_to_string("/sys/class/misc/hw_random/rng_current")?;
    if !source.starts_with("virtio_rng") {
        return Err(Error::other(format!("the source of entropy is '{}', not virtio's", source.trim())));
    }
    let mut device = File::open("/dev/hwrng")?;
    let mut before = [0; PIECE];
    for number in 1_u64.. {
        let mut piece = [0; PIECE];
        device.read_exact(&mut piece)?;
        if let Some(fault) = fault(&piece, &before) {
            return Err(Error::other(format!("piece {number} of entropy {fault}")));
        }
        before = piece;
        say(&format!("entropy {number}"));
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Why a piece cannot be random: chance does so less than once in 2^60 pieces. A buffer that nobody
/// filled is found so, and one that came twice.
fn fault(piece: &[u8; PIECE], before: &[u8; PIECE]) -> Option<&'static str> {
    let same = piece.iter().zip(before).filter(|(now, then)| now == then).count();
    if same > 24 {
        return Some("is in part the one before");
    }
    let zeros = piece.iter().filter(|byte| **byte == 0).count();
    (zeros > 24).then_some("is in part zeros")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as good as random ones here.
    fn piece(seed: u32) -> [u8; PIECE] {
        let mut state = seed;
        std::array::from_fn(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
    }

    #[test]
    fn what_is_half_filled_or_comes_again_is_noticed() {
        assert_eq!(fault(&piece(1), &piece(2)), None);
        assert!(fault(&piece(1), &piece(1)).is_some());
        let mut half = piece(3);
        half[PIECE / 2..].fill(0);
        assert_eq!(fault(&half, &piece(1)), Some("is in part zeros"));
    }
}
