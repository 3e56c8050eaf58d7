//! A sequential recommender: SASRec (Kang and McAuley, 2018), causal self-attention over item ids.
//!
//! Every position of a history predicts the item that follows it: its state, held against the embeddings
//! of all items, gives a score an item.
//!
//! Shapes: tokens (the items of all histories in a row, without padding), dim (of an item embedding).

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::init::FirstValues;
use crate::nn::{Dropout, Params};
use crate::ops::{self, Precision, Rows};

/// Added to the variance in a normalisation.
const EPS: f64 = 1e-5;
/// Standard deviation of a fresh matrix.
const STD: f64 = 0.02;
/// Places of a dropout within a block; block `i` begins at `i` times as many, after that of the embedding.
const SITES: u64 = 2;

/// The sizes of a [`SasRec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SasRecSizes {
    /// Rows of the embedding table.
    pub num_items: usize,
    /// Width of an item embedding and of the states.
    pub dim: usize,
    /// Blocks of attention and feed-forward.
    pub blocks: usize,
    /// Heads of an attention; they share `dim`.
    pub heads: usize,
    /// Width of a feed-forward's hidden layer.
    pub feed_forward: usize,
    /// Positions: the longest history.
    pub history: usize,
}

/// Dropout of one training pass.
#[derive(Debug, Clone, Copy)]
pub struct SasRecDropout {
    /// Probability on the sum of item and position embedding.
    pub embedding: f64,
    /// Probability on the output of every attention and feed-forward.
    pub branch: f64,
    /// Key of the masks: equal keys give equal masks.
    pub key: u64,
}

/// The items a sampled softmax chooses among, shared by all targets of a step, which are among them.
#[derive(Debug, Clone)]
pub struct Candidates {
    /// Items, ascending and distinct.
    pub items: Vec<u32>,
    /// The logarithm of the probability with which each item came to be a candidate: taken from its
    /// score, so that items often among them are not pushed down the more for it (Jean et al., 2015).
    pub log_probabilities: Vec<f32>,
}

#[derive(Debug, Clone)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn new(name: &str, dim: usize, params: &mut Params, init: &FirstValues) -> Result<Self> {
        let zeros = Tensor::zeros(dim, init.dtype, &init.device)?;
        Ok(Self {
            weight: params.insert(format!("{name}.weight"), &zeros.ones_like()?)?,
            bias: params.insert(format!("{name}.bias"), &zeros)?,
        })
    }

    /// (tokens, dim) -> (tokens, dim)
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, EPS)
    }
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
}

impl Block {
    fn new(i: usize, sizes: &SasRecSizes, params: &mut Params, init: &FirstValues) -> Result<Self> {
        let &SasRecSizes { dim, feed_forward, blocks, .. } = sizes;
        // What writes to the residual stream starts smaller (Radford et al., 2019).
        let residual = STD / (2.0 * blocks as f64).sqrt();
        let attention_norm = Norm::new(&format!("blocks.{i}.attention.norm"), dim, params, init)?;
        let feed_forward_norm =
            Norm::new(&format!("blocks.{i}.feed-forward.norm"), dim, params, init)?;
        let mut matrix = |name: &str, shape, std| {
            let name = format!("blocks.{i}.{name}.weight");
            params.insert(&name, &init.normal(&name, shape, std)?)
        };
        Ok(Self {
            attention_norm,
            query: matrix("attention.query", (dim, dim), STD)?,
            key: matrix("attention.key", (dim, dim), STD)?,
            value: matrix("attention.value", (dim, dim), STD)?,
            output: matrix("attention.output", (dim, dim), residual)?,
            feed_forward_norm,
            up: matrix("feed-forward.up", (feed_forward, dim), STD)?,
            down: matrix("feed-forward.down", (dim, feed_forward), residual)?,
        })
    }

    /// (tokens, dim) -> (tokens, dim)
    fn forward(
        &self,
        x: &Tensor,
        heads: usize,
        rows: &Arc<Rows>,
        dropout: Option<[Dropout; 2]>,
        precision: Precision,
    ) -> Result<Tensor> {
        let (tokens, dim) = x.dims2()?;
        let drop = |branch: Tensor, site: usize| match dropout {
            Some(sites) => sites[site].apply(&branch),
            None => Ok(branch),
        };
        let h = self.attention_norm.forward(x)?;
        let project =
            |weight| ops::linear(&h, weight, precision)?.reshape((tokens, heads, dim / heads));
        let (query, key, value) =
            (project(&self.query)?, project(&self.key)?, project(&self.value)?);
        let attended = ops::attention(&query, &key, &value, rows)?;
        let x = (x + drop(ops::linear(&attended, &self.output, precision)?, 0)?)?;
        let h = self.feed_forward_norm.forward(&x)?;
        let h = ops::linear(&h, &self.up, precision)?.relu()?;
        x + drop(ops::linear(&h, &self.down, precision)?, 1)?
    }
}

/// A self-attentive sequential recommender over item ids.
///
/// `score(i | history) = norm(blocks(e + p))_last . e_i`: item embeddings `e`, which are also what states
/// are held against, and learnt positions `p`, counted from the end of the history as in the paper, where
/// padding stands on the left. Against the paper, norms stand before the branches and on the last state (as
/// in its successors), and the feed-forward may be wider than `dim`.
#[derive(Debug, Clone)]
pub struct SasRec {
    params: Params,
    sizes: SasRecSizes,
    precision: Precision,
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
    pub fn new(sizes: &SasRecSizes, seed: u64, dtype: DType, device: &Device) -> Result<Self> {
        let &SasRecSizes { num_items, dim, blocks, heads, history, .. } = sizes;
        if heads == 0 || !dim.is_multiple_of(heads) {
            bail!("sasrec: {heads} heads do not divide a width of {dim}");
        }
        let init = FirstValues { network: "sasrec", seed, dtype, device: device.clone() };
        let mut params = Params::new();
        let items = init.normal("items", (num_items, dim), STD)?;
        let positions = init.normal("positions", (history, dim), STD)?;
        Ok(Self {
            sizes: sizes.clone(),
            precision: Precision::Full,
            items: params.insert("items", &items)?,
            positions: params.insert("positions", &positions)?,
            blocks: (0..blocks)
                .map(|i| Block::new(i, sizes, &mut params, &init))
                .collect::<Result<_>>()?,
            norm: Norm::new("norm", dim, &mut params, &init)?,
            params,
        })
    }

