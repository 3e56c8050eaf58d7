//! Recommending for many users, and scoring what was recommended.

use serde::Serialize;

use super::metrics::{Metrics, rank_of};
use super::scorer::{ItemVocabulary, LlamaScorer};
use crate::Result;
use crate::data::{Dataset, ItemId, Split};
use crate::decode::{BeamSearch, Ranked};
use crate::index::Trie;
use crate::model::Llama;
use crate::tasks::Prompts;

/// A model with all it needs to recommend.
pub struct Recommender<'a> {
    /// The backbone, adapter included if it is on.
    pub model: &'a Llama,
    /// Turns histories into tokens.
    pub prompts: &'a Prompts,
    /// Where the item tokens stand.
    pub vocabulary: &'a ItemVocabulary,
    /// The items that may be recommended.
    pub trie: &'a Trie,
    /// Beam width and normaliser.
    pub search: BeamSearch,
    /// Users scored together.
    pub batch: usize,
}

/// What was recommended to one user.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// The user's id in the dataset.
    pub user: String,
    /// The item the user took.
    pub target: ItemId,
    /// Recommended items, best first.
    pub items: Vec<ItemId>,
    /// Their scores: sums of log-probabilities.
    pub scores: Vec<f32>,
}

/// Metrics and what they were computed from.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Means over users.
    pub metrics: Metrics,
    /// One a user, in the dataset's order.
    pub predictions: Vec<Prediction>,
}

impl Recommender<'_> {
    /// The best items after each of `histories` (none empty), best first.
    ///
    /// `on_batch` hears how many histories are done.
    pub fn recommend(
        &self,
        histories: &[&[ItemId]],
        on_batch: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<Ranked>>> {
        let instruction = self.prompts.instruction();
        let mut scorer =
            LlamaScorer::new(self.model, self.vocabulary, self.search.normalize, &instruction)?;
        let mut ranked = Vec::with_capacity(histories.len());
        for batch in histories.chunks(self.batch) {
            let tokens: Vec<Vec<u32>> = batch.iter().map(|h| self.prompts.history(h)).collect();
            scorer.start(&tokens)?;
            ranked.extend(self.search.run(self.trie, batch.len(), &mut scorer)?);
            on_batch(ranked.len());
        }
        Ok(ranked)
    }

    /// Leave-one-out evaluation of `users` (positions in the dataset) on a split.
    pub fn evaluate(
        &self,
        dataset: &Dataset,
        users: &[usize],
        split: Split,
        max_history: usize,
        on_batch: &mut dyn FnMut(usize),
    ) -> Result<Evaluation> {
        // Users of like history length share a batch, so that no level of it waits for one long row.
        let mut order = users.to_vec();
        let history = |user: usize| dataset.users[user].history(split, max_history);
        order.sort_by_key(|&user| (history(user).len(), user));
        let histories: Vec<&[ItemId]> = order.iter().map(|&user| history(user)).collect();
        let ranked = self.recommend(&histories, on_batch)?;
        let mut by_user: Vec<(usize, Vec<Ranked>)> = order.into_iter().zip(ranked).collect();
        by_user.sort_by_key(|(user, _)| *user);
        let predictions: Vec<Prediction> = by_user
            .into_iter()
            .map(|(user, ranked)| Prediction {
                user: dataset.users[user].id.clone(),
                target: dataset.users[user].target(split),
                items: ranked.iter().map(|r| r.item).collect(),
                scores: ranked.iter().map(|r| r.score).collect(),
            })
            .collect();
        let ranks: Vec<_> =
            predictions.iter().map(|p| rank_of(&p.target, p.items.iter().copied())).collect();
        Ok(Evaluation { metrics: Metrics::of(&ranks), predictions })
    }
}

/// The baseline that shows everybody the items bought most often in training.
#[derive(Debug, Clone)]
pub struct Popularity {
    top: Vec<ItemId>,
}

impl Popularity {
    /// Items by training interactions, ties by item id; the first `depth` are kept.
    pub fn new(dataset: &Dataset, depth: usize) -> Self {
        let counts = dataset.popularity();
        let mut top: Vec<ItemId> = (0..counts.len() as ItemId).collect();
        top.sort_by_key(|&item| (std::cmp::Reverse(counts[item as usize]), item));
        top.truncate(depth);
        Self { top }
    }

    /// Its metrics on the same users and split.
    pub fn evaluate(&self, dataset: &Dataset, users: &[usize], split: Split) -> Metrics {
        let rank =
            |&user: &usize| rank_of(&dataset.users[user].target(split), self.top.iter().copied());
        Metrics::of(&users.iter().map(rank).collect::<Vec<_>>())
    }
}
