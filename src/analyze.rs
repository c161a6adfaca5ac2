//! `whimbrel analyze`: a recorded migration taken apart, by what the stream says of itself.
//! `scripts/analyze_migration.py` does the same for hosts without Whimbrel, and a test compares the
//! two.
//!
//! | file | what is in it |
//! |---|---|
//! | `grammar` | the description, understood |
//! | `decode` | bytes into values, by the grammar |
//! | `input` | the file, read once |
//! | `walk` | from message to message |
//! | `pages` | blocks, runs, which pages came |
//! | `report`, `text` | what was found, as JSON and for people |
//! | `extract` | RAM and states as files |

mod decode;
mod extract;
mod grammar;
mod input;
mod pages;
mod report;
mod text;
mod walk;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::stdio::{Answer, OutputError};
use extract::Extract;
use input::Input;
use walk::{Said, Walk};

/// What to take apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The file; `-` is standard input.
    pub file: PathBuf,
    /// Where in it the stream begins, in bytes.
    pub offset: u64,
    /// What to show; `None` for the summary.
    pub dump: Option<Dump>,
    /// As JSON.
    pub json: bool,
    /// A directory for RAM and states.
    pub extract: Option<PathBuf>,
}

/// What to show instead of the summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Dump {
    /// Saved states, field by field
    State,
    /// What the stream says of its own format
    Desc,
    /// Each run of pages, in the order of the stream
    Ram,
}

/// Why nothing, or not all of it, can be shown.
#[derive(Debug, thiserror::Error)]
pub enum AnalyzeError {
    /// The file.
    #[error("'{file}' cannot be read")]
    Open {
        /// Which.
        file: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The directory.
    #[error("nothing can be extracted to '{directory}'")]
    Directory {
        /// Which.
        directory: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// In the midst of it.
    #[error("reading or extracting failed")]
    Io(#[from] io::Error),
    /// Standard output.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Takes the file apart and shows it on standard output; the exit code: 0 if the stream is whole.
pub fn analyze(options: &Options) -> Result<u8, AnalyzeError> {
    // The exit code tells of the whole stream, however much of the answer was read.
    let mut answer = Answer::to(BufWriter::new(io::stdout().lock()));
    let code = show(options, &mut answer)?;
    answer.finish()?;
    Ok(code)
}

fn show(options: &Options, out: &mut dyn Write) -> Result<u8, AnalyzeError> {
    let input = Input::open(&options.file, options.offset)
        .map_err(|source| AnalyzeError::Open { file: options.file.clone(), source })?;
    let extract = options.extract.as_ref().map(|directory| {
        Extract::new(directory).map_err(|source| AnalyzeError::Directory { directory: directory.clone(), source })
    });
    Ok(answer(input, extract.transpose()?, options, out)?)
}

fn answer(input: Input, extract: Option<Extract>, options: &Options, out: &mut dyn Write) -> io::Result<u8> {
    if options.dump == Some(Dump::Ram) {
        return ram(input, extract, options.json, out);
    }
    let mut walk = Walk::new(input, extract, None);
    walk.run()?;
    let report = &walk.notes.report;
    let damage = report.damage_json();
    match (options.dump, options.json) {
        (Some(Dump::State), true) => pretty(out, &json!({"state": report.state, "damage": damage}))?,
        (Some(Dump::State), false) => {
            out.write_all((text::states(&report.state) + &text::damage(&damage)).as_bytes())?
        }
        (Some(Dump::Desc), _) => pretty(out, &report.description)?,
        (_, true) => pretty(out, &report.json(walk.grammar.as_ref()))?,
        (_, false) => out.write_all(text::summary(&report.json(walk.grammar.as_ref())).as_bytes())?,
    }
    Ok(u8::from(!report.damage.is_empty()))
}

/// Each run as it is read: there may be millions.
fn ram(input: Input, extract: Option<Extract>, json: bool, out: &mut dyn Write) -> io::Result<u8> {
    if json {
        out.write_all(b"{\"ram\": [")?;
    }
    let mut first = true;
    let mut watcher = |said: &Said<'_>| match json {
        true => said.runs.iter().try_for_each(|run| {
            let block = said.blocks.get(run.block).map(|block| &block.name);
            let one = json!({
                "offset": said.offset, "kind": said.kind, "block": block, "first": run.first, "count": run.count,
            });
            write!(out, "{}\n  {one}", if std::mem::replace(&mut first, false) { "" } else { "," })
        }),
        false => out.write_all(text::runs(said).as_bytes()),
    };
    let mut walk = Walk::new(input, extract, Some(&mut watcher));
    walk.run()?;
    let damage = walk.notes.report.damage_json();
    drop(walk);
    match json {
        true => writeln!(out, "\n], \"damage\": {damage}}}")?,
        false => out.write_all(text::damage(&damage).as_bytes())?,
    }
    Ok(u8::from(damage.as_array().is_some_and(|damage| !damage.is_empty())))
}

fn pretty(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// The fields of a saved state, whose layout is given as JSON: the names that lead to each, and how
/// many bytes it has.
#[cfg(test)]
pub fn leaves(layout: &str, bytes: &[u8]) -> Vec<(Vec<String>, usize)> {
    let kind = grammar::Kind::of_layout(layout).unwrap_or_else(|| panic!("not a layout: {layout}"));
    decode::leaves(&kind, bytes)
}

#[cfg(test)]
mod tests;
