//! TIGER (Rajput et al., 2023): a T5 that reads the codes of a history's items and writes those of the next one.

mod backprop;
mod hand;
mod layers;
mod search;

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};
use serde::{Deserialize, Serialize};

use super::History;
use super::layers::{Builder, Masks};
use crate::nn::Params;
use crate::ops::{self, Precision, Rows, slices};
pub use backprop::TigerWorkspace;
use layers::{KeysValues, Pass, Read, Stack};
pub use search::Reading;

/// `[baseline.tiger]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct TigerConfig {
    /// Width of the embeddings and of the states.
    pub dim: usize,
    /// Blocks of the encoder, and as many of the decoder.
    pub blocks: usize,
    /// Heads of an attention.
    pub heads: usize,
    /// Width of a head; together they need not be as wide as `dim`.
    pub head_dim: usize,
    /// Width of a feed-forward's hidden layer.
    pub feed_forward: usize,
    /// The longest history, in items.
    pub history: usize,
    /// Tokens that stand for users before their histories, each for those whose number leaves the same remainder;
    /// 0: none.
    pub user_tokens: usize,
    /// Probability of dropout on embeddings, branches, their hidden layers and last states.
    pub dropout: f64,
    /// Hypotheses that the search keeps of a user, in every measurement of an epoch too.
    pub beam: usize,
    /// Passes over the training targets at most.
    pub epochs: usize,
    /// Epochs without a better figure on what is held out before training stops.
    pub patience: usize,
    /// Targets in a step.
    pub batch_size: usize,
    /// Learning rate of AdamW.
    pub learning_rate: f64,
    /// Weight decay of AdamW.
    pub weight_decay: f64,
    /// What the values of matrix products are rounded to before they are multiplied; sums and weights stay in f32.
    /// `bf16` takes effect on CPUs with AVX512-BF16.
    pub precision: Precision,
}

impl Default for TigerConfig {
    fn default() -> Self {
        Self {
            dim: 128,
            blocks: 2,
            heads: 4,
            head_dim: 32,
            feed_forward: 512,
            history: 20,
            user_tokens: 0,
            dropout: 0.1,
            beam: 20,
            epochs: 100,
            patience: 8,
            batch_size: 256,
            learning_rate: 1e-3,
            weight_decay: 0.01,
            precision: Precision::Full,
        }
    }
}

/// The codes of all items, each a place among those of its level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codes {
    /// (items, levels), row-major.
    pub of_items: Vec<u32>,
    /// How many there are at each level.
    pub levels: Vec<usize>,
}

/// Histories as the decoder sees them.
#[derive(Debug, Clone)]
pub struct Memory {
    blocks: Vec<KeysValues>,
    /// The tokens of each history.
    tokens: Vec<Range<usize>>,
}

/// What has been written of an item.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// After which of the histories.
    pub history: usize,
    /// Its first codes, fewer than there are levels.
    pub codes: &'a [u32],
}

/// Which part of a batch a training pass is over.
///
/// The passes over all parts together do what one over the whole batch does.
#[derive(Debug, Clone, Copy)]
pub struct TigerPart {
    /// The key of the batch's dropout masks.
    pub dropout: u64,
    /// Tokens of the histories before this part.
    pub tokens_before: usize,
    /// Targets before this part.
    pub targets_before: usize,
    /// Targets of the whole batch.
    pub targets: usize,
}

impl TigerPart {
    /// All of a batch.
    pub fn whole(targets: usize, dropout: u64) -> Self {
        Self { dropout, tokens_before: 0, targets_before: 0, targets }
    }
}

/// The tokens of histories, one after another.
struct Prompt {
    ids: Vec<u32>,
    /// Those of each history.
    tokens: Vec<Range<usize>>,
}

/// The tokens of what is written, each a place where the next one is told.
struct Writing {
    ids: Vec<u32>,
    /// How many there are of each item.
    lengths: Vec<usize>,
    /// What each sees of the histories.
    rows: Arc<Rows>,
}

/// `p(item | history) = Π p(code | codes before it, history)`, each factor a softmax over the whole vocabulary: a
/// token for every code of every level, one that begins an item, and those of users.
///
/// Parameters have the names that Hugging Face's T5 has for them: a file of them is one of its models.
#[derive(Debug, Clone)]
pub struct Tiger {
    params: Params,
    config: TigerConfig,
    codes: Arc<Codes>,
    /// (vocabulary, dim); states are held against it, too.
    embeddings: Tensor,
    encoder: Stack,
    decoder: Stack,
}

impl Tiger {
    /// Hypotheses that go through the decoder together: what a search holds does not grow with the beam.
    pub const HYPOTHESES_AT_ONCE: usize = 1024;

