//! The crate's error: one transparent wrapper around each module's own; and what parsers say, in plain words.

use std::fmt::Display;
use std::path::PathBuf;

/// Anything that can go wrong below the command line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A dataset cannot be read or does not fit its own description.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// An item index cannot be built, read or used.
    #[error(transparent)]
    Index(#[from] crate::index::IndexError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(candle_core::Error),
    /// A file could not be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said; in the text, so not a `source` that would print it again.
        cause: std::io::Error,
    },
    /// A signal came, and nothing is lost that is worth keeping.
    #[error("stopped after {done}{}", if *.saved {
        format!(", which is saved; {command} goes on from there")
    } else {
        format!("; {command} begins again")
    })]
    Interrupted {
        /// What was done last.
        done: String,
        /// What goes on.
        command: &'static str,
        /// Whether there is something to go on from.
        saved: bool,
    },
    /// A training of a stage came to values that are not finite.
    #[error("{what}: the training has diverged; its learning rate is {learning_rate:e}")]
    Diverged {
        /// What was not finite, and where.
        what: String,
        /// The peak learning rate.
        learning_rate: f64,
    },
    /// Something the user gave or asked for does not work; the text names the place and the remedy.
    #[error("{0}")]
    Invalid(String),
}

/// The result of everything fallible below the command line.
pub type Result<T> = std::result::Result<T, Error>;

impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Self {
        Self::Tensor(without_calls(e))
    }
}

/// A tensor operation's error without the calls that led to it: where `RUST_BACKTRACE` is set, candle makes
/// them part of its text.
pub(crate) fn without_calls(e: candle_core::Error) -> candle_core::Error {
    use candle_core::Error::{Context, WithBacktrace, WithPath};
    match e {
        WithBacktrace { inner, .. } => without_calls(*inner),
        Context { inner, context } => Context { inner: Box::new(without_calls(*inner)), context },
        WithPath { inner, path } => WithPath { inner: Box::new(without_calls(*inner)), path },
        other => other,
    }
}

/// What serde calls the types of Rust, and what the writer of a file may call them.
const PLAIN: [(&[&str], &str); 6] = [
    (&["usize", "u8", "u16", "u32", "u64", "u128"], "a whole number from 0"),
    (&["isize", "i8", "i16", "i32", "i64", "i128"], "a whole number"),
    (&["f32", "f64"], "a number"),
    (&["a sequence"], "a list"),
    (&["a map"], "an object"),
    (&["unit", "unit variant"], "no value"),
];

/// What is said where a value has none of the forms of a type of Rust.
const UNTAGGED: &str = "data did not match any variant of untagged enum ";

/// What serde says is wrong with a file, for people who know the file and not the program: its types go by
/// what they are in the file.
pub(crate) fn plain(said: impl Display) -> String {
    let mut text = said.to_string().replace(" as i128", "").replace(" as u128", "");
    for (types, word) in PLAIN {
        for name in types {
            text = replace_word(&text, &format!("expected {name}"), &format!("expected {word}"));
            text = replace_word(&text, &format!("{name} value was"), "the value was");
        }
    }
    for named in ["expected struct ", "expected tuple struct ", "expected internally tagged enum "]
    {
        text = replace_named(&text, named, "expected an object");
    }
    replace_named(&text, UNTAGGED, "the value has none of the forms that it may have")
}

/// Replaces `from` where no longer word begins with it.
fn replace_word(text: &str, from: &str, to: &str) -> String {
    let mut parts = text.split(from);
    let mut replaced = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let longer = part.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        replaced.push_str(if longer { from } else { to });
        replaced.push_str(part);
    }
    replaced
}

/// Replaces `from` and the name behind it.
fn replace_named(text: &str, from: &str, to: &str) -> String {
    let mut parts = text.split(from);
    let mut replaced = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let part = part.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
        // A list where an object should be is counted.
        let counted = part.strip_prefix(" with ").and_then(|rest| rest.split_once(" element"));
        replaced.push_str(to);
        replaced.push_str(counted.map_or(part, |(_, rest)| rest.trim_start_matches('s')));
    }
    replaced
}

