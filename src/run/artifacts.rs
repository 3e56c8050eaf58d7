//! What a run folder holds, read: the index and its matrices, the models and their vocabularies.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use ndarray::Array2;

use super::{Run, Stage};
use crate::config::{Float, ItemTokenInit, RunConfig};
use crate::data::Dataset;
use crate::embed::{item_token_directions, load_embeddings};
use crate::eval::ItemVocabulary;
use crate::index::{ItemIndex, TreePlan, store};
use crate::model::adapter::{self, Adapters};
use crate::model::{Backbone, Llama, LlamaConfig, Weights, init, load_backbone, load_folder};
use crate::ops::Precision;
use crate::tasks::Prompts;
use crate::text::Tokenizer;
use crate::{Result, invalid};

/// The token that gathers a target for the contrastive loss.
const CON: &str = "<con>";

pub(super) fn dtype(float: Float) -> DType {
    match float {
        Float::F32 => DType::F32,
        Float::Bf16 => DType::BF16,
    }
}

/// What the run's models multiply in.
pub(super) fn precision(run: &Run) -> Precision {
    match run.config.backbone.precision {
        Float::F32 => Precision::Full,
        Float::Bf16 => Precision::Bf16,
    }
}

/// The backbone before any stage: the configured checkpoint, or the one made from scratch.
pub(super) fn backbone(run: &Run) -> Result<Backbone> {
    load_backbone(&backbone_path(run), dtype(run.config.backbone.dtype), &run.device)
}

/// The backbone with rows for the item tokens and `<con>`, all of them untrained: where stage `initial`
/// begins.
pub(super) fn extended_backbone(
    run: &Run,
    index: &ItemIndex,
) -> Result<(LlamaConfig, Weights, Tokens)> {
    let Backbone { mut config, mut weights, tokenizer } = backbone(run)?;
    let tokens = Tokens::extend(tokenizer, index)?;
    let first = tokens.vocabulary.first as usize;
    init::resize(&mut config, &mut weights, first, tokens.added, run.config.seed)?;
    if run.config.train.item_token_init == ItemTokenInit::Centroid {
        let directions = directions(run, index, config.hidden_size)?;
        init::point_rows(&config, &mut weights, first, &directions)?;
    }
    Ok((config, weights, tokens))
}

/// Where the rows of the item tokens are to point, (item tokens, `hidden_size`).
fn directions(run: &Run, index: &ItemIndex, hidden_size: usize) -> Result<Tensor> {
    const SETTING: &str = "train.item-token-init = \"centroid\"";
    let source = run.config.index.source;
    let Some(semantic) = load_matrix(run, "semantic")? else {
        invalid!(
            "{SETTING} needs z^s, which an index of source \"{source}\" does not have; set \
             index.source = \"unit\" or \"semantic\", or train.item-token-init = \"mean\""
        );
    };
    if semantic.ncols() != hidden_size {
        invalid!(
            "{SETTING} needs z^s of the backbone's width, {hidden_size}: the imported \
             index.semantic.embeddings have {} columns; set train.item-token-init = \"mean\"",
            semantic.ncols()
        );
    }
    let behavior = load_matrix(run, "behavior")?;
    let rows = item_token_directions(index, &semantic, behavior.as_ref())?;
    let shape = rows.dim();
    let values = rows.into_raw_vec_and_offset().0;
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_device(&run.device)?)
}

fn backbone_path(run: &Run) -> String {
    let scratch = || run.dir.join("backbone").display().to_string();
    run.config.backbone.path.clone().unwrap_or_else(scratch)
}

