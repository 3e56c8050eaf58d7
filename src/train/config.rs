//! `[train.STAGE]`: the hyper-parameters of a training run.

use serde::{Deserialize, Serialize};

use crate::nn::AdamWConfig;

/// Hyper-parameters of a training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct StageConfig {
    /// Epochs: passes over the samples, each followed by a validation.
    pub epochs: u64,
    /// Steps that the epochs have together at least: where samples are few, an epoch passes over them as often
    /// as that takes.
    pub min_steps: u64,
    /// Stop after this many steps, whatever the epochs say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Samples an optimiser step sees.
    pub batch: usize,
    /// Samples a forward pass sees; a step accumulates as many as it needs. Absent: the whole batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Share of the steps over which the learning rate rises.
    pub warmup_ratio: f64,
    /// Gradients are scaled down to this norm.
    pub clip_norm: f64,
    /// Dropout on embeddings and residual branches.
    pub dropout: f64,
    /// Keep only the input of every block for the backward pass, which computes the rest again: less
    /// memory, about a third more work.
    pub checkpointing: bool,
    /// Decay of the moving average of the weights that is validated and kept; 0 keeps the weights
    /// themselves.
    pub ema: f64,
    /// Steps between two lines of the log.
    pub log_every: u64,
    /// Steps between two saves of the state to resume from, at most.
    pub save_every: u64,
    /// Minutes between two saves, at most.
    pub save_minutes: f64,
    /// AdamW's constants.
    pub adamw: AdamWConfig,
}

impl Default for StageConfig {
    fn default() -> Self {
        Self {
            epochs: 3,
            min_steps: 0,
            max_steps: None,
            batch: 128,
            micro_batch: None,
            learning_rate: 5e-5,
            warmup_ratio: 0.01,
            clip_norm: 1.0,
            dropout: 0.0,
            checkpointing: false,
            ema: 0.0,
            log_every: 10,
            save_every: 500,
            save_minutes: 10.0,
            adamw: AdamWConfig::default(),
        }
    }
}

impl StageConfig {
    /// How often an epoch passes over so many samples, so that all epochs have the steps that are asked for.
    pub fn passes(&self, samples: usize) -> u64 {
        let (batch, samples) = (self.batch as u64, samples.max(1) as u64);
        let steps = self.min_steps.div_ceil(self.epochs.max(1));
        // The batches of an epoch go on from one pass to the next: the last alone may not be full.
        steps.saturating_sub(1).saturating_mul(batch) / samples + 1
    }
}

/// `[train.continue]`: a model that learns what came since it was trained; all else is as stage `initial` has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ContinueConfig {
    /// Epochs: passes over what is new, each followed by a validation.
    pub epochs: u64,
    /// Peak learning rate, as a share of that of stage `initial`.
    pub learning_rate_share: f64,
    /// Samples of all data that are repeated, for each that has something new.
    pub replay: f64,
}

impl Default for ContinueConfig {
    fn default() -> Self {
        Self { epochs: 3, learning_rate_share: 0.5, replay: 0.5 }
    }
}

impl ContinueConfig {
    /// The training run, where that of a model that begins anew is `initial`.
    pub fn of(&self, initial: &StageConfig) -> StageConfig {
        StageConfig {
            epochs: self.epochs,
            min_steps: 0,
            max_steps: None,
            learning_rate: self.learning_rate_share * initial.learning_rate,
            ..initial.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_epochs_have_the_steps_that_are_asked_for() {
        for samples in [1, 2, 63, 64, 65, 150, 3_285, 1_000_000] {
            for (epochs, min_steps) in [(1, 0), (1, 1), (16, 2_500), (3, 7), (0, 5)] {
                let config = StageConfig { epochs, min_steps, batch: 64, ..StageConfig::default() };
                let steps = |passes: u64| (passes * samples as u64).div_ceil(64) * epochs;
                let passes = config.passes(samples);
                assert!(
                    epochs == 0 || steps(passes) >= min_steps,
                    "{samples} {epochs} {min_steps}"
                );
                assert!(epochs == 0 || passes == 1 || steps(passes - 1) < min_steps);
            }
        }
    }
}
