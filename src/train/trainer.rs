//! The training loop: global batches from micro-batches, clipping, logging, validation, resuming.

use std::ops::Range;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread::{self, Scope};
use std::time::Instant;

use rayon::ThreadPoolBuilder;
use serde::{Deserialize, Serialize};

use super::contrast::{ContrastConfig, Projectors};
use super::gradients::Workspace;
use super::memory::Memory;
use super::schedule::Schedule;
use super::state::{Progress, StateDir};
use crate::model::Llama;
use crate::nn::{AdamW, AdamWConfig, Params};
use crate::tasks::Sample;
use crate::{Error, Result, invalid};

/// Hyper-parameters of a training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct TrainConfig {
    /// Passes over the samples.
    pub epochs: u64,
    /// Stop after this many steps, whatever the epochs say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Samples an optimiser step sees.
    pub batch: usize,
    /// Samples a forward pass sees; a step accumulates as many as it needs. Absent: the whole batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Share of the steps over which the learning rate rises.
    pub warmup_ratio: f64,
    /// Gradients are scaled down to this norm.
    pub clip_norm: f64,
    /// Dropout on embeddings and residual branches.
    pub dropout: f64,
    /// Keep only the input of every block for the backward pass, which computes the rest again: less
    /// memory, about a third more work. On the CPU only.
    pub checkpointing: bool,
    /// Users scored on the validation split after each epoch; 0 scores all.
    pub validation_users: usize,
    /// Steps between two lines of the log.
    pub log_every: u64,
    /// Steps between two saves of the state to resume from.
    pub save_every: u64,
    /// AdamW's constants.
    pub adamw: AdamWConfig,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 3,
            max_steps: None,
            batch: 128,
            micro_batch: None,
            learning_rate: 5e-5,
            warmup_ratio: 0.01,
            clip_norm: 1.0,
            dropout: 0.0,
            checkpointing: false,
            validation_users: 2000,
            log_every: 10,
            save_every: 500,
            adamw: AdamWConfig::default(),
        }
    }
}

/// Losses of a step, each a mean over its global batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Losses {
    /// What is minimised.
    pub total: f64,
    /// `L_gen`: mean over response tokens.
    #[serde(rename = "gen")]
    pub generation: f64,
    /// `L_con^s`, mean over targets.
    pub con_s: Option<f64>,
    /// `L_con^b`, mean over targets.
    pub con_b: Option<f64>,
    /// Share of targets whose z^s outscores all negatives.
    pub top1_s: Option<f64>,
    /// Share of targets whose z^b outscores all negatives.
    pub top1_b: Option<f64>,
}

/// One optimiser step.
#[derive(Debug, Clone, Serialize)]
pub struct StepReport {
    /// The step, from 1.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// The epoch, from 1.
    pub epoch: u64,
    /// The losses.
    #[serde(flatten)]
    pub losses: Losses,
    /// Learning rate.
    pub learning_rate: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Tokens in the step.
    pub tokens: usize,
    /// Tokens a second.
    pub tokens_per_s: f64,
}

/// One epoch.
#[derive(Debug, Clone, Serialize)]
pub struct EpochReport {
    /// The epoch, from 1.
    pub epoch: u64,
    /// The validation metric, where there is one.
    pub validation: Option<f64>,
    /// Whether it is the best so far.
    pub best: bool,
    /// Tokens trained on in this process so far.
    pub tokens: usize,
    /// Seconds spent in steps so far.
    pub seconds: f64,
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// Save the state and stop.
    Stop,
}

