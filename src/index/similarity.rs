//! Whether items that share a prefix are more alike than strangers, by any vectors and by who takes
//! them together.

use ndarray::{ArrayView1, ArrayView2};
use rand::Rng as _;
use rayon::prelude::*;
use serde::Serialize;

use super::{ItemIndex, Part, Source};
use crate::rng::{self, Rng};

/// Pairs looked at of a kind: all of them where there are no more, else so many draws.
const MOST_PAIRS: u64 = 20_000;

/// How alike items are that share a prefix of one source's codes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Similarity {
    /// The source whose codes are shared.
    pub source: Source,
    /// How many of them, from the first.
    pub prefix_length: usize,
    /// How many pairs of items share that many or more.
    pub pairs: u64,
    /// How many of these pairs the cosines are of.
    pub pairs_compared: usize,
    /// How many pairs of strangers they are compared with.
    pub strangers_compared: usize,
    /// By z^s, where the run has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub semantic: Option<Likeness>,
    /// By z^b, where the run has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behavior: Option<Likeness>,
    /// By training interactions.
    pub co_purchase: Lift,
}

/// Cosines of pairs of items.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Likeness {
    /// The mean over pairs that share the prefix.
    pub siblings: f64,
    /// The mean over strangers: pairs whose first codes of the source differ.
    pub strangers: f64,
    /// The probability that siblings are closer than strangers, ties counted half: 0.5 where sharing the
    /// prefix says nothing.
    pub closer: f64,
}

/// How often pairs of items are taken by the same user, as a multiple of what it would be if users took
/// items independently of each other. `None` where no such pair is expected at all.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lift {
    /// Pairs that share the prefix.
    pub siblings: Option<f64>,
    /// Pairs whose first codes of the source differ.
    pub strangers: Option<f64>,
}

