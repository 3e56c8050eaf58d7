//! Sequential recommenders as teacher: what they expect next, as soft targets of the codes.
//!
//! Distillation (Hinton et al., 2015), of several networks by the geometric mean of their distributions. An item is a
//! path of codes, so the teacher's distribution over items is summed along the paths, `q(c_l | c_<l) = sum of p(item)
//! over items below c_1..c_l, divided by that of the items below c_1..c_l-1`. Each label of sequence recommendation is
//! drawn to the target's code and, with a weight, to this distribution given the target's own codes before.
//!
//! A network that scores by likeness expects what the user has already more than anything else, and the model learns
//! that from it, too: of a model with a repeat bias less comes of that (docs/log.md).

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::data::ItemId;
use crate::model::sequential::{History, Sequential};
use crate::ops::slices::{SoftTargets, softmax};
use crate::tasks::Sample;
use crate::{Result, invalid, ops};

/// `[train.distillation]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct DistillationConfig {
    /// The share of the teacher's distribution in what sequence recommendation is drawn to; 0 for no
    /// teacher. The teacher is the SASRec of z^b.
    pub weight: f64,
    /// Baselines that teach beside it, by the geometric mean of all distributions. Each is trained with the run's seed,
    /// where it does not stand in the run folder.
    pub beside: BTreeSet<Colleague>,
    /// The teacher's scores are divided by this.
    pub temperature: f64,
}

impl Default for DistillationConfig {
    fn default() -> Self {
        Self { weight: 0.0, beside: BTreeSet::new(), temperature: 1.0 }
    }
}

impl DistillationConfig {
    /// The baselines that teach, if anything does.
    pub fn colleagues(&self) -> impl Iterator<Item = Colleague> {
        self.beside.iter().copied().filter(|_| self.weight > 0.0)
    }
}

/// A baseline that may teach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colleague {
    /// It reads attributes of items.
    Fdsa,
    /// Asked as of a user whom it does not know.
    Hgn,
}

impl Colleague {
    /// The name of the baseline.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fdsa => "fdsa",
            Self::Hgn => "hgn",
        }
    }
}

/// Bytes of scores that are worked on at once: of many targets over many items they would take more than a step.
const SCORE_BYTES: usize = 64 << 20;
/// Bytes of shares that are kept from epoch to epoch, at most.
const KEPT_BYTES: usize = 1 << 30;
/// Samples whose shares are computed together to be kept: the same in every process, for rounding depends on it.
const TOGETHER: usize = 256;

/// Trained networks and the codes of their items.
#[derive(Debug)]
pub struct Teacher {
    networks: Vec<Box<dyn Sequential>>,
    config: DistillationConfig,
    /// The vocabulary ids of every item's tokens.
    places: Vec<Vec<u32>>,
    /// Of each level: the codes by what stands before them.
    codes: Vec<HashMap<Vec<u32>, Codes>>,
    /// By the items and the first target of a sample: where its shares begin among all that are kept.
    kept: HashMap<(Vec<ItemId>, usize), usize>,
    shares: Vec<f32>,
}

/// The codes that may follow others.
#[derive(Debug, Default)]
struct Codes {
    /// Their vocabulary ids, ascending.
    ids: Vec<u32>,
    /// The items below, ascending, each with the place of its code among the ids.
    items: Vec<(ItemId, usize)>,
}

impl Teacher {
    /// `items` has the vocabulary ids of every item's tokens.
    pub fn new(
        networks: Vec<Box<dyn Sequential>>,
        config: DistillationConfig,
        items: &[Vec<u32>],
    ) -> Self {
        let levels = items.first().map_or(0, Vec::len);
        let of_level = |level: usize| {
            let mut codes = HashMap::<Vec<u32>, Codes>::new();
            for places in items {
                codes.entry(places[..level].to_vec()).or_default().ids.push(places[level]);
            }
            for Codes { ids, .. } in codes.values_mut() {
                ids.sort_unstable();
                ids.dedup();
            }
            for (item, places) in (0..).zip(items) {
                let of_path = codes.entry(places[..level].to_vec()).or_default();
                let place = of_path.ids.partition_point(|&id| id < places[level]);
                of_path.items.push((item, place));
            }
            codes
        };
        Self {
            networks,
            config,
            places: items.to_vec(),
            codes: (0..levels).map(of_level).collect(),
            kept: HashMap::new(),
            shares: Vec::new(),
        }
    }

