//! `[index]`: how the item index is made.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::data::TextField;
use crate::embed::{DinConfig, Encoder, EncoderConfig, RqVaeConfig, SpectralConfig};
use crate::index::{IndexSettings, Method, Numbering, Order, Source, TreeSettings};
use crate::model::sequential::SasRecConfig;
use crate::{Result, invalid};

/// `[index]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct IndexConfig {
    /// Which signal the codes come from. An index of one source has that source's levels.
    pub source: Source,
    /// How the vectors of a source become codes. `random` draws codes and keeps the vectors for the
    /// contrastive loss; `source = "random"` does without vectors.
    pub method: Method,
    /// Which of a node's children in a tree gets which code: in order along an `axis` common to the level,
    /// or `aligned`, so that equal codes mean similar offsets from the parent.
    pub numbering: Numbering,
    /// The order of the levels where `source = "unit"`.
    pub order: Order,
    /// Where `source = "unit"`: whether the source that comes first leaves several items on each of its
    /// paths, for the other to tell apart. Else each source alone tells all items apart.
    pub shared: bool,
    /// The semantic embedding and its levels.
    pub semantic: SemanticConfig,
    /// The behavior embedding and its levels.
    pub behavior: BehaviorConfig,
    /// The autoencoder of `method = "rq-vae"`.
    pub rq_vae: RqVaeConfig,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self {
            source: Source::Unit,
            method: Method::HierarchicalKmeans,
            numbering: Numbering::Axis,
            order: Order::default(),
            shared: false,
            semantic: SemanticConfig::default(),
            behavior: BehaviorConfig::default(),
            rq_vae: RqVaeConfig::default(),
        }
    }
}

impl IndexConfig {
    /// What decides the size of the index.
    pub fn settings(&self) -> IndexSettings {
        IndexSettings {
            source: self.source,
            method: self.method,
            order: self.order,
            shared: self.shared,
            semantic: self.semantic.tree(),
            behavior: self.behavior.tree(),
        }
    }

    /// Whether the codes of texts are drawn to z^b as they are learnt.
    pub fn aligns(&self) -> bool {
        self.method == Method::RqVae && self.rq_vae.alignment > 0.0 && self.source.has_semantic()
    }

    /// Refuses latent vectors that cannot be held against a z^b of this width, where they are to be.
    ///
    /// # Errors
    /// Both widths.
    pub fn check_alignment(&self, width: usize) -> Result<()> {
        let latent = self.rq_vae.latent;
        if self.aligns() && width != latent {
            invalid!(
                "index.rq-vae.latent = {latent}: with index.rq-vae.alignment it is the width of z^b, which is {width}; \
                 set it to that"
            );
        }
        Ok(())
    }

    /// What is wrong with these settings, whatever the data.
    pub(super) fn violations(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let fields = &self.semantic.fields;
        if fields.is_empty() || (1..fields.len()).any(|i| fields[..i].contains(&fields[i])) {
            wrong.push(
                "index.semantic.fields must name at least one field, and none twice".to_string(),
            );
        }
        let (source, method) = (self.source, self.method);
        let two = source == Source::Unit && method != Method::Random;
        for (set, key) in [(self.shared, "shared"), (self.order != Order::default(), "order")] {
            if set && !two {
                wrong.push(format!(
                    "index.{key} is about two sources: it needs index.source = \"unit\" (it is \
                     \"{source}\") and a method other than \"random\" (it is \"{method}\")"
                ));
            }
        }
        if method == Method::RqVae && self.rq_vae.alignment > 0.0 && !self.aligns() {
            wrong.push(format!(
                "index.rq-vae.alignment draws codes of texts to z^b: it needs index.source = \"semantic\" or \
                 \"unit\" (it is \"{source}\"), or set it to 0"
            ));
        }
        wrong
    }
}

/// `[index.semantic]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SemanticConfig {
    /// The most codes a level: of a tree the largest branching, of a residual method the codes.
    pub k: usize,
    /// The levels.
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
    /// The size of the semantic part.
    pub fn tree(&self) -> TreeSettings {
        TreeSettings { k: self.k, levels: self.levels }
    }
}

/// `[index.behavior]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct BehaviorConfig {
    /// The most codes a level: of a tree the largest branching, of a residual method the codes.
    pub k: usize,
    /// The levels.
    pub levels: usize,
    /// Embeddings of one's own instead of the encoder's: a `.npy` or safetensors file, a row an item.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<PathBuf>,
    /// What z^b comes from.
    pub encoder: Encoder,
    /// The encoder `din`.
    pub din: DinConfig,
    /// The encoder `sasrec`.
    pub sasrec: SasRecConfig,
    /// The encoder `spectral`.
    pub spectral: SpectralConfig,
}

impl Default for BehaviorConfig {
    fn default() -> Self {
        Self {
            k: 256,
            levels: 2,
            embeddings: None,
            encoder: Encoder::Din,
            din: DinConfig::default(),
            sasrec: SasRecConfig::default(),
            spectral: SpectralConfig::default(),
        }
    }
}

impl BehaviorConfig {
    /// The size of the behavior part.
    pub fn tree(&self) -> TreeSettings {
        TreeSettings { k: self.k, levels: self.levels }
    }

    /// The encoder with its settings, of one that is trained.
    pub fn trained_encoder(&self) -> Option<EncoderConfig<'_>> {
        match self.encoder {
            Encoder::Din => Some(EncoderConfig::Din(&self.din)),
            Encoder::SasRec => Some(EncoderConfig::SasRec(&self.sasrec)),
            Encoder::Spectral => None,
        }
    }

    /// The width of z^b of so many items, where an encoder makes it.
    pub fn dim(&self, num_items: usize) -> usize {
        match self.encoder {
            Encoder::Din => self.din.dim,
            Encoder::SasRec => self.sasrec.transformer.dim,
            Encoder::Spectral => self.spectral.vectors(num_items),
        }
    }
}
