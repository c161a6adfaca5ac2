//! What somebody who wrote a name that does not exist may have meant.

use strsim::damerau_levenshtein;

/// One slip for so many letters is taken for a slip; more is another name.
const LETTERS_PER_SLIP: usize = 4;
/// A beginning of fewer letters stands for nothing.
const LEAST: usize = 3;

/// The name among `known` that `name` is a slip or the beginning of.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = plain(name);
    if wanted.len() < LEAST {
        return None;
    }
    let slips = |it: &str| if it.starts_with(&wanted) { 0 } else { damerau_levenshtein(&wanted, it) };
    let near = known.into_iter().map(|it| (slips(&plain(it)), it.len(), it));
    near.filter(|(slips, ..)| *slips <= (wanted.len() / LETTERS_PER_SLIP).max(1)).min().map(|(.., it)| it)
}

/// The same as the end of a sentence, empty if there is none.
pub fn hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map_or_else(String::new, |it| format!("; did you mean '{it}'?"))
}

/// QEMU's monitors disagree about `_` and `-`, and so do people.
fn plain(name: &str) -> String {
    name.to_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_told_from_another_name() {
        const KNOWN: [&str; 5] = ["migrate", "migrate_cancel", "migrate_set_parameter", "info migrate", "postcopy-ram"];
        for (name, found) in [
            ("migrate_cancle", Some("migrate_cancel")),
            ("migrate-cancel", Some("migrate_cancel")),
            ("Migrate", Some("migrate")),
            ("migrate_set", Some("migrate_set_parameter")),
            ("migr", Some("migrate")),
            ("info migrat", Some("info migrate")),
            ("postcopy_ram", Some("postcopy-ram")),
            ("migrate_set_speed", None),
            ("device_add", None),
            ("mi", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, KNOWN), found, "{name}");
        }
        assert_eq!(hint("postcopy-rma", KNOWN), "; did you mean 'postcopy-ram'?");
        assert_eq!(hint("warp", KNOWN), "");
    }
}
