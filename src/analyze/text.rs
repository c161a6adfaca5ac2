//! A report as people read it. Made of the JSON, so that nothing is in one and not in the other.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::walk::Said;

/// How much of a long string is shown.
const LONG: usize = 64;

/// The summary.
pub fn summary(report: &Value) -> String {
    let mut out = String::new();
    let number = |value: &Value, key: &str| value[key].as_u64().unwrap_or_default();
    let (offset, end) = (number(report, "offset"), number(report, "end"));
    let whole = report["damage"].as_array().is_some_and(Vec::is_empty);
    line(
        &mut out,
        0,
        &format!("stream: {} bytes from byte {offset} on, {}", end - offset, if whole { "whole" } else { "not whole" }),
    );
    if let Some(behind) = report["behind"].as_u64().filter(|behind| *behind > 0) {
        line(&mut out, 0, &format!("{behind} bytes behind it are not its own"));
    }
    line(&mut out, 0, "RAM blocks:");
    for block in items(report, "blocks") {
        let (pages, come) = (number(block, "pages"), number(block, "come"));
        let (name, address) = (plain(&block["name"]), number(block, "guest-address"));
        line(
            &mut out,
            2,
            &format!("{name}: {pages} pages from {address:#x} on, of which {come} come{}", kinds(&block["sent"])),
        );
    }
    line(&mut out, 0, "messages:");
    for message in items(report, "messages") {
        let name = match &message["name"] {
            Value::String(_) => plain(&message["name"]),
            _ => format!("message {}", number(message, "number")),
        };
        line(&mut out, 2, &format!("{name}: {}", tally(message)));
    }
    line(&mut out, 0, "stages:");
    for stage in items(report, "stages") {
        line(&mut out, 2, &format!("{}: {}{}", plain(&stage["stage"]), tally(stage), kinds(&stage["pages"])));
    }
    line(&mut out, 0, "state:");
    for state in items(report, "state") {
        line(&mut out, 2, &title(state));
    }
    out + &damage(&report["damage"])
}

/// What is wrong, a line each.
pub fn damage(damage: &Value) -> String {
    let mut out = String::new();
    for one in damage.as_array().into_iter().flatten() {
        let place = match one["message"].is_null() {
            true => String::new(),
            false => format!(", in '{}' that begins at byte {}", plain(&one["message"]), one["begins"]),
        };
        line(&mut out, 0, &format!("damage at byte {}{place}: {}", one["offset"], plain(&one["why"])));
    }
    out
}

/// Saved states with their fields.
pub fn states(states: &[Value]) -> String {
    let mut out = String::new();
    for state in states {
        line(&mut out, 0, &format!("{}:", title(state)));
        match &state["fields"] {
            Value::Object(fields) => object(&mut out, 2, fields),
            other => line(&mut out, 2, &plain(other)),
        }
    }
    out
}

/// The runs of one message, a line each.
pub fn runs(said: &Said<'_>) -> String {
    let mut out = String::new();
    for run in said.runs {
        let block = said.blocks.get(run.block).map_or("", |block| block.name.as_str());
        let (first, count) = (run.first, run.count);
        line(&mut out, 0, &format!("{} {} {} {first} {count}", said.offset, clean(said.kind), clean(block)));
    }
    out
}

fn line(out: &mut String, indent: usize, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{:indent$}{text}", "");
}

fn items<'a>(report: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    report[key].as_array().into_iter().flatten()
}

fn tally(value: &Value) -> String {
    let pages = match value["pages"].as_u64() {
        Some(pages) if pages > 0 => format!(", {pages} pages"),
        _ => String::new(),
    };
    format!("{} messages, {} bytes{pages}", value["messages"], value["bytes"])
}

/// Pages by kind.
fn kinds(value: &Value) -> String {
    let kinds = value.as_object().into_iter().flatten();
    kinds.map(|(kind, count)| format!(", {count} by '{}'", clean(kind))).collect()
}

fn title(state: &Value) -> String {
    format!(
        "{} {}, version {}, {} bytes at byte {}{}",
        plain(&state["name"]),
        state["instance"],
        state["version"],
        state["bytes"],
        state["offset"],
        if state["described"] == true { "" } else { ", not described" }
    )
}

fn object(out: &mut String, indent: usize, fields: &Map<String, Value>) {
    for (name, value) in fields {
        field(out, indent, &clean(name), value);
    }
}

fn field(out: &mut String, indent: usize, name: &str, value: &Value) {
    match value {
        Value::Object(fields) => {
            line(out, indent, &format!("{name}:"));
            object(out, indent + 2, fields);
        }
        Value::Array(items) if items.is_empty() => line(out, indent, &format!("{name}: none")),
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                field(out, indent, &format!("{name} {at}"), item);
            }
        }
        other => line(out, indent, &format!("{name}: {}", plain(other))),
    }
}

/// A single value. Large numbers in both styles, long strings cut.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let text = clean(text);
            match text.char_indices().nth(LONG) {
                Some((cut, _)) if text.chars().count() > 2 * LONG => {
                    format!("{}... ({} characters)", &text[..cut], text.chars().count())
                }
                _ => text,
            }
        }
        Value::Number(number) => match number.as_u64() {
            Some(large) if large > 9 => format!("{large} ({large:#x})"),
            _ => number.to_string(),
        },
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// What a terminal may be shown of what somebody else wrote.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
