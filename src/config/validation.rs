//! `[train.validation]`: how the epochs of a stage are told apart.

use serde::{Deserialize, Serialize};

use crate::decode::Normalize;
use crate::eval::metric_names;

/// `[train.validation]`
///
/// What a model is depends on this and not on `[eval]`: it is part of what decides a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ValidationConfig {
    /// Users scored on the validation split after each epoch; 0 scores all.
    pub users: usize,
    /// The metric, as evaluations name it, with the user's own items ranked.
    pub metric: String,
    /// Beam width.
    pub beam: usize,
    /// Over which tokens probabilities are normalised.
    pub normalize: Normalize,
    /// Epochs without a better figure before a stage ends; 0 for never.
    pub patience: u64,
}

impl Default for ValidationConfig {
    fn default() -> Self {
        Self {
            users: 2000,
            metric: "ndcg@10".into(),
            beam: 20,
            normalize: Normalize::Level,
            patience: 0,
        }
    }
}

impl ValidationConfig {
    /// What is wrong with these settings beyond their ranges.
    pub(super) fn violations(&self) -> Vec<String> {
        let known: Vec<_> = metric_names().collect();
        if known.contains(&self.metric.as_str()) {
            return Vec::new();
        }
        vec![format!(
            "train.validation.metric = {:?}: must be one of {}",
            self.metric,
            known.join(", ")
        )]
    }
}
