//! Bytes into values, by the grammar of a stream's description.

use std::io;
use std::ops::Range;

use serde_json::{Map, Value};

use super::grammar::{Count, Grammar, Kind};

/// The most values in one message or state: a grammar that takes no bytes could else go on for
/// ever.
const MOST_VALUES: usize = 1 << 20;

/// Why reading ends where it does.
#[derive(Debug)]
pub enum Stop {
    /// The bytes at `at` are not what they should be, or end there.
    Damage {
        /// Where in the file.
        at: u64,
        /// One sentence.
        why: String,
    },
    /// The file cannot be read, or what is extracted cannot be written.
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The bytes of one message or state.
pub trait Source {
    /// How many are left.
    fn left(&self) -> u64;

    /// Where in the file the next one stands.
    fn at(&self) -> u64;

    /// Fills the buffer, which is no longer than what is left.
    fn read(&mut self, bytes: &mut [u8]) -> Result<(), Stop>;

    /// Passes over so many, which are there unless the file was cut.
    fn skip(&mut self, count: u64) -> Result<(), Stop>;
}

/// Bytes that are in memory.
#[derive(Clone, Copy)]
pub struct Memory<'a> {
    bytes: &'a [u8],
    at: u64,
}

impl<'a> Memory<'a> {
    /// Of a file, where they stood at `at`.
    pub fn new(bytes: &'a [u8], at: u64) -> Self {
        Self { bytes, at }
    }

    fn take(&mut self, count: u64) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(self.bytes.len().min(count as usize));
        self.bytes = rest;
        self.at += taken.len() as u64;
        taken
    }
}

impl Source for Memory<'_> {
    fn left(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn at(&self) -> u64 {
        self.at
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), Stop> {
        let taken = self.take(bytes.len() as u64);
        bytes[..taken.len()].copy_from_slice(taken);
        Ok(())
    }

    fn skip(&mut self, count: u64) -> Result<(), Stop> {
        self.take(count);
        Ok(())
    }
}

/// Whoever is told what stands in a message while it is read.
pub trait Witness {
    /// A value of a type with a name, and where in the file it stands.
    fn named(&mut self, name: &str, value: &Map<String, Value>, at: Range<u64>) -> Result<(), Stop>;

    /// Contents of pages begin here: reads them.
    fn contents(&mut self, source: &mut dyn Source) -> Result<(), Stop>;
}

/// Nobody.
pub struct Nobody;

impl Witness for Nobody {
    fn named(&mut self, _: &str, _: &Map<String, Value>, _: Range<u64>) -> Result<(), Stop> {
        Ok(())
    }

    fn contents(&mut self, source: &mut dyn Source) -> Result<(), Stop> {
        Err(Stop::Damage { at: source.at(), why: "it has contents of pages where none can be".to_owned() })
    }
}

/// The value of all that `source` has.
pub fn decode(kind: &Kind, source: &mut dyn Source, witness: &mut dyn Witness) -> Result<Value, Stop> {
    let mut decoder = Decoder::new(source, witness);
    let value = decoder.value(kind)?;
    match decoder.source.left() {
        0 => Ok(value),
        rest => {
            Err(Stop::Damage { at: decoder.source.at(), why: format!("{rest} bytes are left after its last field") })
        }
    }
}

/// A saved state; `None` if the description has none of this name and version.
pub fn decode_state(grammar: &Grammar, name: &str, version: u64, bytes: &[u8], at: u64) -> Option<Result<Value, Stop>> {
    let kind = grammar.state(name, version)?;
    Some(decode(kind, &mut Memory::new(bytes, at), &mut Nobody))
}

struct Decoder<'a, 'g> {
    source: &'a mut dyn Source,
    witness: &'a mut dyn Witness,
    /// The fields read so far, of each structure that is being read.
    scopes: Vec<Map<String, Value>>,
    /// The names of the fields that are being read.
    path: Vec<&'g str>,
    values: usize,
    #[cfg(test)]
    leaves: Vec<(Vec<String>, usize)>,
}

impl<'a, 'g> Decoder<'a, 'g> {
    fn new(source: &'a mut dyn Source, witness: &'a mut dyn Witness) -> Self {
        Self {
            source,
            witness,
            scopes: Vec::new(),
            path: Vec::new(),
            values: 0,
            #[cfg(test)]
            leaves: Vec::new(),
        }
    }

    fn damage(&self, why: String) -> Stop {
        Stop::Damage { at: self.source.at(), why }
    }

