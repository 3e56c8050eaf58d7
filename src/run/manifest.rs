//! What a run folder knows about itself: which stages are done, from what, with which settings.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{MANIFEST, Stage};
use crate::config::RunConfig;
use crate::data::{Dataset, SplitRule};
use crate::embed::Encoder;
use crate::index::{OnCollision, Source};
use crate::{Error, Result, files, invalid, sealed};

/// The revision this program was built from.
pub const GIT_REVISION: &str = env!("LLMBS_GIT_REVISION");

/// Where a stage stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Begun, and perhaps cut off.
    #[default]
    Running,
    /// Its files are whole; of an unfinished stage, they are not in their place yet.
    Done,
    /// Something it was made from has been redone since.
    Stale,
}

/// What is known of one stage.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Record {
    /// Where it stands.
    pub status: Status,
    /// Of a training stage: learning rates that were lowered on the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lowered: Vec<Lowered>,
    /// What it was made from beside data and stages before, where it was.
    #[serde(flatten)]
    pub origin: Origin,
    /// The settings that decide its result, by dotted key.
    pub settings: BTreeMap<String, Value>,
    /// Digests of what it read, by name.
    pub inputs: BTreeMap<String, String>,
    /// Digests of what it wrote, by path in the run folder.
    #[serde(default)]
    pub outputs: BTreeMap<String, String>,
    /// Version and git revision of the program that made it.
    pub program: String,
    /// Device and threads it was made on.
    pub machine: String,
    /// Wall-clock seconds of the process that finished it.
    #[serde(default)]
    pub seconds: f64,
    /// Peak memory of the process that finished it, in bytes.
    #[serde(default)]
    pub peak_memory_bytes: u64,
    /// Figures of its result.
    #[serde(default)]
    pub figures: Value,
}

impl Record {
    /// The digest of what decided its result: the settings, and those inputs that are its `own` and no stage's before.
    pub(super) fn decided_by(&self, own: impl Fn(&str) -> bool) -> String {
        let own: BTreeMap<_, _> = self.inputs.iter().filter(|(input, _)| own(input)).collect();
        files::digest_of(serde_json::json!([self.settings, own]).to_string().as_bytes())
    }

    /// The words that make it again, after `llmbs`.
    pub(super) fn command(&self, stage: Stage) -> String {
        let Origin { imported, imported_adapter, follows } = &self.origin;
        match (stage, imported, imported_adapter, follows) {
            (Stage::Index, Some(import), ..) => format!("index import {}", import.file),
            (Stage::Index, .., Some(before)) => format!("index --extend {}", before.run),
            (Stage::Initial, .., Some(before)) => format!("train --continue {}", before.run),
            (Stage::Anneal, _, Some(adapter), _) => format!("import-adapter {}", adapter.folder),
            _ => stage.command().into(),
        }
    }
}

/// What other runs or programs have made that a stage was made from.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Origin {
    /// Of stage `index`: the file it was imported from, where it was not made here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Import>,
    /// Of stage `anneal`: the folder it was imported from, where it was not trained here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported_adapter: Option<ImportedAdapter>,
    /// The run that it goes on from, where it does not begin anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<Follows>,
}

impl Origin {
    /// Whether both are made alike: both imported or neither, and both gone on from the same in the same way, wherever it
    /// lies, or from nothing.
    pub(super) fn is_made_as(&self, other: &Self) -> bool {
        let of = |origin: &Self| {
            let follows = origin.follows.as_ref();
            (
                origin.imported.is_some(),
                origin.imported_adapter.is_some(),
                follows.map(|follows| (follows.files.clone(), follows.as_it_is)),
            )
        };
        of(self) == of(other)
    }
}

/// A learning rate that was lowered when a training went on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lowered {
    /// The setting.
    pub key: String,
    /// What it was before.
    pub from: f64,
    /// What it has been since.
    pub to: f64,
    /// The step after which it was lowered.
    pub after_step: u64,
}

