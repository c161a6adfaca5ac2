use proptest::prelude::*;
use serde_json::{Map, Value, json};
use whimbrel_postcopy::encoding::Codec;
use whimbrel_postcopy::guest::{Section, SectionLayout};
use whimbrel_postcopy::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use whimbrel_postcopy::wire::description::describe;
use whimbrel_postcopy::wire::{
    BlockDescription, ChannelKind, Features, Forward, Fragment, Header, Hello, Reply, Request, Token, tag,
};

use super::decode::{Memory, Source, Stop, Witness, decode};
use super::grammar::{Grammar, GrammarError};
use super::*;
use crate::state::layout::{Count, Field, Type, fields_json};

const PAGES: u64 = 8;

fn run(block: u16, first: u64, count: u32) -> PageRun {
    PageRun { block: BlockId(block), start: PageIndex(first), count }
}

fn toy() -> Vec<SectionLayout> {
    let fields = vec![
        Field("flag", Type::U8),
        Field("there", Type::If("flag", 1, &Type::U16)),
        Field("count", Type::U32),
        Field("items", Type::List(Count::Field("count"), &Type::Struct(&[Field("n", Type::I64)]))),
        Field("rest", Type::Bytes(Count::End)),
    ];
    vec![SectionLayout { name: "toy".into(), version: 1, fields: fields_json(&fields) }]
}

fn toy_bytes() -> Vec<u8> {
    [&[1, 2, 1, 1, 0, 0, 0][..], &(-5i64).to_le_bytes(), b"xyz"].concat()
}

fn section(name: &str, bytes: Vec<u8>) -> Section {
    Section { name: name.into(), instance: 0, version: 1, bytes }
}

fn forward(message: &Forward) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    if let Forward::Pages(run) = message {
        bytes.extend(run.pages().flat_map(|page| vec![page.0 as u8 + 1; PAGE_SIZE]));
    }
    bytes
}

fn reply(message: &Reply) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

fn request(message: &Request) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

/// A message of each kind, and what the grammar makes of it.
fn samples() -> Vec<(Vec<u8>, Value)> {
    let a_run = json!({"block": 1, "count": 2, "first": 3});
    let fragment = Fragment { block: BlockId(1), first_word: 2, words: vec![3, u64::MAX] };
    let a_fragment = json!({"block": 1, "words": 2, "first word": 2, "bits": [3, u64::MAX]});
    let block = BlockDescription { name: "low".into(), guest_address: 1 << 40, pages: PAGES };
    let state = json!({"name": "toy", "instance": 0, "version": 1, "bytes": "0fa0"});
    vec![
        (
            forward(&Forward::Configuration(vec![("k".into(), "ä".into())])),
            json!({"pairs": [{"key": "k", "value": "ä"}]}),
        ),
        (
            forward(&Forward::Ram { page_size: 4096, blocks: vec![block] }),
            json!({"page size": 4096, "blocks": [{"name": "low", "guest address": 1u64 << 40, "pages": PAGES}]}),
        ),
        (forward(&Forward::Description("{}".into())), json!({"text": "{}"})),
        (forward(&Forward::PassBegin(7)), json!({"pass": 7})),
        (forward(&Forward::PassEnd(7)), json!({"pass": 7})),
        (forward(&Forward::Pages(run(1, 3, 2))), json!({"run": a_run, "contents": null})),
        (forward(&Forward::Zeros(vec![run(1, 3, 2), run(1, 3, 2)])), json!({"runs": [a_run, a_run]})),
        (forward(&Forward::Discard(fragment.clone())), json!({"fragment": a_fragment})),
        (forward(&Forward::Listen), json!({})),
        (forward(&Forward::State(vec![section("toy", vec![15, 160])])), json!({"sections": [state]})),
        (forward(&Forward::HandOver { running: true }), json!({"running": 1})),
        (forward(&Forward::Complete), json!({})),
        (forward(&Forward::Cancel("why".into())), json!({"why": "why"})),
        (forward(&Forward::Barrier(9)), json!({"number": 9})),
        (forward(&Forward::MultifdStart), json!({})),
        (forward(&Forward::MultifdFlush), json!({})),
        (forward(&Forward::Goodbye), json!({})),
        (
            [forward(&Forward::Compressed { run: run(1, 3, 2), codec: Codec::Zstd, length: 3 }), b"abc".to_vec()]
                .concat(),
            json!({"run": a_run, "codec": 2, "packed": "616263"}),
        ),
        (
            [forward(&Forward::Xbzrle { run: run(1, 3, 2), length: 5 }), b"\0\x01x\0\0".to_vec()].concat(),
            json!({"run": a_run, "changes": "0001780000"}),
        ),
        (forward(&Forward::SharedRam(2)), json!({"count": 2})),
        (
            [&[21, 0, 0, 0, 32, 0, 0, 0], [1u64, 2, 3, 4].map(u64::to_le_bytes).as_flattened()].concat(),
            json!({"blocks": 1, "table": 2, "tail": 3, "tail length": 4}),
        ),
        (reply(&Reply::Accepted), json!({})),
        (reply(&Reply::Listening), json!({})),
        (reply(&Reply::Ready), json!({})),
        (reply(&Reply::Running), json!({})),
        (reply(&Reply::NotStarted("why".into())), json!({"why": "why"})),
        (reply(&Reply::AllReceived), json!({})),
        (reply(&Reply::Received(fragment)), json!({"fragment": a_fragment})),
        (reply(&Reply::ReceivedEnd), json!({})),
        (reply(&Reply::BarrierAck(9)), json!({"number": 9})),
        (request(&Request(vec![run(1, 3, 2)])), json!({"runs": [a_run]})),
    ]
}

