//! What a run folder knows about itself: which stages are done, from what, with which settings.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Stage;
use crate::config::RunConfig;
use crate::data::Dataset;
use crate::{Error, Result, files, invalid};

/// The revision this program was built from.
pub const GIT_REVISION: &str = env!("LLMBS_GIT_REVISION");

/// Where a stage stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Begun, and perhaps cut off.
    Running,
    /// Its files are whole.
    Done,
    /// Something it was made from has been redone since.
    Stale,
}

/// What is known of one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Where it stands.
    pub status: Status,
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
    /// The stages begun so far.
    pub stages: BTreeMap<Stage, Record>,
}

impl Manifest {
    /// Reads the manifest of a run folder, or begins one.
    pub(super) fn open(path: &Path, config: &RunConfig, dataset: &Dataset) -> Result<Self> {
        let fresh = Self {
            version: env!("CARGO_PKG_VERSION").into(),
            git_revision: GIT_REVISION.into(),
            seed: config.seed,
            dataset: dataset.name.clone(),
            dataset_fingerprint: dataset.fingerprint.clone(),
            stages: BTreeMap::new(),
        };
        if !path.exists() {
            return Ok(fresh);
        }
        let found: Self = files::read_json(path)?;
        // Provenance follows the newest program and data; each stage's record keeps its own.
        Ok(Self { stages: found.stages, ..fresh })
    }

    /// The digest of a file in a stage's folder, if the stage wrote it.
    pub(super) fn output(&self, stage: Stage, file: &str) -> Option<&str> {
        let outputs = &self.stages.get(&stage)?.outputs;
        outputs.get(&format!("{}/{file}", stage.folder())).map(String::as_str)
    }
}

/// The settings that decide what `stage` computes, by dotted key.
pub(super) fn settings(stage: Stage, config: &RunConfig) -> Result<BTreeMap<String, Value>> {
    let value =
        serde_json::to_value(config).map_err(|e| Error::Invalid(format!("configuration: {e}")))?;
    let mut flat = BTreeMap::new();
    flatten("", &value, &mut flat);
    let own: &[&str] = match stage {
        Stage::Index => &["seed", "data.", "backbone.", "index.", "train.warmup."],
        Stage::Initial => &[
            "seed",
            "data.history",
            "train.tuning",
            "train.train-embeddings",
            "train.item-token-init",
            "train.lora.",
            "train.tasks.",
            "train.contrast.",
            "train.initial.",
        ],
        Stage::Anneal => &[
            "seed",
            "data.history",
            "train.tasks.",
            "train.adapter.",
            "train.selection.",
            "train.anneal.",
        ],
    };
    // These change what is told of a run, not what it computes.
    let silent = [".log-every", ".save-every"];
    flat.retain(|key, _| {
        own.iter().any(|o| key == o || (o.ends_with('.') && key.starts_with(o)))
            && !silent.iter().any(|s| key.ends_with(s))
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
    let show = |v: Option<&Value>| v.map_or_else(|| "unset".into(), Value::to_string);
    let mut differences = Vec::new();
    for key in record.settings.keys().chain(settings.keys()) {
        let (then, now) = (record.settings.get(key), settings.get(key));
        let text = format!("{key} was {}, is now {}", show(then), show(now));
        if then != now && !differences.contains(&text) {
            differences.push(text);
        }
    }
    for (name, digest) in inputs {
        if record.inputs.get(name).is_some_and(|then| then != digest) {
            differences.push(format!("{name} has changed since"));
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    invalid!(
        "{}: {} was made with another configuration or input: {}; go back, choose another folder \
         with --run, or redo it with `llmbs {} --force`",
        dir.display(),
        stage.what(),
        differences.join("; "),
        stage.command()
    );
}
