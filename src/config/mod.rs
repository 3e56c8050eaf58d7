//! The configuration of a run: one TOML file, every value with a default here, unknown keys refused.

mod baseline;
mod data;
mod fitted;
mod index;
mod layers;
mod places;
mod ranges;
mod validation;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::decode::Normalize;
use crate::embed::Encoder;
use crate::error::plain_toml;
use crate::model::LoraConfig;
use crate::ops::Precision;
use crate::tasks::{Layout, SrtSelection, TasksConfig};
use crate::train::{ContinueConfig, ContrastConfig, DistillationConfig, StageConfig};
use crate::{Error, Result, invalid};
use layers::{merge, unknown};

pub use baseline::BaselineConfig;
pub use data::DataConfig;
pub use fitted::{Fit, fitted};
pub use index::{BehaviorConfig, IndexConfig, SemanticConfig};
pub use layers::key_of;
pub use validation::ValidationConfig;

/// Everything that decides what a run computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RunConfig {
    /// Fixes every random draw of the run.
    pub seed: u64,
    /// The interactions and texts.
    pub data: DataConfig,
    /// The language model.
    pub backbone: BackboneConfig,
    /// The item index.
    pub index: IndexConfig,
    /// The training stages.
    pub train: TrainConfig,
    /// The evaluation.
    pub eval: EvalConfig,
    /// Recommenders to compare with.
    pub baseline: BaselineConfig,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            seed: 42,
            data: DataConfig::default(),
            backbone: BackboneConfig::default(),
            index: IndexConfig::default(),
            train: TrainConfig::default(),
            eval: EvalConfig::default(),
            baseline: BaselineConfig::default(),
        }
    }
}

/// What weights are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Float {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
}

/// `[backbone]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct BackboneConfig {
    /// A Hugging Face folder, a GGUF file or a hub id; absent, a backbone from scratch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The type of the weights. Updates of bf16 weights are rounded at random, so that small ones are not
    /// lost on average.
    pub dtype: Float,
    /// What the values of matrix products are rounded to before they are multiplied; sums are f32, weights
    /// stay in `dtype`. `bf16` takes effect on CPUs with AVX512-BF16, and on a GPU.
    pub precision: Precision,
    /// The backbone from scratch, used where there is no path.
    pub scratch: ScratchConfig,
}

impl Default for BackboneConfig {
    fn default() -> Self {
        Self {
            path: None,
            dtype: Float::F32,
            precision: Precision::Full,
            scratch: ScratchConfig::default(),
        }
    }
}

/// `[backbone.scratch]`: shape and tokenizer of a backbone from scratch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ScratchConfig {
    /// Tokens of the byte-level BPE learnt on the item texts, at most.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Whether the output head is the embedding.
    pub tie_word_embeddings: bool,
}

impl Default for ScratchConfig {
    fn default() -> Self {
        Self {
            vocab_size: 2000,
            hidden_size: 128,
            intermediate_size: 344,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            num_key_value_heads: 4,
            tie_word_embeddings: false,
        }
    }
}

