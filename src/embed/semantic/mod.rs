//! z^s: what the backbone makes of an item's texts (paper, section 3.2).

use std::time::Instant;

use candle_core::DType;
use ndarray::{Array2, ArrayView2, ArrayViewMut1};
use sha2::{Digest, Sha256};

use super::parts::Parts;
use super::texts::{ItemTexts, Pass};
use crate::model::{KvCache, Llama, LlamaConfig, Weights, digest_weights};
use crate::ops::Precision;
use crate::ranks::Ranks;
use crate::{Error, Result};

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
/// kept in `parts`, and what lies there is not done again; `on_pass` hears of every forward pass, of several ranks of
/// one of each, and its error ends the work.
///
/// This is rank 0 of `ranks`, the others are in [`help_embed`]; any number of them gives the same bits.
pub fn semantic_embeddings(
    model: &Llama,
    texts: &ItemTexts,
    parts: &mut Parts,
    ranks: &dyn Ranks,
    on_pass: &mut dyn FnMut(EmbeddingProgress) -> Result<()>,
) -> Result<Array2<f32>> {
    embed_by(model, texts, parts, ranks, on_pass, TOKENS_PER_PASS)
}

/// Takes the passes of this rank in the embedding that rank 0 is at.
pub fn help_embed(model: &Llama, texts: &ItemTexts, ranks: &dyn Ranks) -> Result<()> {
    help_by(model, texts, ranks, TOKENS_PER_PASS)
}

/// As [`semantic_embeddings`], in passes of so many tokens.
fn embed_by(
    model: &Llama,
    texts: &ItemTexts,
    parts: &mut Parts,
    ranks: &dyn Ranks,
    on_pass: &mut dyn FnMut(EmbeddingProgress) -> Result<()>,
    tokens_per_pass: usize,
) -> Result<Array2<f32>> {
    let (hidden_size, total) = (model.config().hidden_size, texts.num_texts());
    let mut items = ItemMeans::new(texts, hidden_size);
    let mut next = 0;
    while let Some(means) = parts.read(next, total - next, hidden_size) {
        items.add(next, means.view());
        next += means.nrows();
    }
    let (first, start) = (ranks.broadcast_value(next)?, Instant::now());
    let mut tokens = 0;
    let mut shared = Shared { model, texts, ranks, tokens_per_pass, cache: KvCache::new() };
    while next < total {
        for (pass, means) in shared.round(next)? {
            items.add(next, means.view());
            parts.push(next, means)?;
            next = pass.texts.end;
            tokens += pass.input.ids.len();
        }
        on_pass(EmbeddingProgress {
            texts: next,
            total,
            embedded: next - first,
            tokens,
            seconds: start.elapsed().as_secs_f64(),
        })?;
    }
    Ok(items.finish())
}

/// As [`help_embed`], in passes of so many tokens.
fn help_by(
    model: &Llama,
    texts: &ItemTexts,
    ranks: &dyn Ranks,
    tokens_per_pass: usize,
) -> Result<()> {
    let mut next = ranks.broadcast_value(0)?;
    let mut shared = Shared { model, texts, ranks, tokens_per_pass, cache: KvCache::new() };
    while next < texts.num_texts() {
        next = shared.round(next)?.last().map_or(next, |(pass, _)| pass.texts.end);
    }
    Ok(())
}

/// Forward passes that ranks share.
struct Shared<'a> {
    model: &'a Llama,
    texts: &'a ItemTexts,
    ranks: &'a dyn Ranks,
    tokens_per_pass: usize,
    /// What passes allocate is kept in it from one to the next.
    cache: KvCache,
}

impl Shared<'_> {
    /// A pass for each rank, from text `next` on, with the means of its texts.
    fn round(&mut self, next: usize) -> Result<Vec<(Pass, Array2<f32>)>> {
        let mut passes = Vec::new();
        let mut end = next;
        while end < self.texts.num_texts() && passes.len() < self.ranks.size() {
            let pass = self.texts.pass(end, self.tokens_per_pass)?;
            end = pass.texts.end;
            passes.push(pass);
        }
        let width = self.model.config().hidden_size;
        let own = match passes.get(self.ranks.rank()) {
            Some(pass) => means_of(self.model, pass, self.texts.lead(), &mut self.cache)?,
            None => Array2::zeros((0, width)),
        };
        let own: Vec<u8> = own.iter().flat_map(|value| value.to_le_bytes()).collect();
        let means = self.ranks.gather(&own);
        let means = means.iter().map(|bytes| matrix_of(bytes, width));
        passes.into_iter().zip(means).map(|(pass, means)| Ok((pass, means?))).collect()
    }
}

/// Rows of so many values that a rank has sent.
fn matrix_of(bytes: &[u8], width: usize) -> Result<Array2<f32>> {
    let (values, _) = bytes.as_chunks::<4>();
    let values: Vec<f32> = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
    Array2::from_shape_vec((values.len() / width, width), values)
        .map_err(|e| Error::Invalid(format!("the means of a pass: {e}")))
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
            // An item without a text has none.
            row /= count.max(1.0);
        }
        self.sums
    }
}

#[cfg(test)]
mod tests;
