//! JSON as QEMU reads it: a string may stand in single quotes, and `\'` is one inside of either
//! kind.

use std::borrow::Cow;

/// The same in JSON's own words. What is wrong with it stays wrong.
pub fn standard(bytes: &[u8]) -> Cow<'_, [u8]> {
    if !bytes.contains(&b'\'') {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len() + 8);
    let mut open = None;
    let mut bytes = bytes.iter().copied();
    while let Some(byte) = bytes.next() {
        match (byte, open) {
            (b'"' | b'\'', None) => {
                open = Some(byte);
                out.push(b'"');
            }
            (b'\\', Some(_)) => match bytes.next() {
                Some(b'\'') => out.push(b'\''),
                other => out.extend([b'\\'].into_iter().chain(other)),
            },
            (_, Some(quote)) if byte == quote => {
                open = None;
                out.push(b'"');
            }
            (b'"', Some(_)) => out.extend(b"\\\""),
            _ => out.push(byte),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn either_quote_opens_a_string_and_the_other_one_is_a_letter_in_it() {
        for (text, means) in [
            (r"{'execute': 'stop'}", json!({"execute": "stop"})),
            (r#"{'a': "it's", "b": 'say "no"'}"#, json!({"a": "it's", "b": "say \"no\""})),
            (r#"['\'', "\'", '\\', '\"', "\"", '\u0041\n']"#, json!(["'", "'", "\\", "\"", "\"", "A\n"])),
            (r"''", json!("")),
        ] {
            let value: Value = serde_json::from_slice(&standard(text.as_bytes())).unwrap();
            assert_eq!(value, means, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_stays_wrong() {
        for text in [r"'a", r#"'a""#, r"'\x'", r"'\", r"{'a' 'b'}", r"'"] {
            assert!(serde_json::from_slice::<Value>(&standard(text.as_bytes())).is_err(), "{text}");
        }
        assert_eq!(standard(br#"{"a": "b"}"#), Cow::<[u8]>::Borrowed(br#"{"a": "b"}"#));
    }
}
