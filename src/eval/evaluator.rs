//! Recommending for many users, and scoring what was recommended.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::metrics::{DEPTH, Metrics, rank_of};
use super::protocol::Protocol;
use crate::data::{Dataset, ItemId};
use crate::decode::{BeamSearch, Found, FreePath, search_freely};
use crate::index::Trie;
use crate::inference::{BatchScorer, ItemVocabulary, LlamaScorer};
use crate::model::Llama;
use crate::ranks::Ranks;
use crate::tasks::Prompts;
use crate::{Result, invalid};

/// A model with all it needs to recommend.
#[derive(Clone, Copy)]
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
    /// Who shares an evaluation: all search for batches of their own, and hear what the others found.
    pub ranks: &'a dyn Ranks,
}

/// What was recommended to a user before a target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The user's id in the dataset.
    pub user: String,
    /// Which of the user's items is the target, from 0.
    pub position: usize,
    /// The item the user took.
    pub target: ItemId,
    /// The shop's own id of it, where the dataset has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_raw_id: Option<String>,
    /// Recommended items, best first.
    pub items: Vec<ItemId>,
    /// The shop's own ids of these, where the dataset has them; an item without one is `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_ids: Option<Vec<Option<String>>>,
    /// Their scores: sums of log-probabilities, or whatever else a baseline ranks by.
    pub scores: Vec<f32>,
    /// Where the target stands, from 1, among the items that the user has not taken before; `None`: not in
    /// that list.
    pub rank_history_excluded: Option<usize>,
}

impl Prediction {
    /// One of a user's only target, without scores, for tests.
    #[cfg(test)]
    pub(crate) fn made_up(user: &str, target: ItemId, items: Vec<ItemId>) -> Self {
        let scores = vec![0.0; items.len()];
        Self {
            user: user.into(),
            position: 0,
            target,
            target_raw_id: None,
            items,
            raw_ids: None,
            scores,
            rank_history_excluded: None,
        }
    }

    /// Where the target stands, from 1; `None`: not in the list.
    pub fn rank(&self) -> Option<usize> {
        rank_of(&self.target, self.items.iter().copied())
    }
}

/// Metrics and what they were computed from.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Means over targets, all items ranked.
    pub metrics: Metrics,
    /// Means over targets, items that a user has taken before left out.
    pub metrics_history_excluded: Metrics,
    /// One a target, in the order of the split's.
    pub predictions: Vec<Prediction>,
    /// The ranked items of each, best first, those that the user has taken before left out.
    pub others: Vec<Vec<ItemId>>,
}

impl Evaluation {
    /// The evaluation of ranked items, best first, for targets by their positions among the split's.
    pub fn of(
        dataset: &Dataset,
        protocol: Protocol,
        found: impl IntoIterator<Item = (usize, Found)>,
    ) -> Self {
        let raw_id = |item: ItemId| dataset.items[item as usize].raw_id.clone();
        let has_raw_ids = dataset.items.iter().any(|item| item.raw_id.is_some());
        let mut lists = Vec::new();
        let prediction = |(at, Found { ranked, others }): (usize, Found)| {
            let others: Vec<ItemId> = others.iter().map(|r| r.item).collect();
            let (of, target) = (protocol.target(dataset, at), protocol.item(dataset, at));
            let rank_history_excluded = rank_of(&target, others.iter().copied());
            lists.push(others);
            Prediction {
                user: dataset.users[of.user].id.clone(),
                position: of.position,
                target,
                target_raw_id: raw_id(target),
                items: ranked.iter().map(|r| r.item).collect(),
                raw_ids: has_raw_ids.then(|| ranked.iter().map(|r| raw_id(r.item)).collect()),
                scores: ranked.iter().map(|r| r.score).collect(),
                rank_history_excluded,
            }
        };
        let predictions: Vec<Prediction> = found.into_iter().map(prediction).collect();
        let metrics = |rank: fn(&Prediction) -> Option<usize>| {
            Metrics::of(&predictions.iter().map(rank).collect::<Vec<_>>())
        };
        Self {
            metrics: metrics(Prediction::rank),
            metrics_history_excluded: metrics(|p| p.rank_history_excluded),
            predictions,
            others: lists,
        }
    }
}

/// The metrics of ranked items, best first, for targets by their positions among the split's, without more to it.
pub(super) fn metrics_of(
    dataset: &Dataset,
    protocol: Protocol,
    found: &[(usize, Found)],
) -> Metrics {
    let rank = |(at, found): &(usize, Found)| {
        rank_of(&protocol.item(dataset, *at), found.ranked.iter().map(|r| r.item))
    };
    Metrics::of(&found.iter().map(rank).collect::<Vec<_>>())
}

/// Hears what a search finds, batch by batch, and knows what one before it that was cut off has found.
pub trait SearchLog {
    /// What is known, in the order in which it was heard.
    fn known(&mut self) -> Vec<(usize, Found)>;
    /// Takes what was found for a batch of targets, by their positions among the split's.
    fn add(&mut self, batch: &[(usize, Found)]) -> Result<()>;
}

