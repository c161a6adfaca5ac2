//! [`PageShares`]: how much of each part of guest RAM has arrived, for as many cells as a screen
//! has.

/// Parts asked for where no screen says how many.
pub const ONCE: u32 = 1024;
/// The most that a monitor tells of.
pub const MOST: u32 = 16_384;

/// Pages arrived, by equal parts of guest RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageShares {
    pages: u64,
    arrived: Vec<u64>,
}

/// How full a cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Nothing of it has arrived.
    Empty,
    /// Less than a third.
    Little,
    /// Less than two thirds.
    Half,
    /// Not all.
    Much,
    /// All of it.
    Full,
}

impl PageShares {
    /// Of so many pages in `arrived.len()` parts; `None` if that cannot be.
    pub fn new(pages: u64, arrived: Vec<u64>) -> Option<Self> {
        (pages > 0 && !arrived.is_empty()).then_some(Self { pages, arrived })
    }

    /// How full each of `cells` cells is, in the order of memory.
    pub fn cells(&self, cells: usize) -> impl Iterator<Item = Fill> + '_ {
        (0..cells).map(move |cell| {
            let parts = self.arrived.len();
            let first = cell * parts / cells;
            // Of more cells than parts several show one part.
            let end = ((cell + 1) * parts / cells).max(first + 1);
            let arrived = self.arrived[first..end].iter().fold(0, |sum: u64, it| sum.saturating_add(*it));
            Fill::of(arrived, self.edge(end) - self.edge(first))
        })
    }

    /// Pages before part `n`.
    fn edge(&self, n: usize) -> u64 {
        (n as u128 * u128::from(self.pages) / self.arrived.len() as u128) as u64
    }
}

impl Fill {
    fn of(arrived: u64, pages: u64) -> Self {
        match arrived {
            0 => Self::Empty,
            some if some >= pages => Self::Full,
            some if some < pages / 3 => Self::Little,
            some if some < pages - pages / 3 => Self::Half,
            _ => Self::Much,
        }
    }

    /// The character that shows it, colours or not.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Empty => "·",
            Self::Little => "░",
            Self::Half => "▒",
            Self::Much => "▓",
            Self::Full => "█",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pages: u64, arrived: &[u64], cells: usize) -> String {
        PageShares::new(pages, arrived.to_vec()).unwrap().cells(cells).map(Fill::symbol).collect()
    }

    #[test]
    fn a_cell_shows_the_share_of_its_parts() {
        assert_eq!(shown(40, &[0, 1, 5, 9, 10][..4], 4), "·░▒▓");
        assert_eq!(shown(20, &[10, 0], 2), "█·");
        assert_eq!(shown(20, &[10, 0], 1), "▒", "two parts in one cell");
        assert_eq!(shown(20, &[10, 0], 6), "███···", "one part in three cells");
        assert_eq!(shown(10, &[3, 3, 4], 3), "███", "parts of unequal size");
        assert_eq!(shown(3, &[1, 1, 0], 3), "██·");
    }

    #[test]
    fn what_makes_no_sense_shows_something_all_the_same() {
        assert_eq!(PageShares::new(0, vec![1]), None);
        assert_eq!(PageShares::new(5, Vec::new()), None);
        assert_eq!(shown(1, &[u64::MAX, u64::MAX], 1), "█");
        assert_eq!(shown(u64::MAX, &[1; 4], 4), "░░░░");
    }
}
