//! Whitening: an embedding without what all its rows have in common.

use linfa_linalg::cholesky::Cholesky;
use linfa_linalg::triangular::{SolveTriangularInplace, UPLO};
use ndarray::{Array2, Axis};

use crate::{Error, Result};

/// What is added to every direction's variance, as a share of their mean: a direction with less is noise.
const RIDGE: f64 = 1e-3;

/// The rows of `z`, (items, dim), centred, with every direction of their covariance scaled to the same
/// variance, and then to length one; a row at the mean stays at zero. Up to a rotation.
///
/// Mean-pooled states of a language model share a few directions that outweigh all else (Su et al., 2021,
/// "Whitening sentence representations"): neighbours become neighbours in meaning without them.
///
/// # Errors
/// If the covariance cannot be decomposed, which takes values that are not finite.
pub(super) fn whitened(z: &Array2<f32>) -> Result<Array2<f32>> {
    let z = z.mapv(f64::from);
    let Some(mean) = z.mean_axis(Axis(0)) else {
        return Ok(Array2::zeros(z.dim()));
    };
    let centred = z - mean;
    let mut covariance = centred.t().dot(&centred) / centred.nrows() as f64;
    let ridge = RIDGE * covariance.diag().mean().unwrap_or_default();
    // Rows that are all the same have no covariance at all.
    covariance.diag_mut().mapv_inplace(|variance| variance + ridge.max(f64::MIN_POSITIVE.sqrt()));
    let fault = |e| Error::Invalid(format!("the embedding cannot be whitened: {e}"));
    let factor = covariance.cholesky().map_err(fault)?;
    let mut columns = centred.reversed_axes();
    factor.solve_triangular_inplace(&mut columns, UPLO::Lower).map_err(fault)?;
    let rows = unit_rows(columns.reversed_axes());
    Ok(rows.mapv(|x| x as f32).as_standard_layout().into_owned())
}

/// The rows scaled to length one; a row of zeros stays.
pub(super) fn unit_rows(mut rows: Array2<f64>) -> Array2<f64> {
    for mut row in rows.rows_mut() {
        let length = row.dot(&row).sqrt();
        if length > 0.0 {
            row /= length;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    #[test]
    fn all_directions_are_alike_afterwards() {
        // Far from the origin, one direction ten times as wide as the other, both slanted.
        let draws = rng::normal(&mut rng::stream(1, "whiten", &[]), 2000, 1.0);
        let z = Array2::from_shape_fn((1000, 2), |(i, j)| {
            let (a, b) = (10.0 * draws[2 * i], draws[2 * i + 1]);
            if j == 0 { 50.0 + a + b } else { -20.0 + a - b }
        });
        let white = whitened(&z).unwrap();
        assert!(white.rows().into_iter().all(|row| (row.dot(&row) - 1.0).abs() < 1e-5));
        let covariance = white.t().dot(&white) / 1000.0;
        for (at, value) in covariance.indexed_iter() {
            let expected = if at.0 == at.1 { 0.5 } else { 0.0 };
            assert!((value - expected).abs() < 0.05, "{covariance}");
        }
    }

    #[test]
    fn rows_without_a_difference_become_zero() {
        for rows in [0, 1, 4] {
            let z = Array2::from_elem((rows, 3), 2.5f32);
            assert_eq!(whitened(&z).unwrap(), Array2::<f32>::zeros((rows, 3)));
        }
    }
}
