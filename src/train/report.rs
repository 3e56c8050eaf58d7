//! What a training run tells of itself.

use std::fmt::Write as _;

use serde::Serialize;

use super::memory::Memory;
use crate::ranks::Ranks;
use crate::{Error, Result};

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

impl Losses {
    /// The sums over the ranks: means over a global batch of which each has summed its part.
    pub(super) fn over(&self, ranks: &dyn Ranks) -> Self {
        if ranks.is_alone() {
            return *self;
        }
        let parts = [
            Some(self.total),
            Some(self.generation),
            self.con_s,
            self.con_b,
            self.top1_s,
            self.top1_b,
        ];
        // How many ranks have a part, and what it is there.
        let of_part =
            |part: Option<f64>| [f64::from(u8::from(part.is_some())), part.unwrap_or(0.0)];
        let sums = ranks.sums(&parts.map(of_part).concat());
        let sum = |part: usize| (sums[2 * part] > 0.0).then_some(sums[2 * part + 1]);
        let [total, generation, con_s, con_b, top1_s, top1_b] = std::array::from_fn(sum);
        let (total, generation) = (total.unwrap_or(0.0), generation.unwrap_or(0.0));
        Self { total, generation, con_s, con_b, top1_s, top1_b }
    }

    /// A part that is not finite, by name, with its value.
    pub(super) fn fault(&self) -> Option<(&'static str, f64)> {
        let parts = [
            ("loss of the responses", Some(self.generation)),
            ("contrastive loss of z^s", self.con_s),
            ("contrastive loss of z^b", self.con_b),
            ("loss", Some(self.total)),
        ];
        let mut parts = parts.into_iter().filter_map(|(name, value)| Some((name, value?)));
        parts.find(|(_, value)| !value.is_finite())
    }
}

/// What of a step is not finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    /// Its name.
    pub part: &'static str,
    /// What it is.
    pub value: f64,
}

/// A step that changed nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Skip {
    /// The step, from 1.
    pub step: u64,
    /// How many steps of the run were skipped up to now.
    pub of_all: u64,
    /// Why.
    pub fault: Fault,
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
    /// The epoch, from 1; 0 for the model before the first step.
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

/// What lies before a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Start {
    /// What memory a step is expected to take, where that can be told.
    pub memory: Option<Memory>,
    /// Bytes of disk that what is saved takes at most, states and result; 0 where nothing is.
    pub disk: u64,
    /// Passes over the samples in an epoch.
    pub passes: u64,
    /// Steps of all epochs.
    pub total_steps: u64,
    /// Steps that were done before, by a process whose state this one goes on from.
    pub done_steps: u64,
    /// Epochs that were, with their validation.
    pub done_epochs: u64,
}

/// Hears of a run's progress.
pub trait Observer {
    /// Before the first step.
    fn on_start(&mut self, start: &Start) -> Result<()> {
        let _ = start;
        Ok(())
    }
    /// After a step that changed nothing, in place of [`Observer::on_step`].
    fn on_skip(&mut self, skip: &Skip) {
        let _ = skip;
    }
    /// After every step.
    fn on_step(&mut self, report: &StepReport) -> Result<Control>;
    /// After every epoch.
    fn on_epoch(&mut self, report: &EpochReport) -> Result<()>;
}

impl TrainOutcome {
    /// The outcome of a run that came to its end.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if it was stopped before.
    pub fn finished(self) -> Result<Self> {
        if self.finished {
            return Ok(self);
        }
        let Self { steps, saved, .. } = self;
        let mut done = format!("step {steps}");
        if saved < steps {
            done += ", its loss above that of guessing";
        }
        if (1..steps).contains(&saved) {
            let _ = write!(done, "; not so at step {saved}");
        }
        Err(Error::Interrupted { done, command: "the same command", saved: saved > 0 })
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOutcome {
    /// Whether it came to its end (else the observer stopped it).
    pub finished: bool,
    /// The steps from which a run that was stopped goes on: all, or fewer where the last ones were for the worse.
    pub saved: u64,
    /// The best validation metric and its epoch, from 1; 0 where the model before the first step has it.
    pub best: Option<(f64, u64)>,
    /// Steps taken over all processes.
    pub steps: u64,
    /// Those of them that changed nothing, since their loss or gradient was not finite.
    pub skipped: u64,
    /// Tokens trained on in this process.
    pub tokens: usize,
    /// Seconds spent in steps in this process.
    pub seconds: f64,
    /// What memory it was expected to take, where that could be told.
    pub memory: Option<Memory>,
}
