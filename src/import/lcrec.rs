//! LC-Rec's JSON, an entry at a time: `X.inter.json` and `X.item.json`.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, BufReader, Read};
use std::path::Path;

use serde::Deserializer as _;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::columns::Wanted;
use super::faults::{Faults, quoted};
use super::ids::check;
use super::json::{Objects, text_of};
use super::names::Names;
use super::record::{Record, Role, Take};
use super::source::{Input, LONGEST_LINE};
use crate::error::plain;
use crate::{Error, data};

/// Reads the sequences, and the times beside them, where they are.
pub(super) fn read(
    input: Input,
    names: &Names,
    take: &mut Take<'_>,
    faults: &mut Faults,
) -> crate::Result<()> {
    let times = data::times_beside(&input.path)?;
    entries(input, faults, &mut |key, value| {
        let user = names.user(key)?;
        let values: Vec<&RawValue> = serde_json::from_str(value)
            .map_err(|_| format!("{} is no list of item ids", quoted(value)))?;
        // All are looked at before one is taken: an entry is skipped as a whole.
        let mut numbers = Vec::with_capacity(values.len());
        for value in values {
            let mut number = String::new();
            if !text_of(Role::Item, value.get(), &mut number)? {
                return Err("an item is null".into());
            }
            check(names.item(&number)?)?;
            numbers.push(number);
        }
        let times = times.as_ref().map(|times| times.of(key, numbers.len())).transpose()?;
        for (at, number) in numbers.iter().enumerate() {
            let mut record = Record::pair(user, names.item(number)?);
            let time = times.map(|times| times[at].to_string());
            record.set(Role::Time, time.as_deref());
            take(&record).map_err(|wrong| wrong.what)?;
        }
        Ok(())
    })
}

/// Reads the texts. An item goes by its own raw id ([`data::RAW_IDS`]), else by its name in `item2id`, else by its key:
/// what [`read_names_in_items`] finds.
pub(super) fn read_items(
    input: Input,
    names: &Names,
    take: &mut Take<'_>,
    faults: &mut Faults,
) -> crate::Result<()> {
    let wanted = Wanted::lcrec_items();
    let mut objects = Objects::new(&wanted);
    entries(input, faults, &mut |key, value| {
        objects.fields(value).map_err(|(_, field, what)| match field {
            Some(field) => format!("field {field:?}: {what}"),
            None => what,
        })?;
        let mut record = objects.record();
        record.set(Role::Item, Some(names.item(key)?));
        take(&record).map_err(|wrong| wrong.what)
    })
}

/// Puts the raw ids in an items file before those of `item2id`; without such a file an item that has none goes by its key.
pub(super) fn read_names_in_items(input: Input, names: &mut Names) -> crate::Result<()> {
    let wanted = Wanted::lcrec_items();
    let mut objects = Objects::new(&wanted);
    let is_listed = names.items.is_some();
    let found = names.items.get_or_insert_default();
    entries(input, &mut Faults::new(true), &mut |key, value| {
        // What is wrong with an entry is told when its texts are read.
        if objects.fields(value).is_ok() {
            let own = objects.record().get(Role::Item);
            if let Some(name) = own.or(Some(key).filter(|_| !is_listed)) {
                found.insert(key.to_string(), name.to_string());
            }
        }
        Ok(())
    })
}

/// Gives every entry of a JSON object to `take`, its value as it is spelt.
fn entries(
    input: Input,
    faults: &mut Faults,
    take: &mut dyn FnMut(&str, &str) -> Result<(), String>,
) -> crate::Result<()> {
    input.check_text()?;
    let path = input.path.clone();
    let mut failure = None;
    let reader = BufReader::new(ShortEntries {
        input,
        length: 0,
        depth: 0,
        in_string: false,
        escaped: false,
    });
    let mut reader = serde_json::Deserializer::from_reader(reader);
    let visitor = Entries { path: &path, faults, take, failure: &mut failure };
    let read = reader.deserialize_map(visitor).and_then(|()| reader.end());
    match (failure, read) {
        (Some(failure), _) => Err(failure),
        (None, Err(e)) => {
            let (path, line, column) = (path.display(), e.line(), e.column());
            let text = plain(e);
            let what = text.split(" at line ").next().unwrap_or(&text);
            Err(Error::Invalid(format!("{path}:{line}:{column}: {what}")))
        }
        (None, Ok(())) => Ok(()),
    }
}

struct Entries<'e> {
    path: &'e Path,
    faults: &'e mut Faults,
    take: &'e mut dyn FnMut(&str, &str) -> Result<(), String>,
    /// The crate's error, which serde's cannot hold.
    failure: &'e mut Option<Error>,
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let value: Box<RawValue> = map.next_value()?;
            let outcome = if keys.contains(&key) {
                Err("occurs twice".into())
            } else {
                (self.take)(&key, value.get())
            };
            if let Err(what) = outcome {
                let place = format!("{}: entry {}", self.path.display(), quoted(&key));
                if let Err(e) = self.faults.add(&place, &what) {
                    *self.failure = Some(e);
                    return Err(A::Error::custom("a bad entry"));
                }
            }
            keys.insert(key);
        }
        Ok(())
    }
}

/// Refuses an entry without end, which a JSON reader would keep whole.
struct ShortEntries {
    input: Input,
    /// The bytes of the entry so far, but for white space around it, which no reader keeps.
    length: usize,
    /// How many lists and objects are open.
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Read for ShortEntries {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        for &byte in &buffer[..n] {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                b',' if self.depth == 1 => self.length = 0,
                b' ' | b'\t' | b'\r' | b'\n' if self.depth == 1 => continue,
                _ => {}
            }
            self.length += 1;
        }
        if self.length > LONGEST_LINE {
            let what = format!(
                "this entry is longer than {} MiB, the longest that is read",
                LONGEST_LINE >> 20
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(n)
    }
}
