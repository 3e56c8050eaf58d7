//! Self-attention over rows of items, as SASRec and those after it have it.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};

use super::from_the_end;
use super::layers::{Builder, Drops, Norm, STD};
use crate::ops::{self, Precision, Rows};

/// About how many values a training pass through blocks keeps of a token: norms, branches, and sums before and after
/// dropout.
pub(super) fn block_values(dim: usize, feed_forward: usize, blocks: usize) -> usize {
    blocks * (14 * dim + 2 * feed_forward) + 6 * dim
}

/// What a [`Transformer`] is like: settings of every network that has one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct TransformerConfig {
    /// Width of the embeddings and of the states.
    pub dim: usize,
    /// Blocks of attention and feed-forward.
    pub blocks: usize,
    /// Heads of an attention; they share `dim`.
    pub heads: usize,
    /// Width of a feed-forward's hidden layer.
    pub feed_forward: usize,
    /// The longest history, in items.
    pub history: usize,
    /// Probability of dropout on the sum of embedding and position.
    pub embedding_dropout: f64,
    /// Probability of dropout on the output of every attention and feed-forward.
    pub dropout: f64,
}

/// Chosen on the validation split of Amazon Beauty, for SASRec (docs/baselines.md).
impl Default for TransformerConfig {
    fn default() -> Self {
        Self {
            dim: 64,
            blocks: 2,
            heads: 2,
            feed_forward: 256,
            history: 50,
            embedding_dropout: 0.5,
            dropout: 0.3,
        }
    }
}

/// `norm(blocks(x + p))`: learnt positions `p`, counted from the end of a row, blocks of attention and feed-forward,
/// and a norm.
#[derive(Debug, Clone)]
pub(super) struct Transformer {
    config: TransformerConfig,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
}

impl Transformer {
    /// Its parameters, their names behind `prefix`.
    ///
    /// # Errors
    /// Heads that do not divide `dim`.
    pub(super) fn new(
        prefix: &str,
        config: &TransformerConfig,
        builder: &mut Builder,
    ) -> Result<Self> {
        let &TransformerConfig { dim, heads, history, .. } = config;
        if heads == 0 || !dim.is_multiple_of(heads) {
            bail!("{heads} heads do not divide a width of {dim}");
        }
        Ok(Self {
            config: *config,
            positions: builder.normal(&format!("{prefix}positions"), (history, dim), STD)?,
            blocks: (0..config.blocks)
                .map(|i| Block::new(&format!("{prefix}blocks.{i}"), config, builder))
                .collect::<Result<_>>()?,
            norm: builder.norm(&format!("{prefix}norm"), dim)?,
        })
    }

    /// Places of dropout within it.
    pub(super) fn sites(&self) -> u64 {
        1 + Block::SITES * self.blocks.len() as u64
    }

    /// About how many values a training pass keeps of a token.
    pub(super) fn values_per_token(&self) -> usize {
        block_values(self.config.dim, self.config.feed_forward, self.config.blocks)
    }

    /// (tokens, dim) -> (tokens, dim), where rows of these lengths stand one after another; places of dropout from
    /// `first` on.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        lengths: &[usize],
        sight: Sight,
        (drops, first): (Drops, u64),
        precision: Precision,
    ) -> Result<Tensor> {
        let TransformerConfig { history, embedding_dropout, dropout, .. } = self.config;
        let rows = Rows::packed(lengths);
        let rows = Arc::new(match sight {
            Sight::Back => rows,
            Sight::BothWays => rows.both_ways(),
        });
        let x = (x + ops::embedding(&self.positions, &from_the_end(lengths, history))?)?;
        let mut x = drops.at(first, embedding_dropout, x)?;
        for (block, i) in self.blocks.iter().zip(0u64..) {
            let drop = |site, x| drops.at(first + 1 + Block::SITES * i + site, dropout, x);
            x = block.forward(&x, &rows, &drop, precision)?;
        }
        self.norm.forward(&x)
    }
}

/// What an item sees of its row, besides itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// Those before it.
    Back,
    /// All.
    BothWays,
}

/// `x + attend(norm(x))`, then `x + relu(norm(x) W1) W2`, each branch dropped out.
///
/// Its matrices, (out, in), have no biases of their own: those of the norms before them serve.
#[derive(Debug, Clone)]
struct Block {
    attention_norm: Norm,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    feed_forward_norm: Norm,
    up: Tensor,
    down: Tensor,
    heads: usize,
}

impl Block {
    /// Places of a dropout within a block.
    const SITES: u64 = 2;

    fn new(name: &str, config: &TransformerConfig, builder: &mut Builder) -> Result<Self> {
        let &TransformerConfig { dim, feed_forward, blocks, heads, .. } = config;
        // What writes to the residual stream starts smaller (Radford et al., 2019).
        let residual = STD / (2.0 * blocks as f64).sqrt();
        let mut matrix =
            |part: &str, shape, std| builder.normal(&format!("{name}.{part}.weight"), shape, std);
        Ok(Self {
            query: matrix("attention.query", (dim, dim), STD)?,
            key: matrix("attention.key", (dim, dim), STD)?,
            value: matrix("attention.value", (dim, dim), STD)?,
            output: matrix("attention.output", (dim, dim), residual)?,
            up: matrix("feed-forward.up", (feed_forward, dim), STD)?,
            down: matrix("feed-forward.down", (dim, feed_forward), residual)?,
            attention_norm: builder.norm(&format!("{name}.attention.norm"), dim)?,
            feed_forward_norm: builder.norm(&format!("{name}.feed-forward.norm"), dim)?,
            heads,
        })
    }

    /// (tokens, dim) -> (tokens, dim)
    fn forward(
        &self,
        x: &Tensor,
        rows: &Arc<Rows>,
        drop: &dyn Fn(u64, Tensor) -> Result<Tensor>,
        precision: Precision,
    ) -> Result<Tensor> {
        let (tokens, dim) = x.dims2()?;
        let h = self.attention_norm.forward(x)?;
        let project = |weight| {
            ops::linear(&h, weight, precision)?.reshape((tokens, self.heads, dim / self.heads))
        };
        let (query, key, value) =
            (project(&self.query)?, project(&self.key)?, project(&self.value)?);
        let attended = ops::attention(&query, &key, &value, rows)?;
        let x = (x + drop(0, ops::linear(&attended, &self.output, precision)?)?)?;
        let h = self.feed_forward_norm.forward(&x)?;
        let h = ops::linear(&h, &self.up, precision)?.relu()?;
        x + drop(1, ops::linear(&h, &self.down, precision)?)?
    }
}
