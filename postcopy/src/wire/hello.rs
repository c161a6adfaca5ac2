//! The first bytes on every channel, whose layout never changes: which versions are spoken, which
//! channel this is, which migration it belongs to.

use std::fmt;

/// The newest protocol version that this build speaks.
pub const VERSION_MAX: u16 = 1;
/// The oldest protocol version that this build speaks. Version 1 is the first there is.
pub const VERSION_MIN: u16 = 1;

const MAGIC: [u8; 8] = *b"WHIMBREL";
const ANSWER_MAGIC: [u8; 8] = *b"whimbrel";
/// How a TLS connection begins: a handshake record, of whatever version.
const TLS_BEGIN: [u8; 2] = [22, 3];
/// The longest refusal, in bytes.
const MAX_TEXT: usize = 1024;

/// Binds the channels of one migration together: drawn at random by the source.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token(pub [u8; 16]);

impl Token {
    /// A short id of the migration, the same on both sides: eight hexadecimal digits. It may be
    /// logged: it is a hash (FNV-1a), which leaves 96 of the token's 128 bits unknown.
    pub fn short(&self) -> String {
        let hash = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        format!("{:08x}", self.0.iter().fold(0x811c_9dc5, hash))
    }
}

impl fmt::Debug for Token {
    /// The token is a secret of the migration: it is never printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What a channel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    /// Control, precopy and background pages forward, replies back.
    Control,
    /// Demand pages forward, page requests back.
    Demand,
    /// Precopy and background pages forward, nothing back. There may be several.
    Multifd,
}

/// What an end can do, as a bit set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// The destination can arm userfaultfd for guest RAM.
    pub const POSTCOPY: Self = Self(1);
    /// The destination takes multifd channels.
    pub const MULTIFD: Self = Self(2);
    /// The destination takes compressed pages.
    pub const COMPRESSED: Self = Self(4);
    /// The destination takes what has changed of pages.
    pub const XBZRLE: Self = Self(8);
    /// The destination can map the source's own RAM in place of bringing it.
    pub const SHARED_RAM: Self = Self(16);
    /// The destination tells at a mark, also after the hand-over, which pages it has: the source
    /// may let go of them.
    pub const RELEASE: Self = Self(32);
    /// On a stream that goes both ways: the destination can be joined behind any message of a
    /// precopy before the state, not only behind the hello.
    pub const JOINS: Self = Self(64);

    /// Whether every feature of `other` is here.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and those.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These but for those.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// What the source says first on each channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest and newest version it speaks.
    pub versions: (u16, u16),
    /// What the channel is for.
    pub kind: ChannelKind,
    /// Whether it joins a paused migration again.
    pub recover: bool,
    /// The migration.
    pub token: Token,
    /// What the source can do.
    pub features: Features,
}

/// What the destination answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Speaks on, in this version.
    Welcome {
        /// The version from here on.
        version: u16,
        /// What the destination can do.
        features: Features,
    },
    /// Will not; closes after this.
    Refused(String),
}

/// First bytes that are not a hello of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// Ours, but encrypted.
    #[error("the source uses TLS and the destination does not")]
    Tls,
    /// Something else talks.
    #[error("the peer does not speak Whimbrel's migration protocol (its first bytes are {0:02x?})")]
    Magic([u8; 8]),
    /// A channel kind of a later version.
    #[error("the peer opened a channel of unknown kind {0}")]
    Kind(u8),
    /// No version in common.
    #[error(
        "the peer speaks protocol versions {theirs_min} to {theirs_max}, this side speaks {VERSION_MIN} to {VERSION_MAX}"
    )]
    Version {
        /// Their oldest.
        theirs_min: u16,
        /// Their newest.
        theirs_max: u16,
    },
    /// The answer's text is longer than allowed.
    #[error("the peer's refusal is {0} bytes long, more than the {MAX_TEXT} allowed")]
    Text(usize),
}

impl Hello {
    /// Length of the encoding in bytes.
    pub const LEN: usize = 40;

    /// The bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.versions.0.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.versions.1.to_le_bytes());
        bytes[12] = match self.kind {
            ChannelKind::Control => 0,
            ChannelKind::Demand => 1,
            ChannelKind::Multifd => 2,
        };
        bytes[13] = u8::from(self.recover);
        bytes[16..32].copy_from_slice(&self.token.0);
        bytes[32..40].copy_from_slice(&self.features.0.to_le_bytes());
        bytes
    }

    /// The value. Does not judge the versions: see [`Hello::choose`].
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, HelloError> {
        let (magic, rest) = split(bytes);
        if magic.starts_with(&TLS_BEGIN) {
            return Err(HelloError::Tls);
        }
        if magic != MAGIC {
            return Err(HelloError::Magic(magic));
        }
        let kind = match rest[4] {
            0 => ChannelKind::Control,
            1 => ChannelKind::Demand,
            2 => ChannelKind::Multifd,
            other => return Err(HelloError::Kind(other)),
        };
        let mut token = [0; 16];
        token.copy_from_slice(&rest[8..24]);
        Ok(Self {
            versions: (u16_at(rest, 0), u16_at(rest, 2)),
            kind,
            recover: rest[5] != 0,
            token: Token(token),
            features: Features(u64_at(rest, 24)),
        })
    }

    /// The version to speak: the newest that both know.
    pub fn choose(&self) -> Result<u16, HelloError> {
        let (theirs_min, theirs_max) = self.versions;
        let version = theirs_max.min(VERSION_MAX);
        if version < theirs_min.max(VERSION_MIN) {
            return Err(HelloError::Version { theirs_min, theirs_max });
        }
        Ok(version)
    }
}

