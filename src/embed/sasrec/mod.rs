//! Training of SASRec: windows over sequences, the loop, early stopping.

use std::ops::Range;
use std::time::Instant;

use candle_core::{DType, Device};
use rand::RngCore;
use rand::seq::{SliceRandom, index};
use serde::{Deserialize, Serialize};

use super::epochs::{
    Around, EpochReport, Epochs, Progress, Trained, TrainingBytes, early_stopping, largest_batch,
    occurrences,
};
use crate::model::Weights;
use crate::model::sasrec::{Candidates, SasRec, SasRecDropout, SasRecSizes};
use crate::nn::{AdamW, AdamWConfig, Gradients};
use crate::ops::{self, Precision};
use crate::{Result, invalid, rng};

/// Histories for which all items are scored at once.
pub(super) const SCORED_AT_ONCE: usize = 256;

/// How a SASRec is made and trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SasRecConfig {
    /// Width of an item embedding and of the states.
    pub dim: usize,
    /// Blocks of attention and feed-forward.
    pub blocks: usize,
    /// Heads of an attention; they share `dim`.
    pub heads: usize,
    /// Width of a feed-forward's hidden layer.
    pub feed_forward: usize,
    /// The longest history, in items.
    pub history: usize,
    /// Probability of dropout on the sum of item and position embedding.
    pub embedding_dropout: f64,
    /// Probability of dropout on the output of every attention and feed-forward.
    pub dropout: f64,
    /// What a target is told from.
    pub loss: SasRecLoss,
    /// Items drawn at every step for `loss = "sampled"`, beside the step's own targets.
    pub negatives: usize,
    /// Passes over the training sequences at most.
    pub epochs: usize,
    /// Epochs without a better figure on what is held out before training stops.
    pub patience: usize,
    /// Sequences in a step.
    pub batch_size: usize,
    /// Learning rate of AdamW.
    pub learning_rate: f64,
    /// Weight decay of AdamW.
    pub weight_decay: f64,
    /// What the values of matrix products are rounded to before they are multiplied; sums and weights
    /// stay in f32. `bf16` takes effect on CPUs with AVX512-BF16.
    pub precision: Precision,
}

/// What a target is told from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SasRecLoss {
    /// All items.
    Softmax,
    /// The other targets of the step and a uniform sample of all items, their scores corrected for how
    /// often they are among them.
    Sampled,
}

/// Chosen on the validation split of Amazon Beauty (docs/baselines.md).
impl Default for SasRecConfig {
    fn default() -> Self {
        Self {
            dim: 64,
            blocks: 2,
            heads: 2,
            feed_forward: 256,
            history: 50,
            embedding_dropout: 0.5,
            dropout: 0.3,
            loss: SasRecLoss::Sampled,
            negatives: 64,
            epochs: 100,
            patience: 8,
            batch_size: 256,
            learning_rate: 1e-3,
            weight_decay: 0.0,
            precision: Precision::Full,
        }
    }
}

impl SasRecConfig {
    /// Refuses values that no training can work with.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            ("dim", self.dim),
            ("blocks", self.blocks),
            ("heads", self.heads),
            ("feed-forward", self.feed_forward),
            ("history", self.history),
            ("negatives", self.negatives),
            ("epochs", self.epochs),
            ("patience", self.patience),
            ("batch-size", self.batch_size),
        ];
        for (key, value) in sizes {
            if value == 0 {
                invalid!("{key} = 0: must be at least 1");
            }
        }
        if !self.dim.is_multiple_of(self.heads) {
            invalid!("dim = {}: must be a multiple of heads = {}", self.dim, self.heads);
        }
        for (key, value) in
            [("embedding-dropout", self.embedding_dropout), ("dropout", self.dropout)]
        {
            if !(0.0..1.0).contains(&value) {
                invalid!("{key} = {value}: must be in [0, 1)");
            }
        }
        for (key, value) in
            [("learning-rate", self.learning_rate), ("weight-decay", self.weight_decay)]
        {
            if !(value.is_finite() && value >= 0.0) {
                invalid!("{key} = {value}: must be 0 or more");
            }
        }
        Ok(())
    }

    /// What training on `sequences` takes, where an epoch is measured by the scores of all items.
    pub fn bytes(&self, sequences: &[&[u32]], num_items: usize) -> TrainingBytes {
        let (dim, ff) = (self.dim, self.feed_forward);
        let block = 4 * dim * dim + 2 * dim * ff + 4 * dim;
        let parameters = (num_items + self.history + 2) * dim + self.blocks * block;
        let windows = Window::over(sequences, self.history);
        let tokens = largest_batch(windows.iter().map(|w| w.items.len()), self.batch_size);
        // Of a token in a block, the graph keeps norms, branches, and sums before and after dropout.
        let step = tokens * (self.blocks * (14 * dim + 2 * ff) + 6 * dim);
        TrainingBytes::new(parameters, step, 2 * SCORED_AT_ONCE * num_items)
    }

    /// An untrained network for so many items.
    ///
    /// # Errors
    /// Settings that cannot work.
    pub fn network(&self, num_items: usize, seed: u64) -> Result<SasRec> {
        self.check()?;
        let sizes = SasRecSizes {
            num_items,
            dim: self.dim,
            blocks: self.blocks,
            heads: self.heads,
            feed_forward: self.feed_forward,
            history: self.history,
        };
        let network = SasRec::new(&sizes, seed, DType::F32, &Device::Cpu)?;
        Ok(network.with_precision(self.precision))
    }
}

