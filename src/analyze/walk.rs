//! [`Walk`]: from message to message, to the end of the stream or to where it is damaged.
//!
//! All that is known of the format before the description has come: how long the hello is, what a
//! message's header looks like, and which number the description has. Messages before it are kept
//! until then.

use std::io;
use std::ops::Range;

use serde_json::{Map, Value, json};

use super::decode::{Memory, Source, Stop, Witness, decode, decode_state};
use super::extract::Extract;
use super::grammar::{Grammar, Message};
use super::input::{Body, Input};
use super::pages::{Block, Run, number};
use super::report::{Damage, Report};

const HELLO: usize = 40;
const MAGIC: &[u8] = b"WHIMBREL";
const HEADER: usize = 8;
const DESCRIPTION: u16 = 3;
/// How many bytes are kept before the description has come.
const MOST_EARLY: u64 = 64 << 20;

/// What a message says of pages, for whoever wants to see each.
pub struct Said<'a> {
    /// Where the message begins.
    pub offset: u64,
    /// Its name.
    pub kind: &'a str,
    /// The blocks' names.
    pub blocks: &'a [Block],
    /// The pages.
    pub runs: &'a [Run],
}

/// Whoever sees each run of pages.
pub type Watcher<'a> = &'a mut dyn FnMut(&Said<'_>) -> io::Result<()>;

/// A message that came before the description.
struct Early {
    tag: u16,
    begins: u64,
    body: Vec<u8>,
}

/// What is noted of a stream, and by whom.
pub struct Notes<'a> {
    /// What was found.
    pub report: Report,
    /// Where RAM and states go.
    pub extract: Option<Extract>,
    /// Who sees each run.
    pub watcher: Option<Watcher<'a>>,
}

/// See the module's text.
pub struct Walk<'a> {
    input: Input,
    /// What was found.
    pub notes: Notes<'a>,
    /// What the stream says of itself, once it has.
    pub grammar: Option<Grammar>,
    early: Vec<Early>,
    kept: u64,
}

/// Which message is being read.
type Place = Option<(String, u64)>;

impl<'a> Walk<'a> {
    /// Of the stream that begins where `input` stands.
    pub fn new(input: Input, extract: Option<Extract>, watcher: Option<Watcher<'a>>) -> Self {
        let notes = Notes { report: Report::new(input.at()), extract, watcher };
        Self { input, notes, grammar: None, early: Vec::new(), kept: 0 }
    }

    /// Reads all of it. What is wrong goes into the report; the error is one of this host's.
    pub fn run(&mut self) -> io::Result<()> {
        let mut place = None;
        let result = self.stream(&mut place);
        let report = &mut self.notes.report;
        match result {
            Ok(()) => report.behind = self.input.behind(),
            Err(Stop::Damage { at, why }) => report.damage.push(Damage { at, message: place, why }),
            Err(Stop::Io(error)) => return Err(error),
        }
        if self.grammar.is_none() {
            for early in &self.early {
                report.message(early.tag, (HEADER + early.body.len()) as u64, "", 0);
            }
        }
        report.end = self.input.at();
        Ok(())
    }

    fn stream(&mut self, place: &mut Place) -> Result<(), Stop> {
        *place = Some(("hello".to_owned(), self.input.at()));
        self.hello()?;
        self.notes.report.stage("introduction".to_owned());
        loop {
            let begins = self.input.at();
            *place = None;
            let mut header = [0; HEADER];
            match self.input.read(&mut header)? {
                HEADER => {}
                0 => {
                    return Err(damage(
                        begins,
                        "the stream ends before its end: the file was cut between two messages",
                    ));
                }
                have => {
                    *place = Some(("header".to_owned(), begins));
                    return Err(damage(
                        self.input.at(),
                        format!("the file ends {} bytes before it does", HEADER - have),
                    ));
                }
            }
            let [t0, t1, f0, f1, l0, l1, l2, l3] = header;
            let (tag, flags) = (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([f0, f1]));
            let length = u64::from(u32::from_le_bytes([l0, l1, l2, l3]));
            *place = Some((self.name(tag), begins));
            if flags != 0 {
                return Err(damage(begins, format!("its flags are {flags:#x}; the format has none")));
            }
            let ended = match &self.grammar {
                Some(grammar) => {
                    let message = known(grammar, tag, begins, length)?;
                    let source = &mut Body::new(&mut self.input, length);
                    self.notes.message(grammar, message, (tag, begins), source)?
                }
                None => self.before_description(tag, begins, length, place)?,
            };
            if ended {
                return Ok(());
            }
        }
    }

    fn name(&self, tag: u16) -> String {
        match self.grammar.as_ref().and_then(|grammar| grammar.messages.get(&tag)) {
            Some(message) => message.name.clone(),
            None if tag == DESCRIPTION => "description".to_owned(),
            None => format!("message {tag}"),
        }
    }