/// Hears of a run's progress.
pub trait Observer {
    /// Before the first step: what memory it is expected to take, where that can be told.
    fn on_start(&mut self, memory: Option<Memory>) -> Result<()> {
        let _ = memory;
        Ok(())
    }
    /// After every step.
    fn on_step(&mut self, report: &StepReport) -> Result<Control>;
    /// After every epoch.
    fn on_epoch(&mut self, report: &EpochReport) -> Result<()>;
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOutcome {
    /// Whether all steps were taken (else the observer stopped it and the state was saved).
    pub finished: bool,
    /// The best validation metric and its epoch, from 1.
    pub best: Option<(f64, u64)>,
    /// Steps taken over all processes.
    pub steps: u64,
    /// Tokens trained on in this process.
    pub tokens: usize,
    /// Seconds spent in steps in this process.
    pub seconds: f64,
    /// What memory it was expected to take, where that could be told.
    pub memory: Option<Memory>,
}

/// A training run over one model.
pub struct Trainer<'a> {
    /// Hyper-parameters.
    pub config: &'a TrainConfig,
    /// Dropout on adapter inputs.
    pub lora_dropout: f64,
    /// Seed of dropout and negatives.
    pub seed: u64,
    /// The model; its trained tensors are those of `params`.
    pub model: &'a Llama,
    /// What is trained.
    pub params: &'a Params,
    /// The item tokens, where sequence recommendation is normalised over them alone; `None` normalises
    /// over the whole vocabulary.
    pub item_tokens: Option<Range<u32>>,
    /// The contrastive task, if any sample has a `<con>`.
    pub contrast: Option<(&'a Projectors, &'a ContrastConfig, usize)>,
    /// Where to keep the state to resume from; `None` for runs too short to need one.
    pub state: Option<&'a Path>,
}

