//! CPUID features by name, sets of them, and which of them a host lacks.
//!
//! A guest goes on using what it was shown when it booted, so a destination must have every feature
//! bit that the source's guest was shown; it may have more.

use kvm_bindings::kvm_cpuid_entry2;

use super::cpuid_bits::{ALIASES, COUNT, WORDS, Word};

/// One CPUID register that holds feature bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureWord {
    /// Its name in a configuration, as in `cpuid.7.0.ebx`.
    pub key: &'static str,
    /// The bits.
    pub bits: u32,
}

/// One feature: a bit of one of the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Feature {
    word: usize,
    bit: u8,
}

impl Feature {
    /// The feature of that name. Case does not matter, nor how the parts of a name are joined:
    /// `sse4_1`, `sse4.1`, `sse4-1` and `SSE41` are one.
    pub fn named(name: &str) -> Option<Self> {
        let plain = plain(name);
        let alias = ALIASES.iter().find(|(alias, _)| self::plain(alias) == plain);
        let plain = alias.map_or(plain, |(_, name)| self::plain(name));
        names().find(|(known, _)| self::plain(known) == plain).map(|(_, feature)| feature)
    }

    /// Its name; a bit without one is named by its place.
    pub fn name(self) -> String {
        let Some(word) = WORDS.get(self.word) else {
            return String::new();
        };
        let name = word.names.iter().find(|(bit, _)| *bit == self.bit);
        name.map_or_else(|| format!("{} bit {}", word.key, self.bit), |(_, name)| (*name).into())
    }
}

/// Every name that `--cpu` knows, aliases left out, with its feature.
fn names() -> impl Iterator<Item = (&'static str, Feature)> {
    WORDS
        .iter()
        .enumerate()
        .filter(|(_, word)| word.named_by_user)
        .flat_map(|(at, word)| word.names.iter().map(move |&(bit, name)| (name, Feature { word: at, bit })))
}

/// A name without what its spellings differ in.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-' | '.')).flat_map(char::to_lowercase).collect()
}

/// Up to four names that somebody who wrote `name` may have meant, the most alike first.
pub fn alike(name: &str) -> Vec<&'static str> {
    const MOST: usize = 4;
    let wanted = plain(name);
    let mut found: Vec<(usize, &'static str)> = names()
        .map(|(known, _)| {
            let known_plain = plain(known);
            let contains = wanted.len() >= 3 && known_plain.contains(&wanted);
            (if contains { 1 } else { distance(&wanted, &known_plain) }, known)
        })
        .filter(|(distance, known)| *distance <= 1 || *distance == 2 && known.len() >= 4)
        .collect();
    found.sort_by_key(|(distance, _)| *distance);
    found.into_iter().map(|(_, name)| name).take(MOST).collect()
}

/// How many letters must be put in, taken out or changed to make one word the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut diagonal = at;
        let mut left = at + 1;
        for (cell, same) in row.iter_mut().skip(1).zip(other.iter().map(|it| *it == letter)) {
            let here = (diagonal + usize::from(!same)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = at + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// A set of features, bits without a name among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeatureSet([u32; COUNT]);

impl FeatureSet {
    /// What CPUID shows.
    pub fn of(cpuid: &[kvm_cpuid_entry2]) -> Self {
        Self(std::array::from_fn(|at| {
            let word = &WORDS[at];
            find(cpuid, word).map_or(0, |leaf| word.register.of(leaf) & !word.dynamic)
        }))
    }

    /// The features of these names; names that do not exist are left out.
    pub fn named(names: &[&str]) -> Self {
        names.iter().filter_map(|name| Feature::named(name)).collect()
    }

    /// Whether the feature is there.
    pub fn has(&self, feature: Feature) -> bool {
        self.0.get(feature.word).is_some_and(|bits| bits & 1 << feature.bit != 0)
    }

    /// Whether the feature of that name is there.
    pub fn shows(&self, name: &str) -> bool {
        Feature::named(name).is_some_and(|feature| self.has(feature))
    }

    /// Puts one in.
    pub fn insert(&mut self, feature: Feature) {
        if let Some(bits) = self.0.get_mut(feature.word) {
            *bits |= 1 << feature.bit;
        }
    }

    /// What is in either.
    pub fn with(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] | other.0[at]))
    }

    /// What is in this and not in the other.
    pub fn without(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] & !other.0[at]))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|bits| *bits == 0)
    }

    /// Each of them, in the order of the words.
    pub fn iter(&self) -> impl Iterator<Item = Feature> + '_ {
        self.0.iter().enumerate().flat_map(|(word, bits)| {
            (0..32).filter(move |bit| bits & 1 << bit != 0).map(move |bit| Feature { word, bit })
        })
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.iter().map(Feature::name).collect()
    }

    /// Has the leaves show these features and no others. A word whose leaf is missing stays so;
    /// those of XSAVE's components are not touched, because more than bits depends on them
    /// (`model/xsave.rs`).
    pub fn show_in(&self, cpuid: &mut [kvm_cpuid_entry2]) {
        for (word, bits) in WORDS.iter().zip(self.0).filter(|(word, _)| word.named_by_user) {
            let leaf = cpuid.iter_mut().find(|leaf| leaf.function == word.function && leaf.index == word.index);
            if let Some(register) = leaf.map(|leaf| word.register.of_mut(leaf)) {
                *register = *register & word.dynamic | bits;
            }
        }
    }
}

