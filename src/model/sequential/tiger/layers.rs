//! The blocks of a T5 (Raffel et al., 2020), their parameters under the names that Hugging Face gives them.

use std::cell::Cell;
use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::TigerConfig;
use crate::model::sequential::layers::{Builder, Drops, Masks};
use crate::nn::Dropout;
use crate::ops::{self, Precision, Rows};

/// Added to the mean square in a norm.
pub(super) const EPS: f64 = 1e-6;
/// Classes of how far a key is from its query.
const BUCKETS: usize = 32;
/// So far and farther is one class.
const MAX_DISTANCE: usize = 128;

/// Keys and values, (tokens, heads, `head_dim`) each.
pub(super) type KeysValues = [Tensor; 2];

/// One way through the network.
pub(super) struct Pass {
    drops: Drops,
    dropout: f64,
    /// The next place of dropout.
    site: Cell<u64>,
    pub(super) precision: Precision,
}

impl Pass {
    pub(super) fn new(config: &TigerConfig, masks: Option<Masks>) -> Self {
        Self {
            drops: Drops(masks),
            dropout: config.dropout,
            site: Cell::new(0),
            precision: config.precision,
        }
    }

    /// The rest of the way, over tokens of another kind, of which so many are of other passes and come before.
    pub(super) fn onward(&self, before: usize) -> Self {
        let Drops(masks) = self.drops;
        Self {
            drops: Drops(masks.map(|masks| Masks { before, ..masks })),
            site: self.site.clone(),
            ..*self
        }
    }

    /// The next place of dropout.
    pub(super) fn next_site(&self) -> u64 {
        self.site.replace(self.site.get() + 1)
    }

    /// The mask of a place; none outside training.
    pub(super) fn mask(&self, site: u64) -> Option<Dropout> {
        self.drops.mask(site, self.dropout)
    }

    fn drop(&self, x: Tensor) -> Result<Tensor> {
        self.drops.at(self.next_site(), self.dropout, x)
    }
}

/// An attention, its norm before it. Scores are not divided by the root of `head_dim`: its first values see to that.
#[derive(Debug, Clone)]
pub(super) struct Attention {
    pub(super) norm: Tensor,
    pub(super) query: Tensor,
    pub(super) key: Tensor,
    pub(super) value: Tensor,
    pub(super) output: Tensor,
    heads: usize,
    pub(super) head_dim: usize,
}

impl Attention {
    fn new(layer: &str, kind: &str, config: &TigerConfig, builder: &mut Builder) -> Result<Self> {
        let &TigerConfig { dim, heads, head_dim, .. } = config;
        let inner = heads * head_dim;
        let mut matrix = |part: &str, shape, variance: usize| {
            let std = 1.0 / (variance as f64).sqrt();
            builder.normal(&format!("{layer}.{kind}.{part}.weight"), shape, std)
        };
        Ok(Self {
            query: matrix("q", (inner, dim), dim * head_dim)?,
            key: matrix("k", (inner, dim), dim)?,
            value: matrix("v", (inner, dim), dim)?,
            output: matrix("o", (dim, inner), inner)?,
            norm: builder.constant(&format!("{layer}.layer_norm.weight"), dim, 1.0)?,
            heads,
            head_dim,
        })
    }

    fn in_heads(&self, x: &Tensor, weight: &Tensor, pass: &Pass) -> Result<Tensor> {
        let projected = ops::linear(x, weight, pass.precision)?;
        projected.reshape((x.dim(0)?, self.heads, self.head_dim))
    }

    /// Of `x`, (tokens, dim).
    pub(super) fn keys_values(&self, x: &Tensor, pass: &Pass) -> Result<KeysValues> {
        Ok([self.in_heads(x, &self.key, pass)?, self.in_heads(x, &self.value, pass)?])
    }

    /// Adds to `x` (tokens, dim) what `attend` makes of its queries and of `x` after the norm.
    fn add_to(
        &self,
        x: &Tensor,
        pass: &Pass,
        attend: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let h = ops::rms_norm(x, &self.norm, EPS)?;
        // The operation divides.
        let query = (self.in_heads(&h, &self.query, pass)? * (self.head_dim as f64).sqrt())?;
        let attended = attend(&query, &h)?;
        x + pass.drop(ops::linear(&attended, &self.output, pass.precision)?)?
    }
}

/// `relu(norm(x) W1) W2`
#[derive(Debug, Clone)]
pub(super) struct FeedForward {
    pub(super) norm: Tensor,
    pub(super) up: Tensor,
    pub(super) down: Tensor,
}

impl FeedForward {
    fn new(layer: &str, config: &TigerConfig, builder: &mut Builder) -> Result<Self> {
        let &TigerConfig { dim, feed_forward, .. } = config;
        let mut matrix = |part: &str, shape: (usize, usize)| {
            let name = format!("{layer}.DenseReluDense.{part}.weight");
            builder.normal(&name, shape, 1.0 / (shape.1 as f64).sqrt())
        };
        Ok(Self {
            up: matrix("wi", (feed_forward, dim))?,
            down: matrix("wo", (dim, feed_forward))?,
            norm: builder.constant(&format!("{layer}.layer_norm.weight"), dim, 1.0)?,
        })
    }

