//! Users and items by the names people give them.

use std::collections::HashMap;

use super::{DataError, Dataset, ItemId, User};

/// Finds the users and items of a dataset by name; made once for any number of questions.
#[derive(Debug)]
pub struct Lookup<'a> {
    dataset: &'a Dataset,
    users: HashMap<&'a str, &'a User>,
    raw_ids: HashMap<&'a str, ItemId>,
}

impl<'a> Lookup<'a> {
    /// The names of `dataset`.
    pub fn new(dataset: &'a Dataset) -> Self {
        let raw_ids =
            (0..).zip(&dataset.items).filter_map(|(id, i)| Some((i.raw_id.as_deref()?, id)));
        Self {
            dataset,
            users: dataset.users.iter().map(|user| (user.id.as_str(), user)).collect(),
            raw_ids: raw_ids.collect(),
        }
    }

    /// The user with this key.
    ///
    /// # Errors
    /// If there is none, or one with fewer than three interactions.
    pub fn user(&self, key: &str) -> Result<&'a User, DataError> {
        self.users.get(key).copied().ok_or_else(|| DataError::NoSuchUser {
            dataset: self.dataset.name.clone(),
            user: key.to_string(),
            first: self.dataset.users[0].id.clone(),
        })
    }

    /// The item that the shop knows by `name`; if there is none, the item with the id `name`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn item(&self, name: &str) -> Result<ItemId, DataError> {
        let by_raw_id = self.raw_ids.get(name).copied();
        by_raw_id.or_else(|| self.known(name.parse().ok()?)).ok_or_else(|| self.no_item(name))
    }

    /// `id` as the id of an item.
    ///
    /// # Errors
    /// If there is no such item.
    pub fn item_by_id(&self, id: u64) -> Result<ItemId, DataError> {
        self.known(id).ok_or_else(|| self.no_item(&id.to_string()))
    }

    fn known(&self, id: u64) -> Option<ItemId> {
        (id < self.dataset.num_items() as u64).then_some(id as ItemId)
    }

    fn no_item(&self, name: &str) -> DataError {
        let example = self.dataset.items.iter().find_map(|item| item.raw_id.as_ref());
        DataError::NoSuchItem {
            dataset: self.dataset.name.clone(),
            item: name.to_string(),
            last: self.dataset.num_items() - 1,
            or_raw: example.map_or_else(String::new, |id| format!(", or raw ids such as {id:?}")),
        }
    }
}