    /// A fresh network, its first values drawn as T5's are; `dtype` is f32 but for numeric checks.
    ///
    /// # Errors
    /// No codes, or a number of them that the levels do not divide.
    pub fn new(
        config: &TigerConfig,
        codes: Codes,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let levels = codes.levels.len();
        if levels == 0 || codes.of_items.is_empty() || !codes.of_items.len().is_multiple_of(levels)
        {
            bail!("tiger: {} codes of items over {levels} levels", codes.of_items.len());
        }
        let vocabulary = codes.levels.iter().sum::<usize>() + 1 + config.user_tokens;
        let mut builder = Builder::new("tiger", seed, dtype, device);
        Ok(Self {
            embeddings: builder.normal("shared.weight", (vocabulary, config.dim), 1.0)?,
            encoder: Stack::encoder(config, &mut builder)?,
            decoder: Stack::decoder(config, &mut builder)?,
            params: builder.params(),
            config: config.clone(),
            codes: Arc::new(codes),
        })
    }

    /// The trainable parameters.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// How it was made.
    pub fn config(&self) -> &TigerConfig {
        &self.config
    }

    /// How many items it knows.
    pub fn num_items(&self) -> usize {
        self.codes.of_items.len() / self.num_levels()
    }

    /// How many tokens it knows.
    pub fn vocab_size(&self) -> usize {
        self.embeddings.dims()[0]
    }

    /// Codes of an item.
    pub fn num_levels(&self) -> usize {
        self.codes.levels.len()
    }

    /// Where its weights are.
    pub fn device(&self) -> &Device {
        self.embeddings.device()
    }

    /// Whether passes are those by hand: on the CPU in f32.
    fn is_by_hand(&self) -> bool {
        let weights: Vec<&Tensor> = self.params.tensors().map(|(_, weight)| weight).collect();
        slices::serve(&weights)
    }

    /// About how many values a training pass by hand keeps of a target with a history of so many items.
    pub fn values_per_target(&self, items: usize) -> usize {
        let TigerConfig { dim, blocks, heads, head_dim, feed_forward, .. } = self.config;
        let (inner, levels) = (heads * head_dim, self.num_levels());
        // What layers take, what attentions read and give, hidden layers; a decoder attends twice.
        let encoder = blocks * (2 * dim + 4 * inner + feed_forward) + 2 * dim;
        let decoder = encoder + blocks * (dim + 2 * inner);
        let memory = blocks * 2 * inner;
        // The gradients of the block that the backward pass is in.
        let at_work = 4 * (dim + inner) + feed_forward;
        levels * (items * (encoder + memory + at_work) + decoder)
    }

