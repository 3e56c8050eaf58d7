//! `[data]`: what is trained on and evaluated.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::data::SplitConfig;
use crate::data::synth::SynthConfig;

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct DataConfig {
    /// A dataset folder in LC-Rec's format; absent, the synthetic shop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The most items a history holds.
    pub history: usize,
    /// What is for training, what for validation and test.
    pub split: SplitConfig,
    /// The synthetic shop, used where there is no path.
    pub synthetic: SynthConfig,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: None,
            history: 20,
            split: SplitConfig::default(),
            synthetic: SynthConfig::default(),
        }
    }
}
