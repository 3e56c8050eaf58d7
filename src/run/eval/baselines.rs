//! The recommenders that `llmbs baseline` knows, each trained, kept and read again.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::BaselineConfig;
use crate::data::{Dataset, ItemId, attributes};
use crate::embed::{Around, Course, EpochReport, SequentialReport, TigerCourse, TrainingBytes};
use crate::eval::{ItemKnn, ItemScorer, Popularity, TigerRecommender};
use crate::index::{ItemIndex, Trie};
use crate::model::sequential::{
    Attributes, Bert4Rec, Caser, Codes, Fdsa, Gru4Rec, Hgn, Pretraining, S3Rec, Sequential, Tiger,
    TrainingConfig,
};
use crate::model::{Weights, load_safetensors};
use crate::nn::Params;
use crate::{Result, invalid};

/// A recommender to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// Counts.
    Popularity,
    /// Sarwar et al., 2001.
    ItemKnn,
    /// Hidasi et al., 2016.
    #[serde(rename = "gru4rec")]
    Gru4Rec,
    /// Tang and Wang, 2018.
    Caser,
    /// Ma et al., 2019.
    Hgn,
    /// Kang and McAuley, 2018.
    #[serde(rename = "sasrec")]
    SasRec,
    /// Sun et al., 2019.
    #[serde(rename = "bert4rec")]
    Bert4Rec,
    /// Zhang et al., 2019.
    Fdsa,
    /// Zhou et al., 2020.
    #[serde(rename = "s3rec")]
    S3Rec,
    /// Rajput et al., 2023.
    Tiger,
}

/// The folder of a baseline's models in the run folder `dir`.
pub(super) fn folder(dir: &Path, baseline: Baseline) -> PathBuf {
    dir.join("baseline").join(baseline.name())
}

/// What baselines are made of.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) config: &'a BaselineConfig,
    pub(super) dataset: &'a Dataset,
    /// For those that read it.
    pub(super) index: Option<&'a ItemIndex>,
}

/// A network, and how it is trained.
pub(super) enum Network {
    /// One that scores all items.
    Scores(Box<dyn Sequential>, TrainingConfig),
    /// One that writes the codes of items.
    Writes(Box<TigerRecommender>),
}

impl Network {
    /// What its training takes.
    pub(super) fn bytes(
        &self,
        name: &'static str,
        sequences: &[&[ItemId]],
    ) -> Result<TrainingBytes> {
        match self {
            Self::Scores(network, config) => {
                Course { name, network: &**network, config, sequences, seed: 0 }.bytes()
            }
            Self::Writes(recommender) => {
                let network = &recommender.network;
                Ok(TigerCourse { network, sequences, seed: 0 }.bytes())
            }
        }
    }

    /// The epochs that are run at most.
    pub(super) fn epochs(&self) -> usize {
        match self {
            Self::Scores(network, config) => {
                network.pretraining().map_or(0, Pretraining::epochs) + config.epochs
            }
            Self::Writes(recommender) => recommender.network.config().epochs,
        }
    }

    /// Trains it; `measure` gives the figure of an epoch.
    fn train(
        &self,
        name: &'static str,
        sequences: &[&[ItemId]],
        seed: u64,
        measure: &mut Measure<'_>,
        around: &mut Around<'_>,
    ) -> Result<SequentialReport> {
        match self {
            Self::Scores(network, config) => {
                let course = Course { name, network: &**network, config, sequences, seed };
                course.train(&mut |network| measure(&network), around)
            }
            Self::Writes(recommender) => {
                let course = TigerCourse { network: &recommender.network, sequences, seed };
                course.train(&mut || measure(&**recommender), around)
            }
        }
    }

    fn params(&self) -> &Params {
        match self {
            Self::Scores(network, _) => network.params(),
            Self::Writes(recommender) => recommender.network.params(),
        }
    }

