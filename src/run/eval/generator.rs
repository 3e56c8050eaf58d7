//! A trained model with all that it recommends with.

use crate::Result;
use crate::decode::BeamSearch;
use crate::eval::Recommender;
use crate::index::Trie;
use crate::inference::ItemTokens;
use crate::model::Llama;
use crate::run::Run;
use crate::run::artifacts::Trained;
use crate::tasks::Prompts;

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
        Ok(Self {
            model: trained.model(run, adapter)?,
            prompts: trained.tokens.prompts(&run.dataset, &run.config.train.tasks)?,
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
        }
    }
}