/// A trained SASRec and how it came about.
#[derive(Debug, Clone)]
pub struct TrainedSasRec {
    /// As it was after the best epoch.
    pub network: SasRec,
    /// One report an epoch.
    pub reports: Vec<EpochReport>,
    /// The best epoch, from 1.
    pub best_epoch: usize,
    /// Training targets.
    pub num_targets: usize,
}

impl TrainedSasRec {
    /// What was measured after the best epoch.
    pub fn measured(&self) -> Option<f64> {
        self.reports[self.best_epoch - 1].measured
    }
}

/// Trains a SASRec, which [`SasRecConfig::network`] made, on `sequences` (each user's training items, oldest first).
///
/// `measure` gives a figure after each epoch, the higher the better: training stops when it has not
/// risen for `patience` epochs, and the network is that of the best epoch. Without a figure all epochs
/// are run.
///
/// # Errors
/// Settings that cannot work, an item that the network does not know, sequences without a target.
pub fn train_sasrec(
    network: SasRec,
    sequences: &[&[u32]],
    config: &SasRecConfig,
    seed: u64,
    measure: &mut dyn FnMut(&SasRec) -> Result<Option<f64>>,
    around: &mut Around<'_>,
) -> Result<TrainedSasRec> {
    config.check()?;
    let num_items = network.num_items();
    occurrences(sequences, num_items)?;
    let windows = Window::over(sequences, config.history);
    if windows.is_empty() {
        invalid!(
            "no user has two training items or more, so there is nothing to learn from: each user's \
             last two items are kept for validation and test; give users at least 4 items"
        );
    }
    let num_targets = windows.iter().map(|w| w.targets.len()).sum();
    let adam = AdamWConfig { weight_decay: config.weight_decay, ..AdamWConfig::default() };
    let mut training = Training {
        sequences,
        config,
        sampler: Sampler::new(&windows, sequences, num_items, config.negatives),
        adam: AdamW::new(network.params(), adam)?,
        network,
        windows,
        num_targets,
        seed,
        measure,
        progress: &mut *around.progress,
    };
    let Around { settings, state, .. } = *around;
    let trained = early_stopping(config.epochs, config.patience, settings, state, &mut training)?;
    let Trained { weights, reports, best_epoch } = trained;
    let network = training.network;
    network.set_weights(&weights)?;
    Ok(TrainedSasRec { network, reports, best_epoch, num_targets })
}

/// Some items of a sequence: each but the last is an input, each of `targets` is predicted from those
/// before it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    user: usize,
    items: Range<usize>,
    /// Positions in the sequence; together the windows of a sequence have each but the first once.
    targets: Range<usize>,
}

impl Window {
    /// Windows of up to `history` inputs over every sequence. Where one does not hold a sequence, the next
    /// begins half a window on, so that no target there sees less than half of one.
    fn over(sequences: &[&[u32]], history: usize) -> Vec<Self> {
        let mut windows = Vec::new();
        for (user, items) in sequences.iter().enumerate() {
            let (mut first, mut end) = (1, items.len().min(history + 1));
            while first < end {
                let start = end.saturating_sub(history + 1);
                windows.push(Self { user, items: start..end, targets: first..end });
                first = end;
                end = items.len().min(end + history.div_ceil(2));
            }
        }
        windows
    }

    fn inputs<'a>(&self, sequences: &[&'a [u32]]) -> &'a [u32] {
        &sequences[self.user][self.items.start..self.items.end - 1]
    }
}

/// The training of a network.
struct Training<'a> {
    sequences: &'a [&'a [u32]],
    config: &'a SasRecConfig,
    sampler: Sampler,
    adam: AdamW,
    network: SasRec,
    /// In the order of the epoch under way.
    windows: Vec<Window>,
    num_targets: usize,
    seed: u64,
    measure: &'a mut dyn FnMut(&SasRec) -> Result<Option<f64>>,
    progress: &'a mut dyn FnMut(&Progress),
}

