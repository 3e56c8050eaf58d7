//! How a recommender over item ids is trained.

use serde::{Deserialize, Serialize};

use crate::ops::Precision;
use crate::{Result, invalid};

/// How a recommender over item ids is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct TrainingConfig {
    /// What a target is told from.
    pub loss: Loss,
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
pub enum Loss {
    /// All items.
    Softmax,
    /// The other targets of the step and a uniform sample of all items, their scores corrected for how
    /// often they are among them.
    Sampled,
    /// One item that the user has not taken, in a loss of its own (binary cross-entropy).
    Bce,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            loss: Loss::Sampled,
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

impl TrainingConfig {
    /// Refuses values that no training can work with.
    ///
    /// # Errors
    /// Names the first such setting and its value.
    pub fn check(&self) -> Result<()> {
        let counts = [
            ("negatives", self.negatives),
            ("epochs", self.epochs),
            ("patience", self.patience),
            ("batch-size", self.batch_size),
        ];
        if let Some((key, _)) = counts.iter().find(|(_, value)| *value == 0) {
            invalid!("{key} = 0: must be at least 1");
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
}
