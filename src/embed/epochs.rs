//! What the trainings of the encoders have in common: epochs, the choice of the best, what is told, and what is
//! kept on disk to go on from.

use std::path::Path;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::model::{Snapshots, Weights};
use crate::ranks::Ranks;
use crate::{Result, invalid};

/// The state of a training after an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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

/// What is around the training of an encoder.
pub struct Around<'a> {
    /// Those that share it; all of them train.
    pub ranks: &'a dyn Ranks,
    /// The table of its settings, as an error names it: `baseline.sasrec`.
    pub settings: &'a str,
    /// Where its state is kept, by rank 0, so that one that is cut off goes on after its last epoch.
    pub state: Option<&'a Path>,
    /// Hears how far it has come.
    pub progress: &'a mut dyn FnMut(&Progress),
}

/// Bytes that the training of an encoder takes at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingBytes {
    /// Memory.
    pub memory: u64,
    /// Disk, for the states kept to go on from: the last two, and the one being written.
    pub disk: u64,
}

impl TrainingBytes {
    /// Of a training of so many parameters; beside them, a step holds so many values, and measuring it so many.
    pub(super) fn new(parameters: usize, step: usize, measuring: usize) -> Self {
        // Weights, both moments, and the weights of the best epoch.
        let held = 4 * parameters;
        // On top of them come in a step the gradients of a table's two uses and their sum, or copies of weights and
        // moments, of which a state is made.
        let more = (3 * parameters + step).max(measuring);
        let bytes = |values: usize| (size_of::<f32>() * values) as u64;
        Self { memory: bytes(held + more), disk: bytes(3 * held) }
    }
}

/// The size of about the largest among batches of so many samples of these sizes, drawn at random.
pub(super) fn largest_batch(sizes: impl Iterator<Item = usize> + Clone, batch: usize) -> usize {
    let count = sizes.clone().count();
    let drawn = batch.min(count) as f64;
    let mean = sizes.clone().sum::<usize>() as f64 / count.max(1) as f64;
    let variance =
        sizes.map(|size| (size as f64 - mean).powi(2)).sum::<f64>() / count.max(1) as f64;
    // Three standard deviations of a sum: one batch in 700 is larger.
    (drawn * mean + 3.0 * (drawn * variance).sqrt()) as usize
}

/// A training, epoch by epoch.
pub(super) trait Epochs {
    /// Trains and measures the epoch `number`, from 1, and tells of it.
    fn train(&mut self, number: usize) -> Result<EpochReport>;
    /// Draws what the epoch `number` draws for those after it.
    fn pass_over(&mut self, number: usize);
    /// A copy of all weights as they are.
    fn weights(&self) -> Result<Weights>;
    /// The state of the optimiser, which all ranks bring together.
    fn moments(&self) -> Result<Weights>;
    /// Comes back to weights and moments as they were after `epochs` epochs.
    fn restore(&mut self, epochs: usize, weights: &Weights, moments: &Weights) -> Result<()>;
}

/// What an encoder's training went through.
#[derive(Debug)]
pub(super) struct Trained {
    /// As after the best epoch.
    pub(super) weights: Weights,
    /// One report an epoch.
    pub(super) reports: Vec<EpochReport>,
    /// The best epoch, from 1.
    pub(super) best_epoch: usize,
}

/// What is known of a training that goes on.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Course {
    reports: Vec<EpochReport>,
    best_epoch: usize,
}

const NOW: &str = "weights.safetensors";
const MOMENTS: &str = "moments.safetensors";
const BEST: &str = "best.safetensors";

