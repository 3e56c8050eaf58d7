//! Ranking by scores: for a model that scores every item after a history, or those that it finds.

use rayon::prelude::*;

use super::evaluator::{Evaluation, Popularity, metrics_of};
use super::metrics::{DEPTH, Metrics};
use super::protocol::Protocol;
use crate::Result;
use crate::data::{Dataset, Item, ItemId};
use crate::decode::{Found, Ranked};
use crate::model::sequential::{History, Sequential};

/// Users scored together.
const BATCH: usize = 256;
/// Bytes of the scores of `items` that are worked on together: as a tensor, as values and as what is made of them.
pub fn scoring_bytes(items: usize) -> u64 {
    (3 * size_of::<f32>() * BATCH * items) as u64
}

/// Scores looked at together for one that is high enough.
const BLOCK: usize = 64;

/// Scores every item after each of some histories: (histories, items), row by row.
pub trait ItemScorer: Send + Sync {
    /// The scores; no history is empty. Minus infinity is that of an item which a search did not find.
    fn scores(&self, histories: &[History<'_>]) -> Result<Vec<f32>>;

    /// The scores, however long it takes to find every item.
    fn scores_of_all(&self, histories: &[History<'_>]) -> Result<Vec<f32>> {
        self.scores(histories)
    }

    /// The best of `items` after each history, as many as any metric looks at, with and without those left out for it.
    fn best(
        &self,
        histories: &[History<'_>],
        left_out: &[&[ItemId]],
        items: &[Item],
    ) -> Result<Vec<Found>> {
        let scores = self.scores(histories)?;
        let rows = scores.par_chunks(items.len()).zip(left_out);
        let best = rows.map(|(row, left_out)| {
            let best = |left_out: &[ItemId]| top(row, DEPTH, items, left_out);
            let ranked = best(&[]);
            let others = if left_out.is_empty() { ranked.clone() } else { best(left_out) };
            Found { ranked, others }
        });
        Ok(best.collect())
    }
}

/// Evaluation of `targets` (positions among the split's): the best of all items for each, as many as any metric
/// looks at.
///
/// `on_batch` hears how many targets are done.
pub fn evaluate_scores(
    scorer: &dyn ItemScorer,
    dataset: &Dataset,
    targets: &[usize],
    protocol: Protocol,
    on_batch: &mut dyn FnMut(usize),
) -> Result<Evaluation> {
    let found = best_by_scores(scorer, dataset, targets, protocol, on_batch)?;
    Ok(Evaluation::of(dataset, protocol, found))
}

/// The metrics of `targets` (positions among the split's), all items ranked.
pub fn metrics_by_scores(
    scorer: &dyn ItemScorer,
    dataset: &Dataset,
    targets: &[usize],
    protocol: Protocol,
) -> Result<Metrics> {
    let protocol = protocol.by_first_rule();
    let found = best_by_scores(scorer, dataset, targets, protocol, &mut |_| ())?;
    Ok(metrics_of(dataset, protocol, &found))
}

fn best_by_scores(
    scorer: &dyn ItemScorer,
    dataset: &Dataset,
    targets: &[usize],
    protocol: Protocol,
    on_batch: &mut dyn FnMut(usize),
) -> Result<Vec<(usize, Found)>> {
    let mut ranked = Vec::with_capacity(targets.len());
    for batch in targets.chunks(BATCH) {
        let histories: Vec<History<'_>> =
            batch.iter().map(|&at| asked(dataset, protocol, at)).collect();
        let left_out: Vec<&[ItemId]> =
            batch.iter().map(|&at| protocol.left_out(dataset, at)).collect();
        let best = scorer.best(&histories, &left_out, &dataset.items)?;
        ranked.extend(targets[ranked.len()..].iter().copied().zip(best));
        on_batch(ranked.len());
    }
    Ok(ranked)
}

/// What a scorer is asked for a target.
pub(super) fn asked(dataset: &Dataset, protocol: Protocol, at: usize) -> History<'_> {
    let user = dataset.as_trained(protocol.target(dataset, at).user as u32);
    History { user, items: protocol.history(dataset, at) }
}

/// The `k` items of the highest scores that are not left out, best first, ties by item id.
pub(super) fn top(scores: &[f32], k: usize, items: &[Item], left_out: &[ItemId]) -> Vec<Ranked> {
    let mut best: Vec<Ranked> = Vec::with_capacity(k + 1);
    for (block, first) in scores.chunks(BLOCK).zip((0..).step_by(BLOCK)) {
        // Hardly a block has an item that enters; what else is known of the others is not looked at. They are counted
        // because vector instructions can do that.
        let bar = best.last().map_or(f32::INFINITY, |last| last.score);
        if best.len() == k && block.iter().filter(|score| **score > bar).count() == 0 {
            continue;
        }
        for (&score, item) in block.iter().zip(first..) {
            // What is no number says nothing for its item.
            let score = if score.is_nan() { f32::NEG_INFINITY } else { score };
            // Items come by id, so one that only draws level stands behind.
            let enters = best.len() < k || best.last().is_some_and(|last| score > last.score);
            if enters && !items[item as usize].is_gap && !left_out.contains(&item) {
                let place = best.partition_point(|ranked| ranked.score >= score);
                best.insert(place, Ranked { item, score });
                best.truncate(k);
            }
        }
    }
    best
}

impl ItemScorer for Popularity {
    fn scores(&self, histories: &[History<'_>]) -> Result<Vec<f32>> {
        Ok(Popularity::scores(self).repeat(histories.len()))
    }
}

impl ItemScorer for Box<dyn Sequential> {
    fn scores(&self, histories: &[History<'_>]) -> Result<Vec<f32>> {
        Ok((**self).scores(histories)?.flatten_all()?.to_vec1()?)
    }
}

impl ItemScorer for &dyn Sequential {
    fn scores(&self, histories: &[History<'_>]) -> Result<Vec<f32>> {
        Ok((**self).scores(histories)?.flatten_all()?.to_vec1()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Item, Split, User};

    /// Scores that do not depend on the history, but for the user whose history ends with item 3.
    struct Fixed;

    impl ItemScorer for Fixed {
        fn scores(&self, histories: &[History<'_>]) -> Result<Vec<f32>> {
            let row = |history: &History<'_>| match history.items.last() {
                Some(3) => [0.0, 0.0, 0.0, 0.0, 1.0],
                _ => [0.5, 0.25, 0.5, 0.75, 0.5],
            };
            Ok(histories.iter().flat_map(row).collect())
        }
    }

    #[test]
    fn a_ranking_by_hand() {
        let user = |id: &str, items: &[ItemId]| User { id: id.into(), items: items.to_vec() };
        let users = vec![user("a", &[0, 1, 2]), user("b", &[1, 1, 3, 4]), user("c", &[1, 0, 2, 1])];
        let dataset = Dataset::new("Three", users, vec![Item::default(); 5]).unwrap();
        let protocol = Protocol { split: Split::Test, max_history: 20, both_rules: true };
        let evaluate = |users: &[usize]| {
            evaluate_scores(&Fixed, &dataset, users, protocol, &mut |_| ()).unwrap()
        };
        let evaluation = evaluate(&[0, 1, 2]);
        let metrics = metrics_by_scores(&Fixed, &dataset, &[0, 1, 2], protocol).unwrap();
        assert_eq!(metrics, evaluation.metrics);
        let lists: Vec<_> = evaluation.predictions.iter().map(|p| p.items.clone()).collect();
        // Equal scores stand in the order of the item ids.
        assert_eq!(lists, [[3, 0, 2, 4, 1], [4, 0, 1, 2, 3], [3, 0, 2, 4, 1]]);
        assert_eq!(evaluation.predictions[0].scores, [0.75, 0.5, 0.5, 0.5, 0.25]);
        // Ranks 3, 1 and 5.
        let metric = |name: &str| *evaluation.metrics.get(name).unwrap();
        assert_eq!(metric("recall@1"), 1.0 / 3.0);
        assert_eq!(metric("recall@5"), 1.0);
        let ndcg = (0.5 + 1.0 + 1.0 / 6f64.log2()) / 3.0;
        assert!((metric("ndcg@10") - ndcg).abs() < 1e-12);
        let mrr = (1.0 / 3.0 + 1.0 + 1.0 / 5.0) / 3.0;
        assert!((metric("mrr@20") - mrr).abs() < 1e-12);
        // A history of the target's own items, which may stand in the list again.
        assert_eq!(evaluate(&[2]).predictions[0].rank(), Some(5));
        // Without its items: 3, 2, 4 are left for the first, 4, 0, 2 for the second; the third's target is
        // one of its own.
        let ranks: Vec<_> =
            evaluation.predictions.iter().map(|p| p.rank_history_excluded).collect();
        assert_eq!(ranks, [Some(2), Some(1), None]);
        let excluded = *evaluation.metrics_history_excluded.get("mrr@20").unwrap();
        assert!((excluded - (0.5 + 1.0) / 3.0).abs() < 1e-12);
    }

    #[test]
    fn the_best_few_are_the_first_of_the_sorted() {
        let scores: Vec<f32> = (0..500).map(|i| ((i * 7919) % 97) as f32).collect();
        let mut sorted: Vec<Ranked> =
            scores.iter().zip(0..).map(|(&score, item)| Ranked { item, score }).collect();
        sorted.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.item.cmp(&b.item)));
        let mut items = vec![Item::default(); 500];
        assert_eq!(top(&scores, 20, &items, &[]), sorted[..20]);
        assert_eq!(top(&scores, 500, &items, &[]), sorted);
        assert_eq!(top(&scores[..3], 20, &items, &[]).len(), 3);
        // What is no number stands behind all others.
        let found = top(&[f32::NAN, 1.0, f32::NAN, 2.0], 3, &items, &[]);
        assert_eq!(found.iter().map(|ranked| ranked.item).collect::<Vec<_>>(), [3, 1, 0]);
        // The only one of its block that enters, and the same left out.
        let mut level = vec![1.0; 500];
        level[450] = 2.0;
        let found = |left_out: &[ItemId]| -> Vec<ItemId> {
            top(&level, 3, &items, left_out).iter().map(|ranked| ranked.item).collect()
        };
        assert_eq!(found(&[]), [450, 0, 1]);
        assert_eq!(found(&[450]), [0, 1, 2]);
        // Where no item has an id, nothing is ranked.
        items[sorted[0].item as usize].is_gap = true;
        assert_eq!(top(&scores, 20, &items, &[]), sorted[1..21]);
    }
}
