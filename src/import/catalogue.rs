//! What items are called: the texts of those that are kept.

use super::ids::{Ids, check};
use super::record::{Record, Role, Wrong};
use super::text::clean;
use crate::data::Item;

/// Items by number.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    items: Vec<Option<Box<Item>>>,
    /// Keep texts as they are.
    pub(super) raw: bool,
    /// The items of an items file that are kept, in its order.
    pub(super) listed: Vec<u32>,
    /// How many items the file lists.
    pub(super) rows: u64,
    /// How many of these were listed before and told nothing more: the first text of each kind stands.
    pub(super) twice: u64,
    /// How many of these are in no interaction that is kept.
    pub(super) unused: u64,
}

/// Which items of an items file are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep<'k> {
    /// How many interactions an item has, by number.
    pub(super) counts: &'k [u32],
    /// Those without any are kept too.
    pub(super) all: bool,
}

impl Catalogue {
    /// The texts of an item.
    pub(super) fn get(&self, item: u32) -> Option<&Item> {
        self.items.get(item as usize)?.as_deref()
    }

    /// Whether an item has any text.
    pub(super) fn has_text(&self, item: u32) -> bool {
        self.get(item).is_some_and(Item::has_text)
    }

    /// Whether any texts were read.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Takes the texts that stand in a row: of each kind the first that an item has is kept. Says whether there were any
    /// that the item lacked.
    pub(super) fn beside(&mut self, item: u32, record: &Record<'_>) -> bool {
        if self.items.len() <= item as usize {
            self.items.resize(item as usize + 1, None);
        }
        let texts = self.items[item as usize].get_or_insert_default();
        let Item { title, description, brand, categories, .. } = texts.as_mut();
        let mut is_more = false;
        for (role, text) in Role::TEXTS.into_iter().zip([title, description, brand, categories]) {
            if let Some(found) = record.get(role).filter(|_| text.is_empty()) {
                *text = if self.raw { found.trim().to_string() } else { clean(found) };
                is_more |= !text.is_empty();
            }
        }
        is_more
    }

    /// Takes a row of an items file.
    pub(super) fn listed(
        &mut self,
        record: &Record<'_>,
        ids: &mut Ids,
        keep: Keep<'_>,
    ) -> Result<(), Wrong> {
        let name = record.get(Role::Item).unwrap_or_default();
        self.rows += 1;
        let used = |id: u32| keep.counts.get(id as usize).is_some_and(|&n| n > 0);
        let item = match ids.get(name) {
            Some(id) if keep.all || used(id) => id,
            None if keep.all => {
                let number = check(name).and_then(|()| ids.number(name));
                number.map_err(|what| Wrong::field(Role::Item, what))?
            }
            _ => {
                self.unused += 1;
                return Ok(());
            }
        };
        let was_there = self.get(item).is_some();
        let is_more = self.beside(item, record);
        if was_there {
            self.twice += u64::from(!is_more);
            return Ok(());
        }
        self.unused += u64::from(!used(item));
        self.listed.push(item);
        Ok(())
    }
}
