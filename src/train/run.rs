//! The training loop: global batches from micro-batches, clipping, logging, validation, resuming.

use std::panic::resume_unwind;
use std::thread::{self, Scope};
use std::time::Instant;

use rayon::ThreadPoolBuilder;

use super::gradients::Workspace;
use super::report::{
    Control, EpochReport, Fault, Losses, Observer, Skip, Start, StepReport, TrainOutcome,
};
use super::schedule::Schedule;
use super::state::{Progress, StateDir};
use super::trainer::{Trainer, Validation};
use crate::nn::{AdamW, Average, spread};
use crate::tasks::Sample;
use crate::{Error, Result, invalid};

/// After so many steps in a row whose loss or gradient is not finite, no other will be.
const HOPELESS: u64 = 10;

/// What changes while a run goes on.
struct Running {
    adam: AdamW,
    average: Option<Average>,
    progress: Progress,
    /// Steps skipped one after another, up to now.
    skipped_in_row: u64,
    /// Whether the last step says that the weights before it are worth going on from.
    sound: bool,
    /// The step after which a state was saved.
    saved_step: u64,
    workspace: Workspace,
    /// Of this process.
    tokens: usize,
    seconds: f64,
}

impl Running {
    /// Counts the step just taken as one that changed nothing.
    fn skip(&mut self, fault: &Fault, learning_rate: f64) -> Result<()> {
        self.progress.skipped += 1;
        self.skipped_in_row += 1;
        self.sound = false;
        if self.skipped_in_row < HOPELESS {
            return Ok(());
        }
        Err(self.diverged(fault, learning_rate))
    }

    fn diverged(&self, fault: &Fault, learning_rate: f64) -> Error {
        let Progress { step, epoch, batches, .. } = self.progress;
        Error::Diverged {
            what: format!(
                "the {} was {} at step {step} (batch {batches} of epoch {}) and not finite at {} steps in a row",
                fault.part,
                fault.value,
                epoch + 1,
                self.skipped_in_row
            ),
            learning_rate,
        }
    }

    fn report_epoch(
        &self,
        validation: Option<f64>,
        best: bool,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let Self { tokens, seconds, .. } = *self;
        let epoch = self.progress.epoch;
        observer.on_epoch(&EpochReport { epoch, validation, best, tokens, seconds })
    }
}