    /// Length and layout of a hello never change.
    fn hello(&mut self) -> Result<(), Stop> {
        let begins = self.input.at();
        let mut hello = [0; HELLO];
        let have = self.input.read(&mut hello)?;
        let said = &hello[..have];
        if !said.starts_with(MAGIC) {
            return Err(damage(begins, "no stream begins here: the first bytes are not WHIMBREL"));
        }
        if have < HELLO {
            return Err(damage(self.input.at(), format!("the file ends {} bytes before it does", HELLO - have)));
        }
        let word = |at: usize| u16::from_le_bytes([hello[at], hello[at + 1]]);
        let features = hello[32..].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        // The token in between is a secret of the migration.
        self.notes.report.hello = json!({
            "versions": [word(8), word(10)], "kind": hello[12], "recover": hello[13], "features": features,
        });
        Ok(())
    }

    /// Keeps the message; with the description understands those that were kept.
    fn before_description(&mut self, tag: u16, begins: u64, length: u64, place: &mut Place) -> Result<bool, Stop> {
        self.kept += length;
        if self.kept > MOST_EARLY {
            return Err(damage(begins, format!("no description has come within {MOST_EARLY} bytes")));
        }
        let mut body = Vec::new();
        let mut source = Body::new(&mut self.input, length);
        // No more room than there are bytes.
        while source.left() > 0 {
            let (have, count) = (body.len(), source.left().min(1 << 20) as usize);
            body.resize(have + count, 0);
            source.read(&mut body[have..])?;
        }
        if tag != DESCRIPTION {
            self.early.push(Early { tag, begins, body });
            return Ok(false);
        }
        let (grammar, description) = Grammar::parse(&body).map_err(|error| damage(begins, error.to_string()))?;
        self.notes.report.description = description;
        let grammar = self.grammar.insert(grammar);
        let early = std::mem::take(&mut self.early).into_iter().chain([Early { tag, begins, body }]);
        let mut ended = false;
        for Early { tag, begins, body } in early {
            let name = grammar.messages.get(&tag).map_or_else(|| format!("message {tag}"), |it| it.name.clone());
            *place = Some((name, begins));
            let message = known(grammar, tag, begins, body.len() as u64)?;
            let source = &mut Memory::new(&body, begins + HEADER as u64);
            ended |= self.notes.message(grammar, message, (tag, begins), source)?;
        }
        Ok(ended)
    }
}

impl Notes<'_> {
    /// Reads a message's body; whether it was the stream's last.
    fn message(
        &mut self,
        grammar: &Grammar,
        message: &Message,
        (tag, begins): (u16, u64),
        source: &mut dyn Source,
    ) -> Result<bool, Stop> {
        let length = source.left() + HEADER as u64;
        let Some(body) = &message.body else {
            source.skip(source.left())?;
            self.report.message(tag, length, &message.name, 0);
            return Ok(false);
        };
        let means = message.means.as_deref().unwrap_or_default();
        let encoding = means.strip_prefix("pages:");
        if means == "blocks" && !self.report.blocks.is_empty() {
            return Err(damage(begins, "the stream tells of its RAM twice"));
        }
        let mut scribe = Scribe {
            grammar,
            report: &mut self.report,
            extract: self.extract.as_mut(),
            means,
            encoding,
            begins,
            runs: Vec::new(),
        };
        let value = decode(body, source, &mut scribe)?;
        let runs = scribe.runs;
        let pages = runs.iter().map(|run| run.count).sum();
        if means == "pass-begin" {
            self.report.stage(format!("pass {}", pass(&value)));
        }
        self.report.message(tag, length, &message.name, pages);
        for run in &runs {
            if let Some(block) = self.report.blocks.get_mut(run.block) {
                block.count(&message.name, run.count);
                block.mark(run, encoding != Some("stale"));
            }
        }
        if let Some(watcher) = self.watcher.as_mut().filter(|_| !runs.is_empty()) {
            watcher(&Said { offset: begins, kind: &message.name, blocks: &self.report.blocks, runs: &runs })?;
        }
        match means {
            "pass-end" => self.report.stage(format!("after pass {}", pass(&value))),
            "end" => return Ok(true),
            "mapped" => return Err(damage(begins, MAPPED)),
            "cancelled" => {
                let why = value.get("why").and_then(Value::as_str).unwrap_or_default();
                return Err(damage(begins, format!("the source kept the guest: {why}")));
            }
            _ => {}
        }
        Ok(false)
    }
}

/// What there is to say of the other kind of file.
const MAPPED: &str = "the file has mapped RAM: its pages and states stand elsewhere in it; \
                      run the guest from it, and migrate that to a stream, to take it apart";

fn pass(value: &Value) -> u64 {
    value.get("pass").and_then(Value::as_u64).unwrap_or_default()
}

fn damage(at: u64, why: impl Into<String>) -> Stop {
    Stop::Damage { at, why: why.into() }
}

