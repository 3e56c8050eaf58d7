//! Whether two models differ: a paired test over the targets they were both evaluated on. Where a user has
//! several, each counts for itself.

use std::collections::HashMap;

use rand::RngCore as _;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::bootstrap::intervals_of_means;
use super::evaluator::Prediction;
use super::metrics::{COUNT, PerMetric, gains};
use crate::{Result, invalid, rng};

/// How often the two models change places at random.
pub const PERMUTATIONS: usize = 10_000;

/// A difference is established where chance alone brings as large a one less often.
pub const SIGNIFICANCE: f64 = 0.05;

/// Sums of the same gains in another order differ by less.
const ROUNDING: f64 = 1e-9;

/// One metric of two models.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The mean of this model.
    pub this: f64,
    /// The mean of the other one.
    pub other: f64,
    /// `this - other`.
    pub difference: f64,
    /// The bootstrap interval of the difference.
    pub interval: [f64; 2],
    /// How likely so large a difference, in either direction, is between models that do not differ.
    pub p_value: f64,
}

impl Difference {
    /// Whether it is larger than chance alone brings often.
    pub fn is_established(&self) -> bool {
        self.p_value < SIGNIFICANCE
    }
}

/// Compares two models on the same users by the `rank` of each target: [`Prediction::rank`], or the one with
/// the history left out. Each has been trained at least once; of several trainings, with other seeds, a user's
/// results are averaged.
///
/// # Errors
/// If the users or their targets are not the same.
pub fn compare(
    this: &[&[Prediction]],
    other: &[&[Prediction]],
    rank: fn(&Prediction) -> Option<usize>,
    seed: u64,
) -> Result<PerMetric<Difference>> {
    let Some(&targets) = this.first() else {
        invalid!("there is nothing to compare");
    };
    let (these, others) = (mean_gains(targets, this, rank)?, mean_gains(targets, other, rank)?);
    // Users whose difference is the same in every metric are of one class.
    let (mut class_of, mut classes, mut differences) = (HashMap::new(), Vec::new(), Vec::new());
    for (a, b) in these.iter().zip(&others) {
        let difference: [f64; COUNT] = std::array::from_fn(|metric| a[metric] - b[metric]);
        let class = *class_of.entry(difference.map(f64::to_bits)).or_insert_with(|| {
            differences.push(difference);
            differences.len() - 1
        });
        classes.push(class);
    }
    let intervals = intervals_of_means(&classes, &differences, seed);
    let p_values = p_values(&classes, &differences, seed);
    let mean = |gains: &[[f64; COUNT]], metric: usize| {
        gains.iter().map(|gains| gains[metric]).sum::<f64>() / gains.len() as f64
    };
    Ok(PerMetric::from_fn(|metric| {
        let (this, other) = (mean(&these, metric), mean(&others, metric));
        Difference {
            this,
            other,
            difference: this - other,
            interval: intervals.values()[metric],
            p_value: p_values[metric],
        }
    }))
}

/// What a target is matched by.
fn key(prediction: &Prediction) -> (&str, usize) {
    (&prediction.user, prediction.position)
}

/// What each of `targets` gains on average over `trainings`, by metric.
fn mean_gains(
    targets: &[Prediction],
    trainings: &[&[Prediction]],
    rank: fn(&Prediction) -> Option<usize>,
) -> Result<Vec<[f64; COUNT]>> {
    let mut sums = vec![[0.0; COUNT]; targets.len()];
    for predictions in trainings {
        let mut by_target: HashMap<(&str, usize), &Prediction> =
            predictions.iter().map(|p| (key(p), p)).collect();
        for (p, sum) in targets.iter().zip(&mut sums) {
            let Some(same) = by_target.remove(&key(p)) else {
                invalid!("user {:?} is in this run's predictions only", p.user);
            };
            if same.target != p.target {
                invalid!(
                    "the target of user {:?} is item {} here and item {} there",
                    p.user,
                    p.target,
                    same.target
                );
            }
            for (sum, gain) in sum.iter_mut().zip(gains(rank(same))) {
                *sum += gain;
            }
        }
        // In the file's order, so that the same user is named every time.
        if let Some(left) = predictions.iter().find(|p| by_target.contains_key(&key(p))) {
            invalid!("user {:?} is in the other run's predictions only", left.user);
        }
    }
    let count = trainings.len() as f64;
    Ok(sums.into_iter().map(|sum| sum.map(|sum| sum / count)).collect())
}

