//! The spectral embedding of the graph of items: who took both, without training.
//!
//! P5-CID's collaborative ids (Hua et al., 2023) cluster this graph spectrally (Ng, Jordan and Weiss, 2001).

use linfa_linalg::Order;
use linfa_linalg::lobpcg::lobpcg;
use ndarray::{Array1, Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use super::fill_unseen;
use crate::embed::epochs::occurrences;
use crate::guard::guarded;
use crate::{Result, invalid, rng};

/// The solver ends when what is left of every eigenvector is below this.
const TOLERANCE: f32 = 1e-4;

/// And at the latest after so many steps.
const STEPS: usize = 200;

/// The solver holds three blocks of vectors, which must be independent of each other.
const ITEMS_A_VECTOR: usize = 5;

/// `[index.behavior.spectral]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SpectralConfig {
    /// Width of z^b: the eigenvectors, of which a fifth of the items are the most.
    pub dim: usize,
}

impl Default for SpectralConfig {
    fn default() -> Self {
        Self { dim: 64 }
    }
}

impl SpectralConfig {
    /// The eigenvectors of a graph of so many items.
    pub fn vectors(&self, num_items: usize) -> usize {
        self.dim.min(num_items / ITEMS_A_VECTOR).max(1)
    }
}

/// A spectral embedding.
#[derive(Debug, Clone)]
pub struct SpectralEmbedding {
    /// (items, vectors), rows of length one; items beside which nothing was taken have the mean of the others.
    pub embeddings: Array2<f32>,
    /// Of each vector, falling.
    pub eigenvalues: Vec<f64>,
    /// The length of what is left of the worst eigenvector v: A v - λ v.
    pub residual: f64,
    /// Items with an edge.
    pub num_seen: usize,
}

/// The graph of items: between two as many edges as there are users who took both.
#[derive(Debug)]
struct Graph {
    /// The items of each user, each once.
    baskets: Vec<Vec<u32>>,
    /// (items, 1): one over the root of an item's degree, 0 where it has no edge.
    scale: Array2<f64>,
}

impl Graph {
    fn new(sequences: &[&[u32]], num_items: usize) -> Self {
        let mut degrees = Array2::<f64>::zeros((num_items, 1));
        let mut baskets = Vec::with_capacity(sequences.len());
        for items in sequences {
            let mut basket = items.to_vec();
            basket.sort_unstable();
            basket.dedup();
            for &item in &basket {
                degrees[[item as usize, 0]] += (basket.len() - 1) as f64;
            }
            baskets.push(basket);
        }
        let scale = degrees.mapv(|d| if d > 0.0 { d.sqrt().recip() } else { 0.0 });
        Self { baskets, scale }
    }

    /// D^(-1/2) A D^(-1/2) x, for x of (items, columns), without forming the adjacency A, which would take the
    /// square of the longest history: what a user adds to an item is the sum of the user's other items.
    fn apply(&self, x: ArrayView2<'_, f64>) -> Array2<f64> {
        let x = &x * &self.scale;
        let mut out = Array2::<f64>::zeros(x.dim());
        let mut sum = Array1::<f64>::zeros(x.ncols());
        for basket in &self.baskets {
            sum.fill(0.0);
            for &item in basket {
                sum += &x.row(item as usize);
            }
            for &item in basket {
                let mut row = out.row_mut(item as usize);
                row += &sum;
                row -= &x.row(item as usize);
            }
        }
        out * &self.scale
    }
}

