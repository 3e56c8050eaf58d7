//! SASRec as the encoder behind the behavior embedding.

use super::{BehaviorEmbedding, choose_holdout, with_mean_for_unseen};
use crate::Result;
use crate::embed::epochs::{Around, occurrences};
use crate::embed::sasrec::{SCORED_AT_ONCE, SasRecConfig, train_sasrec};
use crate::model::sasrec::SasRec;

/// Share of the users whose last training target says when to stop.
const HOLDOUT: f64 = 0.05;

/// See [`super::train_behavior_embedding`].
pub(super) fn train(
    sequences: &[&[u32]],
    num_items: usize,
    config: &SasRecConfig,
    seed: u64,
    around: &mut Around<'_>,
) -> Result<BehaviorEmbedding> {
    let count = occurrences(sequences, num_items)?;
    let is_held_out = choose_holdout(sequences, HOLDOUT, count, seed, "sasrec-holdout");
    let mut held_out: Vec<(&[u32], u32)> = Vec::new();
    let mut kept = sequences.to_vec();
    for (items, _) in kept.iter_mut().zip(&is_held_out).filter(|(_, held)| **held) {
        if let Some((&target, history)) = items.split_last() {
            held_out.push((history, target));
            *items = history;
        }
    }
    let measure = |network: &SasRec| ndcg_at_10(network, &held_out);
    let trained = train_sasrec(&kept, num_items, config, seed, &mut { measure }, around)?;

    let mut seen = vec![false; num_items];
    for &item in kept.iter().filter(|items| items.len() > 1).copied().flatten() {
        seen[item as usize] = true;
    }
    let weights = trained.network.weights()?;
    Ok(BehaviorEmbedding {
        embeddings: with_mean_for_unseen(trained.network.items(), &seen)?,
        weights,
        measured: trained.measured(),
        reports: trained.reports,
        best_epoch: trained.best_epoch,
        num_targets: trained.num_targets,
        num_seen: seen.iter().filter(|&&s| s).count(),
    })
}

/// NDCG@10 of the targets among all items after their histories; none without any.
///
/// Likelihood would stop training long before ranking is at its best: what is confused there are the many
/// items that nobody would be shown.
fn ndcg_at_10(network: &SasRec, samples: &[(&[u32], u32)]) -> Result<Option<f64>> {
    let mut total = 0.0;
    for batch in samples.chunks(SCORED_AT_ONCE) {
        let (histories, targets): (Vec<&[u32]>, Vec<u32>) = batch.iter().copied().unzip();
        let scores: Vec<Vec<f32>> = network.scores(&histories)?.to_vec2()?;
        let gain = |(row, &target): (&Vec<f32>, &u32)| {
            let own = row[target as usize];
            let rank = 1 + row.iter().filter(|score| **score > own).count();
            if rank <= 10 { 1.0 / (rank as f64 + 1.0).log2() } else { 0.0 }
        };
        total += scores.iter().zip(&targets).map(gain).sum::<f64>();
    }
    Ok((!samples.is_empty()).then(|| total / samples.len() as f64))
}
