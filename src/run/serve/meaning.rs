//! What an item token stands for: the items that have it. A token after the tokens of its source before
//! it (`--explain`) stands for those that begin alike, a token alone (`llmbs index report`) for all.

use std::cmp::Reverse;

use serde::Serialize;

use crate::data::{Dataset, ItemId};
use crate::index::Source;

/// How many items are named for a token.
const TYPICAL: usize = 3;

/// An item by all its names.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NamedItem {
    /// The item's id.
    pub item: ItemId,
    /// Its id in the shop, where the dataset has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_id: Option<String>,
    /// Its title, where the dataset has one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub title: String,
}

impl NamedItem {
    pub(in crate::run) fn new(dataset: &Dataset, item: ItemId) -> Self {
        let texts = &dataset.items[item as usize];
        Self { item, raw_id: texts.raw_id.clone(), title: texts.title.clone() }
    }
}

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenMeaning {
    /// The token.
    pub token: String,
    /// The signal its level comes from.
    pub source: Source,
    /// How many items it stands for.
    pub items: usize,
    /// Those of them that were bought most often in training.
    pub typical: Vec<NamedItem>,
}

/// Says what tokens stand for.
#[derive(Debug)]
pub(in crate::run) struct Meanings<'a> {
    dataset: &'a Dataset,
    popularity: Vec<u32>,
}

impl<'a> Meanings<'a> {
    pub(in crate::run) fn new(dataset: &'a Dataset) -> Self {
        Self { dataset, popularity: dataset.popularity() }
    }

    /// What `token` of a level from `source` stands for, if that is `items`.
    pub(in crate::run) fn of(
        &self,
        token: String,
        source: Source,
        items: &[ItemId],
    ) -> TokenMeaning {
        let mut typical = items.to_vec();
        typical.sort_unstable_by_key(|&item| (Reverse(self.popularity[item as usize]), item));
        typical.truncate(TYPICAL);
        TokenMeaning { token, source, items: items.len(), typical: self.named(typical) }
    }

    pub(in crate::run) fn named(&self, items: Vec<ItemId>) -> Vec<NamedItem> {
        items.into_iter().map(|item| NamedItem::new(self.dataset, item)).collect()
    }
}
