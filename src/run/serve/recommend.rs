//! Recommending from a model that is loaded once and asked any number of times.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::added::Catalogue;
use super::explain::{Explainer, Explanation};
use super::meaning::NamedItem;
use crate::data::{Dataset, ItemId};
use crate::decode::{BeamSearch, Ranked};
use crate::index::Trie;
use crate::inference::BatchScorer;
use crate::inference::ItemTokens;
use crate::model::Llama;
use crate::run::artifacts::Trained;
use crate::run::{Run, Stage};
use crate::tasks::Prompts;
use crate::{Result, invalid};

/// What holds for every request to a [`Service`].
#[derive(Debug, Clone, PartialEq)]
pub struct RecommendOptions {
    /// How many items an answer has, or all there are to recommend.
    pub top: usize,
    /// Beam width, in effect at least as wide as the answer is long; `None`: that of the configuration, or the
    /// number of items where there are fewer.
    pub beam: Option<usize>,
    /// Whether the annealing adapter is on; `None`: for histories where there is one, for texts never,
    /// since it was trained on histories alone.
    pub adapter: Option<bool>,
    /// Never recommend an item of the history.
    pub exclude_history: bool,
    /// Recommend these items alone.
    pub only: Option<Vec<ItemId>>,
    /// Say of each item what its tokens stand for.
    pub explain: bool,
}

/// What a recommendation is asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    /// What follows these items, oldest first.
    History(Vec<ItemId>),
    /// What fits this description.
    Text(String),
}

/// One recommended item.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recommendation {
    /// The item.
    #[serde(flatten)]
    pub named: NamedItem,
    /// Sum of the log-probabilities of its tokens.
    pub score: f32,
    /// `exp(score)`: the probability of its tokens.
    pub probability: f32,
    /// Of an item added to the index: the item of the index that it is most like, whose score it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scored_as: Option<NamedItem>,
    /// What its tokens stand for, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
}

/// A loaded model with all it needs to recommend.
pub struct Service<'a> {
    run: &'a Run,
    dataset: &'a Dataset,
    options: RecommendOptions,
    tokens: ItemTokens,
    prompts: Prompts,
    for_histories: Llama,
    /// `None` where the model has not learnt to find items by text.
    for_texts: Option<Llama>,
    /// The items that stand in for those that are offered.
    trie: Trie,
    /// The items offered under each item of the trie: itself first, then those added by id.
    offered_as: BTreeMap<ItemId, Vec<ItemId>>,
    num_offered: usize,
    is_offered: Vec<bool>,
    explainer: Option<Explainer<'a>>,
}

/// A query as the model takes it.
struct Prompt<'q> {
    /// The query's place among the others.
    at: usize,
    is_text: bool,
    /// The instruction and what follows it.
    tokens: Vec<u32>,
    width: usize,
    /// The part of the history that the model sees.
    seen: &'q [ItemId],
    excluded: HashSet<ItemId>,
}

impl Run {
    /// Loads the trained model to recommend the items of `catalogue` with it.
    ///
    /// # Errors
    /// Names the stage that has to run first, files that do not fit each other, or the option that
    /// asks for more items than there are.
    pub fn service<'a>(
        &'a self,
        catalogue: &'a Catalogue<'a>,
        options: RecommendOptions,
    ) -> Result<Service<'a>> {
        self.require_before(Stage::Anneal)?;
        let adapter = options.adapter.unwrap_or_else(|| self.has_adapter());
        if adapter {
            self.require(Stage::Anneal)?;
        }
        let dataset = catalogue.dataset();
        let mut is_offered = vec![false; dataset.num_items()];
        for item in dataset.catalogue().filter(|_| options.only.is_none()) {
            is_offered[item as usize] = true;
        }
        for &item in options.only.iter().flatten() {
            match dataset.items.get(item as usize) {
                Some(found) if !found.is_gap => is_offered[item as usize] = true,
                _ => return Err(no_item(dataset, item)),
            }
        }
        let num_offered = is_offered.iter().filter(|offered| **offered).count();
        check_sizes(&options, num_offered)?;

        let trained = catalogue.complete(Trained::load(self)?)?;
        let prompts = trained.tokens.prompts(catalogue.dataset(), &self.config.train.tasks)?;
        let learnt_texts = prompts.has_texts() && self.config.train.tasks.semantic > 0.0;
        let for_texts = learnt_texts
            .then(|| trained.model(self, options.adapter.unwrap_or(false)))
            .transpose()?;
        let mut offered_as: BTreeMap<ItemId, Vec<ItemId>> = BTreeMap::new();
        for item in (0..).zip(&is_offered).filter_map(|(item, offered)| offered.then_some(item)) {
            offered_as.entry(catalogue.stand_in(item)).or_default().push(item);
        }
        Ok(Service {
            run: self,
            dataset: catalogue.dataset(),
            prompts,
            for_histories: trained.model(self, adapter)?,
            for_texts,
            trie: Trie::subset(&trained.index, offered_as.keys().copied())?,
            offered_as,
            num_offered,
            is_offered,
            tokens: trained.tokens,
            explainer: options.explain.then(|| Explainer::new(catalogue.dataset(), trained.index)),
            options,
        })
    }
}

fn check_sizes(options: &RecommendOptions, num_offered: usize) -> Result<()> {
    if num_offered == 0 {
        invalid!("there is no item to recommend: --only names none");
    }
    match (options.top, options.beam) {
        (0, _) => invalid!("--top must be at least 1"),
        (_, Some(0)) => invalid!("--beam must be at least 1"),
        (_, Some(beam)) if beam > num_offered => {
            invalid!("--beam is {beam}, but there are only {num_offered} items to recommend")
        }
        _ => Ok(()),
    }
}

