//! DIN as the encoder behind the behavior embedding: samples from interaction sequences, the loop, early
//! stopping.

use std::ops::Range;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::{BehaviorEmbedding, choose_holdout, with_mean_for_unseen};
use crate::embed::epochs::{
    Around, EpochReport, Epochs, Progress, Trained, TrainingBytes, early_stopping, largest_batch,
    occurrences,
};
use crate::model::Weights;
use crate::model::din::{Din, DinBatch, DinSizes, binary_cross_entropy};
use crate::nn::{AdamW, AdamWConfig, Gradients};
use crate::ranks::Ranks;
use crate::rng::{self, Rng};
use crate::{Result, invalid};

/// Sampled negatives for every positive of the holdout: the AUC of a small shop would else be noise.
const HOLDOUT_NEGATIVES: usize = 20;
/// Draws of a negative before a user is taken to have bought everything.
const NEGATIVE_DRAWS: usize = 100;
/// Samples a forward pass outside training.
const INFERENCE_BATCH: usize = 1024;

/// How the behavior embedding is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct DinConfig {
    /// Width of an item embedding.
    pub dim: usize,
    /// Widths of the hidden layers of the local activation unit.
    pub attention: Vec<usize>,
    /// Widths of the hidden layers of the head.
    pub mlp: Vec<usize>,
    /// The longest history, in items.
    pub history: usize,
    /// Passes over the training targets at most.
    pub epochs: usize,
    /// Epochs without a better AUC on the holdout before training stops.
    pub patience: usize,
    /// Targets in a step; each brings its negatives.
    pub batch_size: usize,
    /// Sampled negatives for every target.
    pub negatives: usize,
    /// Negatives are drawn with probability proportional to popularity to this power; 0 is uniform.
    pub popularity_exponent: f64,
    /// Learning rate of AdamW.
    pub learning_rate: f64,
    /// Weight decay of AdamW.
    pub weight_decay: f64,
    /// Share of the users whose last training target measures the AUC; 0 trains all epochs unmeasured.
    pub holdout: f64,
}

impl Default for DinConfig {
    fn default() -> Self {
        Self {
            dim: 64,
            attention: vec![36],
            mlp: vec![64, 32],
            history: 20,
            epochs: 20,
            patience: 3,
            batch_size: 512,
            negatives: 4,
            popularity_exponent: 0.75,
            learning_rate: 3e-3,
            weight_decay: 1.0,
            holdout: 0.05,
        }
    }
}

impl DinConfig {
    /// What training on `sequences` takes.
    pub(super) fn bytes(&self, sequences: &[&[u32]], num_items: usize) -> TrainingBytes {
        let attention: usize = self.attention.iter().sum();
        let mlp: usize = self.mlp.iter().sum();
        let parameters = num_items * (self.dim + 1);
        let lengths = sequences.iter().flat_map(|items| 1..items.len());
        let lengths = lengths.map(|length| length.min(self.history));
        let samples = 1 + self.negatives;
        let keys = samples * largest_batch(lengths, self.batch_size);
        // Values that the graph and the gradients of its nodes hold for an item of a history: as measured, for a count
        // of the nodes alone falls short by two thirds. Of a sample's head, they are few.
        let of_key = 24 * self.dim + 25 * attention;
        let of_sample = 8 * self.dim + 14 * mlp;
        let step = keys * of_key + samples * self.batch_size * of_sample;
        TrainingBytes::new(parameters, step, 0)
    }

    /// Refuses values that no training can work with.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            ("dim", self.dim),
            ("history", self.history),
            ("epochs", self.epochs),
            ("patience", self.patience),
            ("batch-size", self.batch_size),
            ("negatives", self.negatives),
        ];
        for (key, value) in sizes {
            if value == 0 {
                invalid!("{key} = 0 in the behavior encoder's settings: must be at least 1");
            }
        }
        if self.attention.contains(&0) || self.mlp.contains(&0) {
            invalid!("a hidden layer of width 0 in the behavior encoder's attention or mlp");
        }
        if !(0.0..=0.5).contains(&self.holdout) {
            invalid!(
                "holdout = {} in the behavior encoder's settings: must be in 0..=0.5",
                self.holdout
            );
        }
        let non_negative = [
            ("learning-rate", self.learning_rate),
            ("weight-decay", self.weight_decay),
            ("popularity-exponent", self.popularity_exponent),
        ];
        for (key, value) in non_negative {
            if !(value.is_finite() && value >= 0.0) {
                invalid!("{key} = {value} in the behavior encoder's settings: must be 0 or more");
            }
        }
        Ok(())
    }
}

