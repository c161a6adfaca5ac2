//! A sample of guest RAM: some pages of each block, by their contents then.

use std::hash::{BuildHasher, Hasher, RandomState};

use vm_memory::{Bytes, GuestAddress};
use whimbrel_postcopy::ram::PAGE_SIZE;

use crate::kvm::GuestRam;

/// Bytes in a GiB.
const GIB: u64 = 1 << 30;

/// See the module.
pub struct Sample {
    blocks: Vec<Block>,
    /// Keyed anew each time: a guest cannot choose contents that look unchanged.
    hashes: RandomState,
}

struct Block {
    bytes: u64,
    pages: Vec<Page>,
}

struct Page {
    address: GuestAddress,
    hash: u64,
}

impl Sample {
    /// Looks at `per_gib` pages in each GiB of `ram`, drawn at random, at least one of each block.
    /// A page that was never touched is not populated by that.
    pub fn take(ram: &GuestRam, per_gib: u64) -> Self {
        let hashes = RandomState::new();
        let mut draw = Draw(hashes.hash_one(0));
        let blocks = ram.ranges().iter().map(|range| {
            let pages = (range.bytes / PAGE_SIZE as u64).max(1);
            let count = (u128::from(range.bytes) * u128::from(per_gib) / u128::from(GIB)) as u64;
            let pages = (0..count.clamp(1, pages)).map(|_| {
                let address = GuestAddress(range.guest_address + draw.below(pages) * PAGE_SIZE as u64);
                Page { address, hash: hash(ram, &hashes, address) }
            });
            Block { bytes: range.bytes, pages: pages.collect() }
        });
        Self { blocks: blocks.collect(), hashes }
    }

    /// How many bytes of RAM have changed, by what has of the sample.
    pub fn changed_bytes(&self, ram: &GuestRam) -> u64 {
        let changed = |block: &Block| {
            let changed = block.pages.iter().filter(|page| hash(ram, &self.hashes, page.address) != page.hash).count();
            (u128::from(block.bytes) * changed as u128 / block.pages.len().max(1) as u128) as u64
        };
        self.blocks.iter().map(changed).sum()
    }
}

fn hash(ram: &GuestRam, hashes: &RandomState, address: GuestAddress) -> u64 {
    let mut contents = [0; PAGE_SIZE];
    let mut hasher = hashes.build_hasher();
    // All of a sample's addresses are RAM's.
    if ram.memory().read_slice(&mut contents, address).is_ok() {
        hasher.write(&contents);
    }
    hasher.finish()
}

/// xorshift64*: which pages are looked at need not be a secret.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 |= 1;
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let random = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((u128::from(random) * u128::from(limit)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::RamRange;

    #[test]
    fn what_changed_is_seen_in_its_proportion() {
        let ranges = [
            RamRange { name: "ram.low", guest_address: 0, bytes: 16 << 20 },
            RamRange { name: "ram.high", guest_address: 4 << 30, bytes: 4 << 20 },
        ];
        let ram = GuestRam::new(&ranges, false).unwrap();
        let sample = Sample::take(&ram, 65_536);
        assert_eq!((sample.blocks[0].pages.len(), sample.blocks[1].pages.len()), (1024, 256));
        assert_eq!(sample.changed_bytes(&ram), 0);
        for page in 0..2048 {
            ram.memory().write_obj(7u8, GuestAddress(page * 4096 + 9)).unwrap();
        }
        let changed = sample.changed_bytes(&ram) as f64 / (8 << 20) as f64;
        assert!((0.8..1.2).contains(&changed), "{changed}");
        for page in 0..1024 {
            ram.memory().write_obj(7u8, GuestAddress((4 << 30) + page * 4096 + 4095)).unwrap();
        }
        let changed = sample.changed_bytes(&ram) as f64 / (12 << 20) as f64;
        assert!((0.85..1.15).contains(&changed), "{changed}");
    }

    #[test]
    fn a_small_block_has_a_page_in_it() {
        let ranges = [RamRange { name: "ram.low", guest_address: 0, bytes: 4096 * 512 }];
        let ram = GuestRam::new(&ranges, false).unwrap();
        assert_eq!(Sample::take(&ram, 128).blocks[0].pages.len(), 1);
    }
}
