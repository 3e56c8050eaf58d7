//! Requests to recommend, as they are typed, written in a file or sent: one form and one set of errors.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::fields::{Fields, read_fields};
use crate::data::{ItemId, Lookup, User};
use crate::error::short;
use crate::run::{Query, RecommendOptions, Wanted};
use crate::{Result, invalid};

/// The fields that say what is asked for.
const ASKED: [&str; 3] = ["user", "history", "text"];

/// The fields that an answer does not give back: they may be long.
const LISTS: [&str; 3] = ["history", "only", "exclude"];

/// The fields that an answer has of its own.
const ANSWERED: [&str; 6] = ["items", "unknown", "fallback", "reason", "line", "error"];

/// How much one request may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Items of an answer.
    pub top: usize,
    /// Items of a history, and items left out.
    pub items: usize,
    /// Items that alone are recommended.
    pub only: usize,
    /// Characters of a text.
    pub text: usize,
    /// Fields of any name.
    pub fields: usize,
}

impl Limits {
    /// For people's own files on their own machines.
    pub const NONE: Self = Self {
        top: usize::MAX,
        items: usize::MAX,
        only: usize::MAX,
        text: usize::MAX,
        fields: usize::MAX,
    };
}

/// An item as a request names it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Name {
    /// By its id.
    Id(u64),
    /// By its raw id, or its id where no raw id looks like one.
    Text(String),
}

/// Whom or what recommendations are for.
#[derive(Debug)]
enum Whom {
    User(String),
    History(Vec<Name>),
    Text(String),
}

/// A request whose form is right; whether there are such users and items is not known yet.
#[derive(Debug)]
pub struct Form {
    whom: Whom,
    top: Option<usize>,
    only: Option<Vec<Name>>,
    exclude: Option<Vec<Name>>,
    exclude_history: Option<bool>,
    explain: Option<bool>,
}

/// A request that can be answered, or what is wrong with it.
#[derive(Debug)]
pub struct Request {
    /// The number of its line, from 1, where it stands in a file or on stdin.
    pub line: Option<usize>,
    /// What the requester wrote, given back with the answer; without lists, which may be long.
    pub fields: Fields,
    /// Items it names that there are not, which the answer does without.
    pub unknown: Vec<Name>,
    /// Why the answer goes by popularity, where it does.
    pub reason: Option<String>,
    /// What is asked for, or what is wrong.
    pub query: Result<Query>,
}

impl Form {
    /// Reads `{"user" or "history" or "text": …, …}`.
    ///
    /// # Errors
    /// Names the field that is missing, wrong or too long.
    pub fn new(fields: &Fields, limits: &Limits) -> Result<Self> {
        if fields.len() > limits.fields {
            invalid!(
                "a request has more fields than can be given back; the most are {}",
                limits.fields
            );
        }
        if let Some(name) = ANSWERED.into_iter().find(|name| fields.contains_key(*name)) {
            invalid!("a request has no field {name:?}: that is one of the answer's own");
        }
        let mut asked = ASKED.into_iter().filter(|name| fields.contains_key(*name));
        let (Some(name), None) = (asked.next(), asked.next()) else {
            invalid!("give exactly one of user, history and text");
        };
        let whom = match name {
            "history" => Whom::History(names(fields, name, limits.items)?.unwrap_or_default()),
            _ => match (name, value(fields, name)?.unwrap_or_default()) {
                ("text", Value::String(text)) => {
                    let length = text.chars().count();
                    if length > limits.text {
                        invalid!("text has {length} characters; the most are {}", limits.text);
                    }
                    Whom::Text(text)
                }
                (_, Value::String(key)) => Whom::User(key),
                // Some programs write every number with a point.
                ("user", number @ Value::Number(_)) => {
                    // As it is spelt: a number would lose digits.
                    let spelt = || fields.get(name).map_or("", |value| value.get()).to_string();
                    Whom::User(whole(&number).map_or_else(spelt, |key| key.to_string()))
                }
                (name, other) => {
                    invalid!("{name} must be a string, found {}", short(&other.to_string()))
                }
            },
        };
        let only = names(fields, "only", limits.only)?;
        if only.as_ref().is_some_and(Vec::is_empty) {
            invalid!("only names no items: leave it out to recommend them all");
        }
        Ok(Self {
            whom,
            top: top(fields, limits.top)?,
            only,
            exclude: names(fields, "exclude", limits.items)?,
            exclude_history: flag(fields, "exclude_history")?,
            explain: flag(fields, "explain")?,
        })
    }

