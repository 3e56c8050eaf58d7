//! The items that a search may find: all of a catalogue, or those that a request names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::added::Catalogue;
use crate::data::{Dataset, ItemId};
use crate::index::{ItemIndex, Trie};
use crate::{Result, invalid};

/// How many filters are kept for the requests that come next: a shop asks with few, again and again.
const KEPT: usize = 8;

/// A set of items as a search needs it.
#[derive(Debug)]
pub(super) struct Offer {
    /// The items that stand in for those that are offered.
    ///
    /// None where nothing is searched, but scored.
    pub(super) trie: Option<Trie>,
    /// The items offered under each item of the trie: itself first, then those added by id.
    pub(super) offered_as: BTreeMap<ItemId, Vec<ItemId>>,
    pub(super) num_items: usize,
    is_offered: Vec<bool>,
}

impl Offer {
    /// All items of a catalogue.
    pub(super) fn all(catalogue: &Catalogue, index: Option<&ItemIndex>) -> Result<Self> {
        Self::of(catalogue, index, catalogue.dataset().catalogue())
    }

    /// Some items of a catalogue; an item may be given twice.
    ///
    /// # Errors
    /// If an item does not exist, or none is given.
    fn of(
        catalogue: &Catalogue,
        index: Option<&ItemIndex>,
        items: impl IntoIterator<Item = ItemId>,
    ) -> Result<Self> {
        let dataset = catalogue.dataset();
        let mut is_offered = vec![false; dataset.num_items()];
        for item in items {
            check(dataset, item)?;
            is_offered[item as usize] = true;
        }
        let mut offered_as: BTreeMap<ItemId, Vec<ItemId>> = BTreeMap::new();
        for item in (0..).zip(&is_offered).filter_map(|(item, offered)| offered.then_some(item)) {
            offered_as.entry(catalogue.stand_in(item)).or_default().push(item);
        }
        let num_items = is_offered.iter().filter(|offered| **offered).count();
        if num_items == 0 {
            invalid!("there is no item to recommend: `only` names none");
        }
        let trie = |index| Trie::subset(index, offered_as.keys().copied());
        let trie = index.map(trie).transpose()?;
        Ok(Self { trie, offered_as, num_items, is_offered })
    }

    /// Whether `item`, which may not exist, is among them.
    pub(super) fn has(&self, item: ItemId) -> bool {
        self.is_offered.get(item as usize).is_some_and(|offered| *offered)
    }
}

/// Refuses an item that does not exist.
pub(super) fn check(dataset: &Dataset, item: ItemId) -> Result<()> {
    match dataset.items.get(item as usize) {
        Some(found) if !found.is_gap => Ok(()),
        _ => {
            let (name, last) = (&dataset.name, dataset.num_items() - 1);
            invalid!("item {item} is not in {name}: its items are 0 to {last}")
        }
    }
}

/// What is offered without a filter, and with those asked for lately.
#[derive(Debug)]
pub(super) struct Offers {
    all: Arc<Offer>,
    /// The latest first.
    filtered: Mutex<Vec<Filtered>>,
}

/// What is offered to those who name the items of `only`.
#[derive(Debug)]
struct Filtered {
    only: Arc<[ItemId]>,
    offer: Arc<Offer>,
}

impl Offers {
    pub(super) fn new(all: Offer) -> Self {
        Self { all: Arc::new(all), filtered: Mutex::default() }
    }

    /// What a request is offered that names `only` these items.
    pub(super) fn get(
        &self,
        only: Option<&Arc<[ItemId]>>,
        catalogue: &Catalogue,
        index: Option<&ItemIndex>,
    ) -> Result<Arc<Offer>> {
        let Some(only) = only else { return Ok(self.all.clone()) };
        let mut filtered = self.filtered.lock().unwrap_or_else(PoisonError::into_inner);
        let known = filtered.iter().position(|kept| kept.only == *only);
        let found = if let Some(at) = known {
            filtered.remove(at)
        } else {
            let offer = Arc::new(Offer::of(catalogue, index, only.iter().copied())?);
            Filtered { only: only.clone(), offer }
        };
        let offer = found.offer.clone();
        filtered.insert(0, found);
        filtered.truncate(KEPT);
        Ok(offer)
    }
}
