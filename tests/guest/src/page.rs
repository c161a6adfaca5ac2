//! What stands in a page of the working set.
//!
//! ```text
//! word    0      1           2 ... 509                        510    511
//!         name   generation  filler                           name   generation
//! ```
//!
//! The name is the page's index and the seed. The generation counts writes, from 1; 0 is that of a
//! page that is all zero and never written. The filler is a function of (index, seed, generation)
//! too: generation `g` rewrites the one word `2 + g % 508`, so every word of a page is predictable
//! from its present generation, and a copy torn anywhere is seen by a full verification. A visit
//! looks at the ends only.

/// Eight-byte words of a page.
pub const WORDS: usize = 512;
/// A page seen as words.
pub type Page = [u64; WORDS];

const FILLER: usize = 2;
const FILLERS: u32 = WORDS as u32 - 4;
const BACK: usize = WORDS - 2;
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The generation of a page that is filled and not yet written again.
pub const FIRST_GENERATION: u32 = 1;
/// The generation of a page that stays zero.
pub const ZERO_PAGE: u32 = 0;

/// What was found instead of what should be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The generation at the front.
    pub front: u64,
    /// The generation at the back.
    pub back: u64,
    /// The name at the front, or the one at the back if only that is wrong.
    pub name: u64,
    /// The first wrong word, if the ends are right.
    pub word: Option<usize>,
}

/// Spreads the bits of a number (the finalizer of splitmix64).
#[inline(always)]
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number below `limit` (at most 2^32), by the upper half of a random one.
#[inline(always)]
pub fn below(limit: u64, random: u64) -> u64 {
    ((random >> 32) * limit) >> 32
}

/// What makes the pages of one run of the guest; a page of another seed is foreign.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    seed: u64,
    tag: u64,
    zero_percent: u32,
    /// The bits of a filler word that are drawn; the others are zero, which compresses.
    mask: u64,
}

impl Pattern {
    /// The pattern of a seed, with so many percent of the pages left zero.
    pub fn new(seed: u64, zero_percent: u32) -> Self {
        let seed = mix(seed.wrapping_add(GOLDEN));
        Self { seed, tag: (seed | 1) << 32, zero_percent, mask: u64::MAX }
    }

    /// The same, with filler words of only so many bits, 1 to 64.
    pub fn of_bits(self, bits: u32) -> Self {
        Self { mask: u64::MAX >> (64 - bits), ..self }
    }

    /// The word that names a page.
    #[inline(always)]
    pub fn name(&self, index: u64) -> u64 {
        self.tag | index
    }

    /// The index that a name carries, if it is a name of this pattern.
    pub fn index(&self, name: u64) -> Option<u64> {
        (name & !0xffff_ffff == self.tag).then_some(name & 0xffff_ffff)
    }

    /// The generation with which a page starts: [`ZERO_PAGE`] or [`FIRST_GENERATION`].
    pub fn first_generation(&self, index: u64) -> u32 {
        let zero = below(100, mix(self.seed ^ index)) < u64::from(self.zero_percent);
        if zero { ZERO_PAGE } else { FIRST_GENERATION }
    }

    fn base(&self, index: u64) -> u64 {
        mix(self.seed.wrapping_add(index.wrapping_mul(GOLDEN)))
    }

    /// Makes the page what it should be at this generation. A page that must be zero and is, is not
    /// written to: it may never have been touched, and then must not cost the host memory.
    pub fn fill(&self, page: &mut Page, index: u64, generation: u32) {
        if generation == ZERO_PAGE {
            if page.iter().any(|&word| word != 0) {
                page.fill(0);
            }
            return;
        }
        let base = self.base(index);
        for (k, word) in page[FILLER..BACK].iter_mut().enumerate() {
            *word = self.filler(base, k as u32, written_at(k as u32, generation));
        }
        self.stamp(page, index, generation);
    }

    #[inline(always)]
    fn stamp(&self, page: &mut Page, index: u64, generation: u32) {
        let name = self.name(index);
        (page[0], page[1]) = (name, u64::from(generation));
        (page[BACK], page[BACK + 1]) = (name, u64::from(generation));
    }

    /// Looks at both ends of the page.
    #[inline(always)]
    pub fn check(&self, page: &Page, index: u64, generation: u32) -> Result<(), Damage> {
        let name = if generation == ZERO_PAGE { 0 } else { self.name(index) };
        let wrong = (page[0] ^ name)
            | (page[BACK] ^ name)
            | (page[1] ^ u64::from(generation))
            | (page[BACK + 1] ^ u64::from(generation));
        if wrong == 0 { Ok(()) } else { Err(damage(page, name, None)) }
    }

    /// Takes a page that has been checked from `generation` to the next one, which is the result.
    #[inline(always)]
    pub fn write(&self, page: &mut Page, index: u64, generation: u32) -> u32 {
        // Wrapped around, the words' history could not be told from the generation: begin anew.
        if generation == u32::MAX {
            self.fill(page, index, FIRST_GENERATION);
            return FIRST_GENERATION;
        }
        let next = generation + 1;
        let k = next % FILLERS;
        page[FILLER + k as usize] = self.filler(self.base(index), k, next);
        self.stamp(page, index, next);
        next
    }

    #[inline(always)]
    fn filler(&self, base: u64, k: u32, generation: u32) -> u64 {
        filler(base, k, generation) & self.mask
    }

    /// Looks at every byte of the page.
    pub fn verify(&self, page: &Page, index: u64, generation: u32) -> Result<(), Damage> {
        self.check(page, index, generation)?;
        let base = self.base(index);
        for (k, &word) in page[FILLER..BACK].iter().enumerate() {
            let expected = match generation {
                ZERO_PAGE => 0,
                _ => self.filler(base, k as u32, written_at(k as u32, generation)),
            };
            if word != expected {
                return Err(damage(page, 0, Some(FILLER + k)));
            }
        }
        Ok(())
    }
}

/// The generation that last wrote filler word `k` of a page at `generation`.
#[inline(always)]
fn written_at(k: u32, generation: u32) -> u32 {
    let last = generation % FILLERS;
    let age = if last >= k { last - k } else { last + FILLERS - k };
    if generation > age { generation - age } else { FIRST_GENERATION }
}

/// Never zero, so that a lost page never looks right.
#[inline(always)]
fn filler(base: u64, k: u32, generation: u32) -> u64 {
    let z = base.wrapping_add((u64::from(generation) << 32 | u64::from(k)).wrapping_mul(GOLDEN));
    ((z ^ (z >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)) | 1
}

#[cold]
fn damage(page: &Page, name: u64, word: Option<usize>) -> Damage {
    let found = if page[0] != name || word.is_some() { page[0] } else { page[BACK] };
    Damage { front: page[1], back: page[BACK + 1], name: found, word }
}
