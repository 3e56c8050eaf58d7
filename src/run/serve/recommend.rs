//! Recommending from a model that is loaded once and asked any number of times.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;

use super::added::Catalogue;
use super::explain::{Explainer, Explanation};
use super::meaning::NamedItem;
use super::offer::{self, Offer, Offers};
use crate::data::{Dataset, ItemId};
use crate::decode::{BeamSearch, Ranked};
use crate::inference::BatchScorer;
use crate::inference::ItemTokens;
use crate::model::Llama;
use crate::run::artifacts::Trained;
use crate::run::{Run, Stage};
use crate::tasks::Prompts;
use crate::{Result, invalid};

/// What holds for every query to a [`Service`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ServiceOptions {
    /// Beam width, in effect at least as wide as an answer is long; `None`: that of the configuration, or the
    /// number of items where there are fewer.
    pub beam: Option<usize>,
    /// Whether the annealing adapter is on; `None`: for histories where there is one, for texts never,
    /// since it was trained on histories alone.
    pub adapter: Option<bool>,
}

/// How one query is answered.
#[derive(Debug, Clone, PartialEq)]
pub struct RecommendOptions {
    /// How many items an answer has, or all there are to recommend.
    pub top: usize,
    /// Recommend these items alone.
    pub only: Option<Arc<[ItemId]>>,
    /// Never recommend these items.
    pub exclude: Vec<ItemId>,
    /// Never recommend an item of the history.
    pub exclude_history: bool,
    /// Say of each item what its tokens stand for.
    pub explain: bool,
}

/// What a recommendation is to follow.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// What follows these items, oldest first.
    History(Vec<ItemId>),
    /// What fits this description.
    Text(String),
    /// What is taken most, because there is nothing to go by.
    Popular,
}

/// A question to a [`Service`].
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// What is asked for.
    pub wanted: Wanted,
    /// How it is answered.
    pub options: RecommendOptions,
}

/// One recommended item.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recommendation {
    /// The item.
    #[serde(flatten)]
    pub named: NamedItem,
    /// Sum of the log-probabilities of its tokens; `None` where items are ranked by popularity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// `exp(score)`: the probability of its tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f32>,
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
    catalogue: &'a Catalogue<'a>,
    dataset: &'a Dataset,
    options: ServiceOptions,
    tokens: ItemTokens,
    prompts: Prompts,
    for_histories: Llama,
    /// `None` where the model has not learnt to find items by text.
    for_texts: Option<Llama>,
    offers: Offers,
    /// All items, those taken most in training first, ties by id.
    by_popularity: Vec<ItemId>,
    explainer: Explainer<'a>,
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
    pick: Pick<'q>,
}

/// Which of the items that a search finds are the answer.
struct Pick<'q> {
    options: &'q RecommendOptions,
    offer: Arc<Offer>,
    /// The offer's place among those of the queries: items of one offer are searched together.
    filter: usize,
    excluded: HashSet<ItemId>,
}

impl Run {
    /// Loads the trained model to recommend the items of `catalogue` with it.
    ///
    /// # Errors
    /// Names the stage that has to run first, files that do not fit each other, or a beam wider than there are
    /// items.
    pub fn service<'a>(
        &'a self,
        catalogue: &'a Catalogue<'a>,
        options: ServiceOptions,
    ) -> Result<Service<'a>> {
        self.require_before(Stage::Anneal)?;
        let adapter = options.adapter.unwrap_or_else(|| self.has_adapter());
        if adapter {
            self.require(Stage::Anneal)?;
        }
        let dataset = catalogue.dataset();
        check_beam(options.beam, dataset.catalogue().count())?;
        let trained = catalogue.complete(Trained::load(self)?)?;
        let prompts = trained.tokens.prompts(dataset, &self.config.train.tasks)?;
        let learnt_texts = prompts.has_texts() && self.config.train.tasks.semantic > 0.0;
        let for_texts = learnt_texts
            .then(|| trained.model(self, options.adapter.unwrap_or(false)))
            .transpose()?;
        let popularity = dataset.popularity();
        let mut by_popularity: Vec<ItemId> = dataset.catalogue().collect();
        by_popularity.sort_by_key(|&item| (Reverse(popularity[item as usize]), item));
        Ok(Service {
            run: self,
            catalogue,
            dataset,
            options,
            prompts,
            for_histories: trained.model(self, adapter)?,
            for_texts,
            offers: Offers::new(Offer::all(catalogue, &trained.index)?),
            by_popularity,
            tokens: trained.tokens,
            explainer: Explainer::new(dataset, trained.index),
        })
    }

    /// The digest of the model's weights, by which it is told from another.
    pub fn model_digest(&self) -> Option<&str> {
        self.manifest.output(Stage::Initial, "model.safetensors")
    }
}

