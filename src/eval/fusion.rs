//! Generators and scorers of all items, ranked together.
//!
//! An item's probability is the weighted mean of two: the mean of what the generators give its tokens, 0 from
//! one whose search did not find it, and the geometric mean of what a softmax makes of each scorer's scores. So
//! whoever is surer of a user has more of a say for that user.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::evaluator::{Evaluation, metrics_of};
use super::metrics::{DEPTH, Metrics};
use super::protocol::Protocol;
use super::ranking::{ItemScorer, asked, top};
use crate::Result;
use crate::data::{Dataset, ItemId};
use crate::decode::{Found, Ranked};
use crate::model::sequential::History;
use crate::ops::slices::{log_sum_exp, softmax};

/// Users scored together.
const BATCH: usize = 256;
/// What an item has of a scorer whose search did not find it: next to nothing, though others may find it.
const UNFOUND: f32 = f32::MIN_POSITIVE;
/// So many steps there are from 0 to 1 between the weights that [`Fusion::choose`] tries.
const STEPS: u32 = 20;

/// An item that may be among a user's best, whatever the weight.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    item: ItemId,
    generated: f32,
    scored: f32,
}

/// What generators and scorers say before some targets.
#[derive(Debug)]
pub struct Fusion<'a> {
    dataset: &'a Dataset,
    protocol: Protocol,
    /// Targets by their positions among the split's, with the items that can be among the best: all ranked, then
    /// with those of the user left out.
    targets: Vec<(usize, [Vec<Candidate>; 2])>,
}

impl<'a> Fusion<'a> {
    /// What each generator (at least one) `found` for `targets`, ascending positions among the split's, with what
    /// the scorers, whom `repeat_bias` is told, say about them.
    pub fn of(
        found: &[Vec<(usize, Found)>],
        scorers: &[Box<dyn ItemScorer>],
        dataset: &'a Dataset,
        targets: &[usize],
        protocol: Protocol,
        repeat_bias: Option<f64>,
    ) -> Result<Self> {
        let mut with_candidates = Vec::with_capacity(targets.len());
        for batch in targets.chunks(BATCH) {
            let done = with_candidates.len();
            let histories: Vec<History<'_>> =
                batch.iter().map(|&target| asked(dataset, protocol, target)).collect();
            let scores = mean_probabilities(scorers, &histories, repeat_bias)?;
            let of_batch = batch.par_iter().enumerate().map(|(at, &target)| {
                let scores = scores.get(at).map_or(&[][..], Vec::as_slice);
                let best = |left_out| top(scores, DEPTH, &dataset.items, left_out);
                let others = best(protocol.left_out(dataset, target));
                let of_target = || {
                    found.iter().map(|of| {
                        let (found_for, found) = &of[done + at];
                        debug_assert_eq!(*found_for, target);
                        found
                    })
                };
                let ranked = of_target().flat_map(|found| &found.ranked);
                let ranked = candidates(ranked, found.len(), &best(&[]), scores);
                let others_found = of_target().flat_map(|found| &found.others);
                (target, [ranked, candidates(others_found, found.len(), &others, scores)])
            });
            let of_batch: Vec<_> = of_batch.collect();
            with_candidates.extend(of_batch);
        }
        Ok(Self { dataset, protocol, targets: with_candidates })
    }

    /// The evaluation of what the scorers, with this weight, and the generators, with the rest, say together.
    pub fn evaluation(&self, weight: f64) -> Evaluation {
        let fused = |(target, [ranked, others]): &(usize, [Vec<Candidate>; 2])| {
            let best = |candidates| best_of(candidates, weight);
            (*target, Found { ranked: best(ranked), others: best(others) })
        };
        let found: Vec<(usize, Found)> = self.targets.par_iter().map(fused).collect();
        Evaluation::of(self.dataset, self.protocol, found)
    }

    /// Its metrics, all items ranked.
    fn metrics(&self, weight: f64) -> Metrics {
        let fused = |(target, [ranked, _]): &(usize, [Vec<Candidate>; 2])| {
            (*target, Found { ranked: best_of(ranked, weight), others: Vec::new() })
        };
        let found: Vec<(usize, Found)> = self.targets.par_iter().map(fused).collect();
        metrics_of(self.dataset, self.protocol, &found)
    }

