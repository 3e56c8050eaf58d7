//! Residual quantisation: at each level the nearest of one codebook's centroids, then what is left.
//!
//! Codes are unique by construction: among the items that share all earlier codes, each code takes no
//! more items than the levels after it can tell apart, which on the last level is one. Where the
//! nearest codes would break that, the cheapest assignment that keeps it takes their place.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::capacity::capped;
use super::distance::Rows;
use super::distance::squared_distances;
use super::kmeans::BalancedKMeans;
use super::tree::check;
use super::{IndexError, SourceCodes, TreePlan};
use crate::{Result, rng};

/// Which items the codes of one source must tell apart, and how far.
#[derive(Debug, Clone, PartialEq)]
pub struct Uniqueness {
    /// The group of each item: items of different groups may share all codes.
    pub groups: Vec<u32>,
    /// How many items of a group may share all codes: as many as later levels tell apart.
    pub may_share: u128,
}

impl Uniqueness {
    /// No two of `num_items` items may share all codes.
    pub fn alone(num_items: usize) -> Self {
        Self { groups: vec![0; num_items], may_share: 1 }
    }

    /// Any number of items may share all codes.
    pub fn none(num_items: usize) -> Self {
        Self { may_share: u128::MAX, ..Self::alone(num_items) }
    }

    /// As many items may share all codes as the levels of `second` tell apart.
    pub fn before(num_items: usize, second: &TreePlan) -> Self {
        Self { may_share: second.room(), ..Self::alone(num_items) }
    }

    /// No two items may share all codes that share those of `first`.
    pub fn after(first: &SourceCodes) -> Self {
        Self { groups: numbered(first.items()), may_share: 1 }
    }
}

/// The items of each group, in order.
pub(super) fn members(groups: &[u32]) -> Vec<Vec<u32>> {
    let mut members: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (item, &group) in (0..).zip(groups) {
        members.entry(group).or_default().push(item);
    }
    members.into_values().collect()
}

/// Gives the centroids, (codes, dim), of a level for what the levels before left over, (items, dim).
pub type Codebook<'a> = dyn FnMut(usize, ArrayView2<'_, f32>) -> Result<Array2<f32>> + 'a;

/// Quantises `vectors`, (items, dim), with `plan.branching` centroids a level from `codebook`.
///
/// # Errors
/// If vectors cannot be measured, or the levels have fewer tuples than `uniqueness` asks for.
pub fn quantize(
    vectors: ArrayView2<'_, f32>,
    plan: &TreePlan,
    uniqueness: &Uniqueness,
    codebook: &mut Codebook<'_>,
) -> Result<SourceCodes> {
    check(vectors)?;
    let (num_items, dim) = vectors.dim();
    let largest = members(&uniqueness.groups).iter().map(Vec::len).max().unwrap_or(0);
    let room = plan.room().saturating_mul(uniqueness.may_share);
    if room < largest as u128 {
        return Err(IndexError::NoRoom { room, num_items: largest }.into());
    }
    let variance = squared_norms(vectors.view(), &mean(vectors));
    let items: Vec<u32> = (0..num_items as u32).collect();
    let mut residual = vectors.as_standard_layout().into_owned();
    let mut groups = uniqueness.groups.clone();
    let mut codes = vec![0; num_items * plan.levels];
    let mut moved = vec![false; num_items];
    let (mut centroids, mut left) = (Vec::new(), Vec::new());
    for level in 0..plan.levels {
        let book = codebook(level, residual.view())?;
        let rows = residual.as_slice().expect("a fresh array is contiguous");
        let costs = squared_distances(Rows::new(rows, dim), &items, book.view());
        let after = TreePlan { levels: plan.levels - level - 1, ..*plan }.room();
        let most = after.saturating_mul(uniqueness.may_share);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let nearest = nearest(&costs, book.nrows());
        let chosen = limited(&costs, book.nrows(), &groups, &nearest, most);
        for item in 0..num_items {
            codes[item * plan.levels + level] = chosen[item];
            moved[item] |= chosen[item] != nearest[item];
        }
        let rows = residual.as_slice_mut().expect("a fresh array is contiguous");
        rows.par_chunks_mut(dim).zip(&chosen).for_each(|(row, &code)| {
            row.iter_mut().zip(book.row(code as usize)).for_each(|(x, c)| *x -= c);
        });
        left.push(
            squared_norms(residual.view(), &vec![0.0; dim]) / variance.max(f64::MIN_POSITIVE),
        );
        groups = numbered(groups.iter().zip(&chosen));
        centroids.push(book);
    }
    Ok(SourceCodes {
        source: plan.source,
        num_codes: centroids.iter().map(Array2::nrows).collect(),
        codes,
        centroids,
        similarity: Vec::new(),
        moved: moved.into_iter().filter(|&moved| moved).count(),
        left,
    })
}

