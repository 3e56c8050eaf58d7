//! The behavior embedding of stage `index`, and what the trainings of its encoders show and leave behind.

use std::path::Path;

use ndarray::Array2;
use serde_json::json;

use crate::embed::{Around, save_embeddings, train_behavior_embedding};
use crate::model::save_safetensors;
use crate::run::manifest::settings_under;
use crate::run::monitor::{epochs, with_epochs};
use crate::run::stages::Made;
use crate::run::unfinished::kept_for;
use crate::run::{Monitor, Run, Stage};
use crate::{Error, Result, files};

/// Trains the encoder; embeddings, weights and report go into `folder`.
pub(in crate::run) fn embed_behavior(
    run: &Run,
    folder: &Path,
    monitor: &mut dyn Monitor,
) -> Result<(Array2<f32>, Made)> {
    let sequences: Vec<&[u32]> = run.dataset.train_sequences().collect();
    let encoder = run.config.index.behavior.encoder();
    let (name, metric) = (encoder.name(), encoder.metric());
    let what = format!("train behavior encoder {name}");
    let bytes = encoder.bytes(&sequences, run.dataset.num_items());
    run.afford(&format!("the training of {}", encoder.settings()), bytes.into(), 0)?;
    let own = ["seed", &format!("{}.", encoder.settings())];
    let key = json!([settings_under(&own, &run.config)?, run.dataset.fingerprint]);
    let state = kept_for(&run.workshop(Stage::Index).join(name), &key)?;
    let trained = with_epochs(monitor, &what, encoder.epochs(), metric, |progress| {
        let (items, seed) = (run.dataset.num_items(), run.config.seed);
        let mut around = Around { settings: encoder.settings(), state: Some(&state), progress };
        train_behavior_embedding(&sequences, items, encoder, seed, &mut around)
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
    let mut made = Made::of([
        "behavior.safetensors".to_string(),
        format!("{name}/model.safetensors"),
        format!("{name}/report.json"),
    ]);
    made.tell(&format!("behavior_{metric}"), json!(trained.measured));
    Ok((trained.embeddings, made))
}
