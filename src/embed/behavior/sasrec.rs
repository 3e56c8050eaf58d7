//! SASRec as the encoder behind the behavior embedding.

use super::{BehaviorEmbedding, choose_holdout, with_mean_for_unseen};
use crate::Result;
use crate::embed::epochs::{Around, occurrences};
use crate::embed::sequential::{Course, SCORED_AT_ONCE, SequentialReport};
use crate::model::sequential::{History, SasRec, SasRecConfig, Sequential, TrainingConfig};
use crate::ranks::Ranks;

/// Share of the users whose last training target says when to stop.
const HOLDOUT: f64 = 0.05;

/// Passes over everything with which a trained network learns what came since. On Amazon Beauty, with the last tenth of
/// the interactions new, it taught better after ten than after four, and no better after twenty.
pub const CONTINUED_EPOCHS: usize = 10;

/// Trains the new `network`. See [`super::train_behavior_embedding`].
pub(super) fn train(
    network: &SasRec,
    sequences: &[&[u32]],
    config: &SasRecConfig,
    seed: u64,
    around: &mut Around<'_>,
) -> Result<BehaviorEmbedding> {
    let count = occurrences(sequences, network.num_items())?;
    let is_held_out = choose_holdout(sequences, HOLDOUT, count, seed, "sasrec-holdout");
    let mut held_out: Vec<(&[u32], u32)> = Vec::new();
    let mut kept = sequences.to_vec();
    for (items, _) in kept.iter_mut().zip(&is_held_out).filter(|(_, held)| **held) {
        if let Some((&target, history)) = items.split_last() {
            held_out.push((history, target));
            *items = history;
        }
    }
    let ranks = around.ranks;
    let mut measure = |network: &dyn Sequential| ndcg_at_10(network, &held_out, ranks);
    let course = course(network, &config.training, &kept, seed);
    embedding(network, &kept, course.train(&mut measure, around)?)
}

/// Goes on with the training of `network`, which is one of the same settings, on `sequences` with what came since.
/// Nothing is held out.
///
/// # Errors
/// As [`super::train_behavior_embedding`].
pub fn continue_sasrec(
    network: &SasRec,
    sequences: &[&[u32]],
    config: &SasRecConfig,
    seed: u64,
    around: &mut Around<'_>,
) -> Result<BehaviorEmbedding> {
    let training = TrainingConfig { epochs: CONTINUED_EPOCHS, ..config.training.clone() };
    let course = course(network, &training, sequences, seed);
    embedding(network, sequences, course.train(&mut |_| Ok(None), around)?)
}

fn course<'a>(
    network: &'a SasRec,
    config: &'a TrainingConfig,
    sequences: &'a [&'a [u32]],
    seed: u64,
) -> Course<'a> {
    Course { name: "sasrec", network, config, sequences, seed }
}

/// The items of a network that was trained on `sequences`.
fn embedding(
    network: &SasRec,
    sequences: &[&[u32]],
    trained: SequentialReport,
) -> Result<BehaviorEmbedding> {
    let mut seen = vec![false; network.num_items()];
    for &item in sequences.iter().filter(|items| items.len() > 1).copied().flatten() {
        seen[item as usize] = true;
    }
    let weights = network.weights()?;
    Ok(BehaviorEmbedding {
        embeddings: with_mean_for_unseen(&network.core().items.weight, &seen)?,
        weights,
        measured: trained.measured(),
        reports: trained.reports,
        best_epoch: trained.best_epoch,
        num_targets: trained.num_targets,
        num_seen: seen.iter().filter(|&&s| s).count(),
    })
}

/// What NDCG@10 gains by a target: ties go to the smaller id, and what is no number is above everything.
fn gain(scores: &[f32], target: usize) -> f64 {
    let (before, after) = scores.split_at(target);
    let own = scores[target];
    let behind = before.iter().filter(|score| **score < own).count()
        + after[1..].iter().filter(|score| **score <= own).count();
    let rank = scores.len() - behind;
    if rank <= 10 { 1.0 / (rank as f64 + 1.0).log2() } else { 0.0 }
}

/// NDCG@10 of the targets among all items after their histories, of which each rank scores its part; none without any.
///
/// Likelihood would stop training long before ranking is at its best: what is confused there are the many
/// items that nobody would be shown.
fn ndcg_at_10(
    network: &dyn Sequential,
    samples: &[(&[u32], u32)],
    ranks: &dyn Ranks,
) -> Result<Option<f64>> {
    let mut total = 0.0;
    let own = &samples[ranks.part_of(samples.iter().map(|(history, _)| history.len()))];
    for batch in own.chunks(SCORED_AT_ONCE) {
        let of = |&(history, target): &(_, u32)| (History::of(history), target);
        let (histories, targets): (Vec<History<'_>>, Vec<u32>) = batch.iter().map(of).unzip();
        let scores: Vec<Vec<f32>> = network.scores(&histories)?.to_vec2()?;
        let gains = scores.iter().zip(&targets).map(|(row, &target)| gain(row, target as usize));
        total += gains.sum::<f64>();
    }
    let total = ranks.sums(&[total])[0];
    Ok((!samples.is_empty()).then(|| total / samples.len() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_gains_by_the_items_before_it() {
        let second = 1.0 / 3f64.log2();
        assert_eq!([1, 0, 2].map(|at| gain(&[0.5, 1.0, 0.5], at)), [1.0, second, 0.5]);
        // A network that says nothing finds nothing: ties go by the id, and no number is no merit.
        assert_eq!((gain(&[1.0; 30], 20), gain(&[f32::NAN; 30], 0)), (0.0, 0.0));
        assert_eq!(gain(&[f32::NAN, 1.0], 1), second);
    }
}
