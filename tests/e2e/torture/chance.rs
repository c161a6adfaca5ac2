//! [`Chance`]: random choices that can be made again.

/// A seed for another run of the same tests.
const SEED: &str = "WHIMBREL_SEED";

/// Random numbers of a printed seed (SplitMix64).
pub struct Chance(u64);

impl Chance {
    /// With the seed that the user gives, or always the same.
    pub fn new(what: &str) -> Self {
        let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
        println!("{what}: {SEED}={seed}");
        Self(seed)
    }

    /// A number from 0 to `end` - 1.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }
}