fn grammar() -> Grammar {
    Grammar::parse(describe(&toy()).as_bytes()).unwrap().0
}

/// Passes over contents.
struct Skipper(u64);

impl Witness for Skipper {
    fn named(&mut self, name: &str, value: &Map<String, Value>, _: std::ops::Range<u64>) -> Result<(), Stop> {
        if name == "run" {
            self.0 = value["count"].as_u64().unwrap();
        }
        Ok(())
    }

    fn contents(&mut self, source: &mut dyn Source) -> Result<(), Stop> {
        source.skip(self.0 * PAGE_SIZE as u64)
    }
}

#[test]
fn every_message_is_read_by_the_description() {
    let (grammar, samples) = (grammar(), samples());
    for (number, name) in tag::NAMES {
        let sample = samples.iter().find(|(bytes, _)| bytes.starts_with(&number.to_le_bytes()));
        let (bytes, expected) = sample.unwrap_or_else(|| panic!("message '{name}' ({number}) needs a sample here"));
        let message = &grammar.messages[&number];
        assert_eq!(message.name, name);
        let body = &bytes[Header::LEN..];
        let kind = message.body.as_ref().unwrap();
        let value = decode(kind, &mut Memory::new(body, 0), &mut Skipper(0)).unwrap();
        assert_eq!(&value, expected, "{name}");
        for cut in 0..body.len().min(64) {
            let result = decode(kind, &mut Memory::new(&body[..cut], 0), &mut Skipper(0));
            // What goes on to the end may end anywhere between two of its items.
            let open = matches!(number, tag::DESCRIPTION | tag::CANCEL | tag::NOT_STARTED)
                || matches!(number, tag::ZEROS | tag::REQUEST) && cut % 16 == 0
                || matches!(number, tag::PAGES | tag::XBZRLE) && cut >= 16
                || number == tag::COMPRESSED && cut >= 20;
            assert_eq!(result.is_ok(), open, "{name} cut to {cut} bytes");
        }
    }
}