/// The message of this number, if it may have so long a body.
fn known(grammar: &Grammar, tag: u16, begins: u64, length: u64) -> Result<&Message, Stop> {
    let Some(message) = grammar.messages.get(&tag) else {
        return Err(damage(begins, format!("the description knows no message {tag}")));
    };
    match length > message.longest {
        true => Err(damage(begins, format!("it claims {length} bytes, more than the {} it may have", message.longest))),
        false => Ok(message),
    }
}

/// Takes note of what stands in one message.
struct Scribe<'w> {
    grammar: &'w Grammar,
    report: &'w mut Report,
    extract: Option<&'w mut Extract>,
    means: &'w str,
    encoding: Option<&'w str>,
    begins: u64,
    runs: Vec<Run>,
}

impl Witness for Scribe<'_> {
    fn named(&mut self, name: &str, value: &Map<String, Value>, at: Range<u64>) -> Result<(), Stop> {
        let wrong = |why| Stop::Damage { at: at.start, why };
        match name {
            "block" if self.means == "blocks" => {
                let block = Block::of(value, &self.report.blocks).map_err(wrong)?;
                if let Some(extract) = &mut self.extract {
                    extract.block(&block, self.grammar.page_size)?;
                }
                self.report.blocks.push(block);
            }
            "run" if self.encoding.is_some() => {
                let run = Run::of(value, &self.report.blocks).map_err(wrong)?;
                match self.encoding {
                    Some("zero") => self.zero(&run)?,
                    Some("raw" | "stale") | None => {}
                    Some(encoding) if self.extract.is_some() => {
                        return Err(wrong(format!("contents in the encoding '{encoding}' cannot be extracted")));
                    }
                    Some(_) => {}
                }
                self.runs.push(run);
            }
            "fragment" if self.encoding.is_some() => self.fragment(value).map_err(wrong)?,
            "section" if self.means == "state" => self.section(value, at)?,
            _ => {}
        }
        Ok(())
    }

    fn contents(&mut self, source: &mut dyn Source) -> Result<(), Stop> {
        let at = source.at();
        let Some(run) = self.runs.last().filter(|_| self.encoding.is_some()) else {
            return Err(damage(at, "it has contents of pages where none can be"));
        };
        let bytes = run.count.saturating_mul(self.grammar.page_size);
        if bytes > source.left() {
            return Err(damage(at, format!("it is too short for the contents of {} pages", run.count)));
        }
        match &mut self.extract {
            Some(extract) => extract.contents(run, self.grammar.page_size, source),
            None => source.skip(bytes),
        }
    }
}

impl Scribe<'_> {
    /// What came before with contents, and is zero now, must be so in the file.
    fn zero(&mut self, run: &Run) -> io::Result<()> {
        let (Some(extract), Some(block)) = (&mut self.extract, self.report.blocks.get(run.block)) else {
            return Ok(());
        };
        block.came(run).into_iter().try_for_each(|page| extract.zero(run.block, page, self.grammar.page_size))
    }

    /// Words of a bitmap: a run for each bit that is set.
    fn fragment(&mut self, value: &Map<String, Value>) -> Result<(), String> {
        let block = number(value, "block")?;
        let first = number(value, "first word")?;
        let words = value.get("bits").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for (at, word) in (0u64..).zip(words) {
            let word = word.as_u64().unwrap_or_default();
            for bit in (0..64).filter(|bit| word >> bit & 1 == 1) {
                let page = first.saturating_add(at).saturating_mul(64).saturating_add(bit);
                let run = json!({"block": block, "first": page, "count": 1});
                self.runs.push(Run::of(run.as_object().unwrap_or(value), &self.report.blocks)?);
            }
        }
        Ok(())
    }

    fn section(&mut self, value: &Map<String, Value>, at: Range<u64>) -> Result<(), Stop> {
        let wrong = |why| Stop::Damage { at: at.start, why };
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
        let (name, bytes) = (text("name"), unhex(text("bytes")));
        let (instance, version) = (number(value, "instance").map_err(wrong)?, number(value, "version").map_err(wrong)?);
        // Its bytes are the last of it.
        let begins = at.end - bytes.len() as u64;
        let fields = match decode_state(self.grammar, name, version, &bytes, begins) {
            Some(Ok(fields)) => fields,
            // The next one can be read all the same.
            Some(Err(Stop::Damage { at, why })) => {
                let message = Some((format!("state of {name} {instance}"), self.begins));
                self.report.damage.push(Damage { at, message, why });
                Value::Null
            }
            Some(Err(error)) => return Err(error),
            None => Value::Null,
        };
        if let Some(extract) = &mut self.extract {
            extract.state(name, instance, &bytes, &fields)?;
        }
        let described = self.grammar.state(name, version).is_some();
        let mut section = json!({
            "name": name, "instance": instance, "version": version, "bytes": bytes.len(), "offset": begins,
            "described": described, "fields": fields,
        });
        if !described && let Some(section) = section.as_object_mut() {
            section.insert("fields".to_owned(), text("bytes").into());
        }
        self.report.state.push(section);
        Ok(())
    }
}

/// What [`super::decode::hex`] wrote.
fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default() as u8;
    text.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
