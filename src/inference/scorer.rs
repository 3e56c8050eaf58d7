//! A Llama as the scorer of beam search: one forward pass a level, over a shared cache.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use super::tokens::ItemVocabulary;
use crate::Result;
use crate::decode::{BeamRow, CodeScores, Normalize};
use crate::model::{KvCache, Llama, Packed};
use crate::ops::{Row, Rows};

/// A hypothesis as the cache sees it.
#[derive(Debug, Clone)]
struct RowState {
    /// Keys of everything before the row's next token.
    context: Vec<Range<usize>>,
    /// Position of the next token.
    position: u32,
    /// The tokens of the items that the user has, where the model has a bias for them.
    owned: Arc<BTreeSet<Vec<u32>>>,
    /// The tokens of the item that is written.
    written: Vec<u32>,
}

impl RowState {
    /// The tokens that would end an item that the user has.
    fn ends_owned(&self) -> impl Iterator<Item = u32> {
        let from = self.owned.range(self.written.clone()..);
        let begun = from.take_while(|tokens| tokens.starts_with(&self.written));
        begun.filter_map(|tokens| tokens.last().copied())
    }
}

/// Scores the codes that follow each user's prompt.
///
/// The instruction, equal for all users, is computed once; a user's history once; beams keep only
/// their own few tokens and point to the rest.
pub struct LlamaScorer<'a> {
    model: &'a Llama,
    vocabulary: &'a ItemVocabulary,
    normalize: Normalize,
    cache: KvCache,
    instruction: usize,
    rows: Vec<RowState>,
    /// Hidden state of every row's last token, (rows, hidden).
    last: Option<Tensor>,
}

impl<'a> LlamaScorer<'a> {
    /// A scorer whose prompts all begin with `instruction`.
    pub fn new(
        model: &'a Llama,
        vocabulary: &'a ItemVocabulary,
        normalize: Normalize,
        instruction: &[u32],
    ) -> Result<Self> {
        let mut cache = KvCache::new();
        model.infer(&Packed::sequences(&[instruction]), Some(&mut cache), &[])?;
        let instruction = instruction.len();
        Ok(Self { model, vocabulary, normalize, cache, instruction, rows: Vec::new(), last: None })
    }

    /// Takes in the users' histories (item tokens, none of them empty) for the next search.
    pub fn start(&mut self, histories: &[Vec<u32>]) -> Result<()> {
        self.cache.truncate(self.instruction)?;
        let (mut ids, mut positions) = (Vec::new(), Vec::new());
        let (mut rows, mut last) = (Vec::new(), Vec::new());
        self.rows.clear();
        for history in histories {
            let queries = ids.len()..ids.len() + history.len();
            let own = self.instruction + queries.start..self.instruction + queries.end;
            last.push(queries.end as u32 - 1);
            let owned = match self.model.config().repeat_bias {
                Some(_) => self.vocabulary.items_in(history).map(<[u32]>::to_vec).collect(),
                None => BTreeSet::new(),
            };
            self.rows.push(RowState {
                // The history first: rows whose contexts begin alike are attended together.
                context: vec![own.clone(), 0..self.instruction],
                position: (self.instruction + history.len()) as u32,
                owned: Arc::new(owned),
                written: Vec::new(),
            });
            let context = std::iter::once(0..self.instruction).collect();
            rows.push(Row { queries, own, context });
            ids.extend(history);
            positions.extend((self.instruction..).take(history.len()).map(|p| p as u32));
        }
        let input = Packed { ids, positions, rows: Arc::new(Rows::new(rows)?) };
        self.last = Some(self.model.infer(&input, Some(&mut self.cache), &last)?);
        Ok(())
    }

    /// Feeds the chosen code of every hypothesis.
    fn advance(&mut self, level: usize, rows: &[BeamRow]) -> Result<Tensor> {
        let first = self.vocabulary.range(level).start;
        let base = self.cache.len();
        let parents: Vec<&RowState> = rows.iter().map(|row| &self.rows[row.parent]).collect();
        let attended = parents.iter().enumerate().map(|(i, parent)| Row {
            queries: i..i + 1,
            own: base + i..base + i + 1,
            context: parent.context.clone(),
        });
        let attended: Vec<Row> = attended.collect();
        let input = Packed {
            ids: rows.iter().map(|row| first + row.code).collect(),
            positions: parents.iter().map(|parent| parent.position).collect(),
            rows: Arc::new(Rows::new(attended.clone())?),
        };
        let next = attended.into_iter().zip(&parents).zip(&input.ids).map(|((row, parent), id)| {
            let mut context = row.context;
            context.push(row.own);
            RowState {
                context,
                position: parent.position + 1,
                owned: Arc::clone(&parent.owned),
                written: [&*parent.written, &[*id]].concat(),
            }
        });
        self.rows = next.collect();
        let every: Vec<u32> = (0..rows.len() as u32).collect();
        Ok(self.model.infer(&input, Some(&mut self.cache), &every)?)
    }
}