impl Answer {
    /// Length of the fixed part in bytes; a refusal's text follows it.
    pub const LEN: usize = 24;

    /// Whether an answer can begin with these bytes.
    pub(crate) fn begins_so(first: &[u8]) -> bool {
        let count = first.len().min(ANSWER_MAGIC.len());
        ANSWER_MAGIC.starts_with(&first[..count])
    }

    /// The bytes. A longer text is cut.
    pub fn encode(&self) -> Vec<u8> {
        let (version, features, text) = match self {
            Self::Welcome { version, features } => (*version, *features, ""),
            Self::Refused(text) => (0, Features::default(), cut(text, MAX_TEXT)),
        };
        let mut bytes = Vec::with_capacity(Self::LEN + text.len());
        bytes.extend(ANSWER_MAGIC);
        bytes.extend(version.to_le_bytes());
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(features.0.to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }

    /// How many bytes of text follow the fixed part.
    pub fn text_len(fixed: &[u8; Self::LEN]) -> Result<usize, HelloError> {
        let (magic, rest) = split(fixed);
        if magic != ANSWER_MAGIC {
            return Err(HelloError::Magic(magic));
        }
        let len = usize::from(u16_at(rest, 2));
        if len > MAX_TEXT { Err(HelloError::Text(len)) } else { Ok(len) }
    }

    /// The value, of the fixed part and the text after it.
    pub fn decode(fixed: &[u8; Self::LEN], text: &[u8]) -> Result<Self, HelloError> {
        Self::text_len(fixed)?;
        let version = u16_at(fixed, 8);
        if version == 0 {
            return Ok(Self::Refused(String::from_utf8_lossy(text).into_owned()));
        }
        if !(VERSION_MIN..=VERSION_MAX).contains(&version) {
            return Err(HelloError::Version { theirs_min: version, theirs_max: version });
        }
        Ok(Self::Welcome { version, features: Features(u64_at(fixed, 16)) })
    }
}

/// Whether a hello or an answer begins with these (at most eight) bytes of a peer.
pub(crate) fn is_hello(first: &[u8]) -> bool {
    MAGIC.starts_with(first) || ANSWER_MAGIC.starts_with(first)
}

fn split(bytes: &[u8]) -> ([u8; 8], &[u8]) {
    let mut magic = [0; 8];
    magic.copy_from_slice(&bytes[..8]);
    (magic, &bytes[8..])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// At most `most` bytes of `text`, cut between characters.
pub(super) fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            versions: (1, 3),
            kind: ChannelKind::Demand,
            recover: true,
            token: Token([7; 16]),
            features: Features(5),
        }
    }

    #[test]
    fn exact_bytes() {
        let mut expected = b"WHIMBREL\x01\0\x03\0\x01\x01\0\0".to_vec();
        expected.extend([7; 16]);
        expected.extend([5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(hello().encode().as_slice(), expected);
        assert_eq!(Hello::decode(&hello().encode()), Ok(hello()));
        let answer = Answer::Refused("no".into());
        assert_eq!(answer.encode(), b"whimbrel\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0no");
    }

    /// Nor by anything that holds it: whoever knows the token can take part in the migration.
    #[test]
    fn the_token_is_never_shown() {
        let hello = Hello { token: Token([0xa7; 16]), ..hello() };
        for shown in [format!("{:?}", hello.token), format!("{hello:?}"), format!("{hello:#?}")] {
            assert!(shown.contains("Token(..)"), "{shown}");
            assert!(!shown.contains("167") && !shown.to_lowercase().contains("a7"), "{shown}");
        }
    }

    #[test]
    fn versions_meet_at_the_newest_common_one_or_not_at_all() {
        assert_eq!(hello().choose(), Ok(1));
        let newer = Hello { versions: (2, 9), ..hello() };
        assert_eq!(newer.choose(), Err(HelloError::Version { theirs_min: 2, theirs_max: 9 }));
        let none = Hello { versions: (0, 0), ..hello() };
        assert!(none.choose().is_err());
    }

    #[test]
    fn strangers_are_named() {
        let mut bytes = hello().encode();
        bytes[..8].copy_from_slice(b"GET / HT");
        assert_eq!(Hello::decode(&bytes), Err(HelloError::Magic(*b"GET / HT")));
        let mut bytes = hello().encode();
        bytes[12] = 9;
        assert_eq!(Hello::decode(&bytes), Err(HelloError::Kind(9)));
    }

    #[test]
    fn answers_survive_the_round_trip_and_long_texts_are_cut_between_characters() {
        for answer in [Answer::Welcome { version: 1, features: Features::POSTCOPY }, Answer::Refused("why ä".into())] {
            let bytes = answer.encode();
            let fixed: [u8; Answer::LEN] = bytes[..Answer::LEN].try_into().unwrap();
            assert_eq!(Answer::text_len(&fixed), Ok(bytes.len() - Answer::LEN));
            assert_eq!(Answer::decode(&fixed, &bytes[Answer::LEN..]), Ok(answer));
        }
        let long = Answer::Refused("ä".repeat(1000)).encode();
        assert!(long.len() <= Answer::LEN + 1024);
        let mut lying: [u8; Answer::LEN] = long[..Answer::LEN].try_into().unwrap();
        lying[10..12].copy_from_slice(&u16::MAX.to_le_bytes());
        assert_eq!(Answer::text_len(&lying), Err(HelloError::Text(65535)));
    }
}
