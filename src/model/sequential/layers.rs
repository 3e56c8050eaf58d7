//! What the networks are made of.

use candle_core::{D, DType, Device, Result, Tensor};

use super::{Core, Items, TrainingConfig};
use crate::model::init::FirstValues;
use crate::nn::{Dropout, Params};
use crate::ops::{self, Precision};

/// Added to the variance in a normalisation.
const EPS: f64 = 1e-5;
/// Standard deviation of the first values of embeddings, and of matrices of attention.
pub(super) const STD: f64 = 0.02;

/// Registers parameters with their first values, drawn from streams of their names.
#[derive(Debug)]
pub(super) struct Builder {
    params: Params,
    init: FirstValues,
}

impl Builder {
    pub(super) fn new(network: &'static str, seed: u64, dtype: DType, device: &Device) -> Self {
        let init = FirstValues { network, seed, dtype, device: device.clone() };
        Self { params: Params::new(), init }
    }

    /// Normal draws.
    pub(super) fn normal(&mut self, name: &str, shape: (usize, usize), std: f64) -> Result<Tensor> {
        self.params.insert(name, &self.init.normal(name, shape, std)?)
    }

    /// A matrix (out, in) that keeps the variance of what goes through it (Glorot and Bengio, 2010).
    pub(super) fn matrix(&mut self, name: &str, shape: (usize, usize)) -> Result<Tensor> {
        self.normal(name, shape, (2.0 / (shape.0 + shape.1) as f64).sqrt())
    }

    /// The same number everywhere, (n).
    pub(super) fn constant(&mut self, name: &str, n: usize, value: f64) -> Result<Tensor> {
        let ones = Tensor::ones(n, self.init.dtype, &self.init.device)?;
        self.params.insert(name, &(ones * value)?)
    }

    /// A linear layer with a bias, (out, in).
    pub(super) fn affine(&mut self, name: &str, shape: (usize, usize)) -> Result<Affine> {
        Ok(Affine {
            weight: self.matrix(&format!("{name}.weight"), shape)?,
            bias: self.constant(&format!("{name}.bias"), shape.0, 0.0)?,
        })
    }

    pub(super) fn norm(&mut self, name: &str, width: usize) -> Result<Norm> {
        Ok(Norm {
            weight: self.constant(&format!("{name}.weight"), width, 1.0)?,
            bias: self.constant(&format!("{name}.bias"), width, 0.0)?,
        })
    }

    /// All that was registered.
    pub(super) fn params(self) -> Params {
        self.params
    }

    /// What the network has in common with all others, when all its parameters are registered.
    pub(super) fn core(self, items: Items, history: usize, training: &TrainingConfig) -> Core {
        Core { params: self.params, items, history, precision: training.precision }
    }
}

/// `x Wᵀ + b`
#[derive(Debug, Clone)]
pub(super) struct Affine {
    /// (out, in)
    pub(super) weight: Tensor,
    /// (out)
    pub(super) bias: Tensor,
}

impl Affine {
    /// (rows, in) -> (rows, out)
    pub(super) fn forward(&self, x: &Tensor, precision: Precision) -> Result<Tensor> {
        ops::add_at_places(&ops::linear(x, &self.weight, precision)?, &self.bias)
    }
}

/// Layer normalisation.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    /// (rows, width) -> (rows, width)
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, EPS)
    }
}

/// The dropout masks of a training pass.
#[derive(Debug, Clone, Copy)]
pub struct Masks {
    /// Equal keys give equal masks.
    pub key: u64,
    /// Items that come before those of this pass: they are of other passes, which take their parts of the masks.
    pub before: usize,
}

impl Masks {
    /// Those of a pass over everything.
    pub fn whole(key: u64) -> Self {
        Self { key, before: 0 }
    }
}

/// The dropout of a pass; none outside training.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drops(pub(super) Option<Masks>);

impl Drops {
    /// Drops elements of `x` with probability `p`, by a mask of the place's own.
    pub(super) fn at(self, site: u64, p: f64, x: Tensor) -> Result<Tensor> {
        match self.mask(site, p) {
            Some(mask) => mask.apply(&x),
            None => Ok(x),
        }
    }

    /// The mask of the place.
    pub(super) fn mask(self, site: u64, p: f64) -> Option<Dropout> {
        self.0.map(|Masks { key, before }| Dropout { p, key, before }.site(site))
    }
}

/// The softmax over the last dimension.
pub(super) fn softmax(x: &Tensor) -> Result<Tensor> {
    let powers = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)
}
