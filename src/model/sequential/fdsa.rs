//! FDSA (Zhang et al., 2019): self-attention over items and, beside it, over what is known of them.

use candle_core::{DType, Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::layers::{Affine, Builder, Drops, Masks, STD, softmax};
use super::transformer::{Sight, Transformer, TransformerConfig};
use super::{Core, History, Items, Sequential, TrainingConfig, check, packed};
use crate::ops::{self, Precision};

/// `[baseline.fdsa]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct FdsaConfig {
    /// What reads items, and another their attributes; its settings stand among these.
    #[serde(flatten)]
    pub transformer: TransformerConfig,
    /// How it is trained; its settings stand among these.
    #[serde(flatten)]
    pub training: TrainingConfig,
}

impl Default for FdsaConfig {
    fn default() -> Self {
        let transformer =
            TransformerConfig { blocks: 1, dropout: 0.4, ..TransformerConfig::default() };
        Self { transformer, training: TrainingConfig::default() }
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

/// `score(i | history) = ([s_items, s_attributes] W + b) . e_i` (section 3.6): the last states of two streams. What
/// stands for an item in the second is the mean of its attributes, weighted by an attention over them (equation 2).
///
/// The streams are those of this crate's SASRec.
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
    streams: [Transformer; 2],
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
        let dim = config.transformer.dim;
        let mut builder = Builder::new("fdsa", seed, dtype, device);
        let num_items = attributes.of_items.len();
        let items = builder.normal("items", (num_items, dim), STD)?;
        Ok(Self {
            config: config.clone(),
            // One more: of an item of which nothing is known.
            table: builder.normal("attributes", (attributes.count + 1, dim), STD)?,
            attention: builder.affine("attention", (1, dim))?,
            streams: [
                Transformer::new("of-items.", &config.transformer, &mut builder)?,
                Transformer::new("of-attributes.", &config.transformer, &mut builder)?,
            ],
            output: builder.affine("output", (dim, 2 * dim))?,
            core: builder.core(Items::shared(&items), config.transformer.history, &config.training),
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
        let rows = rows.reshape((items.len(), most, self.config.transformer.dim))?;
        ops::sum_over_places(&rows.broadcast_mul(&shares.unsqueeze(2)?)?)
    }
}

impl Sequential for Fdsa {
    fn core(&self) -> &Core {
        &self.core
    }

    fn values_per_token(&self) -> usize {
        let most = self.attributes.of_items.iter().map(Vec::len).max().unwrap_or(0);
        2 * self.streams[0].values_per_token() + 4 * most * self.config.transformer.dim
    }

    fn states(&self, histories: &[History<'_>], dropout: Option<Masks>) -> Result<Tensor> {
        check("fdsa", self.core.history, histories)?;
        let (items, lengths) = packed(histories);
        let inputs = [ops::embedding(&self.items, &items)?, self.known(&items)?];
        let mut states = Vec::new();
        let mut first = 0;
        for (stream, x) in self.streams.iter().zip(inputs) {
            let drops = (Drops(dropout), first);
            let precision = self.core.precision;
            states.push(stream.forward(&x, &lengths, Sight::Back, drops, precision)?);
            first += stream.sites();
        }
        self.output.forward(&Tensor::cat(&states, 1)?, self.core.precision)
    }
}
