//! What an evaluation tells: the file, the table and the JSON are made of the same fields
//! (docs/evaluation.md).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::Float;
use crate::data::{Split, SplitRule};
use crate::decode::Normalize;
use crate::eval::{
    CONFIDENCE, LegalRate, Metrics, RESAMPLES, Report, SharedCodes, TEXT_FIGURES, TextScores,
};
use crate::index::{Method, Order};
use crate::ops::Precision;
use crate::tasks::Instruction;

/// A result that the run keeps.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalResult<R> {
    /// The result.
    pub report: R,
    /// Where it stands.
    pub path: PathBuf,
    /// It stood there already.
    pub was_done: bool,
}

/// The evaluation of whatever ranks items; `S` are its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ranking<S> {
    /// Metrics and intervals by both rules, by bucket, and coverage.
    #[serde(flatten)]
    pub report: Report,
    /// The metrics of popularity, all items ranked.
    pub popularity: Metrics,
    /// The same, items that a user has taken before left out.
    pub popularity_history_excluded: Metrics,
    /// What decided it.
    pub settings: S,
    /// What it took.
    pub performance: Performance,
    /// The weight of the baselines that ranked with the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fusion_weight: Option<f64>,
    /// How much of what is written without the trie names an item; of a language model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub legal_rate: Option<LegalRate>,
    /// What it is worth where items that share their codes are not told apart; of an imported index with such items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_codes: Option<SharedCodes>,
    /// How the model came about; of a baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainingSummary>,
}

/// What an evaluation took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Performance {
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Users a second; of rankings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users_per_s: Option<f64>,
    /// What was predicted of the most memory, before it began; of generative models on the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_memory_bytes: Option<u64>,
    /// The most memory of the process, in bytes.
    pub peak_memory_bytes: u64,
    /// Device and threads.
    pub machine: String,
}

/// How a baseline was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingSummary {
    /// The epoch it is of, from 1.
    pub best_epoch: usize,
    /// Epochs run.
    pub epochs: usize,
    /// Targets it was trained on.
    pub targets: usize,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Device and threads.
    pub machine: String,
    /// Version and revision of the program.
    pub program: String,
}

/// How intervals are made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// How often users are drawn anew.
    pub resamples: usize,
    /// The share of the resampled means within an interval.
    pub confidence: f64,
}

impl Bootstrap {
    pub(super) const USED: Self = Self { resamples: RESAMPLES, confidence: CONFIDENCE };
}

/// What decides the evaluation of a language model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/evaluation.md has a line on each")]
pub struct EvalSettings {
    pub split: Split,
    pub split_rule: SplitRule,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fusion: Option<FusionSettings>,
    pub targets: usize,
    pub limit: Option<usize>,
    pub history: usize,
    /// None of a model before, which is asked in words of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction: Option<Instruction>,
    pub adapter: String,
    /// The run whose model this is, where it is not the run's own: the one that it goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    pub search: String,
    pub beam: usize,
    pub exhaustive: bool,
    pub normalize: Normalize,
    pub score: String,
    pub length_penalty: String,
    pub eos: String,
    pub temperature: f64,
    pub ties: String,
    pub dtype: Float,
    pub precision: Float,
    pub batch: usize,
    pub bootstrap: Bootstrap,
    pub legal_rate_users: usize,
    pub items: usize,
    pub source: String,
    pub method: Method,
    pub order: Order,
    pub shared: bool,
    pub seed: u64,
    pub dataset: String,
    pub dataset_fingerprint: String,
    pub interactions_fingerprint: String,
    pub index_digest: Option<String>,
    pub model_digest: Option<String>,
    pub adapter_digest: Option<String>,
    pub files: BTreeMap<String, String>,
    pub git_revision: String,
}

/// What ranks with a language model, and how its weight is chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/evaluation.md has a line on each")]
pub struct FusionSettings {
    pub weight: Option<String>,
    pub models: Vec<FusedModel>,
}

/// A model that ranks with that of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/evaluation.md has a line on each")]
pub struct FusedModel {
    pub model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    pub seed: u64,
    pub digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings_digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter_digest: Option<String>,
}

impl fmt::Display for FusedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} seed {}", self.model, self.seed)?;
        self.run.as_ref().map_or(Ok(()), |run| write!(f, " of {run}"))
    }
}