    /// Finds the users and items that are named; what the request does not say is as in `defaults`.
    fn query(
        self,
        lookup: &Lookup,
        defaults: &RecommendOptions,
        unknown: &mut Vec<Name>,
        reason: &mut Option<String>,
    ) -> Result<Query> {
        let mut place = None;
        let wanted = match self.whom {
            Whom::Text(text) => Wanted::Text(text),
            Whom::User(key) => {
                if let Ok(user) = lookup.user(&key) {
                    place = lookup.place(&key);
                    Wanted::History(user.items.clone())
                } else {
                    *reason = Some(if lookup.has_users() {
                        format!("there is no user {:?} with at least 3 interactions", short(&key))
                    } else {
                        "the users were left out of what is served: give a history".into()
                    });
                    Wanted::Popular
                }
            }
            Whom::History(names) => {
                let none_given = names.is_empty();
                let items = known(names, lookup, unknown);
                if items.is_empty() {
                    let none = "there is no item of the history";
                    *reason = Some(if none_given { "the history is empty" } else { none }.into());
                    Wanted::Popular
                } else {
                    Wanted::History(items)
                }
            }
        };
        let only = self.only.map(|names| {
            let mut items = known(names, lookup, unknown);
            items.sort_unstable();
            items.dedup();
            if items.is_empty() {
                invalid!("there is none of the items that `only` names");
            }
            Ok(Arc::from(items))
        });
        Ok(Query {
            wanted,
            user: place,
            options: RecommendOptions {
                top: self.top.unwrap_or(defaults.top),
                only: only.transpose()?.or_else(|| defaults.only.clone()),
                exclude: match self.exclude {
                    Some(names) => known(names, lookup, unknown),
                    None => defaults.exclude.clone(),
                },
                exclude_history: self.exclude_history.unwrap_or(defaults.exclude_history),
                explain: self.explain.unwrap_or(defaults.explain),
            },
        })
    }
}

impl Request {
    /// The request of a form that was read from `fields`, or of what was wrong with them.
    pub fn new(
        mut fields: Fields,
        form: Result<Form>,
        lookup: &Lookup,
        defaults: &RecommendOptions,
    ) -> Self {
        let (mut unknown, mut reason) = (Vec::new(), None);
        let query = form.and_then(|form| form.query(lookup, defaults, &mut unknown, &mut reason));
        fields.retain(|name, _| !LISTS.contains(&&**name) && !ANSWERED.contains(&&**name));
        Self { line: None, fields, unknown, reason, query }
    }

    /// Reads a JSON object.
    pub fn from_json(
        text: &[u8],
        line: usize,
        lookup: &Lookup,
        defaults: &RecommendOptions,
    ) -> Self {
        let (fields, form) = match read_fields(text, usize::MAX) {
            Ok(fields) => {
                let form = Form::new(&fields, &Limits::NONE);
                (fields, form)
            }
            Err(e) => (Fields::new(), Err(e)),
        };
        Self { line: Some(line), ..Self::new(fields, form, lookup, defaults) }
    }

    /// Reads a JSON object, or ids joined by commas.
    pub fn from_line(
        text: &[u8],
        line: usize,
        lookup: &Lookup,
        defaults: &RecommendOptions,
    ) -> Self {
        if text.trim_ascii_start().starts_with(b"{") {
            return Self::from_json(text, line, lookup, defaults);
        }
        let wanted = match str::from_utf8(text) {
            Ok(text) => history(text, lookup),
            Err(_) => Err(crate::Error::Invalid("the line is not UTF-8".into())),
        };
        let query = wanted.map(|wanted| Query { wanted, user: None, options: defaults.clone() });
        Self { line: Some(line), fields: Fields::new(), unknown: Vec::new(), reason: None, query }
    }

    /// What follows everything that the user took who stands at `place` in the dataset.
    pub fn of_user(user: &User, place: usize, defaults: &RecommendOptions) -> Result<Self> {
        let name = serde_json::value::to_raw_value(&user.id);
        let name = name.map_err(|e| crate::Error::Invalid(e.to_string()))?;
        let wanted = Wanted::History(user.items.clone());
        Ok(Self {
            line: Some(place + 1),
            fields: Fields::from_iter([("user".to_string(), name)]),
            unknown: Vec::new(),
            reason: None,
            query: Ok(Query { wanted, user: Some(place as u32), options: defaults.clone() }),
        })
    }
}