/// See [`super::train_behavior_embedding`].
pub(super) fn train(
    sequences: &[&[u32]],
    num_items: usize,
    config: &DinConfig,
    seed: u64,
    around: &mut Around<'_>,
) -> Result<BehaviorEmbedding> {
    config.check()?;
    let data = TrainingData::new(sequences, num_items, config, seed)?;
    let seen = data.seen_items();
    let device = Device::Cpu;
    let sizes = DinSizes {
        num_items,
        dim: config.dim,
        attention: config.attention.clone(),
        mlp: config.mlp.clone(),
    };
    let din = Din::new(&sizes, seed, DType::F32, &device)?;
    let adam = AdamWConfig { weight_decay: config.weight_decay, ..AdamWConfig::default() };
    let Around { ranks, settings, state, .. } = *around;
    let mut training = Training {
        adam: AdamW::divided(din.params(), adam, ranks)?,
        din,
        ranks,
        holdout: data.holdout_samples(seed),
        order: data.targets.clone(),
        data: &data,
        config,
        seed,
        progress: &mut *around.progress,
    };
    let trained =
        early_stopping(config.epochs, config.patience, settings, (state, ranks), &mut training)?;
    let Trained { weights, reports, best_epoch } = trained;
    Ok(BehaviorEmbedding {
        embeddings: with_mean_for_unseen(&weights["embeddings"], &seen)?,
        measured: reports[best_epoch - 1].measured,
        num_targets: data.targets.len(),
        num_seen: seen.iter().filter(|&&s| s).count(),
        weights,
        reports,
        best_epoch,
    })
}

/// The training of a network.
struct Training<'a> {
    din: Din,
    ranks: &'a dyn Ranks,
    adam: AdamW,
    data: &'a TrainingData<'a>,
    holdout: Vec<Sample<'a>>,
    /// The targets in the order of the epoch under way.
    order: Vec<Target>,
    config: &'a DinConfig,
    seed: u64,
    progress: &'a mut dyn FnMut(&Progress),
}

impl Epochs for Training<'_> {
    fn train(&mut self, epoch: usize) -> Result<EpochReport> {
        let start = Instant::now();
        self.pass_over(epoch);
        let (config, data, total) = (self.config, self.data, self.steps_an_epoch());
        let order = std::mem::take(&mut self.order);
        let (mut loss_sum, mut num_samples) = (0.0, 0);
        for (step, targets) in order.chunks(config.batch_size).enumerate() {
            let mut stream = rng::stream(self.seed, "din-negatives", &[epoch as u64, step as u64]);
            let samples = data.with_negatives(targets, config.negatives, &mut stream);
            loss_sum += self.step(&samples)? * samples.len() as f64;
            num_samples += samples.len();
            (self.progress)(&Progress::Step { epoch, done: step + 1, total });
        }
        self.order = order;
        let samples_per_s = num_samples as f64 / start.elapsed().as_secs_f64();
        // Ranks may differ in its last bits, and go on or end by it together.
        let measured = holdout_auc(&self.din, &self.holdout, &Device::Cpu)?;
        let measured = self.ranks.broadcast_value(measured)?;
        let loss = self.ranks.sums(&[loss_sum])[0] / num_samples as f64;
        let report = EpochReport { epoch, loss, measured, samples_per_s };
        (self.progress)(&Progress::Epoch(report));
        Ok(report)
    }

    fn pass_over(&mut self, epoch: usize) {
        self.order.shuffle(&mut rng::stream(self.seed, "din-order", &[epoch as u64]));
    }

    fn weights(&self) -> Result<Weights> {
        Ok(self.din.weights()?)
    }

    fn moments(&self) -> Result<Weights> {
        Ok(self.adam.state(self.din.params(), self.ranks)?)
    }

    fn restore(&mut self, epochs: usize, weights: &Weights, moments: &Weights) -> Result<()> {
        self.din.set_weights(weights)?;
        let steps = (epochs * self.steps_an_epoch()) as u64;
        Ok(self.adam.restore(self.din.params(), steps, moments)?)
    }
}

impl Training<'_> {
    fn steps_an_epoch(&self) -> usize {
        self.order.len().div_ceil(self.config.batch_size)
    }

    /// One step of the optimiser; returns this rank's share of the mean loss over `samples`.
    fn step(&mut self, samples: &[Sample<'_>]) -> Result<f64> {
        let ranks = self.ranks;
        let own = match samples.len() {
            // No pass is over nothing: every rank does it all, and all they do is the same as one of them.
            few if few < ranks.size() => samples,
            _ => &samples[ranks.part_of(samples.iter().map(|_| 1))],
        };
        let share = own.len() as f64 / ranks.sums(&[own.len() as f64])[0];
        let batch = DinBatch::new(own.iter().map(|s| (s.history, s.query)), &Device::Cpu)?;
        let labels: Vec<f32> = own.iter().map(|s| f32::from(s.positive)).collect();
        let logits = self.din.forward_train(&batch, ranks)?;
        let loss = (binary_cross_entropy(&logits, &Tensor::new(labels, &Device::Cpu)?)? * share)?;
        let params = self.din.params();
        let mut gradients = Gradients::collect(params, &loss.backward()?)?;
        self.adam.step_over(ranks, params, &mut gradients, self.config.learning_rate)?;
        Ok(f64::from(loss.to_scalar::<f32>()?))
    }
}