/// Keeps nothing.
struct Forgetful;

impl SearchLog for Forgetful {
    fn known(&mut self) -> Vec<(usize, Found)> {
        Vec::new()
    }

    fn add(&mut self, _batch: &[(usize, Found)]) -> Result<()> {
        Ok(())
    }
}

/// How much of what the model writes without the trie names an item, and what that is worth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LegalRate {
    /// The share among all beams.
    pub share: f64,
    /// The share among each user's best beam.
    pub first: f64,
    /// How many users were asked.
    pub users: usize,
    /// Their metrics by that search, all items ranked, as LC-Rec counts: a beam that names no item keeps its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// Their metrics by the search with the trie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_with_trie: Option<Metrics>,
}

impl LegalRate {
    /// The rate over users, of each what was found.
    fn of(users: &[Written]) -> Self {
        let sum = |of: fn(&Written) -> usize| users.iter().map(of).sum::<usize>() as f64;
        let ranks: Vec<Option<usize>> = users.iter().map(|user| user.rank).collect();
        Self {
            share: sum(|user| user.legal) / sum(|user| user.beams).max(1.0),
            first: sum(|user| usize::from(user.first_is_legal)) / users.len().max(1) as f64,
            users: users.len(),
            metrics: Some(Metrics::of(&ranks)),
            metrics_with_trie: None,
        }
    }
}

/// What a search without the trie found for a user.
struct Written {
    beams: usize,
    /// How many of them name an item.
    legal: usize,
    /// Whether the best does.
    first_is_legal: bool,
    /// Where the target stands.
    rank: Option<usize>,
}

impl Written {
    /// Of code sequences, best first.
    fn of(found: &[FreePath], trie: &Trie, target: ItemId) -> Self {
        let named = |path: &FreePath| {
            let mut codes = path.codes.iter();
            codes
                .try_fold(trie.root(), |node, &code| trie.child(node, code))
                .and_then(|node| trie.item(node))
        };
        let named: Vec<Option<ItemId>> = found.iter().map(named).collect();
        Self {
            beams: named.len(),
            legal: named.iter().flatten().count(),
            first_is_legal: named.first().is_some_and(Option::is_some),
            rank: rank_of(&Some(target), named),
        }
    }
}