/// The paired randomisation test, two-sided: how often a difference at least as large as the one seen comes
/// about where each user's two results change places by the toss of a coin.
fn p_values(classes: &[usize], gains: &[[f64; COUNT]], seed: u64) -> [f64; COUNT] {
    let mut users = vec![0_u32; gains.len()];
    for &class in classes {
        users[class] += 1;
    }
    // Who gains the same from both is the same in either place.
    let differing = |(class, &users): (usize, &u32)| {
        (users > 0 && gains[class] != [0.0; COUNT]).then_some((users, gains[class]))
    };
    let groups: Vec<_> = users.iter().enumerate().filter_map(differing).collect();
    let sums = |stayed: &mut dyn FnMut(u32) -> u32| {
        let mut sums = [0.0; COUNT];
        for (users, gains) in &groups {
            let sign = 2.0 * f64::from(stayed(*users)) - f64::from(*users);
            for (sum, gain) in sums.iter_mut().zip(gains) {
                *sum += sign * gain;
            }
        }
        sums
    };
    let seen = sums(&mut |users| users);
    let as_large = |i: usize| {
        let mut stream = rng::stream(seed, "randomisation test", &[i as u64]);
        let permuted = sums(&mut |users| heads(&mut stream, users));
        std::array::from_fn(|m| usize::from(permuted[m].abs() >= seen[m].abs() - ROUNDING))
    };
    let add = |a: [usize; COUNT], b: [usize; COUNT]| std::array::from_fn(|m| a[m] + b[m]);
    let times = (0..PERMUTATIONS).into_par_iter().map(as_large).reduce(|| [0; COUNT], add);
    // What was seen is one of the permutations.
    times.map(|times| (times + 1) as f64 / (PERMUTATIONS + 1) as f64)
}

