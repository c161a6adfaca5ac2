//! [`Report`]: what a stream was found to hold, as JSON. The text that people read is made of that.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::grammar::Grammar;
use super::pages::Block;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where in the file.
    pub at: u64,
    /// In which message, and where that begins.
    pub message: Option<(String, u64)>,
    /// One sentence.
    pub why: String,
}

/// How many messages of one kind, or of one stage.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    messages: u64,
    bytes: u64,
}

/// A part of the stream between two marks of passes.
#[derive(Debug)]
struct Stage {
    name: String,
    tally: Tally,
    pages: Vec<(String, u64)>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Report {
    /// Where the stream begins in the file.
    pub offset: u64,
    /// What the source says first.
    pub hello: Value,
    /// What it says of itself.
    pub description: Value,
    /// Its RAM.
    pub blocks: Vec<Block>,
    /// The saved states, decoded.
    pub state: Vec<Value>,
    /// What is wrong, in the order in which it was found.
    pub damage: Vec<Damage>,
    /// Where reading ended.
    pub end: u64,
    /// How many bytes stand behind a whole stream.
    pub behind: Option<u64>,
    messages: BTreeMap<u16, (Tally, u64)>,
    stages: Vec<Stage>,
}

impl Report {
    /// Of a stream that begins at `offset`.
    pub fn new(offset: u64) -> Self {
        Self {
            offset,
            hello: Value::Null,
            description: Value::Null,
            blocks: Vec::new(),
            state: Vec::new(),
            damage: Vec::new(),
            end: offset,
            behind: None,
            messages: BTreeMap::new(),
            stages: Vec::new(),
        }
    }

    /// What follows is of this stage.
    pub fn stage(&mut self, name: String) {
        if self.stages.last().is_none_or(|stage| stage.name != name) {
            self.stages.push(Stage { name, tally: Tally::default(), pages: Vec::new() });
        }
    }

    /// A whole message with its header, and how many pages it was about.
    pub fn message(&mut self, number: u16, bytes: u64, kind: &str, pages: u64) {
        let (tally, all) = self.messages.entry(number).or_default();
        (tally.messages, tally.bytes, *all) = (tally.messages + 1, tally.bytes + bytes, *all + pages);
        let Some(stage) = self.stages.last_mut() else { return };
        (stage.tally.messages, stage.tally.bytes) = (stage.tally.messages + 1, stage.tally.bytes + bytes);
        if pages > 0 {
            match stage.pages.iter_mut().find(|(name, _)| name == kind) {
                Some((_, count)) => *count += pages,
                None => stage.pages.push((kind.to_owned(), pages)),
            }
        }
    }

    /// The whole of it.
    pub fn json(&self, grammar: Option<&Grammar>) -> Value {
        let blocks: Vec<Value> = self.blocks.iter().map(block).collect();
        let messages: Vec<Value> = self
            .messages
            .iter()
            .map(|(number, (tally, pages))| {
                let name = grammar.and_then(|grammar| grammar.messages.get(number)).map(|it| it.name.as_str());
                json!({"number": number, "name": name, "messages": tally.messages, "bytes": tally.bytes, "pages": pages})
            })
            .collect();
        let stages: Vec<Value> = self
            .stages
            .iter()
            .map(|Stage { name, tally, pages }| {
                json!({"stage": name, "messages": tally.messages, "bytes": tally.bytes, "pages": counts(pages)})
            })
            .collect();
        let states: Vec<Value> = self.state.iter().map(brief).collect();
        json!({
            "offset": self.offset,
            "end": self.end,
            "behind": self.behind,
            "hello": self.hello,
            "page-size": grammar.map(|grammar| grammar.page_size),
            "blocks": blocks,
            "messages": messages,
            "stages": stages,
            "state": states,
            "damage": self.damage_json(),
        })
    }

    /// What is wrong.
    pub fn damage_json(&self) -> Value {
        let one = |Damage { at, message, why }: &Damage| {
            let (name, begins) = message.as_ref().map(|(name, begins)| (name.as_str(), *begins)).unzip();
            json!({"offset": at, "message": name, "begins": begins, "why": why})
        };
        self.damage.iter().map(one).collect()
    }
}

fn counts(pages: &[(String, u64)]) -> Value {
    pages.iter().map(|(name, count)| (name.clone(), (*count).into())).collect::<Map<_, _>>().into()
}

fn block(block: &Block) -> Value {
    json!({
        "name": block.name,
        "guest-address": block.guest_address,
        "pages": block.pages,
        "come": block.covered(),
        "sent": counts(&block.sent),
    })
}

/// A saved state without its fields.
fn brief(state: &Value) -> Value {
    let fields = state.as_object().into_iter().flatten().filter(|(key, _)| *key != "fields");
    fields.map(|(key, value)| (key.clone(), value.clone())).collect::<Map<_, _>>().into()
}