    /// The same network with products of this precision.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The trainable parameters.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The item embeddings, (items, dim).
    pub fn items(&self) -> &Tensor {
        &self.items
    }

    /// The items it knows.
    pub fn num_items(&self) -> usize {
        self.sizes.num_items
    }

    /// The most items of a history that it reads.
    pub fn history(&self) -> usize {
        self.sizes.history
    }

    /// A deep copy of the parameters by name, for a file.
    pub fn weights(&self) -> Result<BTreeMap<String, Tensor>> {
        self.params.snapshot()
    }

    /// Takes over weights that [`SasRec::weights`] gave.
    ///
    /// # Errors
    /// Names a parameter that is missing or has another shape.
    pub fn set_weights(&self, weights: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, tensor) in self.params.tensors() {
            match weights.get(name) {
                Some(weight) if weight.dims() == tensor.dims() => self.params.set(name, weight)?,
                Some(weight) => {
                    bail!("{name} is {:?}, expected {:?}", weight.dims(), tensor.dims())
                }
                None => bail!("there is no weight {name}"),
            }
        }
        Ok(())
    }

    /// The state at every item of every history, (tokens, dim).
    ///
    /// # Errors
    /// A history that is empty or longer than there are positions, an unknown item.
    pub fn states(&self, histories: &[&[u32]], dropout: Option<SasRecDropout>) -> Result<Tensor> {
        let most = self.sizes.history;
        let lengths: Vec<usize> = histories.iter().map(|history| history.len()).collect();
        if let Some(length) = lengths.iter().find(|&&length| length == 0 || length > most) {
            bail!("sasrec: a history of {length} items, expected 1 to {most}");
        }
        let rows = Arc::new(Rows::packed(&lengths));
        let positions: Vec<u32> =
            lengths.iter().flat_map(|length| (most - length) as u32..most as u32).collect();
        let mut x = (ops::embedding(&self.items, &histories.concat())?
            + ops::embedding(&self.positions, &positions)?)?;
        if let Some(SasRecDropout { embedding: p, key, .. }) = dropout {
            x = Dropout { p, key }.site(0).apply(&x)?;
        }
        for (i, block) in self.blocks.iter().enumerate() {
            let sites = dropout.map(|SasRecDropout { branch: p, key, .. }| {
                let first = 1 + SITES * i as u64;
                [first, first + 1].map(|site| Dropout { p, key }.site(site))
            });
            x = block.forward(&x, self.sizes.heads, &rows, sites, self.precision)?;
        }
        self.norm.forward(&x)
    }

    /// The state after each history, (histories, dim), from the last items that there are positions for.
    /// Takes no part in the gradient.
    pub fn last_states(&self, histories: &[&[u32]]) -> Result<Tensor> {
        let cut = |history: &&'_ [u32]| history.len().saturating_sub(self.sizes.history);
        let histories: Vec<&[u32]> = histories.iter().map(|h| &h[cut(h)..]).collect();
        let mut end = 0;
        let mut last = Vec::with_capacity(histories.len());
        for history in &histories {
            end += history.len() as u32;
            last.push(end.saturating_sub(1));
        }
        ops::embedding(&self.states(&histories, None)?.detach(), &last)
    }

    /// The scores of all items after each history, (histories, items). Takes no part in the gradient.
    pub fn scores(&self, histories: &[&[u32]]) -> Result<Tensor> {
        ops::linear(&self.last_states(histories)?, &self.items.detach(), self.precision)
    }

    /// The negative log-likelihood of each target among all items, (n), from `states` (n, dim).
    pub fn losses(&self, states: &Tensor, targets: &[u32]) -> Result<Tensor> {
        ops::cross_entropy(states, &self.items, targets, self.precision)
    }

    /// The negative log-likelihood of each target among the candidates, (n), from `states` (n, dim).
    ///
    /// # Errors
    /// A target that is no candidate.
    pub fn sampled_losses(
        &self,
        states: &Tensor,
        targets: &[u32],
        candidates: &Candidates,
    ) -> Result<Tensor> {
        let Candidates { items, log_probabilities } = candidates;
        let mut places = Vec::with_capacity(targets.len());
        for target in targets {
            match items.binary_search(target) {
                Ok(place) => places.push(place as u32),
                Err(_) => bail!("sasrec: the target {target} is not among the candidates"),
            }
        }
        // What is taken from the scores stands as one more column, held against ones.
        let column = Tensor::from_slice(log_probabilities, (items.len(), 1), states.device())?;
        let column = column.to_dtype(states.dtype())?.neg()?;
        let weight = Tensor::cat(&[&ops::embedding(&self.items, items)?, &column], 1)?;
        let ones = Tensor::ones((states.dim(0)?, 1), states.dtype(), states.device())?;
        let states = Tensor::cat(&[states, &ones], 1)?;
        ops::cross_entropy(&states, &weight, &places, self.precision)
    }
}

#[cfg(test)]
mod tests;