    fn scorer(self) -> Box<dyn ItemScorer> {
        match self {
            Self::Scores(network, _) => Box::new(network),
            Self::Writes(recommender) => recommender,
        }
    }
}

/// Gives the figure that epochs are told apart by.
pub(super) type Measure<'a> = dyn FnMut(&dyn ItemScorer) -> Result<Option<f64>> + 'a;

/// A trained recommender.
pub(super) struct TrainedBaseline {
    pub(super) scorer: Box<dyn ItemScorer>,
    pub(super) weights: Weights,
    /// Targets it was trained on.
    pub(super) targets: usize,
    /// From 1; 0 where there are no epochs.
    pub(super) best_epoch: usize,
    pub(super) reports: Vec<EpochReport>,
}

impl Baseline {
    /// All, in the order in which they are trained and shown.
    pub const ALL: [Self; 10] = [
        Self::Popularity,
        Self::ItemKnn,
        Self::Gru4Rec,
        Self::Caser,
        Self::Hgn,
        Self::SasRec,
        Self::Bert4Rec,
        Self::Fdsa,
        Self::S3Rec,
        Self::Tiger,
    ];

    /// The name: the word behind `llmbs baseline`, the table of its settings, its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Popularity => "popularity",
            Self::ItemKnn => "item-knn",
            Self::Gru4Rec => "gru4rec",
            Self::Caser => "caser",
            Self::Hgn => "hgn",
            Self::SasRec => "sasrec",
            Self::Bert4Rec => "bert4rec",
            Self::Fdsa => "fdsa",
            Self::S3Rec => "s3rec",
            Self::Tiger => "tiger",
        }
    }

    /// What it is, in a few words.
    pub fn about(self) -> &'static str {
        match self {
            Self::Popularity => "What is taken most",
            Self::ItemKnn => "Neighbours of items by those who took both",
            Self::Gru4Rec => "A recurrent network",
            Self::Caser => "Convolutions over the last items",
            Self::Hgn => "Gates over the last items",
            Self::SasRec => "Causal self-attention over item ids",
            Self::Bert4Rec => "Self-attention to both sides, which finds hidden items",
            Self::Fdsa => "Self-attention over items and over their attributes",
            Self::S3Rec => "Self-attention that is pre-trained on items, attributes and segments",
            Self::Tiger => "An encoder and a decoder that write the codes of the run's index",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|baseline| baseline.name() == name)
    }

    /// The table of its settings, as an error names it.
    pub(super) fn settings(self) -> String {
        format!("baseline.{}", self.name())
    }

    /// Whether it is made of the run's index.
    pub fn reads_index(self) -> bool {
        self == Self::Tiger
    }

    /// How it finds the best items, and whether it looks at all of them.
    pub(super) fn search(self, inputs: &Inputs<'_>) -> (String, bool) {
        match self {
            Self::Tiger => {
                let beam = inputs.config.tiger.beam;
                let search = format!("beam search over the trie of all items, beam {beam}");
                (search, beam >= inputs.dataset.catalogue().count())
            }
            _ => ("all items are scored".into(), true),
        }
    }

    /// How it scores an item.
    pub(super) fn score(self) -> &'static str {
        match self {
            Self::Popularity => {
                "the item's place among all by how often it was taken, counted from the last"
            }
            Self::ItemKnn => {
                "logarithm of nine tenths of the item's share in the similarities to the history, and of one tenth shared alike \
                 by all"
            }
            Self::Gru4Rec | Self::SasRec | Self::Fdsa | Self::S3Rec => {
                "inner product of the history's state and the item's embedding"
            }
            Self::Caser | Self::Hgn | Self::Bert4Rec => {
                "inner product of the history's state and the item's embedding, and the item's bias"
            }
            Self::Tiger => "sum of the log-probabilities of all codes",
        }
    }

    /// Its settings as a result tells them.
    pub(super) fn told(self, config: &BaselineConfig) -> Value {
        match self {
            Self::Popularity => json!({}),
            Self::ItemKnn => json!(config.item_knn),
            Self::Gru4Rec => json!(config.gru4rec),
            Self::Caser => json!(config.caser),
            Self::Hgn => json!(config.hgn),
            Self::SasRec => json!(config.sasrec),
            Self::Bert4Rec => json!(config.bert4rec),
            Self::Fdsa => json!(config.fdsa),
            Self::S3Rec => json!(config.s3rec),
            Self::Tiger => json!(config.tiger),
        }
    }

    /// Its untrained network, of one that has one.
    ///
    /// # Errors
    /// A dataset that lacks what the network reads.
    pub(super) fn network(self, inputs: Inputs<'_>, seed: u64) -> Result<Option<Network>> {
        let Inputs { config, dataset, .. } = inputs;
        let items = dataset.num_items();
        let trained =
            (0..dataset.users.len() as u32).map(|user| dataset.as_trained(user).is_some());
        let users = &trained.collect::<Vec<_>>();
        let (dtype, device) = (DType::F32, &Device::Cpu);
        let (network, training): (Box<dyn Sequential>, _) = match self {
            Self::Popularity | Self::ItemKnn => return Ok(None),
            Self::Gru4Rec => {
                let config = &config.gru4rec;
                (Box::new(Gru4Rec::new(config, items, seed, dtype, device)?), &config.training)
            }
            Self::Caser => {
                let config = &config.caser;
                (Box::new(Caser::new(config, items, users, seed, dtype, device)?), &config.training)
            }
            Self::Hgn => {
                let config = &config.hgn;
                (Box::new(Hgn::new(config, items, users, seed, dtype, device)?), &config.training)
            }
            Self::SasRec => {
                let config = &config.sasrec;
                (Box::new(config.network(items, seed)?), &config.training)
            }
            Self::Bert4Rec => {
                let config = &config.bert4rec;
                (Box::new(Bert4Rec::new(config, items, seed, dtype, device)?), &config.training)
            }
            Self::Fdsa => {
                let config = &config.fdsa;
                let attributes = self.attributes_of(dataset)?;
                (Box::new(Fdsa::new(config, attributes, seed, dtype, device)?), &config.training)
            }
            Self::S3Rec => {
                let config = &config.s3rec;
                let attributes = self.attributes_of(dataset)?;
                (Box::new(S3Rec::new(config, attributes, seed, dtype, device)?), &config.training)
            }
            Self::Tiger => {
                let Some(index) = inputs.index else { invalid!("baseline tiger reads the index") };
                let positions = (0..items as ItemId).flat_map(|item| index.item_positions(item));
                let codes = Codes {
                    of_items: positions.copied().collect(),
                    levels: index.level_ranges().iter().map(ExactSizeIterator::len).collect(),
                };
                let recommender = TigerRecommender {
                    network: Tiger::new(&config.tiger, codes, seed, dtype, device)?,
                    trie: Trie::subset(index, dataset.catalogue())?,
                };
                return Ok(Some(Network::Writes(Box::new(recommender))));
            }
        };
        Ok(Some(Network::Scores(network, training.clone())))
    }

    /// Refuses a dataset that lacks what it reads.
    pub(super) fn check(self, dataset: &Dataset) -> Result<()> {
        match self {
            Self::Fdsa | Self::S3Rec => self.attributes_of(dataset).map(drop),
            _ => Ok(()),
        }
    }

    fn attributes_of(self, dataset: &Dataset) -> Result<Attributes> {
        let Some((of_items, count)) = attributes(&dataset.items) else {
            invalid!(
                "{}: baseline {} reads attributes of items, and there are none here: no categories, no brands, no \
                 word of a description that five items share",
                dataset.name,
                self.name()
            );
        };
        Ok(Attributes { of_items, count })
    }

    /// The one in the file `path`, which [`TrainedBaseline::weights`] were written to.
    pub(super) fn load(self, inputs: Inputs<'_>, path: &Path) -> Result<Box<dyn ItemScorer>> {
        let Inputs { config, dataset, .. } = inputs;
        let weights = load_safetensors(path, &Device::Cpu)?;
        if let Some(network) = self.network(inputs, 0)? {
            network.params().restore(&weights)?;
            return Ok(network.scorer());
        }
        if self == Self::ItemKnn {
            return Ok(Box::new(ItemKnn::of(neighbours_of(&weights, path)?, &config.item_knn)));
        }
        Ok(Box::new(Popularity::new(dataset)))
    }

    /// Its untrained network, of one that scores all items.
    pub(super) fn scoring(self, inputs: Inputs<'_>) -> Result<Box<dyn Sequential>> {
        match self.network(inputs, 0)? {
            Some(Network::Scores(network, _)) => Ok(network),
            _ => invalid!("baseline {} has no network that scores all items", self.name()),
        }
    }

    /// Trains it, its `network` if it has one, on each user's training items; `measure` gives the figure of an epoch.
    pub(super) fn train(
        self,
        network: Option<Network>,
        inputs: Inputs<'_>,
        seed: u64,
        measure: &mut Measure<'_>,
        around: &mut Around<'_>,
    ) -> Result<TrainedBaseline> {
        let Inputs { config, dataset, .. } = inputs;
        let sequences: Vec<&[ItemId]> = dataset.train_sequences().collect();
        let untrained = |scorer: Box<dyn ItemScorer>, weights| {
            let targets = sequences.iter().map(|items| items.len()).sum();
            TrainedBaseline { scorer, weights, targets, best_epoch: 0, reports: Vec::new() }
        };
        if let Some(network) = network {
            let report = network.train(self.name(), &sequences, seed, measure, around)?;
            return Ok(TrainedBaseline {
                weights: network.params().snapshot()?,
                scorer: network.scorer(),
                targets: report.num_targets,
                best_epoch: report.best_epoch,
                reports: report.reports,
            });
        }
        if self == Self::ItemKnn {
            let knn = ItemKnn::new(&sequences, dataset.num_items(), &config.item_knn);
            let weights = neighbours_in(&knn)?;
            return Ok(untrained(Box::new(knn), weights));
        }
        let counts: Vec<f32> = dataset.popularity().iter().map(|&n| n as f32).collect();
        let weights = [("counts".to_string(), Tensor::new(counts, &Device::Cpu)?)].into();
        Ok(untrained(Box::new(Popularity::new(dataset)), weights))
    }
}

