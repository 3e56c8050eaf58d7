//! First values of weights: a backbone from scratch, and rows for new tokens.

use candle_core::{DType, Device, Tensor};

use super::llama::{EMBEDDING, HEAD};
use super::{LlamaConfig, Weights};
use crate::{Result, invalid, rng};

/// Standard deviation of a fresh matrix, as Hugging Face's `initializer_range`.
const STD: f64 = 0.02;

/// Draws the first values of a small network's parameters.
#[derive(Debug, Clone)]
pub(super) struct FirstValues {
    /// Names the streams, with the parameter.
    pub(super) network: &'static str,
    pub(super) seed: u64,
    pub(super) dtype: DType,
    pub(super) device: Device,
}

impl FirstValues {
    /// Normal draws from the stream of the parameter's own name, (rows, columns).
    pub(super) fn normal(
        &self,
        name: &str,
        shape: (usize, usize),
        std: f64,
    ) -> candle_core::Result<Tensor> {
        let purpose = format!("{}-init-{name}", self.network);
        let values =
            rng::normal(&mut rng::stream(self.seed, &purpose, &[]), shape.0 * shape.1, std);
        Tensor::from_vec(values, shape, &self.device)?.to_dtype(self.dtype)
    }
}

/// Weights of an untrained backbone: matrices normal with standard deviation 0.02, those that write
/// to the residual stream scaled by `1 / sqrt(2 layers)` (Radford et al., 2019), norms one.
pub fn scratch(config: &LlamaConfig, seed: u64, device: &Device) -> Result<Weights> {
    let residual = STD / (2.0 * config.num_hidden_layers as f64).sqrt();
    let first = |(name, shape): (String, Vec<usize>)| {
        let value = if let [rows, columns] = shape[..] {
            let writes =
                ["o_proj.weight", "down_proj.weight"].iter().any(|end| name.ends_with(end));
            let std = if writes { residual } else { STD };
            let draws = rng::normal(&mut rng::stream(seed, &name, &[]), rows * columns, std);
            Tensor::from_vec(draws, (rows, columns), device)?
        } else {
            Tensor::ones(shape, DType::F32, device)?
        };
        Ok((name, value))
    };
    config.tensor_shapes().into_iter().map(first).collect()
}

/// Gives the vocabulary `new` rows from row `first` on, in the embedding and in an untied head: the mean
/// of the rows before `first` plus noise of their own spread.
///
/// All other rows stay, those of a padded checkpoint behind the new ones too. Where the checkpoint ends
/// before `first` (its tokenizer has a padding token without a row, say), the rows between are drawn as well.
pub fn resize(
    config: &mut LlamaConfig,
    weights: &mut Weights,
    first: usize,
    new: usize,
    seed: u64,
) -> Result<()> {
    let end = first + new;
    // The tensors that have a row for each token.
    let names = if config.tie_word_embeddings { vec![EMBEDDING] } else { vec![EMBEDDING, HEAD] };
    for name in names {
        let Some(old) = weights.get(name) else {
            invalid!("the checkpoint lacks the tensor {name}");
        };
        let (rows, hidden) = old.dims2()?;
        let known = old.narrow(0, 0, first.min(rows))?;
        let (mean, std) = center_and_spread(&known)?;
        let drawn = end - first.min(rows);
        let noise = rng::normal(&mut rng::stream(seed, "new rows", &[]), drawn * hidden, std);
        let noise = Tensor::from_vec(noise, (drawn, hidden), old.device())?;
        let fresh = noise.broadcast_add(&mean)?.to_dtype(old.dtype())?;
        let mut parts = vec![known, fresh];
        if rows > end {
            parts.push(old.narrow(0, end, rows - end)?);
        }
        weights.insert(name.into(), Tensor::cat(&parts, 0)?);
    }
    config.vocab_size = config.vocab_size.max(end);
    Ok(())
}

/// The mean of some rows, (1, hidden), and the standard deviation of their values from it, in f32.
fn center_and_spread(rows: &Tensor) -> Result<(Tensor, f64)> {
    let rows = rows.to_dtype(DType::F32)?;
    let mean = rows.mean_keepdim(0)?;
    let variance = rows.broadcast_sub(&mean)?.sqr()?.mean_all()?.to_scalar::<f32>()?;
    Ok((mean, f64::from(variance).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_of_items_are_drawn_and_known_rows_stay() {
        let config = LlamaConfig { tie_word_embeddings: false, ..LlamaConfig::tiny_test() };
        let weights = scratch(&config, 5, &Device::Cpu).unwrap();
        let rows = |weights: &Weights, name: &str| weights[name].to_vec2::<f32>().unwrap();
        // The tokenizer ends with the model, before it (padding), and behind it (an id without a row).
        for (first, new) in [(64, 5), (50, 5), (62, 5), (66, 5)] {
            let (mut grown, mut resized) = (config.clone(), weights.clone());
            resize(&mut grown, &mut resized, first, new, 5).unwrap();
            assert_eq!(grown.vocab_size, 64.max(first + new));
            for name in [EMBEDDING, HEAD] {
                let (old, found) = (rows(&weights, name), rows(&resized, name));
                assert_eq!(found.len(), grown.vocab_size);
                for (row, values) in found.iter().enumerate() {
                    let is_item = (first..first + new).contains(&row);
                    let kept = old.get(row) == Some(values);
                    assert_eq!(kept, row < 64 && !is_item, "{name}: row {row} of {first}");
                }
            }
        }
    }
}
