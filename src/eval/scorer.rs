//! A Llama as the scorer of beam search: one forward pass a level, over a shared cache.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

use crate::Result;
use crate::decode::{BeamRow, CodeScores, Normalize};
use crate::model::{KvCache, Llama, Packed};
use crate::ops::{self, Row, Rows};

/// Where the item tokens stand in the vocabulary: level after level from `first`.
#[derive(Debug, Clone)]
pub struct ItemVocabulary {
    /// Id of the first item token.
    pub first: u32,
    /// Each level's range, counted from `first`.
    pub levels: Vec<Range<usize>>,
}

impl ItemVocabulary {
    fn range(&self, level: usize) -> Range<usize> {
        let (first, range) = (self.first as usize, &self.levels[level]);
        first + range.start..first + range.end
    }
}

/// A hypothesis as the cache sees it.
#[derive(Debug, Clone)]
struct RowState {
    /// Keys of everything before the row's own newest token.
    context: Vec<Range<usize>>,
    /// Key of the newest token, once it has one of its own.
    own: Option<usize>,
    /// Position of the next token.
    position: u32,
}

/// Scores the codes that follow each user's prompt.
///
/// The instruction, equal for all users, is computed once; a user's history once; beams keep only
/// their own few tokens and point to the rest.
pub struct LlamaScorer<'a> {
    model: Llama,
    vocabulary: &'a ItemVocabulary,
    normalize: Normalize,
    cache: KvCache,
    instruction: usize,
    rows: Vec<RowState>,
    /// Hidden state of every row's last token, (rows, hidden).
    last: Option<Tensor>,
}

impl<'a> LlamaScorer<'a> {
    /// A scorer whose prompts all begin with `instruction` (not empty).
    pub fn new(
        model: &Llama,
        vocabulary: &'a ItemVocabulary,
        normalize: Normalize,
        instruction: &[u32],
    ) -> Result<Self> {
        // In training the weights are variables: the cache would keep the graph of every batch.
        let model = model.frozen();
        let mut cache = KvCache::new();
        let input = Packed {
            ids: instruction.to_vec(),
            positions: (0..instruction.len() as u32).collect(),
            rows: Arc::new(Rows::packed(&[instruction.len()])),
        };
        model.infer(&input, Some(&mut cache), &[])?;
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
            let own = self.instruction + ids.len();
            let queries = ids.len()..ids.len() + history.len();
            last.push(queries.end as u32 - 1);
            self.rows.push(RowState {
                // The history first: rows that share the start of their context are attended together.
                context: vec![own..own + history.len(), 0..self.instruction],
                own: None,
                position: (self.instruction + history.len()) as u32,
            });
            rows.push(Row {
                queries,
                own,
                context: std::iter::once(0..self.instruction).collect(),
            });
            ids.extend(history);
            positions.extend((self.instruction..).take(history.len()).map(|p| p as u32));
        }
        let input = Packed { ids, positions, rows: Arc::new(Rows::new(rows)?) };
        self.last = Some(self.model.infer(&input, Some(&mut self.cache), &last)?);
        Ok(())
    }

    /// Feeds the chosen code of every hypothesis.
    fn advance(&mut self, level: usize, rows: &[BeamRow]) -> Result<Tensor> {
        let first = self.vocabulary.range(level).start as u32;
        let base = self.cache.len();
        let states: Vec<RowState> = rows
            .iter()
            .enumerate()
            .map(|(i, row)| {
                let parent = &self.rows[row.parent];
                let mut context = parent.context.clone();
                context.extend(parent.own.map(|key| key..key + 1));
                RowState { context, own: Some(base + i), position: parent.position }
            })
            .collect();
        let input = Packed {
            ids: rows.iter().map(|row| first + row.code).collect(),
            positions: states.iter().map(|s| s.position).collect(),
            rows: Arc::new(Rows::new(
                states
                    .iter()
                    .enumerate()
                    .map(|(i, s)| Row {
                        queries: i..i + 1,
                        own: base + i,
                        context: s.context.clone(),
                    })
                    .collect(),
            )?),
        };
        self.rows = states;
        for row in &mut self.rows {
            row.position += 1;
        }
        let every: Vec<u32> = (0..rows.len() as u32).collect();
        Ok(self.model.infer(&input, Some(&mut self.cache), &every)?)
    }
}

impl CodeScores for LlamaScorer<'_> {
    fn scores(&mut self, level: usize, rows: &[BeamRow]) -> Result<Vec<f32>> {
        let hidden = match (level, &self.last) {
            (0, Some(last)) => last.clone(),
            (0, None) => crate::invalid!("the search was run before the histories were taken in"),
            _ => self.advance(level - 1, rows)?,
        };
        let head = self.model.lm_head();
        let range = self.vocabulary.range(level);
        let precision = self.model.precision();
        let scores = match self.normalize {
            Normalize::Level | Normalize::Allowed => {
                let logits =
                    ops::linear(&hidden, &head.narrow(0, range.start, range.len())?, precision)?;
                ops::log_softmax_rows(&logits)?
            }
            Normalize::Vocab => ops::log_softmax_rows(&ops::linear(&hidden, head, precision)?)?
                .narrow(1, range.start, range.len())?
                .contiguous()?,
        };
        Ok(scores.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1()?)
    }
}
