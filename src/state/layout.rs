//! How saved state is laid out, for tools that take a recorded stream apart without this code.
//!
//! A layout is a list of [`Field`]s that follow each other without gaps. [`fields_json`] writes it
//! in the grammar that `docs/analyze.md` describes. The migration engine carries that text and does
//! not read it.

use std::fmt::Write;

/// One field: its name, and what its bytes are. Names have only characters that JSON does not
/// escape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field(pub &'static str, pub Type);

/// What the bytes of a field are. Numbers are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// An unsigned number of one byte.
    U8,
    /// An unsigned number of two bytes.
    U16,
    /// An unsigned number of four bytes.
    U32,
    /// An unsigned number of eight bytes.
    U64,
    /// A number of eight bytes in two's complement.
    I64,
    /// This many bytes without further meaning.
    Bytes(Count),
    /// A structure.
    Struct(&'static [Field]),
    /// This many values of one type.
    List(Count, &'static Type),
    /// A value that is present only if the earlier field of this name has this value.
    If(&'static str, u64, &'static Type),
}

/// How many bytes or values there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Always this many.
    Fixed(u32),
    /// As many as the `u32` right before them says.
    Prefix,
    /// As many as the earlier field of this name says.
    Field(&'static str),
    /// As many as there are up to the end of the state.
    End,
}

/// The layout of one kind of device's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateLayout {
    /// The device's name in saved state, for example `serial`.
    pub name: &'static str,
    /// The version of the layout.
    pub version: u32,
    /// What the state consists of.
    pub fields: Vec<Field>,
}

/// The fields as a JSON array.
pub fn fields_json(fields: &[Field]) -> String {
    let mut json = String::new();
    write_fields(fields, &mut json);
    json
}

fn write_fields(fields: &[Field], out: &mut String) {
    out.push('[');
    for (at, Field(name, kind)) in fields.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        // Writing to a string cannot fail.
        let _ = write!(out, "[\"{name}\",");
        write_type(*kind, out);
        out.push(']');
    }
    out.push(']');
}

fn write_type(kind: Type, out: &mut String) {
    let _ = match kind {
        Type::U8 => write!(out, "\"u8\""),
        Type::U16 => write!(out, "\"u16\""),
        Type::U32 => write!(out, "\"u32\""),
        Type::U64 => write!(out, "\"u64\""),
        Type::I64 => write!(out, "\"i64\""),
        Type::Bytes(count) => write!(out, "\"bytes:{}\"", count.word()),
        Type::Struct(fields) => {
            write_fields(fields, out);
            Ok(())
        }
        Type::List(count, of) => {
            let _ = write!(out, "{{\"list\":\"{}\",\"of\":", count.word());
            write_type(*of, out);
            write!(out, "}}")
        }
        Type::If(field, value, then) => {
            let _ = write!(out, "{{\"if\":\"{field}\",\"is\":{value},\"then\":");
            write_type(*then, out);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_text() {
        let fields = [
            Field("flag", Type::U8),
            Field("wide", Type::If("flag", 1, &Type::U16)),
            Field("count", Type::U32),
            Field("at", Type::List(Count::Field("count"), &Type::U64)),
            Field("numbers", Type::List(Count::Fixed(3), &Type::Struct(&[Field("n", Type::I64)]))),
            Field("name", Type::Bytes(Count::Prefix)),
            Field("rest", Type::Bytes(Count::End)),
        ];
        assert_eq!(
            fields_json(&fields),
            "[[\"flag\",\"u8\"],[\"wide\",{\"if\":\"flag\",\"is\":1,\"then\":\"u16\"}],[\"count\",\"u32\"],\
             [\"at\",{\"list\":\"=count\",\"of\":\"u64\"}],[\"numbers\",{\"list\":\"3\",\"of\":[[\"n\",\"i64\"]]}],\
             [\"name\",\"bytes:u32\"],[\"rest\",\"bytes:end\"]]"
        );
    }
}
