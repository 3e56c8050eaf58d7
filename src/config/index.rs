//! `[index]`: how the item index is made.

use serde::{Deserialize, Serialize};

use crate::embed::{DinConfig, Encoder, EncoderConfig, SasRecConfig};
use crate::index::{Numbering, Source, TreeSettings};

/// `[index]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct IndexConfig {
    /// Which signal the codes come from. An index of one source has the levels of both.
    pub source: Source,
    /// Which of a node's children gets which code: in order along an `axis` common to the level, or
    /// `aligned`, so that equal codes mean similar offsets from the parent.
    pub numbering: Numbering,
    /// The semantic embedding and its levels.
    pub semantic: SemanticConfig,
    /// The behavior embedding and its levels.
    pub behavior: BehaviorConfig,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self {
            source: Source::Unit,
            numbering: Numbering::Axis,
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
    /// Where a text is cut before it is embedded.
    pub max_text_tokens: usize,
}

impl Default for SemanticConfig {
    fn default() -> Self {
        Self { k: 256, levels: 2, max_text_tokens: 256 }
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
    /// The network whose item embeddings the tree is made from.
    pub encoder: Encoder,
    /// The encoder `din`.
    pub din: DinConfig,
    /// The encoder `sasrec`.
    pub sasrec: SasRecConfig,
}

impl Default for BehaviorConfig {
    fn default() -> Self {
        Self {
            k: 256,
            levels: 2,
            encoder: Encoder::Din,
            din: DinConfig::default(),
            sasrec: SasRecConfig::default(),
        }
    }
}

impl BehaviorConfig {
    /// The size of the behavior tree.
    pub fn tree(&self) -> TreeSettings {
        TreeSettings { k: self.k, levels: self.levels }
    }
    /// The encoder with its settings.
    pub fn encoder(&self) -> EncoderConfig<'_> {
        match self.encoder {
            Encoder::Din => EncoderConfig::Din(&self.din),
            Encoder::SasRec => EncoderConfig::SasRec(&self.sasrec),
        }
    }
}