/// The similarity of siblings in `part`, for every prefix length that some items share.
///
/// `vectors` are z^s and z^b, (items, dim); `sequences` what each user took in training. Cosines are of
/// drawn pairs, which `seed` fixes; co-purchase is counted over all.
pub fn similarity(
    index: &ItemIndex,
    part: &Part,
    vectors: [Option<ArrayView2<'_, f32>>; 2],
    sequences: &[&[u32]],
    seed: u64,
) -> Vec<Similarity> {
    let place = part.levels().first().copied().unwrap_or(0) as u64;
    let mut stream = rng::stream(seed, "index similarity strangers", &[place]);
    let apart = strangers(&part.groups(index, 1).collect::<Vec<_>>(), &mut stream);
    let apart_cosines = vectors.map(|z| z.map(|z| cosines(z, &apart)));
    let compares = vectors.iter().any(Option::is_some);
    let takings = Takings::new(index.num_items(), sequences);
    let all = takings.within(std::iter::once(part.order()));
    let first = takings.within(part.groups(index, 1));
    let strangers = all.minus(first).lift();

    let mut found = Vec::new();
    for prefix_length in 1..=part.levels().len() {
        let groups: Vec<&[u32]> = part.groups(index, prefix_length).collect();
        let mut stream =
            rng::stream(seed, "index similarity siblings", &[place, prefix_length as u64]);
        let (pairs, together) = siblings(&groups, &mut stream);
        if together.is_empty() {
            break;
        }
        let likeness = |i: usize| {
            let apart = apart_cosines[i].as_ref().filter(|apart| !apart.is_empty())?;
            Some(Likeness::of(&cosines(vectors[i]?, &together), apart))
        };
        let siblings = takings.within(groups.iter().copied()).lift();
        found.push(Similarity {
            source: part.source(),
            prefix_length,
            pairs,
            pairs_compared: if compares { together.len() } else { 0 },
            strangers_compared: if compares { apart.len() } else { 0 },
            semantic: likeness(0),
            behavior: likeness(1),
            co_purchase: Lift { siblings, strangers },
        });
    }
    found
}

impl Likeness {
    fn of(siblings: &[f64], strangers: &[f64]) -> Self {
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let mut sorted = strangers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let beaten = |x: &f64| {
            let below = sorted.partition_point(|y| y < x);
            let up_to = sorted.partition_point(|y| y <= x);
            (below + up_to) as f64 / 2.0
        };
        let beaten: f64 = siblings.iter().map(beaten).sum();
        Self {
            siblings: mean(siblings),
            strangers: mean(strangers),
            closer: beaten / (siblings.len() * strangers.len()) as f64,
        }
    }
}

/// The number of pairs within `groups`, and all of them or draws from them, each as likely.
fn siblings(groups: &[&[u32]], stream: &mut Rng) -> (u64, Vec<(u32, u32)>) {
    let pairs = |n: usize| (n * n.saturating_sub(1) / 2) as u64;
    let ends = running_sum(groups.iter().map(|group| pairs(group.len())));
    let total = ends.last().copied().unwrap_or(0);
    if total <= MOST_PAIRS {
        let of = |group: &&[u32]| {
            let group = group.to_vec();
            (0..group.len())
                .flat_map(|i| (0..i).map(|j| (group[j], group[i])).collect::<Vec<_>>())
                .collect::<Vec<_>>()
        };
        return (total, groups.iter().flat_map(of).collect());
    }
    let draw = |_| {
        let group = groups[pick(&ends, stream)];
        let i = stream.gen_range(0..group.len());
        let j = stream.gen_range(0..group.len() - 1);
        (group[i], group[j + usize::from(j >= i)])
    };
    (total, (0..MOST_PAIRS).map(draw).collect())
}

/// Pairs of items of different groups, each as likely; none where there is one group.
fn strangers(groups: &[&[u32]], stream: &mut Rng) -> Vec<(u32, u32)> {
    let items: Vec<u32> = groups.concat();
    let starts = running_sum(groups.iter().map(|group| group.len() as u64));
    let pairs = |group: &&[u32]| (group.len() * (items.len() - group.len())) as u64;
    let ends = running_sum(groups.iter().map(pairs));
    if ends.last().is_none_or(|&total| total == 0) {
        return Vec::new();
    }
    let draw = |_| {
        let at = pick(&ends, stream);
        let group = groups[at];
        let start = starts[at] as usize - group.len();
        let other = stream.gen_range(0..items.len() - group.len());
        let other = if other < start { other } else { other + group.len() };
        (group[stream.gen_range(0..group.len())], items[other])
    };
    (0..MOST_PAIRS).map(draw).collect()
}

fn running_sum(weights: impl Iterator<Item = u64>) -> Vec<u64> {
    let add = |sum: &mut u64, weight| {
        *sum += weight;
        Some(*sum)
    };
    weights.scan(0, add).collect()
}

/// A place drawn in proportion to the steps of the running sum `ends`.
fn pick(ends: &[u64], stream: &mut Rng) -> usize {
    let drawn = stream.gen_range(0..ends[ends.len() - 1]);
    ends.partition_point(|&end| end <= drawn)
}

/// The cosine of each pair of rows of `z`; 0 where a row is zero.
fn cosines(z: ArrayView2<'_, f32>, pairs: &[(u32, u32)]) -> Vec<f64> {
    let dot = |a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>| -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    let cosine = |&(a, b): &(u32, u32)| {
        let (a, b) = (z.row(a as usize), z.row(b as usize));
        let length = (dot(a, a) * dot(b, b)).sqrt();
        if length > 0.0 { dot(a, b) / length } else { 0.0 }
    };
    pairs.par_iter().map(cosine).collect()
}

/// Who took what in training, an item once a user.
struct Takings {
    /// The different items of each user.
    users: Vec<Vec<u32>>,
    /// The users of each item.
    counts: Vec<u64>,
}

/// Pairs of items taken by one user: how many there are and how many chance would give.
#[derive(Debug, Clone, Copy)]
struct Together {
    observed: f64,
    expected: f64,
}

impl Together {
    fn minus(self, part: Self) -> Self {
        let (observed, expected) = (self.observed - part.observed, self.expected - part.expected);
        Self { observed, expected }
    }

    fn lift(self) -> Option<f64> {
        // What rounding leaves of nothing is not an expectation.
        (self.expected > 1e-9).then(|| self.observed / self.expected)
    }
}

impl Takings {
    fn new(num_items: usize, sequences: &[&[u32]]) -> Self {
        let distinct = |items: &&[u32]| {
            let mut items = items.to_vec();
            items.sort_unstable();
            items.dedup();
            items
        };
        // Users without any tell nothing of what is taken together.
        let some = sequences.iter().filter(|items| !items.is_empty());
        let users: Vec<Vec<u32>> = some.map(distinct).collect();
        let mut counts = vec![0; num_items];
        for &item in users.iter().flatten() {
            counts[item as usize] += 1;
        }
        Self { users, counts }
    }

    /// Pairs within `groups`, which have no item in common. Linear in interactions and items: a user
    /// who took c items of a group took c (c - 1) / 2 of its pairs, and the sum of all products of two
    /// different counts is half of the squared sum less the squares.
    fn within<'a>(&self, groups: impl Iterator<Item = &'a [u32]>) -> Together {
        let mut group_of = vec![usize::MAX; self.counts.len()];
        let mut expected = 0.0;
        for (group, items) in groups.enumerate() {
            let (mut sum, mut squares) = (0.0, 0.0);
            for &item in items {
                group_of[item as usize] = group;
                let count = self.counts[item as usize] as f64;
                sum += count;
                squares += count * count;
            }
            expected += (sum * sum - squares) / 2.0;
        }
        let mut observed = 0.0;
        for items in &self.users {
            let mut groups: Vec<usize> =
                items.iter().map(|&item| group_of[item as usize]).collect();
            groups.sort_unstable();
            for same in groups.chunk_by(|a, b| a == b).filter(|same| same[0] != usize::MAX) {
                observed += (same.len() * (same.len() - 1)) as f64 / 2.0;
            }
        }
        Together { observed, expected: expected / (self.users.len() as f64).max(1.0) }
    }
}