impl Epochs for Training<'_> {
    fn train(&mut self, epoch: usize) -> Result<EpochReport> {
        let start = Instant::now();
        self.pass_over(epoch);
        let total = self.steps_an_epoch();
        let windows = std::mem::take(&mut self.windows);
        let mut loss_sum = 0.0;
        for (step, batch) in windows.chunks(self.config.batch_size).enumerate() {
            loss_sum += self.step(batch, [epoch as u64, step as u64])?;
            (self.progress)(&Progress::Step { epoch, done: step + 1, total });
        }
        self.windows = windows;
        let samples_per_s = self.num_targets as f64 / start.elapsed().as_secs_f64();
        let loss = loss_sum / self.num_targets as f64;
        let measured = (self.measure)(&self.network)?;
        let report = EpochReport { epoch, loss, measured, samples_per_s };
        (self.progress)(&Progress::Epoch(report));
        Ok(report)
    }

    fn pass_over(&mut self, epoch: usize) {
        self.windows.shuffle(&mut rng::stream(self.seed, "sasrec-order", &[epoch as u64]));
    }

    fn weights(&self) -> Result<Weights> {
        Ok(self.network.weights()?)
    }

    fn moments(&self) -> Result<Weights> {
        Ok(self.adam.state(self.network.params())?)
    }

    fn restore(&mut self, epochs: usize, weights: &Weights, moments: &Weights) -> Result<()> {
        self.network.set_weights(weights)?;
        Ok(self.adam.restore((epochs * self.steps_an_epoch()) as u64, moments)?)
    }
}

impl Training<'_> {
    fn steps_an_epoch(&self) -> usize {
        self.windows.len().div_ceil(self.config.batch_size)
    }

    /// One step of the optimiser on a batch; returns the sum of its losses.
    fn step(&mut self, batch: &[Window], position: [u64; 2]) -> Result<f64> {
        let (network, config, seed) = (&self.network, self.config, self.seed);
        let inputs: Vec<&[u32]> = batch.iter().map(|w| w.inputs(self.sequences)).collect();
        let (mut places, mut targets, mut start) = (Vec::new(), Vec::new(), 0);
        for window in batch {
            let items = self.sequences[window.user];
            for target in window.targets.clone() {
                places.push((start + target - 1 - window.items.start) as u32);
                targets.push(items[target]);
            }
            start += window.items.len() - 1;
        }
        let dropout = SasRecDropout {
            embedding: config.embedding_dropout,
            branch: config.dropout,
            key: rng::stream(seed, "sasrec-dropout", &position).next_u64(),
        };
        let states = network.states(&inputs, Some(dropout))?;
        let states = ops::embedding(&states, &places)?;
        let losses = match config.loss {
            SasRecLoss::Softmax => network.losses(&states, &targets)?,
            SasRecLoss::Sampled => {
                let mut stream = rng::stream(seed, "sasrec-negatives", &position);
                let candidates = self.sampler.draw(&targets, &mut stream);
                network.sampled_losses(&states, &targets, &candidates)?
            }
        };
        let loss = losses.mean_all()?;
        let gradients = Gradients::collect(network.params(), &loss.backward()?)?;
        self.adam.step(network.params(), &gradients, config.learning_rate, 1.0)?;
        Ok(f64::from(loss.to_scalar::<f32>()?) * targets.len() as f64)
    }
}

/// Draws what the targets of a step are told from.
struct Sampler {
    /// The share of each item among all targets.
    shares: Vec<f64>,
    negatives: usize,
}

impl Sampler {
    fn new(windows: &[Window], sequences: &[&[u32]], num_items: usize, negatives: usize) -> Self {
        let mut shares = vec![0.0; num_items];
        let mut total = 0.0;
        for window in windows {
            for &item in &sequences[window.user][window.targets.clone()] {
                shares[item as usize] += 1.0;
                total += 1.0;
            }
        }
        for share in &mut shares {
            *share /= total;
        }
        Self { shares, negatives: negatives.min(num_items) }
    }

    /// The targets and a uniform sample, with the probability that either makes an item a candidate.
    fn draw(&self, targets: &[u32], stream: &mut rng::Rng) -> Candidates {
        let num_items = self.shares.len();
        let drawn = index::sample(stream, num_items, self.negatives);
        let mut items: Vec<u32> = drawn.into_iter().map(|item| item as u32).collect();
        items.extend_from_slice(targets);
        items.sort_unstable();
        items.dedup();
        let undrawn = 1.0 - self.negatives as f64 / num_items as f64;
        let log_probability = |&item: &u32| {
            let no_target = (1.0 - self.shares[item as usize]).powf(targets.len() as f64);
            (1.0 - no_target * undrawn).ln() as f32
        };
        let log_probabilities = items.iter().map(log_probability).collect();
        Candidates { items, log_probabilities }
    }
}

#[cfg(test)]
mod tests;
