//! Passes that no gradient follows: hidden states over a cache, and log-probabilities.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, bail};
use half::bf16;

use super::cache::Cached;
use super::pass::{Lines, Pass, gather};
use super::{DropoutPair, Inner, KvCache, Layer, Llama, Packed};
use crate::ops;
use crate::ops::slices::{self, Update};

/// Logits held at a time where probabilities are normalised over more tokens than are asked for.
const LOGITS: usize = 1 << 22;

impl Llama {
    /// Final hidden states of the tokens `rows` alone, (rows, hidden), with no graph behind them.
    ///
    /// `input` and `cache` as [`Llama::hidden`] has them. On the CPU by hand, over the weights as they are;
    /// the last block then runs from the first token of each row that is asked for.
    pub fn infer(
        &self,
        input: &Packed,
        cache: Option<&mut KvCache>,
        rows: &[u32],
    ) -> Result<Tensor> {
        let mut fresh = KvCache::new();
        let cache = cache.unwrap_or(&mut fresh);
        match self.pass_by_hand() {
            Some(Inner::Full) => self.infer_by_hand::<f32>(input, cache, rows),
            Some(Inner::Half) => self.infer_by_hand::<bf16>(input, cache, rows),
            // CUDA has no tensor without elements.
            None if rows.is_empty() || input.ids.is_empty() => {
                if !input.ids.is_empty() {
                    self.frozen().hidden(input, Some(cache), DropoutPair::default())?;
                }
                Tensor::zeros((0, self.config.hidden_size), self.activation_dtype(), &Device::Cpu)
            }
            None => {
                let hidden = self.frozen().hidden(input, Some(cache), DropoutPair::default())?;
                hidden.index_select(&Tensor::new(rows, hidden.device())?, 0)
            }
        }
    }

    fn infer_by_hand<A: Cached>(
        &self,
        input: &Packed,
        cache: &mut KvCache,
        rows: &[u32],
    ) -> Result<Tensor> {
        let cached = A::of(cache)?;
        let seen = cached.len + input.ids.len();
        input.rows.check(input.ids.len(), seen)?;
        cached.layers.resize_with(self.layers.len(), Default::default);
        let pass = Pass { model: self, dropout: DropoutPair::default(), pools: &cached.pools };
        let all = Lines::all(self, input);
        let some = all.needed(rows);
        let width = self.config.hidden_size;
        let mut stream = pass.embedded(&input.ids)?;
        for (i, (layer, kept)) in self.layers.iter().zip(&mut cached.layers).enumerate() {
            let last = i + 1 == self.layers.len();
            let lines = some.as_ref().filter(|_| last).unwrap_or(&all);
            let h = pass.normed(&stream, &layer.input_layernorm)?;
            pass.extend(&all, layer, &h, kept)?;
            if let Some(gathered) = lines.gather(&pass.pools.wide, &stream, width) {
                stream = gathered;
            }
            let gathered = lines.gather(&pass.pools.narrow, &h, width);
            let h = gathered.as_deref().unwrap_or(&h);
            pass.run(lines, layer, h, kept, &mut stream)?;
        }
        let lines = some.as_ref().unwrap_or(&all);
        let places: Vec<u32> = rows.iter().map(|&row| lines.place_of(row)).collect();
        let mut chosen = pass.pools.wide.take(rows.len() * width);
        gather(&mut chosen, &stream, width, &places);
        let mut states = vec![0.0f32; chosen.len()];
        slices::rms_norm(&mut states, &chosen, &self.norm, self.config.rms_norm_eps)?;
        drop((stream, chosen));
        cached.len = seen;
        Tensor::from_vec(states, (rows.len(), width), &Device::Cpu)
    }

    /// Bytes of a cache of `cached` tokens and of what a pass over `tokens` of them has at work; 0 where the pass is
    /// not by hand.
    pub(crate) fn inference_bytes(&self, cached: usize, tokens: usize) -> u64 {
        let inner = match self.pass_by_hand() {
            Some(Inner::Full) => size_of::<f32>(),
            Some(Inner::Half) => size_of::<bf16>(),
            None => return 0,
        };
        let config = &self.config;
        let heads = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        let cache = config.num_hidden_layers * 2 * kv * inner * cached;
        // The residual stream and its sum with a branch; a norm, queries, what attention gives, gate and up.
        let wide = 2 * size_of::<f32>() * config.hidden_size;
        let narrow = inner * (config.hidden_size + 2 * heads + 2 * config.intermediate_size);
        (cache + (wide + narrow) * tokens) as u64
    }

