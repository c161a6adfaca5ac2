//! What a recorded stream says of itself, so that tools can read it without this code: every
//! message's fields, and those of every saved state that the monitor describes.

use std::fmt::Write;

use super::codec::longest;
use super::grammar::{Count, Field, Type, fields_json};
use super::tag;
use crate::guest::SectionLayout;

/// What a message means to a tool that knows no message but by its description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing that is counted.
    None,
    /// RAM blocks, each a `block`.
    Blocks,
    /// A pass begins; its field `pass` is its number.
    PassBegin,
    /// It ends.
    PassEnd,
    /// Each `run` is of pages; how their contents stand in the message: `raw` (as `contents`),
    /// `zero`, `stale`, or an encoding's name.
    Pages(&'static str),
    /// Saved state, each part a `section`.
    State,
    /// The stream is whole.
    End,
    /// The guest stayed; its field `why` says why.
    Cancelled,
    /// What follows is no stream, but a file whose pages have places of their own.
    Mapped,
}

impl Meaning {
    fn word(self) -> Option<String> {
        Some(match self {
            Self::None => return None,
            Self::Blocks => "blocks".to_owned(),
            Self::PassBegin => "pass-begin".to_owned(),
            Self::PassEnd => "pass-end".to_owned(),
            Self::Pages(encoding) => format!("pages:{encoding}"),
            Self::State => "state".to_owned(),
            Self::End => "end".to_owned(),
            Self::Cancelled => "cancelled".to_owned(),
            Self::Mapped => "mapped".to_owned(),
        })
    }
}

/// Types that several messages have, or whose name tells a tool what to do with them. A type may
/// use those above it.
pub const TYPES: &[(&str, &[Field])] = &[
    ("pair", &[Field("key", Type::Text(Count::Prefix)), Field("value", Type::Text(Count::Prefix))]),
    (
        "block",
        &[Field("name", Type::Text(Count::Prefix)), Field("guest address", Type::U64), Field("pages", Type::U64)],
    ),
    ("run", &[Field("block", Type::U32), Field("count", Type::U32), Field("first", Type::U64)]),
    (
        "fragment",
        &[
            Field("block", Type::U32),
            Field("words", Type::U32),
            Field("first word", Type::U64),
            Field("bits", Type::List(Count::Field("words"), &Type::U64)),
        ],
    ),
    (
        "section",
        &[
            Field("name", Type::Text(Count::Prefix)),
            Field("instance", Type::U32),
            Field("version", Type::U32),
            Field("bytes", Type::Bytes(Count::Prefix)),
        ],
    ),
];

const PASS: &[Field] = &[Field("pass", Type::U32)];
const NUMBER: &[Field] = &[Field("number", Type::U32)];
const WHY: &[Field] = &[Field("why", Type::Text(Count::End))];
const RUNS: &[Field] = &[Field("runs", Type::List(Count::End, &Type::Named("run")))];
const FRAGMENT: &[Field] = &[Field("fragment", Type::Named("fragment"))];

/// Every message's body. A message without a row cannot be taken apart.
pub const BODIES: &[(u16, Meaning, &[Field])] = &[
    (tag::CONFIGURATION, Meaning::None, &[Field("pairs", Type::List(Count::Prefix, &Type::Named("pair")))]),
    (
        tag::RAM,
        Meaning::Blocks,
        &[Field("page size", Type::U32), Field("blocks", Type::List(Count::Prefix, &Type::Named("block")))],
    ),
    (tag::DESCRIPTION, Meaning::None, &[Field("text", Type::Text(Count::End))]),
    (tag::PASS_BEGIN, Meaning::PassBegin, PASS),
    (tag::PASS_END, Meaning::PassEnd, PASS),
    (tag::PAGES, Meaning::Pages("raw"), &[Field("run", Type::Named("run")), Field("contents", Type::Contents)]),
    (tag::ZEROS, Meaning::Pages("zero"), RUNS),
    (tag::DISCARD, Meaning::Pages("stale"), FRAGMENT),
    (tag::LISTEN, Meaning::None, &[]),
    (tag::STATE, Meaning::State, &[Field("sections", Type::List(Count::Prefix, &Type::Named("section")))]),
    (tag::HAND_OVER, Meaning::None, &[Field("running", Type::U8)]),
    (tag::COMPLETE, Meaning::End, &[]),
    (tag::CANCEL, Meaning::Cancelled, WHY),
    (tag::BARRIER, Meaning::None, NUMBER),
    (tag::MULTIFD_START, Meaning::None, &[]),
    (tag::MULTIFD_FLUSH, Meaning::None, &[]),
    (tag::GOODBYE, Meaning::None, &[]),
    (
        tag::COMPRESSED,
        Meaning::Pages("packed"),
        &[Field("run", Type::Named("run")), Field("codec", Type::U32), Field("packed", Type::Bytes(Count::End))],
    ),
    (
        tag::XBZRLE,
        Meaning::Pages("delta"),
        &[Field("run", Type::Named("run")), Field("changes", Type::Bytes(Count::End))],
    ),
    (tag::SHARED_RAM, Meaning::None, &[Field("count", Type::U32)]),
    (
        tag::MAPPED,
        Meaning::Mapped,
        &[
            Field("blocks", Type::U64),
            Field("table", Type::U64),
            Field("tail", Type::U64),
            Field("tail length", Type::U64),
        ],
    ),
    (tag::ACCEPTED, Meaning::None, &[]),
    (tag::LISTENING, Meaning::None, &[]),
    (tag::READY, Meaning::None, &[]),
    (tag::RUNNING, Meaning::None, &[]),
    (tag::NOT_STARTED, Meaning::None, WHY),
    (tag::ALL_RECEIVED, Meaning::None, &[]),
    (tag::RECEIVED, Meaning::None, FRAGMENT),
    (tag::RECEIVED_END, Meaning::None, &[]),
    (tag::BARRIER_ACK, Meaning::None, NUMBER),
    (tag::REQUEST, Meaning::None, RUNS),
];