/// The `count` items among `items` whose rows of `z`, (all items, dim), are nearest to the mean of the
/// rows of `items`, nearest first; ties go to the smaller id.
pub fn central(z: ArrayView2<'_, f32>, items: &[u32], count: usize) -> Vec<u32> {
    let mut mean = vec![0f64; z.ncols()];
    for &item in items {
        mean.iter_mut().zip(z.row(item as usize)).for_each(|(m, x)| *m += f64::from(*x));
    }
    for m in &mut mean {
        *m /= items.len() as f64;
    }
    let distance = |item: u32| -> f64 {
        z.row(item as usize).iter().zip(&mean).map(|(x, m)| (f64::from(*x) - m).powi(2)).sum()
    };
    let mut found: Vec<(f64, u32)> = items.iter().map(|&item| (distance(item), item)).collect();
    found.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    found.truncate(count);
    found.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ndarray::{Array2, array};

    use super::*;
    use crate::index::Level;

    fn index() -> ItemIndex {
        let level = |source| Level { source, num_codes: 4 };
        let levels = vec![level(Source::Semantic), level(Source::Semantic)];
        ItemIndex::new(levels, vec![0, 0, 0, 1, 1, 0, 1, 1, 2, 0]).unwrap()
    }

    #[test]
    fn figures_equal_looking_at_every_pair() {
        let z = array![[1.0, 0.0], [1.0, 0.2], [0.0, 1.0], [-0.3, 1.0], [-1.0, -1.0f32]];
        let sequences: [&[u32]; 4] = [&[0, 1, 2, 0], &[1, 0], &[2, 4], &[3]];
        let (index, n) = (index(), 5);
        let parts = Part::of(&index);
        let found = similarity(&index, &parts[0], [Some(z.view()), None], &sequences, 1);
        assert_eq!(found.len(), 1, "no two items share both codes");
        let found = &found[0];
        assert_eq!((found.prefix_length, found.pairs, found.pairs_compared), (1, 2, 2));
        assert!(found.behavior.is_none());

        let all = (0..n).flat_map(|i| (0..i).map(move |j| (j, i)));
        let (same, other): (Vec<_>, Vec<_>) =
            all.partition(|&(a, b)| index.item_codes(a)[0] == index.item_codes(b)[0]);
        let mean = |pairs: &[(u32, u32)]| {
            cosines(z.view(), pairs).iter().sum::<f64>() / pairs.len() as f64
        };
        let likeness = found.semantic.unwrap();
        assert!((likeness.siblings - mean(&same)).abs() < 1e-12);
        // Strangers are drawn: twenty thousand of the eight pairs.
        assert!((likeness.strangers - mean(&other)).abs() < 0.02);
        assert!((likeness.closer - 1.0).abs() < 1e-12);

        let took = |user: &[u32], item: u32| user.contains(&item);
        let lift = |pairs: &[(u32, u32)]| {
            let users = |item| sequences.iter().filter(|user| took(user, item)).count() as f64;
            let both = |a, b| sequences.iter().filter(|u| took(u, a) && took(u, b)).count();
            let observed: usize = pairs.iter().map(|&(a, b)| both(a, b)).sum();
            let expected: f64 = pairs.iter().map(|&(a, b)| users(a) * users(b) / 4.0).sum();
            observed as f64 / expected
        };
        assert!((found.co_purchase.siblings.unwrap() - lift(&same)).abs() < 1e-9);
        assert!((found.co_purchase.strangers.unwrap() - lift(&other)).abs() < 1e-9);
    }

    #[test]
    fn drawn_pairs_are_evenly_spread_over_all_there_are() {
        let items: Vec<u32> = (0..400).collect();
        let groups = [&items[..300], &items[300..301], &items[301..]];
        let mut stream = rng::stream(1, "test", &[]);
        let (total, drawn) = siblings(&groups, &mut stream);
        assert_eq!((total, drawn.len() as u64), (300 * 299 / 2 + 99 * 98 / 2, MOST_PAIRS));
        assert!(drawn.iter().all(|(a, b)| a != b && (*a < 300) == (*b < 300)));
        let first = drawn.iter().filter(|(a, _)| *a < 300).count() as f64 / MOST_PAIRS as f64;
        assert!((first - 44_850.0 / total as f64).abs() < 0.01, "{first}");

        let mut by_group: BTreeMap<_, f64> = BTreeMap::new();
        let group = |item: u32| usize::from(item >= 300) + usize::from(item >= 301);
        for (a, b) in strangers(&groups, &mut stream) {
            let pair = (group(a).min(group(b)), group(a).max(group(b)));
            *by_group.entry(pair).or_default() += 1.0 / MOST_PAIRS as f64;
        }
        let all = 300.0 + 300.0 * 99.0 + 99.0;
        for (pair, pairs) in [((0, 1), 300.0), ((0, 2), 300.0 * 99.0), ((1, 2), 99.0)] {
            assert!((by_group[&pair] - pairs / all).abs() < 0.01, "{pair:?}");
        }
        assert_eq!(by_group.len(), 3, "no pair is of one group");
        assert!(strangers(&groups[..1], &mut stream).is_empty());
    }

    #[test]
    fn central_items_are_nearest_to_the_mean() {
        let z = Array2::from_shape_fn((6, 1), |(i, _)| [0.0, 9.0, 4.0, 6.0, 100.0, 6.0][i]);
        // The mean of 0, 9, 4, 6, 6 is 5.
        assert_eq!(central(z.view(), &[0, 1, 2, 3, 5], 4), [2, 3, 5, 1]);
        assert_eq!(central(z.view(), &[4], 3), [4]);
    }
}
