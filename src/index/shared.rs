//! The shared unit index by hierarchical k-means: the first tree stops above its leaves, the second
//! tells the items of a leaf apart.

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::capacity::capped;
use super::distance::Rows;
use super::distance::squared_distances;
use super::residual::members;
use super::{HierarchicalKMeans, IndexError, Numbering, SourceCodes, TreePlan, Uniqueness};
use crate::Result;

/// The codes of two trees whose leaves hold several items each, by `plans` on `vectors`, (items, dim)
/// each, first the tree of the levels that come first.
///
/// The second tree is one for all items, so that its codes mean the same whatever the first say. Of the
/// items in one leaf of the first no two may be in one leaf of the second: where they are, the items of
/// that first leaf go to different second leaves at the least total squared distance from the leaves'
/// centroids.
///
/// # Errors
/// Those of [`HierarchicalKMeans::fit`], and if a first leaf has more items than the second tree leaves.
pub fn shared_trees(
    vectors: [ArrayView2<'_, f32>; 2],
    plans: [TreePlan; 2],
    numbering: Numbering,
    seed: u64,
) -> Result<[SourceCodes; 2]> {
    let [first, second] = [0, 1].map(|i| {
        let kmeans = HierarchicalKMeans { numbering, ..plans[i].into() };
        let tree = kmeans.fit_coarse(vectors[i], seed)?;
        Ok::<_, crate::Error>((SourceCodes::tree(plans[i].source, &tree), tree))
    });
    let ((first, _), (mut second, tree)) = (first?, second?);
    let groups = Uniqueness::after(&first).groups;
    let leaves = tree.centroids().last().expect("a tree has a level");
    let leaf = |codes: &[u32]| tree.row(codes).expect("an item's codes lead to its leaf");
    let own: Vec<usize> = second.items().map(leaf).collect();
    let mut paths = vec![Vec::new(); leaves.nrows()];
    for (codes, &leaf) in second.items().zip(&own) {
        paths[leaf] = codes.to_vec();
    }

    let vectors = vectors[1].as_standard_layout();
    let rows =
        Rows::new(vectors.as_slice().expect("standard layout is contiguous"), leaves.ncols());
    let resolved = members(&groups)
        .into_par_iter()
        .filter(|items| {
            let mut leaves: Vec<usize> = items.iter().map(|&item| own[item as usize]).collect();
            leaves.sort_unstable();
            leaves.windows(2).any(|pair| pair[0] == pair[1])
        })
        .map(|items| {
            if items.len() > leaves.nrows() {
                let room = leaves.nrows() as u128;
                return Err(IndexError::NoRoom { room, num_items: items.len() }.into());
            }
            let costs = squared_distances(rows, &items, leaves.view());
            Ok((items, capped(&costs, leaves.nrows(), 1)))
        })
        .collect::<Result<Vec<_>>>()?;
    let levels = second.num_levels();
    for (items, leaves) in resolved {
        for (item, leaf) in items.into_iter().zip(leaves) {
            let (item, leaf) = (item as usize, leaf as usize);
            second.codes[item * levels..][..levels].copy_from_slice(&paths[leaf]);
            second.moved += usize::from(own[item] != leaf);
        }
    }
    Ok([first, second])
}
