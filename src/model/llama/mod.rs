//! The backbone: a Llama (Touvron et al., 2023) that can be trained, packed and cached.
//!
//! Shapes: hidden states are packed, `(tokens, hidden)`: the rows of a batch one after another, with
//! no padding; `heads`, `kv_heads` and `head_dim` as in the configuration; `keys` counts the tokens
//! of the cache and of this call together. Field names are those of Hugging Face checkpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::LlamaConfig;
use super::weights::Weights;

pub use super::weights::{EMBEDDING, HEAD};
use crate::nn::{Dropout, Linear, Lora};
use crate::ops::{self, Precision, Rows};

mod backprop;
mod cache;
mod checkpointed;
mod inference;
mod pass;

pub(crate) use backprop::Backprop;
pub use cache::KvCache;
pub(crate) use checkpointed::Checkpointed;
pub(crate) use pass::Pools;

/// The tokens of one forward pass.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Token ids, row after row.
    pub ids: Vec<u32>,
    /// Position of each token in its sequence.
    pub positions: Vec<u32>,
    /// Which keys each row sees.
    pub rows: Arc<Rows>,
}

impl Packed {
    /// Whole sequences, which see nothing but themselves.
    pub fn sequences(sequences: &[&[u32]]) -> Self {
        let lengths: Vec<usize> = sequences.iter().map(|ids| ids.len()).collect();
        Self {
            ids: sequences.concat(),
            positions: lengths.iter().flat_map(|&n| 0..n as u32).collect(),
            rows: Arc::new(Rows::packed(&lengths)),
        }
    }
}

/// What the inner values of a block are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inner {
    /// f32.
    Full,
    /// bf16, where products round to it anyway.
    Half,
}

/// Grouped-query causal self-attention with rotary positions.
#[derive(Debug, Clone)]
#[allow(clippy::struct_field_names, reason = "the names of the checkpoint's tensors")]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
}

/// `down(silu(gate(x)) * up(x))`.
#[derive(Debug, Clone)]
#[allow(clippy::struct_field_names, reason = "the names of the checkpoint's tensors")]
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

#[derive(Debug, Clone)]
struct Layer {
    input_layernorm: Tensor,
    self_attn: Attention,
    post_attention_layernorm: Tensor,
    mlp: Mlp,
}

impl Layer {
    /// In the order of [`LINEAR_NAMES`].
    fn linears(&self) -> [&Linear; 7] {
        let (attn, mlp) = (&self.self_attn, &self.mlp);
        let [q, k, v, o] = [&attn.q_proj, &attn.k_proj, &attn.v_proj, &attn.o_proj];
        [q, k, v, o, &mlp.gate_proj, &mlp.up_proj, &mlp.down_proj]
    }
}

/// The linear layers of a block, by their checkpoint name.
pub const LINEAR_NAMES: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// The full name of linear layer `name` in block `layer`, without `.weight`.
pub fn linear_name(layer: usize, name: &str) -> String {
    format!("model.layers.{layer}.{name}")
}

/// A Llama; tensors that are trained are shared with a [`crate::nn::Params`].
#[derive(Debug, Clone)]
pub struct Llama {
    config: LlamaConfig,
    embed_tokens: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    lm_head: Tensor,
    inverse_frequencies: Vec<f64>,
    precision: Precision,
}

impl Llama {
    /// A model over `weights`, by their checkpoint names.
    pub fn new(config: &LlamaConfig, weights: &Weights) -> Result<Self> {
        Self::with_lora(config, weights, &BTreeMap::new())
    }

    /// As [`Llama::new`], with adapters by layer name (see [`linear_name`]).
    pub fn with_lora(
        config: &LlamaConfig,
        weights: &Weights,
        adapters: &BTreeMap<String, Lora>,
    ) -> Result<Self> {
        let get = |name: &str| match weights.get(name) {
            Some(t) => Ok(t.clone()),
            None => bail!("the checkpoint lacks the tensor {name}"),
        };
        let layers = (0..config.num_hidden_layers)
            .map(|i| {
                let norm = |name: &str| get(&format!("model.layers.{i}.{name}.weight"));
                let linear = |name: &str| {
                    let name = linear_name(i, name);
                    let weight = get(&format!("{name}.weight"))?;
                    Ok::<_, candle_core::Error>(Linear {
                        weight,
                        lora: adapters.get(&name).cloned(),
                    })
                };
                let [q, k, v, o, gate, up, down] = LINEAR_NAMES.map(linear);
                Ok(Layer {
                    input_layernorm: norm("input_layernorm")?,
                    self_attn: Attention { q_proj: q?, k_proj: k?, v_proj: v?, o_proj: o? },
                    post_attention_layernorm: norm("post_attention_layernorm")?,
                    mlp: Mlp { gate_proj: gate?, up_proj: up?, down_proj: down? },
                })
            })
            .collect::<Result<_>>()?;
        let embed_tokens = get(EMBEDDING)?;
        let lm_head = if config.tie_word_embeddings { embed_tokens.clone() } else { get(HEAD)? };
        Ok(Self {
            config: config.clone(),
            embed_tokens,
            layers,
            norm: get("model.norm.weight")?,
            lm_head,
            inverse_frequencies: config.inverse_frequencies(),
            precision: Precision::Full,
        })
    }

