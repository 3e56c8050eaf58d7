//! What a network is to find out before it is trained to tell the next item.

use std::ops::Range;

use super::draws::{hide, not_taken};
use super::windows::Window;
use crate::model::sequential::Puzzle;
use crate::rng;

/// Makes puzzles of sequences.
pub(super) struct Puzzler {
    num_items: u32,
    hidden_share: f64,
    /// The most items of a row.
    most: usize,
    /// The items of all sequences, one after another: where segments from elsewhere are cut out.
    all: Vec<u32>,
}

impl Puzzler {
    /// For a network that reads `most` items of `num_items`.
    pub(super) fn new(
        sequences: &[&[u32]],
        num_items: usize,
        most: usize,
        hidden_share: f64,
    ) -> Self {
        Self { num_items: num_items as u32, hidden_share, most, all: sequences.concat() }
    }

    /// The items of a window's row.
    pub(super) fn row<'s>(&self, window: &Window, sequences: &[&'s [u32]]) -> &'s [u32] {
        let items = &sequences[window.user][window.items.clone()];
        &items[items.len().saturating_sub(self.most)..]
    }

    /// Hides something of each window of a batch, of which the puzzle has those of `part`: what is drawn is drawn for
    /// the whole batch.
    pub(super) fn hide(
        &self,
        batch: &[Window],
        part: &Range<usize>,
        sequences: &[&[u32]],
        stream: &mut rng::Rng,
    ) -> Puzzle {
        let mut puzzle = Puzzle::default();
        let (mut before, mut start) = (0, 0);
        for (index, window) in batch[..part.end].iter().enumerate() {
            if index == part.start {
                puzzle = Puzzle { before, ..Puzzle::default() };
                start = 0;
            }
            let items = self.row(window, sequences);
            before += items.len();
            let mut row = items.to_vec();
            for at in hide(&mut row, self.num_items, self.hidden_share, 0.0, stream) {
                puzzle.places.push((start + at) as u32);
                puzzle.hidden.push(items[at]);
                puzzle.others.push(not_taken(sequences[window.user], self.num_items, stream));
            }
            puzzle.seen.extend(row.iter().filter(|item| **item != self.num_items));
            start += row.len();
            puzzle.rows.push(row);

            let mut below = |n: usize| (rng::uniform(stream) * n as f64) as usize;
            let length = 1 + below(items.len() / 2);
            let first = below(items.len() - length + 1);
            let elsewhere = below(self.all.len() - length + 1);
            let segment = first..first + length;
            let mut without = items.to_vec();
            without[segment.clone()].fill(self.num_items);
            puzzle.without_segments.push(without);
            for (segments, cut) in [
                (&mut puzzle.segments, &items[segment.clone()]),
                (&mut puzzle.other_segments, &self.all[elsewhere..elsewhere + length]),
            ] {
                let mut alone = vec![self.num_items; items.len()];
                alone[segment.clone()].copy_from_slice(cut);
                segments.push(alone);
            }
        }
        puzzle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_puzzle_hides_a_share_of_the_items_and_a_segment() {
        const HIDDEN: u32 = 50;
        let sequences: Vec<Vec<u32>> =
            (0..200).map(|user| (0..2 + user % 7).map(|i| (user * 3 + i) % 50).collect()).collect();
        let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let windows = Window::over(&sequences, 10);
        let puzzler = Puzzler::new(&sequences, 50, 10, 0.3);
        let puzzle =
            puzzler.hide(&windows, &(0..200), &sequences, &mut rng::stream(1, "test", &[]));
        let shown = puzzle.rows.concat();
        // Of one of which none was drawn, the last is hidden.
        let expected = |items: &&[u32]| 0.3 * items.len() as f64 + 0.7f64.powf(items.len() as f64);
        let expected: f64 = sequences.iter().map(expected).sum();
        let ratio = puzzle.hidden.len() as f64 / expected;
        assert!((ratio - 1.0).abs() < 0.1, "{ratio}");
        assert_eq!(puzzle.hidden.len() + puzzle.seen.len(), shown.len());
        let whole = sequences.concat();
        for ((&place, &item), other) in puzzle.places.iter().zip(&puzzle.hidden).zip(&puzzle.others)
        {
            assert_eq!((shown[place as usize], whole[place as usize]), (HIDDEN, item));
            assert_ne!(item, *other);
        }
        for (user, items) in sequences.iter().enumerate() {
            let of = |rows: &[Vec<u32>]| rows[user].clone();
            let (without, alone, other) =
                (of(&puzzle.without_segments), of(&puzzle.segments), of(&puzzle.other_segments));
            let length = without.iter().filter(|item| **item == HIDDEN).count();
            assert!((1..=items.len() / 2).contains(&length));
            for at in 0..items.len() {
                // What is hidden of the one is all that is shown of the others.
                let expected =
                    if without[at] == HIDDEN { [HIDDEN, items[at]] } else { [items[at], HIDDEN] };
                assert_eq!([without[at], alone[at]], expected);
                assert_eq!(other[at] == HIDDEN, alone[at] == HIDDEN);
            }
        }
    }
}
