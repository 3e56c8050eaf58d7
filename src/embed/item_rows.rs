//! Where the rows of item tokens point to when they are to begin at what is known of their items.
//!
//! z^s lies in the backbone's own hidden space, in which the head compares hidden states with its rows; a
//! semantic token points from the mean z^s to that of the items that carry it. The mean itself says
//! nothing of a token: all z^s are nearly parallel. z^b is taken there by ridge regression (Hoerl and
//! Kennard, 1970).

use linfa_linalg::cholesky::SolveCInplace;
use ndarray::{Array2, ArrayView2, Axis};

use crate::index::{ItemIndex, Source};
use crate::{Error, Result, invalid};

/// The penalty of the regression, as a share of the mean variance of a feature of z^b.
const RIDGE: f64 = 0.01;

/// A direction for every item token in the order of the vocabulary, (item tokens, columns of `semantic`),
/// from z^s and z^b, (items, dim).
///
/// # Errors
/// Where the index has levels that say nothing of the items.
pub fn item_token_directions(
    index: &ItemIndex,
    semantic: &Array2<f32>,
    behavior: Option<&Array2<f32>>,
) -> Result<Array2<f32>> {
    let semantic = centered(semantic);
    let mapped = behavior.map(|behavior| regression(&centered(behavior), &semantic)).transpose()?;
    let mut directions = Vec::new();
    for (level, range) in index.level_ranges().into_iter().enumerate() {
        let embeddings = match (index.levels()[level].source, &mapped) {
            (Source::Semantic, _) => &semantic,
            (Source::Behavior, Some(mapped)) => mapped,
            (other, _) => invalid!(
                "train.item-token-init = \"centroid\" has nothing to go by for levels of source \
                 \"{other}\"; set train.item-token-init = \"mean\""
            ),
        };
        let positions = |item| index.item_positions(item)[level] as usize;
        let centroids = sums_by(embeddings.view(), range.len(), positions);
        directions.extend(centroids.into_iter().map(|value| value as f32));
    }
    let width = semantic.ncols();
    Array2::from_shape_vec((directions.len() / width, width), directions)
        .map_err(|e| Error::Invalid(e.to_string()))
}

/// Rows less their mean.
fn centered(matrix: &Array2<f32>) -> Array2<f64> {
    let matrix = matrix.mapv(f64::from);
    match matrix.mean_axis(Axis(0)) {
        Some(mean) => matrix - mean,
        None => matrix,
    }
}

/// What a linear map makes of `from`, (items, m), that takes it as near to `to`, (items, n), as the
/// penalty lets it; both centered.
fn regression(from: &Array2<f64>, to: &Array2<f64>) -> Result<Array2<f64>> {
    let mut gram = from.t().dot(from);
    let variance = gram.diag().mean().unwrap_or_default();
    // Features that never vary would leave the system without a solution.
    let penalty = (RIDGE * variance).max(f64::MIN_POSITIVE.sqrt());
    gram.diag_mut().mapv_inplace(|value| value + penalty);
    let map = gram
        .solvec_into(from.t().dot(to))
        .map_err(|e| Error::Invalid(format!("z^b cannot be mapped to z^s: {e}")))?;
    Ok(from.dot(&map))
}

/// The sums of the rows that share a number below `count`.
fn sums_by(
    rows: ArrayView2<'_, f64>,
    count: usize,
    number_of: impl Fn(u32) -> usize,
) -> Array2<f64> {
    let mut sums = Array2::zeros((count, rows.ncols()));
    for (item, row) in (0..).zip(rows.rows()) {
        let mut sum = sums.row_mut(number_of(item));
        sum += &row;
    }
    sums
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn a_linear_relation_is_found_and_kept() {
        let z = array![[1.0f32, 2.0], [-1.0, 0.5], [0.25, -3.0], [2.0, 1.0], [0.0, -0.5]];
        let from = centered(&z);
        let to = from.dot(&array![[1.0, 0.0, 2.0], [-1.0, 3.0, 0.5]]);
        // The penalty takes a hundredth and a little.
        let near = |found: &Array2<f64>| {
            let error = (found - &to).mapv(f64::abs).sum();
            error < 0.03 * to.mapv(f64::abs).sum()
        };
        let found = regression(&from, &to).unwrap();
        assert!(near(&found), "{found} is not {to}");
        // A feature that says nothing, and the same one twice: no unique map, but a finite one.
        let constant = regression(&Array2::zeros((5, 2)), &to).unwrap();
        assert!(constant.iter().all(|v| *v == 0.0));
        let twice = ndarray::concatenate![Axis(1), from, from];
        let again = regression(&twice, &to).unwrap();
        assert!(near(&again), "{again} is not {to}");
    }

    #[test]
    fn items_of_one_number_are_added() {
        let rows = array![[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]];
        let sums = sums_by(rows.view(), 2, |item| usize::from(item == 1));
        assert_eq!(sums, array![[4.0, 4.0], [0.0, 2.0]]);
    }
}