/// `[train]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct TrainConfig {
    /// Which weights stage `initial` changes.
    pub tuning: Tuning,
    /// Which rows of embedding and head stage `initial` changes.
    pub train_embeddings: TrainEmbeddings,
    /// The adapter of `tuning = "lora"`, merged into the checkpoint when the stage ends.
    pub lora: LoraConfig,
    /// The annealing adapter.
    pub adapter: LoraConfig,
    /// What is trained in stage `initial`, and how it is worded.
    pub tasks: TasksConfig,
    /// The contrastive loss of stage `initial`.
    pub contrast: ContrastConfig,
    /// What a teacher expects next, as soft targets of stage `initial`.
    pub distillation: DistillationConfig,
    /// Whether a code of sequence recommendation is told from the others of its level alone, as it is ranked
    /// in the end, rather than from the whole vocabulary.
    pub level_softmax: bool,
    /// Adds the logarithm of the share of repeats in training to the logits of what ends an item of the history: how often
    /// users take an item again need not be learnt.
    pub repeat_bias: bool,
    /// Which targets stage `anneal` trains.
    pub selection: SrtSelection,
    /// How the epochs of both stages are told apart.
    pub validation: ValidationConfig,
    /// The language-model warm-up of a backbone from scratch.
    pub warmup: StageConfig,
    /// Stage `initial`.
    pub initial: StageConfig,
    /// Stage `initial` where it goes on from the model of another run.
    #[serde(rename = "continue")]
    pub continued: ContinueConfig,
    /// Stage `anneal`.
    pub anneal: StageConfig,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            tuning: Tuning::Full,
            train_embeddings: TrainEmbeddings::All,
            lora: LoraConfig::default(),
            adapter: LoraConfig::default(),
            tasks: TasksConfig::default(),
            contrast: ContrastConfig::default(),
            distillation: DistillationConfig::default(),
            level_softmax: false,
            repeat_bias: false,
            selection: SrtSelection::default(),
            validation: ValidationConfig::default(),
            warmup: StageConfig {
                epochs: 4,
                batch: 64,
                learning_rate: 2e-3,
                warmup_ratio: 0.1,
                ..StageConfig::default()
            },
            initial: StageConfig::default(),
            continued: ContinueConfig::default(),
            anneal: StageConfig { epochs: 1, ..StageConfig::default() },
        }
    }
}

/// Which weights stage `initial` changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tuning {
    /// The whole backbone.
    Full,
    /// LoRA on the backbone, merged into the checkpoint.
    Lora,
}

/// Which rows of embedding and head stage `initial` changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainEmbeddings {
    /// All rows.
    All,
    /// The item tokens and `<con>`.
    New,
    /// None.
    None,
}

/// `[eval]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct EvalConfig {
    /// Beam width.
    pub beam: usize,
    /// Over which tokens probabilities are normalised.
    pub normalize: Normalize,
    /// Users scored together, at a beam of up to 20; fewer at wider ones.
    pub batch: usize,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { beam: 20, normalize: Normalize::Level, batch: 64 }
    }
}

/// The demo's configuration, embedded so that the program runs without any file.
pub const DEMO: &str = include_str!("../../configs/demo.toml");

impl RunConfig {
    /// Parses TOML from `origin` and applies `overrides` of the form `key.path=value`.
    ///
    /// # Errors
    /// Malformed TOML, unknown keys and wrong types, naming `origin` and the key.
    pub fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<Self> {
        Self::parse_in(Path::new(""), text, origin, overrides)
    }

    /// As [`RunConfig::parse`], with the relative paths of `text` seen from `folder`.
    fn parse_in(folder: &Path, text: &str, origin: &str, overrides: &[String]) -> Result<Self> {
        let fault = |e: toml::de::Error| Error::Invalid(format!("{origin}: {}", plain_toml(&e)));
        // Parsed once as it stands, so that a mistake in the file is reported with its line.
        let _: Self = toml::from_str(text).map_err(fault)?;
        let mut table = toml::Table::try_from(Self::default())
            .map_err(|e| Error::Invalid(format!("configuration: {e}")))?;
        // Merged key by key: a file that sets one value of a table keeps the defaults of the rest.
        let mut file: toml::Table = text.parse().map_err(fault)?;
        places::make_absolute(&mut file, folder);
        merge(&mut table, file);
        let mut over = layers::given(overrides)?;
        places::make_absolute(&mut over, Path::new(""));
        merge(&mut table, over.clone());
        let config: Self = table
            .clone()
            .try_into()
            .map_err(|e: toml::de::Error| Error::Invalid(format!("--set: {}", plain_toml(&e))))?;
        // Tables that take in those of others do not refuse what is none of theirs.
        let known = toml::Table::try_from(&config)
            .map_err(|e| Error::Invalid(format!("configuration: {e}")))?;
        for (origin, table) in [("--set", &over), (origin, &table)] {
            if let Some(key) = unknown(table, &known, "") {
                invalid!(
                    "{origin}: there is no setting {key}; `llmbs config` prints those that are set"
                );
            }
        }
        Ok(config)
    }

