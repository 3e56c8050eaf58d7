//! z^s: what the backbone makes of an item's texts (paper, section 3.2).

use std::time::Instant;

use candle_core::DType;
use ndarray::{Array2, ArrayView2, ArrayViewMut1};
use sha2::{Digest, Sha256};

use super::parts::Parts;
use super::texts::{ItemTexts, Pass};
use crate::Result;
use crate::model::{KvCache, Llama, LlamaConfig, Weights, digest_weights};
use crate::ops::Precision;

/// Tokens embedded in one forward pass: enough to keep every core in large products, few enough for what
/// lies between two of them to stay in the cache.
pub const TOKENS_PER_PASS: usize = 4096;

/// How far the embedding of a catalogue has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmbeddingProgress {
    /// Different texts that are done, those of an earlier process included.
    pub texts: usize,
    /// Different texts there are.
    pub total: usize,
    /// Texts that this process has embedded.
    pub embedded: usize,
    /// Tokens that took, each common beginning counted once.
    pub tokens: usize,
    /// Seconds since this process began.
    pub seconds: f64,
}

/// Embeddings of all items, (items, hidden), f32.
///
/// Every text is fed alone; the mean over its tokens of the final hidden state (after the last norm; BOS is
/// fed where the tokenizer has one, but not averaged) is averaged over the texts of an item. What is done is
/// kept in `parts`, and what lies there is not done again; `on_pass` hears of every forward pass, and
/// its error ends the work.
pub fn semantic_embeddings(
    model: &Llama,
    texts: &ItemTexts,
    parts: &mut Parts,
    on_pass: &mut dyn FnMut(EmbeddingProgress) -> Result<()>,
) -> Result<Array2<f32>> {
    embed_by(model, texts, parts, on_pass, TOKENS_PER_PASS)
}

/// As [`semantic_embeddings`], in passes of so many tokens.
fn embed_by(
    model: &Llama,
    texts: &ItemTexts,
    parts: &mut Parts,
    on_pass: &mut dyn FnMut(EmbeddingProgress) -> Result<()>,
    tokens_per_pass: usize,
) -> Result<Array2<f32>> {
    let hidden_size = model.config().hidden_size;
    let mut items = ItemMeans::new(texts, hidden_size);
    let mut next = 0;
    while let Some(means) = parts.read(next, texts.num_texts() - next, hidden_size) {
        items.add(next, means.view());
        next += means.nrows();
    }
    let (first, start) = (next, Instant::now());
    let mut tokens = 0;
    // What passes allocate is kept in it from one to the next.
    let mut cache = KvCache::new();
    while next < texts.num_texts() {
        let pass = texts.pass(next, tokens_per_pass)?;
        let means = means_of(model, &pass, texts.lead(), &mut cache)?;
        items.add(next, means.view());
        parts.push(next, means)?;
        next = pass.texts.end;
        tokens += pass.input.ids.len();
        on_pass(EmbeddingProgress {
            texts: next,
            total: texts.num_texts(),
            embedded: next - first,
            tokens,
            seconds: start.elapsed().as_secs_f64(),
        })?;
    }
    Ok(items.finish())
}

/// Equal for equal embeddings: a digest of the weights, of what they do not say of the model, of
/// what it multiplies in, and of the ids that are averaged.
pub fn embedding_key(
    config: &LlamaConfig,
    weights: &Weights,
    precision: Precision,
    texts: &ItemTexts,
) -> String {
    let shape = (
        [config.num_attention_heads, config.num_key_value_heads, config.head_dim],
        [config.rms_norm_eps, config.rope_theta],
        config.rope_scaling,
        precision,
    );
    let mut hash = Sha256::new();
    for part in [digest_weights(weights), texts.digest(), format!("{shape:?}")] {
        hash.update(part);
        hash.update([0]);
    }
    format!("{:x}", hash.finalize())
}

/// The mean of the final hidden states of each text of a pass, (texts, hidden).
fn means_of(model: &Llama, pass: &Pass, lead: usize, cache: &mut KvCache) -> Result<Array2<f32>> {
    let every: Vec<u32> = (0..pass.input.ids.len() as u32).collect();
    cache.truncate(0)?;
    let hidden = model.infer(&pass.input, Some(cache), &every)?;
    let width = hidden.dim(1)?;
    let hidden = hidden.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let mut means = Array2::zeros((pass.lines.len(), width));
    for (mut mean, lines) in means.rows_mut().into_iter().zip(&pass.lines) {
        let lines: Vec<usize> = lines.iter().cloned().flatten().skip(lead).collect();
        let scale = 1.0 / lines.len() as f32;
        for line in lines {
            add_scaled(&mut mean, &hidden[line * width..][..width], scale);
        }
    }
    Ok(means)
}

fn add_scaled(sum: &mut ArrayViewMut1<'_, f32>, values: &[f32], scale: f32) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value * scale);
}

/// The means over the texts of every item, as they come in.
struct ItemMeans<'a> {
    texts: &'a ItemTexts,
    sums: Array2<f32>,
    counts: Vec<f32>,
}

impl<'a> ItemMeans<'a> {
    fn new(texts: &'a ItemTexts, width: usize) -> Self {
        let items = texts.num_items();
        Self { texts, sums: Array2::zeros((items, width)), counts: vec![0.0; items] }
    }

    /// Adds the means of the texts from `first` on.
    fn add(&mut self, first: usize, means: ArrayView2<'_, f32>) {
        for (text, mean) in (first..).zip(means.rows()) {
            for &item in self.texts.items_of(text) {
                let mut sum = self.sums.row_mut(item as usize);
                sum += &mean;
                self.counts[item as usize] += 1.0;
            }
        }
    }

    fn finish(mut self) -> Array2<f32> {
        for (mut row, count) in self.sums.rows_mut().into_iter().zip(&self.counts) {
            row /= *count;
        }
        self.sums
    }
}

#[cfg(test)]
mod tests;
