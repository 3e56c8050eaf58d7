//! Python literals, as in Amazon's metadata of 2014, rewritten as JSON.

/// Whether a line is a Python dictionary and no JSON object: its first key stands in single quotes.
pub(super) fn looks_like(line: &str) -> bool {
    let inner = line.strip_prefix('{').map(str::trim_start);
    inner.is_some_and(|inner| inner.starts_with('\'') || inner.starts_with("u'"))
}

/// The JSON of a Python literal. Only the spelling is changed: what is wrong with the structure, JSON's
/// reader will say.
///
/// # Errors
/// The column, from 1, and what is wrong there.
pub(super) fn to_json(line: &str) -> Result<String, (usize, String)> {
    let bytes = line.as_bytes();
    let mut json = String::with_capacity(line.len() + 16);
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'\'' | b'"') => at = string(line, at + 1, quote, &mut json)?,
            b'(' => {
                json.push('[');
                at += 1;
            }
            b')' => {
                close(&mut json, ']');
                at += 1;
            }
            end @ (b']' | b'}') => {
                close(&mut json, char::from(end));
                at += 1;
            }
            first if first.is_ascii_alphabetic() => {
                let length = bytes[at..].iter().take_while(|b| b.is_ascii_alphanumeric()).count();
                let word = &line[at..at + length];
                let is_prefix = matches!(bytes.get(at + length), Some(b'\'' | b'"'));
                match word {
                    "True" => json.push_str("true"),
                    "False" => json.push_str("false"),
                    "None" | "nan" | "inf" => json.push_str("null"),
                    "u" | "b" | "U" | "B" if is_prefix => {}
                    _ => return Err((at + 1, format!("{word:?} is no Python literal"))),
                }
                at += length;
            }
            // Numbers and punctuation are the same; `1L` was Python 2's.
            b'0'..=b'9' => {
                let number = |b: &&u8| b.is_ascii_digit() || b".eE+-".contains(b);
                let length = bytes[at..].iter().take_while(number).count();
                json.push_str(&line[at..at + length]);
                at += length;
                if bytes.get(at) == Some(&b'L') {
                    at += 1;
                }
            }
            other if other.is_ascii() => {
                json.push(char::from(other));
                at += 1;
            }
            _ => return Err((at + 1, "only strings have letters beyond ASCII".into())),
        }
    }
    Ok(json)
}

/// Ends a list or an object; Python allows a comma before.
fn close(json: &mut String, end: char) {
    let kept = json.trim_end().len();
    if json[..kept].ends_with(',') {
        json.truncate(kept - 1);
    }
    json.push(end);
}

/// Copies a string that begins at `at`, behind its quote; returns where it ends.
fn string(
    line: &str,
    mut at: usize,
    quote: u8,
    json: &mut String,
) -> Result<usize, (usize, String)> {
    let start = at;
    let bytes = line.as_bytes();
    json.push('"');
    loop {
        let plain = bytes[at..].iter().take_while(|&&b| b != quote && b != b'\\' && b != b'"');
        let to = at + plain.count();
        for c in line[at..to].chars() {
            match c {
                '\0'..' ' => push_escaped(json, u32::from(c)),
                _ => json.push(c),
            }
        }
        at = to;
        match bytes.get(at) {
            Some(&b) if b == quote => {
                json.push('"');
                return Ok(at + 1);
            }
            Some(b'"') => {
                json.push_str("\\\"");
                at += 1;
            }
            Some(_) => at = escape(line, at + 1, json)?,
            None => return Err((start, "a string is not closed".into())),
        }
    }
}

