//! Recommenders over item ids: a network turns a history into a state, and the state, held against what it has of every
//! item, gives a score an item. Beside them, one that writes the codes of the next item (`tiger`).
//!
//! Shapes: tokens (the items of all histories in a row, without padding), width (of a state).

mod bert4rec;
mod caser;
mod config;
mod fdsa;
mod gru4rec;
mod hgn;
mod layers;
mod recent;
mod s3rec;
mod sasrec;
mod tiger;
mod transformer;

use std::collections::BTreeMap;
use std::fmt::Debug;

use candle_core::{Result, Tensor, bail};

use crate::nn::Params;
use crate::ops::{self, Precision};

pub use bert4rec::{Bert4Rec, Bert4RecConfig};
pub use caser::{Caser, CaserConfig};
pub use config::{Loss, TrainingConfig};
pub use fdsa::{Attributes, Fdsa, FdsaConfig};
pub use gru4rec::{Gru4Rec, Gru4RecConfig};
pub use hgn::{Hgn, HgnConfig};
pub use layers::Masks;
pub use s3rec::{S3Rec, S3RecConfig};
pub use sasrec::{SasRec, SasRecConfig};
pub use tiger::{Codes, Memory, Reading, Tiger, TigerConfig, TigerPart, TigerWorkspace, Written};
pub use transformer::TransformerConfig;

/// What a state is asked of: some items, oldest first, and whose they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History<'a> {
    /// The user among those of training; none for one who was not there.
    pub user: Option<u32>,
    /// At least one item.
    pub items: &'a [u32],
}

impl<'a> History<'a> {
    /// The items of nobody in particular.
    pub fn of(items: &'a [u32]) -> Self {
        Self { user: None, items }
    }

    /// The last `most` items.
    #[must_use]
    pub fn last(self, most: usize) -> Self {
        Self { items: &self.items[self.items.len().saturating_sub(most)..], ..self }
    }
}

/// What states are held against.
#[derive(Debug, Clone)]
pub struct Items {
    /// (items, width)
    pub weight: Tensor,
    /// (items), added to the scores.
    pub bias: Option<Tensor>,
}

impl Items {
    /// The item embeddings (items, width) themselves.
    fn shared(embeddings: &Tensor) -> Self {
        Self { weight: embeddings.clone(), bias: None }
    }
}

/// The items a sampled softmax chooses among, shared by all targets of a step, which are among them.
#[derive(Debug, Clone)]
pub struct Candidates {
    /// Items, ascending and distinct.
    pub items: Vec<u32>,
    /// The logarithm of the probability with which each item came to be a candidate: taken from its
    /// score, so that items often among them are not pushed down the more for it (Jean et al., 2015).
    pub log_probabilities: Vec<f32>,
}

/// What every network has.
#[derive(Debug, Clone)]
pub struct Core {
    /// The trainable parameters.
    pub params: Params,
    /// What states are held against.
    pub items: Items,
    /// The most items of a history that are read.
    pub history: usize,
    /// What the values of matrix products are rounded to.
    pub precision: Precision,
}

/// What a network is to find out before it is trained to tell the next item (Zhou et al., 2020): some sequences with
/// something hidden, by the number of all items. Of a batch it may have a part.
#[derive(Debug, Clone, Default)]
pub struct Puzzle {
    /// How many items the sequences of the batch before these have.
    pub before: usize,
    /// The sequences, some items of each hidden.
    pub rows: Vec<Vec<u32>>,
    /// The places of the hidden items, among all rows one after another.
    pub places: Vec<u32>,
    /// The items hidden there.
    pub hidden: Vec<u32>,
    /// As many that their users have not taken.
    pub others: Vec<u32>,
    /// The items that are not hidden.
    pub seen: Vec<u32>,
    /// The sequences, a segment of each hidden.
    pub without_segments: Vec<Vec<u32>>,
    /// The same, all but the segment hidden.
    pub segments: Vec<Vec<u32>>,
    /// The same with a segment from elsewhere.
    pub other_segments: Vec<Vec<u32>>,
}

