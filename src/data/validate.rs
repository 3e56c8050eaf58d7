//! `llmbs data validate`: every problem of a dataset folder at once, where reading it stops at the first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::entries::{self, INTER, ITEM, Pairs, plain_id};
use super::lcrec::{self, RAW_IDS};
use super::{DataError, ItemId, Split, TextField, User, UserTexts, times, user_texts};

/// Missing ids that are named; beyond them the ids are no numbering.
const GAPS_NAMED: usize = 1000;

/// Something that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// The user or item in it; empty for the file as a whole.
    pub place: String,
    /// What is wrong, and what to do.
    pub what: String,
    /// What problems of this kind have in common.
    pub kind: &'static str,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.what)
    }
}

/// All problems of the dataset in `dir`, by file and kind; none for one that can be trained on.
///
/// Beyond what [`super::Dataset::load`] refuses: fields that are no text or have another name, and user texts
/// that hold the title of what is to be predicted.
///
/// # Errors
/// If there is no dataset to look at.
pub fn validate(dir: &Path) -> Result<Vec<Problem>, DataError> {
    let name = lcrec::dataset_name(dir)?;
    let file = |ending: &str| dir.join(format!("{name}{ending}"));
    let (item, inter, texts) = (file(ITEM), file(INTER), file(user_texts::USER));
    let mut problems = Vec::new();
    let titles = if item.is_file() { Some(items(&item, &mut problems)?) } else { None };
    let users = users(&inter, titles.as_ref(), &mut problems)?;
    let when = file(times::TIMES);
    if when.is_file() {
        check_times(&when, &users, &mut problems)?;
    }
    if texts.is_file() {
        about_users(&texts, &users, titles.as_ref(), &mut problems)?;
    }
    // Files as they were read; in each, one kind after another, as they came up first.
    let mut kinds: Vec<(PathBuf, &str)> = Vec::new();
    for problem in &problems {
        let kind = (problem.path.clone(), problem.kind);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    problems.sort_by_key(|p| kinds.iter().position(|k| k.0 == p.path && k.1 == p.kind));
    if problems.is_empty() {
        let problem = match super::Dataset::load(dir) {
            Err(e) => Some((e, "cannot be read")),
            // Divided by time, there may be more to learn from.
            Ok(dataset) if dataset.times.is_some() => None,
            Ok(dataset) => dataset.check_trainable().err().map(|e| (e, "cannot be learnt from")),
        };
        problems.extend(problem.map(|(e, kind)| Problem {
            path: dir.to_path_buf(),
            place: String::new(),
            what: e.to_string(),
            kind,
        }));
    }
    Ok(problems)
}

/// Notes problems of one file.
struct Notes<'p> {
    path: &'p Path,
    problems: &'p mut Vec<Problem>,
}

impl Notes<'_> {
    fn add(&mut self, kind: &'static str, place: impl Into<String>, what: impl Into<String>) {
        let (place, what) = (place.into(), what.into());
        self.problems.push(Problem { path: self.path.to_path_buf(), place, what, kind });
    }

    /// The entries of the file, keys that occur twice noted; none where it is no JSON object.
    fn entries(&mut self) -> Result<Vec<(String, Value)>, DataError> {
        match entries::read::<Pairs<Value>>(self.path) {
            Ok(Pairs(entries)) => {
                let mut seen = BTreeSet::new();
                for (key, _) in &entries {
                    if !seen.insert(key.as_str()) {
                        let place = format!("key {key:?}");
                        self.add("keys that occur twice", place, "occurs twice; keep one");
                    }
                }
                Ok(entries)
            }
            Err(DataError::Malformed { reason, .. }) => {
                self.add("not JSON", "", reason);
                Ok(Vec::new())
            }
            Err(other) => Err(other),
        }
    }
}