    fn short(&self) -> Stop {
        self.damage(format!("it ends inside its field '{}'", self.path.join(".")))
    }

    fn value(&mut self, kind: &'g Kind) -> Result<Value, Stop> {
        self.values += 1;
        if self.values > MOST_VALUES {
            return Err(self.damage("it has more values than a message can have".to_owned()));
        }
        Ok(match kind {
            Kind::Unsigned(bytes) => self.number(*bytes)?.into(),
            Kind::Signed => (self.number(8)? as i64).into(),
            Kind::Bytes(count) => {
                let bytes = self.bytes(count)?;
                hex(&bytes).into()
            }
            Kind::Text(count) => match String::from_utf8(self.bytes(count)?) {
                Ok(text) => text.into(),
                Err(error) => format!("hex:{}", hex(error.as_bytes())).into(),
            },
            Kind::Contents => {
                self.witness.contents(self.source)?;
                Value::Null
            }
            Kind::Named(named) => {
                let at = self.source.at();
                let value = self.value(&named.kind)?;
                if let Value::Object(fields) = &value {
                    self.witness.named(&named.name, fields, at..self.source.at())?;
                }
                value
            }
            Kind::Struct(fields) => {
                self.scopes.push(Map::new());
                for (name, kind) in fields {
                    self.path.push(name);
                    let value = self.value(kind)?;
                    self.path.pop();
                    if let Some(scope) = self.scopes.last_mut() {
                        scope.insert(name.clone(), value);
                    }
                }
                Value::Object(self.scopes.pop().unwrap_or_default())
            }
            Kind::List(count, of) => self.list(count, of)?,
            Kind::If(field, is, then) => match self.earlier(field)? == *is {
                true => self.value(then)?,
                false => Value::Null,
            },
        })
    }

    fn number(&mut self, bytes: usize) -> Result<u64, Stop> {
        let mut word = [0; 8];
        self.read(&mut word[..bytes])?;
        Ok(u64::from_le_bytes(word))
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), Stop> {
        if bytes.len() as u64 > self.source.left() {
            return Err(self.short());
        }
        #[cfg(test)]
        self.leaves.push((self.path.iter().map(|&name| name.to_owned()).collect(), bytes.len()));
        self.source.read(bytes)
    }

    fn bytes(&mut self, count: &Count) -> Result<Vec<u8>, Stop> {
        let count = self.count(count)?.unwrap_or(self.source.left());
        if count > self.source.left() {
            return Err(self.short());
        }
        let mut bytes = vec![0; count as usize];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn list(&mut self, count: &Count, of: &'g Kind) -> Result<Value, Stop> {
        let mut items = Vec::new();
        match self.count(count)? {
            Some(count) => {
                // Before anything is kept for a lie.
                if count.saturating_mul(of.least()) > self.source.left() {
                    return Err(self.short());
                }
                for _ in 0..count {
                    items.push(self.value(of)?);
                }
            }
            None => {
                while self.source.left() > 0 {
                    items.push(self.value(of)?);
                }
            }
        }
        Ok(Value::Array(items))
    }

    /// `None`: up to the end.
    fn count(&mut self, count: &Count) -> Result<Option<u64>, Stop> {
        Ok(match count {
            Count::Fixed(count) => Some(*count),
            Count::Prefix => Some(self.number(4)?),
            Count::Field(name) => Some(self.earlier(name)?),
            Count::End => None,
        })
    }

    /// The number that an earlier field has, of this structure or of one around it.
    fn earlier(&self, name: &str) -> Result<u64, Stop> {
        let found = self.scopes.iter().rev().find_map(|scope| scope.get(name));
        found
            .and_then(Value::as_u64)
            .ok_or_else(|| self.damage(format!("the description counts by a field '{name}' that is no earlier number")))
    }
}

/// Two digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// The fields of a saved state as they were read, each with the names that lead to it and its
/// bytes.
#[cfg(test)]
pub(super) fn leaves(kind: &Kind, bytes: &[u8]) -> Vec<(Vec<String>, usize)> {
    let (mut source, mut nobody) = (Memory::new(bytes, 0), Nobody);
    let mut decoder = Decoder::new(&mut source, &mut nobody);
    decoder.value(kind).unwrap_or_else(|stop| panic!("{stop:?}"));
    assert_eq!(decoder.source.left(), 0, "bytes are left after the last field");
    decoder.leaves
}
