//! A bias-free linear layer, alone or with a low-rank adapter (LoRA, Hu et al., 2021).

use candle_core::{DType, Result, Tensor};

use crate::ops::{self, Precision};

/// Dropout of one forward pass: its probability and the key of its mask.
///
/// Every site takes its own key with [`Dropout::site`], so masks are independent of each other and a
/// repeated forward pass (activation checkpointing, a resumed run) draws the same ones.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// Probability that an element is dropped.
    pub p: f64,
    /// Key of the mask: equal keys give equal masks.
    pub key: u64,
    /// Lines of the mask that come before those of this pass: they are of other passes, which take their parts of it.
    pub before: usize,
}

impl Dropout {
    /// The same dropout with a key of its own for `site`.
    #[must_use]
    pub fn site(self, site: u64) -> Self {
        let key = self.key ^ (site + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self { key, ..self }
    }

    /// The key of the mask of these lines, of `width` elements each.
    pub(crate) fn key_of(self, width: usize) -> u64 {
        ops::key_after(self.key, self.before * width)
    }

    /// Drops elements of `x`, (lines, ...).
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        let width = x.elem_count() / x.dims().first().copied().unwrap_or(1).max(1);
        ops::dropout(x, self.p, self.key_of(width))
    }
}

/// A low-rank update of a weight: `scale * B A`.
#[derive(Debug, Clone)]
pub struct Lora {
    /// (rank, in)
    pub a: Tensor,
    /// (out, rank)
    pub b: Tensor,
    /// `alpha / rank`
    pub scale: f64,
}

impl Lora {
    /// The dense update `scale * B A`, (out, in), in f32 whatever the factors are in.
    pub fn delta(&self) -> Result<Tensor> {
        self.b.to_dtype(DType::F32)?.matmul(&self.a.to_dtype(DType::F32)?)? * self.scale
    }
}

/// `y = x Wᵀ`, or `x Wᵀ + scale * dropout(x) Aᵀ Bᵀ` with an adapter.
#[derive(Debug, Clone)]
pub struct Linear {
    /// (out, in)
    pub weight: Tensor,
    /// The adapter, where one is on.
    pub lora: Option<Lora>,
}

impl Linear {
    /// A layer without adapter; `weight` is (out, in).
    pub fn new(weight: Tensor) -> Self {
        Self { weight, lora: None }
    }

    /// # Shapes
    /// - x: (tokens, in)
    /// - output: (tokens, out)
    ///
    /// `dropout` falls on the adapter's input only.
    pub fn forward(
        &self,
        x: &Tensor,
        dropout: Option<Dropout>,
        precision: Precision,
    ) -> Result<Tensor> {
        let Some(lora) = &self.lora else { return ops::linear(x, &self.weight, precision) };
        let dropout = match dropout {
            Some(dropout) => Some((dropout.p, dropout.key_of(x.dim(1)?))),
            None => None,
        };
        let low_rank = ops::LowRank { a: &lora.a, b: &lora.b, scale: lora.scale, dropout };
        ops::lora_linear(x, &self.weight, low_rank, precision)
    }
}
