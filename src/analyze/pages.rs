//! The guest's RAM as the stream tells of it: blocks, runs, and which pages have come.

use serde_json::{Map, Value};

/// Guest RAM beyond this is no guest's, in pages.
const MOST_PAGES: u64 = 1 << 34;

/// A run of pages in one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The block's number.
    pub block: usize,
    /// The first page.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// A RAM block.
#[derive(Debug)]
pub struct Block {
    /// Its name.
    pub name: String,
    /// Where the guest sees it.
    pub guest_address: u64,
    /// Its length in pages.
    pub pages: u64,
    /// By kind of message, in the order of their numbers, how many pages came.
    pub sent: Vec<(String, u64)>,
    /// A bit for each page that came.
    come: Vec<u64>,
}

/// A field that must be a number.
pub fn number(value: &Map<String, Value>, field: &str) -> Result<u64, String> {
    let found = value.get(field).and_then(Value::as_u64);
    found.ok_or_else(|| format!("the description has no field '{field}' where one is needed"))
}

impl Run {
    /// Of the value of a `run`.
    pub fn of(value: &Map<String, Value>, blocks: &[Block]) -> Result<Self, String> {
        let (block, first, count) = (number(value, "block")?, number(value, "first")?, number(value, "count")?);
        let Some(of) = usize::try_from(block).ok().and_then(|block| blocks.get(block)) else {
            return Err(format!("it names block {block}, of which the stream tells nothing"));
        };
        match first.checked_add(count) {
            Some(end) if end <= of.pages => Ok(Self { block: block as usize, first, count }),
            _ => Err(format!("{count} pages from page {first} on are beyond the end of block '{}'", of.name)),
        }
    }
}

impl Block {
    /// Of the value of a `block`, which comes after these.
    pub fn of(value: &Map<String, Value>, before: &[Self]) -> Result<Self, String> {
        let name = value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let (guest_address, pages) = (number(value, "guest address")?, number(value, "pages")?);
        let all = before.iter().fold(pages, |sum, block| sum.saturating_add(block.pages));
        if all > MOST_PAGES {
            return Err("its guest has more RAM than any".to_owned());
        }
        // The host gives memory for what is written to only.
        let come = vec![0; pages.div_ceil(64) as usize];
        Ok(Self { name, guest_address, pages, sent: Vec::new(), come })
    }

    /// Counts pages of a kind of message.
    pub fn count(&mut self, kind: &str, pages: u64) {
        match self.sent.iter_mut().find(|(name, _)| name == kind) {
            Some((_, sent)) => *sent += pages,
            None => self.sent.push((kind.to_owned(), pages)),
        }
    }

    /// Notes that the pages of this block's `run` came, or did not after all.
    pub fn mark(&mut self, run: &Run, come: bool) {
        let (mut page, end) = (run.first, run.first + run.count);
        while page < end {
            let bit = page % 64;
            let count = (end - page).min(64 - bit);
            let mask = (u64::MAX >> (64 - count)) << bit;
            if let Some(word) = self.come.get_mut((page / 64) as usize) {
                *word = if come { *word | mask } else { *word & !mask };
            }
            page += count;
        }
    }

    /// Those pages of the run that came already.
    pub fn came(&self, run: &Run) -> Vec<u64> {
        let has = |page: &u64| self.come.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 == 1);
        let (mut pages, mut page, end) = (Vec::new(), run.first, run.first + run.count);
        while page < end {
            let next = end.min((page / 64 + 1) * 64);
            if self.come.get((page / 64) as usize).is_some_and(|word| *word != 0) {
                pages.extend((page..next).filter(has));
            }
            page = next;
        }
        pages
    }

    /// How many pages came at least once.
    pub fn covered(&self) -> u64 {
        self.come.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}
