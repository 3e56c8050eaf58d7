//! SASRec (Kang and McAuley, 2018): causal self-attention over item ids.

use candle_core::{DType, Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::encoder::{Encoder, Sight, Sizes};
use super::layers::{Builder, Drops, STD};
use super::{Core, History, Items, Sequential, TrainingConfig, check, packed};
use crate::ops;

/// `[baseline.sasrec]` and `[index.behavior.sasrec]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
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
    /// How it is trained; its settings stand among these.
    #[serde(flatten)]
    pub training: TrainingConfig,
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
            training: TrainingConfig::default(),
        }
    }
}

impl SasRecConfig {
    /// An untrained network for so many items.
    ///
    /// # Errors
    /// Heads that do not divide `dim`.
    pub fn network(&self, num_items: usize, seed: u64) -> Result<SasRec> {
        SasRec::new(self, num_items, seed, DType::F32, &Device::Cpu)
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            dim: self.dim,
            heads: self.heads,
            feed_forward: self.feed_forward,
            blocks: self.blocks,
            history: self.history,
            embedding_dropout: self.embedding_dropout,
            dropout: self.dropout,
        }
    }
}

/// `score(i | history) = norm(blocks(e + p))_last . e_i`: item embeddings `e`, which are also what states
/// are held against, and learnt positions `p`, counted from the end of the history as in the paper, where
/// padding stands on the left. Against the paper, norms stand before the branches and on the last state (as
/// in its successors), and the feed-forward may be wider than `dim`.
#[derive(Debug, Clone)]
pub struct SasRec {
    core: Core,
    items: Tensor,
    encoder: Encoder,
}

impl SasRec {
    /// A fresh network; `dtype` is f32 but for numeric checks.
    ///
    /// # Errors
    /// Heads that do not divide `dim`.
    pub fn new(
        config: &SasRecConfig,
        num_items: usize,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let mut builder = Builder::new("sasrec", seed, dtype, device);
        let items = builder.normal("items", (num_items, config.dim), STD)?;
        let encoder = Encoder::new("", config.sizes(), &mut builder)?;
        let core = builder.core(Items::shared(&items), config.history, &config.training);
        Ok(Self { core, items, encoder })
    }
}

impl Sequential for SasRec {
    fn core(&self) -> &Core {
        &self.core
    }

    fn values_per_token(&self) -> usize {
        self.encoder.values_per_token()
    }

    fn states(&self, histories: &[History<'_>], dropout: Option<u64>) -> Result<Tensor> {
        check("sasrec", self.core.history, histories)?;
        let (items, lengths) = packed(histories);
        let x = ops::embedding(&self.items, &items)?;
        let drops = (Drops(dropout), 0);
        self.encoder.forward(&x, &lengths, Sight::Back, drops, self.core.precision)
    }
}