    /// The logits of the tokens `ids` after the states `hidden`, (rows, hidden): (rows, ids), f32.
    pub fn logits(&self, hidden: &Tensor, ids: Range<u32>) -> Result<Tensor> {
        self.shifted_logits(hidden, ids, &[])
    }

    /// [`Llama::logits`] with the repeat bias added to those of `owned`, rows with tokens.
    fn shifted_logits(
        &self,
        hidden: &Tensor,
        ids: Range<u32>,
        owned: &[(usize, u32)],
    ) -> Result<Tensor> {
        let (first, count) = (ids.start as usize, ids.len());
        let shift = |logits: &mut [f32]| {
            let bias = self.config.repeat_bias.unwrap_or(0.0) as f32;
            for (row, id) in owned.iter().filter(|(_, id)| ids.contains(id)) {
                logits[row * count + (id - ids.start) as usize] += bias;
            }
        };
        let head = self.lm_head.narrow(0, first, count)?;
        if self.pass_by_hand().is_none() {
            let hidden = hidden.to_dtype(head.dtype())?;
            let logits = ops::linear(&hidden, &head, self.precision)?.to_dtype(DType::F32)?;
            if owned.is_empty() {
                return Ok(logits);
            }
            let mut shifts = vec![0.0f32; logits.elem_count()];
            shift(&mut shifts);
            return &logits + Tensor::from_vec(shifts, logits.shape(), logits.device())?;
        }
        let (rows, width) = hidden.dims2()?;
        let mut logits = vec![0.0f32; rows * count];
        let hidden = hidden.contiguous()?;
        slices::of_tensor(&hidden, |hidden| {
            debug_assert_eq!(hidden.len(), rows * width);
            slices::linear(&mut logits, hidden, &head, Update::Overwrite, self.precision)
        })?;
        shift(&mut logits);
        Tensor::from_vec(logits, (rows, count), &Device::Cpu)
    }

    /// Log-probabilities of the tokens `ids` after the states `hidden`, (rows, hidden), normalised over the
    /// tokens `over`, which hold them: (rows, ids), f32. To the logits of `owned`, tokens of rows, the repeat bias is
    /// added before.
    ///
    /// Of the logits of `over`, a part is held at a time.
    pub fn log_probabilities(
        &self,
        hidden: &Tensor,
        ids: Range<u32>,
        over: Range<u32>,
        owned: &[(usize, u32)],
    ) -> Result<Tensor> {
        self.log_probabilities_by(hidden, ids, over, owned, LOGITS)
    }

    /// As [`Llama::log_probabilities`], with at most so many `logits` at a time.
    fn log_probabilities_by(
        &self,
        hidden: &Tensor,
        ids: Range<u32>,
        over: Range<u32>,
        owned: &[(usize, u32)],
        logits_held: usize,
    ) -> Result<Tensor> {
        if ids.start < over.start || ids.end > over.end {
            bail!("log-probabilities of the tokens {ids:?} cannot be normalised over {over:?}");
        }
        let logits = self.shifted_logits(hidden, ids.clone(), owned)?;
        if ids == over {
            return ops::log_softmax_rows(&logits);
        }
        let rows = hidden.dim(0)?;
        let part = (logits_held / rows.max(1)).max(1);
        let totals = over
            .clone()
            .step_by(part)
            .map(|first| {
                let part = first..over.end.min(first + part as u32);
                // (rows, part) -> (rows, 1)
                ops::log_sum_exp_rows(&self.shifted_logits(hidden, part, owned)?)
            })
            .collect::<Result<Vec<_>>>()?;
        let total = ops::log_sum_exp_rows(&Tensor::cat(&totals, 1)?)?;
        logits.broadcast_sub(&total)
    }
}

