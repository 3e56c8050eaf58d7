//! Item neighbours (Sarwar et al., 2001), told apart by order and distance: what the users who took an item took
//! soon after it.

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
    /// What a user counts for a pair, as a share of what he did were its items one step nearer in his sequence.
    pub distance: f64,
    /// What a user counts who took the neighbour before the item, as a share of one who took it after.
    pub backward: f64,
    /// How much of the norm is the item's: 0.5 for the cosine, 1 for the share of the item's users.
    pub asymmetry: f64,
    /// Added to the norm, so that items with few users are not near by chance.
    pub shrink: f64,
    /// What an item of a history counts, as a share of the one after it.
    pub decay: f64,
}

impl Default for ItemKnnConfig {
    fn default() -> Self {
        Self {
            neighbours: 100,
            distance: 0.9,
            backward: 0.25,
            asymmetry: 0.8,
            shrink: 30.0,
            decay: 0.6,
        }
    }
}

/// The probability that all items share alike: so much is taken that is near to nothing in the history.
const ELSEWHERE: f32 = 0.1;

/// `s(i | history) = sum over its items j of decay^age(j) near(j, i)`. An item's probability, whose logarithm is its
/// score, is its share of the sum of these, but for a tenth that all items share alike.
///
/// `near(j, i) = sum over users of w(j, i) / (n_j^asymmetry n_i^(1 - asymmetry) + shrink)` with the numbers of users `n`
/// (asymmetric cosine; Aiolli, 2013). Of a user who took both `w = distance^(steps between them - 1)`, and where `i` came
/// first `backward` of that (as sequential rules count; Kamehkhosh et al., 2017); of several such pairs the most. With
/// `distance = 1, backward = 1, asymmetry = 0.5` it is the cosine.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemKnn {
    /// Of each item, nearest first.
    pub neighbours: Vec<Vec<(ItemId, f32)>>,
    decay: f64,
}

impl ItemKnn {
    /// The neighbours of the items in `sequences` (each user's training items, oldest first).
    pub fn new(sequences: &[&[ItemId]], num_items: usize, config: &ItemKnnConfig) -> Self {
        // By item, who took it where.
        let mut taken: Vec<Vec<(usize, usize)>> = vec![Vec::new(); num_items];
        for (user, items) in sequences.iter().enumerate() {
            for (place, &item) in items.iter().enumerate() {
                taken[item as usize].push((user, place));
            }
        }
        let users = |item: usize| taken[item].chunk_by(|a, b| a.0 == b.0).count() as f64;
        let users: Vec<f64> = (0..num_items).map(users).collect();
        let weight =
            |steps: usize| config.distance.powi(i32::try_from(steps).unwrap_or(i32::MAX) - 1);
        let near = |item: usize| {
            let mut counts: HashMap<ItemId, f64> = HashMap::new();
            for places in taken[item].chunk_by(|a, b| a.0 == b.0) {
                let mut of_user: HashMap<ItemId, f64> = HashMap::new();
                let sequence = sequences[places[0].0];
                for (i, &other) in sequence.iter().enumerate() {
                    // The nearest place before it and the nearest behind it count most.
                    let before = places.partition_point(|&(_, place)| place < i);
                    let behind = places.partition_point(|&(_, place)| place <= i);
                    let forward = before.checked_sub(1).map(|nth| weight(i - places[nth].1));
                    let backward = places.get(behind);
                    let backward = backward.map(|(_, place)| config.backward * weight(place - i));
                    let most = of_user.entry(other).or_default();
                    *most = most.max(forward.unwrap_or(0.0)).max(backward.unwrap_or(0.0));
                }
                for (other, most) in of_user {
                    *counts.entry(other).or_default() += most;
                }
            }
            let norm = |other: usize| {
                let own = users[item].powf(config.asymmetry);
                own * users[other].powf(1.0 - config.asymmetry) + config.shrink
            };
            let others = counts.into_iter().filter(|&(other, _)| other as usize != item);
            let mut near: Vec<(ItemId, f32)> = others
                .map(|(other, counts)| (other, (counts / norm(other as usize)) as f32))
                .filter(|&(_, near)| near > 0.0)
                .collect();
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
                for &(other, near) in &self.neighbours[item as usize] {
                    scores[other as usize] += weight * near;
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

    fn cosine_alone() -> ItemKnnConfig {
        ItemKnnConfig {
            neighbours: 9,
            distance: 1.0,
            backward: 1.0,
            asymmetry: 0.5,
            shrink: 1.0,
            decay: 0.5,
        }
    }

    #[test]
    fn order_and_distance_by_hand() {
        let sequences: [&[ItemId]; 3] = [&[0, 1, 2], &[2, 0, 2, 1, 0], &[3, 0]];
        let config = ItemKnnConfig {
            distance: 0.5,
            backward: 0.25,
            asymmetry: 1.0,
            shrink: 0.0,
            ..cosine_alone()
        };
        let knn = ItemKnn::new(&sequences, 4, &config);
        // Three took 0. The first took 1 right after it, and 2 a step later; the second 2 right after, and 1 right before
        // and, which counts more, a step after it; the third 3 right before.
        let expected = [(1, (1.0 + 0.5) / 3.0), (2, (0.5 + 1.0) / 3.0), (3, 0.25 / 3.0)];
        assert_eq!(knn.neighbours[0], expected);
        assert_eq!(knn.neighbours[3], [(0, 1.0)]);
        let forward = ItemKnnConfig { backward: 0.0, ..config.clone() };
        let knn = ItemKnn::new(&sequences, 4, &forward);
        assert_eq!(knn.neighbours[0], expected[..2]);
        let of_other = ItemKnnConfig { asymmetry: 0.0, ..config };
        let knn = ItemKnn::new(&sequences, 4, &of_other);
        assert_eq!(knn.neighbours[0], [(1, 1.5 / 2.0), (2, 1.5 / 2.0), (3, 0.25)]);
    }

    #[test]
    fn cosines_by_hand() {
        let sequences: [&[ItemId]; 4] = [&[0, 1, 1], &[0, 1, 2], &[1, 3], &[2]];
        let config = ItemKnnConfig { neighbours: 2, ..cosine_alone() };
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