/// Users that one thread searches for: fixed, so that results do not depend on how many threads there are.
pub const SHARE: usize = 32;

/// Scorers that divide the users of a batch among them: threads that search for different users never
/// wait for each other.
pub struct BatchScorer<'a> {
    model: &'a Llama,
    vocabulary: &'a ItemVocabulary,
    normalize: Normalize,
    instruction: Vec<u32>,
    scorers: Vec<LlamaScorer<'a>>,
}

impl<'a> BatchScorer<'a> {
    /// Scorers whose prompts all begin with `instruction`.
    pub fn new(
        model: &'a Llama,
        vocabulary: &'a ItemVocabulary,
        normalize: Normalize,
        instruction: Vec<u32>,
    ) -> Self {
        Self { model, vocabulary, normalize, instruction, scorers: Vec::new() }
    }

    /// Bytes that searching for a batch of users takes beside the weights, each given by the tokens of the history and
    /// the hypotheses; 0 where nothing is known of the device.
    pub fn bytes(&self, users: &[(usize, usize)]) -> u64 {
        let (levels, instruction) = (self.vocabulary.levels.len(), self.instruction.len());
        let codes = match self.normalize {
            Normalize::Level | Normalize::Allowed => {
                (0..levels).map(|level| self.vocabulary.range(level).len()).max().unwrap_or(0)
            }
            Normalize::Vocab => self.model.config().vocab_size,
        };
        let (mut held, mut scores) = (0, Vec::new());
        for share in users.chunks(SHARE) {
            let read: usize = share.iter().map(|(history, _)| history).sum();
            let fed: usize = share.iter().map(|(_, hypotheses)| hypotheses).sum();
            let cached = instruction + read + fed * (levels - 1);
            held += self.model.inference_bytes(cached, read.max(fed));
            // As logits and as log-probabilities, and half of that, as measured, while beams are chosen from them.
            scores.push((5 * size_of::<f32>() * fed * codes / 2) as u64);
        }
        scores.sort_unstable_by(|a, b| b.cmp(a));
        let at_once: u64 = scores.iter().take(rayon::current_num_threads()).sum();
        if held == 0 { 0 } else { held + at_once }
    }

    /// What `search` finds for the users with these `histories`, in their order; it is handed a scorer that
    /// has taken in a share of them, and which these are.
    pub fn search<T: Send>(
        &mut self,
        histories: &[Vec<u32>],
        search: impl Fn(&mut LlamaScorer<'_>, Range<usize>) -> Result<Vec<T>> + Sync,
    ) -> Result<Vec<T>> {
        // A device serves one thread: it divides a batch itself.
        let on_cpu = self.model.device().is_cpu();
        let share = if on_cpu { SHARE } else { histories.len().max(1) };
        while self.scorers.len() < histories.len().div_ceil(share) {
            let (model, vocabulary) = (self.model, self.vocabulary);
            self.scorers.push(LlamaScorer::new(
                model,
                vocabulary,
                self.normalize,
                &self.instruction,
            )?);
        }
        let of_share = |i: usize, scorer: &mut LlamaScorer<'_>, histories: &[Vec<u32>]| {
            scorer.start(histories)?;
            search(scorer, i * share..i * share + histories.len())
        };
        let found: Result<Vec<_>> = if on_cpu {
            let shares = self.scorers.par_iter_mut().zip(histories.par_chunks(share));
            shares.enumerate().map(|(i, (scorer, share))| of_share(i, scorer, share)).collect()
        } else {
            let shares = self.scorers.iter_mut().zip(histories.chunks(share));
            shares.enumerate().map(|(i, (scorer, share))| of_share(i, scorer, share)).collect()
        };
        Ok(found?.into_iter().flatten().collect())
    }
}

impl CodeScores for LlamaScorer<'_> {
    fn scores(&mut self, level: usize, rows: &[BeamRow]) -> Result<Vec<f32>> {
        let hidden = match (level, &self.last) {
            (0, Some(last)) => last.clone(),
            (0, None) => crate::invalid!("the search was run before the histories were taken in"),
            _ => self.advance(level - 1, rows)?,
        };
        let codes = self.vocabulary.range(level);
        let over = match self.normalize {
            Normalize::Level | Normalize::Allowed => codes.clone(),
            Normalize::Vocab => 0..self.model.config().vocab_size as u32,
        };
        let owned: Vec<(usize, u32)> = if level + 1 == self.vocabulary.levels.len() {
            let ends = |(row, state): (usize, &RowState)| {
                state.ends_owned().map(|id| (row, id)).collect::<Vec<_>>()
            };
            self.rows.iter().enumerate().flat_map(ends).collect()
        } else {
            Vec::new()
        };
        let scores = self.model.log_probabilities(&hidden, codes, over, &owned)?;
        Ok(scores.flatten_all()?.to_vec1()?)
    }
}
