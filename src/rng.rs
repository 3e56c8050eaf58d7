//! Seeded random streams.
//!
//! Every random decision of the program draws from a stream named after its purpose, so that adding
//! a draw in one place never shifts another, and a resumed run draws what an uninterrupted one would.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// The generator behind every stream.
pub type Rng = ChaCha8Rng;

/// The stream for `label` at `position` (for example an epoch and a step) under `seed`.
pub fn stream(seed: u64, label: &str, position: &[u64]) -> Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(label.as_bytes());
    for p in position {
        hash.update(p.to_le_bytes());
    }
    Rng::from_seed(hash.finalize().into())
}

/// One uniform draw from [0, 1), with 53 random bits.
pub fn uniform(rng: &mut Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// `most` of `0..n`, drawn without replacement and in ascending order; all of them where there are no more.
pub fn subset(rng: &mut Rng, n: usize, most: usize) -> Vec<usize> {
    if most >= n {
        return (0..n).collect();
    }
    let mut drawn = rand::seq::index::sample(rng, n, most).into_vec();
    drawn.sort_unstable();
    drawn
}

/// `n` draws from a normal distribution with mean 0 and standard deviation `std` (Box-Muller).
pub fn normal(rng: &mut Rng, n: usize, std: f64) -> Vec<f32> {
    let mut out = Vec::with_capacity(n + 1);
    while out.len() < n {
        let radius = (-2.0 * (1.0 - uniform(rng)).ln()).sqrt() * std;
        let angle = 2.0 * std::f64::consts::PI * uniform(rng);
        out.push((radius * angle.cos()) as f32);
        out.push((radius * angle.sin()) as f32);
    }
    out.truncate(n);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ_by_label_and_position() {
        let draw = |label, position: &[u64]| stream(7, label, position).next_u64();
        assert_eq!(draw("a", &[1]), draw("a", &[1]));
        assert_ne!(draw("a", &[1]), draw("a", &[2]));
        assert_ne!(draw("a", &[1]), draw("b", &[1]));
    }

    #[test]
    fn subsets_are_ascending_and_no_larger_than_the_whole() {
        let drawn = subset(&mut stream(1, "s", &[]), 50, 20);
        assert!(drawn.len() == 20 && drawn.windows(2).all(|w| w[0] < w[1]) && drawn[19] < 50);
        assert_eq!(subset(&mut stream(1, "s", &[]), 3, 20), [0, 1, 2]);
    }

    #[test]
    fn normal_draws_have_the_asked_spread() {
        let x = normal(&mut stream(1, "n", &[]), 20_001, 2.0);
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / x.len() as f32;
        assert!(mean.abs() < 0.05 && (var - 4.0).abs() < 0.15, "mean {mean}, variance {var}");
    }
}
