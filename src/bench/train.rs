//! Whole optimiser steps on random tokens.

use candle_core::Device;
use serde::Serialize;

use super::Shape;
use crate::model::{Llama, LlamaConfig, LoraConfig, adapter};
use crate::nn::Params;
use crate::ops::{self, Precision};
use crate::tasks::Sample;
use crate::train::{Control, EpochReport, Observer, StageConfig, StepReport, Trainer};
use crate::{Result, invalid, rng};

/// What to time.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TrainBench {
    /// The backbone.
    pub shape: Shape,
    /// Its blocks, where they are not those of the shape.
    pub layers: Option<usize>,
    /// Whether products are rounded to bf16.
    pub bf16: bool,
    /// Rows of a step.
    pub batch: usize,
    /// Tokens of a row; the second half is predicted.
    pub seq: usize,
    /// Steps that are timed, after one that is not.
    pub steps: u64,
    /// Train adapters of rank 8 on every linear layer instead of the backbone.
    pub lora: bool,
    /// Keep only the input of every block for the backward pass.
    pub checkpointing: bool,
}

/// How fast training steps were.
#[derive(Debug, Clone, Serialize)]
pub struct TrainSpeed {
    /// What was timed.
    #[serde(flatten)]
    pub bench: TrainBench,
    /// Threads of the pool.
    pub threads: usize,
    /// Tokens a second, over all timed steps.
    pub tokens_per_s: f64,
    /// Milliseconds of the median step.
    pub ms_per_step: f64,
    /// Floating-point operations a second in the matrix products that a step needs.
    pub gflops: f64,
    /// The same for single products of the model's shapes, the fastest found.
    pub ceiling_gflops: f64,
    /// Their ratio.
    pub share_of_ceiling: f64,
    /// The peak memory expected before the start.
    pub predicted_memory_bytes: Option<u64>,
}

/// Times whole optimiser steps (forward, loss, backward, clipping, AdamW) on random tokens.
pub fn train(bench: TrainBench, seed: u64, device: &Device) -> Result<TrainSpeed> {
    if bench.batch == 0 || bench.seq < 2 || bench.steps == 0 {
        invalid!("a benchmark needs --batch and --steps of at least 1 and --seq of at least 2");
    }
    let precision = if bench.bf16 { Precision::Bf16 } else { Precision::Full };
    let llama = bench.shape.config(bench.layers);
    let mut weights = super::weights(&llama, seed, device)?;
    let mut params = Params::new();
    let model = if bench.lora {
        let adapters =
            adapter::create(&llama, &weights, &LoraConfig::default(), seed, &mut params)?;
        Llama::with_lora(&llama, &weights, &adapters)?
    } else {
        for (name, weight) in &mut weights {
            *weight = params.insert(name.clone(), weight)?;
        }
        Llama::new(&llama, &weights)?
    };
    drop(weights);
    let model = model.with_precision(precision);
    let config = StageConfig {
        epochs: bench.steps + 1,
        batch: bench.batch,
        checkpointing: bench.checkpointing,
        ..StageConfig::default()
    };
    let trainer = Trainer::new(&config, seed, &model, &params);
    let mut times = Times::default();
    let samples = |epoch| Ok(random_samples(bench, llama.vocab_size, seed, epoch));
    let outcome = trainer.run(&samples, None, &mut times)?;

    let mut seconds = times.0.split_off(1);
    let total: f64 = seconds.iter().sum();
    seconds.sort_by(f64::total_cmp);
    let tokens = bench.batch * bench.seq;
    let gflops = step_flops(bench, &llama) * seconds.len() as f64 / total / 1e9;
    let ceiling_gflops = ceiling(&llama, tokens, precision, device)? / 1e9;
    Ok(TrainSpeed {
        bench,
        threads: rayon::current_num_threads(),
        tokens_per_s: (tokens * seconds.len()) as f64 / total,
        ms_per_step: 1e3 * seconds[seconds.len() / 2],
        gflops,
        ceiling_gflops,
        share_of_ceiling: gflops / ceiling_gflops,
        predicted_memory_bytes: outcome.memory.map(|memory| memory.total()),
    })
}

/// Rows of random tokens, of which the second half is predicted.
fn random_samples(bench: TrainBench, vocab: usize, seed: u64, epoch: u64) -> Vec<Sample> {
    let mut stream = rng::stream(seed, "bench tokens", &[epoch]);
    let row = |_| {
        let token = |_| (rng::uniform(&mut stream) * vocab as f64) as u32;
        let ids: Vec<u32> = (0..bench.seq).map(token).collect();
        let labels = (bench.seq / 2..bench.seq).map(|at| (at as u32 - 1, ids[at])).collect();
        Sample { positions: (0..bench.seq as u32).collect(), labels, ids, ..Sample::default() }
    };
    (0..bench.batch).map(row).collect()
}

/// The operations of the products a step cannot do without: forward, the gradient of every input and of
/// every trained weight. What is computed twice counts once.
fn step_flops(bench: TrainBench, llama: &LlamaConfig) -> f64 {
    let tokens = bench.batch * bench.seq;
    let labels = bench.batch * (bench.seq - bench.seq / 2);
    let head = llama.vocab_size * llama.hidden_size;
    let linear = tokens * super::linear_weights(llama) + labels * head;
    let pairs = bench.batch * bench.seq * (bench.seq + 1) / 2;
    let width = llama.num_attention_heads * llama.head_dim;
    let attention = llama.num_hidden_layers * pairs * width * 2;
    let passes = if bench.lora { 2 } else { 3 };
    2.0 * (passes * linear + 3 * attention) as f64
}

/// The fastest product among those of the model's linear layers.
pub(super) fn ceiling(
    llama: &LlamaConfig,
    tokens: usize,
    precision: Precision,
    device: &Device,
) -> Result<f64> {
    let (hidden, ffn) = (llama.hidden_size, llama.intermediate_size);
    let mut most = 0.0f64;
    for (out, inner) in [(hidden, hidden), (ffn, hidden), (hidden, ffn)] {
        most = most.max(ops::matmul_flops(tokens, out, inner, precision, device)?);
    }
    Ok(most)
}

/// Seconds of every step.
#[derive(Default)]
struct Times(Vec<f64>);

impl Observer for Times {
    fn on_step(&mut self, report: &StepReport) -> Result<Control> {
        self.0.push(report.tokens as f64 / report.tokens_per_s);
        Ok(Control::Continue)
    }

    fn on_epoch(&mut self, _report: &EpochReport) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_every_row_is_predicted() {
        let bench = TrainBench {
            shape: Shape::Tiny,
            layers: None,
            bf16: false,
            batch: 3,
            seq: 7,
            steps: 1,
            lora: false,
            checkpointing: false,
        };
        let samples = random_samples(bench, 10, 1, 0);
        assert_eq!(samples.len(), 3);
        for sample in samples {
            let expected: Vec<(u32, u32)> =
                (3..7).map(|at| (at - 1, sample.ids[at as usize])).collect();
            assert_eq!(sample.labels, expected);
            assert!(sample.ids.iter().all(|&id| id < 10));
        }
    }
}
