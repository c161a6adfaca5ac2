use proptest::prelude::*;

use super::*;

fn all(splitter: &mut Splitter, mut input: &[u8]) -> Vec<Piece> {
    std::iter::from_fn(|| splitter.next(&mut input)).collect()
}

fn values(input: &str) -> Vec<String> {
    all(&mut Splitter::new(), input.as_bytes())
        .into_iter()
        .map(|piece| match piece {
            Piece::Value(bytes) => String::from_utf8(bytes).unwrap(),
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn values_need_no_lines_between_them() {
    assert_eq!(
        values("{\"a\":[1,\"}\"]}{} [\n]\"s\\\"\"42 true "),
        ["{\"a\":[1,\"}\"]}", "{}", "[\n]", "\"s\\\"\"", "42", "true"]
    );
    assert_eq!(values(r#"{'a':'}"\''}{"a":"'}"}7'x'"#), [r#"{'a':'}"\''}"#, r#"{"a":"'}"}"#, "7", "'x'"]);
}

#[test]
fn a_stray_bracket_or_open_quote_is_dropped() {
    assert_eq!(values("}{}"), ["Stray(\"}\")".to_owned(), "{}".to_owned()]);
    assert_eq!(values("{\"a\n{}"), ["Stray(\"{\\\"a\")".to_owned(), "{}".to_owned()]);
}

#[test]
fn limits_hold_exactly() {
    let deep = |depth: usize| all(&mut Splitter::new(), &vec![b'['; depth]);
    assert_eq!(deep(MAX_DEPTH), []);
    assert!(matches!(deep(MAX_DEPTH + 1)[..], [Piece::Excess(_), ..]));

    let long = |length: usize| {
        let text = format!("\"{}\"", "x".repeat(length - 2));
        all(&mut Splitter::new(), text.as_bytes())
    };
    assert!(matches!(&long(MAX_VALUE)[..], [Piece::Value(_)]));
    assert!(matches!(long(MAX_VALUE + 1)[..], [Piece::Excess(_)]));
}

proptest! {
    #[test]
    fn cuts_do_not_matter(
        input in prop::collection::vec(prop::sample::select(br#"{}[]"':,\ 1t"#.to_vec()), 0..60),
        cut in 0usize..60,
    ) {
        let whole = all(&mut Splitter::new(), &input);
        let (first, second) = input.split_at(cut.min(input.len()));
        let mut splitter = Splitter::new();
        let mut pieces = all(&mut splitter, first);
        pieces.extend(all(&mut splitter, second));
        prop_assert_eq!(pieces, whole);
    }
}
