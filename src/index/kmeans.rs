//! Balanced k-means of one node: linfa finds the centroids, the assignment is ours.
//!
//! linfa's k-means++ recomputes every distance a draw and its memberships may stem from another
//! run than its centroids (linfa-clustering 0.8), so it gets our seeds and only its centroids are
//! used.

use linfa::DatasetBase;
use linfa::traits::Fit;
use linfa_clustering::{KMeans, KMeansError, KMeansInit};
use ndarray::Array2;
use rayon::prelude::*;

use super::distance::{Euclidean, Rows, squared_distance, squared_distances};
use super::{IndexError, assign};
use crate::Result;
use crate::rng::{self, Rng};

/// Alternations of balanced assignment and mean update after linfa's centroids.
const BALANCE_ROUNDS: usize = 8;

/// Lloyd's iterations stop when the centroids together move less than this part of the distance
/// between the seeds and their items.
const RELATIVE_TOLERANCE: f64 = 1e-3;

/// A set of items with its mean.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    /// Item ids, ascending.
    pub(crate) items: Vec<u32>,
    /// The mean of their vectors, (dim).
    pub(crate) center: Vec<f32>,
}

impl Cluster {
    /// The cluster of `items`, ascending rows of `vectors`.
    pub(crate) fn new(vectors: Rows<'_>, items: Vec<u32>) -> Self {
        let mut sum = vec![0f64; vectors.dim()];
        for &item in &items {
            for (s, x) in sum.iter_mut().zip(vectors.row(item as usize)) {
                *s += f64::from(*x);
            }
        }
        let count = items.len().max(1) as f64;
        Self { items, center: sum.into_iter().map(|s| (s / count) as f32).collect() }
    }
}

/// How one node is clustered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BalancedKMeans {
    /// The most iterations linfa runs.
    pub(crate) max_iterations: usize,
    /// A node with more items than this a cluster finds its centroids on a sample of that size.
    pub(crate) sample_per_cluster: usize,
}

impl BalancedKMeans {
    /// Splits `items`, ascending rows of `vectors` (items, dim), in `num_clusters`
    /// clusters: `n mod num_clusters` of them hold `ceil(n / num_clusters)` items, the others
    /// `floor(n / num_clusters)`. Needs at least as many items as clusters.
    pub(crate) fn split(
        &self,
        vectors: Rows<'_>,
        items: &[u32],
        num_clusters: usize,
        rng: &mut Rng,
    ) -> Result<Vec<Cluster>> {
        if num_clusters >= items.len() {
            return Ok(items.iter().map(|&item| Cluster::new(vectors, vec![item])).collect());
        }
        let mut centers = self.centroids(vectors, items, num_clusters, rng)?;
        let mut assigned: Option<Vec<u32>> = None;
        let mut clusters = Vec::new();
        for _ in 0..BALANCE_ROUNDS {
            let costs = squared_distances(vectors, items, centers.view());
            let before = assigned.clone();
            let mut labels = assigned.unwrap_or_else(|| assign::balanced(&costs, num_clusters));
            assign::improve(&costs, num_clusters, &mut labels);
            let settled = before.as_ref() == Some(&labels);
            clusters = gather(vectors, items, &labels, num_clusters);
            centers = matrix(
                clusters.iter().flat_map(|cluster| &cluster.center).copied().collect(),
                vectors.dim(),
            );
            assigned = Some(labels);
            if settled {
                break;
            }
        }
        Ok(clusters)
    }

    /// Plain k-means centroids, by linfa, from D² seeds; (clusters, dim).
    pub(crate) fn centroids(
        &self,
        vectors: Rows<'_>,
        items: &[u32],
        num_clusters: usize,
        rng: &mut Rng,
    ) -> Result<Array2<f32>> {
        let most = self.sample_per_cluster.saturating_mul(num_clusters).max(num_clusters);
        let mut rows: Vec<usize> = items.iter().map(|&item| item as usize).collect();
        if rows.len() > most {
            let mut drawn = rand::seq::index::sample(rng, rows.len(), most).into_vec();
            drawn.sort_unstable();
            rows = drawn.into_iter().map(|i| rows[i]).collect();
        }
        let sample = vectors.select(&rows);
        let (seeds, spread) = seeds(Rows::new(&sample, vectors.dim()), num_clusters, rng);
        let tolerance = RELATIVE_TOLERANCE * (spread * num_clusters as f64).sqrt();
        let failed = |reason: KMeansError| IndexError::Clustering {
            rows: rows.len(),
            clusters: num_clusters,
            reason,
        };
        // One run from given seeds draws nothing: linfa's own generator is never used.
        let fitted = KMeans::params_with(num_clusters, rng.clone(), Euclidean)
            .n_runs(1)
            .max_n_iterations(self.max_iterations.max(1) as u64)
            .tolerance((tolerance as f32).max(f32::MIN_POSITIVE))
            .init_method(KMeansInit::Precomputed(matrix(seeds, vectors.dim())))
            .fit(&DatasetBase::from(matrix(sample, vectors.dim())))
            .map_err(failed)?;
        Ok(fitted.centroids().clone())
    }
}

fn matrix(rows: Vec<f32>, dim: usize) -> Array2<f32> {
    Array2::from_shape_vec((rows.len() / dim, dim), rows).expect("whole rows were gathered")
}

/// Seeds by D² sampling (k-means++, Arthur and Vassilvitskii, 2007): each next seed is a row drawn
/// with probability proportional to its squared distance from the seeds so far.
///
/// Returns the seeds, (clusters, dim), and the mean squared distance of a row to its nearest one.
fn seeds(sample: Rows<'_>, num_clusters: usize, rng: &mut Rng) -> (Vec<f32>, f64) {
    let num_rows = sample.len();
    let any_row =
        |rng: &mut Rng| ((rng::uniform(rng) * num_rows as f64) as usize).min(num_rows - 1);
    let mut chosen = vec![any_row(rng)];
    let mut nearest = vec![f32::INFINITY; num_rows];
    loop {
        let seed = chosen[chosen.len() - 1];
        nearest.par_iter_mut().enumerate().for_each(|(row, nearest)| {
            *nearest = nearest.min(squared_distance(sample.row(row), sample.row(seed)));
        });
        let total: f64 = nearest.iter().map(|&d| f64::from(d)).sum();
        if chosen.len() == num_clusters {
            return (sample.select(&chosen), total / num_rows as f64);
        }
        // With fewer distinct rows than clusters every row ends up on a seed: any row will do.
        let mut left = rng::uniform(rng) * total;
        let drawn = nearest.iter().position(|&d| {
            left -= f64::from(d);
            d > 0.0 && left < 0.0
        });
        // Rounding may leave a remainder after the last row.
        let last = || nearest.iter().rposition(|&d| d > 0.0);
        chosen.push(drawn.or_else(last).unwrap_or_else(|| any_row(rng)));
    }
}

/// The clusters that `labels` describe, items in ascending order.
fn gather(vectors: Rows<'_>, items: &[u32], labels: &[u32], num_clusters: usize) -> Vec<Cluster> {
    let mut members = vec![Vec::new(); num_clusters];
    for (&item, &label) in items.iter().zip(labels) {
        members[label as usize].push(item);
    }
    members.into_par_iter().map(|items| Cluster::new(vectors, items)).collect()
}
