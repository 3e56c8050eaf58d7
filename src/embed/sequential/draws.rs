//! What is drawn at every step: the items that targets are told from, and those that are hidden.

use rand::seq::index;

use super::windows::Window;
use crate::model::sequential::Candidates;
use crate::rng;

/// Share of the windows of which the last item alone is hidden, as it is when a network is asked.
pub(super) const LAST_ALONE: f64 = 0.2;

/// Draws what the targets of a step are told from.
pub(super) struct Sampler {
    /// The share of each item among all targets.
    shares: Vec<f64>,
    negatives: usize,
}

impl Sampler {
    /// Of a network that is asked for the next items of `windows`, or for those that are `hidden` in them, which are
    /// this share.
    pub(super) fn new(
        windows: &[Window],
        sequences: &[&[u32]],
        num_items: usize,
        negatives: usize,
        hidden: Option<f64>,
    ) -> Self {
        let mut shares = vec![0.0; num_items];
        for window in windows {
            let items = sequences[window.user];
            match hidden {
                None => {
                    for &item in &items[window.targets.clone()] {
                        shares[item as usize] += 1.0;
                    }
                }
                Some(share) => {
                    let items = &items[window.items.clone()];
                    for (at, &item) in items.iter().enumerate() {
                        shares[item as usize] += chance_to_be_hidden(at, items.len(), share);
                    }
                }
            }
        }
        let total: f64 = shares.iter().sum();
        for share in &mut shares {
            *share /= total;
        }
        Self { shares, negatives: negatives.min(num_items) }
    }

    /// The targets and a uniform sample, with the probability that either makes an item a candidate.
    pub(super) fn draw(&self, targets: &[u32], stream: &mut rng::Rng) -> Candidates {
        let num_items = self.shares.len();
        let drawn = index::sample(stream, num_items, self.negatives);
        let mut items: Vec<u32> = drawn.into_iter().map(|item| item as u32).collect();
        items.extend_from_slice(targets);
        items.sort_unstable();
        items.dedup();
        let undrawn = 1.0 - self.negatives as f64 / num_items as f64;
        let log_probability = |&item: &u32| {
            let no_target = (1.0 - self.shares[item as usize]).powf(targets.len() as f64);
            (1.0 - no_target * undrawn).ln() as f32
        };
        let log_probabilities = items.iter().map(log_probability).collect();
        Candidates { items, log_probabilities }
    }
}

/// A uniform draw among the items that are not in `taken`, or among all where hardly any is left.
pub(super) fn not_taken(taken: &[u32], num_items: u32, stream: &mut rng::Rng) -> u32 {
    let mut draw = || (rng::uniform(stream) * f64::from(num_items)) as u32;
    for _ in 0..100 {
        let item = draw();
        if !taken.contains(&item) {
            return item;
        }
    }
    draw()
}

/// The probability with which [`hide`] with [`LAST_ALONE`] hides the item at a place among so many.
fn chance_to_be_hidden(at: usize, items: usize, share: f64) -> f64 {
    let drawn = (1.0 - LAST_ALONE) * share;
    if at + 1 < items {
        return drawn;
    }
    let none_drawn = (1.0 - LAST_ALONE) * (1.0 - share).powf(items as f64);
    drawn + LAST_ALONE + none_drawn
}