/// What a stage goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follows {
    /// The folder of the run before, as it was named.
    pub run: String,
    /// The digests of its index, and of the models that were trained on, by path there.
    pub files: BTreeMap<String, String>,
    /// Of an index: the source of each level.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
    /// Of a model: it was taken over as it is, without learning anything more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_it_is: bool,
}

/// An index that was made elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// The file as it was named.
    pub file: String,
    /// Its SHA-256.
    pub sha256: String,
    /// What was to become of items that share an index.
    pub on_collision: OnCollision,
    /// The source of each level of the index, one added to tell items apart included.
    pub sources: Vec<Source>,
    /// How many items of the file share an index with another.
    pub items_sharing: usize,
}

/// An annealing adapter that was trained elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedAdapter {
    /// The PEFT folder as it was named.
    pub folder: String,
    /// The SHA-256 of its files, by name.
    pub files: BTreeMap<String, String>,
}

/// `manifest.json`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The program's version.
    pub version: String,
    /// The program's git revision.
    pub git_revision: String,
    /// The run's seed.
    pub seed: u64,
    /// The dataset's name.
    pub dataset: String,
    /// The dataset's fingerprint.
    pub dataset_fingerprint: String,
    /// The stages whose results stand.
    pub stages: BTreeMap<Stage, Record>,
    /// The stages that were begun and are not through; what stood before them still does.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unfinished: BTreeMap<Stage, Record>,
    /// The digest of `config.toml` as it was written last; absent while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_sha256: Option<String>,
}

impl Manifest {
    /// Reads the manifest of a run folder, or begins one.
    pub(super) fn open(path: &Path, config: &RunConfig, dataset: &Dataset) -> Result<Self> {
        let fresh = Self::begun(config, dataset);
        if !path.exists() {
            return Ok(fresh);
        }
        let found = Self::read(path)?;
        // Provenance follows the newest program and data; each stage's record keeps its own.
        let Self { stages, unfinished, config_sha256, .. } = found;
        Ok(Self { stages, unfinished, config_sha256, ..fresh })
    }

    /// That of a run without stages.
    pub(super) fn begun(config: &RunConfig, dataset: &Dataset) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            git_revision: GIT_REVISION.into(),
            seed: config.seed,
            dataset: dataset.name.clone(),
            dataset_fingerprint: dataset.fingerprint.clone(),
            stages: BTreeMap::new(),
            unfinished: BTreeMap::new(),
            config_sha256: None,
        }
    }

    /// What is known of a stage whose result stands, whole and not stale.
    pub(super) fn done(&self, stage: Stage) -> Option<&Record> {
        self.stages.get(&stage).filter(|record| record.status == Status::Done)
    }

    /// That of the run folder `dir`, where there is one.
    pub(super) fn of(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(MANIFEST);
        path.exists().then(|| Self::read(&path)).transpose()
    }

    /// Reads `manifest.json`.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let mut manifest: Self = sealed::read(path, "choose another folder with --run")?;
        for (stage, record) in manifest.stages.iter_mut().chain(&mut manifest.unfinished) {
            // Some of the settings that were told once decide nothing.
            record.settings.retain(|key, _| !decides_nothing(*stage, key));
        }
        Ok(manifest)
    }

    /// Writes it.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        sealed::write(&dir.join(MANIFEST), self)
    }

    /// Where the item index was imported from, if it was.
    pub fn imported(&self) -> Option<&Import> {
        self.stages.get(&Stage::Index)?.origin.imported.as_ref()
    }

    /// Where the annealing adapter was imported from, if it was.
    pub fn imported_adapter(&self) -> Option<&ImportedAdapter> {
        self.stages.get(&Stage::Anneal)?.origin.imported_adapter.as_ref()
    }

    /// What a stage goes on from, if it does.
    pub(super) fn follows(&self, stage: Stage) -> Option<&Follows> {
        self.stages.get(&stage)?.origin.follows.as_ref()
    }

    /// The digest of a file in a stage's folder, if the stage wrote it.
    pub(super) fn output(&self, stage: Stage, file: &str) -> Option<&str> {
        let outputs = &self.stages.get(&stage)?.outputs;
        outputs.get(&format!("{}/{file}", stage.folder())).map(String::as_str)
    }
}

