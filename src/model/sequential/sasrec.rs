//! SASRec (Kang and McAuley, 2018): causal self-attention over item ids.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};
use serde::{Deserialize, Serialize};

use super::layers::{Block, BlockSizes, Builder, Drops, Norm, STD, block_values};
use super::{Core, History, Items, Sequential, TrainingConfig, check, from_the_end};
use crate::ops::{self, Rows};

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
}

/// `score(i | history) = norm(blocks(e + p))_last . e_i`: item embeddings `e`, which are also what states
/// are held against, and learnt positions `p`, counted from the end of the history as in the paper, where
/// padding stands on the left. Against the paper, norms stand before the branches and on the last state (as
/// in its successors), and the feed-forward may be wider than `dim`.
#[derive(Debug, Clone)]
pub struct SasRec {
    core: Core,
    config: SasRecConfig,
    items: Tensor,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
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
        let &SasRecConfig { dim, blocks, heads, feed_forward, history, .. } = config;
        if heads == 0 || !dim.is_multiple_of(heads) {
            bail!("sasrec: {heads} heads do not divide a width of {dim}");
        }
        let mut builder = Builder::new("sasrec", seed, dtype, device);
        let sizes = BlockSizes { dim, heads, feed_forward, blocks };
        let items = builder.normal("items", (num_items, dim), STD)?;
        Ok(Self {
            positions: builder.normal("positions", (history, dim), STD)?,
            blocks: (0..blocks)
                .map(|i| Block::new(&format!("blocks.{i}"), sizes, &mut builder))
                .collect::<Result<_>>()?,
            norm: builder.norm("norm", dim)?,
            core: builder.core(Items::shared(&items), history, &config.training),
            items,
            config: config.clone(),
        })
    }
}

impl Sequential for SasRec {
    fn core(&self) -> &Core {
        &self.core
    }

    fn values_per_token(&self) -> usize {
        block_values(self.config.dim, self.config.feed_forward, self.config.blocks)
    }

    fn states(&self, histories: &[History<'_>], dropout: Option<u64>) -> Result<Tensor> {
        check("sasrec", self.core.history, histories)?;
        let lengths: Vec<usize> = histories.iter().map(|h| h.items.len()).collect();
        let items: Vec<u32> = histories.iter().flat_map(|h| h.items).copied().collect();
        let rows = Arc::new(Rows::packed(&lengths));
        let positions = from_the_end(&lengths, self.config.history);
        let x =
            (ops::embedding(&self.items, &items)? + ops::embedding(&self.positions, &positions)?)?;
        let (drops, config) = (Drops(dropout), &self.config);
        let mut x = drops.at(0, config.embedding_dropout, x)?;
        for (block, i) in self.blocks.iter().zip(0u64..) {
            let drop = |site, x| drops.at(1 + Block::SITES * i + site, config.dropout, x);
            x = block.forward(&x, &rows, &drop, self.core.precision)?;
        }
        self.norm.forward(&x)
    }
}
