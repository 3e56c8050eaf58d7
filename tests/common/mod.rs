//! A tiny shop and model, shared by the integration tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub(crate) mod program;

use candle_core::{Device, Tensor};
use llmbs::model::{DropoutPair, Llama, LlamaConfig, Packed, Weights, init};

pub(crate) fn config() -> LlamaConfig {
    LlamaConfig { vocab_size: 128, tie_word_embeddings: false, ..LlamaConfig::tiny_test() }
}

/// Weights far enough from zero that a mistake shows.
pub(crate) fn weights(config: &LlamaConfig) -> Weights {
    let weights = init::scratch(config, 3, &Device::Cpu).unwrap();
    let spread = |(name, w): (String, Tensor)| {
        let w = if name.contains("norm") { w } else { (w * 6.0).unwrap() };
        (name, w)
    };
    weights.into_iter().map(spread).collect()
}

pub(crate) fn model() -> Llama {
    let config = config();
    Llama::new(&config, &weights(&config)).unwrap()
}

pub(crate) fn packed(rows: &[&[u32]]) -> Packed {
    Packed::sequences(rows)
}

pub(crate) fn hidden(model: &Llama, rows: &[&[u32]]) -> Vec<Vec<f32>> {
    model.hidden(&packed(rows), None, DropoutPair::default()).unwrap().to_vec2().unwrap()
}

pub(crate) fn assert_close(a: &[Vec<f32>], b: &[Vec<f32>], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert_eq!(x.len(), y.len());
        for (x, y) in x.iter().zip(y) {
            assert!((x - y).abs() <= tolerance * (1.0 + y.abs()), "row {i}: {x} against {y}");
        }
    }
}