/// The settings that decide what an import of an index leaves in the run: those of the backbone.
pub(super) fn settings_of_import(config: &RunConfig) -> Result<BTreeMap<String, Value>> {
    let mut flat = settings(Stage::Index, config)?;
    // Where item texts are cut decides what a backbone from scratch is warmed up on.
    flat.retain(|key, _| !key.starts_with("index.") || key == "index.semantic.max-text-tokens");
    Ok(flat)
}

/// The settings that decide in which words a model is asked.
pub(super) fn settings_of_words(config: &RunConfig) -> Result<BTreeMap<String, Value>> {
    settings_under(&["train.tasks.instruction", "train.tasks.layout"], config)
}

/// The settings that decide what stage `initial` makes of the model of another run.
pub(super) fn settings_of_continued(config: &RunConfig) -> Result<BTreeMap<String, Value>> {
    let mut flat = settings(Stage::Initial, config)?;
    flat.extend(settings_under(&["train.continue."], config)?);
    Ok(flat)
}

/// Whether a setting, though it is one of a table that `stage` reads, changes nothing there: an index is made of all
/// that was taken, however much of it a model reads.
fn decides_nothing(stage: Stage, key: &str) -> bool {
    stage == Stage::Index && key == "data.history"
}

/// The settings that decide what `stage` computes, by dotted key.
pub(super) fn settings(stage: Stage, config: &RunConfig) -> Result<BTreeMap<String, Value>> {
    let own: &[&str] = match stage {
        Stage::Index => &["seed", "data.", "backbone.", "index.", "train.warmup."],
        Stage::Initial => &[
            "seed",
            "data.history",
            "train.tuning",
            "train.train-embeddings",
            "train.level-softmax",
            "train.repeat-bias",
            "train.lora.",
            "train.tasks.",
            "train.contrast.",
            "train.distillation.",
            "train.validation.",
            "train.initial.",
        ],
        Stage::Anneal => &[
            "seed",
            "data.history",
            "train.tasks.",
            "train.level-softmax",
            "train.adapter.",
            "train.selection.",
            "train.validation.",
            "train.anneal.",
        ],
    };
    let mut settings = settings_under(own, config)?;
    settings.retain(|key, _| !decides_nothing(stage, key));
    if stage == Stage::Initial {
        for colleague in config.train.distillation.colleagues() {
            settings.extend(settings_under(&[&format!("baseline.{}.", colleague.name())], config)?);
        }
    }
    // The settings of encoders that are not used decide nothing.
    let used = config.index.behavior.encoder;
    for encoder in Encoder::ALL.into_iter().filter(|encoder| *encoder != used) {
        let table = format!("{}.", encoder.settings());
        settings.retain(|key, _| !key.starts_with(&table));
    }
    Ok(settings)
}

/// The settings with these dotted keys, or with keys that begin with those of them that end in a dot.
pub(super) fn settings_under(own: &[&str], config: &RunConfig) -> Result<BTreeMap<String, Value>> {
    let value =
        serde_json::to_value(config).map_err(|e| Error::Invalid(format!("configuration: {e}")))?;
    let mut flat = BTreeMap::new();
    flatten("", &value, &mut flat);
    // These change what is told of a run, not what it computes.
    let silent = [".log-every", ".save-every", ".save-minutes"];
    flat.retain(|key, _| {
        own.iter().any(|o| key == o || (o.ends_with('.') && key.starts_with(o)))
            && !silent.iter().any(|s| key.ends_with(s))
    });
    let of_other_rules: &[&str] = match config.data.split.rule {
        SplitRule::LeaveOneOut => &["valid-users", "test-users", "valid-from", "test-from"],
        SplitRule::SampledLeaveOneOut => &["valid-from", "test-from"],
        SplitRule::TimedLeaveOneOut | SplitRule::Temporal => &["valid-users", "test-users"],
    };
    flat.retain(|key, _| {
        !key.strip_prefix("data.split.").is_some_and(|key| of_other_rules.contains(&key))
    });
    if config.data.path.is_some() {
        // Where the dataset lies does not matter: its fingerprint is an input.
        flat.retain(|key, _| !key.starts_with("data.path") && !key.starts_with("data.synthetic"));
    }
    Ok(flat)
}