    /// The negative log-likelihood of each code of each target, (targets * levels), after the history of the same
    /// place; `part` is that of a training pass.
    ///
    /// # Errors
    /// A history that is empty, an unknown item.
    pub fn losses(
        &self,
        histories: &[History<'_>],
        targets: &[u32],
        part: Option<TigerPart>,
    ) -> Result<Tensor> {
        let pass = self.pass_over_histories(part);
        let memory = self.encode(histories, &pass)?;
        let (written, labels) = self.lessons(targets)?;
        let pass = self.pass_over_targets(&pass, part);
        let states = self.decode(&memory, &written, &pass)?;
        ops::cross_entropy(&states, &self.embeddings, &labels, pass.precision)
    }

    fn pass_over_histories(&self, part: Option<TigerPart>) -> Pass {
        let masks = |part: TigerPart| Masks { key: part.dropout, before: part.tokens_before };
        Pass::new(&self.config, part.map(masks))
    }

    fn pass_over_targets(&self, behind: &Pass, part: Option<TigerPart>) -> Pass {
        behind.onward(part.map_or(0, |part| part.targets_before * self.num_levels()))
    }

    /// What is written of the target of each history, and which token each of its places is asked for.
    fn lessons(&self, targets: &[u32]) -> Result<(Vec<Written<'_>>, Vec<u32>)> {
        let mut labels = Vec::with_capacity(targets.len() * self.num_levels());
        let mut written = Vec::with_capacity(targets.len());
        for (history, &target) in targets.iter().enumerate() {
            let codes = self.codes_of(target)?;
            labels.extend(self.tokens(codes));
            written.push(Written { history, codes: &codes[..codes.len() - 1] });
        }
        Ok((written, labels))
    }

    /// Reads histories, of each the last items that it can. Takes no part in the gradient.
    ///
    /// # Errors
    /// A history that is empty, an unknown item.
    pub fn read(&self, histories: &[History<'_>]) -> Result<Memory> {
        let Memory { blocks, tokens } = self.encode(histories, &Pass::new(&self.config, None))?;
        let blocks = blocks.into_iter().map(|block| block.map(|t| t.detach())).collect();
        Ok(Memory { blocks, tokens })
    }

    /// The log-probabilities of the codes that may come next, (written, codes of the level); of all items as many codes
    /// have been written. Takes no part in the gradient.
    pub fn log_probabilities(&self, memory: &Memory, written: &[Written<'_>]) -> Result<Tensor> {
        let level = written.first().map_or(0, |item| item.codes.len());
        if level >= self.num_levels() || written.iter().any(|item| item.codes.len() != level) {
            bail!(
                "tiger: items of {} levels, of which {level} and others are written",
                self.num_levels()
            );
        }
        let pass = Pass::new(&self.config, None);
        let states = self.decode(memory, written, &pass)?.detach();
        let last: Vec<u32> =
            (1..=written.len()).map(|end| (end * (level + 1) - 1) as u32).collect();
        let states = ops::embedding(&states, &last)?;
        let logits = ops::linear(&states, &self.embeddings.detach(), pass.precision)?;
        ops::log_softmax_rows(&logits)?.narrow(1, self.first_token(level), self.codes.levels[level])
    }

    /// The tokens of an item's first codes.
    fn tokens<'a>(&'a self, codes: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
        codes.iter().zip(&self.codes.levels).scan(0, |first, (&code, &of_level)| {
            let token = *first + code;
            *first += of_level as u32;
            Some(token)
        })
    }

    /// The token of a level's first code.
    fn first_token(&self, level: usize) -> usize {
        self.codes.levels[..level].iter().sum()
    }

    /// The token that begins an item, behind those of all codes.
    fn start(&self) -> u32 {
        self.first_token(self.num_levels()) as u32
    }

    fn codes_of(&self, item: u32) -> Result<&[u32]> {
        match self.codes.of_items.chunks_exact(self.num_levels()).nth(item as usize) {
            Some(codes) => Ok(codes),
            None => bail!("tiger: item {item} of {}", self.num_items()),
        }
    }

    /// How many tokens are read of a history.
    pub fn tokens_of(&self, history: &History<'_>) -> usize {
        let of_user = usize::from(history.user.is_some() && self.config.user_tokens > 0);
        of_user + history.items.len().min(self.config.history) * self.num_levels()
    }

    fn prompt(&self, histories: &[History<'_>]) -> Result<Prompt> {
        let (mut ids, mut tokens) = (Vec::new(), Vec::with_capacity(histories.len()));
        for history in histories {
            let start = ids.len();
            let user_tokens = self.config.user_tokens as u32;
            ids.extend(history.user.filter(|_| user_tokens > 0).map(|user| {
                // The same user is the same token, whoever else there is.
                self.start() + 1 + user % user_tokens
            }));
            for &item in history.last(self.config.history).items {
                ids.extend(self.tokens(self.codes_of(item)?));
            }
            if history.items.is_empty() {
                bail!("tiger: a history without an item");
            }
            tokens.push(start..ids.len());
        }
        Ok(Prompt { ids, tokens })
    }

    fn encode(&self, histories: &[History<'_>], pass: &Pass) -> Result<Memory> {
        let Prompt { ids, tokens } = self.prompt(histories)?;
        let lengths: Vec<usize> = tokens.iter().map(Range::len).collect();
        let x = ops::embedding(&self.embeddings, &ids)?;
        let states = self.encoder.forward(x, &lengths, None, pass)?;
        let blocks = self.decoder.cross().map(|cross| cross.keys_values(&states, pass));
        Ok(Memory { blocks: blocks.collect::<Result<_>>()?, tokens })
    }

    /// `read`: the tokens of each history.
    fn writing(&self, read: &[Range<usize>], written: &[Written<'_>]) -> Result<Writing> {
        let (mut ids, mut lengths, mut histories) = (Vec::new(), Vec::new(), Vec::new());
        for &Written { history, codes } in written {
            ids.push(self.start());
            ids.extend(self.tokens(codes));
            lengths.push(1 + codes.len());
            histories.resize(ids.len(), history);
        }
        Ok(Writing { ids, lengths, rows: Arc::new(rows_across(read, &histories)?) })
    }

    /// The states that are held against the embeddings, one where each item begins and one at each of its codes:
    /// (tokens, dim).
    fn decode(&self, memory: &Memory, written: &[Written<'_>], pass: &Pass) -> Result<Tensor> {
        let Writing { ids, lengths, rows } = self.writing(&memory.tokens, written)?;
        let read = Read { blocks: &memory.blocks, rows };
        let x = ops::embedding(&self.embeddings, &ids)?;
        let states = self.decoder.forward(x, &lengths, Some(&read), pass)?;
        states / (self.config.dim as f64).sqrt()
    }
}

/// What tokens see of the histories `read`, each of the one that it is written after: those of one read it together.
fn rows_across(read: &[Range<usize>], histories: &[usize]) -> Result<Rows> {
    let mut start = 0;
    Rows::across(histories.chunk_by(|a, b| a == b).map(|tokens| {
        let queries = start..start + tokens.len();
        start = queries.end;
        (queries, read[tokens[0]].clone())
    }))
}

#[cfg(test)]
mod tests;
