//! Training of recommenders over item ids: the loop, the losses, early stopping.

mod draws;
mod puzzles;
mod windows;

use std::time::Instant;

use candle_core::Tensor;
use rand::RngCore;
use rand::seq::SliceRandom;

use super::epochs::{
    Around, EpochReport, Epochs, Progress, Trained, TrainingBytes, early_stopping, largest_batch,
    occurrences,
};
use crate::model::Weights;
use crate::model::sequential::{
    Candidates, History, Loss, Masks, PRETRAINING, Pretraining, Sequential, TrainingConfig,
};
use crate::nn::{AdamW, AdamWConfig, Gradients};
use crate::ops;
use crate::ranks::Ranks;
use crate::{Result, invalid, rng};
use draws::{LAST_ALONE, Sampler, hide, not_taken};
use puzzles::Puzzler;
use windows::Window;

/// Histories for which all items are scored at once.
pub(super) const SCORED_AT_ONCE: usize = 256;

/// A recommender to be trained.
#[derive(Debug, Clone, Copy)]
pub struct Course<'a> {
    /// Names the streams that are drawn from.
    pub name: &'static str,
    /// The network, which ends as it was after the best epoch.
    pub network: &'a dyn Sequential,
    /// How it is trained.
    pub config: &'a TrainingConfig,
    /// Each user's training items, oldest first.
    pub sequences: &'a [&'a [u32]],
    /// Decides all that is drawn.
    pub seed: u64,
}

/// How the training of a recommender went.
#[derive(Debug, Clone)]
pub struct SequentialReport {
    /// One report an epoch.
    pub reports: Vec<EpochReport>,
    /// The best epoch, from 1.
    pub best_epoch: usize,
    /// Training targets.
    pub num_targets: usize,
}

impl SequentialReport {
    /// What was measured after the best epoch.
    pub fn measured(&self) -> Option<f64> {
        self.reports[self.best_epoch - 1].measured
    }
}

impl Course<'_> {
    /// What training takes, where an epoch is measured by the scores of all items.
    ///
    /// # Errors
    /// If the network has no items.
    pub fn bytes(&self) -> Result<TrainingBytes> {
        let num_items = self.network.num_items();
        let windows = Window::over(self.sequences, self.network.reads());
        let tokens = largest_batch(windows.iter().map(|w| w.items.len()), self.config.batch_size);
        let step = tokens * self.network.values_per_token();
        let parameters = self.network.params().num_trained();
        Ok(TrainingBytes::new(parameters, step, 2 * SCORED_AT_ONCE * num_items))
    }

    /// Trains.
    ///
    /// `measure` gives a figure after each epoch, the higher the better: training stops when it has not
    /// risen for `patience` epochs, and the network is that of the best epoch. Without a figure all epochs
    /// are run.
    ///
    /// # Errors
    /// An item that the network does not know, sequences without a target.
    pub fn train(
        self,
        measure: &mut dyn FnMut(&dyn Sequential) -> Result<Option<f64>>,
        around: &mut Around<'_>,
    ) -> Result<SequentialReport> {
        let Self { network, config, sequences, .. } = self;
        config.check()?;
        let num_items = network.num_items();
        occurrences(sequences, num_items)?;
        let windows = Window::over(sequences, self.network.reads());
        if windows.is_empty() {
            invalid!(
                "no user has two training items or more, so there is nothing to learn from: each user's \
                 last two items are kept for validation and test; give users at least 4 items"
            );
        }
        let num_targets = windows.iter().map(|w| w.targets.len()).sum();
        let Around { ranks, settings, state, .. } = *around;
        if let Some(pretraining) = network.pretraining().filter(|before| before.epochs() > 0) {
            let state = state.map(|state| state.join("pretraining"));
            let puzzler =
                Puzzler::new(sequences, num_items, network.history(), pretraining.hidden_share());
            let lessons = Lessons::Puzzles(pretraining, puzzler);
            let mut training = self.training(lessons, windows.clone(), measure, around)?;
            let epochs = pretraining.epochs();
            let trained =
                early_stopping(epochs, epochs, settings, (state.as_deref(), ranks), &mut training)?;
            network.set_weights(&trained.weights)?;
        }
        let negatives = config.negatives;
        let sampler = Sampler::new(&windows, sequences, num_items, negatives, network.hidden());
        let lessons = Lessons::Next(sampler);
        let mut training = self.training(lessons, windows, measure, around)?;
        let trained = early_stopping(
            config.epochs,
            config.patience,
            settings,
            (state, ranks),
            &mut training,
        )?;
        let Trained { weights, reports, best_epoch } = trained;
        network.set_weights(&weights)?;
        Ok(SequentialReport { reports, best_epoch, num_targets })
    }

    fn training<'a>(
        self,
        lessons: Lessons<'a>,
        windows: Vec<Window>,
        measure: &'a mut dyn FnMut(&dyn Sequential) -> Result<Option<f64>>,
        around: &'a mut Around<'_>,
    ) -> Result<Training<'a>>
    where
        Self: 'a,
    {
        let weight_decay = self.config.weight_decay;
        let adam = AdamWConfig { weight_decay, ..AdamWConfig::default() };
        let Around { ranks, progress, .. } = around;
        let adam = AdamW::divided(self.network.params(), adam, *ranks)?;
        Ok(Training { course: self, ranks: *ranks, lessons, adam, windows, measure, progress })
    }
}

