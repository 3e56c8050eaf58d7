//! The figure that training tells epochs apart by.

use super::evaluate::sample_of;
use crate::Result;
use crate::index::{ItemIndex, Trie};
use crate::model::Llama;
use crate::run::Run;
use crate::run::artifacts::Tokens;
use crate::tasks::Prompts;
use crate::train::TrainConfig;

/// The validation metric that training picks its best epoch by.
pub(in crate::run) struct Validation<'a> {
    run: &'a Run,
    tokens: &'a Tokens,
    prompts: &'a Prompts,
    trie: Trie,
    users: Vec<usize>,
}

impl<'a> Validation<'a> {
    pub(in crate::run) fn new(
        run: &'a Run,
        index: &ItemIndex,
        tokens: &'a Tokens,
        prompts: &'a Prompts,
        config: &TrainConfig,
    ) -> Self {
        let all: Vec<usize> = (0..run.dataset.users.len()).collect();
        let users = match config.validation_users {
            0 => all,
            most => sample_of(&all, most, run.config.seed, "validation users"),
        };
        Self { run, tokens, prompts, trie: Trie::new(index), users }
    }

    /// NDCG@10 on the validation split.
    pub(in crate::run) fn ndcg(&self, model: &Llama) -> Result<f64> {
        let config = &self.run.config;
        let recommender =
            self.run.recommender(model, self.tokens, self.prompts, &self.trie, config.eval.beam);
        let metrics = recommender
            .evaluate(&self.run.dataset, &self.users, self.run.validation_protocol(), &mut |_| {})?
            .metrics;
        Ok(metrics.get("ndcg@10").copied().unwrap_or(0.0))
    }
}
