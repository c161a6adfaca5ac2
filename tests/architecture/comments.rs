//! The comments of a source file, told from what only looks like one inside a text.

/// One line of a comment.
#[derive(Debug, PartialEq, Eq)]
pub struct Comment<'a> {
    pub line: usize,
    /// What stands behind the slashes, or the whole line within `/* ... */`.
    pub text: &'a str,
    /// How many columns its line has.
    pub columns: usize,
}

/// The comments of a file in Rust, line by line.
pub fn comments(source: &str) -> Vec<Comment<'_>> {
    let mut found = Vec::new();
    let mut inside = Inside::Code;
    for (at, line) in source.lines().enumerate() {
        let begin = match inside {
            Inside::Comment(_) => Some(0),
            _ => None,
        };
        let own = inside.read(line);
        if let Some(begin) = begin.or(own) {
            found.push(Comment { line: at + 1, text: &line[begin..], columns: line.chars().count() });
        }
    }
    found
}

/// What the reader is in at the end of a line.
enum Inside {
    Code,
    Text,
    /// A raw text, with the quote and the hashes that end it.
    Raw(String),
    /// So many `/*` deep.
    Comment(usize),
}

impl Inside {
    /// Reads a line; gives where its comment begins, if one begins in it.
    fn read(&mut self, line: &str) -> Option<usize> {
        let mut rest = line;
        let mut begin = None;
        while let Some(next) = rest.chars().next() {
            let mut step = next.len_utf8();
            match self {
                Self::Code if rest.starts_with("//") => return begin.or(Some(line.len() - rest.len() + 2)),
                Self::Code if rest.starts_with("/*") => {
                    begin = begin.or(Some(line.len() - rest.len() + 2));
                    (*self, step) = (Self::Comment(1), 2);
                }
                Self::Code if next == '"' => *self = Self::Text,
                Self::Code if next == '\'' => step = character(rest),
                Self::Code if next == 'r' && !word_before(line, rest) => {
                    let hashes = rest[1..].len() - rest[1..].trim_start_matches('#').len();
                    if rest[1 + hashes..].starts_with('"') {
                        (*self, step) = (Self::Raw(format!("\"{}", "#".repeat(hashes))), 2 + hashes);
                    }
                }
                Self::Text if next == '\\' => step += rest[step..].chars().next().map_or(0, char::len_utf8),
                Self::Text if next == '"' => *self = Self::Code,
                Self::Raw(end) if rest.starts_with(end.as_str()) => {
                    step = end.len();
                    *self = Self::Code;
                }
                Self::Comment(depth) if rest.starts_with("/*") => (*depth, step) = (*depth + 1, 2),
                Self::Comment(depth) if rest.starts_with("*/") => {
                    step = 2;
                    *depth -= 1;
                    if *depth == 0 {
                        *self = Self::Code;
                    }
                }
                _ => {}
            }
            rest = &rest[step..];
        }
        begin
    }
}

/// How long a character in quotes is, or the quote of a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest[1..].chars();
    match (chars.next(), chars.next()) {
        (Some('\\'), Some(escaped)) => {
            let behind = 2 + escaped.len_utf8();
            rest[behind..].find('\'').map_or(1, |end| behind + end + 1)
        }
        (Some(it), Some('\'')) => 2 + it.len_utf8(),
        _ => 1,
    }
}

fn word_before(line: &str, rest: &str) -> bool {
    let before = line[..line.len() - rest.len()].chars().next_back();
    // `br"..."` and `cr"..."` are raw texts, too.
    before.is_some_and(|it| (it.is_alphanumeric() || it == '_') && it != 'b' && it != 'c')
}

#[test]
fn what_stands_in_a_text_is_no_comment() {
    let source = r##"let url = "http://a"; // one
let quote = '"'; /* two
three */
let raw = r#"// "no" "#; let a: &'static str = "\"// no"; // four
let it = b'\''; // five"##;
    let texts: Vec<_> = comments(source).iter().map(|it| (it.line, it.text.trim())).collect();
    assert_eq!(texts, [(1, "one"), (2, "two"), (3, "three */"), (4, "four"), (5, "five")]);
}
