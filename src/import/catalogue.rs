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
    /// How many of these were listed before: the first stands.
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

    /// Takes the texts that stand in a row of interactions; the first that an item has are kept.
    pub(super) fn beside(&mut self, item: u32, record: &Record<'_>) {
        if self.get(item).is_none() {
            let texts = self.texts(record);
            self.put(item, texts);
        }
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
        if self.get(item).is_some() {
            self.twice += 1;
            return Ok(());
        }
        self.unused += u64::from(!used(item));
        let texts = self.texts(record);
        self.put(item, texts);
        self.listed.push(item);
        Ok(())
    }

    fn put(&mut self, item: u32, texts: Item) {
        if self.items.len() <= item as usize {
            self.items.resize(item as usize + 1, None);
        }
        self.items[item as usize] = Some(Box::new(texts));
    }

    fn texts(&self, record: &Record<'_>) -> Item {
        let text = |role| match record.get(role) {
            Some(text) if self.raw => text.trim().to_string(),
            Some(text) => clean(text),
            None => String::new(),
        };
        Item {
            title: text(Role::Title),
            description: text(Role::Description),
            brand: text(Role::Brand),
            categories: text(Role::Categories),
            ..Item::default()
        }
    }
}
