//! Requests to recommend, as they are typed or written in a file.

use serde_json::{Map, Value};

use crate::data::{ItemId, Lookup, User};
use crate::error::short;
use crate::run::Query;
use crate::{Error, Result, invalid};

/// The fields that say what is asked for.
const ASKED: [&str; 3] = ["user", "history", "text"];

/// The fields that an answer has of its own.
const ANSWERED: [&str; 4] = ["items", "unknown", "line", "error"];

/// One line of a file or of stdin.
#[derive(Debug)]
pub struct Request {
    /// The line's number, from 1.
    pub line: usize,
    /// What the requester wrote, given back with the answer; without the history, which may be long.
    pub fields: Map<String, Value>,
    /// Items of the history that there are not, which the answer does without.
    pub unknown: Vec<Value>,
    /// What is asked for, or what is wrong with the line.
    pub query: Result<Query>,
}

impl Request {
    /// Reads `{"user" or "history" or "text": …, …}`.
    pub fn from_json(text: &[u8], line: usize, lookup: &Lookup) -> Self {
        let (mut fields, mut unknown) = (Map::new(), Vec::new());
        let query = match serde_json::from_slice(text) {
            Ok(Value::Object(given)) => {
                fields = given;
                let query = query(&fields, lookup, &mut unknown);
                fields.shift_remove("history");
                fields.retain(|name, _| !ANSWERED.contains(&name.as_str()));
                query
            }
            Ok(other) => wrong(format!("expected an object, found {}", short(&other.to_string()))),
            // The position within the line is serde's column; its line is always 1.
            Err(e) => wrong(format!("not JSON: {}", e.to_string().replace("line 1 ", ""))),
        };
        Self { line, fields, unknown, query }
    }

    /// Reads a JSON object, or ids joined by commas.
    pub fn from_line(text: &[u8], line: usize, lookup: &Lookup) -> Self {
        if text.trim_ascii_start().starts_with(b"{") {
            return Self::from_json(text, line, lookup);
        }
        let query = match str::from_utf8(text) {
            Ok(text) => history(text, lookup),
            Err(_) => wrong("the line is not UTF-8".into()),
        };
        Self { line, fields: Map::new(), unknown: Vec::new(), query }
    }

    /// What follows everything that `user` took.
    pub(super) fn of_user(user: &User, line: usize) -> Self {
        let fields = Map::from_iter([("user".to_string(), user.id.as_str().into())]);
        let query = Ok(Query::History(user.items.clone()));
        Self { line, fields, unknown: Vec::new(), query }
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

/// What an object asks for; items that there are not go into `unknown`.
fn query(fields: &Map<String, Value>, lookup: &Lookup, unknown: &mut Vec<Value>) -> Result<Query> {
    if let Some(name) = ANSWERED.into_iter().find(|name| fields.contains_key(*name)) {
        invalid!("a request has no field {name:?}: that is one of the answer's own");
    }
    let mut asked = ASKED.into_iter().filter_map(|name| Some((name, fields.get(name)?)));
    let (Some((name, value)), None) = (asked.next(), asked.next()) else {
        invalid!("give exactly one of user, history and text");
    };
    match (name, value) {
        ("user", Value::String(key)) => user(key, lookup),
        ("user", Value::Number(key)) => user(&key.to_string(), lookup),
        ("history", Value::Array(names)) => {
            let (mut items, mut first) = (Vec::new(), None);
            for name in names {
                match item(name, lookup) {
                    Ok(item) => items.push(item),
                    Err(e) => {
                        unknown.push(name.clone());
                        first.get_or_insert(e);
                    }
                }
            }
            match first {
                // Nothing is left to answer from.
                Some(e) if items.is_empty() => Err(e),
                _ => Ok(Query::History(items)),
            }
        }
        ("text", Value::String(text)) => Ok(Query::Text(text.clone())),
        ("history", other) => {
            invalid!("history must be a list of items, found {}", short(&other.to_string()))
        }
        (name, other) => {
            invalid!("{name} must be a string, found {}", short(&other.to_string()))
        }
    }
}

fn item(name: &Value, lookup: &Lookup) -> Result<ItemId> {
    match (name, name.as_u64()) {
        (Value::String(name), _) => Ok(lookup.item(name)?),
        (_, Some(id)) => Ok(lookup.item_by_id(id)?),
        _ => wrong(format!("an item is an id or a raw id, found {}", short(&name.to_string()))),
    }
}

fn wrong<T>(what: String) -> Result<T> {
    Err(Error::Invalid(what))
}