/// What the names begin with of parameters that serve pre-training alone.
pub const PRETRAINING: &str = "pretraining.";

/// What comes before the training of a network.
pub trait Pretraining {
    /// Passes over the training sequences.
    fn epochs(&self) -> usize;

    /// The share of a sequence's items that are hidden.
    fn hidden_share(&self) -> f64;

    /// The loss of a puzzle's sequences, summed, a number; `dropout` is the key of the masks of a training pass.
    fn loss(&self, puzzle: &Puzzle, dropout: Option<u64>) -> Result<Tensor>;
}

/// A recommender over item ids.
pub trait Sequential: Debug + Send + Sync {
    /// What it has in common with all others.
    fn core(&self) -> &Core;

    /// The trainable parameters.
    fn params(&self) -> &Params {
        &self.core().params
    }

    /// The most items of a history that it reads.
    fn history(&self) -> usize {
        self.core().history
    }

    /// About how many values a training pass keeps of a token.
    fn values_per_token(&self) -> usize;

    /// The state at every item of every history, (tokens, width), of that item and those before it; a training pass
    /// drops by the masks `dropout`.
    ///
    /// # Errors
    /// A history that is empty or longer than what is read, an unknown item.
    fn states(&self, histories: &[History<'_>], dropout: Option<Masks>) -> Result<Tensor>;

    /// The state after each history, (histories, width), from the last items that are read; where items are hidden, at
    /// a hidden one behind them. Takes no part in the gradient.
    fn last_states(&self, histories: &[History<'_>]) -> Result<Tensor> {
        let hidden = self.hidden().map(|_| self.num_items() as u32);
        let with_hidden = |history: &History<'_>| {
            let last = history.last(self.looks_back());
            last.items.iter().copied().chain(hidden).collect()
        };
        let asked: Vec<Vec<u32>> = histories.iter().map(with_hidden).collect();
        let asked: Vec<History<'_>> = histories
            .iter()
            .zip(&asked)
            .map(|(history, items)| History { user: history.user, items })
            .collect();
        let ends = ends(asked.iter().map(|history| history.items.len()));
        ops::embedding(&self.states(&asked, None)?.detach(), &ends)
    }

    /// The most items that a window of training shows: a hidden one takes the place of one.
    fn reads(&self) -> usize {
        self.history() - usize::from(self.hidden().is_some())
    }

    /// The most items of a history that its last state depends on.
    fn looks_back(&self) -> usize {
        self.reads()
    }

    /// The share of the items that are hidden in training, of a network that is trained to find those rather than the
    /// next (Devlin et al., 2019); a hidden item has the number of all items as its own.
    fn hidden(&self) -> Option<f64> {
        None
    }

    /// What comes before its training, of one that is trained twice.
    fn pretraining(&self) -> Option<&dyn Pretraining> {
        None
    }

    /// How many items it knows.
    fn num_items(&self) -> usize {
        self.core().items.weight.dims()[0]
    }

    /// The scores of all items after each history, (histories, items). Takes no part in the gradient.
    fn scores(&self, histories: &[History<'_>]) -> Result<Tensor> {
        self.scores_of(&self.last_states(histories)?, self.core().precision)
    }

    /// The scores of all items from `states` (n, width), (n, items), by products of this precision. Takes no part in the
    /// gradient.
    fn scores_of(&self, states: &Tensor, precision: Precision) -> Result<Tensor> {
        let Items { weight, bias } = &self.core().items;
        let scores = ops::linear(states, &weight.detach(), precision)?;
        match bias {
            Some(bias) => scores.broadcast_add(&bias.detach()),
            None => Ok(scores),
        }
    }

    /// The negative log-likelihood of each target among all items, (n), from `states` (n, width).
    fn losses(&self, states: &Tensor, targets: &[u32]) -> Result<Tensor> {
        let Core { items: Items { weight, bias }, precision, .. } = self.core();
        match bias {
            Some(bias) => ops::biased_cross_entropy(states, weight, bias, targets, *precision),
            None => ops::cross_entropy(states, weight, targets, *precision),
        }
    }

    /// The negative log-likelihood of each target among the candidates, (n), from `states` (n, width).
    ///
    /// # Errors
    /// A target that is no candidate.
    fn sampled_losses(
        &self,
        states: &Tensor,
        targets: &[u32],
        candidates: &Candidates,
    ) -> Result<Tensor> {
        let Candidates { items, log_probabilities } = candidates;
        let mut places = Vec::with_capacity(targets.len());
        for target in targets {
            match items.binary_search(target) {
                Ok(place) => places.push(place as u32),
                Err(_) => bail!("the target {target} is not among the candidates"),
            }
        }
        let Core { items: Items { weight, bias }, precision, .. } = self.core();
        let likely = Tensor::from_slice(log_probabilities, items.len(), states.device())?;
        let mut added = likely.to_dtype(states.dtype())?.neg()?;
        if let Some(bias) = bias {
            added = (added + gather(bias, items)?)?;
        }
        let weight = ops::embedding(weight, items)?;
        ops::biased_cross_entropy(states, &weight, &added, &places, *precision)
    }

    /// The binary cross-entropy of each target against one other item, (n), from `states` (n, width) (Kang and McAuley,
    /// 2018, equation 6).
    fn binary_losses(&self, states: &Tensor, targets: &[u32], others: &[u32]) -> Result<Tensor> {
        let Items { weight, bias } = &self.core().items;
        let score = |items: &[u32]| -> Result<Tensor> {
            let product = (ops::embedding(weight, items)? * states)?.sum(1)?;
            match bias {
                Some(bias) => product + gather(bias, items)?,
                None => Ok(product),
            }
        };
        ops::softplus(&score(targets)?.neg()?)? + ops::softplus(&score(others)?)?
    }

    /// A deep copy of the parameters by name, for a file.
    fn weights(&self) -> Result<BTreeMap<String, Tensor>> {
        self.params().snapshot()
    }

    /// Takes over weights that [`Self::weights`] gave.
    ///
    /// # Errors
    /// Names a parameter that is missing or has another shape.
    fn set_weights(&self, weights: &BTreeMap<String, Tensor>) -> Result<()> {
        self.params().restore(weights)
    }
}

/// The items of histories in a row, and how many each has.
fn packed(histories: &[History<'_>]) -> (Vec<u32>, Vec<usize>) {
    let items = histories.iter().flat_map(|history| history.items).copied().collect();
    (items, histories.iter().map(|history| history.items.len()).collect())
}

/// The last places of rows of these lengths, one after another.
fn ends(lengths: impl Iterator<Item = usize>) -> Vec<u32> {
    let mut end = 0;
    let last = lengths.map(|length| {
        end += length as u32;
        end.saturating_sub(1)
    });
    last.collect()
}

/// The positions of rows of these lengths: the last of each is that of the longest history.
fn from_the_end(lengths: &[usize], most: usize) -> Vec<u32> {
    lengths.iter().flat_map(|length| (most - length) as u32..most as u32).collect()
}

/// Refuses histories that a network cannot read.
fn check(name: &str, most: usize, histories: &[History<'_>]) -> Result<()> {
    match histories.iter().map(|history| history.items.len()).find(|&n| n == 0 || n > most) {
        Some(length) => bail!("{name}: a history of {length} items, expected 1 to {most}"),
        None => Ok(()),
    }
}

/// The values of `vector` (n) at `places`.
fn gather(vector: &Tensor, places: &[u32]) -> Result<Tensor> {
    ops::embedding(&vector.unsqueeze(1)?, places)?.squeeze(1)
}

#[cfg(test)]
mod tests;
