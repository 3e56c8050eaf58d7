//! The behavior embedding of stage `index`, and what the trainings of its encoders show and leave behind.

use std::path::Path;

use candle_core::{Device, Tensor};
use ndarray::Array2;
use serde_json::json;

use crate::embed::{
    Around, CONTINUED_EPOCHS, continue_sasrec, save_embeddings, train_behavior_embedding,
};
use crate::model::sequential::Sequential;
use crate::model::{Weights, load_safetensors, save_safetensors};
use crate::run::manifest::settings_under;
use crate::run::monitor::{epochs, with_epochs};
use crate::run::stages::{Made, SASREC};
use crate::run::unfinished::kept_for;
use crate::run::{Monitor, Run, Stage};
use crate::{Error, Result, files};

/// A SASRec to go on from, in the index of another run.
pub(in crate::run) struct SasRecBefore {
    /// With a row for every item of this run.
    weights: Weights,
    digest: String,
}

impl SasRecBefore {
    /// That of the run `before`, if it has one; `z` has what the items of the new run begin with.
    pub(super) fn load(before: &Run, z: &Array2<f32>) -> Result<Option<Self>> {
        let Some(digest) = before.manifest.output(Stage::Index, SASREC) else { return Ok(None) };
        let mut weights = load_safetensors(before.dir.join("index").join(SASREC), &Device::Cpu)?;
        let items = Tensor::from_iter(z.iter().copied(), &Device::Cpu)?.reshape(z.dim())?;
        weights.insert("items".into(), items);
        Ok(Some(Self { weights, digest: digest.into() }))
    }
}

/// Trains the encoder, or goes on with the SASRec `before`; embeddings, weights and report go into `folder`.
pub(in crate::run) fn embed_behavior(
    run: &Run,
    before: Option<&SasRecBefore>,
    folder: &Path,
    monitor: &mut dyn Monitor,
) -> Result<(Array2<f32>, Made)> {
    let sequences: Vec<&[u32]> = run.dataset.train_sequences().collect();
    let encoder = run.config.index.behavior.encoder();
    let (name, metric) = (encoder.name(), encoder.metric());
    let what = format!("train behavior encoder {name}");
    let bytes = encoder.bytes(&sequences, run.dataset.num_items())?;
    run.afford(&format!("the training of {}", encoder.settings()), bytes.into(), 0)?;
    let own = ["seed", &format!("{}.", encoder.settings())];
    let from = before.map(|before| &before.digest);
    let key = json!([settings_under(&own, &run.config)?, run.dataset.fingerprint, from]);
    let state = kept_for(&run.workshop(Stage::Index).join(name), &key)?;
    let most = before.map_or(encoder.epochs(), |_| CONTINUED_EPOCHS);
    let trained = with_epochs(monitor, &what, most, metric, |progress| {
        let (items, seed) = (run.dataset.num_items(), run.config.seed);
        let mut around = Around { settings: encoder.settings(), state: Some(&state), progress };
        let Some(before) = before else {
            return train_behavior_embedding(&sequences, items, encoder, seed, &mut around);
        };
        let config = &run.config.index.behavior.sasrec;
        let network = config.network(items, seed)?;
        network.set_weights(&before.weights)?;
        continue_sasrec(&network, &sequences, config, seed, &mut around)
    })?;
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
    if let Some(measured) = trained.measured {
        let epoch = trained.best_epoch;
        tracing::info!(
            "behavior encoder {name}: {metric} on its holdout {measured:.4} (epoch {epoch})"
        );
        made.tell(&format!("behavior_{metric}"), measured);
    }
    Ok((trained.embeddings, made))
}