/// Copies an escape that begins at `at`, behind its backslash; returns where it ends.
fn escape(line: &str, at: usize, json: &mut String) -> Result<usize, (usize, String)> {
    let bytes = line.as_bytes();
    let wrong = || (at, "an escape in a string is none of Python's".to_string());
    let hex = |digits: usize| {
        let text = line.get(at + 1..at + 1 + digits)?;
        let plain = text.bytes().all(|b| b.is_ascii_hexdigit());
        plain.then(|| u32::from_str_radix(text, 16).ok())?
    };
    let code = match bytes.get(at).ok_or_else(wrong)? {
        b'n' => 10,
        b't' => 9,
        b'r' => 13,
        b'a' => 7,
        b'b' => 8,
        b'f' => 12,
        b'v' => 11,
        b'x' => {
            push_escaped(json, hex(2).ok_or_else(wrong)?);
            return Ok(at + 3);
        }
        // As it is, for JSON joins the halves of a pair alike.
        b'u' => {
            push_escaped(json, hex(4).ok_or_else(wrong)?);
            return Ok(at + 5);
        }
        b'U' => {
            let c = hex(8).and_then(char::from_u32).ok_or_else(wrong)?;
            push_char(json, c);
            return Ok(at + 9);
        }
        b'0'..=b'7' => {
            let octal = |b: &&u8| matches!(b, b'0'..=b'7');
            let digits = bytes[at..].iter().take(3).take_while(octal);
            let (length, code) =
                digits.fold((0, 0), |(n, code), b| (n + 1, code * 8 + u32::from(b - b'0')));
            push_escaped(json, code);
            return Ok(at + length);
        }
        quote @ (b'\'' | b'"' | b'\\') => {
            push_char(json, char::from(*quote));
            return Ok(at + 1);
        }
        // Python keeps a backslash that escapes nothing.
        other if other.is_ascii_graphic() && !b"N".contains(other) => {
            push_char(json, '\\');
            return Ok(at);
        }
        _ => return Err(wrong()),
    };
    push_escaped(json, code);
    Ok(at + 1)
}

fn push_char(json: &mut String, c: char) {
    if matches!(c, '"' | '\\') {
        json.push('\\');
    }
    json.push(c);
}

fn push_escaped(json: &mut String, code: u32) {
    use std::fmt::Write as _;
    let _ = write!(json, "\\u{code:04x}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn value(line: &str) -> Value {
        let text = to_json(line).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{line}: {text}: {e}"))
    }

    #[test]
    fn literals_become_json() {
        assert_eq!(
            value("{'a': \"it's\", 'b': 'say \"x\"'}"),
            json!({"a": "it's", "b": "say \"x\""})
        );
        assert_eq!(
            value("{'a': [['B', 'C',], ('D',)], 'n': 3.50, 'm': -1e3}")["a"],
            json!([["B", "C"], ["D"]])
        );
        assert_eq!(
            value("{u'a': None, 'b': True, 'c': False, 'd': nan, 'e': 12L}"),
            json!({"a": null, "b": true, "c": false, "d": null, "e": 12})
        );
        assert_eq!(
            value(r"{'a': 'tab\tnl\n q\' b\\ x\xe9 u\u00e9 \U0001f9f4 o\101 \d'}")["a"],
            "tab\tnl\n q' b\\ xé ué 🧴 oA \\d"
        );
        assert_eq!(value(r"{'a': '\ud83e\uddf4'}")["a"], "🧴");
        assert_eq!(value("{'a': 'ü 日 \u{2028} \t'}")["a"], "ü 日 \u{2028} \t");
        assert_eq!(value("{'a': {}, 'b': [ ] , }"), json!({"a": {}, "b": []}));
    }

    #[test]
    fn what_is_no_literal_is_located() {
        let wrong = |line| to_json(line).unwrap_err();
        assert_eq!(wrong("{'a': open('x')}"), (7, "\"open\" is no Python literal".into()));
        assert_eq!(wrong("{'a': 'x}"), (7, "a string is not closed".into()));
        assert_eq!(wrong(r"{'a': '\xzz'}").0, 8);
        assert_eq!(wrong("{'a': ü}").0, 7);
    }

    #[test]
    fn only_dictionaries_with_single_quotes_are_taken_for_python() {
        assert!(looks_like("{'a': 1}") && looks_like("{ u'a': 1}"));
        assert!(!looks_like("{\"a\": 1}") && !looks_like("['a']") && !looks_like("{}"));
    }

    proptest! {
        #[test]
        fn nothing_panics(line in "[{}\\[\\]()'\"\\\\xuUN0-9a-fTé, :]{0,40}") {
            let _ = to_json(&line);
        }
    }
}
