//! A synthetic shop: a dataset small enough for minutes on a laptop, free to ship, and with a known
//! truth.
//!
//! Which item a user buys next depends on a signal that can be read (category, brand, skin type,
//! shade, scent) and on one that only behavior shows (hidden groups of items bought together, drawn
//! independently of all text); an item that fits both is far likelier than one that fits either.
//! So an index of both sources has something to gain, and the process itself, asked as an oracle,
//! says how much.

mod process;
#[cfg(test)]
mod tests;
mod text;
mod words;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::process::Process;
use super::{DataError, Dataset, Split, User};
use crate::rng::{stream, uniform};

pub use self::process::Known;

/// The size and the nature of a [`Shop`].
///
/// `behavior`, `text`, `both` and `noise` are the shares of purchases with that motive, before items
/// that the user has are excluded; they are normalised to a sum of 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SynthConfig {
    /// The seed of everything in the shop; not that of the run, so that runs with different seeds
    /// share a dataset.
    pub seed: u64,
    /// The number of users.
    pub users: usize,
    /// The number of items.
    pub items: usize,
    /// The number of hidden groups.
    pub groups: usize,
    /// The fewest interactions of a user.
    pub min_length: usize,
    /// The most interactions of a user.
    pub max_length: usize,
    /// Popularity of the item of rank r is proportional to r^-`zipf-exponent`.
    pub zipf_exponent: f64,
    /// Purchases that follow the hidden group alone.
    pub behavior: f64,
    /// Purchases that follow the text alone.
    pub text: f64,
    /// Purchases that follow both at once.
    pub both: f64,
    /// Purchases that follow popularity alone.
    pub noise: f64,
}

impl Default for SynthConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            users: 2500,
            items: 800,
            groups: 40,
            min_length: 5,
            max_length: 14,
            zipf_exponent: 0.5,
            behavior: 0.15,
            text: 0.35,
            both: 0.3,
            noise: 0.2,
        }
    }
}

impl SynthConfig {
    fn check(&self) -> Result<(), DataError> {
        let synth = |key, value, must| Err(DataError::Synth { key, value, must });
        let count = |key, value: usize, must| synth(key, value as f64, must);
        if self.users == 0 {
            return count("users", self.users, "must be at least 1");
        }
        if self.groups == 0 || self.items < 2 * self.groups {
            return count("groups", self.groups, "must be at least 1 and at most half of items");
        }
        if self.min_length < 3 {
            return count("min-length", self.min_length, "must be at least 3, for leave-one-out");
        }
        if self.max_length < self.min_length || self.items <= self.max_length {
            let must = "must be at least min-length and less than items";
            return count("max-length", self.max_length, must);
        }
        // Beyond that the rarest items' weights come near the smallest number there is.
        if !(0.0..=4.0).contains(&self.zipf_exponent) {
            return synth("zipf-exponent", self.zipf_exponent, "must be between 0 and 4");
        }
        let shares = [
            ("behavior", self.behavior),
            ("text", self.text),
            ("both", self.both),
            ("noise", self.noise),
        ];
        if let Some((key, value)) = shares.into_iter().find(|(_, v)| !v.is_finite() || *v < 0.0) {
            return synth(key, value, "must be a finite number, 0 or more");
        }
        // Without noise, a user who has all that the other motives offer would have nothing to buy.
        if self.noise == 0.0 {
            return synth("noise", self.noise, "must be more than 0");
        }
        Ok(())
    }
}

/// A generated dataset with the truth behind it.
#[derive(Debug, Clone)]
pub struct Shop {
    /// What a recommender gets to see.
    pub dataset: Dataset,
    /// The category of each item, which its text tells.
    pub category: Vec<usize>,
    /// The hidden group of each item, which only behavior tells.
    pub group: Vec<usize>,
    process: Process,
}

impl Shop {
    /// Generates the shop of `config`: equal settings give an equal shop.
    ///
    /// # Errors
    /// Names the setting that cannot be met.
    pub fn generate(config: &SynthConfig) -> Result<Self, DataError> {
        config.check()?;
        let (items, traits) = text::items(config.items, config.seed);
        let category = traits.iter().map(|t| t.category).collect();
        let process = Process::new(config, traits);
        let users = (0..config.users)
            .into_par_iter()
            .map(|u| {
                let mut rng = stream(config.seed, "synth/user", &[u as u64]);
                // Short sequences are the more frequent ones, as in real logs.
                let spread = (config.max_length - config.min_length + 1) as f64;
                let length = config.min_length + (spread * uniform(&mut rng).powf(1.2)) as usize;
                User { id: u.to_string(), items: process.sequence(length, &mut rng) }
            })
            .collect();
        let dataset = Dataset::new("synth", users, items)?;
        Ok(Self { dataset, category, group: process.group.clone(), process })
    }

    /// Recall@`k` on the test targets of the best possible recommender: it ranks items by the exact
    /// distribution that the target was drawn from.
    pub fn oracle_recall(&self, k: usize) -> f64 {
        self.oracle_recall_of(Known::Both, k)
    }

    /// [`Shop::oracle_recall`] of one who knows only a part of the truth.
    pub fn oracle_recall_of(&self, known: Known, k: usize) -> f64 {
        let targets = self.dataset.targets(Split::Test);
        let hits = targets.par_iter().filter(|&&target| {
            let history = self.dataset.history(target, usize::MAX);
            let target = self.dataset.target_item(target) as usize;
            let weights = self.process.next_item(history, known);
            let before = |(item, weight): (usize, &f64)| {
                *weight > weights[target] || (*weight == weights[target] && item < target)
            };
            weights.iter().enumerate().filter(|&entry| before(entry)).count() < k
        });
        hits.count() as f64 / targets.len() as f64
    }
}
