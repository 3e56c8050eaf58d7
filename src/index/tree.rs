//! Hierarchical balanced k-means: a tree of fixed height with one item a leaf.
//!
//! The root splits in b clusters of equal size, each of those in b more, until every cluster holds
//! one item (paper, section 3.2; equal sizes as in the method's published follow-up, which is what
//! fixes the height). An item's codes are the child numbers on the way from the root to its leaf.

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::kmeans::{BalancedKMeans, Cluster, Rows};
use super::plan::{branching, min_levels};
use super::{IndexError, TreePlan};
use crate::{Result, rng};

/// Components at or above this overflow f32 when squared and summed.
const LARGEST: f32 = 1e15;

/// Settings of hierarchical balanced k-means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HierarchicalKMeans {
    /// The largest number of children of a node; fewer are used where they suffice.
    pub k: usize,
    /// The height of the tree, that is the codes an item; 0 for as few as `k` allows.
    pub levels: usize,
    /// The most iterations of k-means a node, before assignments are balanced.
    pub max_iterations: usize,
    /// A node finds its centroids on at most this many items for each of them.
    pub sample_per_cluster: usize,
}

impl HierarchicalKMeans {
    /// `k` and `levels`, the rest as usual: 10 iterations, samples of 256 items a cluster.
    pub fn new(k: usize, levels: usize) -> Self {
        Self { k, levels, max_iterations: 10, sample_per_cluster: 256 }
    }

    /// Clusters `vectors`, (items, dim), in a tree with one leaf an item.
    ///
    /// Equal vectors are told apart by item id. The result depends on the seed alone, not on the
    /// number of threads.
    ///
    /// # Errors
    /// If there are no items or no dimensions, if `k^levels` is below the number of items, or if a
    /// component is not finite or too large.
    pub fn fit(&self, vectors: ArrayView2<'_, f32>, seed: u64) -> Result<Tree> {
        check(vectors)?;
        let num_items = vectors.nrows();
        let levels = if self.levels == 0 { min_levels(num_items, self.k)? } else { self.levels };
        self.grow(vectors, levels, branching(num_items, self.k, levels)?, seed)
    }

    /// As [`HierarchicalKMeans::fit`], but every node has `k` children while it has items enough, and
    /// leaves hold several items where `k^levels` is below their number. `levels` is at least 1.
    pub(super) fn fit_coarse(&self, vectors: ArrayView2<'_, f32>, seed: u64) -> Result<Tree> {
        check(vectors)?;
        self.grow(vectors, self.levels, self.k, seed)
    }

    fn grow(
        &self,
        vectors: ArrayView2<'_, f32>,
        levels: usize,
        branching: usize,
        seed: u64,
    ) -> Result<Tree> {
        let num_items = vectors.nrows();
        let vectors = vectors.as_standard_layout();
        let data = vectors.as_slice().expect("standard layout is contiguous");
        let rows = Rows::new(data, vectors.ncols());
        let kmeans = BalancedKMeans {
            max_iterations: self.max_iterations,
            sample_per_cluster: self.sample_per_cluster,
        };

        let mut tree = Tree {
            levels,
            codes: vec![0; num_items * levels],
            centroids: Vec::with_capacity(levels),
            first_child: Vec::with_capacity(levels),
        };
        let mut nodes = vec![Cluster::new(rows, (0..num_items as u32).collect())];
        for level in 0..levels {
            let mut children = nodes
                .par_iter()
                .enumerate()
                .map(|(node, parent)| {
                    let mut rng = rng::stream(seed, "index.kmeans", &[level as u64, node as u64]);
                    // With at most b^levels items here and equal sizes, no child gets more than
                    // b^(levels - 1): the tree below always has room.
                    let num_children = branching.min(parent.items.len());
                    kmeans.split(rows, &parent.items, num_children, &mut rng)
                })
                .collect::<Result<Vec<_>>>()?;
            order_children(&nodes, &mut children);
            nodes = tree.push_level(level, children, rows.dim());
        }
        Ok(tree)
    }
}

impl From<TreePlan> for HierarchicalKMeans {
    fn from(plan: TreePlan) -> Self {
        Self::new(plan.branching, plan.levels)
    }
}

pub(super) fn check(vectors: ArrayView2<'_, f32>) -> Result<()> {
    if vectors.nrows() == 0 {
        return Err(IndexError::NoItems.into());
    }
    if vectors.ncols() == 0 {
        return Err(IndexError::NoDimensions.into());
    }
    match vectors.indexed_iter().find(|(_, x)| !x.is_finite() || x.abs() >= LARGEST) {
        Some(((row, column), &value)) => Err(IndexError::BadValue { row, column, value }.into()),
        None => Ok(()),
    }
}

