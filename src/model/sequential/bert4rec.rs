//! BERT4Rec (Sun et al., 2019): self-attention to both sides finds hidden items of a history.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::layers::{Affine, Builder, Drops, Masks, Norm, STD};
use super::transformer::block_values;
use super::{Core, History, Items, Sequential, TrainingConfig};
use crate::ops::{self, Rows};

/// `[baseline.bert4rec]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Bert4RecConfig {
    /// Width of an item embedding and of the states.
    pub dim: usize,
    /// Blocks of attention and feed-forward.
    pub blocks: usize,
    /// Heads of an attention; they share `dim`.
    pub heads: usize,
    /// Width of a feed-forward's hidden layer.
    pub feed_forward: usize,
    /// The longest history, in items, the hidden one behind it included.
    pub history: usize,
    /// Probability of dropout on embeddings and on the output of every attention and feed-forward.
    pub dropout: f64,
    /// Share of a history's items that are hidden in training.
    pub hidden_share: f64,
    /// How it is trained; its settings stand among these.
    #[serde(flatten)]
    pub training: TrainingConfig,
}

impl Default for Bert4RecConfig {
    fn default() -> Self {
        Self {
            dim: 128,
            blocks: 2,
            heads: 2,
            feed_forward: 256,
            history: 50,
            dropout: 0.3,
            hidden_share: 0.3,
            training: TrainingConfig::default(),
        }
    }
}

/// `norm(x + attend(x))`, then `norm(x + gelu(x W1) W2)`, each branch dropped out.
#[derive(Debug, Clone)]
struct Block {
    query: Affine,
    key: Affine,
    value: Affine,
    output: Affine,
    attention_norm: Norm,
    up: Affine,
    down: Affine,
    feed_forward_norm: Norm,
}

impl Block {
    fn new(i: usize, config: &Bert4RecConfig, builder: &mut Builder) -> Result<Self> {
        let &Bert4RecConfig { dim, feed_forward, .. } = config;
        let mut affine = |part: &str, shape| builder.affine(&format!("blocks.{i}.{part}"), shape);
        Ok(Self {
            query: affine("attention.query", (dim, dim))?,
            key: affine("attention.key", (dim, dim))?,
            value: affine("attention.value", (dim, dim))?,
            output: affine("attention.output", (dim, dim))?,
            up: affine("feed-forward.up", (feed_forward, dim))?,
            down: affine("feed-forward.down", (dim, feed_forward))?,
            attention_norm: builder.norm(&format!("blocks.{i}.attention.norm"), dim)?,
            feed_forward_norm: builder.norm(&format!("blocks.{i}.feed-forward.norm"), dim)?,
        })
    }
}

/// `score(i | history) = gelu(h W + b) . e_i + b_i` (equation 7): `h` the state at a hidden item behind the history.
///
/// Positions are counted from the end of the history, where the hidden item stands in the end.
#[derive(Debug, Clone)]
pub struct Bert4Rec {
    core: Core,
    config: Bert4RecConfig,
    /// A row for each item, and for a hidden one.
    table: Tensor,
    positions: Tensor,
    norm: Norm,
    blocks: Vec<Block>,
    output: Affine,
}

impl Bert4Rec {
    /// A fresh network; `dtype` is f32 but for numeric checks.
    pub fn new(
        config: &Bert4RecConfig,
        num_items: usize,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let mut builder = Builder::new("bert4rec", seed, dtype, device);
        let table = builder.normal("items", (num_items + 1, config.dim), STD)?;
        let items = Items {
            weight: table.narrow(0, 0, num_items)?,
            bias: Some(builder.constant("bias", num_items, 0.0)?),
        };
        Ok(Self {
            config: config.clone(),
            table,
            positions: builder.normal("positions", (config.history, config.dim), STD)?,
            norm: builder.norm("norm", config.dim)?,
            blocks: (0..config.blocks)
                .map(|i| Block::new(i, config, &mut builder))
                .collect::<Result<_>>()?,
            output: builder.affine("output", (config.dim, config.dim))?,
            core: builder.core(items, config.history, &config.training),
        })
    }

    /// Every item sees all others of its history: (tokens, dim) -> (tokens, dim).
    fn attend(&self, block: &Block, x: &Tensor, rows: &Arc<Rows>) -> Result<Tensor> {
        let (tokens, dim) = x.dims2()?;
        let project = |affine: &Affine| {
            let x = affine.forward(x, self.core.precision)?;
            x.reshape((tokens, self.config.heads, dim / self.config.heads))
        };
        let (query, key, value) =
            (project(&block.query)?, project(&block.key)?, project(&block.value)?);
        let mixed = ops::attention(&query, &key, &value, rows)?;
        block.output.forward(&mixed, self.core.precision)
    }
}

impl Sequential for Bert4Rec {
    fn core(&self) -> &Core {
        &self.core
    }

    fn values_per_token(&self) -> usize {
        block_values(self.config.dim, self.config.feed_forward, 2 * self.config.blocks)
    }

    fn states(&self, histories: &[History<'_>], dropout: Option<Masks>) -> Result<Tensor> {
        super::check("bert4rec", self.core.history, histories)?;
        let (drops, p) = (Drops(dropout), self.config.dropout);
        let (items, lengths) = super::packed(histories);
        let positions = super::from_the_end(&lengths, self.config.history);
        let x =
            (ops::embedding(&self.table, &items)? + ops::embedding(&self.positions, &positions)?)?;
        let mut x = drops.at(0, p, self.norm.forward(&x)?)?;
        let rows = Arc::new(Rows::packed(&lengths).both_ways());
        for (block, site) in self.blocks.iter().zip((1..).step_by(2)) {
            let mixed = drops.at(site, p, self.attend(block, &x, &rows)?)?;
            x = block.attention_norm.forward(&(x + mixed)?)?;
            let h = block.up.forward(&x, self.core.precision)?.gelu_erf()?;
            let h = drops.at(site + 1, p, block.down.forward(&h, self.core.precision)?)?;
            x = block.feed_forward_norm.forward(&(x + h)?)?;
        }
        self.output.forward(&x, self.core.precision)?.gelu_erf()
    }

    fn hidden(&self) -> Option<f64> {
        Some(self.config.hidden_share)
    }
}
