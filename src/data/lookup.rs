//! Users and items by the names people give them.

use std::collections::HashMap;

use super::entries::plain_id;
use super::{DataError, Dataset, ItemId, User};

/// Finds the users and items of a dataset by name; made once for any number of questions.
#[derive(Debug)]
pub struct Lookup<'a> {
    dataset: &'a Dataset,
    /// Their places in the dataset.
    users: HashMap<&'a str, u32>,
    raw_ids: HashMap<&'a str, ItemId>,
    /// Some raw id looks like a number.
    numeric_raw_ids: bool,
}

impl<'a> Lookup<'a> {
    /// The names of `dataset`.
    pub fn new(dataset: &'a Dataset) -> Self {
        let raw_ids: HashMap<&str, ItemId> = (0..)
            .zip(&dataset.items)
            .filter_map(|(id, i)| Some((i.raw_id.as_deref()?, id)))
            .collect();
        Self {
            dataset,
            users: (0..).zip(&dataset.users).map(|(at, user)| (user.id.as_str(), at)).collect(),
            numeric_raw_ids: dataset.has_numeric_raw_ids(),
            raw_ids,
        }
    }

    /// The user with this key.
    ///
    /// # Errors
    /// If there is none, or one with fewer than three interactions.
    pub fn user(&self, key: &str) -> Result<&'a User, DataError> {
        let found = self.place(key).map(|place| &self.dataset.users[place as usize]);
        found.ok_or_else(|| DataError::NoSuchUser {
            dataset: self.dataset.name.clone(),
            user: key.to_string(),
            whom: match self.dataset.users.first() {
                Some(first) => format!("its first is {:?}", first.id),
                None => "its users were left out: give a history".into(),
            },
        })
    }

    /// Whether the users came along: an export may leave them out.
    pub fn has_users(&self) -> bool {
        !self.dataset.users.is_empty()
    }

    /// Where the user with this key stands in the dataset.
    pub fn place(&self, key: &str) -> Option<u32> {
        self.users.get(key).copied()
    }

    /// The item that the shop knows by `name`, exactly; if there is none, the item whose id `name` is in
    /// its plain spelling, without sign and leading zeros.
    ///
    /// Where raw ids look like numbers a string is a raw id only: half of a raw id must not become another
    /// item.
    ///
    /// # Errors
    /// If it is neither.
    pub fn item(&self, name: &str) -> Result<ItemId, DataError> {
        let by_raw_id = self.raw_ids.get(name).copied();
        let own = || plain_id(name).and_then(|id| self.known(id.into()));
        let by_own_id = || if self.numeric_raw_ids { None } else { own() };
        by_raw_id.or_else(by_own_id).ok_or_else(|| self.no_item(name))
    }

    /// `id` as the id of an item.
    ///
    /// # Errors
    /// If there is no such item.
    pub fn item_by_id(&self, id: u64) -> Result<ItemId, DataError> {
        self.known(id).ok_or_else(|| self.no_item(&id.to_string()))
    }

    fn known(&self, id: u64) -> Option<ItemId> {
        let item = self.dataset.items.get(usize::try_from(id).ok()?)?;
        (!item.is_gap).then_some(id as ItemId)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Item;

    fn shop(raw_ids: [Option<&str>; 4]) -> Dataset {
        let item =
            |raw_id: Option<&str>| Item { raw_id: raw_id.map(String::from), ..Item::default() };
        let mut items = raw_ids.map(item).to_vec();
        items.push(Item { is_gap: true, ..Item::default() });
        let user = User { id: "u".into(), items: vec![0, 1, 2] };
        Dataset::new("shop", vec![user], items).unwrap()
    }

    #[test]
    fn a_name_is_a_raw_id_or_the_plain_spelling_of_an_id() {
        let dataset = shop([Some("B00"), None, Some("B02"), None]);
        let lookup = Lookup::new(&dataset);
        assert_eq!(lookup.item("B02").unwrap(), 2);
        assert_eq!(lookup.item("3").unwrap(), 3);
        for wrong in ["+3", "03", " 3", "-1", "3.0", "", "4", "99", "b02"] {
            assert!(lookup.item(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(lookup.item_by_id(3).unwrap(), 3);
        // No item has the id 4: it is a gap.
        assert!(lookup.item_by_id(4).is_err() && lookup.item_by_id(u64::MAX).is_err());
    }

    #[test]
    fn where_raw_ids_are_numbers_a_string_is_nothing_else() {
        let dataset = shop([Some("0000000003"), Some("7106116521"), None, Some("1")]);
        let lookup = Lookup::new(&dataset);
        assert_eq!(lookup.item("0000000003").unwrap(), 0);
        assert_eq!(lookup.item("1").unwrap(), 3);
        for wrong in ["3", "0000000001", "0", "2"] {
            let error = lookup.item(wrong).unwrap_err().to_string();
            assert!(error.contains("raw ids"), "{error}");
        }
        assert_eq!(lookup.item_by_id(1).unwrap(), 1);
    }
}
