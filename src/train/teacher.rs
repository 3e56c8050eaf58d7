//! Sequential recommenders as teacher: what they expect next, as soft targets of the codes.
//!
//! Distillation (Hinton et al., 2015), of several networks by the geometric mean of their distributions. An item is a
//! path of codes, so the teacher's distribution over items is summed along the paths, `q(c_l | c_<l) = sum of p(item)
//! over items below c_1..c_l, divided by that of the items below c_1..c_l-1`. Each label of sequence recommendation is
//! drawn to the target's code and, with a weight, to this distribution given the target's own codes before.
//!
//! A network that scores by likeness expects what the user has already more than anything else, and the model learns
//! that from it. What is expected of that may be cut to the share of repeats among what training takes.

use std::collections::{BTreeSet, HashMap, HashSet};
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
    /// Cuts what the teacher expects of a user's own items to the share of repeats in training: NDCG may rise where
    /// they are ranked, and fall a little where they are left out.
    pub limit_repeats: bool,
}

impl Default for DistillationConfig {
    fn default() -> Self {
        Self { weight: 0.0, beside: BTreeSet::new(), temperature: 1.0, limit_repeats: false }
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

/// Trained networks and the codes of their items.
#[derive(Debug)]
pub struct Teacher {
    networks: Vec<Box<dyn Sequential>>,
    config: DistillationConfig,
    /// How much of what is expected a user may have already, where that is limited.
    repeats: Option<f32>,
    /// The id of the first item token, and how many there are.
    first: u32,
    width: usize,
    /// The vocabulary ids of every item's tokens.
    places: Vec<Vec<u32>>,
    /// Of each level but the first: the items by what stands before their code there.
    below: Vec<HashMap<Vec<u32>, Vec<ItemId>>>,
}

impl Teacher {
    /// `items` has the vocabulary ids of every item's tokens, of which `first` is the smallest and `width`
    /// the number of all; `repeats` is the share of items that a user takes for another time, to limit what is
    /// expected of such.
    pub fn new(
        networks: Vec<Box<dyn Sequential>>,
        config: DistillationConfig,
        repeats: Option<f64>,
        items: &[Vec<u32>],
        first: u32,
        width: usize,
    ) -> Self {
        let places = items.to_vec();
        let levels = places.first().map_or(0, Vec::len);
        let mut below = vec![HashMap::<_, Vec<ItemId>>::new(); levels.saturating_sub(1)];
        for (item, places) in (0..).zip(&places) {
            for (level, below) in below.iter_mut().enumerate() {
                below.entry(places[..=level].to_vec()).or_default().push(item);
            }
        }
        Self {
            networks,
            config,
            repeats: repeats.map(|share| share as f32),
            first,
            width,
            places,
            below,
        }
    }

    /// The soft targets of all labels of sequence recommendation in `samples`, in their order: the item tokens
    /// that may follow, by ascending id, with their shares.
    ///
    /// # Errors
    /// A sample whose labels are not the codes of its target items.
    pub fn distributions(&self, samples: &[Sample]) -> Result<Vec<Vec<(u32, f32)>>> {
        self.by_blocks(samples, self.block())
    }

    /// [`Self::distributions`], so many targets scored at once.
    fn by_blocks(&self, samples: &[Sample], block: usize) -> Result<Vec<Vec<(u32, f32)>>> {
        let levels = self.places.first().map_or(0, Vec::len);
        let mut targets = Vec::new();
        for sample in samples.iter().filter(|s| s.recommends) {
            let of_sample = sample.items.len() - sample.first_target;
            if sample.first_target == 0 || of_sample * levels != sample.labels.len() {
                invalid!("a teacher needs samples that tell their items");
            }
            let ends = sample.first_target..sample.items.len();
            targets.extend(ends.map(|end| (&sample.items[..end], sample.items[end])));
        }
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        let states = self.networks.iter().map(|network| states_before(&**network, samples));
        let states: Vec<(Tensor, Vec<u32>)> = states.collect::<Result<_>>()?;
        let mut distributions = Vec::with_capacity(targets.len() * levels);
        for (targets, first) in targets.chunks(block).zip((0..).step_by(block)) {
            let mut expected = self.expected(&states, first..first + targets.len())?;
            let of_targets = expected.par_chunks_mut(self.places.len()).zip(targets);
            let of_block = of_targets.map(|(expected, &(before, target))| {
                if let Some(repeats) = self.repeats {
                    cut_repeats(expected, before, repeats);
                }
                let of_level = |level| self.distribution(expected, level, target);
                (0..levels).map(of_level).collect::<Vec<_>>()
            });
            distributions.extend(of_block.collect::<Vec<_>>().into_iter().flatten());
        }
        Ok(distributions)
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

    /// Bytes that the distributions of so many targets take at most, and what they are made of.
    pub(super) fn bytes(&self, targets: usize) -> u64 {
        let scores = targets.min(self.block()) * self.places.len() * size_of::<f32>();
        let first: HashSet<u32> =
            self.places.iter().filter_map(|codes| codes.first().copied()).collect();
        // Each share with its code; those below one path are few beside those of the first level.
        let shares = targets * first.len() * size_of::<(u32, f32)>();
        // The scores as a tensor and as values, and what the networks before have said.
        let held = if self.networks.len() > 1 { 3 } else { 2 };
        (held * scores + shares) as u64
    }

    /// The distribution of the code at `level`, given those of `target` before it.
    fn distribution(&self, p: &[f32], level: usize, target: ItemId) -> Vec<(u32, f32)> {
        let place = |item: usize| self.places[item][level];
        let mut shares: Vec<(u32, f32)> = match level.checked_sub(1) {
            None => {
                let mut sums = vec![0f32; self.width];
                let first = self.first;
                p.iter()
                    .enumerate()
                    .for_each(|(item, p)| sums[(place(item) - first) as usize] += p);
                (first..).zip(sums).filter(|(_, sum)| *sum > 0.0).collect()
            }
            Some(above) => {
                let before = &self.places[target as usize][..level];
                let items = self.below[above][before].iter();
                let mut shares: Vec<(u32, f32)> =
                    items.map(|&item| (place(item as usize), p[item as usize])).collect();
                shares.sort_by_key(|(place, _)| *place);
                shares.dedup_by(|next, kept| {
                    let same = next.0 == kept.0;
                    kept.1 += if same { next.1 } else { 0.0 };
                    same
                });
                shares
            }
        };
        let mass: f32 = shares.iter().map(|(_, share)| share).sum();
        if mass > 0.0 {
            for (_, share) in &mut shares {
                *share /= mass;
            }
            shares
        } else {
            // Nothing of the teacher's is below: the target itself is as good as anything.
            vec![(place(target as usize), 1.0)]
        }
    }

    /// `rows` as what a loss is drawn to.
    pub(super) fn soft<'r>(&self, rows: &'r [Vec<(u32, f32)>]) -> SoftTargets<'r> {
        SoftTargets { weight: self.config.weight as f32, first: 0, rows }
    }

    /// The share of what is expected in what is drawn to.
    pub(super) fn weight(&self) -> f64 {
        self.config.weight
    }
}

/// The states of `network` at the items of what recommends in `samples`, and which of them is before each target.
fn states_before(network: &dyn Sequential, samples: &[Sample]) -> Result<(Tensor, Vec<u32>)> {
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

/// Cuts what `p`, a distribution over all items, has of the items `before` to `repeats` of it; what it has of
/// the others grows in proportion.
fn cut_repeats(p: &mut [f32], before: &[ItemId], repeats: f32) {
    let mut own = before.to_vec();
    own.sort_unstable();
    own.dedup();
    let mass: f32 = own.iter().map(|&item| p[item as usize]).sum();
    // Where nothing else is expected there is nothing to give it to.
    if mass <= repeats || mass >= 1.0 {
        return;
    }
    let (of_own, of_others) = (repeats / mass, (1.0 - repeats) / (1.0 - mass));
    for p in &mut *p {
        *p *= of_others;
    }
    for &item in &own {
        p[item as usize] *= of_own / of_others;
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::model::sequential::{Hgn, HgnConfig, SasRec, SasRecConfig, TransformerConfig};

    fn sasrec() -> Box<dyn Sequential> {
        let transformer = TransformerConfig {
            dim: 8,
            blocks: 1,
            heads: 1,
            feed_forward: 8,
            history: 6,
            ..TransformerConfig::default()
        };
        let config = SasRecConfig { transformer, ..SasRecConfig::default() };
        Box::new(SasRec::new(&config, 4, 3, DType::F32, &Device::Cpu).unwrap())
    }

    /// One with a bias for every item, that reads fewer of them.
    fn hgn() -> Box<dyn Sequential> {
        let config = HgnConfig { dim: 8, history: 2, ..HgnConfig::default() };
        let network = Hgn::new(&config, 4, 2, 3, DType::F32, &Device::Cpu).unwrap();
        let mut stream = crate::rng::stream(1, "hgn", &[]);
        for (name, value) in network.weights().unwrap() {
            let draws = crate::rng::normal(&mut stream, value.elem_count(), 1.0);
            let draws = Tensor::from_vec(draws, value.shape(), &Device::Cpu).unwrap();
            network.params().set(&name, &draws).unwrap();
        }
        Box::new(network)
    }

    fn teacher() -> Teacher {
        teacher_of(vec![sasrec()])
    }

    fn teacher_of(networks: Vec<Box<dyn Sequential>>) -> Teacher {
        // Two codes at the first level, two at the second.
        let items = [[10, 12], [10, 13], [11, 12], [11, 13]].map(|tokens| tokens.to_vec());
        Teacher::new(networks, DistillationConfig::default(), None, &items, 10, 4)
    }

    fn sample(items: &[ItemId], first_target: usize) -> Sample {
        let labels = vec![(0, 0); (items.len() - first_target) * 2];
        Sample {
            items: items.to_vec(),
            first_target,
            labels,
            recommends: true,
            ..Sample::default()
        }
    }

    fn dense(rows: &[Vec<(u32, f32)>]) -> Vec<[f32; 4]> {
        let line = |row: &Vec<(u32, f32)>| {
            let mut line = [0.0; 4];
            for &(id, share) in row {
                line[id as usize - 10] = share;
            }
            line
        };
        rows.iter().map(line).collect()
    }

    #[test]
    fn the_distribution_over_items_is_summed_along_the_paths() {
        let teacher = teacher();
        let other = Sample { recommends: false, ..Sample::default() };
        let samples = [sample(&[0, 3, 1], 1), other, sample(&[2, 2], 1)];
        let lines = dense(&teacher.distributions(&samples).unwrap());
        assert_eq!(lines.len(), 6);

        // The target item 1 after 0 and 3: scored on its own.
        let scores = teacher.networks[0].scores(&[History::of(&[0, 3])]).unwrap();
        let p: Vec<f32> =
            ops::log_softmax_rows(&scores).unwrap().exp().unwrap().to_vec2().unwrap().remove(0);
        let close = |a: &[f32], b: [f32; 4]| {
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6), "{a:?} {b:?}");
        };
        close(&lines[2], [p[0] + p[1], p[2] + p[3], 0.0, 0.0]);
        let below = p[0] + p[1];
        close(&lines[3], [0.0, 0.0, p[0] / below, p[1] / below]);
        for line in lines {
            assert!((line.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{line:?}");
        }
    }

    #[test]
    fn several_networks_teach_by_the_geometric_mean_of_what_they_expect() {
        let networks = [sasrec(), hgn()];
        // The target item 1 after 0 and 3.
        let history = [History::of(&[0, 3])];
        let of = |network: &dyn Sequential| -> Vec<f32> {
            let scores = network.scores(&history).unwrap();
            ops::log_softmax_rows(&scores).unwrap().exp().unwrap().to_vec2().unwrap().remove(0)
        };
        let [one, other] = [of(&*networks[0]), of(&*networks[1])];
        let products: Vec<f32> = one.iter().zip(&other).map(|(a, b)| (a * b).sqrt()).collect();
        let all: f32 = products.iter().sum();
        let p: Vec<f32> = products.iter().map(|product| product / all).collect();
        assert!(one.iter().zip(&other).any(|(a, b)| (a - b).abs() > 1e-2), "they expect the same");

        let teacher = teacher_of(networks.into());
        let lines = dense(&teacher.distributions(&[sample(&[0, 3, 1], 1)]).unwrap());
        let below = p[0] + p[1];
        let right = [[below, p[2] + p[3], 0.0, 0.0], [0.0, 0.0, p[0] / below, p[1] / below]];
        for (line, right) in lines[2..].iter().zip(right) {
            assert!(
                line.iter().zip(right).all(|(a, b)| (a - b).abs() < 1e-6),
                "{line:?} {right:?}"
            );
        }
    }

    #[test]
    fn targets_are_scored_in_blocks_as_at_once() {
        let teacher = teacher_of(vec![sasrec(), hgn()]);
        let samples = [sample(&[0, 3, 1, 2], 1), sample(&[2, 2], 1)];
        let at_once = dense(&teacher.distributions(&samples).unwrap());
        for block in 1..4 {
            let found = dense(&teacher.by_blocks(&samples, block).unwrap());
            assert_eq!(found.len(), at_once.len());
            for (a, b) in found.iter().flatten().zip(at_once.iter().flatten()) {
                assert!((a - b).abs() < 1e-6, "blocks of {block}: {a} {b}");
            }
        }
        // Scores of four items as tensor, as values and as what the first network said; two codes at the first level.
        assert_eq!(teacher.bytes(5), 3 * 5 * 4 * 4 + 5 * 2 * 8);
    }

    #[test]
    fn later_targets_do_not_change_earlier_distributions() {
        // States see what is before them alone, but positions count from the end.
        let teacher = teacher();
        let found = teacher.distributions(&[sample(&[0, 3, 1], 1)]).unwrap();
        let changed = teacher.distributions(&[sample(&[0, 3, 2], 1)]).unwrap();
        assert_eq!(found[..3], changed[..3]);
        assert_ne!(found[3], changed[3]);
    }

    #[test]
    fn what_a_user_has_already_is_expected_no_more_often_than_it_is_taken() {
        let close = |found: &[f32], right: &[f32]| {
            assert!(
                found.iter().zip(right).all(|(a, b)| (a - b).abs() < 1e-6),
                "{found:?} {right:?}"
            );
        };
        let cut = |before: &[ItemId], repeats| {
            let mut p = [0.5, 0.3, 0.15, 0.05];
            cut_repeats(&mut p, before, repeats);
            p
        };
        close(&cut(&[0, 1, 0], 0.0), &[0.0, 0.0, 0.75, 0.25]);
        close(&cut(&[0, 1, 0], 0.4), &[0.25, 0.15, 0.45, 0.15]);
        // A teacher that expects fewer repeats is believed, and what is left of nothing stays.
        close(&cut(&[2], 0.4), &[0.5, 0.3, 0.15, 0.05]);
        close(&cut(&[0, 1, 2, 3], 0.0), &[0.5, 0.3, 0.15, 0.05]);

        let teacher = Teacher { repeats: Some(0.0), ..teacher() };
        let lines = dense(&teacher.distributions(&[sample(&[0, 3, 1], 1)]).unwrap());
        // Of item 1, after 0 and 3: only 1 and 2 can come, and only 1 has the target's first code.
        assert!(lines[2][0] > 0.0 && lines[2][1] > 0.0, "{lines:?}");
        close(&lines[3], &[0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn a_sample_that_tells_no_items_is_refused() {
        let sample = Sample { labels: vec![(0, 0)], recommends: true, ..Sample::default() };
        teacher().distributions(&[sample]).unwrap_err();
    }
}