/// Neighbours as tensors: how many each item has, and one after another which and how near.
fn neighbours_in(knn: &ItemKnn) -> Result<Weights> {
    let counts: Vec<u32> = knn.neighbours.iter().map(|near| near.len() as u32).collect();
    let (items, cosines): (Vec<u32>, Vec<f32>) = knn.neighbours.iter().flatten().copied().unzip();
    let device = &Device::Cpu;
    Ok([
        ("counts".to_string(), Tensor::new(counts, device)?),
        ("neighbours".to_string(), Tensor::new(items, device)?),
        ("similarities".to_string(), Tensor::new(cosines, device)?),
    ]
    .into())
}

/// What [`neighbours_in`] made tensors of.
fn neighbours_of(weights: &Weights, path: &Path) -> Result<Vec<Vec<(ItemId, f32)>>> {
    let found = |name: &str| match weights.get(name) {
        Some(tensor) => Ok(tensor),
        None => invalid!("{}: there is no tensor {name}", path.display()),
    };
    let counts: Vec<u32> = found("counts")?.to_vec1()?;
    let items: Vec<u32> = found("neighbours")?.to_vec1()?;
    let cosines: Vec<f32> = found("similarities")?.to_vec1()?;
    let mut all = items.into_iter().zip(cosines);
    Ok(counts.into_iter().map(|count| all.by_ref().take(count as usize).collect()).collect())
}
