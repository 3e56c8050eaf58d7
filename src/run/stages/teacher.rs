//! The teacher of stage `initial`: the SASRec of z^b.

use candle_core::Device;

use super::SASREC;
use crate::inference::ItemTokens;
use crate::model::load_safetensors;
use crate::model::sequential::Sequential;
use crate::run::{Run, Stage};
use crate::train::Teacher;
use crate::{Result, invalid};

/// Refuses an index that has no teacher where the configuration, which [`RunConfig::check`] has seen, wants one:
/// one that was imported.
///
/// [`RunConfig::check`]: crate::config::RunConfig::check
pub(super) fn check(run: &Run) -> Result<()> {
    let weight = run.config.train.distillation.weight;
    if weight > 0.0 && run.manifest.output(Stage::Index, SASREC).is_none() {
        invalid!(
            "train.distillation.weight = {weight} needs a teacher, which is the SASRec of z^b, and the index \
             has none: set the weight to 0"
        );
    }
    Ok(())
}

/// The teacher, where the configuration asks for one.
pub(super) fn teacher(run: &Run, tokens: &ItemTokens) -> Result<Option<Teacher>> {
    let config = run.config.train.distillation;
    if config.weight == 0.0 {
        return Ok(None);
    }
    if run.manifest.output(Stage::Index, SASREC).is_none() {
        tracing::info!("the index that this run goes on from has no SASRec: nothing is distilled");
        return Ok(None);
    }
    let sasrec = &run.config.index.behavior.sasrec;
    let network = sasrec.network(run.dataset.num_items(), run.config.seed)?;
    network.set_weights(&load_safetensors(run.dir.join("index").join(SASREC), &Device::Cpu)?)?;
    let repeats = config.limit_repeats.then(|| run.dataset.repeats());
    let (first, width) = (tokens.vocabulary.first, tokens.added - 1);
    Ok(Some(Teacher::new(network, config, repeats, &tokens.items, first, width)))
}
