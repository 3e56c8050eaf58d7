//! `[baseline]`: recommenders of another kind, trained and evaluated beside the language model.

use serde::{Deserialize, Serialize};

use crate::embed::SasRecConfig;

/// `[baseline]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct BaselineConfig {
    /// `llmbs baseline sasrec`
    pub sasrec: SasRecConfig,
}
