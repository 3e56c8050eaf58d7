//! How much memory training takes, before it does.

use serde::Serialize;

use super::trainer::Trainer;
use crate::model::Inner;
use crate::nn::MomentType;
use crate::ops::slices;
use crate::tasks::Sample;

/// Bytes that a training run holds at its peak, by what they are for. Validation and saving a state come on
/// top where they take more than a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The model's weights, adapters included.
    pub weights: u64,
    /// Gradients of what is trained.
    pub gradients: u64,
    /// Both moments of what is trained, and its moving average.
    pub moments: u64,
    /// What the forward pass keeps for the backward pass.
    pub kept: u64,
    /// Buffers of the pass at work, logits, rewritten operands, and what a teacher says.
    pub working: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.moments + self.kept + self.working
    }
}

/// Bytes of an f32.
const FULL: u64 = 4;
/// Bytes of a bf16.
const HALF: u64 = 2;

impl Trainer<'_> {
    /// Bytes of disk that the states of a run take at most: the last two and the one being written, and as many best
    /// epochs.
    pub(super) fn state_bytes(&self) -> u64 {
        let values: u64 = self.params.tensors().map(|(_, t)| t.elem_count() as u64).sum();
        let average = self.average_bytes();
        let moments = 2 * self.moment_bytes() * self.params.num_trained() as u64;
        3 * (FULL * values + moments + average) + 3 * FULL * values
    }

    /// Bytes of one value of a moment.
    fn moment_bytes(&self) -> u64 {
        match self.config.adamw.moments {
            MomentType::F32 => FULL,
            MomentType::Bf16 => HALF,
        }
    }

    /// What a step over the largest micro-batch of `samples` takes, of a GPU's memory where it runs on one; none for a
    /// pass by candle's graph on the CPU, which is there to be compared with.
    pub fn memory(&self, samples: &[Sample]) -> Option<Memory> {
        let inner = self.model.pass_by_hand();
        if inner.is_none() && !self.model.device().is_cuda() {
            return None;
        }
        let micro = self.config.micro_batch.unwrap_or(self.config.batch).max(1);
        let batches = samples.chunks(self.config.batch).flat_map(|batch| batch.chunks(micro));
        let size = |samples: &[Sample]| {
            // Of several ranks each takes its part.
            let own = self.ranks.part_of(samples.iter().map(|s| s.ids.len()));
            let samples = &samples[own];
            let tokens: usize = samples.iter().map(|s| s.ids.len()).sum();
            let rows: usize = samples.iter().map(|s| s.labels.len() + s.contrast.len()).sum();
            let recommended = samples.iter().filter(|s| s.recommends);
            let targets: usize = recommended.map(|s| s.items.len() - s.first_target).sum();
            (tokens as u64, rows as u64, targets)
        };
        let (tokens, rows, targets) = batches.map(size).max().unwrap_or_default();
        let memory = match inner {
            Some(inner) => self.memory_of(inner, tokens, rows),
            None => self.memory_of_graph(tokens, rows),
        };
        let taught = self.teacher.map_or(0, |teacher| teacher.bytes(targets));
        Some(Memory { working: memory.working + taught, ..memory })
    }

    /// Bytes of the moving average, which has every row of what is trained in part.
    fn average_bytes(&self) -> u64 {
        let values = self.params.tensors().map(|(_, t)| t.elem_count() as u64);
        if self.config.ema > 0.0 { FULL * values.sum::<u64>() } else { 0 }
    }

    /// The widths of the stream, the feed-forward, all queries and all keys of a token, and the number of blocks.
    fn sizes(&self) -> [u64; 5] {
        let config = self.model.config();
        let heads = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
        [hidden, ffn, heads, kv, config.num_hidden_layers].map(|size| size as u64)
    }

    /// Of a pass by candle's graph over fused operations: it keeps what each of them gives, in f32.
    fn memory_of_graph(&self, tokens: u64, rows: u64) -> Memory {
        let config = self.model.config();
        let trained = self.params.num_trained() as u64;
        let [hidden, ffn, heads, kv, layers] = self.sizes();
        // Two norms, two branches and two sums; dropped branches.
        let streams = if self.config.dropout > 0.0 { 8 } else { 6 };
        let block = streams * hidden + 3 * heads + 3 * kv + 3 * ffn;
        let (each, again) = if self.config.checkpointing { (hidden, block) } else { (block, 0) };
        // The embedded tokens and the last norm; what the loss reads.
        let kept = (layers * each + 2 * hidden) * tokens + hidden * rows;
        // With shifts, shares, log-probabilities and their products, where more than targets is told.
        let told = self.teacher.is_some() || config.repeat_bias.is_some();
        let logits = if told { 5 } else { 1 } * rows * config.vocab_size as u64;
        // Gradients of a block's widest values and of the stream.
        let working = (3 * ffn + 3 * hidden + again) * tokens + logits;
        Memory {
            weights: self.model.weight_bytes(),
            gradients: FULL * trained,
            moments: 2 * FULL * trained + self.average_bytes(),
            kept: FULL * kept,
            working: FULL * working,
        }
    }

    fn memory_of(&self, inner: Inner, tokens: u64, rows: u64) -> Memory {
        let config = self.model.config();
        let inner = match inner {
            Inner::Full => FULL,
            Inner::Half => HALF,
        };
        let trained = self.params.num_trained() as u64;
        let [hidden, ffn, heads, kv, layers] = self.sizes();
        // Of a token in a block: the residual stream before it, and what lies inside.
        let (outer, inside) =
            (FULL * hidden, inner * (2 * heads + 2 * kv + 2 * ffn) + FULL * hidden);
        let block = outer + inside;
        let (kept, again) = if self.config.checkpointing { (outer, inside) } else { (block, 0) };
        // At work in a block: two residual gradients, a norm, an activation and its gradient.
        let at_work = 2 * FULL * hidden + inner * (hidden + 2 * ffn) + again;
        // Rewritten operands in bf16: the gradient and the input of a layer.
        let rewritten = if inner == HALF { HALF * (hidden + ffn) } else { 0 };
        let logits = slices::logit_bytes(rows as usize, config.vocab_size) as u64;
        Memory {
            weights: self.model.weight_bytes(),
            gradients: FULL * trained,
            moments: 2 * self.moment_bytes() * trained / self.ranks.size() as u64
                + self.average_bytes(),
            kept: layers * kept * tokens,
            working: (at_work + rewritten) * tokens + 4 * FULL * hidden * rows + logits,
        }
    }
}
