//! First values of weights: a backbone from scratch, and rows for new tokens.

use candle_core::{DType, Device, Tensor};

use super::llama::{EMBEDDING, HEAD, LINEAR_NAMES, linear_name};
use super::{LlamaConfig, Weights};
use crate::{Result, invalid, rng};

/// Standard deviation of a fresh matrix, as Hugging Face's `initializer_range`.
const STD: f64 = 0.02;

/// Weights of an untrained backbone: matrices normal with standard deviation 0.02, those that write
/// to the residual stream scaled by `1 / sqrt(2 layers)` (Radford et al., 2019), norms one.
pub fn scratch(config: &LlamaConfig, seed: u64, device: &Device) -> Result<Weights> {
    let mut weights = Weights::new();
    let hidden = config.hidden_size;
    let (q, kv) = (
        config.num_attention_heads * config.head_dim,
        config.num_key_value_heads * config.head_dim,
    );
    let ffn = config.intermediate_size;
    let mut matrix = |name: String, rows: usize, columns: usize, std: f64| -> Result<()> {
        let draws = rng::normal(&mut rng::stream(seed, &name, &[]), rows * columns, std);
        weights.insert(name, Tensor::from_vec(draws, (rows, columns), device)?);
        Ok(())
    };
    matrix(EMBEDDING.into(), config.vocab_size, hidden, STD)?;
    if !config.tie_word_embeddings {
        matrix(HEAD.into(), config.vocab_size, hidden, STD)?;
    }
    let residual_std = STD / (2.0 * config.num_hidden_layers as f64).sqrt();
    for layer in 0..config.num_hidden_layers {
        let shapes = [
            (q, hidden, STD),
            (kv, hidden, STD),
            (kv, hidden, STD),
            (hidden, q, residual_std),
            (ffn, hidden, STD),
            (ffn, hidden, STD),
            (hidden, ffn, residual_std),
        ];
        for (name, (rows, columns, std)) in LINEAR_NAMES.into_iter().zip(shapes) {
            matrix(format!("{}.weight", linear_name(layer, name)), rows, columns, std)?;
        }
    }
    let ones = Tensor::ones(hidden, DType::F32, device)?;
    for layer in 0..config.num_hidden_layers {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            weights.insert(format!("model.layers.{layer}.{norm}.weight"), ones.clone());
        }
    }
    weights.insert("model.norm.weight".into(), ones);
    Ok(weights)
}

/// Gives the vocabulary `new` more rows from row `first` on, in the embedding and in an untied head:
/// the mean of the rows before `first` plus noise of their own spread.
///
/// Rows a padded checkpoint already has from `first` on are drawn anew.
pub fn resize(
    config: &mut LlamaConfig,
    weights: &mut Weights,
    first: usize,
    new: usize,
    seed: u64,
) -> Result<()> {
    let total = config.vocab_size.max(first + new);
    let names = if config.tie_word_embeddings { vec![EMBEDDING] } else { vec![EMBEDDING, HEAD] };
    for name in names {
        let Some(old) = weights.get(name) else {
            invalid!("the checkpoint lacks the tensor {name}");
        };
        if first > old.dim(0)? {
            invalid!(
                "the tokenizer has {first} tokens, but {name} has only {} rows: they do not belong \
                 together",
                old.dim(0)?
            );
        }
        let hidden = old.dim(1)?;
        let known = old.narrow(0, 0, first)?.to_dtype(DType::F32)?;
        let mean = known.mean_keepdim(0)?;
        let std =
            f64::from(known.broadcast_sub(&mean)?.sqr()?.mean_all()?.to_scalar::<f32>()?).sqrt();
        let rows = total - first;
        let noise = rng::normal(&mut rng::stream(seed, "new rows", &[]), rows * hidden, std);
        let noise = Tensor::from_vec(noise, (rows, hidden), old.device())?;
        let fresh = noise.broadcast_add(&mean)?.to_dtype(old.dtype())?;
        let resized = Tensor::cat(&[&old.narrow(0, 0, first)?, &fresh], 0)?;
        weights.insert(name.into(), resized);
    }
    config.vocab_size = total;
    Ok(())
}
