//! Beam search constrained to a trie (docs/method.md): a prefix that no item has is never scored.

use std::cmp::Ordering;
use std::collections::HashSet;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::data::ItemId;
use crate::index::Trie;

/// Over which tokens the probabilities of a step sum to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalize {
    /// All tokens of the level.
    Level,
    /// The whole vocabulary, as Hugging Face's `prefix_allowed_tokens_fn` does.
    Vocab,
    /// The trie's children only: a diagnostic. Where a node has one child, it adds nothing.
    Allowed,
}

/// One hypothesis to be scored: the hypothesis of the level before that it extends, and by which code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeamRow {
    /// Row of the previous call.
    pub parent: usize,
    /// Position of the code within the previous level.
    pub code: u32,
}

/// What beam search needs of a model: log-probabilities of the next code.
///
/// A model whose probabilities are normalised over [`Normalize::Level`] or [`Normalize::Vocab`] hands
/// them out as they are; the search itself renormalises for [`Normalize::Allowed`].
pub trait CodeScores {
    /// Log-probabilities of every code of `level`, (rows, codes of the level), row-major.
    ///
    /// At level 0 there is one row a user and `rows` is empty; at later levels row `i` of the result is
    /// for `rows[i]`, which refers to a row of the call before.
    fn scores(&mut self, level: usize, rows: &[BeamRow]) -> Result<Vec<f32>>;
}

/// A recommended item and its score, the sum of the log-probabilities of its tokens (equation 1).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ranked {
    /// The item.
    pub item: ItemId,
    /// Log-probability.
    pub score: f32,
}

impl Ranked {
    /// The order of a list: best first, ties by item id.
    pub fn best_first(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.item.cmp(&other.item))
    }
}

/// What a search finds for a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The best items, best first.
    pub ranked: Vec<Ranked>,
    /// The best items without those left out for the user, best first: what a search finds that is wider by
    /// as many.
    pub others: Vec<Ranked>,
}

/// Settings of a search.
#[derive(Debug, Clone, Copy)]
pub struct BeamSearch {
    /// How many hypotheses a user keeps at each level.
    pub width: usize,
    /// How the scores are normalised.
    pub normalize: Normalize,
}

/// A hypothesis: a node of the trie and the score of the path to it.
#[derive(Debug, Clone, Copy)]
struct Hypothesis {
    node: u32,
    score: f32,
    row: BeamRow,
    /// It is among those that the search keeps at its own width, and among those of the wider search.
    narrow: bool,
    wide: bool,
}

impl BeamSearch {
    /// The best items of `users` users, best first; ties go to the smaller item id.
    pub fn run(
        self,
        trie: &Trie,
        users: usize,
        model: &mut impl CodeScores,
    ) -> Result<Vec<Vec<Ranked>>> {
        let found = self.run_beside(trie, &vec![&[][..]; users], model)?;
        Ok(found.into_iter().map(|found| found.ranked).collect())
    }

    /// The best items of users, with and without those that `left_out` has for each.
    ///
    /// Both searches are one: what either keeps is scored once, and neither sees the other's hypotheses.
    pub fn run_beside(
        self,
        trie: &Trie,
        left_out: &[&[ItemId]],
        model: &mut impl CodeScores,
    ) -> Result<Vec<Found>> {
        let root = Hypothesis {
            node: trie.root(),
            score: 0.0,
            row: BeamRow { parent: 0, code: 0 },
            narrow: true,
            wide: true,
        };
        let mut beams: Vec<Vec<Hypothesis>> = vec![vec![root]; left_out.len()];
        for level in 0..trie.num_levels() {
            let rows: Vec<BeamRow> = if level == 0 {
                Vec::new()
            } else {
                beams.iter().flatten().map(|h| h.row).collect()
            };
            let scores = model.scores(level, &rows)?;
            let total = beams.iter().map(Vec::len).sum::<usize>();
            let codes = scores.len() / total.max(1);
            let mut first_row = 0;
            let starts: Vec<usize> = beams
                .iter()
                .map(|beam| {
                    first_row += beam.len();
                    first_row - beam.len()
                })
                .collect();
            beams = beams
                .par_iter()
                .zip(starts)
                .zip(left_out)
                .map(|((beam, start), left_out)| {
                    let scores = &scores[start * codes..(start + beam.len()) * codes];
                    let width = self.width.saturating_add(left_out.len());
                    self.extend(trie, beam, start, scores, width)
                })
                .collect();
        }
        let item = |h: &Hypothesis| Some(Ranked { item: trie.item(h.node)?, score: h.score });
        let finish = |(beam, left_out): (&Vec<Hypothesis>, &&[ItemId])| {
            let wide = beam.iter().filter(|h| h.wide).filter_map(item);
            Found {
                ranked: beam.iter().filter(|h| h.narrow).filter_map(item).collect(),
                others: wide.filter(|r| !left_out.contains(&r.item)).take(self.width).collect(),
            }
        };
        Ok(beams.iter().zip(left_out).map(finish).collect())
    }

    /// The best children of one user's hypotheses, whose rows begin at `start`: as many as the search is
    /// wide, and as many as one is that is `wide`.
    fn extend(
        self,
        trie: &Trie,
        beam: &[Hypothesis],
        start: usize,
        scores: &[f32],
        wide: usize,
    ) -> Vec<Hypothesis> {
        let codes = scores.len() / beam.len().max(1);
        let mut extended = Vec::new();
        for (i, (h, scores)) in beam.iter().zip(scores.chunks(codes.max(1))).enumerate() {
            let allowed = match self.normalize {
                Normalize::Allowed => {
                    let codes = trie.children(h.node).codes;
                    log_sum_exp(codes.iter().map(|&code| scores[code as usize]))
                }
                Normalize::Level | Normalize::Vocab => 0.0,
            };
            let children = trie.children(h.node);
            extended.extend(children.codes.iter().zip(children.nodes).map(|(&code, node)| {
                let score = h.score + scores[code as usize] - allowed;
                Hypothesis { node, score, row: BeamRow { parent: start + i, code }, ..*h }
            }));
        }
        let better = |a: &Hypothesis, b: &Hypothesis| {
            b.score
                .total_cmp(&a.score)
                .then_with(|| trie.min_item(a.node).cmp(&trie.min_item(b.node)))
        };
        let best = |mut hypotheses: Vec<Hypothesis>, width: usize| {
            if hypotheses.len() > width {
                hypotheses.select_nth_unstable_by(width, better);
                hypotheses.truncate(width);
            }
            hypotheses
        };
        let mut kept = if wide == self.width {
            best(extended, wide)
        } else {
            let of = |search: fn(&Hypothesis) -> bool| -> Vec<Hypothesis> {
                extended.iter().filter(|h| search(h)).copied().collect()
            };
            let narrow = best(of(|h| h.narrow), self.width);
            let nodes: HashSet<u32> = narrow.iter().map(|h| h.node).collect();
            let mut kept = best(of(|h| h.wide), wide);
            for h in &mut kept {
                (h.narrow, h.wide) = (nodes.contains(&h.node), true);
            }
            let both: HashSet<u32> = kept.iter().map(|h| h.node).collect();
            let alone = narrow.into_iter().filter(|h| !both.contains(&h.node));
            kept.extend(alone.map(|h| Hypothesis { narrow: true, wide: false, ..h }));
            kept
        };
        kept.sort_unstable_by(better);
        kept
    }
}

fn log_sum_exp(values: impl Iterator<Item = f32> + Clone) -> f32 {
    let max = values.clone().fold(f32::NEG_INFINITY, f32::max);
    max + values.map(|v| (v - max).exp()).sum::<f32>().ln()
}