/// What is wrong with TOML, on one line: where, what stands there, and what is said of it.
pub(crate) fn plain_toml(e: &toml::de::Error) -> String {
    let shown = e.to_string();
    let mut lines = shown.lines();
    let Some(place) = lines.next().and_then(|first| first.strip_prefix("TOML parse error at "))
    else {
        // Without a place, the text names the key.
        return plain(shown.lines().collect::<Vec<_>>().join(" "));
    };
    let numbered = |line: &str| {
        let (number, source) = line.split_once(" | ")?;
        number.trim().parse::<usize>().ok().map(|_| short(source.trim()))
    };
    let source = lines.find_map(numbered).unwrap_or_default();
    format!("{place}: {source}: {}", plain(e.message().lines().collect::<Vec<_>>().join(" ")))
}

/// So many letters of a value are shown.
const SHOWN: usize = 80;

/// `text`, cut where it is too long for a message.
pub(crate) fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

impl Error {
    /// An [`Error::Io`] at `path`, shaped for `map_err`; an error that only travelled as one of files stays what it is.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |cause| cause.downcast().unwrap_or_else(|cause| Error::Io { path, cause })
    }
}

/// Returns early with an [`Error::Invalid`] built from a format string.
#[macro_export]
macro_rules! invalid {
    ($($arg:tt)*) => { return Err($crate::Error::Invalid(format!($($arg)*))) };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only what is said of them is looked at")]
    struct Some {
        count: Option<usize>,
        share: Option<f32>,
        shift: Option<i64>,
        list: Option<Vec<u8>>,
        map: Option<BTreeMap<String, u8>>,
        inner: Option<Box<Some>>,
        either: Option<Either>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(untagged)]
    #[expect(dead_code, reason = "only what is said of them is looked at")]
    enum Either {
        One(u32),
        Several(Vec<u32>),
    }

    #[test]
    fn no_type_of_rust_is_named() {
        for (json, expected) in [
            ("{\"count\": \"x\"}", "expected a whole number from 0 at line 1"),
            ("{\"count\": -1}", "integer `-1`, expected a whole number from 0 at"),
            ("{\"share\": \"x\"}", "expected a number at"),
            ("{\"shift\": 1.5}", "expected a whole number at"),
            ("{\"list\": 1}", "expected a list at"),
            ("{\"map\": 1}", "expected an object at"),
            ("{\"inner\": 1}", "expected an object at"),
            ("{\"inner\": []}", "expected an object at"),
            ("{\"either\": null, \"either\": 1}", "duplicate field `either`"),
            ("{\"either\": \"x\"}", "none of the forms that it may have at"),
        ] {
            let said = plain(serde_json::from_str::<Some>(json).unwrap_err());
            assert!(said.contains(expected), "{json}: {said}");
            let toml = json.replace("\": ", "\" = ").replace(['{', '}'], "");
            let toml = toml.replace("null, ", "1\n");
            let said = plain_toml(&toml::from_str::<Some>(&toml).unwrap_err());
            assert!(!said.contains("struct") && !said.contains("usize"), "{toml}: {said}");
            assert!(said.starts_with("line ") && said.lines().count() == 1, "{toml}: {said}");
        }
        assert_eq!(plain("u64 value was too large"), "the value was too large");
        assert_eq!(
            plain("expected u64s, expected u64"),
            "expected u64s, expected a whole number from 0"
        );
    }

    #[test]
    fn an_error_that_travelled_as_one_of_a_file_says_nothing_of_the_file() {
        let own = std::io::Error::other(Error::Invalid("no index".into()));
        assert_eq!(Error::io("out.jsonl")(own).to_string(), "no index");
        let full = std::io::Error::other("disk full");
        assert_eq!(Error::io("out.jsonl")(full).to_string(), "out.jsonl: disk full");
    }

    #[test]
    fn a_value_without_end_is_shown_in_part() {
        let error = toml::from_str::<Some>(&format!("count = {}", "[".repeat(10_000))).unwrap_err();
        let said = plain_toml(&error);
        assert!(said.starts_with("line 1, column ") && said.len() < 300, "{said}");
        assert!(said.contains("…: cannot recurse further"), "{said}");
    }
}