    /// The weight of the scorers under which `figure` is highest; the smallest of several.
    pub fn choose(&self, figure: impl Fn(&Metrics) -> f64) -> f64 {
        let mut best = (f64::NEG_INFINITY, 0.0);
        for step in 0..=STEPS {
            let weight = f64::from(step) / f64::from(STEPS);
            let value = figure(&self.metrics(weight));
            if value > best.0 {
                best = (value, weight);
            }
        }
        best.1
    }
}

/// The best candidates, as many as any metric looks at.
fn best_of(candidates: &[Candidate], weight: f64) -> Vec<Ranked> {
    let mut ranked = rank(candidates, weight as f32);
    ranked.truncate(DEPTH);
    ranked
}

/// The geometric mean of the scorers' distributions over all items, a row a history; nothing where there are none.
///
/// `repeat_bias` is that of the model they rank with: it is added to the logarithms of what the items of a history have.
pub fn mean_probabilities(
    scorers: &[Box<dyn ItemScorer>],
    histories: &[History<'_>],
    repeat_bias: Option<f64>,
) -> Result<Vec<Vec<f32>>> {
    let mut means: Vec<Vec<f32>> = Vec::new();
    for scorer in scorers {
        let mut scores = scorer.scores(histories)?;
        let num_items = scores.len() / histories.len().max(1);
        means.resize(histories.len(), vec![0.0; num_items]);
        let rows = scores.par_chunks_mut(num_items.max(1)).zip(means.par_iter_mut());
        rows.for_each(|(scores, mean)| {
            let (all, least) = (log_sum_exp(scores), UNFOUND.ln());
            mean.iter_mut().zip(scores).for_each(|(mean, s)| *mean += (*s - all).max(least));
        });
    }
    let count = scorers.len() as f32;
    if let Some(bias) = repeat_bias {
        for (mean, history) in means.iter_mut().zip(histories) {
            let owned: BTreeSet<ItemId> = history.items.iter().copied().collect();
            for item in owned {
                mean[item as usize] += count * bias as f32;
            }
        }
    }
    means.par_iter_mut().for_each(|mean| softmax(mean, count));
    Ok(means)
}

/// What a generator found for one user and the items that scorers put first, ranked together: best first, ties by
/// item id, scores are logarithms. `probabilities` are the scorers' of all items, `weight` is their share.
pub fn ranked_together(
    generated: &[Ranked],
    scored: &[Ranked],
    probabilities: &[f32],
    weight: f64,
) -> Vec<Ranked> {
    rank(&candidates(generated.iter(), 1, scored, probabilities), weight as f32)
}

/// What `generators` generators and the scorers find. An item that no generator found is behind those that the
/// scorers put before it.
fn candidates<'a>(
    generated: impl Iterator<Item = &'a Ranked>,
    generators: usize,
    scored: &[Ranked],
    probabilities: &[f32],
) -> Vec<Candidate> {
    let mut means: BTreeMap<ItemId, f32> = scored.iter().map(|r| (r.item, 0.0)).collect();
    for found in generated {
        *means.entry(found.item).or_default() += found.score.exp() / generators as f32;
    }
    let candidate = |(item, generated)| Candidate {
        item,
        generated,
        scored: probabilities.get(item as usize).copied().unwrap_or_default(),
    };
    means.into_iter().map(candidate).collect()
}