/// Runs at most `most` epochs and keeps the weights of the one with the highest figure, the last where there
/// is no figure; ends when it has not risen for `patience` epochs.
///
/// `settings`, `state` and `ranks` are those of [`Around`].
///
/// # Errors
/// A loss that is not finite.
pub(super) fn early_stopping(
    most: usize,
    patience: usize,
    settings: &str,
    (state, ranks): (Option<&Path>, &dyn Ranks),
    training: &mut impl Epochs,
) -> Result<Trained> {
    let mut kept = state.map(Snapshots::new);
    let (mut course, mut best) = (Course::default(), Weights::new());
    let found = kept.as_ref().map(|kept| kept.load::<Course>(&Device::Cpu)).transpose()?;
    if let Some((saved, mut tensors)) = found.flatten() {
        let mut take = |name: &str| tensors.remove(name).unwrap_or_default();
        training.restore(saved.reports.len(), &take(NOW), &take(MOMENTS))?;
        (course, best) = (saved, take(BEST));
        (1..=course.reports.len()).for_each(|number| training.pass_over(number));
    }
    let ended = |course: &Course| {
        let done = course.reports.len();
        done >= most || (done > 0 && done - course.best_epoch >= patience)
    };
    while !ended(&course) {
        let number = course.reports.len() + 1;
        let report = training.train(number)?;
        if !report.loss.is_finite() {
            invalid!(
                "the training of {settings} has diverged: its loss is {} after epoch {number}; lower \
                 {settings}.learning-rate",
                report.loss
            );
        }
        let figure = |number: usize| course.reports.get(number - 1).and_then(|r| r.measured);
        let better = course.best_epoch == 0
            || report.measured.is_none()
            || report.measured > figure(course.best_epoch);
        course.reports.push(report);
        if better {
            (course.best_epoch, best) = (number, training.weights()?);
        }
        let Some(kept) = &mut kept else { continue };
        // Clocks differ: that of rank 0 counts. All bring the moments together.
        if ranks.any(ranks.is_first() && kept.is_due()) {
            let (now, moments) = (training.weights()?, training.moments()?);
            if ranks.is_first() {
                kept.save(&course, &[(NOW, &now), (MOMENTS, &moments), (BEST, &best)])?;
            }
        }
    }
    let Course { reports, best_epoch } = course;
    if best_epoch == 0 {
        invalid!("an encoder had no epoch");
    }
    Ok(Trained { weights: best, reports, best_epoch })
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
    use candle_core::Tensor;
    use rand::Rng as _;

    use super::*;
    use crate::ranks::Alone;
    use crate::rng;

    /// A training whose only weight is the number of epochs it had, each drawn in its turn.
    struct Counting {
        figures: Vec<Option<f64>>,
        epochs: usize,
        drawn: usize,
        /// The epoch it is killed in.
        killed: usize,
    }

    impl Epochs for Counting {
        fn train(&mut self, number: usize) -> Result<EpochReport> {
            if number == self.killed {
                invalid!("killed");
            }
            self.pass_over(number);
            self.epochs += 1;
            let measured = self.figures[number - 1];
            Ok(EpochReport { epoch: number, loss: 1.0 / 3.0, measured, samples_per_s: 1.0 })
        }

        fn pass_over(&mut self, number: usize) {
            self.drawn += 1;
            assert_eq!(self.drawn, number);
        }

        fn weights(&self) -> Result<Weights> {
            let epochs = Tensor::new(&[self.epochs as f32], &Device::Cpu)?;
            Ok([("epochs".to_string(), epochs)].into())
        }

        fn moments(&self) -> Result<Weights> {
            self.weights()
        }

        fn restore(&mut self, epochs: usize, weights: &Weights, moments: &Weights) -> Result<()> {
            self.epochs = weights["epochs"].to_vec1::<f32>()?[0] as usize;
            assert_eq!((self.epochs, moments.len()), (epochs, 1));
            Ok(())
        }
    }

    #[test]
    fn hardly_a_batch_is_larger_than_the_largest_is_said_to_be() {
        assert_eq!(largest_batch([7; 40].into_iter(), 8), 56);
        // No more samples than there are, and none at all.
        assert_eq!(largest_batch([7; 4].into_iter(), 8), 28);
        assert_eq!(largest_batch([].into_iter(), 8), 0);
        let sizes: Vec<usize> = (0..512).map(|i| if i % 8 == 0 { 50 } else { 3 }).collect();
        let said = largest_batch(sizes.iter().copied(), 64);
        let mut stream = rng::stream(5, "batches", &[]);
        let mut draw = || (0..64).map(|_| sizes[stream.gen_range(0..512)]).sum::<usize>();
        let drawn: Vec<usize> = (0..1000).map(|_| draw()).collect();
        let larger = drawn.iter().filter(|&&size| size > said).count();
        let mean = drawn.iter().sum::<usize>() / 1000;
        assert!(larger <= 10 && said < 2 * mean, "{larger} of 1000 above {said}, mean {mean}");
    }

    fn run(
        figures: &[Option<f64>],
        patience: usize,
        killed: usize,
        state: Option<&Path>,
    ) -> Result<Trained> {
        let mut training = Counting { figures: figures.to_vec(), epochs: 0, drawn: 0, killed };
        early_stopping(figures.len(), patience, "baseline.sasrec", (state, &Alone), &mut training)
    }

    #[test]
    fn the_best_epoch_is_kept_and_patience_ends_the_rest() {
        let run = |figures: &[Option<f64>], patience| {
            let trained = run(figures, patience, 0, None).unwrap();
            let of = trained.weights["epochs"].to_vec1::<f32>().unwrap();
            assert_eq!(of, [trained.best_epoch as f32]);
            (trained.best_epoch, trained.reports.len())
        };
        let figures = [0.1, 0.3, 0.2, 0.3, 0.25, 0.9].map(Some);
        assert_eq!(run(&figures, 3), (2, 5));
        assert_eq!(run(&figures, 4), (6, 6));
        assert_eq!(run(&[None; 4], 1), (4, 4));
        self::run(&[], 1, 0, None).unwrap_err();
    }

    #[test]
    fn a_training_that_was_killed_goes_on_after_its_last_epoch() {
        let figures = [0.1, 0.3, 0.2, 0.35, 0.25, 0.2, 0.1].map(Some);
        let whole = run(&figures, 3, 0, None).unwrap();
        for killed in 1..=7 {
            let dir = tempfile::tempdir().unwrap();
            run(&figures, 3, killed, Some(dir.path())).unwrap_err();
            let rest = run(&figures, 3, 0, Some(dir.path())).unwrap();
            assert_eq!(rest.reports, whole.reports, "{killed}");
            assert_eq!(rest.best_epoch, whole.best_epoch);
            let of = rest.weights["epochs"].to_vec1::<f32>().unwrap();
            assert_eq!(of, [whole.best_epoch as f32]);
        }
    }
}
