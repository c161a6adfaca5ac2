//! `docs/protocol.md` and the code say the same.
#![allow(clippy::unwrap_used, clippy::panic)]

use whimbrel_postcopy::wire::{DecodeError, Header, VERSION_MAX, tag};

fn document() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md")).unwrap()
}

/// The longest body that the decoder lets through.
fn longest(number: u16) -> u32 {
    let mut bytes = [0xff; Header::LEN];
    bytes[..2].copy_from_slice(&number.to_le_bytes());
    bytes[2..4].fill(0);
    match Header::decode(bytes) {
        Err(DecodeError::TooLong { most, .. }) => most,
        other => panic!("message {number}: {other:?}"),
    }
}

#[test]
fn the_table_of_messages_is_the_code_s() {
    let document = document();
    let written: Vec<(u16, &str, u32)> = document
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, number, name, direction, longest, _, _] = cells[..] else { return None };
            let messages = direction.starts_with("forward") || direction.starts_with("back");
            messages.then(|| (number.parse().unwrap(), name, longest.parse().unwrap()))
        })
        .collect();
    let real: Vec<(u16, &str, u32)> =
        tag::NAMES.iter().map(|&(number, name)| (number, name, longest(number))).collect();
    assert_eq!(written, real);
}

#[test]
fn the_version_is_the_code_s_and_has_its_line_in_the_history() {
    let document = document();
    assert!(document.starts_with(&format!("# The migration protocol, version {VERSION_MAX}\n")));
    let history = &document[document.find("## Versions").unwrap()..];
    assert!(history.lines().any(|line| line.starts_with(&format!("| {VERSION_MAX} |"))));
}
