//! The behavior embedding of stage `index`, and what the trainings of its encoders show and leave behind.

use std::path::Path;

use candle_core::{Device, Tensor};
use ndarray::Array2;
use serde_json::json;

use super::semantic;
use crate::embed::{
    Around, CONTINUED_EPOCHS, Encoder, Progress, continue_sasrec, save_embeddings,
    spectral_embedding, train_behavior_embedding,
};
use crate::model::sequential::Sequential;
use crate::model::{Weights, load_safetensors, save_safetensors};
use crate::ranks::Alone;
use crate::run::manifest::settings_under;
use crate::run::monitor::{epochs, with_epochs};
use crate::run::needs::Needs;
use crate::run::stages::{Made, SASREC};
use crate::run::unfinished::kept_for;
use crate::run::work::Work;
use crate::run::{Monitor, Run, Stage};
use crate::{Result, files};

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

/// The file of z^b.
const FILE: &str = "behavior.safetensors";

/// z^b, the user's own or the encoder's, in `folder` with all that comes with it.
pub(super) fn make(
    run: &Run,
    folder: &Path,
    monitor: &mut dyn Monitor,
) -> Result<(Array2<f32>, Made)> {
    files::make_dir(folder)?;
    let Some(z) = own(run)? else { return embed_behavior(run, None, folder, monitor) };
    save_embeddings(&folder.join(FILE), &z, None)?;
    Ok((z, Made::of([FILE])))
}

/// The user's own z^b.
fn own(run: &Run) -> Result<Option<Array2<f32>>> {
    let path = run.config.index.behavior.embeddings.as_deref();
    semantic::imported(run, "index.behavior.embeddings", path)
}

/// Refuses a z^b that latent vectors cannot be held against, where they are to be.
pub(super) fn check_alignment(run: &Run) -> Result<()> {
    let config = &run.config.index;
    if !config.aligns() {
        return Ok(());
    }
    let width = match own(run)? {
        Some(z) => z.ncols(),
        None => config.behavior.dim(run.dataset.num_items()),
    };
    config.check_alignment(width)
}

/// Trains the encoder, or goes on with the SASRec `before`; embeddings, weights and report go into `folder`.
pub(in crate::run) fn embed_behavior(
    run: &Run,
    before: Option<&SasRecBefore>,
    folder: &Path,
    monitor: &mut dyn Monitor,
) -> Result<(Array2<f32>, Made)> {
    let sequences: Vec<&[u32]> = run.dataset.train_sequences().collect();
    let Some(encoder) = run.config.index.behavior.trained_encoder() else {
        return embed_spectrally(run, &sequences, folder, monitor);
    };
    let (name, metric) = (encoder.encoder().name(), encoder.metric());
    let what = format!("train behavior encoder {name}");
    let bytes = encoder.bytes(&sequences, run.dataset.num_items())?;
    let table = encoder.encoder().settings();
    run.afford(&format!("the training of {table}"), bytes.into(), 0)?;
    let own = ["seed", &format!("{table}.")];
    let from = before.map(|before| &before.digest);
    let key = json!([settings_under(&own, &run.config)?, run.dataset.fingerprint, from]);
    let state = kept_for(&run.workshop(Stage::Index).join(name), &key)?;
    let most = before.map_or(encoder.epochs(), |_| CONTINUED_EPOCHS);
    let shared = before.is_none();
    let ranks = if shared { run.ranks } else { &Alone };
    let mut train = || {
        with_epochs(monitor, &what, most, metric, |progress| {
            let (items, seed) = (run.dataset.num_items(), run.config.seed);
            let mut around = Around { ranks, settings: table, state: Some(&state), progress };
            let Some(before) = before else {
                return train_behavior_embedding(&sequences, items, encoder, seed, &mut around);
            };
            let config = &run.config.index.behavior.sasrec;
            let network = config.network(items, seed)?;
            network.set_weights(&before.weights)?;
            continue_sasrec(&network, &sequences, config, seed, &mut around)
        })
    };
    let trained = if shared {
        run.together(Work::Behavior { state: state.clone() }, train)?
    } else {
        train()?
    };
    let dir = folder.join(name);
    files::make_dir(&dir)?;
    save_embeddings(&folder.join(FILE), &trained.embeddings, None)?;
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
        FILE.to_string(),
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

/// Trains the encoder with rank 0, which keeps its state in the folder `state`.
pub(in crate::run) fn help_embed_behavior(run: &Run, state: &Path) -> Result<()> {
    let sequences: Vec<&[u32]> = run.dataset.train_sequences().collect();
    let Some(encoder) = run.config.index.behavior.trained_encoder() else { return Ok(()) };
    let settings = encoder.encoder().settings();
    let progress = &mut |_: &Progress| ();
    let mut around = Around { ranks: run.ranks, settings, state: Some(state), progress };
    let (items, seed) = (run.dataset.num_items(), run.config.seed);
    train_behavior_embedding(&sequences, items, encoder, seed, &mut around).map(drop)
}

/// What is left of an eigenvector that is worth a warning; its own length is one.
const ROUGH: f64 = 0.01;

/// The eigenvectors of the graph of items as z^b.
fn embed_spectrally(
    run: &Run,
    sequences: &[&[u32]],
    folder: &Path,
    monitor: &mut dyn Monitor,
) -> Result<(Array2<f32>, Made)> {
    let (items, config) = (run.dataset.num_items(), &run.config.index.behavior.spectral);
    // The solver holds some blocks of vectors, in f64; three of them, and what the graph makes of each, are most.
    let memory = (size_of::<f64>() * 12 * items * config.vectors(items)) as u64;
    let table = Encoder::Spectral.settings();
    run.afford(&format!("the eigenvectors of {table}"), Needs { memory, disk: 0 }, 0)?;
    monitor.begin("find the eigenvectors of the graph of items", 1);
    let found = spectral_embedding(sequences, items, config, run.config.seed)?;
    monitor.end();
    if found.residual > ROUGH {
        tracing::warn!(
            "the eigenvectors of {table} are rough: {:.4} is left of the worst; a lower {table}.dim may be better",
            found.residual
        );
    }
    save_embeddings(&folder.join(FILE), &found.embeddings, None)?;
    let mut made = Made::of([FILE]);
    made.tell("behavior_items_seen", found.num_seen);
    made.tell("behavior_eigenvalues", found.eigenvalues);
    made.tell("behavior_residual", found.residual);
    Ok((found.embeddings, made))
}
