//! `log.jsonl`: a line where a training begins or goes on, one for each logged step or epoch, and the event file that has
//! these for `TensorBoard`.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::needs::{ANY_WORK, Needs, bytes_below, memory_bytes};
use super::tensorboard::{EventFile, Kind};
use super::unfinished::UNFINISHED;
use super::{Monitor, Run};
use crate::error::plain;
use crate::interrupt::Listener;
use crate::train::{Control, EpochReport, Losses, Observer, Skip, Start, StepReport};
use crate::{Error, Result, files};

/// The file.
const LOG: &str = "log.jsonl";

/// Appends to the log and drives a progress display.
pub(super) struct TrainLog<'a> {
    run: &'a Run,
    path: PathBuf,
    events: EventFile,
    stage: &'static str,
    /// The last step that was done.
    step: u64,
    /// The name of the validation metric.
    metric: String,
    every: u64,
    monitor: &'a mut dyn Monitor,
    begun: bool,
    gathered: Vec<StepReport>,
    signals: Option<Listener>,
    /// Bytes that a validation takes on top of what training holds.
    validation: u64,
    /// The memory that was predicted of this process, in bytes, where that can be told.
    pub(super) predicted: Option<u64>,
}

impl<'a> TrainLog<'a> {
    pub(super) fn new(
        run: &'a Run,
        stage: &'static str,
        every: u64,
        monitor: &'a mut dyn Monitor,
    ) -> Self {
        let path = run.dir.join(LOG);
        let metric = run.config.train.validation.metric.clone();
        let every = every.max(1);
        Self {
            run,
            path,
            events: EventFile::new(&run.dir, stage),
            stage,
            step: 0,
            metric,
            every,
            monitor,
            begun: false,
            gathered: Vec::new(),
            signals: None,
            validation: 0,
            predicted: None,
        }
    }

    /// Counts what a validation takes.
    pub(super) fn with_validation(mut self, bytes: u64) -> Self {
        self.validation = bytes;
        self
    }

    /// A signal stops this training, whose state can be saved.
    pub(super) fn stopped_by_signals(mut self) -> Self {
        self.signals = Some(Listener::new());
        self
    }

    fn append(&self, kind: Kind, event: &impl Serialize) -> Result<()> {
        if !self.run.ranks.is_first() {
            return Ok(());
        }
        let mut line = Map::new();
        line.insert("stage".into(), self.stage.into());
        match serde_json::to_value(event) {
            Ok(Value::Object(fields)) => line.extend(fields),
            Ok(_) | Err(_) => crate::invalid!("an event of the log is not a JSON object"),
        }
        self.write(&line)?;
        self.events.append(kind, self.step, &line)
    }

    fn write(&self, line: &Map<String, Value>) -> Result<()> {
        let text = serde_json::to_string(line).map_err(|e| Error::Invalid(e.to_string()))?;
        append_line(&self.path, &text).map_err(Error::io(&self.path))
    }
}

impl Run {
    /// The lines of `log.jsonl`, oldest first; none where nothing was trained yet.
    ///
    /// # Errors
    /// Names a line that is no JSON, unless it is the last one and was cut off.
    pub fn log(&self) -> Result<Vec<Value>> {
        let path = self.dir.join(LOG);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = files::read_text(&path)?;
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        let read = |(i, line)| {
            let wrong = |e| Error::Invalid(format!("{}:{}: {}", path.display(), i + 1, plain(e)));
            serde_json::from_str(line).map_err(wrong)
        };
        text[..whole].lines().enumerate().map(read).collect()
    }
}

/// Appends a line in one piece, in the place of one before it that was cut off.
fn append_line(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    if file.seek(SeekFrom::End(0))? > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != [b'\n'] {
            let whole = fs::read(path)?;
            let end = whole.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            file.set_len(end as u64)?;
        }
    }
    file.write_all(format!("{text}\n").as_bytes())
}