/// The titles of the items, by id.
fn items(path: &Path, problems: &mut Vec<Problem>) -> Result<BTreeMap<ItemId, String>, DataError> {
    let mut notes = Notes { path, problems };
    let (mut titles, mut raw_ids) = (BTreeMap::new(), HashMap::new());
    for (key, value) in notes.entries()? {
        let place = format!("item {key:?}");
        // Only the plain spelling, or "1" and "01" would be one item.
        let Some(id) = plain_id(&key) else {
            notes.add(
                "item keys",
                place,
                "the key is no item id; keys are the integers from \"0\" on",
            );
            continue;
        };
        let Value::Object(fields) = value else {
            notes.add(
                "items that are no objects",
                place,
                format!("expected an object, found {}", kind(&value)),
            );
            titles.insert(id, String::new());
            continue;
        };
        for (name, value) in &fields {
            field(&mut notes, &place, name, value);
        }
        let raw_id = RAW_IDS.iter().find_map(|name| match fields.get(*name)? {
            Value::String(raw_id) => Some(raw_id.clone()).filter(|raw_id| !raw_id.is_empty()),
            // Of a longer number not all digits are told here.
            Value::Number(raw_id) if raw_id.is_u64() || raw_id.is_i64() => Some(raw_id.to_string()),
            _ => None,
        });
        if let Some(raw_id) = raw_id
            && let Some(first) = raw_ids.insert(raw_id.clone(), id)
        {
            let what = format!("has the raw id {raw_id:?}, which item {first} has too");
            notes.add("raw ids that occur twice", place, what);
        }
        let title = fields.get("title").and_then(Value::as_str).unwrap_or_default();
        titles.insert(id, title.trim().to_string());
    }
    if let Some((&last, _)) = titles.last_key_value() {
        let missing = last as usize + 1 - titles.len();
        if missing > GAPS_NAMED {
            let what =
                format!("{missing} of the ids up to {last} are missing: number the items from 0");
            notes.add("ids that are missing", "", what);
        } else {
            for id in (0..last).filter(|id| !titles.contains_key(id)) {
                let what = "is missing: ids run from 0 without gaps";
                notes.add("ids that are missing", format!("item \"{id}\""), what);
            }
        }
    }
    Ok(titles)
}

/// One field of an item.
fn field(notes: &mut Notes<'_>, place: &str, name: &str, value: &Value) {
    let texts = TextField::ALL.map(TextField::name);
    let known = texts.into_iter().chain(RAW_IDS).find(|known| known.eq_ignore_ascii_case(name));
    let Some(known) = known else { return };
    if known != name {
        let what = format!("the field {name:?} is not read; call it {known:?}");
        notes.add("names of fields", place, what);
        return;
    }
    let is_text = texts.contains(&name);
    match value {
        Value::String(_) | Value::Null => {}
        Value::Number(_) if !is_text => {}
        other if is_text => {
            let what = format!("{name} is {}; make it one text", kind(other));
            notes.add("fields that are no text", place, what);
        }
        other => {
            let what = format!("{name} is {}; a raw id is a string or a number", kind(other));
            notes.add("raw ids", place, what);
        }
    }
}

/// The users with a sequence that can be read.
fn users(
    path: &Path,
    items: Option<&BTreeMap<ItemId, String>>,
    problems: &mut Vec<Problem>,
) -> Result<Vec<User>, DataError> {
    let mut notes = Notes { path, problems };
    let (mut users, mut long_enough) = (Vec::new(), 0);
    let mut unknown: BTreeMap<ItemId, (String, usize)> = BTreeMap::new();
    for (key, value) in notes.entries()? {
        let place = format!("user {key:?}");
        let Value::Array(sequence) = value else {
            let what = format!("expected a list of item ids, found {}", kind(&value));
            notes.add("sequences", place, what);
            continue;
        };
        let mut read = Vec::with_capacity(sequence.len());
        for item in &sequence {
            match item.as_u64().and_then(|id| ItemId::try_from(id).ok()) {
                Some(id) => read.push(id),
                None => {
                    notes.add(
                        "sequences",
                        &*place,
                        format!("{item} is no item id, which is an integer"),
                    );
                }
            }
        }
        long_enough += usize::from(read.len() >= 3);
        for &id in &read {
            if items.is_some_and(|items| !items.contains_key(&id)) {
                unknown.entry(id).or_insert_with(|| (key.clone(), 0)).1 += 1;
            }
        }
        users.push(User { id: key, items: read });
    }
    for (item, (user, times)) in unknown {
        let what =
            format!("takes item {item}, which item.json lacks; {times} interactions have it");
        notes.add("items without an entry", format!("user {user:?}"), what);
    }
    if long_enough == 0 {
        let what = format!(
            "none of {} users has 3 interactions: training, validation and test take one each",
            users.len()
        );
        notes.add("no user to train on", "", what);
    }
    Ok(users)
}