    /// Whether what is asked of `samples` may be kept.
    pub fn has_room(&self, samples: &[Sample]) -> bool {
        samples.iter().map(|sample| self.num_shares(sample)).sum::<usize>()
            <= KEPT_BYTES / size_of::<f32>()
    }

    /// Computes what will be asked of `samples` and keeps it: the networks stay as they are, and every epoch asks them
    /// the same. Hands on how many samples are done.
    ///
    /// # Errors
    /// A sample whose labels are not the codes of its target items.
    pub fn keep(&mut self, samples: &[Sample], mut done: impl FnMut(usize)) -> Result<()> {
        self.shares.reserve_exact(samples.iter().map(|sample| self.num_shares(sample)).sum());
        for (together, first) in samples.chunks(TOGETHER).zip((0..).step_by(TOGETHER)) {
            let together: Vec<&Sample> = together.iter().collect();
            let mut begin = self.shares.len();
            let shares = self.shares_of(&together, self.block())?;
            self.shares.extend(shares);
            for sample in together {
                self.kept.insert(key(sample), begin);
                begin += self.num_shares(sample);
            }
            done(first + TOGETHER.min(samples.len() - first));
        }
        Ok(())
    }

    /// The soft targets of all labels of sequence recommendation in `samples`, in their order: the item tokens
    /// that may follow, by ascending id, with their shares.
    ///
    /// # Errors
    /// A sample whose labels are not the codes of its target items.
    pub fn distributions(&self, samples: &[Sample]) -> Result<Vec<Vec<(u32, f32)>>> {
        let places: Vec<_> = samples.iter().map(|sample| self.kept.get(&key(sample))).collect();
        let unknown = samples.iter().zip(&places).filter(|(_, place)| place.is_none());
        let unknown: Vec<&Sample> = unknown.map(|(sample, _)| sample).collect();
        let computed = self.shares_of(&unknown, self.block())?;
        let mut computed = &computed[..];
        let mut distributions = Vec::new();
        for (sample, place) in samples.iter().zip(places) {
            let mut shares = place.map_or(computed, |&begin| &self.shares[begin..]);
            for Codes { ids, .. } in self.codes_of(sample) {
                let (of_label, others) = shares.split_at(ids.len());
                distributions.push(ids.iter().copied().zip(of_label.iter().copied()).collect());
                shares = others;
            }
            if place.is_none() {
                computed = shares;
            }
        }
        Ok(distributions)
    }

    /// For each label of sequence recommendation in `sample`, the codes that may stand there.
    fn codes_of<'s>(&'s self, sample: &'s Sample) -> impl Iterator<Item = &'s Codes> {
        let targets = if sample.recommends { &sample.items[sample.first_target..] } else { &[] };
        targets.iter().flat_map(|&target| {
            let places = &self.places[target as usize];
            self.codes.iter().enumerate().map(|(level, codes)| &codes[&places[..level]])
        })
    }

    /// How many shares the labels of `sample` have.
    fn num_shares(&self, sample: &Sample) -> usize {
        self.codes_of(sample).map(|codes| codes.ids.len()).sum()
    }

    /// The shares of the codes that may stand at each label of sequence recommendation, label after label; so many
    /// targets are scored at once.
    fn shares_of(&self, samples: &[&Sample], block: usize) -> Result<Vec<f32>> {
        let levels = self.codes.len();
        let mut targets = Vec::new();
        for sample in samples.iter().filter(|s| s.recommends) {
            let of_sample = sample.items.len() - sample.first_target;
            if sample.first_target == 0 || of_sample * levels != sample.labels.len() {
                invalid!("a teacher needs samples that tell their items");
            }
            targets.extend_from_slice(&sample.items[sample.first_target..]);
        }
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        let states = self.networks.iter().map(|network| states_before(&**network, samples));
        let states: Vec<(Tensor, Vec<u32>)> = states.collect::<Result<_>>()?;
        let mut shares = Vec::new();
        for (targets, first) in targets.chunks(block).zip((0..).step_by(block)) {
            let expected = self.expected(&states, first..first + targets.len())?;
            let of_targets = expected.par_chunks(self.places.len()).zip(targets);
            let of_block = of_targets.map(|(expected, &target)| {
                let of_level = |level| self.shares_at(expected, level, target);
                (0..levels).flat_map(of_level).collect::<Vec<_>>()
            });
            shares.extend(of_block.collect::<Vec<_>>().into_iter().flatten());
        }
        Ok(shares)
    }

