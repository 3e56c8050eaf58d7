//! The codes that one source gives the items, whatever the method.

use ndarray::{Array2, ArrayView2};

use super::{Source, Tree, code_similarity};

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
        let mut centroids = tree.centroids().to_vec();
        // One item a leaf: these would be the vectors, which have a file of their own.
        if centroids.last().is_some_and(|last| last.nrows() == tree.num_items()) {
            centroids.pop();
        }
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
