//! The network behind the behavior embedding: a Deep Interest Network (Zhou et al., 2018).
//!
//! A sample asks whether a user with a given history goes on to a candidate item, the query. A
//! local activation unit weighs every history item, the key, against the query; the weighted sum of
//! keys is the user's interest in this query, from which a small head predicts one logit.
//!
//! Shapes: samples, positions (history items of all samples in a row), dim (of an item
//! embedding), width (of a hidden layer). Histories are packed: a batch holds real positions only,
//! so that padding can neither cost time nor enter the statistics of a normalisation.
//!
//! Sums over rows and copies of a row are matrix products with a vector of ones: candle's own
//! reduction over a leading axis is many times slower, and is the backward of its broadcast.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, bail};

use super::init::FirstValues;
use crate::nn::Params;
use crate::ops;
use crate::ranks::Ranks;

/// Share of the last batch in the running statistics.
const MOMENTUM: f64 = 0.1;
/// Added to a variance before its root.
const EPS: f64 = 1e-5;
/// Standard deviation of the first embeddings: small, so that what an item's few samples teach soon
/// outweighs where it happened to start.
const EMBEDDING_STD: f64 = 0.03;

/// The sizes of a [`Din`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DinSizes {
    /// Rows of the embedding table.
    pub num_items: usize,
    /// Width of an item embedding.
    pub dim: usize,
    /// Widths of the hidden layers of the local activation unit.
    pub attention: Vec<usize>,
    /// Widths of the hidden layers of the head.
    pub mlp: Vec<usize>,
}

/// Samples with their histories packed one after the other.
#[derive(Debug, Clone)]
pub struct DinBatch {
    /// The candidate item of every sample, (samples).
    queries: Tensor,
    /// The history items of all samples, (positions).
    keys: Tensor,
    /// The sample each position belongs to, (positions).
    segments: Tensor,
}

impl DinBatch {
    /// Packs pairs of a history (not empty) and a candidate item.
    pub fn new<'a>(
        samples: impl IntoIterator<Item = (&'a [u32], u32)>,
        device: &Device,
    ) -> Result<Self> {
        let (mut queries, mut keys, mut segments) = (Vec::new(), Vec::new(), Vec::new());
        for (history, query) in samples {
            if history.is_empty() {
                bail!("a sample of the behavior encoder needs a history of at least one item");
            }
            keys.extend_from_slice(history);
            segments.resize(keys.len(), queries.len() as u32);
            queries.push(query);
        }
        Ok(Self {
            queries: Tensor::new(queries, device)?,
            keys: Tensor::new(keys, device)?,
            segments: Tensor::new(segments, device)?,
        })
    }
}

/// Mean binary cross-entropy of `logits` against `labels` in {0, 1}, both (samples).
///
/// `ln(1 + exp(x)) - x y`: no logit overflows, where candle-nn's takes the logarithm of a sigmoid that has already
/// rounded to 0 or 1.
pub fn binary_cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    (ops::softplus(logits)? - (logits * labels)?)?.mean_all()
}

/// A column of ones, (rows, 1).
fn ones(rows: usize, like: &Tensor) -> Result<Tensor> {
    Tensor::ones((rows, 1), like.dtype(), like.device())
}

/// Copies a `row` of (width) or (1, width) into every row of (rows, width).
fn spread(row: &Tensor, rows: usize) -> Result<Tensor> {
    ones(rows, row)?.matmul(&row.reshape((1, row.elem_count()))?)
}

/// Mean and (biased) variance of every feature, (1, width) each.
#[derive(Debug, Clone)]
struct Moments {
    mean: Tensor,
    variance: Tensor,
}

/// Where a normalisation takes its moments from.
enum Statistics<'a> {
    /// The running ones.
    Running,
    /// The batch, of which each rank has a part; collected in the order of the layers.
    Batch { ranks: &'a dyn Ranks, collected: Vec<Moments> },
}

/// The sum over all ranks of what each has, (1, width), the same on each. So is the sum of its gradients: the loss of
/// each rank depends on what all have.
#[derive(Clone)]
struct SumOverRanks(Arc<dyn Ranks>);

