//! The stream's description of itself, understood: what each message and each saved state consists
//! of.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

/// How deep types may be nested.
const DEPTH: usize = 32;

/// Why a description is of no use: one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// It is no JSON object.
    #[error("the description is not JSON")]
    NotJson,
    /// A part is not there, or is not what it should be.
    #[error("the description has no usable {0}")]
    Unusable(String),
}

/// What the bytes of a value are.
#[derive(Debug)]
pub enum Kind {
    /// A little-endian number of so many bytes.
    Unsigned(usize),
    /// Eight bytes, in two's complement.
    Signed,
    /// Bytes as they are.
    Bytes(Count),
    /// UTF-8.
    Text(Count),
    /// The contents of the run of pages before it.
    Contents,
    /// A type with a name, which may mean something.
    Named(Arc<Named>),
    /// One after the other.
    Struct(Vec<(String, Kind)>),
    /// Several alike.
    List(Count, Box<Kind>),
    /// There only if an earlier field has this value.
    If(String, u64, Box<Kind>),
}

/// A type with a name.
#[derive(Debug)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The fewest bytes that it takes.
    least: u64,
}

/// How many bytes or items.
#[derive(Debug, PartialEq, Eq)]
pub enum Count {
    /// Always so many.
    Fixed(u64),
    /// A u32 before them says it.
    Prefix,
    /// An earlier field says it.
    Field(String),
    /// Up to the end.
    End,
}

/// One message.
#[derive(Debug)]
pub struct Message {
    /// Its name.
    pub name: String,
    /// The longest body.
    pub longest: u64,
    /// What it means to a tool, if anything.
    pub means: Option<String>,
    /// Its fields; `None` if it is not described.
    pub body: Option<Kind>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Grammar {
    /// Bytes a page.
    pub page_size: u64,
    /// By number.
    pub messages: BTreeMap<u16, Message>,
    /// By name and version.
    states: BTreeMap<(String, u64), Kind>,
}

type Types = BTreeMap<String, Arc<Named>>;

impl Grammar {
    /// What a description says: its JSON, too.
    pub fn parse(text: &[u8]) -> Result<(Self, Value), GrammarError> {
        let value: Value = serde_json::from_slice(text).map_err(|_| GrammarError::NotJson)?;
        let top = value.as_object().ok_or(GrammarError::NotJson)?;
        let page_size = number(top, "page-size").filter(|size| (1..=1 << 24).contains(size));
        let page_size = page_size.ok_or_else(|| unusable("page-size"))?;
        let mut types = Types::new();
        for (name, kind) in object(top, "types")? {
            let kind = kind_of(kind, &types, 0).ok_or_else(|| unusable(&format!("type '{name}'")))?;
            let least = kind.least();
            types.insert(name.clone(), Arc::new(Named { name: name.clone(), kind, least }));
        }
        let mut messages = BTreeMap::new();
        for (number, said) in object(top, "messages")? {
            let parsed = number.parse().ok().zip(message(said, &types));
            let (number, message) = parsed.ok_or_else(|| unusable(&format!("message '{number}'")))?;
            messages.insert(number, message);
        }
        let mut states = BTreeMap::new();
        for said in top.get("state").and_then(Value::as_array).ok_or_else(|| unusable("state"))? {
            let (key, kind) = state(said, &types).ok_or_else(|| unusable("state"))?;
            states.insert(key, kind);
        }
        Ok((Self { page_size, messages, states }, value))
    }

    /// How the saved state of this name and version is laid out.
    pub fn state(&self, name: &str, version: u64) -> Option<&Kind> {
        self.states.get(&(name.to_owned(), version))
    }
}

fn unusable(what: &str) -> GrammarError {
    GrammarError::Unusable(what.to_owned())
}

fn number(object: &Map<String, Value>, key: &str) -> Option<u64> {
    object.get(key)?.as_u64()
}

fn object<'a>(top: &'a Map<String, Value>, key: &str) -> Result<&'a Map<String, Value>, GrammarError> {
    top.get(key).and_then(Value::as_object).ok_or_else(|| unusable(key))
}

