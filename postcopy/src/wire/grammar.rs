//! How the bodies of messages are described to tools that do not have this code: a small grammar,
//! sent as JSON in the stream's description of itself.
//!
//! A body is a list of [`Field`]s that follow each other without gaps. `docs/analyze.md` has the
//! grammar as a reader sees it.

use std::fmt::Write;

/// One field: its name, and what its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field(pub &'static str, pub Type);

/// What the bytes of a field are. Numbers are little-endian and unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A number of one byte.
    U8,
    /// A number of four bytes.
    U32,
    /// A number of eight bytes.
    U64,
    /// This many bytes without further meaning.
    Bytes(Count),
    /// This many bytes of UTF-8.
    Text(Count),
    /// The contents of the run of pages before it.
    Contents,
    /// One of [`super::description::TYPES`].
    Named(&'static str),
    /// This many values of one type.
    List(Count, &'static Type),
}

/// How many bytes or values there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// As many as the `u32` right before them says.
    Prefix,
    /// As many as the earlier field of this name says.
    Field(&'static str),
    /// As many as there are up to the end of the message.
    End,
}

/// Appends the fields as a JSON array. No name has a character that JSON escapes.
pub(super) fn fields_json(fields: &[Field], out: &mut String) {
    out.push('[');
    for (at, Field(name, kind)) in fields.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        // Writing to a string cannot fail.
        let _ = write!(out, "[\"{name}\",");
        type_json(*kind, out);
        out.push(']');
    }
    out.push(']');
}

fn type_json(kind: Type, out: &mut String) {
    let _ = match kind {
        Type::U8 => write!(out, "\"u8\""),
        Type::U32 => write!(out, "\"u32\""),
        Type::U64 => write!(out, "\"u64\""),
        Type::Bytes(count) => write!(out, "\"bytes:{}\"", count.word()),
        Type::Text(count) => write!(out, "\"text:{}\"", count.word()),
        Type::Contents => write!(out, "\"contents\""),
        Type::Named(name) => write!(out, "\"{name}\""),
        Type::List(count, of) => {
            let _ = write!(out, "{{\"list\":\"{}\",\"of\":", count.word());
            type_json(*of, out);
            write!(out, "}}")
        }
    };
}

impl Count {
    fn word(self) -> String {
        match self {
            Self::Prefix => "u32".to_owned(),
            Self::Field(name) => format!("={name}"),
            Self::End => "end".to_owned(),
        }
    }
}