impl<A: Cached> Pass<'_, A> {
    /// Appends the keys and values of all tokens of a block.
    fn extend(&self, all: &Lines, layer: &Layer, h: &[A], kept: &mut [Vec<A>; 2]) -> Result<()> {
        let attn = &layer.self_attn;
        let mut k = self.project(all, &attn.k_proj, h, 1)?;
        self.rotate(all, &mut k, false);
        kept[0].extend_from_slice(&k);
        kept[1].extend_from_slice(&self.project(all, &attn.v_proj, h, 2)?);
        Ok(())
    }

    /// Runs the rest of a block: turns the residual stream of the lines before it into that behind it.
    fn run(
        &self,
        lines: &Lines,
        layer: &Layer,
        h: &[A],
        [k, v]: &[Vec<A>; 2],
        stream: &mut [f32],
    ) -> Result<()> {
        let (attn, mlp) = (&layer.self_attn, &layer.mlp);
        let mut q = self.project(lines, &attn.q_proj, h, 0)?;
        self.rotate(lines, &mut q, false);
        let mut attended = self.pools.narrow.take(q.len());
        let precision = self.model.precision;
        slices::attention(&mut attended, [&q, k, v], None, self.heads(), &lines.rows, precision);
        drop(q);
        self.add_branch(stream, lines, &attn.o_proj, &attended, [3, 0])?;
        drop(attended);
        let h = self.normed(stream, &layer.post_attention_layernorm)?;
        let gate = self.project(lines, &mlp.gate_proj, &h, 4)?;
        let up = self.project(lines, &mlp.up_proj, &h, 5)?;
        drop(h);
        let activated = self.activated(&gate, &up);
        self.add_branch(stream, lines, &mlp.down_proj, &activated, [6, 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LlamaConfig, init};
    use crate::rng;

    #[test]
    fn probabilities_over_parts_are_those_over_all_of_them() {
        let config = LlamaConfig { repeat_bias: Some(-3.0), ..LlamaConfig::tiny_test() };
        let weights = init::scratch(&config, 3, &Device::Cpu).unwrap();
        let model = Llama::new(&config, &weights).unwrap();
        let (rows, vocab) = (3, config.vocab_size as u32);
        let mut stream = rng::stream(1, "hidden", &[]);
        let values = rng::normal(&mut stream, rows * config.hidden_size, 20.0);
        let hidden = Tensor::from_vec(values, (rows, config.hidden_size), &Device::Cpu).unwrap();
        let whole = ops::log_softmax_rows(&model.logits(&hidden, 0..vocab).unwrap()).unwrap();
        let expected = whole.narrow(1, 5, 9).unwrap().to_vec2::<f32>().unwrap();
        // Parts that divide the vocabulary, that do not, and one for all of it.
        for held in [rows, 7 * rows, vocab as usize * rows] {
            let found = model.log_probabilities_by(&hidden, 5..14, 0..vocab, &[], held).unwrap();
            for (a, b) in expected.iter().flatten().zip(found.to_vec2::<f32>().unwrap().concat()) {
                assert!((a - b).abs() < 1e-5, "{a} {b} by parts of {held}");
            }
        }
        // A token of the last row and one of the first, in parts of their own.
        let owned = [(2, 6), (0, 40)];
        let mut logits = model.logits(&hidden, 0..vocab).unwrap().to_vec2::<f32>().unwrap();
        for (row, id) in owned {
            logits[row][id as usize] -= 3.0;
        }
        let logits = Tensor::new(logits, &Device::Cpu).unwrap();
        let whole = ops::log_softmax_rows(&logits).unwrap();
        let of = |composed: bool, held| {
            let _guard = composed.then(ops::force_composed);
            model.log_probabilities_by(&hidden, 5..14, 0..vocab, &owned, held).unwrap()
        };
        let expected = whole.narrow(1, 5, 9).unwrap().to_vec2::<f32>().unwrap().concat();
        for (composed, held) in [(false, 7 * rows), (false, usize::MAX), (true, 7 * rows)] {
            let found = of(composed, held).to_vec2::<f32>().unwrap().concat();
            for (a, b) in expected.iter().zip(found) {
                assert!((a - b).abs() < 1e-4, "{a} {b} by parts of {held}");
            }
        }
        let level = model.log_probabilities(&hidden, 5..14, 5..14, &[]).unwrap();
        for row in level.to_vec2::<f32>().unwrap() {
            assert!((row.iter().map(|v| v.exp()).sum::<f32>() - 1.0).abs() < 1e-5);
        }
        assert!(model.log_probabilities(&hidden, 5..14, 6..20, &[]).is_err());
    }
}
