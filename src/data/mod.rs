//! Datasets: who interacted with what and in which order, and what the items are called.
//!
//! A [`Dataset`] comes from a folder in LC-Rec's format (`lcrec`) or from the embedded synthetic
//! shop ([`synth`]). Everything later asks it for training items, histories and targets (`split`),
//! so that what is held out is decided in one place.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use sha2::{Digest, Sha256};

mod error;
mod field;
mod lcrec;
mod lookup;
mod names;
mod split;
mod stats;
pub mod synth;
mod validate;

#[cfg(test)]
mod tests;

pub use error::DataError;
pub use field::TextField;
pub use lcrec::{read_new_items, write, write_named};
pub use lookup::Lookup;
pub use names::{read_names, write_names};
pub use split::Split;
pub use stats::Stats;
pub use validate::{Problem, validate};

/// An item's number in its dataset, from 0 without gaps.
pub type ItemId = u32;

/// An item as its texts describe it; an empty string stands for a field the data does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Item {
    /// The product's name.
    pub title: String,
    /// A sentence or more about it.
    pub description: String,
    /// Who makes it.
    pub brand: String,
    /// Where the shop files it, from general to special, joined by commas.
    pub categories: String,
    /// The id that the shop knows it by, an ASIN for example.
    pub raw_id: Option<String>,
    /// No item has this id: it stands in no metadata and in no sequence, and is never recommended.
    pub is_gap: bool,
}

impl Item {
    /// Whether any text field is present.
    pub fn has_text(&self) -> bool {
        self.texts().iter().any(|text| !text.is_empty())
    }

    fn texts(&self) -> [&str; 4] {
        [&self.title, &self.description, &self.brand, &self.categories]
    }
}

/// A user and all their interactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user's raw id: what `user2id` says of their key in `inter.json`, else the key itself.
    pub id: String,
    /// Every interaction, oldest first, held-out ones included: see [`User::train`].
    pub items: Vec<ItemId>,
}

/// Users and items that fit each other: every user has at least three items, all of them known.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The name, which is that of the folder it came from.
    pub name: String,
    /// The users, by key where keys are numbers, else in file order.
    pub users: Vec<User>,
    /// The items, by id.
    pub items: Vec<Item>,
    /// How many users were left out because they have fewer than three interactions.
    pub short_users: usize,
    /// SHA-256, in hex, of the sequences and texts in order: equal for equal training and
    /// evaluation, whatever the files look like. Keys, raw ids and short users are not in it.
    pub fingerprint: String,
}

impl Dataset {
    /// Reads a dataset folder in LC-Rec's format: `X/X.inter.json` and, for texts, `X/X.item.json`.
    ///
    /// Where no file is named after the folder, its only `.inter.json` is taken. `X.user2id` and `X.item2id`,
    /// where they are there, say the raw ids.
    ///
    /// # Errors
    /// Names the file and the line, key, user or id at fault.
    pub fn load(dir: &Path) -> Result<Self, DataError> {
        lcrec::load(dir)
    }

    /// A dataset from its parts; users with fewer than three interactions are left out and counted.
    ///
    /// # Errors
    /// If a user has an unknown item, two users share a key, two items share a raw id, or no user
    /// is left.
    pub fn new(
        name: impl Into<String>,
        users: Vec<User>,
        items: Vec<Item>,
    ) -> Result<Self, DataError> {
        let name = name.into();
        let origin = name.clone();
        Self::checked(name, users, items, Path::new(&origin), Path::new(&origin))
    }

    /// [`Dataset::new`], with the two files that errors are about.
    fn checked(
        name: String,
        mut users: Vec<User>,
        items: Vec<Item>,
        inter: &Path,
        item: &Path,
    ) -> Result<Self, DataError> {
        let mut keys = HashSet::new();
        for user in &users {
            if !keys.insert(user.id.as_str()) {
                return Err(DataError::DuplicateUser { path: inter.into(), user: user.id.clone() });
            }
            if let Some(&unknown) = user.items.iter().find(|&&i| i as usize >= items.len()) {
                return Err(DataError::UnknownItem {
                    path: inter.into(),
                    user: user.id.clone(),
                    item: unknown,
                    items: items.len(),
                });
            }
        }
        let mut raw_ids = HashMap::new();
        for (id, raw_id) in
            items.iter().enumerate().filter_map(|(id, i)| Some((id, i.raw_id.as_deref()?)))
        {
            if let Some(first) = raw_ids.insert(raw_id, id as ItemId) {
                return Err(DataError::DuplicateRawId {
                    path: item.into(),
                    raw_id: raw_id.to_string(),
                    first,
                    second: id as ItemId,
                });
            }
        }
        let all = users.len();
        users.retain(|user| user.items.len() >= 3);
        let short_users = all - users.len();
        if users.is_empty() {
            return Err(DataError::NoUsers { path: inter.into(), short_users });
        }
        let fingerprint = fingerprint(&users, &items);
        Ok(Self { name, users, items, short_users, fingerprint })
    }

    /// The number of items, those in no sequence included.
    pub fn num_items(&self) -> usize {
        self.items.len()
    }

    /// The items that can be recommended: all but the gaps between ids.
    pub fn catalogue(&self) -> impl Iterator<Item = ItemId> {
        let all = (0..).zip(&self.items);
        all.filter_map(|(id, item)| (!item.is_gap).then_some(id))
    }

    /// The number of interactions of the users kept, held-out ones included.
    pub fn num_interactions(&self) -> usize {
        self.users.iter().map(|user| user.items.len()).sum()
    }

    /// Whether any item has text; if not, the semantic source and the text tasks are off.
    pub fn has_text(&self) -> bool {
        self.items.iter().any(Item::has_text)
    }

    /// The sequences that training may see, one a user, each oldest first.
    pub fn train_sequences(&self) -> impl ExactSizeIterator<Item = &[ItemId]> {
        self.users.iter().map(User::train)
    }

    /// How often each item occurs in training, by item id.
    pub fn popularity(&self) -> Vec<u32> {
        let mut counts = vec![0; self.items.len()];
        for &item in self.train_sequences().flatten() {
            counts[item as usize] += 1;
        }
        counts
    }

    /// The same dataset with every held-out item exchanged: training must not notice.
    #[cfg(test)]
    pub(crate) fn with_other_targets(&self) -> Self {
        let mut users = self.users.clone();
        for user in &mut users {
            // Spelt out, not asked of `train`: a `train` that sees too much must be caught.
            let kept = user.items.len() - 2;
            for item in &mut user.items[kept..] {
                *item = (*item + 1) % self.items.len() as ItemId;
            }
        }
        Self { fingerprint: fingerprint(&users, &self.items), users, ..self.clone() }
    }
}

/// Lengths go before contents, so that no two datasets hash the same bytes.
fn fingerprint(users: &[User], items: &[Item]) -> String {
    let mut hash = Sha256::new();
    let number = |hash: &mut Sha256, n: usize| hash.update((n as u64).to_le_bytes());
    number(&mut hash, users.len());
    for user in users {
        number(&mut hash, user.items.len());
        for item in &user.items {
            hash.update(item.to_le_bytes());
        }
    }
    number(&mut hash, items.len());
    for text in items.iter().flat_map(Item::texts) {
        number(&mut hash, text.len());
        hash.update(text);
    }
    format!("{:x}", hash.finalize())
}