/// What a training learns from.
enum Lessons<'a> {
    /// What comes before it.
    Puzzles(&'a dyn Pretraining, Puzzler),
    /// The next item, or hidden ones.
    Next(Sampler),
}

/// The training of a network.
struct Training<'a> {
    course: Course<'a>,
    ranks: &'a dyn Ranks,
    lessons: Lessons<'a>,
    adam: AdamW,
    /// In the order of the epoch under way.
    windows: Vec<Window>,
    measure: &'a mut dyn FnMut(&dyn Sequential) -> Result<Option<f64>>,
    progress: &'a mut dyn FnMut(&Progress),
}

impl Epochs for Training<'_> {
    fn train(&mut self, epoch: usize) -> Result<EpochReport> {
        let start = Instant::now();
        self.pass_over(epoch);
        let (total, before) = (self.steps_an_epoch(), self.epochs_before());
        let windows = std::mem::take(&mut self.windows);
        let (mut loss_sum, mut count) = (0.0, 0);
        for (step, batch) in windows.chunks(self.course.config.batch_size).enumerate() {
            let (sum, targets) = self.step(batch, [epoch as u64, step as u64])?;
            (loss_sum, count) = (loss_sum + sum, count + targets);
            (self.progress)(&Progress::Step { epoch: before + epoch, done: step + 1, total });
        }
        self.windows = windows;
        let samples_per_s = count as f64 / start.elapsed().as_secs_f64();
        let loss = self.ranks.sums(&[loss_sum])[0] / count as f64;
        let measured = match &self.lessons {
            Lessons::Puzzles(..) => None,
            Lessons::Next(_) => (self.measure)(self.course.network)?,
        };
        let report = EpochReport { epoch, loss, measured, samples_per_s };
        (self.progress)(&Progress::Epoch(report));
        Ok(report)
    }

    fn pass_over(&mut self, epoch: usize) {
        let mut order = self.stream("order", &[epoch as u64]);
        self.windows.shuffle(&mut order);
    }

    fn weights(&self) -> Result<Weights> {
        Ok(self.course.network.weights()?)
    }

    fn moments(&self) -> Result<Weights> {
        Ok(self.adam.state(self.course.network.params(), self.ranks)?)
    }

    fn restore(&mut self, epochs: usize, weights: &Weights, moments: &Weights) -> Result<()> {
        self.course.network.set_weights(weights)?;
        let steps = (epochs * self.steps_an_epoch()) as u64;
        Ok(self.adam.restore(self.course.network.params(), steps, moments)?)
    }
}

/// What targets are told from.
enum Told {
    FromAll,
    From(Candidates),
    /// Each from one other item.
    FromOne(Vec<u32>),
}

/// What a batch reads, and what it is asked.
#[derive(Default)]
struct Lesson {
    /// Of each window.
    inputs: Vec<Vec<u32>>,
    /// The places, among all inputs in a row, whose states are asked.
    places: Vec<u32>,
    /// The item that each is asked for.
    targets: Vec<u32>,
    /// Whose it is.
    takers: Vec<usize>,
}

