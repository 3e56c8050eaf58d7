//! The codes that one source gives the items, whatever the method.

use ndarray::{Array2, ArrayView2};

use super::{Source, Tree};

/// The codes of one source's levels, and the centroids they stand for.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceCodes {
    /// The signal; never `unit`.
    pub source: Source,
    /// Codes at each level are below this.
    pub num_codes: Vec<usize>,
    /// (items, levels), row-major.
    pub codes: Vec<u32>,
    /// A matrix a level, (rows, dim): of a tree the centroids of the level's nodes in path order, for
    /// levels whose nodes hold several items; of a residual method the level's codebook, row = code.
    pub centroids: Vec<Array2<f32>>,
    /// Of a tree, [`code_similarity`] of each level.
    pub similarity: Vec<Option<f64>>,
    /// The items that were denied the codes nearest to them, so that no two items share an index; a
    /// tree's own balancing is not counted.
    pub moved: usize,
    /// Of a residual method, the part of the vectors' variance that is left after each level.
    pub left: Vec<f64>,
}

impl SourceCodes {
    /// One level with a code for each item, where there are as many codes as items: the codebook is the
    /// vectors, (items, dim), themselves.
    pub fn one_each(source: Source, vectors: ArrayView2<'_, f32>) -> Self {
        let num_items = vectors.nrows();
        Self {
            source,
            num_codes: vec![num_items],
            codes: (0..num_items as u32).collect(),
            centroids: vec![vectors.to_owned()],
            similarity: Vec::new(),
            moved: 0,
            left: vec![0.0],
        }
    }

    /// The codes of `tree`, fitted on the vectors of `source`.
    pub fn tree(source: Source, tree: &Tree) -> Self {
        let all = tree.centroids();
        // One item a leaf: these would be the vectors, which have a file of their own.
        let leaves = all.last().is_some_and(|last| last.nrows() == tree.num_items());
        let centroids = all[..all.len() - usize::from(leaves)].to_vec();
        Self {
            source,
            num_codes: tree.num_codes(),
            codes: tree.codes().to_vec(),
            centroids,
            similarity: code_similarity(tree),
            moved: 0,
            left: Vec::new(),
        }
    }

    /// The number of levels.
    pub fn num_levels(&self) -> usize {
        self.num_codes.len()
    }

    /// The number of items.
    pub fn num_items(&self) -> usize {
        self.codes.len() / self.num_levels()
    }

    /// The codes of each item, in order.
    pub fn items(&self) -> impl Iterator<Item = &[u32]> {
        self.codes.chunks_exact(self.num_levels())
    }
}

/// For each level, the mean cosine of two nodes' offsets from their parents, over all pairs of nodes
/// with the same code; `None` where there is no such pair, as on the first level.
///
/// The higher, the more a code means the same under every parent.
pub fn code_similarity(tree: &Tree) -> Vec<Option<f64>> {
    (0..tree.num_levels()).map(|level| level_similarity(tree, level)).collect()
}

fn level_similarity(tree: &Tree, level: usize) -> Option<f64> {
    let parents = tree.centroids().get(level.checked_sub(1)?)?;
    let children = &tree.centroids()[level];
    // The cosines of all pairs in a set of n unit vectors with sum s add up to (|s|² - n) / 2.
    let num_codes = tree.num_codes()[level];
    let mut sums = Array2::<f64>::zeros((num_codes, children.ncols()));
    let mut counts = vec![0u64; num_codes];
    for (row, (parent, code)) in tree.nodes(level).enumerate() {
        let offset = (&children.row(row) - &parents.row(parent)).mapv(f64::from);
        let length = offset.dot(&offset).sqrt();
        // An only child lies where its parent does and points nowhere.
        if length > 0.0 {
            let mut sum = sums.row_mut(code as usize);
            sum.scaled_add(1.0 / length, &offset);
            counts[code as usize] += 1;
        }
    }
    let (mut total, mut pairs) = (0.0, 0);
    for (sum, count) in sums.outer_iter().zip(counts) {
        total += (sum.dot(&sum) - count as f64) / 2.0;
        pairs += count * count.saturating_sub(1) / 2;
    }
    (pairs > 0).then(|| total / pairs as f64)
}
