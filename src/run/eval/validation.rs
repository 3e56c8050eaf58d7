//! The figure that training tells epochs apart by.

use super::evaluate::sample_of;
use crate::data::Split;
use crate::decode::BeamSearch;
use crate::eval::Recommender;
use crate::index::{ItemIndex, Trie};
use crate::inference::ItemTokens;
use crate::model::Llama;
use crate::run::Run;
use crate::tasks::Prompts;
use crate::{Result, invalid};

/// Users searched for together.
const BATCH: usize = 64;

/// The validation metric that training picks its best epoch by, as `[train.validation]` asks for it.
pub(in crate::run) struct ValidationMetric<'a> {
    run: &'a Run,
    tokens: &'a ItemTokens,
    prompts: &'a Prompts,
    trie: Trie,
    targets: Vec<usize>,
}

impl<'a> ValidationMetric<'a> {
    pub(in crate::run) fn new(
        run: &'a Run,
        index: &ItemIndex,
        tokens: &'a ItemTokens,
        prompts: &'a Prompts,
    ) -> Result<Self> {
        let all: Vec<usize> = (0..run.dataset.targets(Split::Valid).len()).collect();
        let targets = match run.config.train.validation.users {
            0 => all,
            most => sample_of(&all, most, run.config.seed, "validation users"),
        };
        let trie = Trie::subset(index, run.dataset.catalogue())?;
        Ok(Self { run, tokens, prompts, trie, targets })
    }

    fn recommender<'m>(&'m self, model: &'m Llama) -> Recommender<'m> {
        let config = &self.run.config.train.validation;
        Recommender {
            model,
            prompts: self.prompts,
            vocabulary: &self.tokens.vocabulary,
            trie: &self.trie,
            search: BeamSearch { width: config.beam, normalize: config.normalize },
            batch: BATCH,
            ranks: self.run.ranks,
        }
    }

    /// Bytes that measuring takes, beside the weights.
    pub(in crate::run) fn bytes(&self, model: &Llama) -> u64 {
        let protocol = self.run.protocol(Split::Valid).by_first_rule();
        self.recommender(model).bytes(&self.run.dataset, &self.targets, protocol)
    }

    /// The metric on the validation split.
    pub(in crate::run) fn of(&self, model: &Llama) -> Result<f64> {
        let config = &self.run.config.train.validation;
        let protocol = self.run.protocol(Split::Valid);
        let recommender = self.recommender(model);
        let metrics = recommender.metrics(&self.run.dataset, &self.targets, protocol)?;
        match metrics.get(&config.metric) {
            Some(value) => Ok(*value),
            None => invalid!("train.validation.metric = {:?}: there is none", config.metric),
        }
    }
}