/// Times that are not those of the users' interactions.
fn check_times(path: &Path, users: &[User], problems: &mut Vec<Problem>) -> Result<(), DataError> {
    let kind = "times";
    let mut notes = Notes { path, problems };
    let mut unseen: BTreeMap<&str, usize> =
        users.iter().map(|user| (user.id.as_str(), user.items.len())).collect();
    for (key, value) in notes.entries()? {
        let place = format!("user {key:?}");
        let Some(items) = unseen.remove(key.as_str()) else {
            notes.add(kind, place, times::UNKNOWN);
            continue;
        };
        match serde_json::from_value::<Vec<i64>>(value) {
            Ok(of_user) => {
                if let Some(what) = times::fault(&of_user, items) {
                    notes.add(kind, place, what);
                }
            }
            Err(_) => notes.add(kind, place, "expected a list of whole seconds"),
        }
    }
    for user in unseen.into_keys() {
        notes.add(kind, format!("user {user:?}"), times::MISSING);
    }
    Ok(())
}

/// Texts about users that nobody has, or that hold the title of an item that leave-one-out holds out.
fn about_users(
    path: &Path,
    users: &[User],
    titles: Option<&BTreeMap<ItemId, String>>,
    problems: &mut Vec<Problem>,
) -> Result<(), DataError> {
    let mut notes = Notes { path, problems };
    let mut texts = match user_texts::read_user_texts(path) {
        Ok(texts) => texts,
        Err(DataError::Malformed { reason, .. }) => {
            notes.add("not JSON", "", reason);
            return Ok(());
        }
        Err(other) => return Err(other),
    };
    for user in users {
        let Some(UserTexts { preferences, wish }) = texts.remove(&user.id) else { continue };
        let queries = wish.iter().flat_map(|wish| &wish.queries);
        let targets = match user.items.len() {
            0..3 => [].iter(),
            n => user.items[n - 2..].iter(),
        };
        for (&target, split) in targets.zip([Split::Valid, Split::Test]) {
            let title = titles.and_then(|titles| titles.get(&target)).map_or("", String::as_str);
            for text in preferences.iter().chain(queries.clone()) {
                if !title.is_empty() && text.contains(title) {
                    let what = format!(
                        "a text holds {title:?}, the title of the {split} target {target}: it gives the answer away"
                    );
                    notes.add("texts that tell the target", format!("user {:?}", user.id), what);
                }
            }
        }
    }
    let mut unknown: Vec<String> = texts.into_keys().collect();
    unknown.sort_unstable();
    for user in unknown {
        notes.add("texts without a user", format!("user {user:?}"), user_texts::UNKNOWN);
    }
    Ok(())
}

