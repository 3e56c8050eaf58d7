//! SASRec as the encoder behind the behavior embedding.

use super::{BehaviorEmbedding, choose_holdout, with_mean_for_unseen};
use crate::Result;
use crate::embed::epochs::{Progress, occurrences};
use crate::embed::sasrec::{SasRecConfig, train_sasrec};
use crate::model::sasrec::SasRec;

/// Share of the users whose last training target says when to stop.
const HOLDOUT: f64 = 0.05;
/// Histories a forward pass outside training.
const INFERENCE_BATCH: usize = 256;

/// See [`super::train_behavior_embedding`].
pub(super) fn train(
    sequences: &[&[u32]],
    num_items: usize,
    config: &SasRecConfig,
    seed: u64,
    progress: &mut dyn FnMut(&Progress),
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
    let measure = |network: &SasRec| log_likelihood(network, &held_out);
    let trained = train_sasrec(&kept, num_items, config, seed, &mut { measure }, progress)?;

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

/// The mean log-probability of the targets after their histories; none without any.
fn log_likelihood(network: &SasRec, samples: &[(&[u32], u32)]) -> Result<Option<f64>> {
    let mut total = 0.0;
    for batch in samples.chunks(INFERENCE_BATCH) {
        let (histories, targets): (Vec<&[u32]>, Vec<u32>) = batch.iter().copied().unzip();
        let losses = network.losses(&network.last_states(&histories)?, &targets)?;
        total -= losses.to_vec1::<f32>()?.into_iter().map(f64::from).sum::<f64>();
    }
    Ok((!samples.is_empty()).then(|| total / samples.len() as f64))
}
