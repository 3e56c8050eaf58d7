//! `[index]`: how the item index is made.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::embed::{DinConfig, TextField};
use crate::index::{Source, TreeSettings};

/// `[index]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct IndexConfig {
    /// Which signal the codes come from. An index of one source has the levels of both.
    pub source: Source,
    /// The semantic embedding and its levels.
    pub semantic: SemanticConfig,
    /// The behavior embedding and its levels.
    pub behavior: BehaviorConfig,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self {
            source: Source::Unit,
            semantic: SemanticConfig::default(),
            behavior: BehaviorConfig::default(),
        }
    }
}

/// `[index.semantic]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SemanticConfig {
    /// The largest branching of the tree.
    pub k: usize,
    /// Its levels.
    pub levels: usize,
    /// The texts of an item that are embedded and averaged.
    pub fields: Vec<TextField>,
    /// Where a text is cut before it is embedded.
    pub max_text_tokens: usize,
    /// Embeddings of one's own instead of the backbone's: a `.npy` or safetensors file, a row an item.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<PathBuf>,
}

impl Default for SemanticConfig {
    fn default() -> Self {
        Self {
            k: 256,
            levels: 2,
            fields: TextField::ALL.into(),
            max_text_tokens: 256,
            embeddings: None,
        }
    }
}

impl SemanticConfig {
    /// The size of the semantic tree.
    pub fn tree(&self) -> TreeSettings {
        TreeSettings { k: self.k, levels: self.levels }
    }
}

/// `[index.behavior]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct BehaviorConfig {
    /// The largest branching of the tree.
    pub k: usize,
    /// Its levels.
    pub levels: usize,
    /// Embeddings of one's own instead of the encoder's: a `.npy` or safetensors file, a row an item.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<PathBuf>,
    /// The encoder.
    pub din: DinConfig,
}

impl Default for BehaviorConfig {
    fn default() -> Self {
        Self { k: 256, levels: 2, embeddings: None, din: DinConfig::default() }
    }
}

impl BehaviorConfig {
    /// The size of the behavior tree.
    pub fn tree(&self) -> TreeSettings {
        TreeSettings { k: self.k, levels: self.levels }
    }
}