/// Refuses a beam that cannot be as wide as it is asked to be among `num_items`.
pub fn check_beam(beam: Option<usize>, num_items: usize) -> Result<()> {
    match beam {
        Some(0) => invalid!("--beam must be at least 1"),
        Some(beam) if beam > num_items => {
            invalid!("--beam is {beam}, but there are only {num_items} items to recommend")
        }
        _ => Ok(()),
    }
}

impl Service<'_> {
    /// The items and users that it knows.
    pub fn dataset(&self) -> &Dataset {
        self.dataset
    }

    /// All items, those taken most in training first, ties by id.
    pub fn by_popularity(&self) -> &[ItemId] {
        &self.by_popularity
    }

    /// An item by all its names.
    pub fn named(&self, item: ItemId) -> NamedItem {
        NamedItem::new(self.dataset, item)
    }

    /// Answers `queries` in their order, each with [`RecommendOptions::top`] items, best first, or with as many
    /// as there are; what is wrong with a query is its own answer.
    ///
    /// # Errors
    /// If the model itself fails.
    pub fn answer(&self, queries: &[Query]) -> Result<Vec<Result<Vec<Recommendation>>>> {
        let mut answers = Vec::with_capacity(queries.len());
        let (mut prompts, mut offers) = (Vec::new(), Vec::new());
        for (at, query) in queries.iter().enumerate() {
            let answer = self.pick(&query.options, &query.wanted, &mut offers).and_then(|pick| {
                if query.wanted == Wanted::Popular {
                    return Ok(self.popular(&pick));
                }
                prompts.push(self.prompt(at, &query.wanted, pick)?);
                Ok(Vec::new())
            });
            answers.push(answer);
        }
        // Searches of one width run together, and prompts of like length, so that none waits for a long one.
        prompts.sort_by_key(|p| (p.is_text, p.width, p.pick.filter, p.tokens.len()));
        for of_a_kind in prompts.chunk_by(|a, b| a.is_text == b.is_text) {
            let instruction = self.shared_by(of_a_kind);
            let shared = instruction.len();
            let mut scorer = self.scorer(of_a_kind[0].is_text, instruction);
            let alike =
                |a: &Prompt, b: &Prompt| (a.width, a.pick.filter) == (b.width, b.pick.filter);
            for alike in of_a_kind.chunk_by(alike) {
                let Prompt { width, ref pick, .. } = alike[0];
                let search = BeamSearch { width, normalize: self.run.config.eval.normalize };
                for batch in alike.chunks(self.run.eval_batch(width)) {
                    let rest = |p: &Prompt<'_>| p.tokens[shared..].to_vec();
                    let tokens: Vec<Vec<u32>> = batch.iter().map(rest).collect();
                    let found = scorer.search(&tokens, |scorer, users| {
                        search.run(&pick.offer.trie, users.len(), scorer)
                    })?;
                    for (prompt, ranked) in batch.iter().zip(found) {
                        answers[prompt.at] = Ok(self.list(prompt, &ranked));
                    }
                }
            }
        }
        Ok(answers)
    }

    /// Which items may answer a query; `offers` are those of the queries before.
    fn pick<'q>(
        &self,
        options: &'q RecommendOptions,
        wanted: &Wanted,
        offers: &mut Vec<Arc<Offer>>,
    ) -> Result<Pick<'q>> {
        if options.top == 0 {
            invalid!("top must be at least 1");
        }
        let offer =
            self.offers.get(options.only.as_ref(), self.catalogue, self.explainer.index())?;
        let history = match wanted {
            Wanted::History(history) if options.exclude_history => &history[..],
            _ => &[],
        };
        let excluded = options.exclude.iter().chain(history).copied();
        let excluded: HashSet<ItemId> = excluded.filter(|&item| offer.has(item)).collect();
        if excluded.len() == offer.num_items {
            invalid!("all {} items there are to recommend are left out", excluded.len());
        }
        let known = offers.iter().position(|other| Arc::ptr_eq(other, &offer));
        let filter = known.unwrap_or_else(|| {
            offers.push(offer.clone());
            offers.len() - 1
        });
        Ok(Pick { options, offer, filter, excluded })
    }

    fn prompt<'q>(&self, at: usize, wanted: &'q Wanted, pick: Pick<'q>) -> Result<Prompt<'q>> {
        let (tokens, seen) = match wanted {
            Wanted::Text(text) => {
                self.check_text(text)?;
                (self.prompts.text(text)?, &[][..])
            }
            Wanted::History(history) => {
                self.check_history(history)?;
                let longest = self.run.config.data.history;
                let seen = &history[history.len().saturating_sub(longest)..];
                ([self.prompts.instruction(), self.prompts.history(seen)].concat(), seen)
            }
            Wanted::Popular => (Vec::new(), &[][..]),
        };
        let Pick { options, offer, excluded, .. } = &pick;
        let top = options.top.min(offer.num_items - excluded.len());
        // A beam narrower than the list could not fill it, nor could one that excluded items may take up.
        let beam = self.options.beam.unwrap_or(self.run.config.eval.beam).max(top);
        let width = (beam + excluded.len()).min(offer.offered_as.len());
        Ok(Prompt { at, is_text: matches!(wanted, Wanted::Text(_)), tokens, width, seen, pick })
    }

    fn check_history(&self, history: &[ItemId]) -> Result<()> {
        if history.is_empty() {
            invalid!("the history is empty: give at least one item, or a text instead");
        }
        history.iter().try_for_each(|&item| offer::check(self.dataset, item))
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
        let Pick { options, offer, excluded, .. } = &prompt.pick;
        let offered =
            ranked.iter().flat_map(|r| offer.offered_as[&r.item].iter().map(move |&i| (i, r)));
        let allowed = offered.filter(|(item, _)| !excluded.contains(item));
        let describe = |(item, r): (ItemId, &Ranked)| Recommendation {
            score: Some(r.score),
            probability: Some(r.score.exp()),
            scored_as: (item != r.item).then(|| NamedItem::new(self.dataset, r.item)),
            ..self.unscored(item, prompt.seen, options)
        };
        allowed.take(options.top).map(describe).collect()
    }

    fn popular(&self, pick: &Pick) -> Vec<Recommendation> {
        let Pick { options, offer, excluded, .. } = pick;
        let items = self.by_popularity.iter().copied();
        let allowed = items.filter(|&item| offer.has(item) && !excluded.contains(&item));
        allowed.take(options.top).map(|item| self.unscored(item, &[], options)).collect()
    }

    fn unscored(
        &self,
        item: ItemId,
        seen: &[ItemId],
        options: &RecommendOptions,
    ) -> Recommendation {
        Recommendation {
            named: NamedItem::new(self.dataset, item),
            score: None,
            probability: None,
            scored_as: None,
            explanation: options.explain.then(|| self.explainer.explain(item, seen)),
        }
    }
}
