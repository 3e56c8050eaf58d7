//! Confidence intervals of means over users, by the percentile bootstrap.

use rand::Rng as _;
use rayon::prelude::*;

use super::metrics::{COUNT, DEPTH, PerMetric, gains};
use crate::rng;

/// How often the users are resampled.
pub const RESAMPLES: usize = 1000;

/// The share of the resampled means that an interval encloses.
pub const CONFIDENCE: f64 = 0.95;

/// A lower and an upper bound for each metric.
pub type Intervals = PerMetric<[f64; 2]>;

/// How many classes of ranks there are: one for each that counts, and one for all others.
const RANKS: usize = DEPTH + 1;

/// The class of a rank: users of one class gain the same in every metric.
fn class_of(rank: Option<usize>) -> usize {
    rank.filter(|&r| r <= DEPTH).unwrap_or(0)
}

/// The rank that stands for a class.
fn rank_of_class(class: usize) -> Option<usize> {
    (class > 0).then_some(class)
}

/// The intervals of the metrics of users whose target stands at these ranks.
pub fn intervals(ranks: &[Option<usize>], seed: u64) -> Intervals {
    let classes: Vec<usize> = ranks.iter().map(|&rank| class_of(rank)).collect();
    let gains: Vec<_> = (0..RANKS).map(|class| gains(rank_of_class(class))).collect();
    intervals_of_means(&classes, &gains, seed)
}

/// The intervals of the mean gains of users, each of whom gains what their class does.
pub(super) fn intervals_of_means(
    classes: &[usize],
    gains: &[[f64; COUNT]],
    seed: u64,
) -> Intervals {
    let users = classes.len() as u32;
    let resample = |stream: &mut rng::Rng| {
        let mut counts = vec![0_u32; gains.len()];
        for _ in 0..users {
            counts[classes[stream.gen_range(0..users) as usize]] += 1;
        }
        let mut means = [0.0; COUNT];
        for (&count, gains) in counts.iter().zip(gains).filter(|(count, _)| **count > 0) {
            for (mean, gain) in means.iter_mut().zip(gains) {
                *mean += f64::from(count) * gain / f64::from(users);
            }
        }
        means
    };
    let intervals = intervals_of(resample, seed);
    PerMetric::from_fn(|metric| intervals[metric])
}

/// The intervals of figures that a resample comes to.
///
/// Every resample has a stream of its own, so any number of threads draws the same.
pub(super) fn intervals_of<const N: usize>(
    resample: impl Fn(&mut rng::Rng) -> [f64; N] + Sync,
    seed: u64,
) -> [[f64; 2]; N] {
    let resample = |i: usize| resample(&mut rng::stream(seed, "bootstrap", &[i as u64]));
    let found: Vec<[f64; N]> = (0..RESAMPLES).into_par_iter().map(resample).collect();
    std::array::from_fn(|figure| {
        let mut of_figure: Vec<f64> = found.iter().map(|figures| figures[figure]).collect();
        of_figure.sort_unstable_by(f64::total_cmp);
        let outside = 1.0 - CONFIDENCE;
        [outside / 2.0, 1.0 - outside / 2.0].map(|share| quantile(&of_figure, share))
    })
}

/// A quantile of ascending values, linear between neighbours, as `numpy.quantile` has it.
fn quantile(ascending: &[f64], share: f64) -> f64 {
    let at = share * (ascending.len() - 1) as f64;
    let (below, above) = (ascending[at.floor() as usize], ascending[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `hits` users with the target in the first place, the others without it.
    fn ranks(users: usize, hits: usize) -> Vec<Option<usize>> {
        (0..users).map(|user| (user < hits).then_some(1)).collect()
    }

    #[test]
    fn quantiles_by_hand() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.025), 2.5);
        assert_eq!(quantile(&values, 1.0), 100.0);
        assert_eq!(quantile(&[7.0], 0.975), 7.0);
    }

    #[test]
    fn where_all_users_are_alike_the_interval_is_a_point() {
        let alike = intervals(&[Some(2); 30], 1);
        assert_eq!(alike.get("recall@1"), Some(&[0.0, 0.0]));
        let [low, high] = alike.get("mrr@20").unwrap();
        assert!((low - 0.5).abs() < 1e-12 && (high - 0.5).abs() < 1e-12);
    }

    #[test]
    fn the_interval_of_a_share_is_the_binomial_one() {
        let [low, high] = intervals(&ranks(2500, 500), 3).get("recall@10").copied().unwrap();
        let half = 1.96 * (0.2_f64 * 0.8 / 2500.0).sqrt();
        assert!((low - (0.2 - half)).abs() < 0.002, "{low}");
        assert!((high - (0.2 + half)).abs() < 0.002, "{high}");
    }

    #[test]
    fn nineteen_in_twenty_intervals_hold_the_true_value() {
        let truth = 0.3;
        let covers = |sample: u64| {
            let mut stream = rng::stream(sample, "users", &[]);
            let hits = (0..150).filter(|_| rng::uniform(&mut stream) < truth).count();
            let [low, high] = intervals(&ranks(150, hits), sample).get("ndcg@5").copied().unwrap();
            low <= truth && truth <= high
        };
        let covered = (0..300).filter(|&sample| covers(sample)).count();
        assert!((273..=297).contains(&covered), "{covered} of 300");
    }

    #[test]
    fn the_seed_and_not_the_threads_decide_the_draws() {
        let ranks: Vec<Option<usize>> = (0..500).map(|u| (u % 3 > 0).then_some(u % 29)).collect();
        let with_threads = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| intervals(&ranks, 5))
        };
        assert_eq!(with_threads(1), with_threads(3));
        assert_ne!(with_threads(1), intervals(&ranks, 6));
    }
}