impl Trainer<'_> {
    /// Trains on `samples(epoch)` for all epochs, or on from the state left by an earlier process.
    ///
    /// With `validation` and a folder for the state, the parameters end as they were after the epoch it rated highest.
    /// Where the configuration asks for a moving average, that is what is rated and kept.
    ///
    /// # Errors
    /// Stops after [`HOPELESS`] steps in a row whose loss or gradient is not finite, leaving the state saved before
    /// them; a step like that changes nothing and is counted.
    pub fn run(
        &self,
        samples: &(dyn Fn(u64) -> Result<Vec<Sample>> + Sync),
        validation: Option<Validation<'_>>,
        observer: &mut dyn Observer,
    ) -> Result<TrainOutcome> {
        // A pool of its own: the one that trains may have no thread to spare, or be waiting for it.
        let pool = ThreadPoolBuilder::new().num_threads(1).build();
        let pool = pool.map_err(|e| Error::Invalid(format!("no thread could be started: {e}")))?;
        let samples = |epoch| pool.install(|| samples(epoch));
        thread::scope(|scope| self.run_in(scope, &samples, validation, observer))
    }

    fn run_in<'scope, 'env>(
        &self,
        scope: &'scope Scope<'scope, 'env>,
        samples: &'env (dyn Fn(u64) -> Result<Vec<Sample>> + Sync),
        mut validation: Option<Validation<'_>>,
        observer: &mut dyn Observer,
    ) -> Result<TrainOutcome> {
        let config = self.config;
        if config.batch == 0 || config.micro_batch == Some(0) {
            invalid!("batch and micro-batch must be at least 1");
        }
        let state = self.state.map(StateDir::new);
        let mut running = self.begin(state.as_ref())?;
        let mut state = state.filter(|_| self.ranks.is_first());
        let one_pass = samples(running.progress.epoch)?;
        if one_pass.is_empty() {
            invalid!(
                "there is nothing to train on: no user has two items before validation and test"
            );
        }
        let passes = config.passes(one_pass.len());
        let samples = move |epoch: u64| -> Result<Vec<Sample>> {
            let passes = (epoch * passes..(epoch + 1) * passes).map(samples);
            Ok(passes.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
        };
        let mut epoch_samples =
            if passes == 1 { one_pass } else { samples(running.progress.epoch)? };
        let per_epoch = epoch_samples.len().div_ceil(config.batch) as u64;
        let all_steps = per_epoch * config.epochs;
        let total_steps = config.max_steps.map_or(all_steps, |max| max.min(all_steps));
        let schedule = Schedule::new(config.learning_rate, config.warmup_ratio, total_steps);
        let memory = self.memory(&epoch_samples);
        // The result is written beside the states.
        let disk = state.as_ref().map_or(0, |_| self.state_bytes() + self.model.weight_bytes());
        let (done_steps, done_epochs) = (running.progress.step, running.progress.epoch);
        observer.on_start(&Start { memory, disk, passes, total_steps, done_steps, done_epochs })?;
        let outcome = |running: &Running, finished| TrainOutcome {
            finished,
            saved: if running.sound { running.progress.step } else { running.saved_step },
            best: running.progress.best,
            steps: running.progress.step,
            skipped: running.progress.skipped,
            tokens: running.tokens,
            seconds: running.seconds,
            memory,
        };
        if running.progress == Progress::default()
            && let Some(validation) = validation.as_mut().filter(|v| v.from_start)
        {
            self.rate(&mut running, validation, state.as_ref(), observer)?;
        }
        // An epoch that was cut off after its last step has its validation before it.
        let is_open = |progress: &Progress| progress.step < total_steps || progress.batches > 0;
        while is_open(&running.progress) && !running.progress.ended {
            // The next epoch's samples are made while this one trains.
            let next = running.progress.epoch + 1;
            let upcoming =
                (next * per_epoch < total_steps).then(|| scope.spawn(move || samples(next)));
            if self.epoch(&mut running, &schedule, &epoch_samples, state.as_mut(), observer)?
                == Control::Stop
            {
                return Ok(outcome(&running, false));
            }
            running.progress.epoch += 1;
            running.progress.batches = 0;
            match validation.as_mut() {
                Some(validation) => {
                    self.rate(&mut running, validation, state.as_ref(), observer)?;
                    let best = running.progress.best.map_or(0, |(_, epoch)| epoch);
                    let since = running.progress.epoch - best;
                    // A process that finds this state has nothing left to do either.
                    running.progress.ended =
                        validation.patience > 0 && since >= validation.patience;
                }
                None => running.report_epoch(None, false, observer)?,
            }
            if running.sound {
                self.save(&mut running, state.as_mut())?;
            }
            if let Some(upcoming) = upcoming {
                epoch_samples = upcoming.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            }
        }
        match (self.state, running.progress.best) {
            (Some(dir), Some(_)) => {
                // Where rank 0 has kept the best, all go back to it.
                let digest = running.progress.best_sha256.take();
                running.progress.best_sha256 = self.ranks.broadcast_value(digest)?;
                let state = StateDir::new(dir);
                state.restore_best(&running.progress, self.params, self.model.device())?;
            }
            // Without a choice of epochs the average is the result.
            _ => self.take_average(&mut running)?,
        }
        Ok(outcome(&running, true))
    }

    /// A fresh start, or the state left by an earlier process.
    fn begin(&self, state: Option<&StateDir>) -> Result<Running> {
        let mut adam = AdamW::divided(self.params, self.config.adamw, self.ranks)?;
        let mut average = match self.config.ema {
            0.0 => None,
            decay => Some(Average::new(self.params, decay)?),
        };
        let left = match state {
            Some(state) => {
                let device = self.model.device();
                state.restore(self.params, &mut adam, average.as_mut(), device)?
            }
            None => None,
        };
        let progress = left.unwrap_or_default();
        Ok(Running {
            adam,
            average,
            skipped_in_row: 0,
            sound: true,
            saved_step: progress.step,
            progress,
            workspace: Workspace::default(),
            tokens: 0,
            seconds: 0.0,
        })
    }

    /// The batches of an epoch that are not done yet.
    fn epoch(
        &self,
        running: &mut Running,
        schedule: &Schedule,
        samples: &[Sample],
        mut state: Option<&mut StateDir>,
        observer: &mut dyn Observer,
    ) -> Result<Control> {
        let config = self.config;
        for batch in samples.chunks(config.batch).skip(running.progress.batches) {
            if running.progress.step >= schedule.total() {
                break;
            }
            let start = Instant::now();
            let lr = schedule.at(running.progress.step);
            let taken = self.step(running, batch, lr, state.as_deref_mut())?;
            let tokens: usize = batch.iter().map(|s| s.ids.len()).sum();
            let elapsed = start.elapsed().as_secs_f64();
            running.tokens += tokens;
            running.seconds += elapsed;
            running.progress.step += 1;
            running.progress.batches += 1;
            let step = running.progress.step;
            let (losses, gradient_norm) = match taken {
                Ok(taken) => taken,
                Err(fault) => {
                    running.skip(&fault, self.config.learning_rate)?;
                    // Nothing else tells a last state like this from a good one.
                    if step >= schedule.total() && running.progress.best.is_none() {
                        return Err(running.diverged(&fault, self.config.learning_rate));
                    }
                    observer.on_skip(&Skip { step, of_all: running.progress.skipped, fault });
                    continue;
                }
            };
            running.skipped_in_row = 0;
            let control = observer.on_step(&StepReport {
                step,
                total_steps: schedule.total(),
                epoch: running.progress.epoch + 1,
                losses,
                learning_rate: lr,
                gradient_norm,
                tokens,
                tokens_per_s: tokens as f64 / elapsed,
            })?;
            if self.ranks.any(control == Control::Stop) {
                // Who stops a training that explodes wants to go on from before it.
                if running.sound {
                    self.save(running, state)?;
                }
                return Ok(Control::Stop);
            }
        }
        Ok(Control::Continue)
    }

    /// Measures the model, or its moving average, and keeps it if it is the best so far.
    fn rate(
        &self,
        running: &mut Running,
        validation: &mut Validation<'_>,
        state: Option<&StateDir>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        self.take_average(running)?;
        let value = (validation.measure)()?;
        let epoch = running.progress.epoch;
        let best = running.progress.best.is_none_or(|(best, _)| value > best);
        if best {
            running.progress.best = Some((value, epoch));
            if let Some(state) = state {
                running.progress.best_sha256 = Some(state.save_best(self.params, epoch)?);
            }
        }
        self.swap_average(running)?;
        running.report_epoch(Some(value), best, observer)
    }

    /// Puts the average in the place of the parameters, where there is one.
    fn take_average(&self, running: &mut Running) -> Result<()> {
        if let Some(average) = &running.average {
            average.spread(self.params, self.ranks)?;
        }
        self.swap_average(running)
    }

    fn swap_average(&self, running: &mut Running) -> Result<()> {
        match &mut running.average {
            Some(average) => Ok(average.swap(self.params)?),
            None => Ok(()),
        }
    }

    /// Saves the state, which all ranks bring together, where one is kept; rank 0 has its folder.
    fn save(&self, running: &mut Running, state: Option<&mut StateDir>) -> Result<()> {
        if self.state.is_none() {
            return Ok(());
        }
        running.saved_step = running.progress.step;
        let moments = running.adam.state(self.params, self.ranks)?;
        if let Some(average) = &running.average {
            average.spread(self.params, self.ranks)?;
        }
        let Some(state) = state else { return Ok(()) };
        state.save(&running.progress, self.params, &moments, running.average.as_ref())
    }

    /// One optimiser step over a global batch; gives the losses and the gradient's norm, or says which of them is
    /// not finite and changes nothing.
    ///
    /// A state that is due is saved before the update, when its weights are known to have a finite gradient and to
    /// be better than guessing: a training that diverges can go on from it.
    fn step(
        &self,
        running: &mut Running,
        samples: &[Sample],
        lr: f64,
        state: Option<&mut StateDir>,
    ) -> Result<std::result::Result<(Losses, f64), Fault>> {
        let step = running.progress.step;
        let (losses, gradients) = self.gradients_in(&mut running.workspace, samples, step)?;
        let norm = gradients.norm(self.ranks, self.params)?;
        let fault =
            losses.fault().or((!norm.is_finite()).then_some(("norm of the gradient", norm)));
        if let Some((part, value)) = fault {
            running.workspace.served = Some(gradients);
            return Ok(Err(Fault { part, value }));
        }
        // Who guesses has the logarithm of the vocabulary.
        let guess = (self.model.config().vocab_size as f64).ln();
        running.sound = losses.generation <= 2.0 * guess;
        let (every, minutes) = (self.config.save_every.max(1), self.config.save_minutes);
        let aged = |state: &StateDir| state.age().as_secs_f64() >= 60.0 * minutes;
        if self.state.is_some() && running.sound && step != running.saved_step {
            // Clocks differ: that of rank 0 counts.
            let aged = self.ranks.any(state.as_deref().is_some_and(aged));
            if aged || step.is_multiple_of(every) {
                self.save(running, state)?;
            }
        }
        let scale = if norm > self.config.clip_norm { self.config.clip_norm / norm } else { 1.0 };
        running.adam.step(self.params, &gradients, lr, scale)?;
        running.workspace.served = Some(gradients);
        spread(self.ranks, self.params)?;
        if let Some(average) = &mut running.average {
            average.update(self.params, step + 1, self.ranks)?;
        }
        Ok(Ok((losses, norm)))
    }
}