/// The best candidates, ties by item id; scores are logarithms.
fn rank(candidates: &[Candidate], weight: f32) -> Vec<Ranked> {
    let together = |c: &Candidate| {
        let p = (1.0 - weight) * c.generated + weight * c.scored;
        (p > 0.0).then_some(Ranked { item: c.item, score: p.ln() })
    };
    let mut ranked: Vec<Ranked> = candidates.iter().filter_map(together).collect();
    ranked.sort_by(Ranked::best_first);
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Item, Split, User};

    struct Fixed(Vec<f32>);

    impl ItemScorer for Fixed {
        fn scores(&self, histories: &[History<'_>]) -> Result<Vec<f32>> {
            Ok(histories.iter().flat_map(|_| self.0.clone()).collect())
        }
    }

    #[test]
    fn scorers_are_averaged_geometrically() {
        let ln = |p: [f32; 3]| Box::new(Fixed(p.map(f32::ln).to_vec())) as Box<dyn ItemScorer>;
        let scorers = [ln([0.5, 0.25, 0.25]), ln([0.1, 0.8, 0.1])];
        let histories = [History::of(&[0]), History::of(&[1])];
        let mean = mean_probabilities(&scorers, &histories, None).unwrap();
        assert_eq!(mean.len(), 2);
        for row in &mean {
            // The roots of 0.05, 0.2 and 0.025, of their sum.
            let expected = [0.269_752, 0.539_504, 0.190_744];
            assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{row:?}");
        }
        // Half as much of what a user has, however often.
        let bias = Some(0.5f64.ln());
        let known = mean_probabilities(&scorers, &[History::of(&[1, 1])], bias).unwrap().remove(0);
        let all = 1.0 - 0.539_504 / 2.0;
        let expected = [0.269_752, 0.539_504 / 2.0, 0.190_744].map(|p| p / all);
        assert!(known.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{known:?}");
        // What one search did not find is behind all else, in the order of the other.
        let found = Box::new(Fixed(vec![f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0]));
        let scorers = [ln([0.6, 0.3, 0.1]), found as Box<dyn ItemScorer>];
        let mean = mean_probabilities(&scorers, &[History::of(&[0])], None).unwrap().remove(0);
        assert!(mean[2] > mean[0] && mean[0] > mean[1] && mean[1] > 0.0, "{mean:?}");
    }

    #[test]
    fn a_weight_of_none_ranks_as_the_generator_and_one_as_the_scorers() {
        let scored = [0.1f32, 0.6, 0.2, 0.1];
        let ranked = |item: ItemId, p: f32| Ranked { item, score: p.ln() };
        let generated = [ranked(0, 0.5), ranked(2, 0.25)];
        let best = [1, 2, 0, 3].map(|item| ranked(item, scored[item as usize]));
        let candidates = candidates(generated.iter(), 1, &best, &scored);
        let order = |weight| rank(&candidates, weight).iter().map(|r| r.item).collect::<Vec<_>>();
        assert_eq!(order(0.0), [0, 2]);
        assert_eq!(order(1.0), [1, 2, 0, 3]);
        // 0.3, 0.3, 0.225, 0.05: equal ones by id.
        assert_eq!(order(0.5), [0, 1, 2, 3]);
    }

    #[test]
    fn generators_are_averaged_over_all_of_them() {
        let ranked = |item: ItemId, p: f32| Ranked { item, score: p.ln() };
        // Item 1 is found by one of two alone.
        let generated = [ranked(0, 0.25), ranked(1, 0.5), ranked(0, 0.375)];
        let candidates = candidates(generated.iter(), 2, &[], &[]);
        let found = rank(&candidates, 0.0);
        assert_eq!(found.iter().map(|r| r.item).collect::<Vec<_>>(), [0, 1]);
        for (found, expected) in found.iter().zip([0.3125f32, 0.25]) {
            assert!((found.score.exp() - expected).abs() < 1e-6, "{found:?}");
        }
    }

    #[test]
    fn each_rule_ranks_what_its_own_search_found() {
        let user = User { id: "a".into(), items: vec![0, 1, 2] };
        let dataset = Dataset::new("Three", vec![user], vec![Item::default(); 4]).unwrap();
        let protocol = Protocol { split: Split::Test, max_history: 20, both_rules: true };
        let found = |item, generated| vec![Candidate { item, generated, scored: 0.25 }];
        let targets = vec![(0, [found(3, 0.5), found(2, 0.25)])];
        let fusion = Fusion { dataset: &dataset, protocol, targets };
        let evaluation = fusion.evaluation(0.5);
        assert_eq!(fusion.metrics(0.5), evaluation.metrics);
        let [prediction] = &evaluation.predictions[..] else { panic!("one user") };
        assert_eq!((&prediction.items, prediction.rank()), (&vec![3], None));
        assert_eq!(prediction.rank_history_excluded, Some(1));
        assert!((prediction.scores[0] - 0.375f32.ln()).abs() < 1e-6);
    }
}
