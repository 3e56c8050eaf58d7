//! The residual-quantised autoencoder behind `method = "rq-vae"` (RQ-VAE: Zeghidour et al., 2021; for
//! item codes TIGER, Rajput et al., 2023, and LC-Rec, Zheng et al., 2024).
//!
//! An encoder maps an item's vector to a small latent one; each level takes the nearest row of its own
//! codebook and hands on what is left; a decoder rebuilds the vector from the sum of the rows taken.
//!
//! Shapes: rows (items of a batch), input (of an item's vector), latent, k (rows of a codebook). Every
//! product is one of [`ops::linear`], whose sums are the same on any number of threads.

use candle_core::{DType, Device, Result, Tensor};

use super::init::FirstValues;
use crate::nn::Params;
use crate::ops::{self, Precision};

mod letter;

/// The sizes of an [`RqVae`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RqVaeSizes {
    /// Width of an item's vector.
    pub input: usize,
    /// Widths of the encoder's hidden layers; the decoder has them in reverse.
    pub hidden: Vec<usize>,
    /// Width of a latent vector and of a code's row.
    pub latent: usize,
    /// Rows of each codebook.
    pub k: usize,
    /// Codebooks.
    pub levels: usize,
}

/// `x Wᵀ + b`; W is (out, in), b (out, 1).
#[derive(Debug, Clone)]
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let ones = Tensor::ones((x.dim(0)?, 1), x.dtype(), x.device())?;
        ops::linear(x, &self.weight, Precision::Full)?
            + ops::linear(&ones, &self.bias, Precision::Full)?
    }
}

/// Linear layers with rectifiers between them.
#[derive(Debug, Clone)]
struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    /// First weights are normal with variance 2 / in (He et al., 2015), biases zero.
    fn new(
        name: &str,
        widths: &[usize],
        params: &mut Params,
        (seed, dtype): (u64, DType),
    ) -> Result<Self> {
        let init = FirstValues { network: "rq-vae", seed, dtype, device: Device::Cpu };
        let mut layers = Vec::new();
        for (i, pair) in widths.windows(2).enumerate() {
            let (inputs, outputs) = (pair[0], pair[1]);
            let name = format!("{name}.{i}");
            let weight = init.normal(&name, (outputs, inputs), (2.0 / inputs as f64).sqrt())?;
            let bias = Tensor::zeros((outputs, 1), dtype, &Device::Cpu)?;
            layers.push(Linear {
                weight: params.insert(format!("{name}.weight"), &weight)?,
                bias: params.insert(format!("{name}.bias"), &bias)?,
            });
        }
        Ok(Self { layers })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&if i == 0 { x } else { x.relu()? })?;
        }
        Ok(x)
    }
}

/// What became of a batch, and the parts of the loss, each a scalar tensor: means over elements, those of the codes
/// summed over levels.
#[derive(Debug, Clone)]
pub struct RqVaeLosses {
    /// The sum of the rows taken, (rows, latent), whose gradient goes to the encoder.
    pub quantized: Tensor,
    /// The code of every row, a level.
    pub codes: Vec<Vec<u32>>,
    /// Squared error of the rebuilt vectors.
    pub reconstruction: Tensor,
    /// Squared distance of the rows taken from what they stand for; moves the codebooks.
    pub codebook: Tensor,
    /// The same distance; moves the encoder.
    pub commitment: Tensor,
}

impl RqVaeLosses {
    /// The loss with the commitment weighed by `beta`.
    pub fn total(&self, beta: f64) -> Result<Tensor> {
        (&self.reconstruction + &self.codebook)? + (&self.commitment * beta)?
    }
}

/// A residual-quantised autoencoder, on the CPU.
#[derive(Debug, Clone)]
pub struct RqVae {
    params: Params,
    encoder: Mlp,
    decoder: Mlp,
    /// (k, latent) a level.
    codebooks: Vec<Tensor>,
}

