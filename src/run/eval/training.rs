//! How a trained baseline came about, as its folder says.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::baselines::Baseline;
use crate::run::{Manifest, Stage};
use crate::{Error, Result, files, sealed};

/// `training.json`: how a trained baseline came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Training {
    /// The settings that decided it, by dotted key.
    pub(super) settings: BTreeMap<String, Value>,
    pub(super) dataset: String,
    pub(super) dataset_fingerprint: String,
    /// Version and git revision of the program that made it.
    pub(super) program: String,
    pub(super) machine: String,
    pub(super) seconds: f64,
    pub(super) peak_memory_bytes: u64,
    /// Targets it was trained on.
    pub(super) targets: usize,
    pub(super) best_epoch: usize,
    pub(super) epochs: Value,
    /// SHA-256 of the model beside it.
    pub(super) model_sha256: String,
}

/// The file of the item index, in the folder of its stage.
pub(super) const INDEX: &str = "index.json";

/// What the digest of the index is called among the settings.
pub(super) fn index_key() -> String {
    format!("{}/{INDEX}", Stage::Index.folder())
}

/// The file of [`Training`].
pub(super) const TRAINING: &str = "training.json";

impl Training {
    /// The digest of the settings: some change what a model ranks, and not the model. So did a version of this program
    /// that scores by neighbours otherwise.
    pub(super) fn settings_digest(&self) -> Result<String> {
        let mut settings = self.settings.clone();
        if self.baseline() == Some(Baseline::ItemKnn) {
            settings.insert("score".into(), Baseline::ItemKnn.score().into());
        }
        let settings = serde_json::to_vec(&settings);
        let settings = settings.map_err(|e| Error::Invalid(format!("{TRAINING}: {e}")))?;
        Ok(files::digest_of(&settings))
    }

    /// Whether `manifest` is of a run whose index is the one that this model writes the codes of, if it writes any.
    pub(super) fn is_of_index(&self, manifest: &Manifest) -> bool {
        let Some(used) = self.settings.get(&index_key()) else { return true };
        used.as_str() == manifest.output(Stage::Index, INDEX)
    }

    /// Whose settings it has; the one that has none is popularity.
    pub(super) fn baseline(&self) -> Option<Baseline> {
        let mut own = self.settings.keys().filter_map(|key| key.strip_prefix("baseline."));
        match own.next() {
            Some(key) => Baseline::named(key.split('.').next()?),
            None => Some(Baseline::Popularity),
        }
    }

    pub(super) fn read(path: &Path) -> Result<Self> {
        sealed::read(path, "redo the baseline with --force")
    }
}

/// Whether `dir` is the folder of a trained baseline.
pub(super) fn is_baseline(dir: &Path) -> bool {
    dir.join(TRAINING).exists()
}