/// The item index of a run.
pub(super) fn load_index(run: &Run) -> Result<ItemIndex> {
    let sources = if let Some(import) = run.imported() {
        import.sources.clone()
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

/// A tokenizer that knows the item tokens, and where they stand in the vocabulary.
#[derive(Debug)]
pub(super) struct Tokens {
    pub(super) tokenizer: Tokenizer,
    pub(super) vocabulary: ItemVocabulary,
    /// Vocabulary ids of every item's tokens.
    pub(super) items: Vec<Vec<u32>>,
    pub(super) con: u32,
    /// Item tokens and `<con>`.
    pub(super) added: usize,
}

impl Tokens {
    /// Adds the item tokens and `<con>` to a backbone's tokenizer.
    pub(super) fn extend(mut tokenizer: Tokenizer, index: &ItemIndex) -> Result<Self> {
        let mut names = index.vocabulary();
        names.push(CON.into());
        let ids = tokenizer.add_item_tokens(&names)?;
        Ok(Self::new(tokenizer, index, &ids))
    }

    /// Refuses a backbone's tokenizer that has item tokens of an index of `plans` already: to be asked
    /// before hours are spent on making one.
    pub(super) fn refuse_known(tokenizer: &Tokenizer, plans: &[TreePlan]) -> Result<()> {
        let levels = plans.iter().flat_map(|plan| vec![plan.branching as u32; plan.levels]);
        let names = levels.enumerate().flat_map(|(level, codes)| {
            (0..codes).map(move |code| crate::index::token(level, code))
        });
        tokenizer.refuse_known(&names.chain([CON.to_string()]).collect::<Vec<_>>())
    }

    /// Finds them in the tokenizer of a trained checkpoint.
    pub(super) fn find(tokenizer: Tokenizer, index: &ItemIndex) -> Result<Self> {
        let mut names = index.vocabulary();
        names.push(CON.into());
        let find = |name: &String| match tokenizer.token_to_id(name) {
            Some(id) => Ok(id),
            None => invalid!(
                "the checkpoint's tokenizer lacks the item token {name}: it belongs to another \
                 index; redo the stage with `llmbs train --stage initial --force`"
            ),
        };
        let ids: Vec<u32> = names.iter().map(find).collect::<Result<_>>()?;
        if !stand_together(&ids) {
            invalid!(
                "the checkpoint's tokenizer has item tokens beside those of the index: it belongs \
                 to another index; redo the stage with `llmbs train --stage initial --force`"
            );
        }
        Ok(Self::new(tokenizer, index, &ids))
    }

    fn new(tokenizer: Tokenizer, index: &ItemIndex, ids: &[u32]) -> Self {
        let first = ids[0];
        let items = (0..index.num_items() as u32)
            .map(|item| index.token_ids(item).iter().map(|at| first + at).collect())
            .collect();
        Self {
            tokenizer,
            vocabulary: ItemVocabulary { first, levels: index.level_ranges() },
            items,
            con: ids[ids.len() - 1],
            added: ids.len(),
        }
    }

    /// The item tokens with their ids; `<con>`, which means nothing in a prompt, is none.
    pub(super) fn item_tokens(&self, index: &ItemIndex) -> HashMap<String, u32> {
        index.vocabulary().into_iter().zip(self.vocabulary.first..).collect()
    }

    /// Takes in items that have been added to `index` and have no tokens of their own.
    pub(super) fn grow(&mut self, index: &ItemIndex) {
        let first = self.vocabulary.first;
        let new = self.items.len() as u32..index.num_items() as u32;
        let ids = |item| index.token_ids(item).iter().map(|at| first + at).collect();
        self.items.extend(new.map(ids));
    }

    /// Every item's concatenated tokens must encode to exactly its ids.
    pub(super) fn check(&self, index: &ItemIndex) -> Result<()> {
        let items =
            self.items.iter().enumerate().map(|(i, ids)| (index.tokens(i as u32), ids.clone()));
        self.tokenizer.check_item_tokens(items)
    }

    /// The ids of each level's tokens, where the run tells codes from those of their level alone.
    pub(super) fn normalized_over(&self, run: &Run) -> Option<Vec<Range<u32>>> {
        let ItemVocabulary { first, levels } = &self.vocabulary;
        let ids = |level: &Range<usize>| first + level.start as u32..first + level.end as u32;
        run.config.train.level_softmax.then(|| levels.iter().map(ids).collect())
    }

    pub(super) fn prompts(&self, run: &Run) -> Result<Prompts> {
        self.prompts_of(run, &run.dataset)
    }

    /// The prompts where `dataset` has the items, rather than the run.
    pub(super) fn prompts_of(&self, run: &Run, dataset: &Dataset) -> Result<Prompts> {
        let tasks = &run.config.train.tasks;
        Prompts::new(
            &self.tokenizer,
            dataset,
            self.items.clone(),
            self.con,
            tasks.max_text_tokens,
            tasks.max_titles,
        )
    }
}

/// Whether each id is the one after the id before.
fn stand_together(ids: &[u32]) -> bool {
    ids.windows(2).all(|pair| pair[1] == pair[0] + 1)
}

/// What stage `initial` left behind.
pub(super) struct Trained {
    pub(super) config: LlamaConfig,
    pub(super) weights: Weights,
    pub(super) tokens: Tokens,
    pub(super) index: ItemIndex,
}

impl Trained {
    pub(super) fn load(run: &Run) -> Result<Self> {
        let index = load_index(run)?;
        let dir = run.dir.join("initial");
        let (config, weights) = load_folder(&dir, dtype(run.config.backbone.dtype), &run.device)?;
        let tokens = Tokens::find(Tokenizer::load_folder(&dir)?, &index)?;
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
        let adapters: BTreeMap<_, _> = adapters.clone();
        Ok(Llama::with_lora(&self.config, &self.weights, &adapters)?.with_precision(precision(run)))
    }
}

/// The parts of the index that the configuration asks for, semantic before behavior.
pub(super) fn plan_of(config: &RunConfig, num_items: usize) -> Result<Vec<TreePlan>> {
    config.index.settings().plan(num_items)
}

/// An embedding matrix of the run, (items, dim), where the index was made with one.
pub(super) fn load_matrix(run: &Run, name: &str) -> Result<Option<Array2<f32>>> {
    let file = format!("{name}.safetensors");
    // What the stage wrote has been checked to be there: a file that was lost is an error.
    if run.manifest.output(Stage::Index, &file).is_none() {
        return Ok(None);
    }
    let path = run.dir.join("index").join(file);
    load_embeddings(&path, run.dataset.num_items()).map(Some)
}
