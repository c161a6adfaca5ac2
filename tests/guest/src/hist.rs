//! The buckets of the latency histogram: logarithmic, eight to every power of two, so each is
//! within 12.5% of its neighbour; values below eight have a bucket each. A bucket is found by one
//! bit scan and two shifts.

const SUB_BITS: u32 = 3;
const SUB: usize = 1 << SUB_BITS;

/// How many buckets all 64-bit values need.
pub const BUCKETS: usize = (64 - SUB_BITS as usize + 1) * SUB;

/// The bucket of a value.
#[inline(always)]
pub fn bucket(value: u64) -> usize {
    if value < SUB as u64 {
        return value as usize;
    }
    let exponent = 63 - value.leading_zeros();
    (exponent - SUB_BITS + 1) as usize * SUB + (value >> (exponent - SUB_BITS)) as usize % SUB
}

/// The smallest value that belongs to a bucket below [`BUCKETS`].
pub fn lower_bound(bucket: usize) -> u64 {
    if bucket < SUB {
        return bucket as u64;
    }
    ((SUB + bucket % SUB) as u64) << (bucket / SUB - 1)
}

/// Nanoseconds of so many TSC ticks, rounded down, without a 128-bit division.
pub fn nanoseconds(ticks: u64, tsc_khz: u64) -> u64 {
    let milliseconds = ticks / tsc_khz;
    milliseconds.saturating_mul(1_000_000).saturating_add(ticks % tsc_khz * 1_000_000 / tsc_khz)
}
