//! `X.user.json`, as LC-Rec has it: what users prefer and what they were looking for, in words.
//!
//! Of the searches those under `train` alone are read: the others tell what is to be predicted.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::entries;
use super::{DataError, ItemId, User};
use crate::files;

/// Where texts about users stand.
pub(super) const USER: &str = ".user.json";

/// What is said of a user who has texts and no interactions.
pub(super) const UNKNOWN: &str = "has texts, but no interactions";

/// What is said about a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserTexts {
    /// What the user prefers, each a text of its own.
    pub preferences: Vec<String>,
    /// What the user was looking for.
    pub wish: Option<Wish>,
}

/// A search that ended with an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// It, in several wordings.
    #[serde(rename = "querys", alias = "queries")]
    pub queries: Vec<String>,
    /// What was taken in the end.
    pub item: ItemId,
}

#[derive(Default, Serialize, Deserialize)]
struct File {
    #[serde(default)]
    user_explicit_preference: BTreeMap<String, Texts>,
    #[serde(default)]
    user_vague_intention: Intentions,
}

#[derive(Default, Serialize, Deserialize)]
struct Intentions {
    #[serde(default)]
    train: BTreeMap<String, Wish>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Several(Vec<String>),
}

/// What is said about users, by their keys; empty texts are passed over.
///
/// # Errors
/// If the file cannot be read.
pub fn read_user_texts(path: &Path) -> Result<HashMap<String, UserTexts>, DataError> {
    let file: File = entries::read(path)?;
    let mut users: HashMap<String, UserTexts> = HashMap::new();
    let kept = |texts: Vec<String>| -> Vec<String> {
        let trimmed = texts.iter().map(|text| text.trim().to_string());
        trimmed.filter(|text| !text.is_empty()).collect()
    };
    for (user, texts) in file.user_explicit_preference {
        let texts = match texts {
            Texts::One(text) => vec![text],
            Texts::Several(texts) => texts,
        };
        users.entry(user).or_default().preferences = kept(texts);
    }
    for (user, wish) in file.user_vague_intention.train {
        let queries = kept(wish.queries);
        if !queries.is_empty() {
            users.entry(user).or_default().wish = Some(Wish { queries, ..wish });
        }
    }
    Ok(users)
}

/// Writes what is said about users, by key, as the dataset `name` in the folder `dir` has it.
pub fn write_user_texts<'t, K: fmt::Display>(
    dir: &Path,
    name: &str,
    users: impl Iterator<Item = (K, &'t UserTexts)>,
) -> Result<(), DataError> {
    let mut file = File::default();
    for (key, UserTexts { preferences, wish }) in users {
        let key = key.to_string();
        if let Some(wish) = wish {
            file.user_vague_intention.train.insert(key.clone(), wish.clone());
        }
        if !preferences.is_empty() {
            file.user_explicit_preference.insert(key, Texts::Several(preferences.clone()));
        }
    }
    let path = dir.join(format!("{name}{USER}"));
    let written = files::replace_with(&path, |out| {
        serde_json::to_writer(&mut *out, &file)?;
        std::io::Write::write_all(out, b"\n")
    });
    written.map_err(|reason| DataError::Io { path, reason })
}

/// What is said about each of `users`, who still go by their keys; `None` where there is no such file.
pub(super) fn read(path: &Path, users: &[User]) -> Result<Option<Vec<UserTexts>>, DataError> {
    if !path.is_file() {
        return Ok(None);
    }
    let mut by_key = read_user_texts(path)?;
    let texts = users.iter().map(|user| by_key.remove(&user.id).unwrap_or_default()).collect();
    match by_key.into_keys().min() {
        Some(user) => Err(DataError::OfUser { path: path.into(), user, what: UNKNOWN.into() }),
        None => Ok(Some(texts)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Vec<User> {
        ["7", "8", "9"].map(|id| User { id: id.into(), items: vec![0, 1, 2] }).into()
    }

    #[test]
    fn preferences_and_searches_of_training_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("Shop.user.json");
        assert_eq!(read(&path, &users()).unwrap(), None);
        let text = r#"{"user_explicit_preference": {"7": [" likes soap ", ""], "9": "foam"},
            "user_vague_intention": {"train": {"7": {"querys": ["a soap", "soft"], "item": 1, "inters": [0]}},
                                     "test": {"8": {"querys": ["the answer"], "item": 2}}}}"#;
        std::fs::write(&path, text).unwrap();
        let found = read(&path, &users()).unwrap().unwrap();
        let wish = Wish { queries: vec!["a soap".into(), "soft".into()], item: 1 };
        let of_7 = UserTexts { preferences: vec!["likes soap".into()], wish: Some(wish) };
        let of_9 = UserTexts { preferences: vec!["foam".into()], wish: None };
        assert_eq!(found, [of_7, UserTexts::default(), of_9]);
        // And written as it was read.
        let keys = users().into_iter().map(|user| user.id);
        write_user_texts(dir.path(), "Again", keys.zip(&found)).unwrap();
        assert_eq!(read(&dir.path().join("Again.user.json"), &users()).unwrap().unwrap(), found);
        std::fs::write(&path, r#"{"user_explicit_preference": {"6": ["x"]}}"#).unwrap();
        let error = read(&path, &users()).unwrap_err().to_string();
        assert!(error.contains("Shop.user.json: user \"6\" has texts, but no"), "{error}");
        std::fs::write(&path, r#"{"user_explicit_preference": 3}"#).unwrap();
        let error = read(&path, &users()).unwrap_err().to_string();
        assert!(error.contains("Shop.user.json: invalid type"), "{error}");
    }
}
