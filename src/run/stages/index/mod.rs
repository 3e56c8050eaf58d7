//! Stage `index`: the backbone, both embeddings, and the codes made from them.

mod behavior;
mod codes;
mod company;
mod data;
mod extend;
mod forms;
mod import;
mod scratch;
mod semantic;

use std::path::{Path, PathBuf};

use ndarray::Array2;
use serde_json::json;

use super::{FOLDER, Made};
use crate::index::store;
use crate::inference::ItemTokens;
use crate::model::{Backbone, BackboneSource};
use crate::run::artifacts::{backbone, load_backbone_at, plan_of};
use crate::run::{Monitor, Run, Stage};
use crate::{Result, files};

pub(in crate::run) use behavior::help_embed_behavior;
pub(in crate::run) use data::has_copy;
pub(in crate::run) use extend::{read_grown, run as extend};
pub use forms::{IndexFormat, read_index};
pub use import::ImportRequest;
pub(in crate::run) use scratch::help_warm_up;
pub(in crate::run) use semantic::{digests, embed_texts, help_embed};

/// The folder of a backbone from scratch.
pub(in crate::run) const BACKBONE: &str = "backbone";

/// Refuses what cannot become an index, before anything is written: an infeasible pair of k and levels
/// fails in a moment.
pub(in crate::run) fn check(run: &Run) -> Result<()> {
    run.dataset.check_trainable()?;
    check_backbone(run)?;
    semantic::check(run)?;
    behavior::check_alignment(run)?;
    plan_of(&run.config, run.dataset.num_items()).map(drop)
}

/// Refuses a backbone that is to be read and is not there.
fn check_backbone(run: &Run) -> Result<()> {
    let path = run.config.backbone.path.as_deref();
    path.map(BackboneSource::resolve).transpose().map(drop)
}

pub(in crate::run) fn run(run: &Run, monitor: &mut dyn Monitor) -> Result<Made> {
    let (config, dataset) = (&run.config, &run.dataset);
    let source = config.index.source;
    let has_behavior = source.has_behavior();
    let plans = plan_of(config, dataset.num_items())?;
    let copied = data::keep(run)?;
    let (backbone, wrote_backbone) = prepare_backbone(run, monitor)?;
    ItemTokens::refuse_known(&backbone.tokenizer, &plans)?;
    let new = &run.result_of(Stage::Index).join("index");
    files::make_dir(new)?;
    let made = {
        let mut made = Made::of(["index.json"]);
        made.tell("items", dataset.num_items());
        made.tell("source", json!(source));
        made.tell("method", json!(config.index.method));
        let z_semantic = if source.has_semantic() {
            let (z, part) = semantic::make(run, &backbone, new, monitor)?;
            made.take(part);
            Some(z)
        } else {
            None
        };
        let z_behavior = if has_behavior || config.index.aligns() {
            // What codes of texts are no more than drawn to stands beside the autoencoder that is.
            let place = if has_behavior { "" } else { codes::RQ_VAE };
            let (z, part) = behavior::make(run, &new.join(place), monitor)?;
            made.take(part.within(place));
            Some(z)
        } else {
            None
        };
        let of_codes = [&z_semantic, if has_behavior { &z_behavior } else { &None }];
        let vectors: Vec<&Array2<f32>> = of_codes.into_iter().flatten().collect();
        let aligned = z_behavior.as_ref().filter(|_| config.index.aligns());
        let (index, part) = codes::build(run, &plans, &vectors, aligned, new, monitor)?;
        made.take(part);
        // Every item's tokens must come out of the tokenizer as they went in, whatever stands before them.
        ItemTokens::extend(backbone.tokenizer.clone(), &index)?.check(&index)?;
        store::write(&new.join("index.json"), &index)?;
        let codes: Vec<usize> = index.levels().iter().map(|level| level.num_codes).collect();
        made.tell("levels", codes);
        made.tell("item_tokens", index.vocabulary().len());
        made
    };
    let mut all = made.within("index");
    all.files.extend(wrote_backbone);
    all.take(copied);
    Ok(all)
}

/// The backbone, and the files it was written to where it is one from scratch.
pub(in crate::run) fn prepare_backbone(
    run: &Run,
    monitor: &mut dyn Monitor,
) -> Result<(Backbone, Vec<PathBuf>)> {
    if run.config.backbone.path.is_some() {
        return Ok((backbone(run)?, Vec::new()));
    }
    let dir = run.result_of(Stage::Index).join(BACKBONE);
    scratch::prepare(run, &dir, monitor)?;
    let wrote = FOLDER.map(|name| Path::new(BACKBONE).join(name));
    Ok((load_backbone_at(run, &dir)?, wrote.into()))
}
