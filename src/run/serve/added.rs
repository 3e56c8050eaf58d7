//! Items that came after the index: `added.json` holds their texts and the places they were given.
//!
//! The index and everything trained on it stay as they are: evaluation and training know nothing of these
//! items, `recommend` offers them along with the others.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::meaning::NamedItem;
use crate::data::{Dataset, Item, ItemId, NewItems, TextField};
use crate::embed::ItemTexts;
use crate::index::{ItemIndex, Placer, store};
use crate::run::artifacts::{Trained, backbone, load_index, load_matrix};
use crate::run::digests::gone;
use crate::run::stages::index::embed_texts;
use crate::run::{Monitor, Run, Stage};
use crate::{Result, files, invalid, sealed};

/// The file in the run folder.
pub(in crate::run) const FILE: &str = "added.json";

/// `added.json`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Added {
    /// SHA-256 of the `index.json` that the items were placed in.
    index_sha256: String,
    /// The items by id.
    items: BTreeMap<ItemId, Entry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    title: String,
    description: String,
    brand: String,
    categories: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    item_id: Option<String>,
    tokens: Vec<String>,
    /// The items of the index nearest by z^s.
    nearest: Vec<ItemId>,
}

impl Entry {
    fn item(&self) -> Item {
        Item {
            title: self.title.clone(),
            description: self.description.clone(),
            brand: self.brand.clone(),
            categories: self.categories.clone(),
            raw_id: self.item_id.clone(),
            is_gap: false,
        }
    }
}

/// An item that has been added to a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AddedItem {
    /// The item.
    #[serde(flatten)]
    pub named: NamedItem,
    /// Its tokens, in order.
    pub tokens: Vec<String>,
    /// The items of the index that it is most like, nearest first.
    pub nearest: Vec<NamedItem>,
}

/// The items a run can recommend: those of its dataset, and those added since.
#[derive(Debug)]
pub struct Catalogue<'a> {
    dataset: Cow<'a, Dataset>,
    /// Where the added items stand.
    path: PathBuf,
    /// The tokens of each added item.
    tokens: Vec<Vec<String>>,
    /// The items of the index nearest to each added item, nearest first.
    nearest: Vec<Vec<ItemId>>,
}

impl Catalogue<'_> {
    /// The dataset with the added items after its own; nobody has taken them.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The item that the model is asked about for `item`: itself, or for an added item the one of the
    /// index that it is most like, since the model has learnt nothing of an added item's tokens.
    pub fn stand_in(&self, item: ItemId) -> ItemId {
        self.nearest(item).first().copied().unwrap_or(item)
    }

    /// The items of the index that an added item is most like, nearest first; none for one of the index.
    pub(super) fn nearest(&self, item: ItemId) -> &[ItemId] {
        let own = self.dataset.num_items() - self.nearest.len();
        (item as usize).checked_sub(own).map_or(&[], |place| self.nearest[place].as_slice())
    }

    /// The model with the added items in its index.
    pub(in crate::run) fn complete(&self, mut trained: Trained) -> Result<Trained> {
        if self.tokens.is_empty() {
            return Ok(trained);
        }
        let index = extend(&self.path, &trained.index, &self.tokens)?;
        trained.tokens.grow(&index);
        Ok(Trained { index, ..trained })
    }
}

/// `index` with items of these tokens after its own.
fn extend(path: &Path, index: &ItemIndex, tokens: &[Vec<String>]) -> Result<ItemIndex> {
    let mut codes = index.codes().to_vec();
    for (item, tokens) in (index.num_items() as ItemId..).zip(tokens) {
        if tokens.len() != index.num_levels() {
            invalid!("{}: item {item} has {} tokens", path.display(), tokens.len());
        }
        codes.extend(store::codes_of(path, item, tokens)?);
    }
    let extended = ItemIndex::new(index.levels().to_vec(), codes)?;
    if extended.vocabulary() != index.vocabulary() {
        invalid!("{}: has item tokens that the index has not", path.display());
    }
    Ok(extended)
}