/// The description, as JSON. `state` is the monitor's description of its devices' state.
pub fn describe(state: &[SectionLayout]) -> String {
    let mut out = format!(
        "{{\"protocol\":{},\"page-size\":{},\"header\":[\"tag:u16\",\"flags:u16\",\"length:u32\"],\
         \"byte-order\":\"little\",\"types\":{{",
        super::VERSION_MAX,
        crate::ram::PAGE_SIZE,
    );
    for (at, (name, fields)) in TYPES.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(out, "{}\"{name}\":", comma(at));
        fields_json(fields, &mut out);
    }
    out.push_str("},\"messages\":{");
    for (at, (number, name)) in tag::NAMES.iter().enumerate() {
        let _ = write!(out, "{}\"{number}\":{{\"name\":\"{name}\"", comma(at));
        if let Some(most) = longest(*number) {
            let _ = write!(out, ",\"longest\":{most}");
        }
        if let Some((_, meaning, fields)) = BODIES.iter().find(|(tag, ..)| tag == number) {
            if let Some(word) = meaning.word() {
                let _ = write!(out, ",\"means\":\"{word}\"");
            }
            out.push_str(",\"body\":");
            fields_json(fields, &mut out);
        }
        out.push('}');
    }
    out.push_str("},\"state\":[");
    for (at, layout) in state.iter().enumerate() {
        let SectionLayout { name, version, fields } = layout;
        let comma = comma(at);
        let _ = write!(out, "{comma}{{\"name\":\"{name}\",\"version\":{version},\"fields\":{fields}}}");
    }
    out.push_str("]}");
    out
}

fn comma(at: usize) -> &'static str {
    if at == 0 { "" } else { "," }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_described() {
        for (number, name) in tag::NAMES {
            let rows = BODIES.iter().filter(|(tag, ..)| *tag == number).count();
            assert_eq!(rows, 1, "message '{name}' ({number}) needs one row in BODIES");
        }
        assert_eq!(BODIES.len(), tag::NAMES.len());
    }

    #[test]
    fn names_stand_in_json_as_they_are() {
        fn check(fields: &[Field]) {
            for Field(name, _) in fields {
                assert!(
                    name.bytes().all(|byte| (b' '..0x7f).contains(&byte) && byte != b'"' && byte != b'\\'),
                    "{name}"
                );
            }
        }
        TYPES.iter().for_each(|(_, fields)| check(fields));
        BODIES.iter().for_each(|(_, _, fields)| check(fields));
    }

    #[test]
    fn exact_text() {
        let layout =
            |name: &str, version, fields: &str| SectionLayout { name: name.into(), version, fields: fields.into() };
        let text = describe(&[layout("toy", 7, "[[\"flag\",\"u8\"]]"), layout("clock", 1, "[]")]);
        let begin = "{\"protocol\":1,\"page-size\":4096,\"header\":[\"tag:u16\",\"flags:u16\",\"length:u32\"],\
                     \"byte-order\":\"little\",\"types\":{\"pair\":[[\"key\",\"text:u32\"],[\"value\",\"text:u32\"]],";
        assert!(text.starts_with(begin), "{text}");
        let pages = "\"6\":{\"name\":\"pages\",\"longest\":4194320,\"means\":\"pages:raw\",\
                     \"body\":[[\"run\",\"run\"],[\"contents\",\"contents\"]]}";
        assert!(text.contains(pages), "{text}");
        let end = "\"state\":[{\"name\":\"toy\",\"version\":7,\"fields\":[[\"flag\",\"u8\"]]},\
                   {\"name\":\"clock\",\"version\":1,\"fields\":[]}]}";
        assert!(text.ends_with(end), "{text}");
    }

    /// A destination takes no longer one.
    #[test]
    fn there_is_room_for_the_states() {
        assert!(describe(&[]).len() < longest(tag::DESCRIPTION).unwrap() as usize / 64);
    }
}
