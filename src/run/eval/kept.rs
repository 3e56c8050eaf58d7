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

    /// Writes a result, its lines first: where the result stands, they do. The one before goes before its lines.
    pub(super) fn write<R: Serialize, L: Serialize>(
        self,
        report: R,
        lines: &[L],
    ) -> Result<EvalResult<R>> {
        files::remove(&self.result)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_write_that_ends_early_leaves_no_result_beside_other_lines() {
        let dir = tempfile::tempdir().unwrap();
        let kept = || Kept::new(dir.path(), "test");
        let (one, other) = (json!({ "settings": 1 }), json!({ "settings": 2 }));
        kept().write(one, &["one"]).unwrap();
        assert!(kept().find::<Value>(&1, false).unwrap().is_some());
        // Lines that cannot be written.
        std::fs::remove_file(kept().lines).unwrap();
        std::fs::create_dir(kept().lines).unwrap();
        kept().write(other, &["other"]).unwrap_err();
        assert!(kept().find::<Value>(&1, false).unwrap().is_none());
    }
}