/// What decides the evaluation of a baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/evaluation.md and docs/baselines.md have a line on each")]
pub struct BaselineSettings {
    pub model: String,
    pub split: Split,
    pub split_rule: SplitRule,
    pub targets: usize,
    pub limit: Option<usize>,
    pub history: usize,
    pub search: String,
    pub exhaustive: bool,
    pub score: String,
    pub ties: String,
    pub bootstrap: Bootstrap,
    pub items: usize,
    pub seed: u64,
    pub dataset: String,
    pub dataset_fingerprint: String,
    pub interactions_fingerprint: String,
    /// The baseline's own settings.
    #[serde(alias = "sasrec")]
    pub config: Value,
    pub validation: String,
    pub model_digest: String,
    pub git_revision: String,
}

/// A baseline over several seeds: means and sample standard deviations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is of the rule that its name ends in")]
pub struct OverSeeds {
    pub metrics: Metrics,
    pub standard_deviations: Metrics,
    pub metrics_history_excluded: Metrics,
    pub standard_deviations_history_excluded: Metrics,
    pub popularity: Metrics,
    pub popularity_history_excluded: Metrics,
    pub seeds: Vec<u64>,
    pub by_seed: Vec<Metrics>,
    pub by_seed_history_excluded: Vec<Metrics>,
    /// Those of the first seed.
    pub settings: BaselineSettings,
}

/// Whose text ability is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextModel {
    /// The backbone before stage `initial`, with untrained item tokens.
    Backbone,
    /// The model of stage `initial`.
    Off,
    /// The same with the annealing adapter.
    On,
}

impl TextModel {
    /// What to call it beside others.
    pub fn label(self) -> &'static str {
        match self {
            Self::Backbone => "backbone",
            Self::Off => "adapter off",
            Self::On => "adapter on",
        }
    }
}

impl fmt::Display for TextModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Backbone => "backbone",
            Self::Off => "off",
            Self::On => "on",
        })
    }
}

/// What decides a text evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as the settings and stages that they come from")]
pub struct TextSettings {
    pub task: String,
    pub model: TextModel,
    pub limit: usize,
    pub split: Split,
    pub split_rule: SplitRule,
    pub history: usize,
    pub held_out: f64,
    pub max_text_tokens: usize,
    pub precision: Precision,
    pub seed: u64,
    pub dataset: String,
    pub dataset_fingerprint: String,
    pub index_digest: Option<String>,
    pub backbone: Option<String>,
    pub model_digest: Option<String>,
    pub adapter_digest: Option<String>,
    pub files: BTreeMap<String, String>,
    pub git_revision: String,
    /// Absent in results of versions without intervals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrap>,
}

/// How well a model writes texts (docs/text.md).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextReport {
    /// What each task came to.
    pub metrics: BTreeMap<String, TaskMetrics>,
    /// What decided it.
    pub settings: TextSettings,
    /// What it took.
    pub performance: Performance,
}

/// A figure of texts that one model wrote, less that of another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TextDifference {
    /// By how much it is higher.
    pub difference: f64,
    /// The bootstrap interval of that, over samples.
    pub interval: [f64; 2],
}

/// What a task came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskMetrics {
    /// Texts.
    pub samples: usize,
    /// Response tokens, ends of texts included.
    pub tokens: usize,
    /// Of a response token, given the true ones before it.
    pub perplexity: f64,
    /// How like the true texts those written are.
    #[serde(flatten)]
    pub scores: TextScores,
    /// The bootstrap intervals of these figures over samples, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub intervals: BTreeMap<String, [f64; 2]>,
}

impl TaskMetrics {
    /// The figures by name, in the order of [`TEXT_FIGURES`], each with half of its interval where it has one.
    pub fn figures(&self) -> [(&'static str, f64, Option<f64>); 4] {
        let TextScores { exact_match, token_f1, rouge_l } = self.scores;
        let values = [self.perplexity, exact_match, token_f1, rouge_l];
        std::array::from_fn(|i| {
            let name = TEXT_FIGURES[i];
            let half = self.intervals.get(name).map(|[low, high]| (high - low) / 2.0);
            (name, values[i], half)
        })
    }
}