/// How many of `coins` fall on heads.
fn heads(stream: &mut rng::Rng, coins: u32) -> u32 {
    let words = (0..coins / 64).map(|_| stream.next_u64().count_ones()).sum::<u32>();
    let rest = coins % 64;
    if rest == 0 { words } else { words + (stream.next_u64() >> (64 - rest)).count_ones() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A prediction with the target at `rank`.
    fn at(user: usize, rank: Option<usize>) -> Prediction {
        let mut items: Vec<u32> = (1..=20).collect();
        if let Some(rank) = rank {
            items[rank - 1] = 0;
        }
        Prediction::made_up(&user.to_string(), 0, items)
    }

    fn all(ranks: &[Option<usize>]) -> Vec<Prediction> {
        ranks.iter().enumerate().map(|(user, &rank)| at(user, rank)).collect()
    }

    fn over_seeds(this: &[Vec<Prediction>], other: &[Vec<Prediction>]) -> PerMetric<Difference> {
        let [this, other] = [this, other].map(|all| all.iter().map(Vec::as_slice).collect());
        let (this, other): (Vec<&[Prediction]>, Vec<&[Prediction]>) = (this, other);
        compare(&this, &other, Prediction::rank, 1).unwrap()
    }

    fn recall(this: &[Option<usize>], other: &[Option<usize>]) -> Difference {
        *over_seeds(&[all(this)], &[all(other)]).get("recall@1").unwrap()
    }

    #[test]
    fn p_values_by_hand() {
        // Of 2^5 ways to toss, the two in which all users agree give as large a difference.
        let five = recall(&[Some(1); 5], &[None; 5]);
        assert_eq!((five.this, five.other, five.difference), (1.0, 0.0, 1.0));
        assert_eq!(five.interval, [1.0, 1.0]);
        assert!((five.p_value - 2.0 / 32.0).abs() < 0.01, "{}", five.p_value);
        // 3 better, 1 worse: all ways but the 6 of 16 that cancel out.
        let (hit, miss) = (Some(1), None);
        let four = recall(&[hit, hit, hit, miss, hit], &[miss, miss, miss, hit, hit]);
        assert!((four.difference - 0.4).abs() < 1e-12);
        assert!((four.p_value - 10.0 / 16.0).abs() < 0.02, "{}", four.p_value);
    }

    #[test]
    fn equal_models_do_not_differ() {
        let ranks = [Some(1), None, Some(7), Some(20)];
        let same = recall(&ranks, &ranks);
        assert_eq!((same.difference, same.interval, same.p_value), (0.0, [0.0, 0.0], 1.0));
    }

    #[test]
    fn a_difference_counts_by_pairs_and_not_by_totals() {
        // 30 users gained and none lost is no accident; 330 gained and 300 lost may be.
        let ranks = |hits: std::ops::Range<usize>| -> Vec<Option<usize>> {
            (0..1000).map(|user| hits.contains(&user).then_some(1)).collect()
        };
        let nested = recall(&ranks(0..330), &ranks(0..300));
        let apart = recall(&ranks(0..330), &ranks(400..700));
        assert!((nested.difference - apart.difference).abs() < 1e-12);
        assert!(nested.p_value < 0.001 && apart.p_value > 0.1, "{nested:?}, {apart:?}");
        assert!(nested.interval[0] > 0.0 && apart.interval[0] < 0.0);
    }

    #[test]
    fn users_are_matched_by_id_in_any_order() {
        let this = all(&[Some(1), None, Some(3)]);
        let mut other = all(&[None, Some(2), Some(3)]);
        let this = [this];
        let straight = over_seeds(&this, &[other.clone()]);
        other.reverse();
        assert_eq!(over_seeds(&this, &[other]), straight);
    }

    #[test]
    fn a_user_counts_once_however_many_seeds_there_are() {
        // 5 users, each found by this model with one seed of two: half a hit each, and 2 of 2^5 tosses.
        let (hit, miss) = (Some(1), None);
        let this = [all(&[hit, miss, hit, miss, hit]), all(&[miss, hit, miss, hit, miss])];
        let found = over_seeds(&this, &[all(&[None; 5])]);
        let recall = found.get("recall@1").unwrap();
        assert_eq!((recall.this, recall.interval), (0.5, [0.5, 0.5]));
        assert!((recall.p_value - 2.0 / 32.0).abs() < 0.01, "{}", recall.p_value);
    }

    #[test]
    fn other_users_or_targets_are_refused_by_name() {
        let error = |this: &[Prediction], other: &[Prediction]| {
            compare(&[this], &[other], Prediction::rank, 1).unwrap_err().to_string()
        };
        let two = all(&[Some(1), None]);
        assert!(error(&two, &two[..1]).contains("user \"1\" is in this run's predictions only"));
        assert!(error(&two[..1], &two).contains("user \"1\" is in the other run's"));
        let mut moved = two.clone();
        moved[0].target = 9;
        let text = error(&two, &moved);
        assert!(text.contains("user \"0\" is item 0 here and item 9 there"), "{text}");
    }

    #[test]
    fn the_seed_and_not_the_threads_decide_the_draws() {
        let this: Vec<_> = (0..300).map(|u| (u % 3 > 0).then_some(u % 20 + 1)).collect();
        let other: Vec<_> = (0..300).map(|u| (u % 4 > 0).then_some(u % 19 + 1)).collect();
        let with_threads = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| over_seeds(&[all(&this)], &[all(&other)]))
        };
        assert_eq!(with_threads(1), with_threads(3));
    }
}
