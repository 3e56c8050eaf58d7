//! Results that a run keeps: found again as long as what decided them is the same.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use super::EvalResult;
use crate::run::{Run, Stage};
use crate::{Result, files};

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
    pub(super) fn find(&self, settings: &Value, force: bool) -> Result<Option<EvalResult>> {
        if force || !self.result.exists() || !self.lines.exists() {
            return Ok(None);
        }
        let json: Value = files::read_json(&self.result)?;
        let path = self.result.clone();
        Ok((json["settings"] == *settings).then_some(EvalResult { json, path, was_done: true }))
    }

    /// Writes a result, its lines first: where the result stands, they do.
    pub(super) fn write<L: Serialize>(self, json: Value, lines: &[L]) -> Result<EvalResult> {
        files::write_json_lines(&self.lines, lines)?;
        files::write_json(&self.result, &json)?;
        Ok(EvalResult { json, path: self.result, was_done: false })
    }
}

impl Run {
    /// The digests of all that `stages` wrote, by path: what a model is made of.
    pub(super) fn files_of(&self, stages: &[Stage]) -> Map<String, Value> {
        let outputs = |stage| self.manifest().stages.get(stage).map(|record| &record.outputs);
        let files = stages.iter().filter_map(outputs).flatten();
        files.map(|(path, digest)| (path.clone(), digest.clone().into())).collect()
    }
}
