//! A trained model with all that it recommends with.

use crate::Result;
use crate::decode::BeamSearch;
use crate::eval::Recommender;
use crate::index::Trie;
use crate::inference::ItemTokens;
use crate::model::Llama;
use crate::run::Run;
use crate::run::artifacts::{Trained, load_index};
use crate::tasks::{Prompts, TasksConfig};

/// The model of a run, its item tokens, its prompts and its catalogue.
pub(super) struct Generator {
    model: Llama,
    tokens: ItemTokens,
    prompts: Prompts,
    trie: Trie,
}

impl Generator {
    /// Loads the model of `run`, with or without its annealing adapter.
    pub(super) fn load(run: &Run, adapter: bool) -> Result<Self> {
        let trained = Trained::load(run)?;
        let model = trained.model(run, adapter)?;
        run.require_same_model(adapter)?;
        Self::of(run, trained, model, &run.config.train.tasks)
    }

    /// The model that was trained last in `before`, which `run` goes on from, with the items of `run`: those that came
    /// since stand where they were placed. It is asked in the words that it knows.
    pub(super) fn before(run: &Run, before: &Run) -> Result<Self> {
        let index = load_index(run)?;
        let (config, weights, tokens) = run.carried(before, &index)?;
        let trained = Trained { config, weights, tokens, index };
        let model = trained.model(run, false)?;
        Self::of(run, trained, model, &before.config.train.tasks)
    }

    fn of(run: &Run, trained: Trained, model: Llama, tasks: &TasksConfig) -> Result<Self> {
        Ok(Self {
            model,
            prompts: trained.tokens.prompts(&run.dataset, tasks)?,
            trie: Trie::subset(&trained.index, run.dataset.catalogue())?,
            tokens: trained.tokens,
        })
    }

    /// The model as `[eval]` of `run` asks for it, with this beam.
    pub(super) fn recommender(&self, run: &Run, beam: usize) -> Recommender<'_> {
        Recommender {
            model: &self.model,
            prompts: &self.prompts,
            vocabulary: &self.tokens.vocabulary,
            trie: &self.trie,
            search: BeamSearch { width: beam, normalize: run.config.eval.normalize },
            batch: run.eval_batch(beam),
            ranks: run.ranks,
        }
    }
}
