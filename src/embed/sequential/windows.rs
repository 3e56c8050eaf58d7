//! Parts of sequences that a network can read.

use std::ops::Range;

/// Some items of a sequence: each but the last is an input, each of `targets` is predicted from those
/// before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) user: usize,
    pub(super) items: Range<usize>,
    /// Positions in the sequence; together the windows of a sequence have each but the first once.
    pub(super) targets: Range<usize>,
}

impl Window {
    /// Windows of up to `history` inputs over every sequence. Where one does not hold a sequence, the next
    /// begins half a window on, so that no target there sees less than half of one.
    pub(super) fn over(sequences: &[&[u32]], history: usize) -> Vec<Self> {
        let mut windows = Vec::new();
        for (user, items) in sequences.iter().enumerate() {
            let (mut first, mut end) = (1, items.len().min(history + 1));
            while first < end {
                let start = end.saturating_sub(history + 1);
                windows.push(Self { user, items: start..end, targets: first..end });
                first = end;
                end = items.len().min(end + history.div_ceil(2));
            }
        }
        windows
    }

    /// The items but the last.
    pub(super) fn inputs<'a>(&self, sequences: &[&'a [u32]]) -> &'a [u32] {
        &sequences[self.user][self.items.start..self.items.end - 1]
    }

    /// The places among the inputs whose states are asked for the next item.
    pub(super) fn asked(&self) -> Vec<usize> {
        self.targets.clone().map(|target| target - 1 - self.items.start).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_have_every_target_once_and_enough_before_it() {
        let sequences: Vec<Vec<u32>> =
            [0, 1, 2, 6, 7, 8, 10, 23].iter().map(|&n| (0..n).collect()).collect();
        let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let windows = Window::over(&sequences, 6);
        for (user, items) in sequences.iter().enumerate() {
            let of_user: Vec<&Window> = windows.iter().filter(|w| w.user == user).collect();
            let targets: Vec<usize> = of_user.iter().flat_map(|w| w.targets.clone()).collect();
            assert_eq!(targets, (1..items.len()).collect::<Vec<_>>());
            for window in of_user {
                let inputs = window.inputs(&sequences);
                assert!(inputs.len() <= 6);
                assert_eq!(window.items.end, window.targets.end);
                assert!(window.items.start == 0 || window.targets.start - window.items.start >= 3);
                // What is asked stands right before its target.
                let before = window.asked().into_iter().map(|at| inputs[at] as usize + 1);
                assert_eq!(before.collect::<Vec<_>>(), window.targets.clone().collect::<Vec<_>>());
            }
        }
        // 7 items are one window of 6 inputs; one more begins a second.
        assert_eq!(windows.iter().filter(|w| w.user == 4).count(), 1);
        assert_eq!(windows.iter().filter(|w| w.user == 5).count(), 2);
    }
}
