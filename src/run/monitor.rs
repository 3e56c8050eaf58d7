//! How work in progress is shown.

use std::time::Instant;

use serde_json::{Value, json};

use crate::Result;
use crate::embed::{EpochReport, Progress};

/// Shows how far a piece of work has come.
pub trait Monitor {
    /// A piece of work of `total` units begins.
    fn begin(&mut self, what: &str, total: u64);
    /// `done` units are done; `note` says something of the latest.
    fn advance(&mut self, done: u64, note: &str);
    /// The piece of work is done.
    fn end(&mut self);
}

/// Shows nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn begin(&mut self, _what: &str, _total: u64) {}
    fn advance(&mut self, _done: u64, _note: &str) {}
    fn end(&mut self) {}
}

/// Shows how many of `total` users `work` is done with, and how many a second.
pub(super) fn with_progress<T>(
    monitor: &mut dyn Monitor,
    what: &str,
    total: usize,
    work: impl FnOnce(&mut dyn FnMut(usize)) -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    monitor.begin(what, total as u64);
    let result = work(&mut |done| {
        let rate = done as f64 / start.elapsed().as_secs_f64();
        monitor.advance(done as u64, &format!("{rate:.1} users/s"));
    });
    monitor.end();
    result
}

/// Shows how far `work`, a training of at most `most` epochs, has come.
pub(super) fn with_epochs<T>(
    monitor: &mut dyn Monitor,
    what: &str,
    most: usize,
    metric: &str,
    work: impl FnOnce(&mut dyn FnMut(&Progress)) -> Result<T>,
) -> Result<T> {
    let (mut note, mut begun) = (String::new(), false);
    let result = work(&mut |progress| match *progress {
        Progress::Step { epoch, done, total } => {
            // One that goes on begins with a later epoch.
            if !std::mem::replace(&mut begun, true) {
                monitor.begin(what, (total * most) as u64);
            }
            monitor.advance(((epoch - 1) * total + done) as u64, &note);
        }
        Progress::Epoch(EpochReport { epoch, loss, measured, samples_per_s }) => {
            let measured = measured.map_or(String::new(), |m| format!("  {metric} {m:.4}"));
            note = format!("loss {loss:.4}{measured}");
            tracing::debug!("{what}: epoch {epoch}: {note}  {samples_per_s:.0} samples/s");
        }
    });
    monitor.end();
    result
}

/// A line an epoch.
pub(super) fn epochs(reports: &[EpochReport], metric: &str) -> Value {
    let line = |report: &EpochReport| {
        json!({
            "epoch": report.epoch,
            "loss": report.loss,
            metric: report.measured,
            "samples_per_s": report.samples_per_s,
        })
    };
    reports.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Vec<String>);

    impl Monitor for Heard {
        fn begin(&mut self, what: &str, total: u64) {
            self.0.push(format!("{what} of {total}"));
        }

        fn advance(&mut self, done: u64, _note: &str) {
            self.0.push(done.to_string());
        }

        fn end(&mut self) {
            self.0.push("end".into());
        }
    }

    #[test]
    fn a_training_that_goes_on_is_told_by_its_name() {
        let mut heard = Heard::default();
        let step = |epoch, done| Progress::Step { epoch, done, total: 10 };
        with_epochs(&mut heard, "train it", 5, "ndcg@10", |progress| {
            progress(&step(3, 1));
            progress(&step(4, 1));
            Ok(())
        })
        .unwrap();
        assert_eq!(heard.0, ["train it of 50", "21", "31", "end"]);
    }
}
