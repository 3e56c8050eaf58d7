//! What a run folder holds, read: the index and its matrices, the models and their vocabularies.

use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::DType;
use ndarray::Array2;

use super::digests::gone;
use super::{Run, Stage};
use crate::config::{Float, RunConfig};
use crate::embed::load_embeddings;
use crate::index::{ItemIndex, TreePlan, store};
use crate::inference::{ItemTokens, TokenOrder};
use crate::model::adapter::{self, Adapters};
use crate::model::{
    Backbone, BackboneSource, Llama, LlamaConfig, Weights, init, load_backbone, load_backbone_from,
    load_folder,
};
use crate::ops::Precision;
use crate::text::Tokenizer;
use crate::{Result, invalid};

pub(super) fn dtype(float: Float) -> DType {
    match float {
        Float::F32 => DType::F32,
        Float::Bf16 => DType::BF16,
    }
}

/// What the run's models multiply in.
pub(super) fn precision(run: &Run) -> Precision {
    run.config.backbone.precision
}

/// The backbone before any stage: the configured checkpoint, or the one made from scratch.
pub(super) fn backbone(run: &Run) -> Result<Backbone> {
    match &run.config.backbone.path {
        Some(path) => load_backbone(path, dtype(run.config.backbone.dtype), &run.device),
        None => load_backbone_at(run, &run.dir.join("backbone")),
    }
}

/// A backbone from scratch that lies in the folder `dir`.
pub(super) fn load_backbone_at(run: &Run, dir: &Path) -> Result<Backbone> {
    let place = BackboneSource::Folder(dir.to_path_buf());
    load_backbone_from(&place, dtype(run.config.backbone.dtype), &run.device)
}

/// The backbone with rows for the item tokens and `<con>`, all of them untrained: where stage `initial`
/// begins.
pub(super) fn extended_backbone(
    run: &Run,
    index: &ItemIndex,
) -> Result<(LlamaConfig, Weights, ItemTokens)> {
    let Backbone { mut config, mut weights, tokenizer } = backbone(run)?;
    let tokens = ItemTokens::extend(tokenizer, index)?;
    let first = tokens.vocabulary.first as usize;
    init::resize(&mut config, &mut weights, first, tokens.added, run.config.seed)?;
    Ok((config, weights, tokens))
}

/// The item index of a run.
pub(super) fn load_index(run: &Run) -> Result<ItemIndex> {
    let sources = if let Some(import) = run.imported() {
        import.sources.clone()
    } else if let Some(follows) = run.manifest.follows(Stage::Index) {
        // How many levels a source has may depend on how many items it was made of.
        follows.sources.clone()
    } else {
        let plans = plan_of(&run.config, run.dataset.num_items())?;
        run.config.index.settings().level_sources(&plans)
    };
    let index = store::read(&run.dir.join("index/index.json"), &sources)?;
    if index.num_items() != run.dataset.num_items() {
        invalid!(
            "{}: the index has {} items, the dataset has {}; redo it with `llmbs index --force`",
            run.dir.display(),
            index.num_items(),
            run.dataset.num_items()
        );
    }
    Ok(index)
}

/// The ids of each level's tokens, where the run tells codes from those of their level alone.
pub(super) fn levels_apart(run: &Run, tokens: &ItemTokens) -> Option<Vec<Range<u32>>> {
    run.config.train.level_softmax.then(|| tokens.levels())
}

/// What stage `initial` left behind.
pub(super) struct Trained {
    pub(super) config: LlamaConfig,
    pub(super) weights: Weights,
    pub(super) tokens: ItemTokens,
    pub(super) index: ItemIndex,
}

impl Trained {
    pub(super) fn load(run: &Run) -> Result<Self> {
        let index = load_index(run)?;
        let dir = run.dir.join("initial");
        let (config, mut weights) =
            load_folder(&dir, dtype(run.config.backbone.dtype), &run.device)?;
        // A folder may have been exported in the order of another program.
        let tokenizer =
            TokenOrder::Code.apply(Tokenizer::load_folder(&dir)?, &mut weights, &index)?;
        let tokens = ItemTokens::find(tokenizer, &index)?;
        if tokens.con as usize >= config.vocab_size {
            invalid!(
                "{}: the model has {} tokens, its tokenizer puts the item tokens up to {}: they do \
                 not belong together; redo the stage with `llmbs train --stage initial --force`",
                dir.display(),
                config.vocab_size,
                tokens.con
            );
        }
        Ok(Self { config, weights, tokens, index })
    }

    /// The model, with the annealing adapter merged in where `adapter` is set.
    pub(super) fn model(&self, run: &Run, adapter: bool) -> Result<Llama> {
        if !adapter {
            let model = Llama::new(&self.config, &self.weights)?;
            return Ok(model.with_precision(precision(run)));
        }
        let adapters = adapter::load(&run.dir.join("anneal"), &self.config, &run.device)?;
        let merged = adapter::merge(&self.weights, &adapters)?;
        Ok(Llama::new(&self.config, &merged)?.with_precision(precision(run)))
    }

    /// The model with unmerged, trainable adapters.
    pub(super) fn adapted(&self, run: &Run, adapters: &Adapters) -> Result<Llama> {
        Ok(Llama::with_lora(&self.config, &self.weights, adapters)?.with_precision(precision(run)))
    }
}

/// The parts of the index that the configuration asks for, semantic before behavior.
pub(super) fn plan_of(config: &RunConfig, num_items: usize) -> Result<Vec<TreePlan>> {
    config.index.settings().plan(num_items)
}

/// The file of an embedding matrix of the run, where the index was made with one.
///
/// # Errors
/// If it is gone.
pub(super) fn matrix_file(run: &Run, name: &str) -> Result<Option<PathBuf>> {
    let file = format!("{name}.safetensors");
    if run.manifest.output(Stage::Index, &file).is_none() {
        return Ok(None);
    }
    let path = run.dir.join("index").join(file);
    if path.exists() {
        Ok(Some(path))
    } else {
        Err(gone(&path, Stage::Index, run.manifest.stages.get(&Stage::Index)))
    }
}

/// An embedding matrix of the run, (items, dim), where the index was made with one.
pub(super) fn load_matrix(run: &Run, name: &str) -> Result<Option<Array2<f32>>> {
    let file = matrix_file(run, name)?;
    file.map(|path| load_embeddings(&path, run.dataset.num_items())).transpose()
}
