//! What the trainings of the encoders have in common: epochs, the choice of the best, what is told.

use crate::{Result, invalid};

/// The state of a training after an epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpochReport {
    /// From 1.
    pub epoch: usize,
    /// Mean loss over the epoch's samples.
    pub loss: f64,
    /// The figure that early stopping goes by, the higher the better, if there is one.
    pub measured: Option<f64>,
    /// Samples, the negatives of a DIN included, a second.
    pub samples_per_s: f64,
}

/// What a running training tells its caller.
#[derive(Debug, Clone, Copy)]
pub enum Progress {
    /// `done` of the `total` steps of an epoch are through.
    Step {
        /// From 1.
        epoch: usize,
        /// Steps taken in this epoch.
        done: usize,
        /// Steps of every epoch.
        total: usize,
    },
    /// An epoch is over.
    Epoch(EpochReport),
}

/// What an encoder's training went through.
#[derive(Debug)]
pub(super) struct Trained<W> {
    /// As after the best epoch.
    pub(super) weights: W,
    /// One report an epoch.
    pub(super) reports: Vec<EpochReport>,
    /// The best epoch, from 1.
    pub(super) best_epoch: usize,
}

/// Runs at most `most` epochs and keeps the weights of the one with the highest figure, the last where there
/// is no figure; ends when it has not risen for `patience` epochs.
///
/// `epoch` trains the epoch it is given, from 1; it reports of it and copies the weights.
pub(super) fn early_stopping<W>(
    most: usize,
    patience: usize,
    mut epoch: impl FnMut(usize) -> Result<(EpochReport, W)>,
) -> Result<Trained<W>> {
    let mut reports: Vec<EpochReport> = Vec::new();
    let mut best: Option<(usize, W)> = None;
    for number in 1..=most {
        let (report, weights) = epoch(number)?;
        let measured = report.measured;
        let best_yet = best.as_ref().map(|(epoch, _)| *epoch);
        let better =
            best_yet.is_none_or(|b| measured.is_none() || measured > reports[b - 1].measured);
        reports.push(report);
        if better {
            best = Some((number, weights));
        } else if best_yet.is_some_and(|b| number - b >= patience) {
            break;
        }
    }
    match best {
        Some((best_epoch, weights)) => Ok(Trained { weights, reports, best_epoch }),
        None => invalid!("an encoder had no epoch"),
    }
}

/// How often each item occurs.
///
/// # Errors
/// Names an item id outside `0..num_items` and its user.
pub(super) fn occurrences(sequences: &[&[u32]], num_items: usize) -> Result<Vec<u32>> {
    let mut count = vec![0u32; num_items];
    for (user, items) in sequences.iter().enumerate() {
        for &item in *items {
            match count.get_mut(item as usize) {
                Some(c) => *c += 1,
                None => invalid!(
                    "user {user} has item {item} in training, but there are only {num_items} items"
                ),
            }
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_epoch_is_kept_and_patience_ends_the_rest() {
        let run = |figures: &[Option<f64>], patience| {
            let epoch = |epoch: usize| {
                let measured = figures[epoch - 1];
                Ok((EpochReport { epoch, loss: 0.0, measured, samples_per_s: 1.0 }, epoch))
            };
            let trained = early_stopping(figures.len(), patience, epoch).unwrap();
            assert_eq!(trained.weights, trained.best_epoch);
            (trained.best_epoch, trained.reports.len())
        };
        let figures = [0.1, 0.3, 0.2, 0.3, 0.25, 0.9].map(Some);
        assert_eq!(run(&figures, 3), (2, 5));
        assert_eq!(run(&figures, 4), (6, 6));
        assert_eq!(run(&[None; 4], 1), (4, 4));
        early_stopping(0, 1, |_| -> Result<(EpochReport, ())> { unreachable!() }).unwrap_err();
    }
}