/// A history written as ids joined by commas.
pub fn history(text: &str, lookup: &Lookup) -> Result<Wanted> {
    if text.trim().is_empty() {
        return Ok(Wanted::History(Vec::new()));
    }
    let items: std::result::Result<_, _> =
        text.split(',').map(|name| lookup.item(name.trim())).collect();
    Ok(Wanted::History(items?))
}

/// The items that there are of those named; the others go into `unknown`.
fn known(names: Vec<Name>, lookup: &Lookup, unknown: &mut Vec<Name>) -> Vec<ItemId> {
    let mut items = Vec::with_capacity(names.len());
    for name in names {
        let found = match &name {
            Name::Id(id) => lookup.item_by_id(*id),
            Name::Text(text) => lookup.item(text),
        };
        match found {
            Ok(item) => items.push(item),
            Err(_) => unknown.push(name),
        }
    }
    items
}

fn value(fields: &Fields, name: &str) -> Result<Option<Value>> {
    let read = |text: &RawValue| serde_json::from_str(text.get());
    match fields.get(name).map(|text| read(text)).transpose() {
        Ok(value) => Ok(value),
        Err(e) => invalid!("{name} is not JSON: {e}"),
    }
}

fn names(fields: &Fields, field: &str, most: usize) -> Result<Option<Vec<Name>>> {
    let items = match value(fields, field)? {
        None => return Ok(None),
        Some(Value::Array(items)) => items,
        Some(other) => {
            invalid!("{field} must be a list of items, found {}", short(&other.to_string()))
        }
    };
    if items.len() > most {
        invalid!("{field} has {} items; the most are {most}", items.len());
    }
    let name = |item: Value| match (whole(&item), item) {
        (Some(id), _) => Ok(Name::Id(id)),
        (None, Value::String(text)) => Ok(Name::Text(text)),
        (None, other) => {
            invalid!("{field}: an item is an id or a raw id, found {}", short(&other.to_string()))
        }
    };
    items.into_iter().map(name).collect::<Result<_>>().map(Some)
}

/// A whole number from 0, as far as JSON's readers agree on it; some write 3 as 3.0.
fn whole(value: &Value) -> Option<u64> {
    let number = value.as_f64()?;
    let agreed = number >= 0.0 && number < (1_u64 << 53) as f64 && number.fract() == 0.0;
    agreed.then_some(number as u64)
}

fn top(fields: &Fields, most: usize) -> Result<Option<usize>> {
    let Some(given) = value(fields, "top")? else { return Ok(None) };
    match whole(&given) {
        Some(0) | None => {
            invalid!("top must be a whole number from 1, found {}", short(&given.to_string()))
        }
        Some(top) if top > most as u64 => invalid!("top is {top}; the most are {most}"),
        Some(top) => Ok(Some(top as usize)),
    }
}

