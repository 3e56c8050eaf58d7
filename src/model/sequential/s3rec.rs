//! S3-Rec (Zhou et al., 2020): self-attention that first learns what items, attributes and parts of sequences say of
//! each other.

use candle_core::{DType, Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::layers::{Builder, Drops, Masks, STD};
use super::transformer::{Sight, Transformer, TransformerConfig};
use super::{
    Attributes, Core, History, Items, PRETRAINING, Pretraining, Puzzle, Sequential, TrainingConfig,
    check, ends, packed,
};
use crate::ops;

/// `[baseline.s3rec]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct S3RecConfig {
    /// What reads the history; its settings stand among these.
    #[serde(flatten)]
    pub transformer: TransformerConfig,
    /// Passes over the training sequences before it is trained to tell the next item; 0: none.
    pub pretraining_epochs: usize,
    /// Share of a sequence's items that are hidden there.
    pub hidden_share: f64,
    /// How it is trained; its settings stand among these.
    #[serde(flatten)]
    pub training: TrainingConfig,
}

impl Default for S3RecConfig {
    fn default() -> Self {
        Self {
            transformer: TransformerConfig::default(),
            pretraining_epochs: 50,
            hidden_share: 0.2,
            training: TrainingConfig::default(),
        }
    }
}

/// What each loss of pre-training counts: of attributes of items, hidden items, attributes of hidden items, segments;
/// as in its authors' program.
const WEIGHTS: [f64; 4] = [0.2, 1.0, 1.0, 0.5];

/// `score(i | history) = F_last . e_i`: a SASRec that was pre-trained by associated attribute prediction, masked item
/// prediction, masked attribute prediction and segment prediction. Of the sequences of pre-training every item sees
/// both sides.
#[derive(Debug, Clone)]
pub struct S3Rec {
    core: Core,
    config: S3RecConfig,
    attributes: Attributes,
    /// A row for each item, and for a hidden one.
    table: Tensor,
    /// (attributes, dim)
    attribute_table: Tensor,
    transformer: Transformer,
    /// Between items and their attributes, states and hidden items, states and attributes of hidden items, sequences
    /// and segments: (dim, dim) each.
    between: [Tensor; 4],
}

impl S3Rec {
    /// A fresh network over the items of `attributes`; `dtype` is f32 but for numeric checks.
    pub fn new(
        config: &S3RecConfig,
        attributes: Attributes,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let dim = config.transformer.dim;
        let num_items = attributes.of_items.len();
        let mut builder = Builder::new("s3rec", seed, dtype, device);
        let table = builder.normal("items", (num_items + 1, dim), STD)?;
        let transformer = Transformer::new("", &config.transformer, &mut builder)?;
        let mut between = |name: &str| builder.matrix(&format!("{PRETRAINING}{name}"), (dim, dim));
        let between = [
            between("attribute")?,
            between("item")?,
            between("item-attribute")?,
            between("segment")?,
        ];
        let attribute_table =
            builder.normal(&format!("{PRETRAINING}attributes"), (attributes.count, dim), STD)?;
        let items = Items { weight: table.narrow(0, 0, num_items)?, bias: None };
        let core = builder.core(items, config.transformer.history, &config.training);
        let config = config.clone();
        Ok(Self { core, config, attributes, table, attribute_table, transformer, between })
    }

