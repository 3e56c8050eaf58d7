//! What a ranking is worth as a whole, to whom, and for which items.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::bootstrap::{Intervals, intervals};
use super::evaluator::Prediction;
use super::metrics::Metrics;
use super::protocol::Protocol;
use crate::data::Dataset;

/// Where the buckets of history lengths begin; the last is open.
const HISTORY_FROM: [usize; 4] = [1, 5, 10, 20];

/// Where the buckets of training counts begin; the last is open.
const POPULARITY_FROM: [usize; 6] = [0, 1, 5, 10, 20, 50];

/// The metrics of an evaluation, whole and by bucket, and what of the catalogue it shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Means over targets, all items ranked.
    pub metrics: Metrics,
    /// Their bootstrap intervals.
    pub intervals: Intervals,
    /// Means over targets, items that a user has taken before left out.
    pub metrics_history_excluded: Metrics,
    /// Their bootstrap intervals.
    pub intervals_history_excluded: Intervals,
    /// Users by the length of the history the model saw.
    pub by_history: Vec<Bucket>,
    /// Users by how often their target occurs in training.
    pub by_popularity: Vec<Bucket>,
    /// How much of the catalogue is recommended at all.
    pub coverage: Coverage,
}

/// The targets with a value in a range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// The least value.
    pub from: usize,
    /// The greatest value; none where the range is open.
    pub to: Option<usize>,
    /// How many there are.
    pub targets: usize,
    /// Means over these.
    pub metrics: Metrics,
    /// Their bootstrap intervals.
    pub intervals: Intervals,
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.from;
        f.pad(&match self.to {
            None => format!("{from}+"),
            Some(to) if to == from => to.to_string(),
            Some(to) => format!("{from}-{to}"),
        })
    }
}

/// The share of the catalogue that stands in anybody's list.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// In the first 10 places.
    #[serde(rename = "coverage@10")]
    pub top_10: f64,
    /// In the first 20 places.
    #[serde(rename = "coverage@20")]
    pub top_20: f64,
}

impl Report {
    /// The report on `predictions` for `targets` (positions among the split's, in the same order).
    pub fn new(
        dataset: &Dataset,
        targets: &[usize],
        protocol: Protocol,
        predictions: &[Prediction],
        seed: u64,
    ) -> Self {
        let ranks: Vec<_> = predictions.iter().map(Prediction::rank).collect();
        let others: Vec<_> = predictions.iter().map(|p| p.rank_history_excluded).collect();
        let history = |&at: &usize| protocol.history(dataset, at).len();
        let histories: Vec<usize> = targets.iter().map(history).collect();
        let counts = dataset.popularity();
        let popularity = |p: &Prediction| counts[p.target as usize] as usize;
        let popularities: Vec<usize> = predictions.iter().map(popularity).collect();
        let coverage = |depth| coverage(predictions, depth, dataset);
        Self {
            metrics: Metrics::of(&ranks),
            intervals: intervals(&ranks, seed),
            metrics_history_excluded: Metrics::of(&others),
            intervals_history_excluded: intervals(&others, seed),
            by_history: buckets(&HISTORY_FROM, &histories, &ranks, seed),
            by_popularity: buckets(&POPULARITY_FROM, &popularities, &ranks, seed),
            coverage: Coverage { top_10: coverage(10), top_20: coverage(20) },
        }
    }
}

/// Targets by their value; buckets without any are left out.
fn buckets(starts: &[usize], values: &[usize], ranks: &[Option<usize>], seed: u64) -> Vec<Bucket> {
    let bucket = |(i, &from): (usize, &usize)| {
        let to = starts.get(i + 1).map(|next| next - 1);
        let within = |value: usize| value >= from && to.is_none_or(|to| value <= to);
        let pairs = values.iter().zip(ranks).filter(|(value, _)| within(**value));
        let ranks: Vec<_> = pairs.map(|(_, &rank)| rank).collect();
        (!ranks.is_empty()).then(|| Bucket {
            from,
            to,
            targets: ranks.len(),
            metrics: Metrics::of(&ranks),
            intervals: intervals(&ranks, seed),
        })
    };
    starts.iter().enumerate().filter_map(bucket).collect()
}

fn coverage(predictions: &[Prediction], depth: usize, dataset: &Dataset) -> f64 {
    let mut shown = vec![false; dataset.num_items()];
    for &item in predictions.iter().flat_map(|p| p.items.iter().take(depth)) {
        shown[item as usize] = true;
    }
    shown.iter().filter(|shown| **shown).count() as f64 / dataset.catalogue().count() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Item, ItemId, Split, User};

    fn test(max_history: usize) -> Protocol {
        Protocol { split: Split::Test, max_history, both_rules: true }
    }

    fn dataset() -> Dataset {
        let user = |id: &str, items: &[ItemId]| User { id: id.into(), items: items.to_vec() };
        // In training: item 0 once, item 1 five times, item 2 never.
        let users = vec![user("a", &[0, 2, 1]), user("b", &[1, 1, 1, 1, 1, 3, 2])];
        Dataset::new("Two", users, vec![Item::default(); 50]).unwrap()
    }

    fn prediction(user: &str, target: ItemId, items: Vec<ItemId>) -> Prediction {
        Prediction::made_up(user, target, items)
    }

    #[test]
    fn users_are_told_apart_by_history_and_by_the_targets_popularity() {
        let predictions = [prediction("a", 1, vec![1, 0]), prediction("b", 2, (10..30).collect())];
        let report = Report::new(&dataset(), &[0, 1], test(20), &predictions, 1);
        assert_eq!(report.metrics.get("recall@1"), Some(&0.5));

        let seen = |buckets: &[Bucket]| {
            let seen = |b: &Bucket| (b.from, b.to, b.targets, *b.metrics.get("recall@1").unwrap());
            buckets.iter().map(seen).collect::<Vec<_>>()
        };
        assert_eq!(seen(&report.by_history), [(1, Some(4), 1, 1.0), (5, Some(9), 1, 0.0)]);
        assert_eq!(seen(&report.by_popularity), [(0, Some(0), 1, 0.0), (5, Some(9), 1, 1.0)]);

        // 2 + 10 and 2 + 20 of 50 items.
        assert_eq!(report.coverage, Coverage { top_10: 0.24, top_20: 0.44 });
    }

    #[test]
    fn a_history_is_as_long_as_the_model_saw_it() {
        let predictions = [prediction("b", 2, vec![2])];
        let report = Report::new(&dataset(), &[1], test(3), &predictions, 1);
        assert_eq!((report.by_history[0].from, report.by_history.len()), (1, 1));
    }

    #[test]
    fn the_last_bucket_is_open() {
        let found = buckets(&POPULARITY_FROM, &[49, 50, 900], &[None, Some(1), None], 1);
        let ends: Vec<_> = found.iter().map(|b| (b.from, b.to, b.targets)).collect();
        assert_eq!(ends, [(20, Some(49), 1), (50, None, 2)]);
    }
}
