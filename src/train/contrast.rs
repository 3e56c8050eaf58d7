//! Global contrast decompression (GCT, paper section 3.3.1): InfoNCE between the projected hidden state
//! of `<con>` and the embeddings the target's index was made from.

use candle_core::{Device, Tensor};
use ndarray::Array2;
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};

use crate::data::ItemId;
use crate::nn::Params;
use crate::{Result, ops, rng};

/// Settings of the contrastive loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ContrastConfig {
    /// λ1, the weight of the loss against z^s.
    pub semantic_weight: f64,
    /// λ2, the weight of the loss against z^b.
    pub behavior_weight: f64,
    /// Temperature of the softmax.
    pub temperature: f64,
    /// Other items drawn as negatives, anew each step.
    pub negatives: usize,
}

impl Default for ContrastConfig {
    fn default() -> Self {
        Self { semantic_weight: 0.1, behavior_weight: 0.1, temperature: 0.1, negatives: 2048 }
    }
}

/// What the contrastive loss of a training run is made of.
#[derive(Debug, Clone, Copy)]
pub struct Contrast<'a> {
    /// The projectors and the embeddings they are drawn to.
    pub projectors: &'a Projectors,
    /// Weights, temperature and number of negatives.
    pub config: &'a ContrastConfig,
    /// The items to draw negatives from.
    pub items: &'a [ItemId],
}

/// One source: its projector and its embeddings.
#[derive(Debug, Clone)]
struct Side {
    name: &'static str,
    weight: f64,
    /// (dim, hidden)
    projector: Tensor,
    /// (items, dim)
    embeddings: Tensor,
}

/// The projectors f^s and f^b with the embeddings they are drawn to.
#[derive(Debug, Clone)]
pub struct Projectors {
    sides: Vec<Side>,
}

/// The loss of one batch.
#[derive(Debug)]
pub struct ContrastLoss {
    /// `semantic` or `behavior`.
    pub name: &'static str,
    /// λ of the source.
    pub weight: f64,
    /// Loss of every `<con>`, (n,).
    pub losses: Tensor,
    /// How many targets outscore all their negatives.
    pub top1: f64,
}

impl Projectors {
    /// What the names of their weights begin with.
    pub const PREFIX: &'static str = "projectors.";

    /// Projectors for those of z^s and z^b, (items, dim) each, that are there and whose weight is not zero,
    /// registered in `params`.
    pub fn new(
        config: &ContrastConfig,
        z: [Option<Array2<f32>>; 2],
        hidden: usize,
        seed: u64,
        params: &mut Params,
        device: &Device,
    ) -> Result<Self> {
        let [semantic, behavior] = z;
        let mut sides = Vec::new();
        for (name, weight, z) in [
            ("semantic", config.semantic_weight, semantic),
            ("behavior", config.behavior_weight, behavior),
        ] {
            let Some(z) = z.filter(|_| weight != 0.0) else { continue };
            let mut stream = rng::stream(seed, &format!("{name} projector"), &[]);
            let draws = rng::normal(&mut stream, z.ncols() * hidden, (hidden as f64).powf(-0.5));
            let projector = Tensor::from_vec(draws, (z.ncols(), hidden), device)?;
            let projector = params.insert(format!("{}{name}.weight", Self::PREFIX), &projector)?;
            let shape = z.dim();
            let embeddings = Tensor::from_vec(z.into_iter().collect(), shape, device)?;
            sides.push(Side { name, weight, projector, embeddings });
        }
        Ok(Self { sides })
    }

    /// Whether there is nothing to contrast with.
    pub fn is_empty(&self) -> bool {
        self.sides.is_empty()
    }

    /// The negatives of a step: distinct ones of `items`, all of them where there are no more.
    pub fn negatives(
        config: &ContrastConfig,
        items: &[ItemId],
        seed: u64,
        step: u64,
    ) -> Vec<ItemId> {
        if config.negatives >= items.len() {
            return items.to_vec();
        }
        let mut stream = rng::stream(seed, "contrast negatives", &[step]);
        let picked = sample(&mut stream, items.len(), config.negatives);
        let mut picked: Vec<ItemId> = picked.iter().map(|place| items[place]).collect();
        picked.sort_unstable();
        picked
    }

    /// The losses of `<con>` states (n, hidden) that follow `targets`, one a source.
    pub fn losses(
        &self,
        states: &Tensor,
        targets: &[ItemId],
        negatives: &[ItemId],
        temperature: f64,
    ) -> Result<Vec<ContrastLoss>> {
        let device = states.device();
        let states = states.to_dtype(candle_core::DType::F32)?;
        let target_rows = Tensor::new(targets, device)?;
        let negative_rows = Tensor::new(negatives, device)?;
        let loss = |side: &Side| {
            let query = ops::linear(&states, &side.projector, ops::Precision::Full)?;
            let contrast = ops::Contrast {
                positives: &side.embeddings.index_select(&target_rows, 0)?,
                negatives: &side.embeddings.index_select(&negative_rows, 0)?,
                targets,
                negative_ids: negatives,
                temperature,
            };
            let ops::InfoNce { losses, top1 } = ops::info_nce(&query, &contrast)?;
            Ok(ContrastLoss { name: side.name, weight: side.weight, losses, top1 })
        };
        self.sides.iter().map(loss).collect()
    }
}
