//! Balanced hierarchical k-means over clustered Gaussian vectors.

use std::path::Path;
use std::time::Instant;

use ndarray::Array2;
use serde::Serialize;

use crate::index::{HierarchicalKMeans, Rows, branching, min_levels};
use crate::{Result, files, invalid, rng};

/// What to time.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct KMeansBench {
    /// The rows.
    pub items: usize,
    /// The columns.
    pub dim: usize,
    /// The largest branching.
    pub k: usize,
    /// The height of the tree; 0 for as few levels as `k` allows.
    pub levels: usize,
}

/// How fast the tree was built.
#[derive(Debug, Clone, Serialize)]
pub struct KMeansSpeed {
    /// What was timed.
    #[serde(flatten)]
    pub bench: KMeansBench,
    /// The branching that was used.
    pub branching: usize,
    /// Threads of the pool.
    pub threads: usize,
    /// Seconds of the whole tree.
    pub seconds: f64,
    /// Items a second, of the whole tree.
    pub items_per_s: f64,
    /// Seconds of the root's split alone.
    pub root_seconds: f64,
    /// The mean squared distance of an item to the centroid of its cluster, at the root's split.
    pub root_mean_squared_distance: f64,
}

/// Times the whole tree, and then the root's split alone. `out` is where to write the vectors as `.npy`.
pub fn kmeans(bench: KMeansBench, out: Option<&Path>, seed: u64) -> Result<KMeansSpeed> {
    let KMeansBench { items, dim, k, levels } = bench;
    if dim == 0 {
        invalid!("--dim must be at least 1");
    }
    let levels = if levels == 0 { min_levels(items, k)? } else { levels };
    let branching = branching(items, k, levels)?;
    let vectors = clustered(items, dim, seed);
    if let Some(path) = out {
        write_npy(path, &vectors)?;
    }
    let tree = HierarchicalKMeans::new(k, levels);
    let start = Instant::now();
    tree.fit(vectors.view(), seed)?;
    let seconds = start.elapsed().as_secs_f64();

    let rows = Rows::new(vectors.as_slice().unwrap_or_default(), dim);
    let ids: Vec<u32> = (0..items as u32).collect();
    let mut stream = rng::stream(seed, "bench root", &[]);
    let start = Instant::now();
    let clusters = tree.node().split(rows, &ids, branching.min(items), &mut stream)?;
    let root_seconds = start.elapsed().as_secs_f64();
    let distances = clusters.iter().flat_map(|cluster| {
        let from = |&item: &u32| {
            let parts = rows.row(item as usize).iter().zip(&cluster.center);
            parts.map(|(x, c)| f64::from(x - c).powi(2)).sum::<f64>()
        };
        cluster.items.iter().map(from)
    });
    Ok(KMeansSpeed {
        bench: KMeansBench { levels, ..bench },
        branching,
        threads: rayon::current_num_threads(),
        seconds,
        items_per_s: items as f64 / seconds,
        root_seconds,
        root_mean_squared_distance: distances.sum::<f64>() / items as f64,
    })
}

/// A mixture of as many Gaussians as the square root of `num_items`, some much heavier than others, with
/// means as far apart as their items.
fn clustered(num_items: usize, dim: usize, seed: u64) -> Array2<f32> {
    let num_topics = (num_items as f64).sqrt().ceil() as usize;
    let means = rng::normal(&mut rng::stream(seed, "bench means", &[]), num_topics * dim, 1.0);
    let mut data = rng::normal(&mut rng::stream(seed, "bench items", &[]), num_items * dim, 1.0);
    let mut topics = rng::stream(seed, "bench topics", &[]);
    for row in data.chunks_exact_mut(dim) {
        let topic = (rng::uniform(&mut topics).powi(2) * num_topics as f64) as usize;
        let mean = &means[topic * dim..][..dim];
        row.iter_mut().zip(mean).for_each(|(x, m)| *x += m);
    }
    Array2::from_shape_vec((num_items, dim), data).expect("as many values as the shape has")
}

/// Writes numpy's format, version 1.0: little-endian f32 in row-major order.
fn write_npy(path: &Path, matrix: &Array2<f32>) -> Result<()> {
    let (rows, columns) = matrix.dim();
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    // Magic, version, length and header, which ends in a newline, fill whole lines of 64 bytes.
    let total = (10 + header.len() + 1).next_multiple_of(64);
    header += &" ".repeat(total - 10 - header.len() - 1);
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.reserve(matrix.len() * 4);
    bytes.extend(matrix.iter().flat_map(|x| x.to_le_bytes()));
    files::write(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_split_as_the_tree_is_and_the_vectors_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vectors.npy");
        let bench = KMeansBench { items: 300, dim: 5, k: 32, levels: 0 };
        let speed = kmeans(bench, Some(&path), 1).unwrap();
        assert_eq!((speed.bench.levels, speed.branching), (2, 18));
        assert!(speed.root_seconds > 0.0 && speed.items_per_s > 0.0);
        // Within clusters items vary less than over all.
        assert!((0.5..10.0).contains(&speed.root_mean_squared_distance), "{speed:?}");
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(bytes.len(), 128 + 300 * 5 * 4);
        assert_eq!((&bytes[..8], bytes[127]), (&b"\x93NUMPY\x01\x00"[..], b'\n'));
        let last = clustered(300, 5, 1)[[299, 4]];
        assert_eq!(bytes[bytes.len() - 4..], last.to_le_bytes());
        let error = kmeans(KMeansBench { levels: 1, ..bench }, None, 1).unwrap_err().to_string();
        assert!(error.contains("raise k to 300"), "{error}");
        assert!(kmeans(KMeansBench { dim: 0, ..bench }, None, 1).is_err());
    }
}
