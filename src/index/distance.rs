//! Squared Euclidean distances: between two rows, and of many items from many centers.

use linfa_nn::distance::{Distance, L2Dist};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView, ArrayView2, ArrayViewMut2, Dimension};
use rayon::prelude::*;

/// A matrix as contiguous rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    data: &'a [f32],
    dim: usize,
}

impl<'a> Rows<'a> {
    /// `data` is (rows, dim), row-major; dim is at least 1.
    pub(crate) fn new(data: &'a [f32], dim: usize) -> Self {
        Self { data, dim }
    }

    pub(crate) fn row(self, row: usize) -> &'a [f32] {
        &self.data[row * self.dim..][..self.dim]
    }

    pub(crate) fn len(self) -> usize {
        self.data.len() / self.dim
    }

    pub(crate) fn dim(self) -> usize {
        self.dim
    }

    pub(super) fn select(self, rows: &[usize]) -> Vec<f32> {
        rows.iter().flat_map(|&row| self.row(row)).copied().collect()
    }
}

/// The squared distance, summed in lanes so that the compiler can use vector registers.
pub(super) fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0f32; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a.remainder().iter().zip(b.remainder()).map(|(a, b)| (a - b) * (a - b));
    let rest: f32 = rest.sum();
    for (a, b) in a.zip(b) {
        for lane in 0..LANES {
            let d = a[lane] - b[lane];
            sums[lane] += d * d;
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// linfa's `L2Dist`, summed by [`squared_distance`]: linfa-nn 0.8 adds one term after the other.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Euclidean;

impl Distance<f32> for Euclidean {
    fn distance<D: Dimension>(&self, a: ArrayView<'_, f32, D>, b: ArrayView<'_, f32, D>) -> f32 {
        self.rdistance(a, b).sqrt()
    }

    fn rdistance<D: Dimension>(&self, a: ArrayView<'_, f32, D>, b: ArrayView<'_, f32, D>) -> f32 {
        match (a.as_slice(), b.as_slice()) {
            (Some(a), Some(b)) => squared_distance(a, b),
            _ => L2Dist.rdistance(a, b),
        }
    }

    fn rdist_to_dist(&self, rdist: f32) -> f32 {
        rdist.sqrt()
    }

    fn dist_to_rdist(&self, dist: f32) -> f32 {
        dist * dist
    }
}

/// Squared distances of each item from each center, (items, centers), row-major; `centers` is
/// (centers, dim).
///
/// By a matrix product, as `|x|² - 2 x·c + |c|²` with the mean of the centers as origin: the farther
/// the origin, the more digits cancel. Items go in blocks of fixed size, so that the result is the
/// same on any number of threads.
pub(super) fn squared_distances(
    vectors: Rows<'_>,
    items: &[u32],
    centers: ArrayView2<'_, f32>,
) -> Vec<f32> {
    const BLOCK: usize = 256;
    let (num_centers, dim) = centers.dim();
    let Some(origin) = centers.mean_axis(ndarray::Axis(0)) else { return Vec::new() };
    let centers = &centers - &origin;
    let square = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>();
    let center_squares: Vec<f32> =
        centers.outer_iter().map(|row| row.iter().map(|x| x * x).sum()).collect();

    let mut distances = vec![0f32; items.len() * num_centers];
    let blocks = distances.par_chunks_mut(BLOCK * num_centers).zip(items.par_chunks(BLOCK));
    blocks.for_each(|(distances, items)| {
        let rows = items.iter().flat_map(|&item| vectors.row(item as usize).iter().zip(&origin));
        let rows: Vec<f32> = rows.map(|(x, o)| x - o).collect();
        let squares: Vec<f32> = rows.chunks_exact(dim).map(square).collect();
        let rows = Array2::from_shape_vec((items.len(), dim), rows).expect("whole rows");
        let mut out = ArrayViewMut2::from_shape((items.len(), num_centers), &mut *distances)
            .expect("a distance for each pair");
        general_mat_mul(-2.0, &rows, &centers.t(), 0.0, &mut out);
        for (row, square) in distances.chunks_exact_mut(num_centers).zip(squares) {
            for (distance, center_square) in row.iter_mut().zip(&center_squares) {
                *distance = (*distance + (square + center_square)).max(0.0);
            }
        }
    });
    distances
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    #[test]
    fn the_product_equals_distances_one_by_one() {
        // Far from zero, where squares are 10,000 times the distances.
        for (num_items, num_centers, dim, shift) in
            [(1, 1, 1, 0.0), (700, 13, 33, 0.0), (300, 7, 64, 100.0)]
        {
            let mut stream = rng::stream(3, "distances", &[]);
            let mut draw = |rows| -> Vec<f32> {
                rng::normal(&mut stream, rows * dim, 1.0).iter().map(|x| x + shift).collect()
            };
            let (data, centers) = (draw(num_items), draw(num_centers));
            let vectors = Rows::new(&data, dim);
            let items: Vec<u32> = (0..num_items as u32).rev().collect();
            let view = ArrayView2::from_shape((num_centers, dim), &centers).unwrap();
            let found = squared_distances(vectors, &items, view);
            for (found, item) in found.chunks_exact(num_centers).zip(items) {
                for (&found, center) in found.iter().zip(centers.chunks_exact(dim)) {
                    let row = vectors.row(item as usize);
                    let sum: f64 =
                        row.iter().zip(center).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                    let expected = sum as f32;
                    assert!(
                        (found - expected).abs() <= 1e-4 * (1.0 + expected),
                        "{found} {expected}"
                    );
                    let lanes = squared_distance(row, center);
                    assert!((lanes - expected).abs() <= 1e-5 * (1.0 + expected));
                }
            }
        }
    }

    #[test]
    fn equal_items_are_equally_far_wherever_they_stand() {
        let mut data = rng::normal(&mut rng::stream(5, "row", &[]), 37, 1.0);
        data = data.repeat(1000);
        let centers = rng::normal(&mut rng::stream(6, "centers", &[]), 5 * 37, 1.0);
        let view = ArrayView2::from_shape((5, 37), &centers).unwrap();
        let items: Vec<u32> = (0..1000).collect();
        let found = squared_distances(Rows::new(&data, 37), &items, view);
        assert!(found.chunks_exact(5).all(|row| row == &found[..5]));
    }

    #[test]
    fn linfa_measures_as_with_its_own_distance() {
        let draw = |label| rng::normal(&mut rng::stream(1, label, &[]), 6 * 50, 1.0);
        let (a, b) = (draw("a"), draw("b"));
        let a = ArrayView2::from_shape((6, 50), &a).unwrap();
        let b = ArrayView2::from_shape((6, 50), &b).unwrap();
        assert!((Euclidean.distance(a, b) - L2Dist.distance(a, b)).abs() < 1e-4);
        // Columns are not contiguous.
        let columns = (a.column(3), b.column(7));
        assert_eq!(
            Euclidean.rdistance(columns.0, columns.1),
            L2Dist.rdistance(columns.0, columns.1)
        );
        assert_eq!(Euclidean.rdist_to_dist(Euclidean.dist_to_rdist(3.0)), 3.0);
    }
}
