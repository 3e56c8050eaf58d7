//! JSON lines, and Python literals in their place: one object a line. The field that serves a role best plays it, in
//! whatever order they stand; one that is null is none.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::columns::Wanted;
use super::faults::{Faults, Place, quoted};
use super::python;
use super::record::{Record, Role, Take, Wrong};
use super::source::{Input, Lines};
use crate::error::plain;

/// Reads a file with an object on every line.
pub(super) fn read(
    input: Input,
    wanted: &Wanted,
    take: &mut Take<'_>,
    faults: &mut Faults,
) -> crate::Result<()> {
    let mut lines = Lines::new(input)?;
    let path = lines.path();
    let mut reader = Objects::new(wanted);
    while let Some((number, line)) = lines.next()? {
        let outcome = match line.text().map(str::trim) {
            Ok("") => continue,
            Ok(text) => line_of(&mut reader, text, take),
            Err((column, what)) => Err((column, None, what)),
        };
        if let Err((column, field, what)) = outcome {
            let field = field.as_deref().map(|name| (0, name));
            faults.add(&Place { column, field, ..Place::line(&path, number) }, &what)?;
        }
    }
    Ok(())
}

/// A fault: the column, the field, and what is wrong.
type At = (Option<usize>, Option<String>, String);

fn line_of(reader: &mut Objects<'_>, text: &str, take: &mut Take<'_>) -> Result<(), At> {
    if text.starts_with('[') {
        let what = "is a JSON array; a file has one object on each line (jq -c '.[]' makes it so)";
        return Err((Some(1), None, what.into()));
    }
    if !python::looks_like(text) {
        return reader.object(text, take);
    }
    match python::to_json(text) {
        // Columns of the JSON made of it would mislead.
        Ok(json) => reader.object(&json, take).map_err(|(_, field, what)| (None, field, what)),
        Err((column, what)) => Err((Some(column), None, what)),
    }
}

/// Takes what is wanted out of objects.
pub(super) struct Objects<'w> {
    wanted: &'w Wanted,
    /// The text of each role, and how well the field serves the role that it was taken from.
    texts: [String; 8],
    found: [Option<usize>; 8],
    /// The names under which they were found.
    names: [String; 8],
    /// What is wrong with the field that was found.
    wrong: [Option<String>; 8],
    /// The text that is being read.
    text: String,
    /// The name of a time that is null.
    null_time: Option<String>,
    /// What keys are good for, for those seen before: lines are much alike.
    keys: HashMap<String, Use>,
}

/// What a key is good for: how well it serves a role, and whether it tells of a review.
type Use = (Option<(Role, usize)>, bool);

/// So many keys are remembered.
const MOST_KEYS: usize = 256;

impl<'w> Objects<'w> {
    /// A reader of objects.
    pub(super) fn new(wanted: &'w Wanted) -> Self {
        let [texts, names] = std::array::from_fn(|_| std::array::from_fn(|_| String::new()));
        Self {
            wanted,
            texts,
            found: [None; 8],
            names,
            wrong: [const { None }; 8],
            text: String::new(),
            null_time: None,
            keys: HashMap::new(),
        }
    }

    fn use_of(&mut self, key: &str) -> Use {
        if let Some(&known) = self.keys.get(key) {
            return known;
        }
        let found = (self.wanted.rank(key), self.wanted.tells_of_reviews(key));
        if self.keys.len() < MOST_KEYS {
            self.keys.insert(key.to_string(), found);
        }
        found
    }

    /// Takes one object.
    pub(super) fn object(&mut self, json: &str, take: &mut Take<'_>) -> Result<(), At> {
        self.fields(json)?;
        if let Some(role) = self.wanted.musts().find(|&role| !self.has(role)) {
            return Err((None, None, self.wanted.absent(role)));
        }
        // A row that lacks its time is not one of a log without times.
        if let Some(name) = self.null_time.take().filter(|_| !self.has(Role::Time)) {
            return Err((None, Some(name), "is null".into()));
        }
        take(&self.record()).map_err(|Wrong { role, what }| {
            let name = role.map(|role| self.names[role as usize].clone());
            (None, name.filter(|name| !name.is_empty()), what)
        })
    }

    /// Reads the fields of an object, for [`Objects::record`].
    pub(super) fn fields(&mut self, json: &str) -> Result<(), At> {
        self.found = [None; 8];
        self.null_time = None;
        self.names.iter_mut().for_each(String::clear);
        self.wrong = [const { None }; 8];
        let mut reviews = false;
        let mut reader = serde_json::Deserializer::from_str(json);
        let fields = Fields { objects: self, reviews: &mut reviews };
        let read = fields.deserialize(&mut reader).and_then(|()| reader.end());
        if let Err(e) = read {
            let text = plain(&e);
            let what = text.split(" at line ").next().unwrap_or(&text).to_string();
            return Err((
                Some(e.column().max(1)),
                None,
                format!("{what}; a JSON object is expected"),
            ));
        }
        let mut wrong = self.names.iter().zip(&mut self.wrong);
        if let Some((name, what)) = wrong.find_map(|(name, what)| Some((name, what.take()?))) {
            return Err((None, Some(name.clone()), what));
        }
        if reviews {
            for role in Role::TEXTS.into_iter().filter(|&role| !self.wanted.is_named(role)) {
                self.found[role as usize] = None;
            }
        }
        Ok(())
    }