    /// What the networks together expect of all items at some of the targets, a row each: the softmax of the mean of
    /// their scores, which is the geometric mean of their distributions. `states` has those of each network, and which
    /// of them is before each target.
    fn expected(&self, states: &[(Tensor, Vec<u32>)], targets: Range<usize>) -> Result<Vec<f32>> {
        let mut sums: Vec<f32> = Vec::new();
        for (network, (states, rows)) in self.networks.iter().zip(states) {
            let states = ops::embedding(states, &rows[targets.clone()])?;
            let scores = network.scores_of(&states, ops::Precision::Full)?;
            let scores: Vec<f32> = scores.flatten_all()?.to_vec1()?;
            if sums.is_empty() {
                sums = scores;
            } else {
                sums.par_iter_mut().zip(scores).for_each(|(sum, score)| *sum += score);
            }
        }
        let divisor = self.config.temperature as f32 * self.networks.len() as f32;
        sums.par_chunks_mut(self.places.len()).for_each(|row| softmax(row, divisor));
        Ok(sums)
    }

    /// Targets whose items are scored at once.
    fn block(&self) -> usize {
        (SCORE_BYTES / (size_of::<f32>() * self.places.len()).max(1)).max(1)
    }

    /// Bytes that the distributions of so many targets take at most, and what they are made of; what is kept is there
    /// already.
    pub(super) fn bytes(&self, targets: usize) -> u64 {
        let first = self.codes.first().map_or(0, |codes| codes[&[][..]].ids.len());
        // Each share with its code; those below one path are few beside those of the first level.
        let shares = targets * first * size_of::<(u32, f32)>();
        let scores = targets.min(self.block()) * self.places.len() * size_of::<f32>();
        // The scores as a tensor and as values, and what the networks before have said.
        let held = if self.networks.len() > 1 { 3 } else { 2 };
        (held * scores + shares) as u64
    }

    /// The shares of the codes at `level`, given those of `target` before it.
    fn shares_at(&self, p: &[f32], level: usize, target: ItemId) -> Vec<f32> {
        let places = &self.places[target as usize];
        let Codes { ids, items } = &self.codes[level][&places[..level]];
        let mut shares = vec![0f32; ids.len()];
        for &(item, place) in items {
            shares[place] += p[item as usize];
        }
        let mass: f32 = shares.iter().sum();
        if mass > 0.0 {
            for share in &mut shares {
                *share /= mass;
            }
        } else {
            // Nothing of the teacher's is below: the target itself is as good as anything.
            shares[ids.partition_point(|&id| id < places[level])] = 1.0;
        }
        shares
    }

    /// `rows` as what a loss is drawn to.
    pub(super) fn soft<'r>(&self, rows: &'r [Vec<(u32, f32)>]) -> SoftTargets<'r> {
        SoftTargets { weight: self.config.weight as f32, first: 0, rows }
    }
}

/// What is asked for `sample` is this alone.
fn key(sample: &Sample) -> (Vec<ItemId>, usize) {
    (sample.items.clone(), sample.first_target)
}

/// The states of `network` at the items of what recommends in `samples`, and which of them is before each target.
fn states_before(network: &dyn Sequential, samples: &[&Sample]) -> Result<(Tensor, Vec<u32>)> {
    let (mut histories, mut rows) = (Vec::new(), Vec::new());
    let mut tokens = 0;
    for sample in samples.iter().filter(|s| s.recommends) {
        let history = &sample.items[..sample.items.len() - 1];
        let from = history.len().saturating_sub(network.history());
        if from > sample.first_target - 1 {
            let (reads, holds) = (network.history(), history.len());
            invalid!("the teacher reads {reads} items, a sample has {holds}");
        }
        let first = tokens + (sample.first_target - 1 - from) as u32;
        rows.extend(first..first + (sample.items.len() - sample.first_target) as u32);
        tokens += (history.len() - from) as u32;
        histories.push(History::of(&history[from..]));
    }
    Ok((network.states(&histories, None)?.detach(), rows))
}
