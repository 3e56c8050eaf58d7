//! Datasets: who interacted with what and in which order, and what the items are called.
//!
//! A [`Dataset`] comes from a folder in LC-Rec's format (`lcrec`) or from the embedded synthetic
//! shop ([`synth`]). Everything later asks it for training items, histories and targets (`split`),
//! so that what is held out is decided in one place.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use sha2::{Digest, Sha256};

use split::Division;

mod attributes;
mod catalogue;
mod entries;
mod error;
mod field;
mod foreign;
mod lcrec;
mod lookup;
mod names;
mod packed;
mod split;
mod stats;
pub mod synth;
mod times;
mod user_texts;
mod validate;

#[cfg(test)]
mod tests;

pub use attributes::attributes;
pub use catalogue::write_catalogue;
pub use error::DataError;
pub use field::{PLAIN_TEXT_FIELDS, TextField};
pub use foreign::foreign_field;
pub use lcrec::{
    Content, NewItems, RAW_IDS, is_dataset_file, is_file_of_one, read_folder, write, write_named,
};
pub use lookup::Lookup;
pub use names::{read_names, write_names};
pub use packed::{beside, plain_name};
pub use split::{Split, SplitConfig, SplitRule, Target};
pub use stats::Stats;
pub use times::{Times, times_beside};
pub use user_texts::{UserTexts, Wish, read_user_texts, write_user_texts};
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

    /// What it goes by in a log: its raw id, or, where it has none, its number `id`.
    pub fn name(&self, id: ItemId) -> String {
        self.raw_id.clone().unwrap_or_else(|| id.to_string())
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
    /// Every interaction, oldest first, held-out ones included: see [`Dataset::train`].
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
    /// When each of the interactions happened, by user, in ascending order; where that is known.
    pub times: Option<Vec<Vec<i64>>>,
    /// What is said about the users, by user; where there is such a file.
    pub user_texts: Option<Vec<UserTexts>>,
    /// SHA-256, in hex, of the sequences, how they are divided, and the texts, in order: equal for equal
    /// training and evaluation, whatever the files look like. Keys, raw ids and short users are not in it.
    pub fingerprint: String,
    /// The same without the texts: equal where models are asked for the same of the same users.
    pub interactions_fingerprint: String,
    /// The same of the texts alone.
    pub texts_fingerprint: String,
    /// How often each item occurs in training, where the users that took them are not told.
    counts: Option<Vec<u32>>,
    division: Division,
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

    /// Reads a folder as [`Dataset::load`] does, or one without users as [`write_catalogue`] leaves it.
    ///
    /// # Errors
    /// Names the file at fault.
    pub fn load_to_serve(dir: &Path) -> Result<Self, DataError> {
        if dir.is_dir()
            && let Some(catalogue) = catalogue::load(dir)?
        {
            return Ok(catalogue);
        }
        lcrec::load(dir)
    }

    /// The names of the files in `dir` that [`Dataset::load`] reads.
    ///
    /// # Errors
    /// If it is no dataset folder.
    pub fn files(dir: &Path) -> Result<Vec<String>, DataError> {
        lcrec::files_of(dir)
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
        check_parts(&users, &items, Path::new(&origin), Path::new(&origin))?;
        Self::of_long(name, users, items, Path::new(&origin))
    }

    /// Users of whom each has a key of their own and items there are; those with fewer than three interactions are left
    /// out. `inter` is the file that errors are about.
    fn of_long(
        name: String,
        mut users: Vec<User>,
        items: Vec<Item>,
        inter: &Path,
    ) -> Result<Self, DataError> {
        let all = users.len();
        users.retain(|user| user.items.len() >= 3);
        let short_users = all - users.len();
        if users.is_empty() {
            return Err(DataError::NoUsers { path: inter.into(), short_users });
        }
        Ok(Self { short_users, ..Self::of(name, users, items) })
    }

    /// Items whom nobody has taken: for their texts.
    pub fn of_items(name: impl Into<String>, items: Vec<Item>) -> Self {
        Self::of(name.into(), Vec::new(), items)
    }

    /// Users with three items at least, and items.
    fn of(name: String, users: Vec<User>, items: Vec<Item>) -> Self {
        let division = Division::leave_one_out(&users);
        let dataset = Self {
            name,
            users,
            items,
            short_users: 0,
            times: None,
            user_texts: None,
            fingerprint: String::new(),
            interactions_fingerprint: String::new(),
            texts_fingerprint: String::new(),
            counts: None,
            division,
        };
        dataset.with_fingerprints()
    }

    /// The fingerprints that what it holds has.
    fn with_fingerprints(self) -> Self {
        let mut sequences = Fingerprint::default();
        sequences.sequences(&self.users);
        let mut interactions = sequences.clone();
        interactions.division(&self.division);
        interactions.catalogue(&self.items);
        let user_texts = self.user_texts.as_deref().unwrap_or_default();
        let with_texts = |mut hash: Fingerprint| {
            hash.texts(&self.items);
            hash.user_texts(user_texts);
            hash
        };
        let mut whole = with_texts(sequences);
        whole.division(&self.division);
        Self {
            fingerprint: whole.hex(),
            interactions_fingerprint: interactions.hex(),
            texts_fingerprint: with_texts(Fingerprint::default()).hex(),
            ..self
        }
    }

    /// Refuses data that nothing can be learnt from.
    ///
    /// # Errors
    /// If there are fewer than two items, or no user has two items in training.
    pub fn check_trainable(&self) -> Result<(), DataError> {
        let what = if self.catalogue().take(2).count() < 2 {
            "there is one item alone: to choose from, there must be two at least"
        } else if self.train_sequences().all(|items| items.len() < 2) {
            "no user has two training items or more, so there is nothing to learn from: each user's last two items are \
             kept for validation and test; give users at least 4 items, or divide by time (data.split)"
        } else {
            return Ok(());
        };
        Err(DataError::NothingToLearn { name: self.name.clone(), what })
    }

    /// The number of items, those in no sequence included.
    pub fn num_items(&self) -> usize {
        self.items.len()
    }

    /// Whether some raw id of an item looks like a number: then a number by itself is a raw id, too, not an item's own.
    pub fn has_numeric_raw_ids(&self) -> bool {
        let mut raw_ids = self.items.iter().filter_map(|item| item.raw_id.as_deref());
        raw_ids.any(|id| id.bytes().all(|b| b.is_ascii_digit()))
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
        (0..self.users.len()).map(|user| self.train(user))
    }

    /// How often each item occurs in training, by item id.
    pub fn popularity(&self) -> Vec<u32> {
        if let Some(counts) = &self.counts {
            let mut counts = counts.clone();
            counts.resize(self.items.len(), 0);
            return counts;
        }
        let mut counts = vec![0; self.items.len()];
        for &item in self.train_sequences().flatten() {
            counts[item as usize] += 1;
        }
        counts
    }

    /// The items that may be recommended, the most popular in training first, ties by id.
    pub fn by_popularity(&self) -> Vec<ItemId> {
        let counts = self.popularity();
        let mut items: Vec<ItemId> = self.catalogue().collect();
        items.sort_by_key(|&item| (Reverse(counts[item as usize]), item));
        items
    }

    /// Of the items in training that have others of their user before them, the share that the user took before.
    pub fn repeats(&self) -> f64 {
        let (mut repeats, mut all) = (0, 0);
        let mut seen = HashSet::new();
        for sequence in self.train_sequences() {
            seen.clear();
            let distinct = sequence.iter().filter(|&item| seen.insert(*item)).count();
            repeats += sequence.len() - distinct;
            all += sequence.len().saturating_sub(1);
        }
        repeats as f64 / all.max(1) as f64
    }

    /// The same dataset with every held-out item exchanged: training must not notice.
    #[cfg(test)]
    pub(crate) fn with_other_targets(&self) -> Self {
        let mut users = self.users.clone();
        for (user, seen) in users.iter_mut().zip(&self.division.train) {
            // Spelt out, not asked of `train`: a `train` that sees too much must be caught.
            let kept = if self.split_rule() == SplitRule::LeaveOneOut {
                user.items.len() - 2
            } else {
                *seen
            };
            for item in &mut user.items[kept..] {
                *item = (*item + 1) % self.items.len() as ItemId;
            }
        }
        Self { users, ..self.clone() }.with_fingerprints()
    }
}

