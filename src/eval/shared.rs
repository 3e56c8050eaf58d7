//! What a ranking is worth to those who take items that share codes for one (docs/evaluation.md).
//!
//! An imported index may have given several items the same codes, which a level added here tells apart. Other
//! programs score by codes, and so cannot: a hit is a hit of the group.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::evaluator::Evaluation;
use super::metrics::{COUNT, Metrics, gains, rank_of};
use super::protocol::Protocol;
use crate::data::{Dataset, ItemId};

/// The metrics under three readings of codes that items share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SharedCodes {
    /// Items that share their codes with others.
    pub items: usize,
    /// How many groups they make up.
    pub groups: usize,
    /// Targets that are such items.
    pub targets: usize,
    /// Means over all targets, all items ranked.
    pub metrics: Readings,
    /// Means over all targets, items that a user has taken before left out.
    pub metrics_history_excluded: Readings,
}

/// The metrics by what counts as the target where its codes are those of several items. Where they are not, all
/// three are the target's own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Readings {
    /// The best of the items.
    pub optimistic: Metrics,
    /// Each of them, as likely as the others.
    pub expected: Metrics,
    /// The worst of them; one that was not found is a miss.
    pub pessimistic: Metrics,
}

impl SharedCodes {
    /// What `evaluation`, of `targets` (positions among the split's, in its order), is worth where the items of
    /// each of `groups` share their codes.
    pub fn of(
        groups: &[Vec<ItemId>],
        dataset: &Dataset,
        targets: &[usize],
        protocol: Protocol,
        evaluation: &Evaluation,
    ) -> Self {
        // An id that no item has is never ranked.
        let is_item = |item: &&ItemId| !dataset.items[**item as usize].is_gap;
        let groups: Vec<Vec<ItemId>> = groups
            .iter()
            .map(|group| group.iter().filter(is_item).copied().collect())
            .filter(|group: &Vec<ItemId>| group.len() > 1)
            .collect();
        let of_item: HashMap<ItemId, &[ItemId]> =
            groups.iter().flat_map(|group| group.iter().map(|&item| (item, &group[..]))).collect();
        let own: Vec<[ItemId; 1]> = evaluation.predictions.iter().map(|p| [p.target]).collect();
        let group = |at: usize| of_item.get(&own[at][0]).copied().unwrap_or(&own[at]);

        let ranked = evaluation.predictions.iter().enumerate().map(|(at, prediction)| {
            let rank = |item: &ItemId| rank_of(item, prediction.items.iter().copied());
            group(at).iter().map(rank).collect()
        });
        let excluded =
            targets.iter().zip(&evaluation.others).enumerate().map(|(at, (&of, others))| {
                let left_out = protocol.left_out(dataset, of);
                let rank = |item: &ItemId| rank_of(item, others.iter().copied());
                if left_out.contains(&own[at][0]) {
                    return vec![None];
                }
                // What is not ranked by this rule is no item that could have been found.
                group(at).iter().filter(|item| !left_out.contains(item)).map(rank).collect()
            });
        Self {
            items: of_item.len(),
            groups: groups.len(),
            targets: own.iter().filter(|own| of_item.contains_key(&own[0])).count(),
            metrics: Readings::of(ranked),
            metrics_history_excluded: Readings::of(excluded),
        }
    }
}

impl Readings {
    /// The readings of targets, of each of which the items of its codes stand at these ranks.
    fn of(targets: impl Iterator<Item = Vec<Option<usize>>>) -> Self {
        let (mut best, mut worst) = (Vec::new(), Vec::new());
        let mut sums = [0.0; COUNT];
        for ranks in targets {
            best.push(ranks.iter().flatten().min().copied());
            // One that was not found is the worst.
            let all: Option<Vec<usize>> = ranks.iter().copied().collect();
            worst.push(all.and_then(|ranks| ranks.into_iter().max()));
            for &rank in &ranks {
                for (sum, gain) in sums.iter_mut().zip(gains(rank)) {
                    *sum += gain / ranks.len() as f64;
                }
            }
        }
        let targets = best.len().max(1) as f64;
        Self {
            optimistic: Metrics::of(&best),
            expected: Metrics::from_fn(|metric| sums[metric] / targets),
            pessimistic: Metrics::of(&worst),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Item, Split, User};
    use crate::decode::{Found, Ranked};

    /// The three readings of a metric.
    fn three(readings: &Readings, name: &str) -> [f64; 3] {
        [readings.optimistic, readings.expected, readings.pessimistic]
            .map(|metrics| *metrics.get(name).unwrap())
    }

    fn assert_close(found: [f64; 3], expected: [f64; 3]) {
        let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close, "{found:?} is not {expected:?}");
    }

