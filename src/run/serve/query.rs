//! Questions: as they are put, and as they are ranked for.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::offer::Offer;
use crate::data::ItemId;
use crate::{Result, invalid};

/// What holds for every query to a [`Service`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServiceOptions {
    /// Beam width, in effect at least as wide as an answer is long; `None`: that of the configuration, or the
    /// number of items where there are fewer.
    pub beam: Option<usize>,
    /// Whether the annealing adapter is on; `None`: for histories where there is one, for texts never,
    /// since it was trained on histories alone.
    pub adapter: Option<bool>,
    /// Trained baselines that histories are ranked together with, with the weight that an evaluation of the same models
    /// has chosen: their folders, or the names of this run's ([`Run::baseline_told`](crate::run::Run::baseline_told)).
    pub fuse: Vec<PathBuf>,
}

/// How one query is answered.
#[derive(Debug, Clone, PartialEq)]
pub struct RecommendOptions {
    /// How many items an answer has, or all there are to recommend.
    pub top: usize,
    /// Recommend these items alone.
    pub only: Option<Arc<[ItemId]>>,
    /// Never recommend these items.
    pub exclude: Vec<ItemId>,
    /// Never recommend an item of the history.
    pub exclude_history: bool,
    /// Say of each item what its tokens stand for.
    pub explain: bool,
}

/// What a recommendation is to follow.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// What follows these items, oldest first.
    History(Vec<ItemId>),
    /// What fits this description.
    Text(String),
    /// What is taken most, because there is nothing to go by.
    Popular,
}

/// A question to a [`Service`].
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// What is asked for.
    pub wanted: Wanted,
    /// Whose history it is, by the place in the dataset, where that is a user of it.
    pub user: Option<u32>,
    /// How it is answered.
    pub options: RecommendOptions,
}

/// Refuses a beam that cannot be as wide as it is asked to be among `num_items`.
pub fn check_beam(beam: Option<usize>, num_items: usize) -> Result<()> {
    match beam {
        Some(0) => invalid!("--beam must be at least 1"),
        Some(beam) if beam > num_items => {
            invalid!("--beam is {beam}, but there are only {num_items} items to recommend")
        }
        _ => Ok(()),
    }
}

/// A query as it is ranked for.
pub(super) struct Asked<'q> {
    /// The query's place among the others.
    pub(super) at: usize,
    pub(super) wanted: &'q Wanted,
    pub(super) user: Option<u32>,
    /// The part of the history that counts.
    pub(super) seen: &'q [ItemId],
    /// The same as a baseline knows them, which has not learnt of added items.
    pub(super) stand_ins: Vec<ItemId>,
    /// How many items the answer has at most.
    pub(super) top: usize,
    pub(super) pick: Pick<'q>,
    /// What a generator reads.
    pub(super) tokens: Vec<u32>,
}

/// Which of the items that are found are the answer.
pub(super) struct Pick<'q> {
    pub(super) options: &'q RecommendOptions,
    pub(super) offer: Arc<Offer>,
    /// The offer's place among those of the queries: items of one offer are searched together.
    pub(super) filter: usize,
    /// Items offered that must not be in the answer.
    pub(super) excluded: HashSet<ItemId>,
}

impl Pick<'_> {
    /// Whether any of the items that are offered under `stand_in` may be in the answer.
    pub(super) fn allows(&self, stand_in: ItemId) -> bool {
        self.offer.offered_as[&stand_in].iter().any(|item| !self.excluded.contains(item))
    }
}
