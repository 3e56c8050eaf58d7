//! How the users of the synthetic shop choose: the distribution of the next item, in closed form.
//!
//! Given the history, an anchor is drawn from the last three items, recent ones first. From the
//! anchor `i`, the next item `j` follows one of four motives:
//!
//! - behavior: `b(i, j) = decay^(steps - 1)` if `j` is `steps` places after `i` in the hidden ring of
//!   items that are bought together, 0 if it is in another ring;
//! - text: `t(i, j) = popularity(j) · transition(category i, category j) · boosts`, the boosts for
//!   the same brand and for the same skin type, hair type, shade or scent;
//! - both: `b(i, j) · t(i, j)`;
//! - noise: `popularity(j)`;
//!
//! each normalised over all items. Items the user has are excluded, and the rest is renormalised.

use rand::seq::SliceRandom as _;

use super::SynthConfig;
use super::text::Traits;
use super::words::CATEGORIES;
use crate::data::ItemId;
use crate::rng::{Rng, stream, uniform};

/// The probability of each of the last items, latest first, to be the anchor.
const ANCHORS: [f64; 3] = [0.8, 0.15, 0.05];
/// How much less each further place in the ring is bought.
const DECAY: f64 = 0.85;
/// Relative weights of staying in the category, of its two followers and of any other category.
const STAY: f64 = 1.0;
const FOLLOW: [f64; 2] = [0.5, 0.15];
const OTHER: f64 = 0.01;
/// How much more an item of the same brand, or in the same variant, is bought.
const SAME_BRAND: f64 = 20.0;
const SAME_VARIANT: f64 = 20.0;

/// Which of the two signals an oracle may look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Only how popular items are.
    Popularity,
    /// Popularity and the hidden rings.
    Behavior,
    /// Popularity and the texts.
    Text,
    /// Everything: the process itself.
    Both,
}

/// The hidden state that the next item depends on.
#[derive(Debug, Clone)]
pub(super) struct Process {
    traits: Vec<Traits>,
    /// The probability of each item where nothing else is known.
    popularity: Vec<f64>,
    /// The ring of each item.
    pub(super) group: Vec<usize>,
    /// The place of each item in its ring.
    place: Vec<usize>,
    /// The items of each ring, in order.
    rings: Vec<Vec<ItemId>>,
    behavior: f64,
    text: f64,
    both: f64,
    noise: f64,
}

impl Process {
    /// Draws popularity and rings, each independently of the texts and of the other.
    pub(super) fn new(config: &SynthConfig, traits: Vec<Traits>) -> Self {
        let n = traits.len();
        let mut order: Vec<usize> = (0..n).collect();
        order.shuffle(&mut stream(config.seed, "synth/popularity", &[]));
        let mut popularity = vec![0.0; n];
        for (rank, &item) in order.iter().enumerate() {
            popularity[item] = ((rank + 1) as f64).powf(-config.zipf_exponent);
        }
        let total: f64 = popularity.iter().sum();
        for p in &mut popularity {
            *p /= total;
        }

        order.sort_unstable();
        order.shuffle(&mut stream(config.seed, "synth/groups", &[]));
        let (mut group, mut place) = (vec![0; n], vec![0; n]);
        let mut rings = vec![Vec::new(); config.groups];
        for (i, &item) in order.iter().enumerate() {
            group[item] = i % config.groups;
            place[item] = rings[i % config.groups].len();
            rings[i % config.groups].push(item as ItemId);
        }
        let total = config.behavior + config.text + config.both + config.noise;
        let [behavior, text, both, noise] =
            [config.behavior, config.text, config.both, config.noise].map(|share| share / total);
        Self { traits, popularity, group, place, rings, behavior, text, both, noise }
    }

    /// A sequence of `length` different items.
    pub(super) fn sequence(&self, length: usize, rng: &mut Rng) -> Vec<ItemId> {
        let mut items = Vec::with_capacity(length);
        for _ in 0..length {
            let weights = self.next_item(&items, Known::Both);
            items.push(draw(&weights, rng));
        }
        items
    }

    /// The relative probability of every item to be next after `history`: 0 for items in it.
    ///
    /// With less than everything known, the unknown signal counts as the same for all items.
    pub(super) fn next_item(&self, history: &[ItemId], known: Known) -> Vec<f64> {
        let mut weights = vec![0.0; self.traits.len()];
        for (&anchor, share) in history.iter().rev().zip(ANCHORS) {
            self.add_step(anchor as usize, share, known, &mut weights);
        }
        if history.is_empty() {
            weights.clone_from(&self.popularity);
        }
        for &item in history {
            weights[item as usize] = 0.0;
        }
        weights
    }

    /// Adds `share` times the distribution of the next item given its anchor.
    fn add_step(&self, anchor: usize, share: f64, known: Known, weights: &mut [f64]) {
        let n = weights.len();
        let mut text = self.popularity.clone();
        if matches!(known, Known::Text | Known::Both) {
            for (weight, traits) in text.iter_mut().zip(&self.traits) {
                *weight *= likeness(self.traits[anchor], *traits);
            }
        }
        let mut behavior = Vec::new();
        if matches!(known, Known::Behavior | Known::Both) {
            let ring = &self.rings[self.group[anchor]];
            let after = (1..ring.len()).map(|step| ring[(self.place[anchor] + step) % ring.len()]);
            let mut weight = 1.0;
            for item in after {
                behavior.push((item as usize, weight));
                weight *= DECAY;
            }
        } else {
            behavior.extend((0..n).map(|item| (item, 1.0)));
        }
        let text_scale = share * self.text / text.iter().sum::<f64>();
        for ((weight, text), popularity) in weights.iter_mut().zip(&text).zip(&self.popularity) {
            *weight += text_scale * text + share * self.noise * popularity;
        }
        let total: f64 = behavior.iter().map(|(_, b)| b).sum();
        let total_both: f64 = behavior.iter().map(|&(item, b)| b * text[item]).sum();
        for (item, b) in behavior {
            weights[item] +=
                share * b * (self.behavior / total + self.both * text[item] / total_both);
        }
    }
}

/// How much more or less an item is bought for how its text relates to the anchor's.
fn likeness(anchor: Traits, next: Traits) -> f64 {
    let from = &CATEGORIES[anchor.category];
    let mut weight = if next.category == anchor.category {
        STAY
    } else if let Some(step) = from.followers.iter().position(|&c| c == next.category) {
        FOLLOW[step]
    } else {
        OTHER
    };
    if next.brand == anchor.brand {
        weight *= SAME_BRAND;
    }
    // A shade says nothing about a skin type: variants compare within a department.
    if next.variant == anchor.variant && CATEGORIES[next.category].department == from.department {
        weight *= SAME_VARIANT;
    }
    weight
}

fn draw(weights: &[f64], rng: &mut Rng) -> ItemId {
    let mut left = uniform(rng) * weights.iter().sum::<f64>();
    let mut last = 0;
    for (item, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        last = item;
        left -= weight;
        if left < 0.0 {
            break;
        }
    }
    last as ItemId
}