/// Numbers the children of every node along one axis common to the level, the leading principal
/// axis of the children's offsets from their parents: the same code then means a similar direction
/// under every parent. Ties go by the smallest item.
fn order_children(parents: &[Cluster], children: &mut [Vec<Cluster>]) {
    let offsets: Vec<Vec<f32>> = parents
        .par_iter()
        .zip(&*children)
        .flat_map_iter(|(parent, children)| {
            children
                .iter()
                .map(|child| child.center.iter().zip(&parent.center).map(|(c, p)| c - p).collect())
        })
        .collect();
    let axis = principal_axis(&offsets);
    children.par_iter_mut().for_each(|children| {
        children.sort_by_cached_key(|child| {
            let place: f32 = child.center.iter().zip(&axis).map(|(c, a)| c * a).sum();
            (OrderedF32(place), child.items.first().copied())
        });
    });
}

/// An f32 in the total order of IEEE 754.
#[derive(PartialEq)]
struct OrderedF32(f32);

impl Eq for OrderedF32 {}

impl PartialOrd for OrderedF32 {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OrderedF32 {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// The direction in which `rows` vary most about zero, by power iteration from the longest row; its
/// component of largest magnitude is positive. All zeros if the rows are.
fn principal_axis(rows: &[Vec<f32>]) -> Vec<f32> {
    const ITERATIONS: usize = 10;
    const BLOCK: usize = 512;
    let norm = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let longest = rows.iter().rev().max_by(|a, b| norm(a).total_cmp(&norm(b)));
    let Some(mut axis) = longest.cloned() else { return Vec::new() };
    for _ in 0..ITERATIONS {
        // Fixed blocks, summed in order: the same bits on any number of threads.
        let blocks: Vec<Vec<f64>> = rows
            .par_chunks(BLOCK)
            .map(|block| {
                let mut sum = vec![0f64; axis.len()];
                for row in block {
                    let along: f32 = row.iter().zip(&axis).map(|(x, a)| x * a).sum();
                    for (s, x) in sum.iter_mut().zip(row) {
                        *s += f64::from(along * x);
                    }
                }
                sum
            })
            .collect();
        let mut next = vec![0f64; axis.len()];
        for block in &blocks {
            next.iter_mut().zip(block).for_each(|(n, b)| *n += b);
        }
        let length = next.iter().map(|x| x * x).sum::<f64>().sqrt();
        if length == 0.0 {
            break;
        }
        axis = next.into_iter().map(|x| (x / length) as f32).collect();
    }
    let largest = axis.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs()));
    if largest.is_some_and(|x| x < 0.0) {
        for x in &mut axis {
            *x = -*x;
        }
    }
    axis
}

/// A fitted tree: codes of the items and centroids of the nodes.
///
/// The nodes of a level are ordered by path (the codes from the root), and so are the rows of its
/// centroid matrix; [`Tree::row`] maps a path to its row.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    levels: usize,
    /// (items, levels).
    codes: Vec<u32>,
    /// One (nodes, dim) matrix a level, the root left out.
    centroids: Vec<Array2<f32>>,
    /// For each level, the row of each parent's first child, and the number of rows at the end.
    first_child: Vec<Vec<u32>>,
}

impl Tree {
    /// The number of items.
    pub fn num_items(&self) -> usize {
        self.codes.len() / self.levels
    }

    /// The number of codes an item.
    pub fn num_levels(&self) -> usize {
        self.levels
    }

    /// The codes of all items, (items, levels), row-major.
    pub fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// The size of each level's code range: the largest code that occurs, and one.
    pub fn num_codes(&self) -> Vec<usize> {
        let largest = |level| self.codes.iter().skip(level).step_by(self.levels).max();
        (0..self.levels).map(|level| largest(level).map_or(0, |&c| c as usize + 1)).collect()
    }

    /// The centroids of each level's nodes, (nodes, dim), rows in path order. A centroid is the mean
    /// of the items below it; on the last level that is the item's own vector.
    pub fn centroids(&self) -> &[Array2<f32>] {
        &self.centroids
    }

    /// The row in `centroids()[path.len() - 1]` of the node that `path`, codes from the root, leads
    /// to. `None` for the root and for paths that lead nowhere.
    pub fn row(&self, path: &[u32]) -> Option<usize> {
        let mut node = None;
        for (level, &code) in path.iter().enumerate() {
            let first_child = self.first_child.get(level)?;
            let parent = node.unwrap_or(0);
            let row = first_child[parent] as usize + code as usize;
            if row >= first_child[parent + 1] as usize {
                return None;
            }
            node = Some(row);
        }
        node
    }

    /// Adds a level of nodes, the children of each parent in order, and returns them in one list.
    fn push_level(
        &mut self,
        level: usize,
        children: Vec<Vec<Cluster>>,
        dim: usize,
    ) -> Vec<Cluster> {
        let mut first_child = vec![0];
        let mut nodes = Vec::new();
        for children in children {
            for (code, child) in children.iter().enumerate() {
                for &item in &child.items {
                    self.codes[item as usize * self.levels + level] = code as u32;
                }
            }
            nodes.extend(children);
            first_child.push(nodes.len() as u32);
        }
        self.centroids.push(Array2::from_shape_fn((nodes.len(), dim), |(i, j)| nodes[i].center[j]));
        self.first_child.push(first_child);
        nodes
    }
}
