//! What can go wrong with an item index, each with the place and the remedy.

use std::path::PathBuf;

use super::Source;
use crate::error::short;

/// An item index cannot be built, read or used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// There is nothing to index.
    #[error("the index has no items: it needs at least one")]
    NoItems,
    /// A node that splits needs two children or more.
    #[error("k is {k}: a node needs at least 2 children, set k to 2 or more")]
    BranchingTooSmall {
        /// The setting.
        k: usize,
    },
    /// `k^levels` is smaller than the number of items.
    #[error(
        "k = {k} with levels = {levels} gives every item its own index for at most {room} items, \
         and there are {num_items}: raise k to {min_k} or levels to {min_levels}"
    )]
    Infeasible {
        /// The number of items.
        num_items: usize,
        /// The largest branching allowed.
        k: usize,
        /// The levels asked for.
        levels: usize,
        /// `k^levels`.
        room: u128,
        /// The smallest k that does for these levels.
        min_k: usize,
        /// The fewest levels that do for this k.
        min_levels: usize,
    },
    /// The tuples of both sources together are fewer than the items.
    #[error(
        "index.shared: k = {} with levels = {} (semantic) and k = {} with levels = {} (behavior) make \
         {room} tuples of codes, too few for {num_items} items: raise k or levels of either source",
        .k[0], .levels[0], .k[1], .levels[1]
    )]
    NoSharedRoom {
        /// The settings, semantic before behavior.
        k: [usize; 2],
        /// The levels, likewise.
        levels: [usize; 2],
        /// The number of tuples.
        room: u128,
        /// The number of items.
        num_items: usize,
    },
    /// The vectors have no dimensions.
    #[error("the item vectors have 0 dimensions: there is nothing to cluster")]
    NoDimensions,
    /// A vector component that distances cannot be computed from.
    #[error(
        "the vector of item {row} holds {value} in column {column}: components must be finite \
         and below 1e15 in magnitude"
    )]
    BadValue {
        /// The item, that is the row of the vectors.
        row: usize,
        /// The column.
        column: usize,
        /// What is there.
        value: f32,
    },
    /// linfa refused to cluster.
    #[error("k-means over {rows} items in {clusters} clusters failed: {reason}")]
    Clustering {
        /// Rows clustered.
        rows: usize,
        /// Clusters asked for.
        clusters: usize,
        /// linfa's reason.
        reason: linfa_clustering::KMeansError,
    },
    /// Two parts of one index speak of different numbers of items.
    #[error(
        "the codes of source {first} are of {items} items and those of source {second} of {others}"
    )]
    ItemsDiffer {
        /// A source.
        first: Source,
        /// Its items.
        items: usize,
        /// Another source.
        second: Source,
        /// Its items.
        others: usize,
    },
    /// `unit` names two signals, a level has one.
    #[error("one tree cannot stand for source `{0}`: a level is semantic, behavior or random")]
    NotOneSource(Source),
    /// The levels cannot be told apart by letter.
    #[error("an index has 1 to 26 levels, one letter each: {levels} asked for")]
    LevelCount {
        /// The number of levels.
        levels: usize,
    },
    /// The codes are not (items, levels).
    #[error("{codes} codes do not make up items of {levels} levels")]
    Ragged {
        /// Codes given.
        codes: usize,
        /// Levels an item.
        levels: usize,
    },
    /// A code outside its level's range.
    #[error("item {item} has code {code} at level {level}, which has {num_codes} codes")]
    CodeRange {
        /// The item.
        item: u32,
        /// The level, from 0.
        level: usize,
        /// The code.
        code: u32,
        /// The size of the level.
        num_codes: usize,
    },
    /// Two items have the same index.
    #[error("items {first} and {second} share the index {tokens}: every item needs its own")]
    Collision {
        /// The smaller id.
        first: u32,
        /// The larger id.
        second: u32,
        /// The index they share.
        tokens: String,
    },
    /// Fewer tuples than items.
    #[error("{room} tuples of codes cannot tell {num_items} items apart: allow more codes a level")]
    NoRoom {
        /// The number of tuples.
        room: u128,
        /// The number of items.
        num_items: usize,
    },
    /// Items of a file share their index and were not to.
    #[error("{path}: {what}: give each its own, or import with --on-collision extend")]
    Sharing {
        /// The file.
        path: PathBuf,
        /// Who shares.
        what: String,
    },
    /// A file of more or fewer items than the dataset has.
    #[error(
        "{path}: {}; the index has {found} items, the dataset has {num_items} items",
        if found < num_items { format!("item {found} is missing") }
        else { format!("item {num_items} is not in the dataset") }
    )]
    ItemCount {
        /// The file.
        path: PathBuf,
        /// Items of the file.
        found: usize,
        /// Items of the dataset.
        num_items: usize,
    },
    /// A new item finds no place.
    #[error(
        "all {tuples} tuples of item tokens are taken: no new item can get one without retraining; \
         go on from this run with one whose data have the new items (`llmbs index --extend`), or \
         rebuild the index with more levels or, short of a code for each item, a larger k"
    )]
    Full {
        /// Tuples, all of them taken.
        tuples: usize,
    },
    /// An item the index does not have.
    #[error("item {item} is not in the index, whose items are 0 to {}", .num_items - 1)]
    UnknownItem {
        /// The item asked for.
        item: u32,
        /// The number of items of the index.
        num_items: usize,
    },
    /// The number of sources given fits no reading of the file.
    #[error("{path}: the items have {levels} levels and {sources} sources were named for them")]
    SourceCount {
        /// The file.
        path: PathBuf,
        /// Levels in the file.
        levels: usize,
        /// Sources given.
        sources: usize,
    },
    /// The file is not JSON of the right shape; says line and column.
    #[error("{path}: not a map from item id to item tokens: {reason}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        reason: String,
    },
    /// A key that is no item id, or one that comes twice.
    #[error("{path}: key {:?}: {problem}", short(key))]
    ItemKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The ids have a hole.
    #[error("{path}: item {missing} is missing: ids must run from 0 to {last} without holes")]
    MissingItem {
        /// The file.
        path: PathBuf,
        /// The first id that is not there.
        missing: u32,
        /// The last id implied by the number of entries.
        last: usize,
    },
    /// An item of another length than item 0.
    #[error("{path}: item {item} has {found} tokens, item 0 has {expected}")]
    Length {
        /// The file.
        path: PathBuf,
        /// The item.
        item: u32,
        /// Its number of tokens.
        found: usize,
        /// The number of tokens of item 0.
        expected: usize,
    },
    /// A line that names no item or no index of it.
    #[error("{path}:{line}: {problem}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A matrix without an axis of items, or with two.
    #[error(
        "{path}: a matrix of {} x {} codes, and the dataset has {num_items} items: {}", .shape[0], .shape[1],
        if .shape[0] == .shape[1] && .shape[0] == *num_items {
            "which axis is that of the items cannot be told; give the index in LC-Rec's form, X.index.json"
        } else { "one axis has to be that of the items, (levels, items) or (items, levels)" }
    )]
    Axes {
        /// The file.
        path: PathBuf,
        /// Rows and columns.
        shape: [usize; 2],
        /// Items of the dataset.
        num_items: usize,
    },
    /// A number that is no code.
    #[error("{path}: item {item}, level {level}: {code} is no code; codes are 0 to 4294967294")]
    NoCode {
        /// The file.
        path: PathBuf,
        /// The item.
        item: usize,
        /// The level, from 0.
        level: usize,
        /// The number.
        code: i64,
    },
    /// A string that is no item token of its level.
    #[error(
        "{path}: item {item}: {:?} is not a token of level {level}, such as <{letter}_17>",
        short(token)
    )]
    Token {
        /// The file.
        path: PathBuf,
        /// The item.
        item: u32,
        /// The string found.
        token: String,
        /// The level, from 0.
        level: usize,
        /// The level's letter.
        letter: char,
    },
    /// The centroids could not be written.
    #[error("{path}: {reason}")]
    Tensors {
        /// The file.
        path: PathBuf,
        /// The writer's reason.
        reason: safetensors::SafeTensorError,
    },
}
