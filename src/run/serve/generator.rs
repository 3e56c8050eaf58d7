//! Recommending by what the language model writes.

use super::added::Catalogue;
use super::explain::Explainer;
use super::query::{Asked, ServiceOptions, Wanted, check_beam};
use crate::data::ItemId;
use crate::decode::{BeamSearch, Ranked};
use crate::inference::{BatchScorer, ItemTokens};
use crate::model::Llama;
use crate::run::artifacts::Trained;
use crate::run::{Run, Stage};
use crate::tasks::Prompts;
use crate::{Result, invalid};

/// The trained model.
pub(super) struct Generator<'a> {
    run: &'a Run,
    /// The beam's width, where it is told.
    beam: Option<usize>,
    dataset_name: &'a str,
    tokens: ItemTokens,
    prompts: Prompts,
    for_histories: Llama,
    /// `None` where the model has not learnt to find items by text.
    for_texts: Option<Llama>,
    pub(super) explainer: Explainer<'a>,
}

impl<'a> Generator<'a> {
    pub(super) fn load(
        run: &'a Run,
        catalogue: &'a Catalogue<'a>,
        options: &ServiceOptions,
    ) -> Result<Self> {
        run.require_before(Stage::Anneal)?;
        let adapter = options.adapter.unwrap_or_else(|| run.has_adapter());
        if adapter {
            run.require(Stage::Anneal)?;
        }
        let dataset = catalogue.dataset();
        check_beam(options.beam, dataset.catalogue().count())?;
        let trained = catalogue.complete(Trained::load(run)?)?;
        let prompts = trained.tokens.prompts(dataset, &run.config.train.tasks)?;
        let learnt_texts = prompts.has_texts() && run.config.train.tasks.semantic > 0.0;
        let for_texts = learnt_texts
            .then(|| trained.model(run, options.adapter.unwrap_or(false)))
            .transpose()?;
        let for_histories = trained.model(run, adapter)?;
        run.require_same_model(adapter)?;
        Ok(Self {
            run,
            beam: options.beam,
            dataset_name: &dataset.name,
            prompts,
            for_histories,
            for_texts,
            tokens: trained.tokens,
            explainer: Explainer::new(dataset, trained.index),
        })
    }

    /// What the model reads: the instruction, and `seen` or the text.
    pub(super) fn read(&self, wanted: &Wanted, seen: &[ItemId]) -> Result<Vec<u32>> {
        match wanted {
            Wanted::Text(text) => {
                self.check_texts()?;
                self.prompts.text(text)
            }
            Wanted::History(_) => {
                Ok([self.prompts.instruction(), self.prompts.history(seen)].concat())
            }
            Wanted::Popular => Ok(Vec::new()),
        }
    }

    fn check_texts(&self) -> Result<()> {
        if !self.prompts.has_texts() {
            invalid!(
                "{} has no item texts, so the model cannot find items by text: give a history",
                self.dataset_name
            );
        }
        if self.for_texts.is_none() {
            invalid!(
                "the model was not trained to find items by text: set train.tasks.semantic above 0 \
                 and redo it with `llmbs train --stage initial --force`"
            );
        }
        Ok(())
    }

    /// Hands on what a search finds for each of `asked`, which it puts into an order of its own.
    pub(super) fn rank(
        &self,
        asked: &mut [Asked<'_>],
        found: &mut dyn FnMut(&Asked<'_>, &[Ranked]),
    ) -> Result<()> {
        // Searches of one width run together, and prompts of like length, so that none waits for a long one.
        asked.sort_by_key(|a| (is_text(a), self.width(a), a.pick.filter, a.tokens.len()));
        for of_a_kind in asked.chunk_by(|a, b| is_text(a) == is_text(b)) {
            let instruction = self.shared_by(of_a_kind);
            let shared = instruction.len();
            let mut scorer = self.scorer(is_text(&of_a_kind[0]), instruction);
            let alike = |a: &Asked<'_>, b: &Asked<'_>| {
                (self.width(a), a.pick.filter) == (self.width(b), b.pick.filter)
            };
            for alike in of_a_kind.chunk_by(alike) {
                let (width, pick) = (self.width(&alike[0]), &alike[0].pick);
                let Some(trie) = &pick.offer.trie else {
                    invalid!("a search without a trie");
                };
                let search = BeamSearch { width, normalize: self.run.config.eval.normalize };
                for batch in alike.chunks(self.run.eval_batch(width)) {
                    let rest = |a: &Asked<'_>| a.tokens[shared..].to_vec();
                    let tokens: Vec<Vec<u32>> = batch.iter().map(rest).collect();
                    let lists = scorer
                        .search(&tokens, |scorer, users| search.run(trie, users.len(), scorer))?;
                    for (asked, ranked) in batch.iter().zip(lists) {
                        found(asked, &ranked);
                    }
                }
            }
        }
        Ok(())
    }

    /// How many of the items that are not excluded a search keeps: a narrower one could not fill the list.
    pub(super) fn beam(&self, asked: &Asked<'_>) -> usize {
        self.beam.unwrap_or(self.run.config.eval.beam).max(asked.top)
    }

    /// How wide it searches for that, since excluded items take up room.
    pub(super) fn width(&self, asked: &Asked<'_>) -> usize {
        (self.beam(asked) + asked.pick.excluded.len()).min(asked.pick.offer.offered_as.len())
    }

    /// What all of `asked`, of one kind, begin with: the instruction, or as much of it as they share
    /// where a tokenizer writes its end otherwise because of the text that follows.
    fn shared_by(&self, asked: &[Asked<'_>]) -> Vec<u32> {
        let mut shared = match asked {
            [first, ..] if is_text(first) => self.prompts.text_instruction(),
            _ => self.prompts.instruction(),
        };
        for asked in asked {
            let same = shared.iter().zip(&asked.tokens).take_while(|(a, b)| a == b).count();
            shared.truncate(same);
        }
        shared
    }

    /// How much less a history's own items are expected, where the model has it.
    pub(super) fn repeat_bias(&self) -> Option<f64> {
        self.for_histories.config().repeat_bias
    }

    fn scorer(&self, is_text: bool, instruction: Vec<u32>) -> BatchScorer<'_> {
        let model = self.for_texts.as_ref().filter(|_| is_text).unwrap_or(&self.for_histories);
        let normalize = self.run.config.eval.normalize;
        BatchScorer::new(model, &self.tokens.vocabulary, normalize, instruction)
    }
}

fn is_text(asked: &Asked<'_>) -> bool {
    matches!(asked.wanted, Wanted::Text(_))
}
