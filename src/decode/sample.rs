//! Choosing the next token of a text from its logits: the likeliest one, or one drawn from the likeliest.

use serde::Serialize;

use crate::rng::{self, Rng};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sampling {
    /// What logits are divided by before the softmax; 0 takes the likeliest token, whatever else is set.
    pub temperature: f64,
    /// How many of the likeliest tokens are drawn from; absent, all.
    pub top_k: Option<usize>,
    /// Of those, the fewest likeliest whose probabilities reach this share are drawn from; 1 keeps all.
    pub top_p: f64,
}

impl Sampling {
    /// The likeliest token, always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: None, top_p: 1.0 };
}

/// Chooses one token after another; the same seed draws the same ones.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    stream: Rng,
}

impl Sampler {
    /// A sampler at the start of its stream.
    pub fn new(sampling: Sampling, seed: u64) -> Self {
        Self { sampling, stream: rng::stream(seed, "generate", &[]) }
    }

    /// The next token, by its logits (at least one).
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        let Sampling { temperature, top_k, top_p } = self.sampling;
        if temperature == 0.0 {
            return likeliest(logits);
        }
        let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
        let logit = |token: u32| logits[token as usize];
        tokens.sort_unstable_by(|&a, &b| logit(b).total_cmp(&logit(a)).then(a.cmp(&b)));
        tokens.truncate(top_k.unwrap_or(tokens.len()).max(1));
        let best = f64::from(logit(tokens[0]));
        let weights: Vec<f64> =
            tokens.iter().map(|&t| ((f64::from(logit(t)) - best) / temperature).exp()).collect();
        let enough = top_p * weights.iter().sum::<f64>();
        let (mut mass, mut kept) = (0.0, 0);
        while kept == 0 || (kept < weights.len() && mass < enough) {
            mass += weights[kept];
            kept += 1;
        }
        let mut left = rng::uniform(&mut self.stream) * mass;
        for (&token, weight) in tokens.iter().zip(&weights[..kept]) {
            left -= weight;
            if left < 0.0 {
                return token;
            }
        }
        // What rounding left over belongs to the last.
        tokens[kept - 1]
    }
}

/// The token with the highest of `logits`; of equals, the first.
pub fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.5, 2.0, -1.0, 2.0, 1.0];

    fn draws(sampling: Sampling, seed: u64, n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling, seed);
        (0..n).map(|_| sampler.choose(&LOGITS)).collect()
    }

    fn seen(sampling: Sampling) -> Vec<u32> {
        let mut seen = draws(sampling, 1, 2000);
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    #[test]
    fn the_likeliest_of_equals_is_the_first() {
        assert_eq!(likeliest(&LOGITS), 1);
        assert_eq!(draws(Sampling::GREEDY, 1, 3), [1, 1, 1]);
    }

    #[test]
    fn the_best_one_alone_is_the_likeliest_at_any_temperature() {
        let one = Sampling { temperature: 5.0, top_k: Some(1), top_p: 1.0 };
        assert_eq!(seen(one), [1]);
        let nucleus = Sampling { temperature: 1.0, top_k: None, top_p: 0.01 };
        assert_eq!(seen(nucleus), [1]);
    }

    #[test]
    fn a_seed_fixes_the_draws() {
        let sampling = Sampling { temperature: 1.0, top_k: None, top_p: 1.0 };
        assert_eq!(draws(sampling, 7, 50), draws(sampling, 7, 50));
        assert_ne!(draws(sampling, 7, 50), draws(sampling, 8, 50));
    }

    #[test]
    fn tokens_are_drawn_as_often_as_the_softmax_says() {
        let temperature = 0.7;
        let sampling = Sampling { temperature, top_k: None, top_p: 1.0 };
        let drawn = draws(sampling, 3, 20_000);
        let weight = |logit: f32| (f64::from(logit) / temperature).exp();
        let total: f64 = LOGITS.iter().map(|&l| weight(l)).sum();
        for (token, &logit) in LOGITS.iter().enumerate() {
            let share = drawn.iter().filter(|&&d| d == token as u32).count() as f64 / 20_000.0;
            assert!((share - weight(logit) / total).abs() < 0.01, "{token}: {share}");
        }
    }

    #[test]
    fn top_k_and_top_p_leave_the_tail_out() {
        let plain = Sampling { temperature: 1.0, top_k: None, top_p: 1.0 };
        assert_eq!(seen(plain), [0, 1, 2, 3, 4]);
        assert_eq!(seen(Sampling { top_k: Some(3), ..plain }), [1, 3, 4]);
        // The softmax gives 0.38, 0.38, 0.14, 0.08 and 0.02: two reach 0.7, three 0.8.
        assert_eq!(seen(Sampling { top_p: 0.7, ..plain }), [1, 3]);
        assert_eq!(seen(Sampling { top_p: 0.8, ..plain }), [1, 3, 4]);
        // Of the three likeliest alone they are 0.42, 0.42 and 0.16.
        assert_eq!(seen(Sampling { top_k: Some(3), top_p: 0.8, ..plain }), [1, 3]);
    }
}