impl Training<'_> {
    fn steps_an_epoch(&self) -> usize {
        self.windows.len().div_ceil(self.course.config.batch_size)
    }

    fn stream(&self, purpose: &str, position: &[u64]) -> rng::Rng {
        let name = self.course.name;
        let name = match &self.lessons {
            Lessons::Puzzles(..) => format!("{name}-pretraining-{purpose}"),
            Lessons::Next(_) => format!("{name}-{purpose}"),
        };
        rng::stream(self.course.seed, &name, position)
    }

    /// Epochs of what comes before this.
    fn epochs_before(&self) -> usize {
        match &self.lessons {
            Lessons::Puzzles(..) => 0,
            Lessons::Next(_) => self.course.network.pretraining().map_or(0, Pretraining::epochs),
        }
    }

    /// What a batch reads and is asked.
    fn lesson(&self, batch: &[Window], position: [u64; 2]) -> Lesson {
        let Course { network, sequences, .. } = self.course;
        let mut lesson = Lesson::default();
        let mut hiding = self.stream("hidden", &position);
        let mut start = 0;
        for window in batch {
            let items = sequences[window.user];
            let (input, asked) = match network.hidden() {
                None => (window.inputs(sequences).to_vec(), window.asked()),
                Some(share) => {
                    let mut seen = items[window.items.clone()].to_vec();
                    let mask = network.num_items() as u32;
                    let hidden = hide(&mut seen, mask, share, LAST_ALONE, &mut hiding);
                    (seen, hidden)
                }
            };
            for at in asked {
                // The state at a hidden item is asked for that item, any other for the next one.
                let target = window.items.start + at + usize::from(network.hidden().is_none());
                lesson.places.push((start + at) as u32);
                lesson.targets.push(items[target]);
                lesson.takers.push(window.user);
            }
            start += input.len();
            lesson.inputs.push(input);
        }
        lesson
    }

    /// One step of the optimiser on a batch; returns the sum of this rank's share of its losses and how many there are
    /// in all.
    fn step(&mut self, batch: &[Window], position: [u64; 2]) -> Result<(f64, usize)> {
        let Course { network, config, .. } = self.course;
        let (share, count) = match &self.lessons {
            Lessons::Puzzles(network, puzzler) => {
                (self.puzzled(*network, puzzler, batch, position)?, batch.len())
            }
            Lessons::Next(sampler) => self.asked(sampler, batch, position)?,
        };
        // Over, or not reached by a puzzle that shows nothing with attributes.
        let optional = |name: &str| name.starts_with(PRETRAINING);
        let params = network.params();
        let mut gradients = match &share {
            Some(share) => Gradients::collect_with_optional(params, &share.backward()?, optional)?,
            None => Gradients::zeros(params)?,
        };
        self.adam.step_over(self.ranks, params, &mut gradients, config.learning_rate)?;
        let share = share.map_or(Ok(0.0), |share| share.to_scalar::<f32>())?;
        Ok((f64::from(share) * count as f64, count))
    }

    /// This rank's share of the mean loss of a batch's puzzle, if it has one.
    fn puzzled(
        &self,
        network: &dyn Pretraining,
        puzzler: &Puzzler,
        batch: &[Window],
        position: [u64; 2],
    ) -> Result<Option<Tensor>> {
        let sequences = self.course.sequences;
        let lengths = batch.iter().map(|window| puzzler.row(window, sequences).len());
        let part = self.ranks.part_of(lengths);
        if part.is_empty() {
            return Ok(None);
        }
        let mut hiding = self.stream("hidden", &position);
        let puzzle = puzzler.hide(batch, &part, sequences, &mut hiding);
        let key = self.stream("dropout", &position).next_u64();
        Ok(Some((network.loss(&puzzle, Some(key))? / batch.len() as f64)?))
    }

    /// This rank's share of the mean loss of what a batch is asked, if it has one, and how many items are asked in all.
    ///
    /// What is drawn is drawn for the whole batch: the ranks together do what one does alone.
    fn asked(
        &self,
        sampler: &Sampler,
        batch: &[Window],
        position: [u64; 2],
    ) -> Result<(Option<Tensor>, usize)> {
        let Course { network, config, sequences, .. } = self.course;
        let Lesson { inputs, places, targets, takers } = self.lesson(batch, position);
        let mut draws = self.stream("negatives", &position);
        let told = match config.loss {
            Loss::Softmax => Told::FromAll,
            Loss::Sampled => Told::From(sampler.draw(&targets, &mut draws)),
            Loss::Bce => {
                let num_items = network.num_items() as u32;
                let other = |&user: &usize| not_taken(sequences[user], num_items, &mut draws);
                Told::FromOne(takers.iter().map(other).collect())
            }
        };
        let part = self.ranks.part_of(inputs.iter().map(Vec::len));
        if part.is_empty() {
            return Ok((None, targets.len()));
        }
        let tokens = |inputs: &[Vec<u32>]| inputs.iter().map(Vec::len).sum::<usize>();
        let before = tokens(&inputs[..part.start]);
        let end = before + tokens(&inputs[part.clone()]);
        let asked = places.partition_point(|&place| (place as usize) < before)
            ..places.partition_point(|&place| (place as usize) < end);
        let places: Vec<u32> =
            places[asked.clone()].iter().map(|place| place - before as u32).collect();
        let histories = inputs[part.clone()].iter().zip(&batch[part]);
        let histories: Vec<History<'_>> = histories
            .map(|(items, window)| History { user: Some(window.user as u32), items })
            .collect();
        let key = self.stream("dropout", &position).next_u64();
        let states = network.states(&histories, Some(Masks { key, before }))?;
        let states = ops::embedding(&states, &places)?;
        let own = &targets[asked.clone()];
        let losses = match told {
            Told::FromAll => network.losses(&states, own)?,
            Told::From(candidates) => network.sampled_losses(&states, own, &candidates)?,
            Told::FromOne(others) => network.binary_losses(&states, own, &others[asked])?,
        };
        Ok((Some((losses.sum_all()? * (1.0 / targets.len() as f64))?), targets.len()))
    }
}

#[cfg(test)]
mod tests;
