//! [`Splitter`]: cuts a stream of bytes into JSON values, wherever the reads happened to cut it.

/// The longest value taken, in bytes.
pub const MAX_VALUE: usize = 64 << 10;
/// The deepest nesting taken.
pub const MAX_DEPTH: usize = 64;

/// What the stream held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The bytes of one value, as far as brackets and quotes tell.
    Value(Vec<u8>),
    /// Bytes that cannot begin or go on in a value; what was gathered is dropped and the stream
    /// goes on.
    Stray(String),
    /// Too long or too deep: the conversation is over.
    Excess(&'static str),
}

/// Where the stream stands inside a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Between values.
    Gap,
    /// In a bare word or number outside all brackets.
    Word,
    /// Inside brackets, or between a bare string's quotes. A string ends with the quote that it
    /// began with: QEMU takes single ones, too.
    Nested { quote: Option<u8>, escaped: bool },
}

/// Cuts a stream into values. Checks only what it needs to find their ends: a parser checks the
/// rest.
#[derive(Debug)]
pub struct Splitter {
    value: Vec<u8>,
    depth: usize,
    at: At,
}

impl Splitter {
    /// At the start of a stream.
    pub const fn new() -> Self {
        Self { value: Vec::new(), depth: 0, at: At::Gap }
    }

    /// Takes `input` byte by byte up to the end of the next piece, and removes from it what was
    /// taken.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Piece> {
        while let Some((&byte, rest)) = input.split_first() {
            // The byte that ends a bare word belongs to what follows.
            if self.at == At::Word && ends_word(byte) {
                return Some(self.take());
            }
            *input = rest;
            if let Some(piece) = self.push(byte) {
                return Some(piece);
            }
        }
        None
    }

    fn push(&mut self, byte: u8) -> Option<Piece> {
        if self.at == At::Gap && byte.is_ascii_whitespace() {
            return None;
        }
        if self.value.len() >= MAX_VALUE {
            return Some(Piece::Excess("a value is longer than 64 KiB"));
        }
        self.value.push(byte);
        match self.at {
            At::Nested { quote: Some(quote), escaped } => self.push_quoted(byte, quote, escaped),
            _ => self.push_bare(byte),
        }
    }

    fn push_quoted(&mut self, byte: u8, quote: u8, escaped: bool) -> Option<Piece> {
        let ends = !escaped && byte == quote;
        self.at = At::Nested { quote: (!ends).then_some(quote), escaped: !escaped && byte == b'\\' };
        match byte {
            // JSON has no control characters in strings: a quote was forgotten, and waiting for it
            // would swallow all that follows.
            ..b' ' => Some(self.stray()),
            _ if ends && self.depth == 0 => Some(self.take()),
            _ => None,
        }
    }

    fn push_bare(&mut self, byte: u8) -> Option<Piece> {
        let open = |quote| At::Nested { quote, escaped: false };
        match byte {
            b'{' | b'[' => {
                self.depth += 1;
                self.at = open(None);
                (self.depth > MAX_DEPTH).then_some(Piece::Excess("a value is nested deeper than 64"))
            }
            b'}' | b']' if self.depth > 1 => {
                self.depth -= 1;
                None
            }
            b'}' | b']' if self.depth == 1 => Some(self.take()),
            b'}' | b']' => Some(self.stray()),
            b'"' | b'\'' => {
                self.at = open(Some(byte));
                None
            }
            _ => {
                if self.depth == 0 {
                    self.at = At::Word;
                }
                None
            }
        }
    }

    fn take(&mut self) -> Piece {
        (self.depth, self.at) = (0, At::Gap);
        Piece::Value(std::mem::take(&mut self.value))
    }

    fn stray(&mut self) -> Piece {
        const SHOWN: usize = 40;
        (self.depth, self.at) = (0, At::Gap);
        let bytes = std::mem::take(&mut self.value);
        let shown = &bytes[..bytes.len().min(SHOWN)];
        Piece::Stray(String::from_utf8_lossy(shown).trim_end().to_owned())
    }
}

const fn ends_word(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b'{' | b'}' | b'[' | b']' | b'"' | b'\'')
}

#[cfg(test)]
mod tests;
