//! SASRec (Kang and McAuley, 2018): causal self-attention over item ids.

use candle_core::{DType, Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::layers::{Builder, Drops, Masks, STD};
use super::transformer::{Sight, Transformer, TransformerConfig};
use super::{Core, History, Items, Sequential, TrainingConfig, check, packed};
use crate::ops;

/// `[baseline.sasrec]` and `[index.behavior.sasrec]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct SasRecConfig {
    /// What reads the history; its settings stand among these.
    #[serde(flatten)]
    pub transformer: TransformerConfig,
    /// How it is trained; its settings stand among these.
    #[serde(flatten)]
    pub training: TrainingConfig,
}

impl SasRecConfig {
    /// An untrained network for so many items.
    ///
    /// # Errors
    /// Heads that do not divide `dim`.
    pub fn network(&self, num_items: usize, seed: u64) -> Result<SasRec> {
        SasRec::new(self, num_items, seed, DType::F32, &Device::Cpu)
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
    transformer: Transformer,
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
        let items = builder.normal("items", (num_items, config.transformer.dim), STD)?;
        let transformer = Transformer::new("", &config.transformer, &mut builder)?;
        let core =
            builder.core(Items::shared(&items), config.transformer.history, &config.training);
        Ok(Self { core, items, transformer })
    }
}

impl Sequential for SasRec {
    fn core(&self) -> &Core {
        &self.core
    }

    fn values_per_token(&self) -> usize {
        self.transformer.values_per_token()
    }

    fn states(&self, histories: &[History<'_>], dropout: Option<Masks>) -> Result<Tensor> {
        check("sasrec", self.core.history, histories)?;
        let (items, lengths) = packed(histories);
        let x = ops::embedding(&self.items, &items)?;
        let drops = (Drops(dropout), 0);
        self.transformer.forward(&x, &lengths, Sight::Back, drops, self.core.precision)
    }
}
