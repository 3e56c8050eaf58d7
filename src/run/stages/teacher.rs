//! The teacher of stage `initial`: the SASRec of z^b.

use candle_core::Device;

use crate::inference::ItemTokens;
use crate::model::load_safetensors;
use crate::run::{Run, Stage};
use crate::tasks::Layout;
use crate::train::Teacher;
use crate::{Result, invalid};

/// The SASRec of z^b in the folder of the index.
const FILE: &str = "sasrec/model.safetensors";

/// Refuses a configuration whose teacher is missing or reads less than a sample holds.
pub(super) fn check(run: &Run) -> Result<()> {
    let weight = run.config.train.distillation.weight;
    if weight == 0.0 {
        return Ok(());
    }
    if run.manifest.output(Stage::Index, FILE).is_none() {
        invalid!(
            "train.distillation.weight = {weight} needs a teacher, which is the SASRec of z^b, and the index \
             has none: make it with index.behavior.encoder = \"sasrec\", or set the weight to 0"
        );
    }
    let (reads, holds) = (run.config.index.behavior.sasrec.history, run.config.data.history);
    // A sample of one target needs no state but that of its last items.
    if reads < holds && run.config.train.tasks.layout == Layout::Sequence {
        invalid!(
            "index.behavior.sasrec.history = {reads}: the teacher of train.distillation must read the \
             {holds} items of data.history"
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
    let sasrec = &run.config.index.behavior.sasrec;
    let network = sasrec.network(run.dataset.num_items(), run.config.seed)?;
    network.set_weights(&load_safetensors(run.dir.join("index").join(FILE), &Device::Cpu)?)?;
    let (first, width) = (tokens.vocabulary.first, tokens.added - 1);
    Ok(Some(Teacher::new(network, config, &tokens.items, first, width)))
}