impl Trainer<'_> {
    /// Trains on `samples(epoch)` for all epochs, or on from the state left by an earlier process.
    ///
    /// With `validate`, the parameters end as they were after the epoch it rated highest.
    ///
    /// # Errors
    /// Stops at the first loss that is not a number, leaving the state saved before it.
    pub fn run(
        &self,
        samples: &(dyn Fn(u64) -> Result<Vec<Sample>> + Sync),
        validate: Option<&mut dyn FnMut() -> Result<f64>>,
        observer: &mut dyn Observer,
    ) -> Result<TrainOutcome> {
        // A pool of its own: the one that trains may have no thread to spare, or be waiting for it.
        let pool = ThreadPoolBuilder::new().num_threads(1).build();
        let pool = pool.map_err(|e| Error::Invalid(format!("no thread could be started: {e}")))?;
        let samples = |epoch| pool.install(|| samples(epoch));
        thread::scope(|scope| self.run_in(scope, &samples, validate, observer))
    }

    fn run_in<'scope, 'env>(
        &self,
        scope: &'scope Scope<'scope, 'env>,
        samples: &'env (dyn Fn(u64) -> Result<Vec<Sample>> + Sync),
        mut validate: Option<&mut dyn FnMut() -> Result<f64>>,
        observer: &mut dyn Observer,
    ) -> Result<TrainOutcome> {
        let config = self.config;
        if config.batch == 0 || config.micro_batch == Some(0) {
            invalid!("batch and micro-batch must be at least 1");
        }
        let state = self.state.map(StateDir::new);
        let (mut adam, mut progress) = self.begin(state.as_ref())?;
        let mut epoch_samples = samples(progress.epoch)?;
        if epoch_samples.is_empty() {
            invalid!(
                "there is nothing to train on: no user has two items before validation and test"
            );
        }
        let per_epoch = epoch_samples.len().div_ceil(config.batch) as u64;
        let all_steps = per_epoch * config.epochs;
        let total_steps = config.max_steps.map_or(all_steps, |max| max.min(all_steps));
        let schedule = Schedule::new(config.learning_rate, config.warmup_ratio, total_steps);
        let memory = self.memory(&epoch_samples);
        observer.on_start(memory)?;
        let (mut tokens, mut seconds) = (0, 0.0);
        let mut workspace = Workspace::default();
        while progress.step < total_steps {
            // The next epoch's samples are made while this one trains.
            let next = progress.epoch + 1;
            let upcoming =
                (next * per_epoch < total_steps).then(|| scope.spawn(move || samples(next)));
            for batch in epoch_samples.chunks(config.batch).skip(progress.batches) {
                let start = Instant::now();
                let lr = schedule.at(progress.step);
                let (losses, gradient_norm) =
                    self.step(&mut adam, &mut workspace, batch, progress.step, lr)?;
                let step_tokens: usize = batch.iter().map(|s| s.ids.len()).sum();
                let elapsed = start.elapsed().as_secs_f64();
                tokens += step_tokens;
                seconds += elapsed;
                progress.step += 1;
                progress.batches += 1;
                let control = observer.on_step(&StepReport {
                    step: progress.step,
                    total_steps,
                    epoch: progress.epoch + 1,
                    losses,
                    learning_rate: lr,
                    gradient_norm,
                    tokens: step_tokens,
                    tokens_per_s: step_tokens as f64 / elapsed,
                })?;
                if let Some(state) = &state
                    && (progress.step % config.save_every.max(1) == 0 || control == Control::Stop)
                {
                    state.save(&progress, self.params, &adam)?;
                }
                if control == Control::Stop {
                    let steps = progress.step;
                    let best = progress.best;
                    return Ok(TrainOutcome {
                        finished: false,
                        best,
                        steps,
                        tokens,
                        seconds,
                        memory,
                    });
                }
                if progress.step >= total_steps {
                    break;
                }
            }
            progress.epoch += 1;
            progress.batches = 0;
            let validation = validate.as_mut().map(|v| v()).transpose()?;
            let improved = validation.is_some_and(|v| progress.best.is_none_or(|(b, _)| v > b));
            if improved {
                progress.best = validation.map(|value| (value, progress.epoch));
            }
            observer.on_epoch(&EpochReport {
                epoch: progress.epoch,
                validation,
                best: improved,
                tokens,
                seconds,
            })?;
            if let Some(state) = &state {
                if improved {
                    state.save_best(self.params)?;
                }
                state.save(&progress, self.params, &adam)?;
            }
            if let Some(upcoming) = upcoming {
                epoch_samples = upcoming.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            }
        }
        let best = progress.best;
        if let (Some(state), Some(_)) = (&state, best) {
            state.restore_best(self.params, self.model.device())?;
        }
        Ok(TrainOutcome { finished: true, best, steps: progress.step, tokens, seconds, memory })
    }

    /// The optimiser and the progress of a fresh start, or of the state left by an earlier process.
    fn begin(&self, state: Option<&StateDir>) -> Result<(AdamW, Progress)> {
        let mut adam = AdamW::new(self.params, self.config.adamw)?;
        let left = match state {
            Some(state) => state.restore(self.params, &mut adam, self.model.device())?,
            None => None,
        };
        Ok((adam, left.unwrap_or_default()))
    }

    /// One optimiser step over a global batch; gives the losses and the gradient's norm.
    fn step(
        &self,
        adam: &mut AdamW,
        workspace: &mut Workspace,
        samples: &[Sample],
        step: u64,
        lr: f64,
    ) -> Result<(Losses, f64)> {
        let (losses, gradients) = self.gradients_in(workspace, samples, step)?;
        if !losses.total.is_finite() {
            invalid!(
                "the loss became {} at step {}: lower the learning rate (now {lr:.2e}) or \
                 clip-norm; the state saved before it is kept",
                losses.total,
                step + 1
            );
        }
        let norm = gradients.norm()?;
        if !norm.is_finite() {
            invalid!(
                "the gradient's norm became {norm} at step {}: lower the learning rate (now \
                 {lr:.2e}); the state saved before it is kept",
                step + 1
            );
        }
        let scale = if norm > self.config.clip_norm { self.config.clip_norm / norm } else { 1.0 };
        adam.step(self.params, &gradients, lr, scale)?;
        workspace.served = Some(gradients);
        Ok((losses, norm))
    }
}