    #[test]
    fn readings_by_hand() {
        let user = |id: &str, items: &[ItemId]| User { id: id.into(), items: items.to_vec() };
        // Items 1, 3 and 4 share their codes, and so would 2 and 7, if there were an item 7.
        let users = vec![
            user("a", &[0, 2, 3]),
            user("b", &[2, 5, 0]),
            user("c", &[3, 0, 4]),
            user("d", &[1, 0, 1]),
        ];
        let mut items = vec![Item::default(); 8];
        items[7].is_gap = true;
        let dataset = Dataset::new("Four", users, items).unwrap();
        let protocol = Protocol { split: Split::Test, max_history: 20, both_rules: true };
        let list = |items: &[ItemId]| {
            items.iter().map(|&item| Ranked { item, score: 0.0 }).collect::<Vec<_>>()
        };
        let found = |ranked: &[ItemId], others: &[ItemId]| Found {
            ranked: list(ranked),
            others: list(others),
        };
        let found = [
            // 3 for the target of `a`: 1 first, 3 third, 4 nowhere; in the other list 4 second alone.
            (0, found(&[1, 0, 3, 5], &[5, 4])),
            // 0 for that of `b`, which shares with none.
            (1, found(&[5, 0], &[1, 0])),
            // 4 for `c`, who took 3 before: the first three; then 4 and 1.
            (2, found(&[4, 3, 1], &[6, 4, 1])),
            // 1 for `d`, who took it before: second; left out.
            (3, found(&[0, 1, 3, 4], &[3, 4])),
        ];
        let evaluation = Evaluation::of(&dataset, protocol, found);
        let groups = [vec![1, 3, 4], vec![2, 7]];
        let shared = SharedCodes::of(&groups, &dataset, &[0, 1, 2, 3], protocol, &evaluation);
        assert_eq!((shared.items, shared.groups, shared.targets), (3, 1, 3));

        // Best ranks 1, 2, 1, 2; worst none, 2, 3, 4.
        let readings = &shared.metrics;
        assert_close(three(readings, "recall@1"), [0.5, (1.0 + 1.0) / 3.0 / 4.0, 0.0]);
        assert_close(three(readings, "recall@5"), [1.0, (2.0 / 3.0 + 3.0) / 4.0, 0.75]);
        let mean = |of: [f64; 3]| of.iter().sum::<f64>() / 3.0;
        let expected = mean([1.0, 1.0 / 3.0, 0.0])
            + 0.5
            + mean([1.0, 1.0 / 2.0, 1.0 / 3.0])
            + mean([1.0 / 2.0, 1.0 / 3.0, 1.0 / 4.0]);
        let worst = 1.0 / 2.0 + 1.0 / 3.0 + 1.0 / 4.0;
        assert_close(three(readings, "mrr@20"), [3.0 / 4.0, expected / 4.0, worst / 4.0]);

        // `a`: 4 alone was found, second; `c`: 4 second and 1 third, 3 does not count; `d` missed.
        let readings = &shared.metrics_history_excluded;
        assert_close(three(readings, "recall@5"), [0.75, (1.0 / 3.0 + 2.0) / 4.0, 0.5]);
        let ndcg = |rank: f64| 1.0 / (rank + 1.0).log2();
        let expected = ndcg(2.0) / 3.0 + ndcg(2.0) + f64::midpoint(ndcg(2.0), ndcg(3.0));
        let best = 3.0 * ndcg(2.0);
        let worst = ndcg(2.0) + ndcg(3.0);
        assert_close(three(readings, "ndcg@10"), [best / 4.0, expected / 4.0, worst / 4.0]);

        // Where none share, all are the target's own.
        let alone = SharedCodes::of(&[], &dataset, &[0, 1, 2, 3], protocol, &evaluation);
        assert_eq!(alone.metrics.expected, evaluation.metrics);
        assert_eq!(alone.metrics.optimistic, alone.metrics.pessimistic);
        let own = evaluation.metrics_history_excluded;
        assert_eq!(alone.metrics_history_excluded.optimistic, own);
        assert_eq!(alone.metrics_history_excluded.pessimistic, own);
    }
}
