//! The behavior embedding: what its encoders have in common.
//!
//! Sees nothing but the sequences it is given: the caller passes every user's items without the
//! validation and test ones.

mod din;
mod sasrec;
mod spectral;

use std::collections::BTreeMap;

use candle_core::Tensor;
use ndarray::{Array2, Axis};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::epochs::{Around, EpochReport, TrainingBytes};
use super::sequential::Course;
use crate::model::sequential::SasRecConfig;
use crate::{Result, rng};

pub use din::DinConfig;
pub use sasrec::{CONTINUED_EPOCHS, continue_sasrec};
pub use spectral::{SpectralConfig, SpectralEmbedding, spectral_embedding};

/// What the behavior embedding comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoder {
    /// A Deep Interest Network, which tells the next item from sampled others.
    Din,
    /// SASRec, which finds the next item among all others.
    SasRec,
    /// Eigenvectors of the graph of items, which are not trained.
    Spectral,
}

impl Encoder {
    /// All.
    pub const ALL: [Self; 3] = [Self::Din, Self::SasRec, Self::Spectral];

    /// The name, as in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Din => "din",
            Self::SasRec => "sasrec",
            Self::Spectral => "spectral",
        }
    }

    /// The table of its settings in a configuration.
    pub fn settings(self) -> &'static str {
        match self {
            Self::Din => "index.behavior.din",
            Self::SasRec => "index.behavior.sasrec",
            Self::Spectral => "index.behavior.spectral",
        }
    }
}

/// An encoder that is trained, with its settings.
#[derive(Debug, Clone, Copy)]
pub enum EncoderConfig<'a> {
    /// [`Encoder::Din`]
    Din(&'a DinConfig),
    /// [`Encoder::SasRec`]
    SasRec(&'a SasRecConfig),
}

impl EncoderConfig<'_> {
    /// Which one it is.
    pub fn encoder(self) -> Encoder {
        match self {
            Self::Din(_) => Encoder::Din,
            Self::SasRec(_) => Encoder::SasRec,
        }
    }

    /// What training it on `sequences` takes.
    ///
    /// # Errors
    /// Settings that cannot work.
    pub fn bytes(self, sequences: &[&[u32]], num_items: usize) -> Result<TrainingBytes> {
        match self {
            Self::Din(config) => Ok(config.bytes(sequences, num_items)),
            Self::SasRec(config) => {
                let network = &config.network(num_items, 0)?;
                Course { name: "sasrec", network, config: &config.training, sequences, seed: 0 }
                    .bytes()
            }
        }
    }

    /// What is measured on the holdout, the higher the better: the area under the ROC curve over sampled
    /// negatives, or NDCG@10 of the held-out items among all.
    pub fn metric(self) -> &'static str {
        match self {
            Self::Din(_) => "auc",
            Self::SasRec(_) => "ndcg@10",
        }
    }

    /// Passes over the training targets at most.
    pub fn epochs(self) -> usize {
        match self {
            Self::Din(config) => config.epochs,
            Self::SasRec(config) => config.training.epochs,
        }
    }
}

/// The behavior embedding and how it came about.
#[derive(Debug, Clone)]
pub struct BehaviorEmbedding {
    /// (items, dim), row = item id; items without a training sample have the mean of the others.
    pub embeddings: Array2<f32>,
    /// Parameters and, of a DIN, running statistics of the network behind it.
    pub weights: BTreeMap<String, Tensor>,
    /// One report an epoch.
    pub reports: Vec<EpochReport>,
    /// The epoch, from 1, that embeddings and weights stem from.
    pub best_epoch: usize,
    /// The [`EncoderConfig::metric`] on the holdout after that epoch, if there is a holdout.
    pub measured: Option<f64>,
    /// Training targets, without the holdout.
    pub num_targets: usize,
    /// Items with a training sample.
    pub num_seen: usize,
}

/// Trains an encoder on `sequences` (each user's training items, oldest first) and returns its item
/// embeddings.
///
/// # Errors
/// Settings that cannot work, an item id outside `0..num_items`, sequences without a target.
pub fn train_behavior_embedding(
    sequences: &[&[u32]],
    num_items: usize,
    encoder: EncoderConfig<'_>,
    seed: u64,
    around: &mut Around<'_>,
) -> Result<BehaviorEmbedding> {
    match encoder {
        EncoderConfig::Din(config) => din::train(sequences, num_items, config, seed, around),
        EncoderConfig::SasRec(config) => {
            let network = config.network(num_items, seed)?;
            sasrec::train(&network, sequences, config, seed, around)
        }
    }
}

/// The users whose last target is held out, drawn from the stream `label`: `share` of those with another
/// target, and some more where that is too few to measure anything. `count` has every item's occurrences
/// in training: no item loses its only one, which would leave it without an embedding.
fn choose_holdout(
    sequences: &[&[u32]],
    share: f64,
    mut count: Vec<u32>,
    seed: u64,
    label: &str,
) -> Vec<bool> {
    let mut held_out = vec![false; sequences.len()];
    let mut users: Vec<usize> = (0..sequences.len()).filter(|&u| sequences[u].len() > 2).collect();
    users.shuffle(&mut rng::stream(seed, label, &[]));
    let wanted = if share == 0.0 {
        0
    } else {
        ((users.len() as f64 * share).ceil() as usize).max((users.len() / 5).min(200))
    };
    let mut chosen = 0;
    for user in users {
        let items = sequences[user];
        let left = &mut count[items[items.len() - 1] as usize];
        if chosen < wanted && *left > 1 {
            *left -= 1;
            chosen += 1;
            held_out[user] = true;
        }
    }
    held_out
}

/// The table as an array, rows of unseen items replaced by the mean of the seen ones.
fn with_mean_for_unseen(table: &Tensor, seen: &[bool]) -> Result<Array2<f32>> {
    let dim = table.dim(1)?;
    let values = table.flatten_all()?.to_vec1::<f32>()?;
    let mut rows = Array2::from_shape_fn((seen.len(), dim), |(i, j)| values[i * dim + j]);
    fill_unseen(&mut rows, seen);
    Ok(rows)
}

/// Replaces the rows of unseen items by the mean of the seen ones.
fn fill_unseen(rows: &mut Array2<f32>, seen: &[bool]) {
    let ids: Vec<usize> = (0..seen.len()).filter(|&i| seen[i]).collect();
    if let Some(mean) = rows.select(Axis(0), &ids).mean_axis(Axis(0)) {
        for (mut row, _) in rows.outer_iter_mut().zip(seen).filter(|(_, seen)| !**seen) {
            row.assign(&mean);
        }
    }
}

#[cfg(test)]
mod tests;