impl SumOverRanks {
    fn of(ranks: &dyn Ranks, own: Tensor) -> Result<Tensor> {
        if ranks.is_alone() { Ok(own) } else { own.apply_op1(Self(ranks.shared())) }
    }
}

impl CustomOp1 for SumOverRanks {
    fn name(&self) -> &'static str {
        "sum-over-ranks"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets())
        else {
            bail!("contiguous f32 tensors are summed over ranks");
        };
        let mut sum = values[start..end].to_vec();
        self.0.sum(&mut sum);
        Ok((CpuStorage::F32(sum), layout.shape().clone()))
    }

    fn bwd(&self, _own: &Tensor, _sum: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        grad.contiguous()?.apply_op1(self.clone()).map(Some)
    }
}

/// Batch normalisation without an affine part: `(x - mean) / sqrt(variance + eps)`.
#[derive(Debug, Clone)]
struct BatchNorm {
    name: String,
    running: Moments,
}

impl BatchNorm {
    fn new(name: String, width: usize, init: &FirstValues) -> Result<Self> {
        let zeros = Tensor::zeros((1, width), init.dtype, &init.device)?;
        let running = Moments { variance: zeros.ones_like()?, mean: zeros };
        Ok(Self { name, running })
    }

    /// (rows, width) -> (rows, width)
    fn forward(&self, x: &Tensor, statistics: &mut Statistics<'_>) -> Result<Tensor> {
        let rows = x.dim(0)?;
        let Statistics::Batch { ranks, collected } = statistics else {
            let scale = (&self.running.variance + EPS)?.sqrt()?.recip()?;
            return x.broadcast_sub(&self.running.mean)?.broadcast_mul(&scale);
        };
        let average = (ones(rows, x)?.t()? / ranks.sums(&[rows as f64])[0])?;
        let mean = SumOverRanks::of(*ranks, average.matmul(x)?)?;
        let centered = (x - spread(&mean, rows)?)?;
        let variance = SumOverRanks::of(*ranks, average.matmul(&centered.sqr()?)?)?;
        let scale = (&variance + EPS)?.sqrt()?.recip()?;
        collected.push(Moments { mean: mean.detach(), variance: variance.detach() });
        centered * spread(&scale, rows)?
    }
}

/// The data-adaptive activation of the DIN paper (section 5.3):
/// `f(s) = p s + (1 - p) alpha s` with `p = sigmoid((s - mean) / sqrt(variance + eps))`.
#[derive(Debug, Clone)]
struct Dice {
    norm: BatchNorm,
    alpha: Tensor,
}

impl Dice {
    fn forward(&self, s: &Tensor, statistics: &mut Statistics<'_>) -> Result<Tensor> {
        let gated = (ops::sigmoid(&self.norm.forward(s, statistics)?)? * s)?;
        &gated + ((s - &gated)? * spread(&self.alpha, s.dim(0)?)?)?
    }
}

/// `x W + b`, with W (inputs, outputs).
#[derive(Debug, Clone)]
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.weight)? + spread(&self.bias, x.dim(0)?)?
    }
}

/// Linear layers with Dice between them; the last has one output.
#[derive(Debug, Clone)]
struct Mlp {
    layers: Vec<Linear>,
    activations: Vec<Dice>,
}

impl Mlp {
    fn new(
        name: &str,
        inputs: usize,
        hidden: &[usize],
        params: &mut Params,
        init: &FirstValues,
    ) -> Result<Self> {
        let (mut layers, mut activations, mut inputs) = (Vec::new(), Vec::new(), inputs);
        for (i, &width) in hidden.iter().chain([&1]).enumerate() {
            let std = (2.0 / (inputs + width) as f64).sqrt();
            let weight = init.normal(&format!("{name}.{i}.weight"), (inputs, width), std)?;
            let bias = Tensor::zeros(width, init.dtype, &init.device)?;
            layers.push(Linear {
                weight: params.insert(format!("{name}.{i}.weight"), &weight)?,
                bias: params.insert(format!("{name}.{i}.bias"), &bias)?,
            });
            if i < hidden.len() {
                activations.push(Dice {
                    norm: BatchNorm::new(format!("{name}.{i}.dice"), width, init)?,
                    alpha: params.insert(format!("{name}.{i}.dice.alpha"), &bias)?,
                });
            }
            inputs = width;
        }
        Ok(Self { layers, activations })
    }