/// Refuses users that share a key or have an unknown item, and items that share a raw id; errors are about the two files.
fn check_parts(users: &[User], items: &[Item], inter: &Path, item: &Path) -> Result<(), DataError> {
    let mut keys = HashSet::new();
    for user in users {
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
    Ok(())
}

/// A hash of numbers and texts. Lengths go before contents, so that no two datasets hash the same bytes.
#[derive(Clone, Default)]
struct Fingerprint(Sha256);

impl Fingerprint {
    fn hex(self) -> String {
        format!("{:x}", self.0.finalize())
    }

    fn number(&mut self, n: usize) {
        self.0.update((n as u64).to_le_bytes());
    }

    fn sequences(&mut self, users: &[User]) {
        self.number(users.len());
        for user in users {
            self.number(user.items.len());
            for item in &user.items {
                self.0.update(item.to_le_bytes());
            }
        }
    }

    fn texts(&mut self, items: &[Item]) {
        self.number(items.len());
        for text in items.iter().flat_map(Item::texts) {
            self.number(text.len());
            self.0.update(text);
        }
    }

    /// What there is to recommend.
    fn catalogue(&mut self, items: &[Item]) {
        self.number(items.len());
        for (id, _) in items.iter().enumerate().filter(|(_, item)| item.is_gap) {
            self.number(id);
        }
    }

    /// Nothing where there are none.
    fn user_texts(&mut self, users: &[UserTexts]) {
        for UserTexts { preferences, wish } in users {
            let queries = wish.as_ref().map_or(&[][..], |wish| &wish.queries);
            for texts in [preferences, queries] {
                self.number(texts.len());
                for text in texts {
                    self.number(text.len());
                    self.0.update(text);
                }
            }
            self.number(wish.as_ref().map_or(usize::MAX, |wish| wish.item as usize));
        }
    }

    /// Nothing of the default rule, which follows from the sequences.
    fn division(&mut self, division: &Division) {
        if division.rule == SplitRule::LeaveOneOut {
            return;
        }
        self.0.update(division.rule.to_string());
        division.train.iter().for_each(|&seen| self.number(seen));
        for split in [Split::Valid, Split::Test] {
            let targets = division.targets(split);
            self.number(targets.len());
            for target in targets {
                self.number(target.user);
                self.number(target.position);
            }
        }
    }
}