/// A stream as a source records it.
fn parts() -> Vec<Vec<u8>> {
    let block = |name: &str, guest_address| BlockDescription { name: name.into(), guest_address, pages: PAGES };
    let hello = Hello {
        versions: (1, 1),
        kind: ChannelKind::Control,
        recover: false,
        token: Token([7; 16]),
        features: Features(2),
    };
    let messages = [
        Forward::Configuration(vec![("vcpus".into(), "1".into())]),
        Forward::Ram { page_size: 4096, blocks: vec![block("low", 0), block("../high", 1 << 32)] },
        Forward::Description(describe(&toy())),
        Forward::PassBegin(1),
        Forward::Pages(run(0, 1, 3)),
        Forward::Zeros(vec![run(0, 4, 4), run(1, 0, 8)]),
        Forward::PassEnd(1),
        Forward::Barrier(1),
        Forward::Pages(run(1, 7, 1)),
        Forward::Zeros(vec![run(0, 2, 1)]),
        Forward::State(vec![section("toy", toy_bytes()), section("unknown", vec![1, 2])]),
        Forward::HandOver { running: true },
        Forward::Complete,
    ];
    [hello.encode().to_vec()].into_iter().chain(messages.iter().map(forward)).collect()
}

fn options(dump: Option<Dump>) -> Options {
    Options { file: "-".into(), offset: 0, dump, json: true, extract: None }
}

fn told(bytes: &[u8], options: &Options) -> (u8, String) {
    let mut out = Vec::new();
    let input = Input::of(bytes.to_vec(), options.offset).unwrap();
    let extract = options.extract.as_ref().map(|directory| Extract::new(directory).unwrap());
    let code = answer(input, extract, options, &mut out).unwrap();
    (code, String::from_utf8(out).unwrap())
}

fn report(bytes: &[u8]) -> (u8, Value) {
    let (code, text) = told(bytes, &options(None));
    (code, serde_json::from_str(&text).unwrap())
}

#[test]
fn a_whole_stream() {
    let bytes = [&b"something else"[..], &parts().concat()].concat();
    let (code, text) = told(&bytes, &Options { offset: 14, ..options(None) });
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &report["damage"], &report["end"]), (0, &json!([]), &json!(bytes.len())), "{report:#}");
    assert_eq!(report["hello"], json!({"versions": [1, 1], "kind": 0, "recover": 0, "features": 2}));
    assert!(!text.contains("0707"), "the token is a secret");
    let low = json!({"name": "low", "guest-address": 0, "pages": 8, "come": 7, "sent": {"pages": 3, "zeros": 5}});
    assert_eq!(report["blocks"][0], low);
    assert_eq!(report["blocks"][1]["come"], 8);
    let stages: Vec<_> = report["stages"].as_array().unwrap().iter().map(|it| it["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["introduction", "pass 1", "after pass 1"]);
    assert_eq!(report["stages"][1]["pages"], json!({"pages": 3, "zeros": 12}));
    let bytes_of =
        |list: &str| report[list].as_array().unwrap().iter().map(|it| it["bytes"].as_u64().unwrap()).sum::<u64>();
    assert_eq!((bytes_of("messages"), bytes_of("stages")), (bytes.len() as u64 - 54, bytes.len() as u64 - 54));
    let pages = json!({"number": 6, "name": "pages", "messages": 2, "bytes": 2 * 24 + 4 * 4096, "pages": 4});
    assert!(report["messages"].as_array().unwrap().contains(&pages), "{report:#}");
}

#[test]
fn states_are_read_field_by_field() {
    let bytes = parts().concat();
    let (code, text) = told(&bytes, &options(Some(Dump::State)));
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, 0);
    let fields = json!({"flag": 1, "there": 258, "count": 1, "items": [{"n": -5}], "rest": "78797a"});
    assert_eq!(value["state"][0]["fields"], fields);
    let at = value["state"][0]["offset"].as_u64().unwrap() as usize;
    assert!(bytes[at..].starts_with(&toy_bytes()));
    assert_eq!((&value["state"][1]["described"], &value["state"][1]["fields"]), (&json!(false), &json!("0102")));
    let (_, text) = told(&bytes, &Options { json: false, ..options(Some(Dump::State)) });
    assert!(text.contains("  there: 258 (0x102)\n") && text.contains("  items 0:\n    n: -5\n"), "{text}");
    let (_, text) = told(&bytes, &options(Some(Dump::Desc)));
    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap(),
        serde_json::from_str::<Value>(&describe(&toy())).unwrap()
    );
    let (_, text) = told(&bytes, &options(Some(Dump::Ram)));
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["ram"].as_array().unwrap().len(), 5);
    assert_eq!(value["ram"][2]["block"], "../high");
}

