//! Memory that is counted in for ever.

use std::io::{Error, Result};
use std::time::{Duration, Instant};

use crate::say;

/// Between two strides: without it no emulated link could keep up with what gets dirty.
pub const PAUSE: Duration = Duration::from_millis(20);
const PAGE_WORDS: usize = 4096 / 8;
const PAGES: usize = (16 << 20) / 4096;
/// Pages counted in before a pause.
const STRIDE: usize = 32;
/// Between two lines of output.
const REPORT: Duration = Duration::from_millis(50);

/// Counts for ever. Ends with an error as soon as a count is not what it was left at.
pub fn run(pause: Duration) -> Result<()> {
    let mut pages = Pages::new(PAGES);
    let mut reported = Instant::now();
    loop {
        for _ in 0..STRIDE {
            pages.step()?;
        }
        if reported.elapsed() >= REPORT {
            reported = Instant::now();
            say(&format!("memory {}", pages.steps));
        }
        std::thread::sleep(pause);
    }
}

/// Pages that all have been counted in equally often, up to the one whose turn it is.
struct Pages {
    words: Vec<u64>,
    pages: usize,
    /// How many steps there have been in all.
    steps: u64,
}

impl Pages {
    fn new(pages: usize) -> Self {
        Self { words: vec![0; pages * PAGE_WORDS], pages, steps: 0 }
    }

    /// Checks the next page and counts in it, once at each end.
    fn step(&mut self) -> Result<()> {
        let (page, pass) = (self.steps as usize % self.pages, self.steps / self.pages as u64);
        let words = &mut self.words[page * PAGE_WORDS..][..PAGE_WORDS];
        // The other end has another value: a page that is only zeros, or another page, is noticed
        // too.
        let wanted = [pass, if pass == 0 { 0 } else { last(page, pass) }];
        let found = [words[0], words[PAGE_WORDS - 1]];
        if found != wanted {
            return Err(Error::other(format!("page {page} holds {found:?} instead of {wanted:?}")));
        }
        words[0] = pass + 1;
        words[PAGE_WORDS - 1] = last(page, pass + 1);
        self.steps += 1;
        Ok(())
    }
}

/// What stands at the end of a page.
fn last(page: usize, count: u64) -> u64 {
    !count ^ ((page as u64) << 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_count_is_noticed() {
        let mut pages = Pages::new(3);
        for _ in 0..7 {
            pages.step().unwrap();
        }
        assert_eq!(pages.steps, 7);
        // As if the second page had come back from an earlier pass.
        pages.words[PAGE_WORDS] = 1;
        assert!(pages.step().unwrap_err().to_string().starts_with("page 1 holds [1,"));
    }

    #[test]
    fn pages_that_changed_places_are_noticed() {
        let mut pages = Pages::new(3);
        for _ in 0..6 {
            pages.step().unwrap();
        }
        pages.words.swap(PAGE_WORDS - 1, 2 * PAGE_WORDS - 1);
        assert!(pages.step().is_err());
    }
}
