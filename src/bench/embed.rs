//! Hidden states of random texts, as z^s is computed from them.

use std::time::Instant;

use candle_core::Device;
use serde::Serialize;

use super::Shape;
use crate::embed::TOKENS_PER_PASS;
use crate::model::{KvCache, Llama, Packed};
use crate::ops::Precision;
use crate::{Result, invalid, rng};

/// What to time.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct EmbedBench {
    /// The backbone.
    pub shape: Shape,
    /// Its blocks, where they are not those of the shape.
    pub layers: Option<usize>,
    /// Whether products are rounded to bf16.
    pub bf16: bool,
    /// Tokens of a text, of which as many are packed into a pass as it has room for.
    pub seq: usize,
    /// Passes that are timed, after one that is not.
    pub passes: usize,
}

/// How fast texts were embedded.
#[derive(Debug, Clone, Serialize)]
pub struct EmbedSpeed {
    /// What was timed.
    #[serde(flatten)]
    pub bench: EmbedBench,
    /// Threads of the pool.
    pub threads: usize,
    /// Tokens a second, over all timed passes.
    pub tokens_per_s: f64,
    /// Floating-point operations a second in the linear layers.
    pub gflops: f64,
    /// The same for single products of the model's shapes, the fastest found.
    pub ceiling_gflops: f64,
}

/// Times passes of a frozen model over random texts, to the states that are read.
pub fn embed(bench: EmbedBench, seed: u64, device: &Device) -> Result<EmbedSpeed> {
    if bench.seq == 0 || bench.seq > TOKENS_PER_PASS || bench.passes == 0 {
        invalid!("--seq must be 1 to {TOKENS_PER_PASS} and --passes at least 1");
    }
    let precision = if bench.bf16 { Precision::Bf16 } else { Precision::Full };
    let config = bench.shape.config(bench.layers);
    let model = Llama::new(&config, &super::weights(&config, seed, device)?)?;
    let model = model.with_precision(precision);
    let texts = TOKENS_PER_PASS / bench.seq;
    let tokens = texts * bench.seq;
    let every: Vec<u32> = (0..tokens as u32).collect();
    let mut stream = rng::stream(seed, "bench texts", &[]);
    let mut cache = KvCache::new();
    let mut seconds = Vec::new();
    for _ in 0..=bench.passes {
        let draw = |_| (rng::uniform(&mut stream) * config.vocab_size as f64) as u32;
        let ids: Vec<u32> = (0..tokens).map(draw).collect();
        let rows: Vec<&[u32]> = ids.chunks(bench.seq).collect();
        let start = Instant::now();
        cache.truncate(0)?;
        let states = model.infer(&Packed::sequences(&rows), Some(&mut cache), &every)?;
        states.flatten_all()?.to_vec1::<f32>()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let total: f64 = seconds[1..].iter().sum();
    let tokens_per_s = (tokens * bench.passes) as f64 / total;
    let operations = 2.0 * super::linear_weights(&config) as f64;
    Ok(EmbedSpeed {
        bench,
        threads: rayon::current_num_threads(),
        tokens_per_s,
        gflops: operations * tokens_per_s / 1e9,
        ceiling_gflops: super::train::ceiling(&config, tokens, precision, device)? / 1e9,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_fill_a_pass_and_what_does_not_fit_is_refused() {
        let bench =
            EmbedBench { shape: Shape::Tiny, layers: Some(1), bf16: false, seq: 2048, passes: 1 };
        let speed = embed(bench, 1, &Device::Cpu).unwrap();
        assert!(speed.tokens_per_s > 0.0 && speed.gflops > 0.0);
        for wrong in [EmbedBench { seq: 5000, ..bench }, EmbedBench { passes: 0, ..bench }] {
            assert!(embed(wrong, 1, &Device::Cpu).unwrap_err().to_string().contains("--seq"));
        }
    }
}