impl Recommender<'_> {
    /// How much of what a search as wide as this one, which holds no more than there are items, finds without the trie
    /// names an item; `targets` has the item that is sought after each of `histories`.
    pub fn legal_rate(
        &self,
        histories: &[&[ItemId]],
        targets: &[ItemId],
        on_batch: &mut dyn FnMut(usize),
    ) -> Result<LegalRate> {
        let mut all: Vec<Written> = Vec::with_capacity(histories.len());
        let width = self.search.width.min(self.trie.num_leaves());
        let mut count = |found: Vec<Vec<FreePath>>| {
            let targets = &targets[all.len()..];
            let written = found.iter().zip(targets);
            all.extend(written.map(|(found, &target)| Written::of(found, self.trie, target)));
            on_batch(all.len());
            Ok(())
        };
        self.in_batches(histories, &mut count, |scorer, users| {
            search_freely(width, self.trie.num_levels(), users.len(), scorer)
        })?;
        Ok(LegalRate::of(&all))
    }

    /// Gives away what `search` finds for the histories of each batch.
    fn in_batches<T: Send>(
        &self,
        histories: &[&[ItemId]],
        on_batch: &mut dyn FnMut(Vec<T>) -> Result<()>,
        search: impl Fn(&mut LlamaScorer<'_>, Range<usize>) -> Result<Vec<T>> + Sync,
    ) -> Result<()> {
        let instruction = self.prompts.instruction();
        let (vocabulary, normalize) = (self.vocabulary, self.search.normalize);
        let mut scorer = BatchScorer::new(self.model, vocabulary, normalize, instruction);
        let mut done = 0;
        for batch in histories.chunks(self.batch) {
            let tokens: Vec<Vec<u32>> = batch.iter().map(|h| self.prompts.history(h)).collect();
            on_batch(scorer.search(&tokens, |scorer, users| {
                search(scorer, done + users.start..done + users.end)
            })?)?;
            done += batch.len();
        }
        Ok(())
    }

    /// Bytes that searching takes at most for `targets`, beside the weights; 0 where that is not known.
    pub fn bytes(&self, dataset: &Dataset, targets: &[usize], protocol: Protocol) -> u64 {
        let order = by_history(dataset, targets, protocol);
        let sizes: Vec<(usize, usize)> = order
            .iter()
            .map(|&at| {
                let history = self.prompts.history(protocol.history(dataset, at)).len();
                // A search that leaves items out is wider by as many.
                let width = self.search.width.saturating_add(protocol.left_out(dataset, at).len());
                (history, width.min(dataset.num_items()))
            })
            .collect();
        let instruction = self.prompts.instruction();
        let scorer =
            BatchScorer::new(self.model, self.vocabulary, self.search.normalize, instruction);
        sizes.chunks(self.batch).map(|batch| scorer.bytes(batch)).max().unwrap_or(0)
    }

    /// Metrics of `targets` (positions among the split's), all items ranked.
    pub fn metrics(
        &self,
        dataset: &Dataset,
        targets: &[usize],
        protocol: Protocol,
    ) -> Result<Metrics> {
        let found = self.search(dataset, targets, protocol.by_first_rule(), &mut Forgetful)?;
        Ok(metrics_of(dataset, protocol, &found))
    }

    /// What is found for `targets` (positions among the split's), by both rules, in the split's order.
    ///
    /// `log` hears of batches in another order, which `targets` decide; what it knows is the same on all ranks.
    pub fn search(
        &self,
        dataset: &Dataset,
        targets: &[usize],
        protocol: Protocol,
        log: &mut dyn SearchLog,
    ) -> Result<Vec<(usize, Found)>> {
        let order = by_history(dataset, targets, protocol);
        let history = |at: usize| protocol.history(dataset, at);
        let mut all = log.known();
        all.truncate(order.len());
        if !all.iter().zip(&order).all(|((known, _), at)| known == at) {
            invalid!("what is known of an evaluation is of other targets");
        }
        let rest = &order[all.len()..];
        let (rank, size) = (self.ranks.rank(), self.ranks.size());
        let own = rest.chunks(self.batch).skip(rank).step_by(size).flatten();
        let own: Vec<usize> = own.copied().collect();
        let histories: Vec<&[ItemId]> = own.iter().map(|&at| history(at)).collect();
        let left_out: Vec<&[ItemId]> =
            own.iter().map(|&at| protocol.left_out(dataset, at)).collect();
        // The ranks' batches of a round stand one after another.
        let mut rounds = rest.chunks(self.batch * size);
        let mut on_batch = |found: Vec<Found>| {
            let Some(round) = rounds.next() else { return Ok(()) };
            let found = self.ranks.gather_values(found)?.into_iter().flatten();
            let of_round: Vec<(usize, Found)> = round.iter().copied().zip(found).collect();
            log.add(&of_round)?;
            all.extend(of_round);
            Ok(())
        };
        self.in_batches(&histories, &mut on_batch, |scorer, batch| {
            self.search.run_beside(self.trie, &left_out[batch], scorer)
        })?;
        // A rank without a batch in the last round hears of it all the same.
        on_batch(Vec::new())?;
        all.sort_by_key(|(at, _)| *at);
        Ok(all)
    }
}

/// Targets in the order in which they are searched for: histories of like length share a batch, so that no level of
/// it waits for one long row.
fn by_history(dataset: &Dataset, targets: &[usize], protocol: Protocol) -> Vec<usize> {
    let mut order = targets.to_vec();
    order.sort_by_key(|&at| (protocol.history(dataset, at).len(), at));
    order
}

/// The baseline that shows everybody the items bought most often in training.
#[derive(Debug, Clone)]
pub struct Popularity {
    /// Those that may be recommended, the most popular first.
    items: Vec<ItemId>,
    num_items: usize,
}

impl Popularity {
    /// Items by training interactions, ties by item id.
    pub fn new(dataset: &Dataset) -> Self {
        Self { items: dataset.by_popularity(), num_items: dataset.num_items() }
    }

    /// A score for every item: the more popular, the higher.
    pub(super) fn scores(&self) -> Vec<f32> {
        let mut scores = vec![0.0; self.num_items];
        for (place, &item) in self.items.iter().rev().enumerate() {
            scores[item as usize] = place as f32;
        }
        scores
    }

    /// Its metrics on the same targets: all items ranked, and without those that a user has taken before.
    pub fn evaluate(
        &self,
        dataset: &Dataset,
        targets: &[usize],
        protocol: Protocol,
    ) -> [Metrics; 2] {
        [false, true].map(|excludes| {
            let rank = |&at: &usize| {
                let left_out = if excludes { protocol.left_out(dataset, at) } else { &[] };
                let shown = self.items.iter().filter(|item| !left_out.contains(item)).take(DEPTH);
                rank_of(&protocol.item(dataset, at), shown.copied())
            };
            Metrics::of(&targets.iter().map(rank).collect::<Vec<_>>())
        })
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
        let trie = Trie::new(&index);
        assert_eq!(trie.num_leaves(), 3);
        let written = |(found, target): (&Vec<FreePath>, _)| Written::of(found, &trie, target);
        let rate = LegalRate::of(&found.iter().zip([0, 2]).map(written).collect::<Vec<_>>());
        assert_eq!((rate.share, rate.first, rate.users), (0.5, 0.5, 2));
        // The first user's target stands first; the second's second, behind a beam that names none.
        assert_eq!(rate.metrics, Some(Metrics::of(&[Some(1), Some(2)])));
    }
}
