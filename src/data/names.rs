//! `X.user2id` and `X.item2id`: the raw id that each number of a dataset folder stands for, a line each,
//! `RAW<TAB>NUMBER`.

use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::path::Path;

use super::entries::read_text;
use super::{DataError, Item, User};
use crate::files;

/// Where the raw ids of users stand.
pub(super) const USERS: &str = ".user2id";
/// Where the raw ids of items stand.
pub(super) const ITEMS: &str = ".item2id";

/// Reads the raw ids of a file, by number as it is spelt there.
///
/// # Errors
/// Names the line that is none, or whose number occurred before.
pub fn read_names(path: &Path) -> Result<HashMap<String, String>, DataError> {
    let mut names = HashMap::new();
    // A mark at the beginning is part of the first id: those that write such files add none.
    for (line, text) in (1..).zip(read_text(path, files::utf_8_of)?.lines()) {
        if text.is_empty() {
            continue;
        }
        let pair = text.rsplit_once('\t');
        let Some((raw, number)) =
            pair.filter(|(raw, number)| !raw.is_empty() && !number.is_empty())
        else {
            return Err(DataError::NameLine { path: path.into(), line });
        };
        if names.insert(number.to_string(), raw.to_string()).is_some() {
            let number = number.to_string();
            return Err(DataError::NameTwice { path: path.into(), line, number });
        }
    }
    Ok(names)
}

/// Writes raw ids with their numbers.
pub fn write_names<N: fmt::Display>(
    path: &Path,
    mut names: impl Iterator<Item = (N, usize)>,
) -> Result<(), DataError> {
    let written = files::replace_with(path, |file| {
        names.try_for_each(|(name, number)| writeln!(file, "{name}\t{number}"))
    });
    written.map_err(|reason| DataError::Io { path: path.into(), reason })
}

/// Gives users the raw ids of `path`, if it is there.
pub(super) fn name_users(path: &Path, users: &mut [User]) -> Result<(), DataError> {
    if !path.is_file() {
        return Ok(());
    }
    let mut names = read_names(path)?;
    for user in users {
        match names.remove(&user.id) {
            Some(raw) => user.id = raw,
            None => return Err(DataError::NoName { path: path.into(), key: user.id.clone() }),
        }
    }
    Ok(())
}

/// Gives items that have no raw id those of `path`, if it is there: what stands with an item goes before. Where
/// `are_all`, there are no items but these.
pub(super) fn name_items(path: &Path, items: &mut [Item], are_all: bool) -> Result<(), DataError> {
    if !path.is_file() {
        return Ok(());
    }
    let mut names = read_names(path)?;
    for (id, item) in items.iter_mut().enumerate().filter(|(_, item)| !item.is_gap) {
        let name = names.remove(&id.to_string());
        if item.raw_id.is_none() {
            item.raw_id = name;
        }
    }
    match names.into_keys().min_by_key(|number| (number.len(), number.clone())) {
        Some(number) if are_all => {
            let (path, items) = (path.into(), items.len());
            Err(DataError::NameOfNone { path, number, items })
        }
        _ => Ok(()),
    }
}
