//! Results that a run keeps: found again as long as what decided them is the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::result::EvalResult;
use crate::run::{Run, Stage};
use crate::{Error, Result, files};

/// Where a result stands, and its lines, one a user or sample.
pub(super) struct Kept {
    pub(super) result: PathBuf,
    pub(super) lines: PathBuf,
}

impl Kept {
    /// `NAME.json` and `NAME.predictions.jsonl` in `dir`.
    pub(super) fn new(dir: &Path, name: &str) -> Self {
        let lines = dir.join(format!("{name}.predictions.jsonl"));
        Self { result: dir.join(format!("{name}.json")), lines }
    }

    /// The result that stands there, if it is of these settings and `force` does not ask for another.
    pub(super) fn find<R: DeserializeOwned>(
        &self,
        settings: &impl Serialize,
        force: bool,
    ) -> Result<Option<EvalResult<R>>> {
        if force || !self.result.exists() || !self.lines.exists() {
            return Ok(None);
        }
        let found: Value = files::read_json(&self.result)?;
        let wrong = |e| Error::Invalid(format!("{}: {e}", self.result.display()));
        if found["settings"] != serde_json::to_value(settings).map_err(wrong)? {
            return Ok(None);
        }
        let report = serde_json::from_value(found).map_err(wrong)?;
        Ok(Some(EvalResult { report, path: self.result.clone(), was_done: true }))
    }

    /// Writes a result, its lines first: where the result stands, they do.
    pub(super) fn write<R: Serialize, L: Serialize>(
        self,
        report: R,
        lines: &[L],
    ) -> Result<EvalResult<R>> {
        files::write_json_lines(&self.lines, lines)?;
        files::write_json(&self.result, &report)?;
        Ok(EvalResult { report, path: self.result, was_done: false })
    }
}

impl Run {
    /// The digests of all that `stages` wrote, by path: what a model is made of.
    pub(super) fn files_of(&self, stages: &[Stage]) -> BTreeMap<String, String> {
        let outputs = |stage| self.manifest().stages.get(stage).map(|record| &record.outputs);
        let files = stages.iter().filter_map(outputs).flatten();
        files.map(|(path, digest)| (path.clone(), digest.clone())).collect()
    }
}
