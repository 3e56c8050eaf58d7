//! What can be wrong with a dataset, told so that the reader of the message can mend the file.

use std::path::PathBuf;

use super::{ItemId, SplitRule};

/// A dataset cannot be read, written or generated.
///
/// `path` is the file at fault; for a dataset that was built in memory it is the dataset's name.
/// Causes are part of the message, so none of the variants has a `source` that would repeat them.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The dataset folder does not exist or is no folder.
    #[error(
        "{path}: {}; {CONTENTS}",
        if path.is_file() { "is a file; `llmbs data import` makes a dataset folder of a log" }
        else { "no such folder" }
    )]
    NoFolder {
        /// The folder asked for.
        path: PathBuf,
    },
    /// The folder is one that was exported without its users.
    #[error(
        "{path}: its users were left out of this export, so that there is nothing to train and to evaluate on; \
         `llmbs export --with-users` keeps them"
    )]
    WithoutUsers {
        /// The folder.
        path: PathBuf,
    },
    /// The dataset folder holds no interactions.
    #[error("{path}: no .inter.json in this folder; {CONTENTS}")]
    NoInteractions {
        /// The folder.
        path: PathBuf,
    },
    /// Several interaction files, none of them named after the folder.
    #[error("{path}: {} could each be the dataset; name one after the folder, or give it a folder of its own", found.join(", "))]
    SeveralInteractions {
        /// The folder.
        path: PathBuf,
        /// The candidates' file names, sorted.
        found: Vec<String>,
    },
    /// The system refused to read or write.
    #[error("{path}: {reason}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// No text, or not JSON, or JSON of another shape, or a key that occurs twice; says line and column.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        reason: String,
    },
    /// A key of `item.json` that is not an item id.
    #[error("{path}: item key {key:?} is not an item id; keys are the integers from \"0\" on")]
    ItemKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// The keys of `item.json` leave one out.
    #[error("{path}: {items} items, but no item {missing}; keys must run from 0 to {}", items - 1)]
    ItemGap {
        /// The file.
        path: PathBuf,
        /// How many items the file has.
        items: usize,
        /// The smallest id that is missing.
        missing: ItemId,
    },
    /// A file of new items without any.
    #[error("{path}: has no items")]
    NoNewItems {
        /// The file.
        path: PathBuf,
    },
    /// A key among new items that is neither the next id nor, like the others, one of the shop's own.
    #[error(
        "{path}: item key {key:?}: new items are numbered from {first} without gaps, or else all of \
         them go by the shop's own ids, which are numbers only where those of the dataset are"
    )]
    NewItemKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The first free id.
        first: ItemId,
    },
    /// A user has an item that the dataset does not.
    #[error(
        "{path}: user {user:?} has item {item}, but the dataset has {items} items, numbered from 0"
    )]
    UnknownItem {
        /// The file.
        path: PathBuf,
        /// The user's key.
        user: String,
        /// The item.
        item: ItemId,
        /// How many items there are.
        items: usize,
    },
    /// Ids so sparse that the number of items cannot be guessed from the largest one.
    #[error(
        "{path}: the largest item id is {largest}, but only {distinct} items occur; number them from 0 without gaps or add item.json"
    )]
    SparseIds {
        /// The file.
        path: PathBuf,
        /// The largest id.
        largest: ItemId,
        /// How many different ids occur.
        distinct: usize,
    },
    /// A line of `user2id` or `item2id` that is no raw id with its number.
    #[error("{path}:{line}: a raw id, a tab and its number are expected")]
    NameLine {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// Two lines of `user2id` or `item2id` for one number.
    #[error("{path}:{line}: the number {number} occurred before")]
    NameTwice {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The number.
        number: String,
    },
    /// A user whom `user2id` leaves out.
    #[error(
        "{path}: has no raw id for user {key:?} of inter.json; add the line or remove the file"
    )]
    NoName {
        /// The file.
        path: PathBuf,
        /// The user's key.
        key: String,
    },
    /// A number in `item2id` that no item of `item.json` has.
    #[error(
        "{path}: the number {number:?} is no item's: item.json has {items} items, and both files number them from 0"
    )]
    NameOfNone {
        /// The file.
        path: PathBuf,
        /// The number.
        number: String,
        /// How many items there are.
        items: usize,
    },
    /// Two items share the id that users know them by.
    #[error("{path}: items {first} and {second} have the same raw id {raw_id:?}")]
    DuplicateRawId {
        /// The file.
        path: PathBuf,
        /// The shared raw id.
        raw_id: String,
        /// The item that has it first.
        first: ItemId,
        /// The item that has it again.
        second: ItemId,
    },
    /// Two users share a key.
    #[error("{path}: user {user:?} occurs twice")]
    DuplicateUser {
        /// The file.
        path: PathBuf,
        /// The shared key.
        user: String,
    },
    /// Nobody has the three interactions that leave-one-out takes.
    #[error(
        "{path}: no user has 3 interactions or more ({short_users} have fewer); leave-one-out needs one each for training, validation and test"
    )]
    NoUsers {
        /// The file.
        path: PathBuf,
        /// The number of users left out.
        short_users: usize,
    },
    /// Nothing to learn from.
    #[error("{name}: {what}")]
    NothingToLearn {
        /// The dataset.
        name: String,
        /// What it lacks, and what to do.
        what: &'static str,
    },
    /// Not the name of an item.
    #[error("{dataset} has no item {item:?}: its items are 0 to {last}{or_raw}")]
    NoSuchItem {
        /// The dataset's name.
        dataset: String,
        /// What was asked for.
        item: String,
        /// The largest item id.
        last: usize,
        /// What else would do, as the message has it.
        or_raw: String,
    },
    /// Not the key of a user.
    #[error("{dataset} has no user {user:?} with at least 3 interactions; {whom}")]
    NoSuchUser {
        /// The dataset's name.
        dataset: String,
        /// What was asked for.
        user: String,
        /// Who there is.
        whom: String,
    },
    /// A split that does not exist.
    #[error("no split is called {found:?}; there are valid and test")]
    Split {
        /// What was asked for.
        found: String,
    },
    /// Two times that do not divide a dataset.
    #[error(
        "data.split: valid-from = {valid_from} and test-from = {test_from} do not divide the interactions in \
         three; the first is above 0, the second above the first and below 1"
    )]
    Cuts {
        /// The share of interactions before the time for validation.
        valid_from: f64,
        /// The same of the time for test.
        test_from: f64,
    },
    /// A split by time of a dataset that has none.
    #[error(
        "{name}: the dataset has no times (X.times.json), which data.split.rule = \"{rule}\" goes by; \
         `llmbs data import` keeps those of a log"
    )]
    NoTimes {
        /// The dataset.
        name: String,
        /// The rule.
        rule: SplitRule,
    },
    /// A split that leaves a part empty.
    #[error("{name}: data.split.rule = \"{rule}\" leaves nothing for {part}; {remedy}")]
    EmptySplit {
        /// The dataset.
        name: String,
        /// The rule.
        rule: SplitRule,
        /// Training, validation or test.
        part: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// Times or texts that do not fit a user's items.
    #[error("{path}: user {user:?} {what}")]
    OfUser {
        /// The file.
        path: PathBuf,
        /// The user's key.
        user: String,
        /// What is wrong.
        what: String,
    },
    /// A setting of the synthetic shop that cannot be met.
    #[error("{key} = {value}: {must}")]
    Synth {
        /// The setting, as the configuration file writes it.
        key: &'static str,
        /// Its value.
        value: f64,
        /// What it must be.
        must: &'static str,
    },
}

/// What a dataset folder must contain: the remedy where it does not.
const CONTENTS: &str = "a dataset folder X holds X.inter.json, {\"user\": [item ids, oldest first]}, \
and, for texts, X.item.json, {\"item id\": {\"title\", \"description\", \"brand\", \"categories\"}}";