    /// Reads a file; its relative paths are relative to it, those of `overrides` to the working directory.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = crate::files::read_text(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse_in(folder, &text, &path.display().to_string(), overrides)
    }

    /// The configuration as TOML, every value spelt out.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::Invalid(format!("configuration: {e}")))
    }

    /// Checks what no type can: reports every violation at once.
    pub fn check(&self) -> Result<()> {
        if self.data.path.as_deref().is_some_and(|path| path.as_os_str().is_empty()) {
            // Alone: nothing else is worth saying of a preset without its dataset.
            invalid!("data.path names no folder: add --set data.path=FOLDER, the dataset's folder");
        }
        let mut wrong = ranges::violations(self)?;
        wrong.extend(self.index.violations());
        wrong.extend(self.train.validation.violations());
        wrong.extend(self.train.tasks.violation().map(String::from));
        wrong.extend(self.train.lora.violation("train.lora"));
        wrong.extend(self.train.adapter.violation("train.adapter"));
        let mut need = |holds: bool, text: &str| {
            if !holds {
                wrong.push(text.to_string());
            }
        };
        let scratch = &self.backbone.scratch;
        need(
            scratch.num_attention_heads > 0
                && scratch.hidden_size.is_multiple_of(2 * scratch.num_attention_heads),
            "backbone.scratch.hidden-size must be an even multiple of num-attention-heads",
        );
        need(
            scratch.num_key_value_heads > 0
                && scratch.num_attention_heads.is_multiple_of(scratch.num_key_value_heads),
            "backbone.scratch.num-attention-heads must be a multiple of num-key-value-heads",
        );
        let (weight, behavior) = (self.train.distillation.weight, &self.index.behavior);
        let learns = behavior.encoder == Encoder::SasRec
            && behavior.embeddings.is_none()
            && self.index.source.has_behavior();
        need(
            weight == 0.0 || learns,
            &format!(
                "train.distillation.weight = {weight} needs a teacher, which is the SASRec of z^b: set \
                 index.behavior.encoder = \"sasrec\", without index.behavior.embeddings and with an index.source \
                 of behavior, or set the weight to 0"
            ),
        );
        let (reads, holds) = (behavior.sasrec.transformer.history, self.data.history);
        // A sample of one target needs no state but that of its last items.
        need(
            weight == 0.0 || reads >= holds || self.train.tasks.layout == Layout::Prefix,
            &format!(
                "index.behavior.sasrec.history = {reads}: the teacher of train.distillation must read the \
                 {holds} items of data.history"
            ),
        );
        let BaselineConfig { sasrec, bert4rec, fdsa, s3rec, .. } = &self.baseline;
        need(
            bert4rec.history > 1 && s3rec.transformer.history > 1,
            "baseline.bert4rec.history and baseline.s3rec.history must be at least 2: an item that is hidden needs \
             another to be found by",
        );
        for (name, dim, heads) in [
            (
                "index.behavior.sasrec",
                behavior.sasrec.transformer.dim,
                behavior.sasrec.transformer.heads,
            ),
            ("baseline.sasrec", sasrec.transformer.dim, sasrec.transformer.heads),
            ("baseline.bert4rec", bert4rec.dim, bert4rec.heads),
            ("baseline.fdsa", fdsa.transformer.dim, fdsa.transformer.heads),
            ("baseline.s3rec", s3rec.transformer.dim, s3rec.transformer.heads),
        ] {
            need(
                heads > 0 && dim.is_multiple_of(heads),
                &format!("{name}.dim must be a multiple of {name}.heads"),
            );
        }
        if wrong.is_empty() { Ok(()) } else { invalid!("{}", wrong.join("; ")) }
    }
}

#[cfg(test)]
mod tests;
