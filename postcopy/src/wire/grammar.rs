//! How bytes are told to tools that do not have this code: a small grammar, sent as JSON in the
//! stream's description of itself.
//!
//! A layout is a list of [`Field`]s one after the other. `docs/analyze.md` has the grammar as a
//! reader sees it.

use std::fmt::Write;

/// One field: its name, and what its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field(pub &'static str, pub Type);

/// What the bytes of a field are. Numbers are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// One byte.
    U8,
    /// Two.
    U16,
    /// Four.
    U32,
    /// Eight.
    U64,
    /// Eight, in two's complement.
    I64,
    /// So many bytes.
    Bytes(Count),
    /// UTF-8, so many bytes of it.
    Text(Count),
    /// The contents of the run of pages before it.
    Contents,
    /// One of [`super::description::TYPES`].
    Named(&'static str),
    /// Fields of its own.
    Struct(&'static [Field]),
    /// So many of one type.
    List(Count, &'static Type),
    /// There only if an earlier field has this value.
    If(&'static str, u64, &'static Type),
}

/// How many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Always so many.
    Fixed(u32),
    /// A `u32` before them says it.
    Prefix,
    /// An earlier field says it.
    Field(&'static str),
    /// Up to the end.
    End,
}

/// A device's saved state, by the name and the version that its [`crate::guest::Section`] has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateLayout {
    /// The section's name.
    pub name: &'static str,
    /// The layout's version.
    pub version: u32,
    /// What it consists of.
    pub fields: Vec<Field>,
}

/// The layout as JSON. Names stand as they are: none has a character that JSON writes otherwise.
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
        Type::U16 => write!(out, "\"u16\""),
        Type::U32 => write!(out, "\"u32\""),
        Type::U64 => write!(out, "\"u64\""),
        Type::I64 => write!(out, "\"i64\""),
        Type::Bytes(count) => write!(out, "\"bytes:{}\"", count.word()),
        Type::Text(count) => write!(out, "\"text:{}\"", count.word()),
        Type::Contents => write!(out, "\"contents\""),
        Type::Named(name) => write!(out, "\"{name}\""),
        Type::Struct(fields) => {
            fields_json(fields, out);
            Ok(())
        }
        Type::List(count, of) => {
            let _ = write!(out, "{{\"list\":\"{}\",\"of\":", count.word());
            type_json(*of, out);
            write!(out, "}}")
        }
        Type::If(field, value, then) => {
            let _ = write!(out, "{{\"if\":\"{field}\",\"is\":{value},\"then\":");
            type_json(*then, out);
            write!(out, "}}")
        }
    };
}

impl Count {
    fn word(self) -> String {
        match self {
            Self::Fixed(count) => count.to_string(),
            Self::Prefix => "u32".to_owned(),
            Self::Field(name) => format!("={name}"),
            Self::End => "end".to_owned(),
        }
    }
}