/// Residual k-means: each level's codebook is k-means over what the levels before left over.
///
/// # Errors
/// Those of [`quantize`], and linfa's.
pub fn residual_kmeans(
    vectors: ArrayView2<'_, f32>,
    plan: &TreePlan,
    uniqueness: &Uniqueness,
    seed: u64,
) -> Result<SourceCodes> {
    let kmeans = BalancedKMeans { max_iterations: 10, sample_per_cluster: 256 };
    quantize(vectors, plan, uniqueness, &mut |level, residual| {
        let (num_items, dim) = residual.dim();
        let items: Vec<u32> = (0..num_items as u32).collect();
        let rows = Rows::new(residual.to_slice().expect("residuals are contiguous"), dim);
        let mut rng = rng::stream(seed, "index.residual-kmeans", &[level as u64]);
        kmeans.centroids(rows, &items, plan.branching, &mut rng)
    })
}

/// The code of least cost of each item; the lowest among equals.
fn nearest(costs: &[f32], num_codes: usize) -> Vec<u32> {
    let code = |row: &[f32]| {
        let least = row.iter().zip(0u32..).min_by(|a, b| a.0.total_cmp(b.0));
        least.map_or(0, |(_, code)| code)
    };
    costs.par_chunks_exact(num_codes).map(code).collect()
}

/// The nearest codes, but in groups where one of them has more than `most` items the codes of the
/// cheapest assignment that gives none more.
fn limited(
    costs: &[f32],
    num_codes: usize,
    groups: &[u32],
    nearest: &[u32],
    most: usize,
) -> Vec<u32> {
    let over = |items: &Vec<u32>| {
        let mut held = vec![0usize; num_codes];
        for &item in items {
            held[nearest[item as usize] as usize] += 1;
        }
        held.iter().any(|&held| held > most)
    };
    let resolved: Vec<(Vec<u32>, Vec<u32>)> = members(groups)
        .into_par_iter()
        .filter(over)
        .map(|items| {
            let row = |&item: &u32| &costs[item as usize * num_codes..][..num_codes];
            let own: Vec<f32> = items.iter().flat_map(row).copied().collect();
            let codes = capped(&own, num_codes, most);
            (items, codes)
        })
        .collect();
    let mut codes = nearest.to_vec();
    for (items, resolved) in resolved {
        for (item, code) in items.into_iter().zip(resolved) {
            codes[item as usize] = code;
        }
    }
    codes
}

/// Numbers the different keys in the order in which they come; one number a key.
fn numbered<K: Ord>(keys: impl Iterator<Item = K>) -> Vec<u32> {
    let mut numbers = BTreeMap::new();
    let number = |key| {
        let next = numbers.len() as u32;
        *numbers.entry(key).or_insert(next)
    };
    keys.map(number).collect()
}

fn mean(vectors: ArrayView2<'_, f32>) -> Vec<f32> {
    let mut sum = vec![0f64; vectors.ncols()];
    for row in vectors.outer_iter() {
        sum.iter_mut().zip(row).for_each(|(s, &x)| *s += f64::from(x));
    }
    sum.into_iter().map(|s| (s / vectors.nrows() as f64) as f32).collect()
}

/// The sum of the squared distances of all rows from `center`.
fn squared_norms(vectors: ArrayView2<'_, f32>, center: &[f32]) -> f64 {
    let of = |row: ndarray::ArrayView1<'_, f32>| -> f64 {
        row.iter().zip(center).map(|(x, c)| f64::from(x - c).powi(2)).sum()
    };
    vectors.outer_iter().map(of).sum()
}
