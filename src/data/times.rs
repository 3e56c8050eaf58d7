//! `X.times.json`: when each interaction of `X.inter.json` happened, in seconds, by the same keys.
//!
//! LC-Rec's format has no times; splits that go by them do (docs/evaluation.md).

use std::collections::HashMap;
use std::path::Path;

use super::entries::{self, Entries, INTER};
use super::{DataError, User, packed::beside};

/// Where times stand.
pub(super) const TIMES: &str = ".times.json";

/// The times of each of `users`, who still go by their keys; `None` where there is no such file.
pub(super) fn read(path: &Path, users: &[User]) -> Result<Option<Vec<Vec<i64>>>, DataError> {
    if !path.is_file() {
        return Ok(None);
    }
    let Entries::<Vec<i64>>(entries) = entries::read(path)?;
    let mut by_key: HashMap<String, Vec<i64>> = entries.into_iter().collect();
    let wrong =
        |user: &str, what: String| DataError::OfUser { path: path.into(), user: user.into(), what };
    let of_user = |user: &User| {
        let times = by_key.remove(&user.id).ok_or_else(|| wrong(&user.id, MISSING.into()))?;
        match fault(&times, user.items.len()) {
            Some(what) => Err(wrong(&user.id, what)),
            None => Ok(times),
        }
    };
    let times = users.iter().map(of_user).collect::<Result<_, _>>()?;
    match by_key.into_keys().min() {
        Some(user) => Err(wrong(&user, UNKNOWN.into())),
        None => Ok(Some(times)),
    }
}

/// Times by key.
#[derive(Debug)]
pub struct Times(HashMap<String, Vec<i64>>);

/// The times beside a file of interactions `X.inter.json`; none where there are none.
///
/// # Errors
/// If they cannot be read.
pub fn times_beside(inter: &Path) -> Result<Option<Times>, DataError> {
    let Some(path) = beside(inter, INTER, TIMES) else { return Ok(None) };
    let Entries::<Vec<i64>>(entries) = entries::read(&path)?;
    Ok(Some(Times(entries.into_iter().collect())))
}

impl Times {
    /// Those of a user's `items` interactions.
    ///
    /// # Errors
    /// Says what is wrong with them.
    pub fn of(&self, user: &str, items: usize) -> Result<&[i64], String> {
        let times = self.0.get(user).ok_or(MISSING)?;
        fault(times, items).map_or(Ok(times), Err)
    }
}

/// What is said of a user who has interactions and no times.
pub(super) const MISSING: &str = "has interactions, but no times";
/// What is said of a user who has times and no interactions.
pub(super) const UNKNOWN: &str = "has times, but no interactions";

/// What is wrong with the times of a user's `items` interactions.
pub(super) fn fault(times: &[i64], items: usize) -> Option<String> {
    if times.len() != items {
        return Some(format!("has {items} interactions, but {} times", times.len()));
    }
    let at = times.windows(2).position(|pair| pair[0] > pair[1])?;
    Some(format!("has the time {} after {}; put the oldest first", times[at + 1], times[at]))
}
