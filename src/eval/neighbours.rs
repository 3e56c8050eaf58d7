//! Item neighbours (Sarwar et al., 2001): what was taken by the users who took an item.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::ranking::ItemScorer;
use crate::Result;
use crate::data::ItemId;
use crate::model::sequential::History;

/// `[baseline.item-knn]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ItemKnnConfig {
    /// Neighbours that are kept of each item.
    pub neighbours: usize,
    /// Added to the denominator of the cosine, so that items with few users are not near by chance.
    pub shrink: f64,
    /// What an item of a history counts, as a share of the one after it.
    pub decay: f64,
}

impl Default for ItemKnnConfig {
    fn default() -> Self {
        Self { neighbours: 100, shrink: 30.0, decay: 0.6 }
    }
}

/// The probability that all items share alike: so much is taken that is near to nothing in the history.
const ELSEWHERE: f32 = 0.1;

/// `s(i | history) = sum over its items j of decay^age(j) cos(i, j)`, where `cos(i, j)` is the number of users who
/// took both, over the square root of the product of those who took either, and `shrink` more. An item's probability,
/// whose logarithm is its score, is its share of the sum of these, but for a tenth that all items share alike.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemKnn {
    /// Of each item, nearest first.
    pub neighbours: Vec<Vec<(ItemId, f32)>>,
    decay: f64,
}

impl ItemKnn {
    /// The neighbours of the items in `sequences` (each user's training items).
    pub fn new(sequences: &[&[ItemId]], num_items: usize, config: &ItemKnnConfig) -> Self {
        let mut takers = vec![Vec::new(); num_items];
        let mut taken = Vec::with_capacity(sequences.len());
        for (user, items) in sequences.iter().enumerate() {
            let mut items = items.to_vec();
            items.sort_unstable();
            items.dedup();
            for &item in &items {
                takers[item as usize].push(user);
            }
            taken.push(items);
        }
        let near = |item: usize| {
            let mut both: HashMap<ItemId, usize> = HashMap::new();
            for other in takers[item].iter().flat_map(|&user| &taken[user]) {
                *both.entry(*other).or_default() += 1;
            }
            let cosine = |(other, both): (ItemId, usize)| {
                let users = (takers[item].len() * takers[other as usize].len()) as f64;
                (other, (both as f64 / (users.sqrt() + config.shrink)) as f32)
            };
            let others = both.into_iter().filter(|&(other, _)| other as usize != item);
            let mut near: Vec<(ItemId, f32)> = others.map(cosine).collect();
            near.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            near.truncate(config.neighbours);
            near
        };
        Self { neighbours: (0..num_items).into_par_iter().map(near).collect(), decay: config.decay }
    }

    /// Neighbours that were kept in a file.
    pub fn of(neighbours: Vec<Vec<(ItemId, f32)>>, config: &ItemKnnConfig) -> Self {
        Self { neighbours, decay: config.decay }
    }
}

impl ItemScorer for ItemKnn {
    fn scores(&self, histories: &[History<'_>]) -> Result<Vec<f32>> {
        let row = |history: &History<'_>| {
            let mut scores = vec![0f32; self.neighbours.len()];
            for (&item, age) in history.items.iter().rev().zip(0..) {
                let weight = self.decay.powi(age) as f32;
                for &(other, cosine) in &self.neighbours[item as usize] {
                    scores[other as usize] += weight * cosine;
                }
            }
            let all: f32 = scores.iter().sum();
            let alike = (scores.len() as f32).recip();
            for score in &mut scores {
                let share = if all > 0.0 { *score / all } else { alike };
                *score = ((1.0 - ELSEWHERE) * share + ELSEWHERE * alike).ln();
            }
            scores
        };
        Ok(histories.par_iter().map(row).collect::<Vec<_>>().concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_by_hand() {
        let sequences: [&[ItemId]; 4] = [&[0, 1, 1], &[0, 1, 2], &[1, 3], &[2]];
        let config = ItemKnnConfig { neighbours: 2, shrink: 1.0, decay: 0.5 };
        let knn = ItemKnn::new(&sequences, 5, &config);
        // 0 and 1 share two users, of two and three; 1 has three neighbours, of which two are kept.
        let cosine = |both: f64, users: f64| (both / (users.sqrt() + 1.0)) as f32;
        assert_eq!(knn.neighbours[0], [(1, cosine(2.0, 6.0)), (2, cosine(1.0, 4.0))]);
        assert_eq!(knn.neighbours[1], [(0, cosine(2.0, 6.0)), (3, cosine(1.0, 3.0))]);
        assert_eq!(knn.neighbours[4], []);
        let scores = knn.scores(&[History::of(&[0, 2]), History::of(&[4])]).unwrap();
        // 1 is near 0, which is the older of the two, and near 2; 0 is near 2, 2 near 0, and that is all.
        let near = [
            cosine(1.0, 4.0),
            0.5 * cosine(2.0, 6.0) + cosine(1.0, 6.0),
            0.5 * cosine(1.0, 4.0),
            0.0,
            0.0,
        ];
        let all: f32 = near.iter().sum();
        for (score, near) in scores.iter().zip(near) {
            let expected = 0.9 * near / all + 0.1 / 5.0;
            assert!((score.exp() - expected).abs() < 1e-6, "{scores:?}");
        }
        // Nothing is near 4.
        assert!(scores[5..].iter().all(|score| (score.exp() - 0.2).abs() < 1e-6), "{scores:?}");
        assert_eq!(ItemKnn::of(knn.neighbours.clone(), &config), knn);
    }
}