impl FromIterator<Feature> for FeatureSet {
    fn from_iter<T: IntoIterator<Item = Feature>>(features: T) -> Self {
        let mut set = Self::default();
        features.into_iter().for_each(|feature| set.insert(feature));
        set
    }
}

fn find<'a>(cpuid: &'a [kvm_cpuid_entry2], word: &Word) -> Option<&'a kvm_cpuid_entry2> {
    cpuid.iter().find(|leaf| leaf.function == word.function && leaf.index == word.index)
}

/// The feature words of what a vCPU is shown; those that are zero are left out.
pub fn feature_words(cpuid: &[kvm_cpuid_entry2]) -> Vec<FeatureWord> {
    let set = FeatureSet::of(cpuid);
    let words = WORDS.iter().zip(set.0).filter(|(_, bits)| *bits != 0);
    words.map(|(word, bits)| FeatureWord { key: word.key, bits }).collect()
}

/// The names of the bits in `wanted` that word `key` does not have in `here`; bits without a name
/// are named by their place.
pub fn missing_features(key: &str, wanted: u32, here: &[FeatureWord]) -> Vec<String> {
    let have = here.iter().find(|word| word.key == key).map_or(0, |word| word.bits);
    let missing = wanted & !have;
    let bits = (0..32u8).filter(|bit| missing & (1 << bit) != 0);
    match WORDS.iter().position(|word| word.key == key) {
        Some(word) => bits.map(|bit| Feature { word, bit }.name()).collect(),
        None => bits.map(|bit| format!("{key} bit {bit}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_and_dynamic_bits_are_not_features() {
        let leaf = kvm_cpuid_entry2 { function: 7, ebx: 1 << 16, ecx: 1 << 4, ..Default::default() };
        assert_eq!(feature_words(&[leaf]), [FeatureWord { key: "cpuid.7.0.ebx", bits: 1 << 16 }]);
    }

    #[test]
    fn a_missing_feature_has_its_name() {
        let here = [FeatureWord { key: "cpuid.7.0.ebx", bits: 1 << 5 }];
        assert_eq!(
            missing_features("cpuid.7.0.ebx", 1 << 5 | 1 << 16 | 1 << 12, &here),
            ["cpuid.7.0.ebx bit 12", "avx512f"]
        );
        assert!(missing_features("cpuid.7.0.ebx", 1 << 5, &here).is_empty());
        assert_eq!(missing_features("cpuid.99.eax", 1, &here), ["cpuid.99.eax bit 0"]);
    }

    #[test]
    fn a_name_has_many_spellings_and_one_meaning() {
        let named = |name: &str| Feature::named(name).map(Feature::name);
        for (given, name) in [
            ("sse4_1", "sse4_1"),
            ("sse4.1", "sse4_1"),
            ("SSE4-1", "sse4_1"),
            ("pni", "sse3"),
            ("lzcnt", "abm"),
            ("tsc-deadline", "tsc_deadline_timer"),
            ("avx512-vpopcntdq", "avx512_vpopcntdq"),
            ("avx512vnni", "avx512_vnni"),
            ("kvm-pv-eoi", "kvm_pv_eoi"),
            ("invtsc", "constant_tsc"),
        ] {
            assert_eq!(named(given).as_deref(), Some(name), "{given}");
        }
        for unknown in ["", "-", "avx state", "avx5", "nosuch"] {
            assert_eq!(named(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn no_two_features_share_a_name_and_every_alias_leads_somewhere() {
        let mut plain_names: Vec<_> = names().map(|(name, _)| plain(name)).collect();
        plain_names.extend(ALIASES.iter().map(|(alias, _)| plain(alias)));
        let count = plain_names.len();
        plain_names.sort();
        plain_names.dedup();
        assert_eq!(plain_names.len(), count);
        for (alias, name) in ALIASES {
            assert!(names().any(|(known, _)| known == *name), "{alias} -> {name}");
        }
        assert!(names().all(|(name, feature)| Feature::named(name) == Some(feature)));
    }

    #[test]
    fn likely_meanings_are_offered() {
        assert_eq!(alike("axv2").first(), Some(&"avx2"));
        assert!(alike("avx512").contains(&"avx512f"), "{:?}", alike("avx512"));
        assert!(alike("nosuchfeature").is_empty());
        assert_eq!((distance("kitten", "sitting"), distance("", "ab"), distance("ab", "")), (3, 2, 2));
    }

    #[test]
    fn sets_go_into_leaves_and_come_out() {
        let mut leaves = [
            kvm_cpuid_entry2 { function: 7, ebx: !0, ecx: 1 << 4 | 1 << 3, ..Default::default() },
            kvm_cpuid_entry2 { function: 0xd, eax: 7, ..Default::default() },
        ];
        let set = FeatureSet::named(&["bmi1", "avx2", "umip"]);
        set.show_in(&mut leaves);
        assert_eq!((leaves[0].ebx, leaves[0].ecx), (1 << 3 | 1 << 5, 1 << 4 | 1 << 2));
        assert_eq!(leaves[1].eax, 7);
        assert_eq!(FeatureSet::of(&leaves[..1]), set);
        assert_eq!(set.names(), ["bmi1", "avx2", "umip"]);
        assert!(set.without(&FeatureSet::named(&["bmi1", "avx2", "umip"])).is_empty());
    }
}