fn flatten(prefix: &str, value: &Value, flat: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let dot = if prefix.is_empty() { "" } else { "." };
                flatten(&format!("{prefix}{dot}{key}"), value, flat);
            }
        }
        _ => {
            flat.insert(prefix.to_string(), value.clone());
        }
    }
}

/// Refuses where a stage was made with other settings or from other inputs than are given now.
pub(super) fn compare(
    dir: &Path,
    stage: Stage,
    record: &Record,
    settings: &BTreeMap<String, Value>,
    inputs: &BTreeMap<String, String>,
) -> Result<()> {
    let mut differences = differences(&record.settings, settings);
    for (name, digest) in inputs {
        if record.inputs.get(name).is_some_and(|then| then != digest) {
            differences.push(format!("{name} has changed since"));
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    invalid!(
        "{}: {} was made with other settings or inputs: {}; undo that, choose another folder \
         with --run, or redo it with `llmbs {} --force`",
        dir.join(MANIFEST).display(),
        stage.what(),
        differences.join("; "),
        record.command(stage)
    );
}

/// The learning rate of a training stage that `settings` lower, where that and nothing else differs from what the
/// stage was begun with: its key, what it was and what it is.
pub(super) fn lowered(
    stage: Stage,
    record: &Record,
    settings: &BTreeMap<String, Value>,
    inputs: &BTreeMap<String, String>,
) -> Option<(String, f64, f64)> {
    let key = format!("train.{}.learning-rate", stage.folder());
    let (from, to) = (record.settings.get(&key)?.as_f64()?, settings.get(&key)?.as_f64()?);
    let mut then = record.settings.clone();
    then.insert(key.clone(), settings[&key].clone());
    let same = differences(&then, settings).is_empty() && record.inputs == *inputs;
    (same && to < from).then_some((key, from, to))
}

/// What differs between the settings a result was made with and those that hold now, in words.
///
/// A setting that did not exist then had its default's effect: defaults of new settings change nothing.
pub(super) fn differences(
    then: &BTreeMap<String, Value>,
    now: &BTreeMap<String, Value>,
) -> Vec<String> {
    let show = |v: Option<&Value>| v.map_or_else(|| "unset".into(), Value::to_string);
    let defaults = serde_json::to_value(RunConfig::default()).unwrap_or_default();
    let mut default_of = BTreeMap::new();
    flatten("", &defaults, &mut default_of);
    let mut differences = Vec::new();
    for key in then.keys().chain(now.keys()) {
        let (then, now) = (then.get(key), now.get(key));
        if then.is_none() && now == default_of.get(key) {
            continue;
        }
        let text = format!("{key} was {}, is now {}", show(then), show(now));
        if then != now && !differences.contains(&text) {
            differences.push(text);
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_of_data_backbone_index_and_training_decides_a_stage() {
        let config = RunConfig::default();
        let of = |stage| settings(stage, &config).unwrap();
        let stages = [Stage::Index, Stage::Initial, Stage::Anneal].map(of);
        let all = settings_under(&["seed", "data.", "backbone.", "index.", "train."], &config);
        for key in all.unwrap().into_keys() {
            let decides = stages.iter().any(|settings| settings.contains_key(&key));
            // The encoders that are not chosen, and what decides a model that goes on from another.
            let others = ["index.behavior.sasrec.", "index.behavior.spectral.", "train.continue."];
            assert!(decides || others.iter().any(|other| key.starts_with(other)), "{key}");
        }
    }
}