    /// What follows the product with the first layer's weight: (rows, width) -> (rows, 1).
    fn after_first_product(&self, x: &Tensor, statistics: &mut Statistics<'_>) -> Result<Tensor> {
        let mut x = (x + spread(&self.layers[0].bias, x.dim(0)?)?)?;
        for (dice, linear) in self.activations.iter().zip(&self.layers[1..]) {
            x = linear.forward(&dice.forward(&x, statistics)?)?;
        }
        Ok(x)
    }
}

/// A Deep Interest Network over item ids.
///
/// `logit = mlp(norm([u, q, u * q])) + b_q`, with q the query's embedding, `b_q` its bias and the
/// interest `u = sum_j a(q, k_j) k_j` over the history, where the local activation unit `a` is
/// an MLP on `[q, k, q - k, q * k]` whose outputs no softmax normalises (section 4.3 of the paper).
///
/// The paper's head sees `[u, q]` alone. The product is ours: with it, items that follow each other are
/// more often neighbours by cosine, which is what the embeddings are for. The bias, which takes up an
/// item's popularity so that its embedding need not, is ours too; no gain of it was measured.
#[derive(Debug, Clone)]
pub struct Din {
    params: Params,
    dim: usize,
    embeddings: Tensor,
    item_bias: Tensor,
    attention: Mlp,
    norm: BatchNorm,
    mlp: Mlp,
}

impl Din {
    /// A fresh network; `dtype` is f32 but for numeric checks.
    pub fn new(sizes: &DinSizes, seed: u64, dtype: DType, device: &Device) -> Result<Self> {
        let &DinSizes { num_items, dim, .. } = sizes;
        let init = FirstValues { network: "din", seed, dtype, device: device.clone() };
        let mut params = Params::new();
        let embeddings = init.normal("embeddings", (num_items, dim), EMBEDDING_STD)?;
        let din = Self {
            dim,
            embeddings: params.insert("embeddings", &embeddings)?,
            item_bias: params.insert("item-bias", &Tensor::zeros(num_items, dtype, device)?)?,
            attention: Mlp::new("attention", 4 * dim, &sizes.attention, &mut params, &init)?,
            norm: BatchNorm::new("mlp.input".into(), 3 * dim, &init)?,
            mlp: Mlp::new("mlp", 3 * dim, &sizes.mlp, &mut params, &init)?,
            params,
        };
        // Interest starts as the sum of the keys rather than as noise of either sign.
        let last = sizes.attention.len();
        din.params.set(&format!("attention.{last}.bias"), &Tensor::ones(1, dtype, device)?)?;
        Ok(din)
    }

    /// The trainable parameters.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The embedding table, (items, dim).
    pub fn embeddings(&self) -> &Tensor {
        &self.embeddings
    }

    /// Logits (samples) under the running statistics.
    pub fn forward(&self, batch: &DinBatch) -> Result<Tensor> {
        self.logits(batch, &mut Statistics::Running)
    }

    /// Logits (samples) under the statistics of the batch, of which this is the part of one of `ranks`; they enter the
    /// running ones.
    pub fn forward_train(&mut self, batch: &DinBatch, ranks: &dyn Ranks) -> Result<Tensor> {
        let mut statistics = Statistics::Batch { ranks, collected: Vec::new() };
        let logits = self.logits(batch, &mut statistics)?;
        if let Statistics::Batch { collected, .. } = statistics {
            for (norm, batch) in self.norms_mut().into_iter().zip(collected) {
                let mix = |old: &Tensor, new: Tensor| (old * (1.0 - MOMENTUM))? + (new * MOMENTUM)?;
                norm.running.mean = mix(&norm.running.mean, batch.mean)?;
                norm.running.variance = mix(&norm.running.variance, batch.variance)?;
            }
        }
        Ok(logits)
    }