    /// Multiplies in `precision` from now on; the weights stay as they are.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// What a pass by hand keeps its inner values in; none where such a pass cannot serve the model.
    pub(crate) fn pass_by_hand(&self) -> Option<Inner> {
        let serves = ops::slices::serve(&[&self.embed_tokens, &self.lm_head]);
        let inner = if self.precision.takes_effect() { Inner::Half } else { Inner::Full };
        serves.then_some(inner)
    }

    /// What matrix products are multiplied in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The same weights, out of reach of any gradient: a pass over it keeps no graph, however long what
    /// it computed lives on in a cache.
    #[must_use]
    pub fn frozen(&self) -> Self {
        let linear = |l: &Linear| Linear {
            weight: l.weight.detach(),
            lora: l.lora.as_ref().map(|l| Lora { a: l.a.detach(), b: l.b.detach(), ..*l }),
        };
        let layer = |layer: &Layer| Layer {
            input_layernorm: layer.input_layernorm.detach(),
            self_attn: Attention {
                q_proj: linear(&layer.self_attn.q_proj),
                k_proj: linear(&layer.self_attn.k_proj),
                v_proj: linear(&layer.self_attn.v_proj),
                o_proj: linear(&layer.self_attn.o_proj),
            },
            post_attention_layernorm: layer.post_attention_layernorm.detach(),
            mlp: Mlp {
                gate_proj: linear(&layer.mlp.gate_proj),
                up_proj: linear(&layer.mlp.up_proj),
                down_proj: linear(&layer.mlp.down_proj),
            },
        };
        Self {
            config: self.config.clone(),
            embed_tokens: self.embed_tokens.detach(),
            layers: self.layers.iter().map(layer).collect(),
            norm: self.norm.detach(),
            lm_head: self.lm_head.detach(),
            inverse_frequencies: self.inverse_frequencies.clone(),
            precision: self.precision,
        }
    }

    /// Bytes of all weights, adapters included.
    pub(crate) fn weight_bytes(&self) -> u64 {
        let bytes = |t: &Tensor| (t.elem_count() * t.dtype().size_in_bytes()) as u64;
        let linear = |l: &Linear| {
            bytes(&l.weight) + l.lora.as_ref().map_or(0, |l| bytes(&l.a) + bytes(&l.b))
        };
        let layer = |layer: &Layer| {
            layer.linears().map(linear).iter().sum::<u64>()
                + bytes(&layer.input_layernorm)
                + bytes(&layer.post_attention_layernorm)
        };
        let head = if self.is_tied() { 0 } else { bytes(&self.lm_head) };
        let layers: u64 = self.layers.iter().map(layer).sum();
        bytes(&self.embed_tokens) + layers + bytes(&self.norm) + head
    }

    /// Whether the output head is the embedding.
    fn is_tied(&self) -> bool {
        self.lm_head.id() == self.embed_tokens.id()
    }

    /// The configuration.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The device the weights are on.
    pub fn device(&self) -> &Device {
        self.embed_tokens.device()
    }

    /// The output head, (vocab, hidden); the embedding itself where they are tied.
    pub fn lm_head(&self) -> &Tensor {
        &self.lm_head
    }

    /// Final hidden states after the last norm, (tokens, hidden).
    ///
    /// With a `cache` the new keys are appended to it, and `input.rows` speaks of keys in the cache
    /// (first) and of this call (after them). `dropout` falls on the embeddings, on the output of every
    /// residual branch (`residual`) and on the input of every adapter (`lora`).
    pub fn hidden(
        &self,
        input: &Packed,
        mut cache: Option<&mut KvCache>,
        dropout: DropoutPair,
    ) -> Result<Tensor> {
        let angles = self.rotations(&input.positions)?;
        let mut x = self.embedded(&input.ids, dropout)?;
        for i in 0..self.layers.len() {
            x = self.block(i, &x, &angles, &input.rows, cache.as_deref_mut(), dropout)?;
        }
        self.normed(&x)
    }

    /// The residual stream before the first block, (tokens, hidden).
    fn embedded(&self, ids: &[u32], dropout: DropoutPair) -> Result<Tensor> {
        drop(&ops::embedding(&self.embed_tokens, ids)?, dropout.residual, 0)
    }