/// The eigenvectors of the largest eigenvalues of the normalised adjacency, an item's components as its row.
///
/// # Errors
/// An item id outside `0..num_items`, sequences in which nothing stands beside another item, and a graph on which the
/// solver fails.
pub fn spectral_embedding(
    sequences: &[&[u32]],
    num_items: usize,
    config: &SpectralConfig,
    seed: u64,
) -> Result<SpectralEmbedding> {
    occurrences(sequences, num_items)?;
    let graph = Graph::new(sequences, num_items);
    let seen: Vec<bool> = graph.scale.iter().map(|&scale| scale > 0.0).collect();
    let num_seen = seen.iter().filter(|&&seen| seen).count();
    if num_seen == 0 {
        invalid!("index.behavior.encoder = \"spectral\": no user took two items in training");
    }
    let vectors = config.vectors(num_items);
    let first = rng::normal(&mut rng::stream(seed, "spectral", &[]), num_items * vectors, 1.0);
    let first = first.into_iter().map(f64::from).collect();
    let first = Array2::from_shape_vec((num_items, vectors), first);
    let first = first.map_err(|e| crate::Error::Invalid(format!("spectral embedding: {e}")))?;
    let apply = |x: ArrayView2<'_, f64>| graph.apply(x);
    // What ends it early, as a lack of precision does, leaves the best vectors so far.
    let solve = || match lobpcg(apply, first, |_| {}, None, TOLERANCE, STEPS, Order::Largest) {
        Ok(solved) => Some(solved),
        Err((_, best_so_far)) => best_so_far,
    };
    let Some(solved) = guarded(solve).flatten() else {
        invalid!(
            "index.behavior.encoder = \"spectral\": the eigenvectors of the graph of items could not be found; lower \
             index.behavior.spectral.dim"
        );
    };
    let mut rows = solved.eigvecs.mapv(|x| x as f32);
    for mut row in rows.axis_iter_mut(Axis(0)) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        if length > 0.0 {
            row /= length;
        }
    }
    fill_unseen(&mut rows, &seen);
    let residual = solved.rnorm.iter().copied().fold(0.0, f64::max);
    Ok(SpectralEmbedding {
        embeddings: rows,
        eigenvalues: solved.eigvals.to_vec(),
        residual,
        num_seen,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use linfa_linalg::eigh::{EigSort, Eigh};

    /// Users who take from one of three groups of 20 items, now and then from another; item 60 alone, item 61 never.
    fn histories() -> Vec<Vec<u32>> {
        let mut stream = rng::stream(3, "graph", &[]);
        let mut draw = |n: usize| rand::Rng::gen_range(&mut stream, 0..n as u32);
        let of_user = |user: u32, draw: &mut dyn FnMut(usize) -> u32| {
            let item = |draw: &mut dyn FnMut(usize) -> u32| {
                let group = if draw(20) == 0 { draw(3) } else { user % 3 };
                group * 20 + draw(20)
            };
            (0..8).map(|_| item(draw)).collect()
        };
        let mut all: Vec<Vec<u32>> = (0..120).map(|user| of_user(user, &mut draw)).collect();
        all.push(vec![60]);
        all
    }

    fn embed(dim: usize, seed: u64) -> SpectralEmbedding {
        let histories = histories();
        let sequences: Vec<&[u32]> = histories.iter().map(Vec::as_slice).collect();
        spectral_embedding(&sequences, 62, &SpectralConfig { dim }, seed).unwrap()
    }

    /// The normalised adjacency, pair by pair.
    fn dense() -> Array2<f64> {
        let mut adjacency = Array2::<f64>::zeros((62, 62));
        for items in histories() {
            for a in 0..62 {
                for b in (0..62).filter(|&b| b != a) {
                    if items.contains(&a) && items.contains(&b) {
                        adjacency[[a as usize, b as usize]] += 1.0;
                    }
                }
            }
        }
        let degrees = adjacency.sum_axis(Axis(1));
        Array2::from_shape_fn((62, 62), |(a, b)| {
            let product: f64 = degrees[a] * degrees[b];
            if product > 0.0 { adjacency[[a, b]] / product.sqrt() } else { 0.0 }
        })
    }

    #[test]
    fn eigenvalues_are_those_of_the_whole_matrix() {
        let (eigenvalues, _) = dense().eigh().unwrap().sort_eig_desc();
        let found = embed(5, 1);
        assert!(found.residual < 1e-3, "{}", found.residual);
        assert!((found.eigenvalues[0] - 1.0).abs() < 1e-9, "{:?}", found.eigenvalues);
        for (found, expected) in found.eigenvalues.iter().zip(&eigenvalues) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn products_with_the_graph_are_those_with_its_matrix() {
        let histories = histories();
        let sequences: Vec<&[u32]> = histories.iter().map(Vec::as_slice).collect();
        let x = Array2::from_shape_fn((62, 2), |(i, j)| ((i * 7 + j * 3) % 11) as f64 - 5.0);
        let products = Graph::new(&sequences, 62).apply(x.view());
        let difference = products - dense().dot(&x);
        assert!(difference.iter().all(|d| d.abs() < 1e-12), "{difference}");
    }

    #[test]
    fn items_of_a_group_lie_together() {
        let z = embed(3, 1).embeddings;
        let closest_is_of_own_group = |item: usize| {
            let product = |other: &usize| z.row(item).dot(&z.row(*other));
            let others = (0..60).filter(|&other| other != item);
            others.max_by(|a, b| product(a).total_cmp(&product(b))).unwrap() / 20 == item / 20
        };
        assert_eq!((0..60).filter(|&item| closest_is_of_own_group(item)).count(), 60);
    }

    #[test]
    fn items_without_an_edge_get_the_mean() {
        let found = embed(4, 1);
        assert_eq!(found.num_seen, 60);
        let z = found.embeddings;
        let mean = z.slice(ndarray::s![..60, ..]).mean_axis(Axis(0)).unwrap();
        assert!((&z.row(60) - &mean).iter().all(|d| d.abs() < 1e-6));
        assert_eq!(z.row(60), z.row(61));
        for row in z.outer_iter().take(60) {
            assert!((row.dot(&row) - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn small_catalogues_have_fewer_vectors_and_none_is_an_error() {
        assert_eq!(embed(64, 2).embeddings.dim(), (62, 12));
        let error =
            spectral_embedding(&[&[0], &[1, 1]], 2, &SpectralConfig::default(), 1).unwrap_err();
        assert!(error.to_string().contains("no user took two items"), "{error}");
        let error = spectral_embedding(&[&[0, 9]], 2, &SpectralConfig::default(), 1).unwrap_err();
        assert!(error.to_string().contains('9'), "{error}");
    }
}