    /// A deep copy of parameters and running statistics by name, for a file.
    pub fn weights(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut weights = self.params.snapshot()?;
        for norm in self.norms() {
            weights.insert(format!("{}.running-mean", norm.name), norm.running.mean.clone());
            weights
                .insert(format!("{}.running-variance", norm.name), norm.running.variance.clone());
        }
        Ok(weights)
    }

    /// Takes over weights that [`Din::weights`] gave.
    ///
    /// # Errors
    /// Names a parameter or statistic that is missing or has another shape.
    pub fn set_weights(&mut self, weights: &BTreeMap<String, Tensor>) -> Result<()> {
        self.params.restore(weights)?;
        let found = |name: &str, old: &Tensor| match weights.get(name) {
            Some(weight) if weight.dims() == old.dims() => Ok(weight),
            Some(weight) => bail!("{name} is {:?}, expected {:?}", weight.dims(), old.dims()),
            None => bail!("there is no weight {name}"),
        };
        for norm in self.norms_mut() {
            let running = &mut norm.running;
            let name = |what| format!("{}.running-{what}", norm.name);
            running.mean = found(&name("mean"), &running.mean)?.clone();
            running.variance = found(&name("variance"), &running.variance)?.clone();
        }
        Ok(())
    }

    /// The normalisations in the order in which a forward pass meets them.
    fn norms(&self) -> Vec<&BatchNorm> {
        let attention = self.attention.activations.iter().map(|d| &d.norm);
        let mlp = self.mlp.activations.iter().map(|d| &d.norm);
        attention.chain([&self.norm]).chain(mlp).collect()
    }

    fn norms_mut(&mut self) -> Vec<&mut BatchNorm> {
        let attention = self.attention.activations.iter_mut().map(|d| &mut d.norm);
        let mlp = self.mlp.activations.iter_mut().map(|d| &mut d.norm);
        attention.chain([&mut self.norm]).chain(mlp).collect()
    }

    fn logits(&self, batch: &DinBatch, statistics: &mut Statistics<'_>) -> Result<Tensor> {
        let query = self.embeddings.index_select(&batch.queries, 0)?;
        let keys = self.embeddings.index_select(&batch.keys, 0)?;
        let weights = self.activation_unit(&query, &keys, &batch.segments, statistics)?;
        // (positions, dim) -> (samples, dim)
        let interest =
            query.zeros_like()?.index_add(&batch.segments, &keys.broadcast_mul(&weights)?, 0)?;
        let features = Tensor::cat(&[&interest, &query, &(&interest * &query)?], 1)?;
        let features = self.norm.forward(&features, statistics)?;
        let features = features.matmul(&self.mlp.layers[0].weight)?;
        let logits = self.mlp.after_first_product(&features, statistics)?.squeeze(1)?;
        logits + self.item_bias.index_select(&batch.queries, 0)?
    }

    /// The weight of every position, (positions, 1), from `query` (samples, dim) and `keys` (positions, dim).
    ///
    /// With the first layer's weight split by input block, `[q, k, q - k, q * k] W` is
    /// `q (W1 + W3) + k (W2 - W3) + (q * k) W4`, whose first term is computed once a sample.
    fn activation_unit(
        &self,
        query: &Tensor,
        keys: &Tensor,
        segments: &Tensor,
        statistics: &mut Statistics<'_>,
    ) -> Result<Tensor> {
        let block = |i| self.attention.layers[0].weight.narrow(0, i * self.dim, self.dim);
        let (of_query, of_key) = ((block(0)? + block(2)?)?, (block(1)? - block(2)?)?);
        let product = (query.index_select(segments, 0)? * keys)?;
        let hidden = (query.matmul(&of_query)?.index_select(segments, 0)?
            + (keys.matmul(&of_key)? + product.matmul(&block(3)?)?)?)?;
        self.attention.after_first_product(&hidden, statistics)
    }
}

#[cfg(test)]
mod tests;
