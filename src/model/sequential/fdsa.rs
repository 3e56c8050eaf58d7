//! FDSA (Zhang et al., 2019): self-attention over items and, beside it, over what is known of them.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::layers::{Affine, Block, BlockSizes, Builder, Drops, Norm, STD, block_values, softmax};
use super::{Core, History, Items, Sequential, TrainingConfig, check};
use crate::ops::{self, Precision, Rows};

/// `[baseline.fdsa]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct FdsaConfig {
    /// Width of the embeddings of items and attributes, and of the states.
    pub dim: usize,
    /// Blocks of attention and feed-forward, of items and of attributes each.
    pub blocks: usize,
    /// Heads of an attention; they share `dim`.
    pub heads: usize,
    /// Width of a feed-forward's hidden layer.
    pub feed_forward: usize,
    /// The longest history, in items.
    pub history: usize,
    /// Probability of dropout on embeddings.
    pub embedding_dropout: f64,
    /// Probability of dropout on the output of every attention and feed-forward.
    pub dropout: f64,
    /// How it is trained; its settings stand among these.
    #[serde(flatten)]
    pub training: TrainingConfig,
}

impl Default for FdsaConfig {
    fn default() -> Self {
        Self {
            dim: 64,
            blocks: 1,
            heads: 2,
            feed_forward: 256,
            history: 50,
            embedding_dropout: 0.5,
            dropout: 0.3,
            training: TrainingConfig::default(),
        }
    }
}

/// What is known of every item: attributes by number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Of each item, without repetition.
    pub of_items: Vec<Vec<u32>>,
    /// How many attributes there are.
    pub count: usize,
}

/// One stream: positions, blocks and a norm over what stands for each item.
#[derive(Debug, Clone)]
struct Stream {
    positions: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
}

impl Stream {
    fn new(name: &str, config: &FdsaConfig, builder: &mut Builder) -> Result<Self> {
        let &FdsaConfig { dim, heads, feed_forward, blocks, history, .. } = config;
        let sizes = BlockSizes { dim, heads, feed_forward, blocks };
        Ok(Self {
            positions: builder.normal(&format!("{name}.positions"), (history, dim), STD)?,
            blocks: (0..blocks)
                .map(|i| Block::new(&format!("{name}.blocks.{i}"), sizes, builder))
                .collect::<Result<_>>()?,
            norm: builder.norm(&format!("{name}.norm"), dim)?,
        })
    }
}

/// `score(i | history) = ([s_items, s_attributes] W + b) . e_i` (section 3.6): the last states of two streams. What
/// stands for an item in the second is the mean of its attributes, weighted by an attention over them (equation 2).
///
/// Blocks and positions are those of this crate's SASRec.
#[derive(Debug, Clone)]
pub struct Fdsa {
    core: Core,
    config: FdsaConfig,
    attributes: Attributes,
    items: Tensor,
    /// (attributes, dim)
    table: Tensor,
    /// Weighs attributes, (1, dim).
    attention: Affine,
    streams: [Stream; 2],
    output: Affine,
}

impl Fdsa {
    /// A fresh network over the items of `attributes`; `dtype` is f32 but for numeric checks.
    pub fn new(
        config: &FdsaConfig,
        attributes: Attributes,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let dim = config.dim;
        let mut builder = Builder::new("fdsa", seed, dtype, device);
        let num_items = attributes.of_items.len();
        let items = builder.normal("items", (num_items, dim), STD)?;
        Ok(Self {
            config: config.clone(),
            // One more: of an item of which nothing is known.
            table: builder.normal("attributes", (attributes.count + 1, dim), STD)?,
            attention: builder.affine("attention", (1, dim))?,
            streams: [
                Stream::new("of-items", config, &mut builder)?,
                Stream::new("of-attributes", config, &mut builder)?,
            ],
            output: builder.affine("output", (dim, 2 * dim))?,
            core: builder.core(Items::shared(&items), config.history, &config.training),
            items,
            attributes,
        })
    }

    /// The attributes of each of `items` as one, (tokens, dim).
    fn known(&self, items: &[u32]) -> Result<Tensor> {
        let nothing = [self.attributes.count as u32];
        let of = |&item: &u32| match self.attributes.of_items.get(item as usize) {
            Some(own) if !own.is_empty() => own.as_slice(),
            _ => &nothing,
        };
        let most = items.iter().map(|item| of(item).len()).max().unwrap_or(1);
        let (mut ids, mut missing) = (Vec::new(), Vec::new());
        for item in items {
            let own = of(item);
            ids.extend((0..most).map(|at| own.get(at).copied().unwrap_or(0)));
            missing.extend((0..most).map(|at| if at < own.len() { 0f32 } else { -1e9 }));
        }
        let rows = ops::embedding(&self.table, &ids)?;
        let scores =
            self.attention.forward(&rows, Precision::Full)?.reshape((items.len(), most))?;
        let missing = Tensor::from_vec(missing, (items.len(), most), rows.device())?;
        let scores = (scores + missing.to_dtype(rows.dtype())?)?;
        let shares = softmax(&scores)?;
        let rows = rows.reshape((items.len(), most, self.config.dim))?;
        rows.broadcast_mul(&shares.unsqueeze(2)?)?.sum(1)
    }
}

impl Sequential for Fdsa {
    fn core(&self) -> &Core {
        &self.core
    }

    fn values_per_token(&self) -> usize {
        let most = self.attributes.of_items.iter().map(Vec::len).max().unwrap_or(0);
        2 * block_values(self.config.dim, self.config.feed_forward, self.config.blocks)
            + 4 * most * self.config.dim
    }

    fn states(&self, histories: &[History<'_>], dropout: Option<u64>) -> Result<Tensor> {
        check("fdsa", self.core.history, histories)?;
        let items: Vec<u32> = histories.iter().flat_map(|h| h.items).copied().collect();
        let lengths: Vec<usize> = histories.iter().map(|h| h.items.len()).collect();
        let rows = Arc::new(Rows::packed(&lengths));
        let positions = super::from_the_end(&lengths, self.config.history);
        let (drops, config) = (Drops(dropout), &self.config);
        let inputs = [ops::embedding(&self.items, &items)?, self.known(&items)?];
        let mut states = Vec::new();
        let sites = 1 + Block::SITES * self.config.blocks as u64;
        for ((stream, x), first) in self.streams.iter().zip(inputs).zip([0, sites]) {
            let x = (x + ops::embedding(&stream.positions, &positions)?)?;
            let mut x = drops.at(first, config.embedding_dropout, x)?;
            for (block, i) in stream.blocks.iter().zip(0u64..) {
                let drop =
                    |site, x| drops.at(first + 1 + Block::SITES * i + site, config.dropout, x);
                x = block.forward(&x, &rows, &drop, self.core.precision)?;
            }
            states.push(stream.norm.forward(&x)?);
        }
        self.output.forward(&Tensor::cat(&states, 1)?, self.core.precision)
    }
}
