//! The behavior embedding of stage `index`, and what the trainings of its encoders show and leave behind.

use std::path::Path;

use ndarray::Array2;
use serde_json::{Value, json};

use super::{Monitor, Run};
use crate::embed::{EpochReport, Progress, save_embeddings, train_behavior_embedding};
use crate::model::save_safetensors;
use crate::{Error, Result, files};

/// The behavior embedding with what was written for it.
pub(super) struct Behavior {
    pub(super) embeddings: Array2<f32>,
    /// Files, relative to the folder of the index.
    pub(super) names: Vec<String>,
    /// The name of its figure on the holdout, and the figure.
    pub(super) figure: (String, Value),
}

/// Trains the encoder; embeddings, weights and report go into `folder`.
pub(super) fn embed_behavior(
    run: &Run,
    folder: &Path,
    monitor: &mut dyn Monitor,
) -> Result<Behavior> {
    let sequences: Vec<&[u32]> = run.dataset.train_sequences().collect();
    let encoder = run.config.index.behavior.encoder();
    let (name, metric) = (encoder.name(), encoder.metric());
    let what = format!("train behavior encoder {name}");
    let trained = with_epochs(monitor, &what, encoder.epochs(), metric, |progress| {
        let (items, seed) = (run.dataset.num_items(), run.config.seed);
        train_behavior_embedding(&sequences, items, encoder, seed, progress)
    })?;
    if let Some(measured) = trained.measured {
        let epoch = trained.best_epoch;
        tracing::info!(
            "behavior encoder {name}: {metric} on its holdout {measured:.4} (epoch {epoch})"
        );
    }
    let dir = folder.join(name);
    std::fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
    save_embeddings(&folder.join("behavior.safetensors"), &trained.embeddings, None)?;
    save_safetensors(dir.join("model.safetensors"), &trained.weights)?;
    let report = json!({
        metric: trained.measured,
        "best_epoch": trained.best_epoch,
        "targets": trained.num_targets,
        "items_seen": trained.num_seen,
        "epochs": epochs(&trained.reports, metric),
    });
    files::write_json(&dir.join("report.json"), &report)?;
    let names = ["behavior.safetensors".into()]
        .into_iter()
        .chain(["model.safetensors", "report.json"].map(|file| format!("{name}/{file}")));
    Ok(Behavior {
        embeddings: trained.embeddings,
        names: names.collect(),
        figure: (format!("behavior_{metric}"), json!(trained.measured)),
    })
}

/// Shows how far `work`, a training of at most `most` epochs, has come.
pub(super) fn with_epochs<T>(
    monitor: &mut dyn Monitor,
    what: &str,
    most: usize,
    metric: &str,
    work: impl FnOnce(&mut dyn FnMut(&Progress)) -> Result<T>,
) -> Result<T> {
    let mut note = String::new();
    let result = work(&mut |progress| match *progress {
        Progress::Step { epoch, done, total } => {
            if (epoch, done) == (1, 1) {
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