/// Puts `mask` in the place of a share of `items`, one at least; with the probability `last_alone`, of the last alone.
/// Gives the places.
pub(super) fn hide(
    items: &mut [u32],
    mask: u32,
    share: f64,
    last_alone: f64,
    stream: &mut rng::Rng,
) -> Vec<usize> {
    let last = items.len() - 1;
    let mut hidden = Vec::new();
    if rng::uniform(stream) >= last_alone {
        hidden.extend((0..=last).filter(|_| rng::uniform(stream) < share));
    }
    if hidden.is_empty() {
        hidden.push(last);
    }
    for &at in &hidden {
        items[at] = mask;
    }
    hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probability_of_being_a_candidate_counts_both_ways_to_become_one() {
        let sequences: [&[u32]; 2] = [&[0, 1, 1, 1], &[0, 2]];
        let windows = Window::over(&sequences, 6);
        let draw = |negatives| {
            let sampler = Sampler::new(&windows, &sequences, 10, negatives, None);
            sampler.draw(&[1, 2], &mut rng::stream(1, "test", &[]))
        };
        let all = draw(10);
        assert_eq!(all.items, (0..10).collect::<Vec<_>>());
        assert!(all.log_probabilities.iter().all(|&p| p == 0.0));
        let some = draw(3);
        assert!(some.items.is_sorted() && (3..=5).contains(&some.items.len()), "{some:?}");
        let of = |item: u32| some.log_probabilities[some.items.binary_search(&item).unwrap()].exp();
        // Three in four targets are item 1, one is item 2; two targets a step; 3 of 10 items are drawn.
        assert!((of(1) - (1.0 - 0.25 * 0.25 * 0.7)).abs() < 1e-6);
        assert!((of(2) - (1.0 - 0.75 * 0.75 * 0.7)).abs() < 1e-6);
    }

    #[test]
    fn what_a_user_took_is_no_other_item() {
        let mut stream = rng::stream(1, "test", &[]);
        let drawn: Vec<u32> = (0..200).map(|_| not_taken(&[0, 2], 5, &mut stream)).collect();
        assert!([1, 3, 4].iter().all(|item| drawn.contains(item)));
        assert!(drawn.iter().all(|item| [1, 3, 4].contains(item)));
        // Who took all is told from any.
        assert!(not_taken(&[0, 1], 2, &mut stream) < 2);
    }

    #[test]
    fn a_share_of_the_items_is_hidden_or_the_last_alone() {
        let mut stream = rng::stream(1, "test", &[]);
        let (mut last_alone, mut total) = (0, 0);
        for _ in 0..1000 {
            let mut items = [1, 2, 3, 4, 5];
            let hidden = hide(&mut items, 9, 0.4, LAST_ALONE, &mut stream);
            let found: Vec<usize> = (0..5).filter(|&at| items[at] == 9).collect();
            assert_eq!(hidden, found);
            last_alone += usize::from(hidden == [4]);
            total += hidden.len();
        }
        // A fifth on purpose; of the rest 0.6^4 0.4 by chance, and 0.6^5 where none was drawn.
        let share = 0.2 + 0.8 * 0.6f64.powi(4);
        assert!((last_alone as f64 / 1000.0 - share).abs() < 0.05, "{last_alone}");
        let mean = 0.2 + 0.8 * (2.0 + 0.6f64.powi(5));
        assert!((total as f64 / 1000.0 - mean).abs() < 0.1, "{total}");
        let chances: f64 = (0..5).map(|at| chance_to_be_hidden(at, 5, 0.4)).sum();
        assert!((chances - mean).abs() < 1e-9, "{chances}");
    }

    #[test]
    fn what_is_hidden_is_a_candidate_as_often_as_it_is_hidden() {
        let sequences: [&[u32]; 2] = [&[0, 1, 2], &[2, 1]];
        let windows = Window::over(&sequences, 6);
        let sampler = Sampler::new(&windows, &sequences, 4, 1, Some(0.5));
        let mut counts = [0.0; 4];
        let mut stream = rng::stream(1, "test", &[]);
        for _ in 0..4000 {
            for items in sequences {
                let mut seen = items.to_vec();
                let hidden = hide(&mut seen, 9, 0.5, LAST_ALONE, &mut stream);
                for at in hidden {
                    counts[items[at] as usize] += 1.0;
                }
            }
        }
        let total: f64 = counts.iter().sum();
        for (item, (count, share)) in counts.iter().zip(&sampler.shares).enumerate() {
            assert!((count / total - share).abs() < 0.01, "{item}: {count} {share}");
        }
    }
}
