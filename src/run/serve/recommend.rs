//! Recommending from a model that is loaded once and asked any number of times.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::added::Catalogue;
use super::explain::Explanation;
use super::generator::Generator;
use super::meaning::NamedItem;
use super::offer::{self, Offer, Offers};
use super::query::{Asked, Pick, Query, RecommendOptions, ServiceOptions, Wanted};
use super::scorer::Scorer;
use super::together::Baselines;
use crate::data::{Dataset, ItemId};
use crate::decode::Ranked;
use crate::index::ItemIndex;
use crate::run::{Run, Stage};
use crate::{Error, Result, invalid};

/// One recommended item.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recommendation {
    /// The item.
    #[serde(flatten)]
    pub named: NamedItem,
    /// Sum of the log-probabilities of its tokens, or a baseline's score; `None` where items are ranked by
    /// popularity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// `exp(score)`: the probability of its tokens, of a model that has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f32>,
    /// Of an item added to the index: the item of the index that it is most like, whose score it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scored_as: Option<NamedItem>,
    /// What its tokens stand for, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
}

/// A loaded model, or baseline, with all it needs to recommend.
pub struct Service<'a> {
    catalogue: &'a Catalogue<'a>,
    dataset: &'a Dataset,
    engine: Engine<'a>,
    /// The most items of a history that count.
    history: usize,
    offers: Offers,
    /// All items, those taken most in training first, ties by id.
    by_popularity: Vec<ItemId>,
}

/// What ranks the items.
enum Engine<'a> {
    Generator(Box<Generator<'a>>),
    Together(Box<Generator<'a>>, Baselines),
    Baseline(Scorer),
}

impl Run {
    /// Loads the trained model, and what it ranks together with, to recommend the items of `catalogue` with it.
    ///
    /// # Errors
    /// Names the stage that has to run first, files that do not fit each other, or a beam wider than there are
    /// items; of what it ranks together with as [`Run::baseline_service`], or that no evaluation of these is kept.
    pub fn service<'a>(
        &'a self,
        catalogue: &'a Catalogue<'a>,
        options: &ServiceOptions,
    ) -> Result<Service<'a>> {
        let generator = || Ok::<_, Error>(Box::new(Generator::load(self, catalogue, options)?));
        if options.fuse.is_empty() {
            return Service::new(self, catalogue, Engine::Generator(generator()?));
        }
        let adapter = options.adapter.unwrap_or_else(|| self.has_adapter());
        let dirs: Vec<PathBuf> = options.fuse.iter().map(|told| self.baseline_told(told)).collect();
        let weight = self.fusion_weight(adapter, &dirs)?;
        let scorers = dirs.iter().map(|dir| self.baseline_in(dir)).collect::<Result<_>>()?;
        let baselines = Baselines { scorers, weight };
        Service::new(self, catalogue, Engine::Together(generator()?, baselines))
    }

    /// Loads the baseline in `dir` (or of that name, [`Run::baseline_told`]) to recommend the items of `catalogue` with it.
    ///
    /// # Errors
    /// A folder without a baseline, or one that was trained on other data or with other settings.
    pub fn baseline_service<'a>(
        &'a self,
        catalogue: &'a Catalogue<'a>,
        dir: &Path,
    ) -> Result<Service<'a>> {
        let dir = self.baseline_told(dir);
        let scorer = Scorer { name: dir.display().to_string(), scorer: self.baseline_in(&dir)? };
        Service::new(self, catalogue, Engine::Baseline(scorer))
    }

    /// The digest of the model's weights, by which it is told from another.
    pub fn model_digest(&self) -> Option<&str> {
        self.manifest.output(Stage::Initial, "model.safetensors")
    }
}