impl Observer for TrainLog<'_> {
    fn on_start(&mut self, start: &Start) -> Result<()> {
        if start.passes > 1 {
            tracing::info!(
                "{}: samples are few: an epoch passes over them {} times, {} steps in all",
                self.stage,
                start.passes,
                start.total_steps
            );
        }
        // What a step takes of a GPU is nothing that the system has to give.
        let of_process = start.memory.filter(|_| self.run.device.is_cpu());
        let more = of_process.map(|m| ANY_WORK + m.total() - m.weights + self.validation);
        self.predicted = more.map(|more| memory_bytes() + more);
        let needs = Needs { memory: more.unwrap_or(0), disk: start.disk };
        let reused = bytes_below(&self.run.dir.join(UNFINISHED));
        self.run.afford(&format!("the training of {}", self.stage), needs, reused)?;
        self.step = start.done_steps;
        if self.run.ranks.is_first() {
            self.events.begin(start.done_steps, start.done_epochs)?;
            let fields = [
                ("stage", self.stage.into()),
                ("done_steps", start.done_steps.into()),
                ("done_epochs", start.done_epochs.into()),
            ];
            self.write(&fields.map(|(name, value)| (name.into(), value)).into_iter().collect())?;
        }
        if let Some(memory) = start.memory {
            let gb = |bytes: u64| bytes as f64 / 1e9;
            tracing::info!(
                "{}: a step takes about {:.2} GB: weights {:.2}, gradients {:.2}, moments {:.2}, kept \
                 for the backward pass {:.2}, at work {:.2}",
                self.stage,
                gb(memory.total()),
                gb(memory.weights),
                gb(memory.gradients),
                gb(memory.moments),
                gb(memory.kept),
                gb(memory.working)
            );
        }
        Ok(())
    }

    fn on_skip(&mut self, skip: &Skip) {
        let Skip { step, of_all, fault } = skip;
        self.step = *step;
        tracing::warn!(
            "{}: the {} of step {step} is {}: the step is skipped, {of_all} up to now",
            self.stage,
            fault.part,
            fault.value
        );
    }

    fn on_step(&mut self, report: &StepReport) -> Result<Control> {
        if !self.begun {
            self.monitor.begin(&format!("train {}", self.stage), report.total_steps);
            self.begun = true;
        }
        let note = format!("loss {:.3}  {:.0} tokens/s", report.losses.total, report.tokens_per_s);
        self.monitor.advance(report.step, &note);
        self.step = report.step;
        self.gathered.push(report.clone());
        if report.step.is_multiple_of(self.every) || report.step == report.total_steps {
            let mean = mean_of(&self.gathered);
            self.append(Kind::Step, &mean)?;
            self.gathered.clear();
        }
        let asked = self.signals.as_ref().is_some_and(Listener::is_asked);
        Ok(if asked { Control::Stop } else { Control::Continue })
    }

    fn on_epoch(&mut self, report: &EpochReport) -> Result<()> {
        if let Some(value) = report.validation {
            let best = if report.best { ", the best so far" } else { "" };
            tracing::info!(
                "{}: epoch {}: validation {} {value:.4}{best}",
                self.stage,
                report.epoch,
                self.metric
            );
        }
        let mut event = json!({
            "epoch": report.epoch,
            "best": report.best,
            "tokens": report.tokens,
            "tokens_per_s": report.tokens as f64 / report.seconds.max(1e-9),
        });
        event[format!("validation_{}", self.metric)] = json!(report.validation);
        self.append(Kind::Epoch, &event)
    }
}

impl Drop for TrainLog<'_> {
    fn drop(&mut self) {
        if self.begun {
            self.monitor.end();
        }
    }
}

/// The reports of some steps as one: losses and norms averaged, the rest as of the last.
fn mean_of(reports: &[StepReport]) -> StepReport {
    let n = reports.len() as f64;
    let mean = |value: &dyn Fn(&StepReport) -> f64| reports.iter().map(value).sum::<f64>() / n;
    let optional = |value: &dyn Fn(&Losses) -> Option<f64>| {
        let present: Vec<f64> = reports.iter().filter_map(|r| value(&r.losses)).collect();
        (!present.is_empty()).then(|| present.iter().sum::<f64>() / present.len() as f64)
    };
    let last = &reports[reports.len() - 1];
    let tokens: usize = reports.iter().map(|r| r.tokens).sum();
    let seconds: f64 = reports.iter().map(|r| r.tokens as f64 / r.tokens_per_s).sum();
    StepReport {
        losses: Losses {
            total: mean(&|r| r.losses.total),
            generation: mean(&|r| r.losses.generation),
            con_s: optional(&|l| l.con_s),
            con_b: optional(&|l| l.con_b),
            top1_s: optional(&|l| l.top1_s),
            top1_b: optional(&|l| l.top1_b),
        },
        gradient_norm: mean(&|r| r.gradient_norm),
        tokens,
        tokens_per_s: tokens as f64 / seconds,
        ..last.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_off_goes_and_the_next_one_stands_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        append_line(&path, "{}").unwrap();
        append_line(&path, "{}").unwrap();
        std::fs::write(&path, "{}\n{\"st").unwrap();
        append_line(&path, "{}").unwrap();
        append_line(&path, "{}").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{}\n{}\n{}\n");
    }
}