    /// The states of histories in which hidden items may be, (tokens, dim).
    fn encode(
        &self,
        histories: &[History<'_>],
        sight: Sight,
        drops: (Drops, u64),
    ) -> Result<Tensor> {
        check("s3rec", self.core.history, histories)?;
        let (items, lengths) = packed(histories);
        let x = ops::embedding(&self.table, &items)?;
        self.transformer.forward(&x, &lengths, sight, drops, self.core.precision)
    }

    /// The same where every item sees both sides, of rows.
    fn both_ways(&self, rows: &[Vec<u32>], drops: (Drops, u64)) -> Result<Tensor> {
        let histories: Vec<History<'_>> = rows.iter().map(|items| History::of(items)).collect();
        self.encode(&histories, Sight::BothWays, drops)
    }

    /// The last of these states of each row, (rows, dim).
    fn ends(&self, rows: &[Vec<u32>], drops: (Drops, u64)) -> Result<Tensor> {
        let ends = ends(rows.iter().map(Vec::len));
        ops::embedding(&self.both_ways(rows, drops)?, &ends)
    }

    /// The binary cross-entropy, summed, of all attributes of `items` from `x` (items, dim), which `between` takes to
    /// attributes. What nothing is known of counts nothing.
    fn attributes_told(&self, x: &Tensor, items: &[u32], between: &Tensor) -> Result<Tensor> {
        let own = |item: u32| &self.attributes.of_items[item as usize];
        let known = (0u32..).zip(items).filter(|(_, item)| !own(**item).is_empty());
        let (places, own): (Vec<u32>, Vec<Vec<u32>>) =
            known.map(|(place, item)| (place, own(*item).clone())).unzip();
        if places.is_empty() {
            return Tensor::zeros((), x.dtype(), x.device());
        }
        let precision = self.core.precision;
        let x = ops::linear(&ops::embedding(x, &places)?, between, precision)?;
        ops::binary_cross_entropy(&x, &self.attribute_table, own, precision)?.sum_all()
    }

    /// `-log sigmoid(own - other)`, summed, of how well `x` (n, dim), which `between` takes to them, agrees with rows
    /// of its own and with others.
    fn preferred(
        &self,
        x: &Tensor,
        between: &Tensor,
        own: &Tensor,
        other: &Tensor,
    ) -> Result<Tensor> {
        let x = ops::linear(x, between, self.core.precision)?;
        let ahead = (x * (own - other)?)?.sum(1)?;
        ops::softplus(&ahead.neg()?)?.sum_all()
    }
}

impl Sequential for S3Rec {
    fn core(&self) -> &Core {
        &self.core
    }

    fn values_per_token(&self) -> usize {
        // Four passes.
        4 * self.transformer.values_per_token()
    }

    fn states(&self, histories: &[History<'_>], dropout: Option<Masks>) -> Result<Tensor> {
        self.encode(histories, Sight::Back, (Drops(dropout), 0))
    }

    fn pretraining(&self) -> Option<&dyn Pretraining> {
        Some(self)
    }
}

impl Pretraining for S3Rec {
    fn epochs(&self) -> usize {
        self.config.pretraining_epochs
    }

    fn hidden_share(&self) -> f64 {
        self.config.hidden_share
    }

    fn loss(&self, puzzle: &Puzzle, dropout: Option<u64>) -> Result<Tensor> {
        let sites = self.transformer.sites();
        let masks = dropout.map(|key| Masks { key, before: puzzle.before });
        let drops = |pass: u64| (Drops(masks), pass * sites);
        let [attribute, item, item_attribute, segment] = &self.between;
        let states = ops::embedding(&self.both_ways(&puzzle.rows, drops(0))?, &puzzle.places)?;
        let seen = ops::embedding(&self.table, &puzzle.seen)?;
        let own = ops::embedding(&self.table, &puzzle.hidden)?;
        let other = ops::embedding(&self.table, &puzzle.others)?;
        let around = self.ends(&puzzle.without_segments, drops(1))?;
        let own_segment = self.ends(&puzzle.segments, drops(2))?;
        let other_segment = self.ends(&puzzle.other_segments, drops(3))?;
        let losses = [
            self.attributes_told(&seen, &puzzle.seen, attribute)?,
            self.preferred(&states, item, &own, &other)?,
            self.attributes_told(&states, &puzzle.hidden, item_attribute)?,
            self.preferred(&around, segment, &own_segment, &other_segment)?,
        ];
        let weighted = losses.iter().zip(WEIGHTS).map(|(loss, weight)| loss * weight);
        let weighted = weighted.collect::<Result<Vec<Tensor>>>()?;
        Tensor::stack(&weighted, 0)?.sum_all()
    }
}