fn flag(fields: &Fields, name: &str) -> Result<Option<bool>> {
    match value(fields, name)? {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(flag)),
        Some(other) => {
            invalid!("{name} must be true or false, found {}", short(&other.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Dataset, Item};

    fn shop() -> Dataset {
        let item = |id: &str| Item { raw_id: Some(id.into()), ..Item::default() };
        let user = User { id: "u".into(), items: vec![0, 1, 2] };
        Dataset::new("shop", vec![user], ["A", "B", "C"].map(item).to_vec()).unwrap()
    }

    fn defaults() -> RecommendOptions {
        RecommendOptions {
            top: 10,
            only: None,
            exclude: vec![2],
            exclude_history: true,
            explain: false,
        }
    }

    fn read(text: &str) -> Request {
        let shop = shop();
        Request::from_json(text.as_bytes(), 1, &Lookup::new(&shop), &defaults())
    }

    #[test]
    fn a_request_overrides_what_holds_without_it() {
        let Query { wanted, user, options } = read(r#"{"user": "u"}"#).query.unwrap();
        assert_eq!((wanted, user), (Wanted::History(vec![0, 1, 2]), Some(0)));
        assert_eq!(options, defaults());
        // Whether there is such a user or not, a whole number is one, however it is spelt.
        for user in ["7", "7.0"] {
            let request = read(&format!("{{\"user\": {user}}}"));
            assert!(request.reason.unwrap().contains("no user \"7\""), "{user}");
        }
        for user in ["99999999999999999999999", "1.50"] {
            let request = read(&format!("{{\"user\": {user}}}"));
            assert!(request.reason.unwrap().contains(&format!("no user {user:?}")), "{user}");
        }
        let text = r#"{"id": [1, 2], "history": ["A", 9, 1.0], "top": 3.0, "only": ["B", "A", 1, "no"],
                       "exclude": [], "exclude_history": false, "explain": true}"#;
        let Request { fields, unknown, reason, query, .. } = read(text);
        let Query { wanted, user, options } = query.unwrap();
        assert_eq!(user, None);
        assert_eq!(wanted, Wanted::History(vec![0, 1]));
        assert_eq!(options.only.as_deref(), Some(&[0, 1][..]));
        assert_eq!((options.top, options.exclude.len()), (3, 0));
        assert!(options.explain && !options.exclude_history && reason.is_none());
        assert_eq!(unknown, [Name::Id(9), Name::Text("no".into())]);
        let back = serde_json::to_string(&fields).unwrap();
        assert_eq!(back, r#"{"id":[1, 2],"top":3.0,"exclude_history":false,"explain":true}"#);
    }

    #[test]
    fn whoever_is_not_known_gets_what_is_popular_and_the_reason() {
        for (text, expected) in [
            (r#"{"user": "nobody"}"#, "no user \"nobody\""),
            (r#"{"history": []}"#, "history is empty"),
            (r#"{"history": ["no", 9]}"#, "no item of the history"),
        ] {
            let request = read(text);
            assert_eq!(request.query.unwrap().wanted, Wanted::Popular, "{text}");
            let reason = request.reason.unwrap();
            assert!(reason.contains(expected), "{text}: {reason}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("{", "not JSON: EOF"),
            ("[1]", "expected an object, found [1]"),
            ("{}", "exactly one of"),
            (r#"{"user": "u", "text": "x"}"#, "exactly one of"),
            (r#"{"user": null}"#, "user must be a string, found null"),
            (r#"{"user": "u", "reason": 1}"#, "no field \"reason\""),
            (r#"{"history": "A"}"#, "must be a list of items, found \"A\""),
            (r#"{"history": [1, 1.5]}"#, "history: an item is an id or a raw id, found 1.5"),
            (r#"{"history": [9007199254740992]}"#, "found 9007199254740992"),
            (r#"{"history": [1], "only": []}"#, "only names no items"),
            (r#"{"history": [1], "only": ["no"]}"#, "none of the items that `only`"),
            (r#"{"history": [1], "top": 0}"#, "top must be a whole number from 1, found 0"),
            (r#"{"history": [1], "top": -1}"#, "found -1"),
            (r#"{"history": [1], "explain": 1}"#, "explain must be true or false, found 1"),
            (r#"{"text": 1e999}"#, "text is not JSON: number out of range"),
        ] {
            let error = read(text).query.unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let deep = format!("{{\"history\": {}1{}}}", "[".repeat(9999), "]".repeat(9999));
        assert!(read(&deep).query.unwrap_err().to_string().contains("recursion limit"));
    }

    #[test]
    fn limits_are_told_with_what_was_found() {
        let limits = Limits { top: 5, items: 2, only: 1, text: 3, fields: 2 };
        for (text, expected) in [
            (r#"{"text": "abcd"}"#, "text has 4 characters; the most are 3"),
            (r#"{"history": [1, 2, 3]}"#, "history has 3 items; the most are 2"),
            (r#"{"history": [1], "exclude": [1, 2, 3]}"#, "exclude has 3 items"),
            (r#"{"history": [1], "only": [1, 2]}"#, "only has 2 items; the most are 1"),
            (r#"{"history": [1], "top": 6}"#, "top is 6; the most are 5"),
            (r#"{"history": [1], "a": 1, "b": 1, "c": 1}"#, "given back; the most are 2"),
        ] {
            let error = Form::new(&read_fields(text.as_bytes(), limits.fields).unwrap(), &limits)
                .unwrap_err();
            assert!(error.to_string().contains(expected), "{text}: {error}");
        }
    }
}