impl RqVae {
    /// A network with fresh layers and zero codebooks, to be set by [`RqVae::set_codebook`]; `dtype` is
    /// f32 but for numeric checks.
    pub fn new(sizes: &RqVaeSizes, seed: u64, dtype: DType) -> Result<Self> {
        let mut widths = vec![sizes.input];
        widths.extend(&sizes.hidden);
        widths.push(sizes.latent);
        let mut params = Params::new();
        let encoder = Mlp::new("encoder", &widths, &mut params, (seed, dtype))?;
        widths.reverse();
        let decoder = Mlp::new("decoder", &widths, &mut params, (seed, dtype))?;
        let zeros = Tensor::zeros((sizes.k, sizes.latent), dtype, &Device::Cpu)?;
        let codebooks = (0..sizes.levels)
            .map(|level| params.insert(codebook_name(level), &zeros))
            .collect::<Result<_>>()?;
        Ok(Self { params, encoder, decoder, codebooks })
    }

    /// The trainable parameters.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The codebook of `level`, (k, latent).
    pub fn codebook(&self, level: usize) -> &Tensor {
        &self.codebooks[level]
    }

    /// Replaces the codebook of `level` by `rows`, (k, latent).
    pub fn set_codebook(&self, level: usize, rows: &Tensor) -> Result<()> {
        self.params.set(&codebook_name(level), rows)
    }

    /// (rows, input) -> (rows, latent)
    pub fn encode(&self, x: &Tensor) -> Result<Tensor> {
        self.encoder.forward(x)
    }

    /// The losses on `x`, (rows, input).
    ///
    /// No gradient passes through the choice of a code: the decoder's goes past it to the encoder as if
    /// nothing had been rounded (straight-through; van den Oord et al., 2017), the codebooks follow
    /// what they stand for, and the encoder is held to the rows taken, at every level.
    pub fn losses(&self, x: &Tensor) -> Result<RqVaeLosses> {
        let latent = self.encode(x)?;
        let mut residual = latent.clone();
        let zero = Tensor::zeros((), x.dtype(), x.device())?;
        let (mut codebook, mut commitment) = (zero.clone(), zero);
        let mut all_codes = Vec::new();
        for book in &self.codebooks {
            let codes = nearest(&residual.detach(), &book.detach())?;
            let rows = ops::embedding(book, &codes)?;
            all_codes.push(codes);
            codebook = (codebook + mean_squared(&rows, &residual.detach())?)?;
            commitment = (commitment + mean_squared(&residual, &rows.detach())?)?;
            residual = (residual - rows.detach())?;
        }
        let quantized = (&latent - residual.detach())?;
        let reconstruction = mean_squared(&self.decoder.forward(&quantized)?, x)?;
        Ok(RqVaeLosses { quantized, codes: all_codes, reconstruction, codebook, commitment })
    }
}

fn codebook_name(level: usize) -> String {
    format!("codebook.{level}")
}

fn mean_squared(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    (a - b)?.sqr()?.mean_all()
}

/// The nearest row of `book`, (k, latent), to each of `rows`, (rows, latent); the first among equals.
fn nearest(rows: &Tensor, book: &Tensor) -> Result<Vec<u32>> {
    // |r - c|^2 = |r|^2 + 2 (|c|^2 / 2 - r c), of which the first term does not matter.
    let half_norms = (book.sqr()?.sum(1)? / 2.0)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    let products = ops::linear(rows, book, Precision::Full)?.to_dtype(DType::F64)?;
    let (count, k) = products.dims2()?;
    let products = products.flatten_all()?.to_vec1::<f64>()?;
    let code = |products: &[f64]| {
        let distances = half_norms.iter().zip(products).map(|(norm, product)| norm - product);
        distances.zip(0u32..).min_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |(_, code)| code)
    };
    debug_assert_eq!(products.len(), count * k);
    Ok(products.chunks_exact(k).map(code).collect())
}

#[cfg(test)]
mod tests;