#[test]
fn what_is_extracted_is_what_the_destination_would_have() {
    let room = tempfile::tempdir().unwrap();
    let there = room.path().join("there");
    let told = told(&parts().concat(), &Options { extract: Some(there.clone()), ..options(None) });
    assert_eq!(told.0, 0, "{}", told.1);
    let low: Vec<u8> = [0u8, 2, 0, 4, 0, 0, 0, 0].iter().flat_map(|byte| [*byte; PAGE_SIZE]).collect();
    assert!(std::fs::read(there.join("low.ram")).unwrap() == low);
    // No name leads out of the directory.
    let high = std::fs::read(there.join("_._high.ram")).unwrap();
    assert_eq!((high.len(), high[7 * PAGE_SIZE], high[0]), (8 * PAGE_SIZE, 8, 0));
    assert_eq!(std::fs::read(there.join("toy.0.state")).unwrap(), toy_bytes());
    let fields: Value = serde_json::from_slice(&std::fs::read(there.join("toy.0.json")).unwrap()).unwrap();
    assert_eq!(fields["there"], 258);
    // Nothing is overwritten.
    let mut extract = Extract::new(&there).unwrap();
    let error = extract.state("toy", 0, &[], &Value::Null).unwrap_err();
    assert!(error.to_string().contains("toy.0.state"), "{error}");
}

#[test]
fn a_stream_cut_anywhere_is_described_up_to_there() {
    let (parts, bytes) = (parts(), parts().concat());
    let begins: Vec<usize> = (0..parts.len()).map(|number| parts[..number].concat().len()).collect();
    for cut in (0..bytes.len()).filter(|cut| cut % 97 == 0 || begins.iter().any(|begin| begin.abs_diff(*cut) < 18)) {
        let (code, report) = report(&bytes[..cut]);
        let damage = &report["damage"];
        assert_eq!((code, damage.as_array().unwrap().len()), (1, 1), "{cut}: {damage}");
        assert_eq!((&damage[0]["offset"], &report["end"]), (&json!(if cut < 8 { 0 } else { cut }), &json!(cut)));
        let whole = begins.iter().filter(|begin| **begin <= cut).count() - 1;
        if whole > 0 && cut > begins[whole] {
            assert_eq!(damage[0]["begins"], begins[whole], "{cut}: {damage}");
        }
        let messages = report["messages"].as_array().unwrap();
        let counted: u64 = messages.iter().map(|it| it["messages"].as_u64().unwrap()).sum();
        // The hello is no message.
        assert_eq!(counted as usize, whole.saturating_sub(1), "{cut}: {report:#}");
    }
}

/// The stream with part `number` changed.
fn changed(number: usize, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut parts = parts();
    change(&mut parts[number]);
    parts.concat()
}

