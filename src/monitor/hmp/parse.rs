//! A line of text to a command and its arguments.

use crate::monitor::args::{Args, Kind, Param};
use crate::monitor::command::{Face, HmpHandler};
use crate::monitor::table::{find_hmp, hint_hmp};

/// A line that is no command.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// No such command.
    #[error("unknown command: '{0}'{hint}", hint = hint_hmp(.0))]
    Unknown(String),
    /// A command with the wrong arguments.
    #[error("{command}: {what}\nTry \"help {command}\" for more information")]
    Usage {
        /// Its name.
        command: &'static str,
        /// What is wrong.
        what: String,
    },
    /// A quoted word without an end.
    #[error("a quoted word lacks its closing '\"'")]
    OpenQuote,
}

/// Understands a line; `None` for an empty one.
pub fn parse(line: &str) -> Result<Option<(&'static Face<HmpHandler>, Args)>, LineError> {
    let words = words(line)?;
    let Some(first) = words.first() else {
        return Ok(None);
    };
    let (name, rest) = match (first.as_str(), words.get(1)) {
        ("info", Some(second)) => (format!("info {second}"), &words[2..]),
        // As QEMU does, alone it lists its subcommands.
        ("info", None) => ("help".to_owned(), &words[..]),
        _ => (first.clone(), &words[1..]),
    };
    let (_, face) = find_hmp(&name).ok_or(LineError::Unknown(name))?;
    Ok(Some((face, arguments(face, rest)?)))
}

/// Matches the words after the name with what the command takes: first its switches, then the rest
/// in order.
fn arguments(face: &Face<HmpHandler>, words: &[String]) -> Result<Args, LineError> {
    let usage = |what: String| LineError::Usage { command: face.name, what };
    let mut args = Args::default();
    let mut rest = words.iter();
    let is_switch = |param: &&Param| matches!(param.kind, Kind::Switch(_));
    if face.params.iter().any(|param| is_switch(&param)) {
        while let Some(letters) = rest.as_slice().first().and_then(|it| it.strip_prefix('-')) {
            rest.next();
            for letter in letters.chars() {
                let found = face.params.iter().find(|it| it.kind == Kind::Switch(letter));
                let param = found.ok_or_else(|| usage(format!("unsupported option -{letter}")))?;
                args.insert(param.name, true);
            }
        }
    }
    for param in face.params.iter().filter(|param| !is_switch(param)) {
        let word = match param.kind {
            Kind::Line => {
                let line: Vec<&str> = rest.by_ref().map(String::as_str).collect();
                (!line.is_empty()).then(|| line.join(" "))
            }
            _ => rest.next().cloned(),
        };
        match (param.kind, word.as_deref()) {
            (Kind::Bool, Some("on")) => args.insert(param.name, true),
            (Kind::Bool, Some("off")) => args.insert(param.name, false),
            (Kind::Bool, Some(_)) => return Err(usage(format!("'{}' expects 'on' or 'off'", param.name))),
            (_, Some(word)) => args.insert(param.name, word),
            (_, None) if param.optional => {}
            (_, None) => return Err(usage(format!("'{}' is missing", param.name))),
        }
    }
    match rest.next() {
        Some(_) => Err(usage("extraneous characters at the end of line".to_owned())),
        None => Ok(args),
    }
}

/// Splits at white space; a word may stand in double quotes, with `\"` and `\\` inside.
fn words(line: &str) -> Result<Vec<String>, LineError> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_word(quoted)?,
            None => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        words.push(word);
        rest = after.trim_start();
    }
    Ok(words)
}

/// The word up to the closing quote, and what stands after it.
fn quoted_word(text: &str) -> Result<(String, &str), LineError> {
    let mut word = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((word, &text[at + 1..])),
            '\\' => word.push(chars.next().ok_or(LineError::OpenQuote)?.1),
            _ => word.push(c),
        }
    }
    Err(LineError::OpenQuote)
}
