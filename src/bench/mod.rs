//! Benchmarks of the engines on random input, with the shapes that other frameworks are measured on.

mod embed;
mod generate;
mod kmeans;
mod train;

use candle_core::{Device, Tensor};
use serde::Serialize;

use crate::Result;
use crate::model::{LlamaConfig, Weights, init};

pub use embed::{EmbedBench, EmbedSpeed, embed};
pub use generate::{GenerateBench, GenerateSpeed, generate};
pub use kmeans::{KMeansBench, KMeansSpeed, kmeans};
pub use train::{TrainBench, TrainSpeed, train};

/// The shape of a backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Vocabulary 4096, hidden 256, feed-forward 688, 6 layers of 4 heads, untied: 6.8 M parameters.
    Tiny,
    /// SmolLM2-135M with 1,024 item tokens.
    SmolLm2,
    /// Llama-7B with 1,024 item tokens.
    Llama7b,
}

impl Shape {
    /// The configuration of a model of this shape, with its number of blocks or another.
    pub(crate) fn config(self, layers: Option<usize>) -> LlamaConfig {
        let config = match self {
            Self::Tiny => LlamaConfig {
                vocab_size: 4096,
                hidden_size: 256,
                intermediate_size: 688,
                num_hidden_layers: 6,
                num_attention_heads: 4,
                num_key_value_heads: 4,
                head_dim: 64,
                tie_word_embeddings: false,
                ..LlamaConfig::tiny_test()
            },
            Self::SmolLm2 => LlamaConfig {
                vocab_size: 49152 + 1024,
                hidden_size: 576,
                intermediate_size: 1536,
                num_hidden_layers: 30,
                num_attention_heads: 9,
                num_key_value_heads: 3,
                head_dim: 64,
                tie_word_embeddings: true,
                ..LlamaConfig::tiny_test()
            },
            Self::Llama7b => LlamaConfig {
                vocab_size: 32_000 + 1024,
                hidden_size: 4096,
                intermediate_size: 11_008,
                num_hidden_layers: 32,
                num_attention_heads: 32,
                num_key_value_heads: 32,
                head_dim: 128,
                tie_word_embeddings: false,
                ..LlamaConfig::tiny_test()
            },
        };
        LlamaConfig { num_hidden_layers: layers.unwrap_or(config.num_hidden_layers), ..config }
    }
}

/// The weights of all blocks' linear layers: a token is multiplied by each once.
fn linear_weights(llama: &LlamaConfig) -> usize {
    let (hidden, ffn, dim) = (llama.hidden_size, llama.intermediate_size, llama.head_dim);
    let (heads, kv_heads) = (llama.num_attention_heads, llama.num_key_value_heads);
    let block = hidden * dim * (2 * heads + 2 * kv_heads) + 3 * hidden * ffn;
    llama.num_hidden_layers * block
}

/// Weights of a model that nothing but its speed is asked of: drawn by the device where that is a GPU, as a processor
/// takes minutes to draw those of 7B.
#[expect(clippy::disallowed_methods, reason = "a device's generator is seeded here")]
fn weights(config: &LlamaConfig, seed: u64, device: &Device) -> Result<Weights> {
    if !device.is_cuda() {
        return init::scratch(config, seed, device);
    }
    device.set_seed(seed)?;
    let draw = |(name, dims): (String, Vec<usize>)| {
        let drawn = match dims.len() {
            1 => Tensor::ones(dims, candle_core::DType::F32, device),
            _ => Tensor::randn(0.0f32, 0.02, dims, device),
        };
        Ok((name, drawn?))
    };
    config.tensor_shapes().into_iter().map(draw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_their_sizes() {
        let parameters = |shape: Shape| {
            let shapes = shape.config(None).tensor_shapes();
            shapes.values().map(|dims| dims.iter().product::<usize>()).sum::<usize>()
        };
        assert_eq!(parameters(Shape::Tiny), 6_843_648);
        assert_eq!(parameters(Shape::SmolLm2), 135_104_832);
        assert_eq!(parameters(Shape::Llama7b), 6_746_804_224);
    }
}
