//! Recommending for many users, and scoring what was recommended.

use serde::{Deserialize, Serialize};

use super::metrics::{DEPTH, Metrics, rank_of};
use super::protocol::Protocol;
use super::scorer::{BatchScorer, ItemVocabulary, LlamaScorer};
use crate::Result;
use crate::data::{Dataset, ItemId};
use crate::decode::{BeamSearch, FreePath, Ranked, search_freely};
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The user's id in the dataset.
    pub user: String,
    /// The item the user took.
    pub target: ItemId,
    /// Recommended items, best first.
    pub items: Vec<ItemId>,
    /// Their scores: sums of log-probabilities, or whatever else a baseline ranks by.
    pub scores: Vec<f32>,
}

impl Prediction {
    /// Where the target stands, from 1; `None`: not in the list.
    pub fn rank(&self) -> Option<usize> {
        rank_of(&self.target, self.items.iter().copied())
    }
}

/// Metrics and what they were computed from.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Means over users.
    pub metrics: Metrics,
    /// One a user, in the dataset's order.
    pub predictions: Vec<Prediction>,
}

impl Evaluation {
    /// The evaluation of ranked items, best first, for users by their positions in the dataset.
    pub(super) fn of(
        dataset: &Dataset,
        protocol: Protocol,
        ranked: impl IntoIterator<Item = (usize, Vec<Ranked>)>,
    ) -> Self {
        let prediction = |(user, ranked): (usize, Vec<Ranked>)| Prediction {
            user: dataset.users[user].id.clone(),
            target: protocol.target(&dataset.users[user]),
            items: ranked.iter().map(|r| r.item).collect(),
            scores: ranked.iter().map(|r| r.score).collect(),
        };
        let predictions: Vec<Prediction> = ranked.into_iter().map(prediction).collect();
        let ranks: Vec<_> = predictions.iter().map(Prediction::rank).collect();
        Self { metrics: Metrics::of(&ranks), predictions }
    }
}

/// How much of what the model writes without the trie names an item.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LegalRate {
    /// The share among all beams.
    pub share: f64,
    /// The share among each user's best beam.
    pub first: f64,
    /// How many users were asked.
    pub users: usize,
}