/// The AUC of the network's logits on `samples`; none without samples.
fn holdout_auc(din: &Din, samples: &[Sample<'_>], device: &Device) -> Result<Option<f64>> {
    let mut scores = Vec::with_capacity(samples.len());
    for chunk in samples.chunks(INFERENCE_BATCH) {
        let batch = DinBatch::new(chunk.iter().map(|s| (s.history, s.query)), device)?;
        scores.extend(din.forward(&batch)?.to_vec1::<f32>()?);
    }
    let positive: Vec<bool> = samples.iter().map(|s| s.positive).collect();
    Ok(area_under_curve(&scores, &positive))
}

/// The area under the ROC curve: the share of (positive, negative) pairs in which the positive scores
/// higher, ties counting half. From ranks (Mann-Whitney), so O(n log n). None if either side is empty.
fn area_under_curve(scores: &[f32], positive: &[bool]) -> Option<f64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let (mut negatives_below, mut positives, mut wins) = (0usize, 0usize, 0.0);
    for tied in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let hits = tied.iter().filter(|&&i| positive[i]).count();
        let misses = tied.len() - hits;
        wins += hits as f64 * (negatives_below as f64 + 0.5 * misses as f64);
        positives += hits;
        negatives_below += misses;
    }
    let pairs = positives as f64 * negatives_below as f64;
    (pairs > 0.0).then(|| wins / pairs)
}

/// A position in a sequence that is predicted from the items before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    user: usize,
    position: usize,
}

/// A history, a candidate item and whether it came next.
#[derive(Debug, Clone, Copy)]
struct Sample<'a> {
    history: &'a [u32],
    query: u32,
    positive: bool,
}

/// The samples that sequences hold.
struct TrainingData<'a> {
    sequences: &'a [&'a [u32]],
    history: usize,
    targets: Vec<Target>,
    holdout: Vec<Target>,
    /// Sum of the sampling weights of items `0..=i`.
    cumulative: Vec<f64>,
    num_items: usize,
}

impl<'a> TrainingData<'a> {
    fn new(
        sequences: &'a [&'a [u32]],
        num_items: usize,
        config: &DinConfig,
        seed: u64,
    ) -> Result<Self> {
        let count = occurrences(sequences, num_items)?;
        let cumulative = count
            .iter()
            .scan(0.0, |sum, &c| {
                *sum += if c == 0 { 0.0 } else { f64::from(c).powf(config.popularity_exponent) };
                Some(*sum)
            })
            .collect();
        let mut data = Self {
            sequences,
            history: config.history,
            targets: Vec::new(),
            holdout: Vec::new(),
            cumulative,
            num_items,
        };
        let held_out = choose_holdout(sequences, config.holdout, count, seed, "din-holdout");
        for (user, items) in sequences.iter().enumerate() {
            for position in 1..items.len() {
                let target = Target { user, position };
                let last = position + 1 == items.len();
                if last && held_out[user] { &mut data.holdout } else { &mut data.targets }
                    .push(target);
            }
        }
        if data.targets.is_empty() {
            invalid!(
                "no user has two training items or more, so there is nothing to learn a behavior \
                 embedding from: each user's last two items are kept for validation and test; \
                 give users at least 4 items, or build the index from source \"semantic\""
            );
        }
        Ok(data)
    }

    fn history_of(&self, target: Target) -> Range<usize> {
        target.position.saturating_sub(self.history)..target.position
    }

    fn positive(&self, target: Target) -> Sample<'a> {
        let items = self.sequences[target.user];
        let history = &items[self.history_of(target)];
        Sample { history, query: items[target.position], positive: true }
    }

    /// Every target followed by its negatives.
    fn with_negatives(
        &self,
        targets: &[Target],
        negatives: usize,
        rng: &mut Rng,
    ) -> Vec<Sample<'a>> {
        let mut samples = Vec::with_capacity(targets.len() * (1 + negatives));
        for &target in targets {
            let positive = self.positive(target);
            samples.push(positive);
            for _ in 0..negatives {
                if let Some(query) = self.negative(target.user, rng) {
                    samples.push(Sample { query, positive: false, ..positive });
                }
            }
        }
        samples
    }

    fn holdout_samples(&self, seed: u64) -> Vec<Sample<'a>> {
        let mut rng = rng::stream(seed, "din-holdout-negatives", &[]);
        self.with_negatives(&self.holdout, HOLDOUT_NEGATIVES, &mut rng)
    }

    /// An item that is not among the user's; none if the user seems to have them all.
    fn negative(&self, user: usize, rng: &mut Rng) -> Option<u32> {
        let total = self.cumulative[self.num_items - 1];
        (0..NEGATIVE_DRAWS).find_map(|_| {
            let draw = rng::uniform(rng) * total;
            let item = self.cumulative.partition_point(|&sum| sum <= draw) as u32;
            (!self.sequences[user].contains(&item)).then_some(item)
        })
    }

    /// Which items are in a training sample, as a target or in a history.
    fn seen_items(&self) -> Vec<bool> {
        let mut seen = vec![false; self.num_items];
        for &target in &self.targets {
            let items = self.sequences[target.user];
            seen[items[target.position] as usize] = true;
            seen[items[target.position - 1] as usize] = true;
        }
        seen
    }
}

#[cfg(test)]
mod tests;