#[test]
fn damage_is_named_with_its_place() {
    let begin = |number: usize| parts()[..number].concat().len();
    let long = |part: &mut Vec<u8>| part[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    for (bytes, at, message, why) in [
        (changed(0, |it| it[0] = b'w'), 0, json!("hello"), "no stream begins here"),
        (changed(5, |it| it[0] = 0x63), begin(5), json!("message 99"), "knows no message 99"),
        (changed(5, |it| it[2] = 1), begin(5), json!("pages"), "flags are 0x1"),
        (changed(5, long), begin(5), json!("pages"), "more than the 4194320"),
        (changed(1, long), begin(1), json!("message 1"), "no description has come within"),
        (changed(3, |it| it[8] = b'['), begin(3), json!("description"), "is not JSON"),
        (changed(5, |it| it[8] = 9), begin(5) + 8, json!("pages"), "names block 9"),
        (changed(5, |it| it[16] = 6), begin(5) + 8, json!("pages"), "3 pages from page 6 on are beyond the end"),
        (changed(5, |it| it[12] = 4), begin(5) + 24, json!("pages"), "too short for the contents of 4"),
        (changed(5, |it| it[12] = 2), begin(5) + 24 + 8192, json!("pages"), "4096 bytes are left after"),
        (changed(2, |it| it[16] = 200), begin(2) + 20, json!("ram"), "ends inside its field 'blocks.name'"),
        (changed(2, |it| it[8 + 8 + 4 + 3 + 8 + 7] = 1), begin(2) + 16, json!("ram"), "more RAM than any"),
        (
            changed(11, |it| it[8 + 24 + 3] = 0xff),
            begin(11) + 38,
            json!("state of toy 0"),
            "ends inside its field 'items'",
        ),
        (
            changed(12, |it| *it = forward(&Forward::Cancel("no\u{1b}".into()))),
            begin(12),
            json!("cancel"),
            "kept the guest: no",
        ),
        (changed(4, |it| *it = parts()[2].clone()), begin(4), json!("ram"), "RAM twice"),
    ] {
        let (code, report) = report(&bytes);
        let damage = &report["damage"][0];
        assert!(damage["why"].as_str().unwrap().contains(why), "{why}: {damage}");
        assert_eq!((code, &damage["offset"], &damage["message"]), (1, &json!(at), &message), "{why}: {damage}");
        let (_, text) = told(&bytes, &Options { json: false, ..options(None) });
        assert!(text.contains(&format!("damage at byte {at}, in ")) && !text.contains('\u{1b}'), "{text}");
    }
    // What is wrong in one state leaves the next one readable.
    let (_, report) = report(&changed(11, |it| it[8 + 24 + 3] = 0xff));
    assert_eq!(report["state"].as_array().unwrap().len(), 2);
    assert_eq!(report["damage"].as_array().unwrap().len(), 1);
}

fn refused(change: impl FnOnce(&mut Value)) -> String {
    let mut description: Value = serde_json::from_str(&describe(&toy())).unwrap();
    change(&mut description);
    Grammar::parse(description.to_string().as_bytes()).unwrap_err().to_string()
}

#[test]
fn a_description_that_makes_no_sense_is_refused_by_what_is_wrong_in_it() {
    assert_eq!(Grammar::parse(b"{").unwrap_err(), GrammarError::NotJson);
    assert_eq!(Grammar::parse(b"[]").unwrap_err(), GrammarError::NotJson);
    assert!(refused(|it| it["page-size"] = json!(0)).contains("page-size"));
    assert!(refused(|it| it["messages"]["99999"] = it["messages"]["1"].clone()).contains("message '99999'"));
    for kind in [
        json!("u128"),
        json!("later"),
        json!("bytes:-1"),
        json!([["a"]]),
        json!({"list": "u32", "of": "bytes:0"}),
        json!({"list": "u32", "of": []}),
        json!({"if": "a", "then": "u8"}),
        (0..50).fold(json!("u8"), |inner, _| json!({"list": "u32", "of": inner})),
    ] {
        assert!(refused(|it| it["types"]["odd"] = kind.clone()).contains("type 'odd'"), "{kind}");
    }
}

#[test]
fn a_grammar_that_goes_on_for_ever_comes_to_an_end() {
    let mut description: Value = serde_json::from_str(&describe(&[])).unwrap();
    description["types"]["t0"] = json!([]);
    for level in 1..31 {
        let below = format!("t{}", level - 1);
        description["types"][format!("t{level}")] = json!([["a", below], ["b", below]]);
    }
    description["state"] = json!([{"name": "toy", "version": 1, "fields": [["all", "t30"]]}]);
    let mut parts = parts();
    parts[3] = forward(&Forward::Description(description.to_string()));
    let (_, report) = report(&parts.concat());
    assert!(report["damage"][0]["why"].as_str().unwrap().contains("more values"), "{}", report["damage"]);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), hello: bool) {
        let bytes = if hello { [&parts()[0][..], &bytes].concat() } else { bytes };
        prop_assert_eq!(report(&bytes).0, 1);
    }

    #[test]
    fn a_stream_with_wrong_bytes_never_panics(
        wrong in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = parts().concat();
        for (at, byte) in wrong {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        for dump in [None, Some(Dump::State), Some(Dump::Ram), Some(Dump::Desc)] {
            for json in [false, true] {
                let (_, text) = told(&bytes, &Options { json, ..options(dump) });
                prop_assert!(!json || serde_json::from_str::<Value>(&text).is_ok());
            }
        }
    }
}