    /// What was read last.
    pub(super) fn record(&self) -> Record<'_> {
        let mut record = Record::default();
        for role in Role::ALL.into_iter().filter(|&role| self.has(role)) {
            record.set(role, Some(&self.texts[role as usize]));
        }
        record
    }

    fn has(&self, role: Role) -> bool {
        self.found[role as usize].is_some()
    }

    /// Whether a field serves a role better than the one that was found; of two that serve it as well, the name decides:
    /// the order of fields says nothing.
    fn is_better(&self, role: Role, rank: usize, name: &str) -> bool {
        let found = self.found[role as usize].map(|found| (found, &*self.names[role as usize]));
        found.is_none_or(|found| (rank, name) <= found)
    }

    /// Takes the value of a field; one that is null is none.
    fn take(&mut self, role: Role, rank: usize, name: &str, raw: &str) {
        self.text.clear();
        let at = role as usize;
        self.wrong[at] = match text_of(role, raw, &mut self.text) {
            Ok(true) => None,
            Ok(false) => {
                if role == Role::Time {
                    self.null_time = Some(name.to_string());
                }
                return;
            }
            Err(what) => Some(what),
        };
        std::mem::swap(&mut self.texts[at], &mut self.text);
        self.found[at] = Some(rank);
        self.names[at].clear();
        self.names[at].push_str(name);
    }
}

/// The fields of one object.
struct Fields<'f, 'w> {
    objects: &'f mut Objects<'w>,
    reviews: &'f mut bool,
}

impl<'de> DeserializeSeed<'de> for Fields<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            let (rank, of_review) = self.objects.use_of(&key);
            *self.reviews |= of_review;
            let better = rank.filter(|&(role, rank)| self.objects.is_better(role, rank, &key));
            let Some((role, rank)) = better else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let raw = map.next_value::<&RawValue>()?;
            self.objects.take(role, rank, &key, raw.get());
        }
        Ok(())
    }
}

/// A key, borrowed where it can be.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);
        Borrowed::deserialize(deserializer).map(|Borrowed(key)| Self(key)).map_err(D::Error::custom)
    }
}

/// Adds what a JSON value says to `text`; false where it is null. Numbers stay as they are spelt, so that
/// ids beyond 2^53 survive; lists are joined.
pub(super) fn text_of(role: Role, raw: &str, text: &mut String) -> Result<bool, String> {
    match raw.as_bytes().first() {
        Some(b'n') | None => return Ok(false),
        Some(b'"') => {
            let inner = &raw[1..raw.len() - 1];
            if inner.contains('\\') {
                let unescaped: String = serde_json::from_str(raw).map_err(|e| e.to_string())?;
                text.push_str(&unescaped);
            } else {
                text.push_str(inner);
            }
        }
        Some(b'-' | b'0'..=b'9') => text.push_str(raw),
        Some(b'[') if Role::TEXTS.contains(&role) => {
            let mut parts = Vec::new();
            list(raw, &mut parts, 0)?;
            text.push_str(&joined(role, parts));
        }
        _ => {
            let must = if Role::TEXTS.contains(&role) {
                "a text, a number or a list of these"
            } else {
                "a text or a number"
            };
            return Err(format!("{} is not {must}", quoted(raw)));
        }
    }
    Ok(true)
}

/// A list as one text: categories with commas between them and each once, all else with spaces.
pub(super) fn joined(role: Role, mut parts: Vec<String>) -> String {
    if role != Role::Categories {
        return parts.join(" ");
    }
    let mut seen = std::collections::HashSet::new();
    parts.retain(|part| seen.insert(part.clone()));
    parts.join(", ")
}

/// The texts in a list, and in the lists in it: Amazon's categories of 2014 are lists of paths.
fn list(raw: &str, parts: &mut Vec<String>, depth: usize) -> Result<(), String> {
    if depth > 8 {
        return Err("lists in lists in lists are no text".into());
    }
    let values: Vec<&RawValue> = serde_json::from_str(raw).map_err(|e| e.to_string())?;
    for value in values {
        let value = value.get();
        if value.starts_with('[') {
            list(value, parts, depth + 1)?;
            continue;
        }
        let mut part = String::new();
        if text_of(Role::Title, value, &mut part)? && !part.is_empty() {
            parts.push(part);
        }
    }
    Ok(())
}