fn no_item(dataset: &Dataset, item: ItemId) -> crate::Error {
    let (name, last) = (&dataset.name, dataset.num_items() - 1);
    crate::Error::Invalid(format!("item {item} is not in {name}: its items are 0 to {last}"))
}

impl Service<'_> {
    /// Answers `queries` in their order, each with [`RecommendOptions::top`] items, best first, or with as many
    /// as there are; what is wrong with a query is its own answer.
    ///
    /// # Errors
    /// If the model itself fails.
    pub fn answer(&self, queries: &[Query]) -> Result<Vec<Result<Vec<Recommendation>>>> {
        let mut answers = Vec::with_capacity(queries.len());
        let mut prompts = Vec::new();
        for (at, query) in queries.iter().enumerate() {
            let prompt = self.prompt(at, query).map(|prompt| prompts.push(prompt));
            answers.push(prompt.map(|()| Vec::new()));
        }
        // Searches of one width run together, and prompts of like length, so that none waits for a long one.
        prompts.sort_by_key(|p| (p.is_text, p.width, p.tokens.len()));
        for of_a_kind in prompts.chunk_by(|a, b| a.is_text == b.is_text) {
            let instruction = self.shared_by(of_a_kind);
            let shared = instruction.len();
            let mut scorer = self.scorer(of_a_kind[0].is_text, instruction);
            for alike in of_a_kind.chunk_by(|a, b| a.width == b.width) {
                let width = alike[0].width;
                let search = BeamSearch { width, normalize: self.run.config.eval.normalize };
                for batch in alike.chunks(self.run.eval_batch(width)) {
                    let rest = |p: &Prompt<'_>| p.tokens[shared..].to_vec();
                    let tokens: Vec<Vec<u32>> = batch.iter().map(rest).collect();
                    let found = scorer.search(&tokens, |scorer, users| {
                        search.run(&self.trie, users.len(), scorer)
                    })?;
                    for (prompt, ranked) in batch.iter().zip(found) {
                        answers[prompt.at] = Ok(self.list(prompt, &ranked));
                    }
                }
            }
        }
        Ok(answers)
    }

    fn prompt<'q>(&self, at: usize, query: &'q Query) -> Result<Prompt<'q>> {
        let (tokens, seen) = match query {
            Query::History(history) => {
                let longest = self.run.config.data.history;
                let seen = &history[history.len().saturating_sub(longest)..];
                self.check_history(history)?;
                ([self.prompts.instruction(), self.prompts.history(seen)].concat(), seen)
            }
            Query::Text(text) => {
                self.check_text(text)?;
                (self.prompts.text(text)?, &[][..])
            }
        };
        let excluded: HashSet<ItemId> = match query {
            Query::History(history) if self.options.exclude_history => {
                history.iter().copied().filter(|&item| self.is_offered[item as usize]).collect()
            }
            _ => HashSet::new(),
        };
        let left = self.num_offered - excluded.len();
        if left == 0 {
            invalid!("the history holds all {} items there are to recommend", excluded.len());
        }
        let top = self.options.top.min(left);
        // A beam narrower than the list could not fill it, nor could one that excluded items may take up.
        let beam = self.options.beam.unwrap_or(self.run.config.eval.beam).max(top);
        let width = (beam + excluded.len()).min(self.offered_as.len());
        Ok(Prompt { at, is_text: matches!(query, Query::Text(_)), tokens, width, seen, excluded })
    }

    fn check_history(&self, history: &[ItemId]) -> Result<()> {
        if history.is_empty() {
            invalid!("the history is empty: give at least one item, or a text instead");
        }
        let items = self.is_offered.len();
        match history.iter().find(|&&item| item as usize >= items) {
            Some(&item) => Err(no_item(self.dataset, item)),
            None => Ok(()),
        }
    }

    fn check_text(&self, text: &str) -> Result<()> {
        if text.trim().is_empty() {
            invalid!("the text is empty: describe what is wanted");
        }
        if !self.prompts.has_texts() {
            invalid!(
                "{} has no item texts, so the model cannot find items by text: give a history",
                self.dataset.name
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

    /// What all of `prompts`, of one kind, begin with: the instruction, or as much of it as they share
    /// where a tokenizer writes its end otherwise because of the text that follows.
    fn shared_by(&self, prompts: &[Prompt<'_>]) -> Vec<u32> {
        let mut shared = match prompts {
            [Prompt { is_text: true, .. }, ..] => self.prompts.text_instruction(),
            _ => self.prompts.instruction(),
        };
        for prompt in prompts {
            let same = shared.iter().zip(&prompt.tokens).take_while(|(a, b)| a == b).count();
            shared.truncate(same);
        }
        shared
    }

    fn scorer(&self, is_text: bool, instruction: Vec<u32>) -> BatchScorer<'_> {
        let model = self.for_texts.as_ref().filter(|_| is_text).unwrap_or(&self.for_histories);
        let normalize = self.run.config.eval.normalize;
        BatchScorer::new(model, &self.tokens.vocabulary, normalize, instruction)
    }

    fn list(&self, prompt: &Prompt, ranked: &[Ranked]) -> Vec<Recommendation> {
        let offered =
            ranked.iter().flat_map(|r| self.offered_as[&r.item].iter().map(move |&i| (i, r)));
        let allowed = offered.filter(|(item, _)| !prompt.excluded.contains(item));
        let describe = |(item, r): (ItemId, &Ranked)| Recommendation {
            named: NamedItem::new(self.dataset, item),
            score: r.score,
            probability: r.score.exp(),
            scored_as: (item != r.item).then(|| NamedItem::new(self.dataset, r.item)),
            explanation: self.explainer.as_ref().map(|e| e.explain(item, prompt.seen)),
        };
        allowed.take(self.options.top).map(describe).collect()
    }
}