impl<'a> Service<'a> {
    fn new(run: &Run, catalogue: &'a Catalogue<'a>, engine: Engine<'a>) -> Result<Self> {
        let dataset = catalogue.dataset();
        let by_popularity = dataset.by_popularity();
        let offers = Offers::new(Offer::all(catalogue, engine.index())?);
        let history = run.config.data.history;
        // Other threads may be those that answer, and a GPU takes what each asks for apart.
        run.device.synchronize()?;
        Ok(Self { catalogue, dataset, engine, history, offers, by_popularity })
    }

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
        let (mut asked, mut offers) = (Vec::new(), Vec::new());
        for (at, query) in queries.iter().enumerate() {
            let answer = self.pick(&query.options, &query.wanted, &mut offers).and_then(|pick| {
                if query.wanted == Wanted::Popular {
                    return Ok(self.popular(&pick));
                }
                asked.push(self.asked(at, query, pick)?);
                Ok(Vec::new())
            });
            answers.push(answer);
        }
        let mut found = |asked: &Asked<'_>, ranked: &[Ranked]| {
            answers[asked.at] = Ok(self.list(asked, ranked));
        };
        match &self.engine {
            Engine::Generator(generator) => generator.rank(&mut asked, &mut found)?,
            Engine::Together(generator, baselines) => {
                baselines.rank(generator, &mut asked, &mut found)?;
            }
            Engine::Baseline(scorer) => scorer.rank(&asked, &mut found)?,
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
        let offer = self.offers.get(options.only.as_ref(), self.catalogue, self.engine.index())?;
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

    fn asked<'q>(&self, at: usize, query: &'q Query, pick: Pick<'q>) -> Result<Asked<'q>> {
        let Query { wanted, user, .. } = query;
        let seen = match wanted {
            Wanted::History(history) => {
                self.check_history(history)?;
                &history[history.len().saturating_sub(self.history)..]
            }
            Wanted::Text(text) if text.trim().is_empty() => {
                invalid!("the text is empty: describe what is wanted")
            }
            Wanted::Text(_) | Wanted::Popular => &[],
        };
        let tokens = match (&self.engine, wanted) {
            (Engine::Generator(generator) | Engine::Together(generator, _), _) => {
                generator.read(wanted, seen)?
            }
            (Engine::Baseline(Scorer { name, .. }), Wanted::Text(_)) => {
                invalid!("{name}: a baseline does not find items by text: give a history")
            }
            (Engine::Baseline(Scorer { name, .. }), _) if pick.options.explain => {
                invalid!("{name}: a baseline has no item tokens that could be explained")
            }
            (Engine::Baseline(_), _) => Vec::new(),
        };
        let Pick { options, offer, excluded, .. } = &pick;
        let top = options.top.min(offer.num_items - excluded.len());
        let stand_ins = seen.iter().map(|&item| self.catalogue.stand_in(item)).collect();
        let user = user.and_then(|user| self.catalogue.dataset().as_trained(user));
        Ok(Asked { at, wanted, user, seen, stand_ins, top, pick, tokens })
    }

    fn check_history(&self, history: &[ItemId]) -> Result<()> {
        if history.is_empty() {
            invalid!("the history is empty: give at least one item, or a text instead");
        }
        history.iter().try_for_each(|&item| offer::check(self.dataset, item))
    }

    fn list(&self, asked: &Asked, ranked: &[Ranked]) -> Vec<Recommendation> {
        let Pick { options, excluded, .. } = &asked.pick;
        let offered = self.offered(asked, ranked).into_iter();
        let allowed = offered.filter(|(item, _)| !excluded.contains(item));
        let is_probability = self.engine.generator().is_some();
        let describe = |(item, r): (ItemId, Ranked)| Recommendation {
            score: Some(r.score),
            probability: is_probability.then(|| r.score.exp()),
            scored_as: (item != r.item).then(|| NamedItem::new(self.dataset, r.item)),
            ..self.unscored(item, asked.seen, options)
        };
        allowed.take(options.top).map(describe).collect()
    }

    /// The items that are offered under those of `ranked`, best first.
    ///
    /// What a model with a repeat bias makes less of because the user has it stands in for nothing else: an added item
    /// near it goes with the next nearest one, and one that the user has is made less of in its turn.
    fn offered(&self, asked: &Asked, ranked: &[Ranked]) -> Vec<(ItemId, Ranked)> {
        let offered_as = &asked.pick.offer.offered_as;
        let bias = self.engine.generator().and_then(Generator::repeat_bias);
        let stand_in = |item: ItemId, usual: ItemId| {
            if bias.is_none() || item == usual || !asked.seen.contains(&usual) {
                return usual;
            }
            let mut nearest = self.catalogue.nearest(item).iter().copied();
            let other =
                nearest.find(|near| !asked.seen.contains(near) && offered_as.contains_key(near));
            other.unwrap_or(usual)
        };
        let mut moved: BTreeMap<ItemId, Vec<ItemId>> = BTreeMap::new();
        for usual in asked.seen.iter().collect::<BTreeSet<_>>() {
            for &item in offered_as.get(usual).into_iter().flatten() {
                let other = stand_in(item, *usual);
                if other != *usual {
                    moved.entry(other).or_default().push(item);
                }
            }
        }
        let mut offered = Vec::new();
        for r in ranked {
            let own = offered_as[&r.item].iter().filter(|&&item| stand_in(item, r.item) == r.item);
            let items = own.chain(moved.get(&r.item).into_iter().flatten());
            offered.extend(items.map(|&item| (item, *r)));
        }
        if let Some(bias) = bias {
            for (item, r) in &mut offered {
                if *item != r.item && asked.seen.contains(item) {
                    r.score += bias as f32;
                }
            }
            offered.sort_by(|(_, a), (_, b)| b.score.total_cmp(&a.score));
        }
        offered
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
        let explain = |generator: &Generator<'_>| generator.explainer.explain(item, seen);
        Recommendation {
            named: NamedItem::new(self.dataset, item),
            score: None,
            probability: None,
            scored_as: None,
            explanation: self.engine.generator().filter(|_| options.explain).map(explain),
        }
    }
}

impl<'a> Engine<'a> {
    /// The language model, of one that has it.
    fn generator(&self) -> Option<&Generator<'a>> {
        match self {
            Self::Generator(generator) | Self::Together(generator, _) => Some(generator),
            Self::Baseline(_) => None,
        }
    }

    /// The index that a search goes by.
    fn index(&self) -> Option<&ItemIndex> {
        self.generator().map(|generator| generator.explainer.index())
    }
}