    fn add_to(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let h = ops::rms_norm(x, &self.norm, EPS)?;
        let h = pass.drop(ops::linear(&h, &self.up, pass.precision)?.relu()?)?;
        x + pass.drop(ops::linear(&h, &self.down, pass.precision)?)?
    }
}

#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) attention: Attention,
    /// To what the encoder has read; of a decoder.
    pub(super) cross: Option<Attention>,
    pub(super) feed_forward: FeedForward,
}

/// Encoder or decoder.
#[derive(Debug, Clone)]
pub(super) struct Stack {
    pub(super) blocks: Vec<Block>,
    /// (buckets, heads), of all blocks.
    pub(super) bias: Tensor,
    pub(super) norm: Tensor,
}

/// What a decoder reads: keys and values for each block, and which of them each token sees.
pub(super) struct Read<'a> {
    pub(super) blocks: &'a [KeysValues],
    pub(super) rows: Arc<Rows>,
}

impl Stack {
    pub(super) fn encoder(config: &TigerConfig, builder: &mut Builder) -> Result<Self> {
        Self::new("encoder", config, builder)
    }

    pub(super) fn decoder(config: &TigerConfig, builder: &mut Builder) -> Result<Self> {
        Self::new("decoder", config, builder)
    }

    fn new(name: &str, config: &TigerConfig, builder: &mut Builder) -> Result<Self> {
        let &TigerConfig { dim, heads, blocks, .. } = config;
        let mut block = |i: usize| -> Result<Block> {
            let layer = |j: usize| format!("{name}.block.{i}.layer.{j}");
            let cross = match name {
                "decoder" => {
                    Some(Attention::new(&layer(1), "EncDecAttention", config, &mut *builder)?)
                }
                _ => None,
            };
            let last = layer(1 + usize::from(cross.is_some()));
            Ok(Block {
                attention: Attention::new(&layer(0), "SelfAttention", config, &mut *builder)?,
                cross,
                feed_forward: FeedForward::new(&last, config, &mut *builder)?,
            })
        };
        let blocks = (0..blocks).map(&mut block).collect::<Result<_>>()?;
        let bias = format!("{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        Ok(Self {
            blocks,
            bias: builder.normal(&bias, (BUCKETS, heads), 1.0 / (dim as f64).sqrt())?,
            norm: builder.constant(&format!("{name}.final_layer_norm.weight"), dim, 1.0)?,
        })
    }

    /// The classes of all ways between tokens of rows of up to `most`, and what they add to the scores of a pass by hand,
    /// (ways, heads).
    pub(super) fn ways(&self, most: usize, back_alone: bool) -> Result<(Vec<u32>, Vec<f32>)> {
        let buckets = buckets(most, back_alone);
        let bias = ops::embedding(&self.bias, &buckets)?.flatten_all()?.to_vec1()?;
        Ok((buckets, bias))
    }

    /// The attentions to what is read, block by block.
    pub(super) fn cross(&self) -> impl Iterator<Item = &Attention> {
        self.blocks.iter().filter_map(|block| block.cross.as_ref())
    }

    /// (tokens, dim) -> (tokens, dim), where rows of these lengths stand one after another. With something `read`, a
    /// token sees those before it, else all of its row.
    pub(super) fn forward(
        &self,
        x: Tensor,
        lengths: &[usize],
        read: Option<&Read<'_>>,
        pass: &Pass,
    ) -> Result<Tensor> {
        let rows = Rows::packed(lengths);
        let rows = Arc::new(if read.is_some() { rows } else { rows.both_ways() });
        let most = lengths.iter().copied().max().unwrap_or(1).max(1);
        let bias = ops::embedding(&self.bias, &buckets(most, read.is_some()))?;
        let mut x = pass.drop(x)?;
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.attention.add_to(&x, pass, |query, h| {
                let [key, value] = block.attention.keys_values(h, pass)?;
                ops::biased_attention(query, &key, &value, &bias, &rows)
            })?;
            if let (Some(cross), Some(read)) = (&block.cross, read) {
                let [key, value] = &read.blocks[i];
                x = cross
                    .add_to(&x, pass, |query, _| ops::attention(query, key, value, &read.rows))?;
            }
            x = block.feed_forward.add_to(&x, pass)?;
        }
        pass.drop(ops::rms_norm(&x, &self.norm, EPS)?)
    }
}

/// The class of every way from a query to a key in rows of up to `most`, the one farthest before it first. Half of them
/// are for keys behind the query, where it sees any: near ones by themselves, farther ones by the logarithm.
pub(super) fn buckets(most: usize, back_alone: bool) -> Vec<u32> {
    let classes = if back_alone { BUCKETS } else { BUCKETS / 2 };
    let exact = classes / 2;
    let bucket = |offset: usize| {
        let (distance, is_behind) = (offset.abs_diff(most - 1), offset > most - 1);
        let distance = if is_behind && back_alone { 0 } else { distance };
        let class = if distance < exact {
            distance
        } else {
            // In f32, as T5 has it: what falls on a border falls on the same side.
            let share = (distance as f32 / exact as f32).ln()
                / (MAX_DISTANCE as f64 / exact as f64).ln() as f32;
            (exact + (share * (classes - exact) as f32) as usize).min(classes - 1)
        };
        (class + usize::from(is_behind && !back_alone) * classes) as u32
    };
    (0..2 * most - 1).map(bucket).collect()
}
