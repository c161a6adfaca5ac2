//! [`Tag`]: a snapshot's name, which is also a part of a file's.

use std::fmt;
use std::str::FromStr;

use super::SnapshotError;

/// With what stands around it a name is never longer than file systems take.
const MOST: usize = 200;

/// A name that a file can have, and that stays in its directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(String);

impl FromStr for Tag {
    type Err = SnapshotError;

    fn from_str(text: &str) -> Result<Self, SnapshotError> {
        let wrong = |c: char| c == '/' || c.is_control();
        match text.is_empty() || text.len() > MOST || text.starts_with('.') || text.contains(wrong) {
            true => Err(SnapshotError::Tag(text.escape_debug().take(MOST).collect())),
            false => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_stays_in_its_directory() {
        for good in ["a", "before update", "x.y", "größer", &"x".repeat(200)] {
            assert_eq!(good.parse::<Tag>().unwrap().to_string(), good);
        }
        for bad in ["", ".", "..", ".a", "a/b", "/", "a\0b", "a\nb", &"x".repeat(201)] {
            let error = bad.parse::<Tag>().unwrap_err().to_string();
            assert!(error.contains("is no name for a snapshot") && !error.contains('\n'), "{bad}");
        }
    }
}