/// What a value is, in a sentence.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("the string {text:?}"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let shop = dir.path().join("Shop");
        std::fs::create_dir(&shop).unwrap();
        for (name, text) in files {
            std::fs::write(shop.join(name), text).unwrap();
        }
        let strip = format!("{}/", shop.display());
        validate(&shop).unwrap().iter().map(|p| p.to_string().replace(&strip, "")).collect()
    }

    #[test]
    fn a_good_dataset_has_no_problems() {
        let inter = r#"{"a": [0, 1, 2, 0], "b": [1]}"#;
        let item = r#"{"0": {"title": "x", "asin": 7, "price": 3}, "1": {}, "2": {"title": null}}"#;
        assert!(found(&[("Shop.inter.json", inter), ("Shop.item.json", item)]).is_empty());
        assert!(found(&[("Shop.inter.json", inter)]).is_empty());
    }

    #[test]
    fn every_problem_is_told_at_once_with_its_place() {
        let inter = r#"{"a": [0, 9, 9, "x"], "b": 3, "c": [1.5], "a": []}"#;
        let item = r#"{"0": {"Title": "x", "asin": "A"}, "01": {}, "1": {"title": ["x"], "asin": "A"},
                       "3": 7, "4": {"brand": 5, "asin": []}}"#;
        let expected = [
            r#"Shop.item.json: item "0": the field "Title" is not read; call it "title""#,
            r#"Shop.item.json: item "01": the key is no item id; keys are the integers from "0" on"#,
            r#"Shop.item.json: item "1": title is a list; make it one text"#,
            r#"Shop.item.json: item "4": brand is 5; make it one text"#,
            r#"Shop.item.json: item "1": has the raw id "A", which item 0 has too"#,
            r#"Shop.item.json: item "3": expected an object, found 7"#,
            r#"Shop.item.json: item "4": asin is a list; a raw id is a string or a number"#,
            r#"Shop.item.json: item "2": is missing: ids run from 0 without gaps"#,
            r#"Shop.inter.json: key "a": occurs twice; keep one"#,
            r#"Shop.inter.json: user "a": "x" is no item id, which is an integer"#,
            r#"Shop.inter.json: user "b": expected a list of item ids, found 3"#,
            r#"Shop.inter.json: user "c": 1.5 is no item id, which is an integer"#,
            r#"Shop.inter.json: user "a": takes item 9, which item.json lacks; 2 interactions have it"#,
        ];
        assert_eq!(found(&[("Shop.inter.json", inter), ("Shop.item.json", item)]), expected);
    }

    #[test]
    fn raw_ids_are_those_that_the_dataset_has() {
        let inter = r#"{"a": [0, 1, 2, 0]}"#;
        let item = r#"{"0": {"item_id": "x", "parent_asin": "A", "asin": "B"}, "1": {"item_id": "x", "asin": "C"},
                       "2": {"item_id": "x", "parent_asin": "D", "asin": null}}"#;
        assert!(found(&[("Shop.inter.json", inter), ("Shop.item.json", item)]).is_empty());
        let twice = item.replace('D', "B");
        let told = found(&[("Shop.inter.json", inter), ("Shop.item.json", &twice)]);
        let expected = r#"Shop.item.json: item "2": has the raw id "B", which item 0 has too"#;
        assert_eq!(told, [expected]);
    }

    #[test]
    fn times_are_those_of_the_interactions() {
        let inter = r#"{"a": [0, 1, 2, 0], "b": [1], "c": [2], "d": [0], "e": [1, 2]}"#;
        let times = r#"{"a": [5, 5, 9, 9], "b": [1, 2], "c": ["x"], "e": [4, 3], "f": []}"#;
        let expected = [
            r#"Shop.times.json: user "b": has 1 interactions, but 2 times"#,
            r#"Shop.times.json: user "c": expected a list of whole seconds"#,
            r#"Shop.times.json: user "e": has the time 3 after 4; put the oldest first"#,
            r#"Shop.times.json: user "f": has times, but no interactions"#,
            r#"Shop.times.json: user "d": has interactions, but no times"#,
        ];
        assert_eq!(found(&[("Shop.inter.json", inter), ("Shop.times.json", times)]), expected);
        let times = r#"{"a": [5, 5, 9, 9], "b": [1], "c": [-2], "d": [0], "e": [4, 4]}"#;
        assert!(found(&[("Shop.inter.json", inter), ("Shop.times.json", times)]).is_empty());
    }

    #[test]
    fn files_that_cannot_be_read_and_users_without_a_split_are_told() {
        let told = found(&[("Shop.inter.json", r#"{"a": [0, 1]}"#), ("Shop.item.json", "[1]")]);
        assert!(told[0].starts_with("Shop.item.json: invalid type: sequence"), "{told:?}");
        assert!(told.last().unwrap().contains("none of 1 users has 3 interactions"), "{told:?}");
    }

    #[test]
    fn texts_about_users_can_be_read() {
        let inter = ("Shop.inter.json", r#"{"0": [0, 1, 2]}"#);
        let told =
            found(&[inter, ("Shop.user.json", r#"{"user_explicit_preference": {"7": ["x"]}}"#)]);
        assert_eq!(told, [r#"Shop.user.json: user "7": has texts, but no interactions"#]);
        let told = found(&[inter, ("Shop.user.json", r#"{"user_explicit_preference": 3}"#)]);
        assert!(told[0].starts_with("Shop.user.json: invalid type"), "{told:?}");
    }

    #[test]
    fn a_text_that_tells_the_target_is_a_leak() {
        let inter = r#"{"0": [0, 1, 2], "1": [0, 1, 2, 0]}"#;
        let item = r#"{"0": {"title": "Rose soap"}, "1": {"title": "Cream"}, "2": {"title": ""}}"#;
        let user = r#"{"user_explicit_preference": {"0": ["likes Rose soap"], "1": ["Rose soap, daily"]}}"#;
        let told = found(&[
            ("Shop.inter.json", inter),
            ("Shop.item.json", item),
            ("Shop.user.json", user),
        ]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0]
                .contains(r#"user "1": a text holds "Rose soap", the title of the test target 0"#)
        );
    }
}