fn message(said: &Value, types: &Types) -> Option<Message> {
    let said = said.as_object()?;
    let means = match said.get("means") {
        Some(means) => Some(means.as_str()?.to_owned()),
        None => None,
    };
    let body = match said.get("body") {
        Some(body) => Some(kind_of(body, types, 0)?),
        None => None,
    };
    Some(Message { name: said.get("name")?.as_str()?.to_owned(), longest: number(said, "longest")?, means, body })
}

fn state(said: &Value, types: &Types) -> Option<((String, u64), Kind)> {
    let said = said.as_object()?;
    let key = (said.get("name")?.as_str()?.to_owned(), number(said, "version")?);
    Some((key, kind_of(said.get("fields")?, types, 0)?))
}

#[cfg(test)]
impl Kind {
    /// What the JSON of a layout means.
    pub fn of_layout(json: &str) -> Option<Self> {
        kind_of(&serde_json::from_str(json).ok()?, &Types::new(), 0)
    }
}

/// A type; `None` if it cannot be understood.
fn kind_of(said: &Value, types: &Types, depth: usize) -> Option<Kind> {
    if depth > DEPTH {
        return None;
    }
    match said {
        Value::String(word) => word_of(word, types),
        Value::Array(fields) => {
            let field = |field: &Value| match field.as_array()?.as_slice() {
                [name, kind] => Some((name.as_str()?.to_owned(), kind_of(kind, types, depth + 1)?)),
                _ => None,
            };
            fields.iter().map(field).collect::<Option<_>>().map(Kind::Struct)
        }
        Value::Object(said) if said.contains_key("list") => {
            let of = kind_of(said.get("of")?, types, depth + 1)?;
            let count = Count::of(said.get("list")?.as_str()?)?;
            // Of what takes no bytes there could be any number.
            (of.least() > 0).then(|| Kind::List(count, Box::new(of)))
        }
        Value::Object(said) => {
            let then = kind_of(said.get("then")?, types, depth + 1)?;
            Some(Kind::If(said.get("if")?.as_str()?.to_owned(), number(said, "is")?, Box::new(then)))
        }
        _ => None,
    }
}

fn word_of(word: &str, types: &Types) -> Option<Kind> {
    Some(match word.split_once(':') {
        Some(("bytes", count)) => Kind::Bytes(Count::of(count)?),
        Some(("text", count)) => Kind::Text(Count::of(count)?),
        Some(_) => return None,
        None => match word {
            "u8" => Kind::Unsigned(1),
            "u16" => Kind::Unsigned(2),
            "u32" => Kind::Unsigned(4),
            "u64" => Kind::Unsigned(8),
            "i64" => Kind::Signed,
            "contents" => Kind::Contents,
            name => Kind::Named(types.get(name)?.clone()),
        },
    })
}

impl Count {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "u32" => Self::Prefix,
            "end" => Self::End,
            _ => match word.strip_prefix('=') {
                Some(field) => Self::Field(field.to_owned()),
                None if word.bytes().all(|byte| byte.is_ascii_digit()) => Self::Fixed(word.parse::<u32>().ok()?.into()),
                None => return None,
            },
        })
    }

    /// The fewest bytes that so many of `each` bytes take.
    fn least(&self, each: u64) -> u64 {
        match self {
            Self::Fixed(count) => count.saturating_mul(each),
            Self::Prefix => 4,
            Self::Field(_) | Self::End => 0,
        }
    }
}

impl Kind {
    /// The fewest bytes that such a value takes.
    pub fn least(&self) -> u64 {
        match self {
            Self::Unsigned(bytes) => *bytes as u64,
            Self::Signed => 8,
            Self::Bytes(count) | Self::Text(count) => count.least(1),
            Self::Contents | Self::If(..) => 0,
            Self::Named(named) => named.least,
            Self::Struct(fields) => fields.iter().fold(0, |sum, (_, kind)| sum.saturating_add(kind.least())),
            Self::List(count, of) => count.least(of.least()),
        }
    }
}