impl LegalRate {
    /// The rate of the code sequences found for each user, best first.
    fn of(found: &[Vec<FreePath>], trie: &Trie) -> Self {
        let legal = |path: &FreePath| {
            path.codes.iter().try_fold(trie.root(), |node, &code| trie.child(node, code)).is_some()
        };
        let share = |beams: &mut dyn Iterator<Item = &FreePath>| {
            let (all, legal) = beams
                .fold((0, 0), |(all, named), path| (all + 1, named + usize::from(legal(path))));
            legal as f64 / all.max(1) as f64
        };
        Self {
            share: share(&mut found.iter().flatten()),
            first: share(&mut found.iter().filter_map(|beams| beams.first())),
            users: found.len(),
        }
    }
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
        self.in_batches(histories, on_batch, |scorer, users| {
            self.search.run(self.trie, users, scorer)
        })
    }

    /// How much of what a search as wide as this one finds without the trie names an item.
    pub fn legal_rate(
        &self,
        histories: &[&[ItemId]],
        on_batch: &mut dyn FnMut(usize),
    ) -> Result<LegalRate> {
        let found = self.in_batches(histories, on_batch, |scorer, users| {
            search_freely(self.search.width, self.trie.num_levels(), users, scorer)
        })?;
        Ok(LegalRate::of(&found, self.trie))
    }

    /// What `search` finds for each history.
    fn in_batches<T: Send>(
        &self,
        histories: &[&[ItemId]],
        on_batch: &mut dyn FnMut(usize),
        search: impl Fn(&mut LlamaScorer<'_>, usize) -> Result<Vec<T>> + Sync,
    ) -> Result<Vec<T>> {
        let instruction = self.prompts.instruction();
        let (vocabulary, normalize) = (self.vocabulary, self.search.normalize);
        let mut scorer = BatchScorer::new(self.model, vocabulary, normalize, instruction);
        let mut found = Vec::with_capacity(histories.len());
        for batch in histories.chunks(self.batch) {
            let tokens: Vec<Vec<u32>> = batch.iter().map(|h| self.prompts.history(h)).collect();
            found.extend(scorer.search(&tokens, &search)?);
            on_batch(found.len());
        }
        Ok(found)
    }

    /// Evaluation of `users` (positions in the dataset).
    ///
    /// Where items are excluded, a user's search is wider by as many, so that the list is as long as ever.
    pub fn evaluate(
        &self,
        dataset: &Dataset,
        users: &[usize],
        protocol: Protocol,
        on_batch: &mut dyn FnMut(usize),
    ) -> Result<Evaluation> {
        // Users of like history length share a batch, so that no level of it waits for one long row.
        let mut order = users.to_vec();
        let history = |user: usize| protocol.history(&dataset.users[user]);
        let excluded = |user: usize| protocol.excluded(&dataset.users[user]);
        order.sort_by_key(|&user| (history(user).len(), excluded(user).len(), user));
        let mut by_user: Vec<(usize, Vec<Ranked>)> = Vec::with_capacity(users.len());
        for alike in order.chunk_by(|&a, &b| excluded(a).len() == excluded(b).len()) {
            let width = self.search.width + excluded(alike[0]).len();
            // As many rows a step as without.
            let batch = (self.batch * self.search.width / width).max(1);
            let wider = Self { search: BeamSearch { width, ..self.search }, batch, ..*self };
            let histories: Vec<&[ItemId]> = alike.iter().map(|&user| history(user)).collect();
            let done = by_user.len();
            let ranked = wider.recommend(&histories, &mut |more| on_batch(done + more))?;
            by_user.extend(alike.iter().zip(ranked).map(|(&user, mut ranked)| {
                ranked.retain(|r| !excluded(user).contains(&r.item));
                ranked.truncate(self.search.width);
                (user, ranked)
            }));
        }
        by_user.sort_by_key(|(user, _)| *user);
        Ok(Evaluation::of(dataset, protocol, by_user))
    }
}

/// The baseline that shows everybody the items bought most often in training.
#[derive(Debug, Clone)]
pub struct Popularity {
    /// All items, the most popular first.
    items: Vec<ItemId>,
}

impl Popularity {
    /// Items by training interactions, ties by item id.
    pub fn new(dataset: &Dataset) -> Self {
        let counts = dataset.popularity();
        let mut items: Vec<ItemId> = (0..counts.len() as ItemId).collect();
        items.sort_by_key(|&item| (std::cmp::Reverse(counts[item as usize]), item));
        Self { items }
    }

    /// Its metrics on the same users.
    pub fn evaluate(&self, dataset: &Dataset, users: &[usize], protocol: Protocol) -> Metrics {
        let rank = |&user: &usize| {
            let user = &dataset.users[user];
            let excluded = protocol.excluded(user);
            let shown = self.items.iter().filter(|item| !excluded.contains(item)).take(DEPTH);
            rank_of(&protocol.target(user), shown.copied())
        };
        Metrics::of(&users.iter().map(rank).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{ItemIndex, Level, Source};

    #[test]
    fn beams_that_name_no_item_are_not_legal() {
        let level = Level { source: Source::Random, num_codes: 3 };
        // Codes 0 and 2 occur at the first level, 1 and 2 at the second: positions are 0 and 1.
        let index = ItemIndex::new(vec![level; 2], vec![0, 1, 2, 2, 2, 1]).unwrap();
        let path = |codes: &[u32]| FreePath { codes: codes.to_vec(), score: 0.0 };
        let found = [vec![path(&[0, 0]), path(&[0, 1])], vec![path(&[0, 1]), path(&[1, 0])]];
        let rate = LegalRate::of(&found, &Trie::new(&index));
        assert_eq!(rate, LegalRate { share: 0.5, first: 0.5, users: 2 });
    }
}
