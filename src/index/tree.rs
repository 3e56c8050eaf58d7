//! Hierarchical balanced k-means: a tree of fixed height with one item a leaf.
//!
//! The root splits in b clusters of equal size, each of those in b more, until every cluster holds
//! one item (paper, section 3.2; equal sizes as in the method's published follow-up, which is what
//! fixes the height). An item's codes are the child numbers on the way from the root to its leaf.

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::distance::Rows;
use super::kmeans::{BalancedKMeans, Cluster};
use super::plan::{branching, min_levels};
use super::{IndexError, Numbering, TreePlan};
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
    /// Which child gets which code.
    pub numbering: Numbering,
}

impl HierarchicalKMeans {
    /// `k` and `levels`, the rest as usual: 10 iterations, samples of 256 items a cluster, children
    /// numbered along an axis.
    pub fn new(k: usize, levels: usize) -> Self {
        Self { k, levels, max_iterations: 10, sample_per_cluster: 256, numbering: Numbering::Axis }
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
        let kmeans = self.node();

        let mut tree = Tree {
            levels,
            codes: vec![0; num_items * levels],
            centroids: Vec::with_capacity(levels),
            first_child: Vec::with_capacity(levels),
            node_codes: Vec::with_capacity(levels),
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
            let codes = self.numbering.number(&nodes, &mut children);
            nodes = tree.push_level(level, children, &codes, rows.dim());
        }
        Ok(tree)
    }

    /// How one node is clustered.
    pub(crate) fn node(&self) -> BalancedKMeans {
        BalancedKMeans {
            max_iterations: self.max_iterations,
            sample_per_cluster: self.sample_per_cluster,
        }
    }
}

/// The rows of `vectors`, (rows, dim), in clusters of like ones, whose sizes differ by one at most.
///
/// # Errors
/// As [`HierarchicalKMeans::fit`].
pub fn balanced_clusters(
    vectors: ArrayView2<'_, f32>,
    clusters: usize,
    rng: &mut rng::Rng,
) -> Result<Vec<Vec<u32>>> {
    check(vectors)?;
    let vectors = vectors.as_standard_layout();
    let data = vectors.as_slice().expect("standard layout is contiguous");
    let rows = Rows::new(data, vectors.ncols());
    let all: Vec<u32> = (0..vectors.nrows() as u32).collect();
    let split = HierarchicalKMeans::new(clusters, 1).node().split(rows, &all, clusters, rng)?;
    Ok(split.into_iter().map(|cluster| cluster.items).collect())
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
    /// For each level, the last code of each node's path; siblings ascend, but may leave codes out.
    node_codes: Vec<Vec<u32>>,
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
        for (level, code) in path.iter().enumerate() {
            let first_child = self.first_child.get(level)?;
            let parent = node.unwrap_or(0);
            let siblings = first_child[parent] as usize..first_child[parent + 1] as usize;
            let among = self.node_codes[level][siblings.clone()].binary_search(code).ok()?;
            node = Some(siblings.start + among);
        }
        node
    }

    /// For each row of `centroids()[level]`, its parent's row one level up (0 under the root) and its
    /// code.
    pub(super) fn nodes(&self, level: usize) -> impl Iterator<Item = (usize, u32)> {
        let bounds = self.first_child[level].windows(2).enumerate();
        let parents = bounds.flat_map(|(parent, ends)| (ends[0]..ends[1]).map(move |_| parent));
        parents.zip(self.node_codes[level].iter().copied())
    }

    /// Adds a level of nodes, the children of each parent in the order of their `codes`, and returns
    /// them in one list.
    fn push_level(
        &mut self,
        level: usize,
        children: Vec<Vec<Cluster>>,
        codes: &[Vec<u32>],
        dim: usize,
    ) -> Vec<Cluster> {
        let mut first_child = vec![0];
        let mut nodes = Vec::new();
        for (children, codes) in children.into_iter().zip(codes) {
            for (child, &code) in children.iter().zip(codes) {
                for &item in &child.items {
                    self.codes[item as usize * self.levels + level] = code;
                }
            }
            nodes.extend(children);
            first_child.push(nodes.len() as u32);
        }
        self.centroids.push(Array2::from_shape_fn((nodes.len(), dim), |(i, j)| nodes[i].center[j]));
        self.first_child.push(first_child);
        self.node_codes.push(codes.concat());
        nodes
    }
}
