//! What LETTER (Wang et al., 2024) adds to the loss of an RQ-VAE: codes that agree with who takes what, and codebooks
//! whose rows are used alike.

use candle_core::{D, Result, Tensor};

use super::{RqVae, RqVaeLosses};
use crate::ops::{self, Precision};

/// What takes a code's own row out of the choice.
const OUT: f64 = -1e9;

impl RqVaeLosses {
    /// Collaborative regularisation: how badly an item is told from the others of the batch by the inner product of
    /// its quantised vector with their behavior embeddings, (rows, latent), a mean cross-entropy. The gradient goes
    /// past the rounding to the encoder.
    pub fn alignment(&self, behavior: &Tensor) -> Result<Tensor> {
        let own: Vec<u32> = (0..behavior.dim(0)? as u32).collect();
        cross_entropy(&ops::linear(&self.quantized, behavior, Precision::Full)?, &own)
    }
}

impl RqVae {
    /// Diversity regularisation: a mean over items and levels of how badly the row taken finds another of its own
    /// cluster of the codebook, by inner products with all rows but itself. `kin` has that other code of each item,
    /// a level. It spreads the rows of a cluster no further than its neighbours, and so items over codes.
    pub fn diversity(&self, codes: &[Vec<u32>], kin: &[Vec<u32>]) -> Result<Tensor> {
        let mut levels = Vec::new();
        for ((book, codes), kin) in self.codebooks.iter().zip(codes).zip(kin) {
            let rows = ops::embedding(book, codes)?;
            let logits = ops::linear(&rows, book, Precision::Full)?;
            let k = book.dim(0)?;
            let mut own = vec![0f32; codes.len() * k];
            for (row, &code) in codes.iter().enumerate() {
                own[row * k + code as usize] = OUT as f32;
            }
            let own = Tensor::from_vec(own, (codes.len(), k), book.device())?;
            levels.push(cross_entropy(&(logits + own.to_dtype(book.dtype())?)?, kin)?);
        }
        Tensor::stack(&levels, 0)?.mean_all()
    }
}

/// Mean cross-entropy of `targets` under the softmax over each row of `logits`, (rows, choices).
fn cross_entropy(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    // The largest, which keeps exponentials finite, is a constant: the loss does not depend on it.
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(D::Minus1)?)?;
    let total = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    (total - shifted.gather(&targets, 1)?)?.mean_all()
}