    /// The residual stream `x` behind block `i`, (tokens, hidden); `angles` are [`Llama::rotations`].
    fn block(
        &self,
        i: usize,
        x: &Tensor,
        angles: &[Tensor; 2],
        rows: &Arc<Rows>,
        cache: Option<&mut KvCache>,
        dropout: DropoutPair,
    ) -> Result<Tensor> {
        let Layer { input_layernorm, self_attn, post_attention_layernorm, mlp } = &self.layers[i];
        let (eps, precision) = (self.config.rms_norm_eps, self.precision);
        let site = 16 * i as u64 + 1;
        let branch = DropoutPair {
            residual: site_of(dropout.residual, site),
            lora: site_of(dropout.lora, site),
        };
        let h = ops::rms_norm(x, input_layernorm, eps)?;
        let (q, k, v) = self.project(self_attn, &h, angles, branch.lora)?;
        let (k, v) = match cache {
            Some(cache) => cache.append(i, k, v)?,
            None => (k, v),
        };
        let h = ops::attention(&q, &k, &v, rows)?;
        let h = self_attn.o_proj.forward(&h, site_of(branch.lora, 3), precision)?;
        let x = (x + drop(&h, branch.residual, 0)?)?;
        let h = ops::rms_norm(&x, post_attention_layernorm, eps)?;
        let gate = mlp.gate_proj.forward(&h, site_of(branch.lora, 4), precision)?;
        let up = mlp.up_proj.forward(&h, site_of(branch.lora, 5), precision)?;
        let h = ops::swiglu(&gate, &up)?;
        let h = mlp.down_proj.forward(&h, site_of(branch.lora, 6), precision)?;
        x + drop(&h, branch.residual, 1)?
    }

    /// Final hidden states of the residual stream behind the last block, (tokens, hidden).
    fn normed(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.norm, self.config.rms_norm_eps)
    }

    /// Rotated queries (tokens, heads, `head_dim`) and keys, and values (tokens, `kv_heads`, `head_dim`).
    fn project(
        &self,
        attn: &Attention,
        h: &Tensor,
        [cos, sin]: &[Tensor; 2],
        dropout: Option<Dropout>,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let (tokens, _hidden) = h.dims2()?;
        let head_dim = self.config.head_dim;
        let (heads, kv_heads) = (self.config.num_attention_heads, self.config.num_key_value_heads);
        // (tokens, heads * head_dim) -> (tokens, heads, head_dim)
        let q = attn
            .q_proj
            .forward(h, site_of(dropout, 0), self.precision)?
            .reshape((tokens, heads, head_dim))?;
        let k = attn
            .k_proj
            .forward(h, site_of(dropout, 1), self.precision)?
            .reshape((tokens, kv_heads, head_dim))?;
        let v = attn
            .v_proj
            .forward(h, site_of(dropout, 2), self.precision)?
            .reshape((tokens, kv_heads, head_dim))?;
        Ok((ops::rope(&q, cos, sin)?, ops::rope(&k, cos, sin)?, v))
    }

    /// Cosines and sines of every token's rotation, (tokens, `head_dim` / 2) each.
    fn rotations(&self, positions: &[u32]) -> Result<[Tensor; 2]> {
        let shape = (positions.len(), self.inverse_frequencies.len());
        let [cos, sin] = self.angles(positions).map(|data| {
            Tensor::from_vec(data, shape, &Device::Cpu)?
                .to_dtype(self.activation_dtype())?
                .to_device(self.device())
        });
        Ok([cos?, sin?])
    }

    /// Cosines and sines as [`Llama::rotations`] has them.
    fn angles(&self, positions: &[u32]) -> [Vec<f64>; 2] {
        // Rows of a batch stand at the same few positions.
        let mut distinct = positions.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let half = self.inverse_frequencies.len();
        let of_position = |&position: &u32| {
            self.inverse_frequencies.iter().map(move |frequency| f64::from(position) * frequency)
        };
        let angles: Vec<f64> = distinct.iter().flat_map(of_position).collect();
        [f64::cos as fn(f64) -> f64, f64::sin].map(|of| {
            let table: Vec<f64> = angles.iter().map(|&angle| of(angle)).collect();
            let of_token = |position: &u32| {
                let at = distinct.partition_point(|other| other < position);
                &table[at * half..][..half]
            };
            positions.iter().flat_map(of_token).copied().collect()
        })
    }

    fn activation_dtype(&self) -> DType {
        self.embed_tokens.dtype()
    }
}

/// The dropouts of one training pass; none at inference.
#[derive(Debug, Clone, Copy, Default)]
pub struct DropoutPair {
    /// On embeddings and residual branches.
    pub residual: Option<Dropout>,
    /// On the inputs of adapters.
    pub lora: Option<Dropout>,
}

fn site_of(dropout: Option<Dropout>, site: u64) -> Option<Dropout> {
    dropout.map(|d| d.site(site))
}

fn drop(x: &Tensor, dropout: Option<Dropout>, site: u64) -> Result<Tensor> {
    match dropout {
        Some(d) => d.site(site).apply(x),
        None => Ok(x.clone()),
    }
}
