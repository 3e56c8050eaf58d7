//! Requests to recommend, as they are typed or written in a file.

use serde_json::{Map, Value};

use crate::data::{ItemId, Lookup};
use crate::run::Query;
use crate::{Error, Result, invalid};

/// The fields of a request, besides its `id`.
const FIELDS: [&str; 3] = ["user", "history", "text"];

/// One line of a file or of stdin.
#[derive(Debug)]
pub(super) struct Request {
    /// The line's number, from 1.
    pub(super) line: usize,
    /// The requester's own name for it, given back with the answer.
    pub(super) id: Option<Value>,
    /// What is asked for, or what is wrong with the line.
    pub(super) query: Result<Query>,
}

impl Request {
    /// Reads `{"id": …, "user" or "history" or "text": …}`.
    pub(super) fn from_json(text: &[u8], line: usize, lookup: &Lookup) -> Self {
        let (id, query) = match serde_json::from_slice(text) {
            Ok(Value::Object(mut fields)) => (fields.shift_remove("id"), query(&fields, lookup)),
            Ok(other) => (None, wrong(format!("expected an object, found {other}"))),
            // The position within the line is serde's column; its line is always 1.
            Err(e) => (None, wrong(format!("not JSON: {}", e.to_string().replace("line 1 ", "")))),
        };
        Self { line, id, query }
    }

    /// Reads a JSON object, or ids joined by commas.
    pub(super) fn from_line(text: &[u8], line: usize, lookup: &Lookup) -> Self {
        if text.trim_ascii_start().starts_with(b"{") {
            return Self::from_json(text, line, lookup);
        }
        let query = match str::from_utf8(text) {
            Ok(text) => history(text, lookup),
            Err(_) => wrong("the line is not UTF-8".into()),
        };
        Self { line, id: None, query }
    }
}

/// The query of a history written as ids joined by commas.
pub(super) fn history(text: &str, lookup: &Lookup) -> Result<Query> {
    if text.trim().is_empty() {
        return Ok(Query::History(Vec::new()));
    }
    let items: std::result::Result<_, _> =
        text.split(',').map(|name| lookup.item(name.trim())).collect();
    Ok(Query::History(items?))
}

/// The query of a user: everything the user took.
pub(super) fn user(key: &str, lookup: &Lookup) -> Result<Query> {
    Ok(Query::History(lookup.user(key)?.items.clone()))
}

fn query(fields: &Map<String, Value>, lookup: &Lookup) -> Result<Query> {
    if let Some(unknown) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        invalid!(
            "unknown field {unknown:?}: a request has user, history or text, and perhaps an id"
        );
    }
    let mut given = fields.iter();
    let (Some((name, value)), None) = (given.next(), given.next()) else {
        invalid!("give exactly one of user, history and text");
    };
    match (name.as_str(), value) {
        ("user", Value::String(key)) => user(key, lookup),
        ("user", Value::Number(key)) => user(&key.to_string(), lookup),
        ("history", Value::Array(items)) => {
            let items: Result<_> = items.iter().map(|name| item(name, lookup)).collect();
            Ok(Query::History(items?))
        }
        ("text", Value::String(text)) => Ok(Query::Text(text.clone())),
        ("history", other) => invalid!("history must be a list of items, found {other}"),
        (name, other) => invalid!("{name} must be a string, found {other}"),
    }
}

fn item(name: &Value, lookup: &Lookup) -> Result<ItemId> {
    match (name, name.as_u64()) {
        (Value::String(name), _) => Ok(lookup.item(name)?),
        (_, Some(id)) => Ok(lookup.item_by_id(id)?),
        _ => wrong(format!("an item is an id or a raw id, found {name}")),
    }
}

fn wrong<T>(what: String) -> Result<T> {
    Err(Error::Invalid(what))
}