impl Run {
    /// The items that can be recommended.
    ///
    /// # Errors
    /// If items have been added to another index than the run has now.
    pub fn catalogue(&self) -> Result<Catalogue<'_>> {
        let path = self.dir.join(FILE);
        let items = self.added()?.map_or_else(BTreeMap::new, |added| added.items);
        let mut dataset = Cow::Borrowed(&self.dataset);
        if !items.is_empty() {
            dataset.to_mut().items.extend(items.values().map(Entry::item));
        }
        let nearest = items.values().map(|entry| entry.nearest.clone()).collect();
        let tokens = items.into_values().map(|entry| entry.tokens).collect();
        Ok(Catalogue { dataset, path, tokens, nearest })
    }

    /// Places the items of a file in the item index, which stays as it is, so that they can be
    /// recommended; gives them as they were placed.
    ///
    /// # Errors
    /// If an item is there already or has no text, or if there is no place left. Nothing is added then.
    pub fn add(&self, file: &Path, monitor: &mut dyn Monitor) -> Result<Vec<AddedItem>> {
        self.require(Stage::Index)?;
        self.claim()?;
        let mut added = match self.added()? {
            Some(added) => added,
            None => Added { index_sha256: self.index_digest()?, items: BTreeMap::new() },
        };
        let catalogue = self.catalogue()?;
        let first = catalogue.dataset().num_items() as ItemId;
        let items = NewItems::read(file)?;
        if let Some(placed) = self.added_last(&items, &added, first) {
            tracing::info!("{}: its items were added before", file.display());
            return Ok(placed);
        }
        let items = items.after(first, self.dataset.has_numeric_raw_ids())?;
        check(file, &items, catalogue.dataset(), &self.config.index.semantic.fields)?;

        if let Some(path) = &self.config.index.semantic.embeddings {
            invalid!(
                "{}: z^s was imported (index.semantic.embeddings), and the backbone does not embed new \
                 items in its space; build the index without it to add items",
                path.display()
            );
        }
        let index = load_index(self)?;
        let backbone = backbone(self)?;
        let known = if let Some(z) = load_matrix(self, "semantic")? {
            z
        } else {
            if !self.dataset.has_text() {
                invalid!(
                    "{}: its items have no texts, by which a new item could be likened to them",
                    self.dataset.name
                );
            }
            tracing::info!("the index has no z^s of its items: their texts are embedded now");
            embed_texts(self, &backbone, &self.dataset, monitor)?
        };
        let new = Dataset::of_items(file.display().to_string(), items);
        let z = embed_texts(self, &backbone, &new, monitor)?;

        let mut placer = Placer::new(&index, known.view());
        for (&item, entry) in &added.items {
            placer.take(store::codes_of(&catalogue.path, item, &entry.tokens)?);
        }
        let mut placed = Vec::new();
        for ((id, item), z) in (first..).zip(new.items).zip(z.rows()) {
            let place = placer.place(&z.to_vec())?;
            let (tokens, nearest) = (store::tokens_of(&place.codes), place.nearest);
            let Item { title, description, brand, categories, raw_id: item_id, is_gap: _ } = item;
            let entry = Entry { title, description, brand, categories, item_id, tokens, nearest };
            placed.push(self.placed(id, &entry));
            added.items.insert(id, entry);
        }
        sealed::write(&catalogue.path, &added)?;
        Ok(placed)
    }

    /// The items as they were placed, where they are those added last, before `first`: then a command is repeated that
    /// was killed as it ended.
    fn added_last(&self, items: &NewItems, added: &Added, first: ItemId) -> Option<Vec<AddedItem>> {
        let before = added.items.len().checked_sub(items.len())?;
        let first = first - items.len() as ItemId;
        let items = items.after(first, self.dataset.has_numeric_raw_ids()).ok()?;
        let last = added.items.iter().skip(before);
        let same = last.clone().map(|(_, entry)| entry.item()).eq(items);
        same.then(|| last.map(|(&id, entry)| self.placed(id, entry)).collect())
    }

    fn placed(&self, item: ItemId, entry: &Entry) -> AddedItem {
        let nearest = entry.nearest.iter().map(|&near| NamedItem::new(&self.dataset, near));
        AddedItem {
            named: NamedItem { item, raw_id: entry.item_id.clone(), title: entry.title.clone() },
            tokens: entry.tokens.clone(),
            nearest: nearest.collect(),
        }
    }

    /// Refuses where items were added to what was exported to `dir` that this run has not.
    pub(in crate::run) fn check_added_to(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(());
        }
        let there: Added = sealed::read(&path, "remove it to lose what was added there")?;
        let here = self.added()?.map_or_else(BTreeMap::new, |added| added.items);
        let is_here = |entry: &Entry| here.values().any(|own| own.item() == entry.item());
        if let Some(lost) = there.items.values().find(|entry| !is_here(entry)) {
            invalid!(
                "{}: {:?} was added there, and would be lost: add it to {} first, or remove the file",
                path.display(),
                lost.title,
                self.dir.display()
            );
        }
        Ok(())
    }

    /// The items added to the index as it is.
    fn added(&self) -> Result<Option<Added>> {
        let path = self.dir.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        self.require(Stage::Index)?;
        let added: Added =
            sealed::read(&path, "remove it and add the items again with `llmbs index add`")?;
        if added.index_sha256 != self.index_digest()? {
            invalid!(
                "{}: its items were added to another index; remove the file, and add them again with \
                 `llmbs index add`",
                path.display()
            );
        }
        let own = self.dataset.num_items() as ItemId;
        if let Some((expected, id)) = (own..).zip(added.items.keys()).find(|(n, id)| n != *id) {
            invalid!("{}: item {id} stands where item {expected} should", path.display());
        }
        for (id, entry) in &added.items {
            if entry.nearest.first().is_none_or(|&near| near >= own) {
                invalid!("{}: item {id} has no `nearest` item of the index", path.display());
            }
        }
        Ok(Some(added))
    }

    fn index_digest(&self) -> Result<String> {
        let path = self.dir.join("index/index.json");
        if path.exists() {
            files::digest(&path)
        } else {
            Err(gone(&path, Stage::Index, self.manifest.stages.get(&Stage::Index)))
        }
    }
}

/// Refuses new items that could not be embedded, or whose raw ids are taken.
fn check(file: &Path, items: &[Item], dataset: &Dataset, fields: &[TextField]) -> Result<()> {
    let mut raw_ids: HashSet<&str> =
        dataset.items.iter().filter_map(|item| item.raw_id.as_deref()).collect();
    for (id, item) in (dataset.num_items() as ItemId..).zip(items) {
        let name = item.name(id);
        if !ItemTexts::has_any(fields, item) {
            invalid!("{}: item {name} has no text: give it a title", file.display());
        }
        if let Some(raw_id) = &item.raw_id
            && !raw_ids.insert(raw_id)
        {
            invalid!("{}: there is an item {raw_id:?} already", file.display());
        }
    }
    Ok(())
}
