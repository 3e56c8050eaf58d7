//! Results that a run keeps: found again as long as what decided them is the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::result::{EvalResult, Ranking};
use crate::eval::Prediction;
use crate::run::{Run, Stage};
use crate::{Error, Result, files, invalid, sealed};

/// A result as it is written.
#[derive(Serialize)]
struct Sealed<'a, R> {
    #[serde(flatten)]
    report: &'a R,
    /// The digest of its lines.
    lines_sha256: String,
}

/// The settings of a result without the folders that its models were read from, which may be called otherwise the next
/// time: their digests say which they are.
pub(super) fn decisive(mut settings: Value) -> Value {
    let models = settings.pointer_mut("/fusion/models").and_then(Value::as_array_mut);
    for model in models.into_iter().flatten().filter_map(Value::as_object_mut) {
        model.remove("run");
    }
    settings
}

/// Where a result stands, and its lines, one a user or sample.
pub(super) struct Kept {
    pub(super) result: PathBuf,
    pub(super) lines: PathBuf,
}

impl Kept {
    /// `NAME.json` and `NAME.predictions.jsonl` in `dir`.
    pub(super) fn new(dir: &Path, name: &str) -> Self {
        Self::at(&dir.join(format!("{name}.json")))
    }

    /// The result that stands at `path`.
    pub(super) fn at(path: &Path) -> Self {
        Self { result: path.to_path_buf(), lines: path.with_extension("predictions.jsonl") }
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
        let found = self.read()?;
        let wrong = |e| Error::Invalid(format!("{}: {e}", self.result.display()));
        let now = serde_json::to_value(settings).map_err(wrong)?;
        if decisive(found["settings"].clone()) != decisive(now) {
            return Ok(None);
        }
        self.check_lines(&found)?;
        let report = serde_json::from_value(found).map_err(wrong)?;
        Ok(Some(EvalResult { report, path: self.result.clone(), was_done: true }))
    }

    /// The result that stands there.
    ///
    /// # Errors
    /// Names a file that is cut off or altered.
    pub(super) fn read(&self) -> Result<Value> {
        sealed::read(&self.result, "remove it and evaluate again")
    }

    /// The lines of the result that stands there.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn read_lines<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        self.check_lines(&self.read()?)?;
        files::read_json_lines(&self.lines)
    }

    /// Refuses lines that are not those written with the result `found`.
    fn check_lines(&self, found: &Value) -> Result<()> {
        let written = found["lines_sha256"].as_str();
        // None in a result of an older version.
        if written.is_some_and(|w| files::digest(&self.lines).is_ok_and(|digest| digest != w)) {
            invalid!(
                "{}: was cut off or altered: its SHA-256 is not the one in {}; put it back, or remove both and \
                 evaluate again",
                self.lines.display(),
                self.result.display()
            );
        }
        Ok(())
    }

    /// Writes a result and its lines. What stood there does until both are whole; then it goes, and the lines come
    /// first: where a result stands, its lines do.
    pub(super) fn write<R: Serialize, L: Serialize>(
        self,
        report: R,
        lines: &[L],
    ) -> Result<EvalResult<R>> {
        // Made whole while others stand in their place.
        let [new_result, new_lines] =
            [&self.result, &self.lines].map(|of| files::beside(of, ".new"));
        let written = files::write_json_lines(&new_lines, lines).and_then(|()| {
            let lines_sha256 = files::digest(&new_lines)?;
            sealed::write(&new_result, &Sealed { report: &report, lines_sha256 })
        });
        let placed = written.and_then(|()| {
            files::remove(&self.result)?;
            fs::rename(&new_lines, &self.lines).map_err(Error::io(&self.lines))?;
            fs::rename(&new_result, &self.result).map_err(Error::io(&self.result))
        });
        if placed.is_err() {
            // What went wrong is worth telling, and not that this does, too.
            let _ = files::remove(&new_lines).and_then(|()| files::remove(&new_result));
        }
        placed?;
        Ok(EvalResult { report, path: self.result, was_done: false })
    }
}

impl<S> EvalResult<Ranking<S>> {
    /// What was recommended, a line a user.
    pub fn predictions(&self) -> Result<Vec<Prediction>> {
        Kept::at(&self.path).read_lines()
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

    /// What cannot be written, as on a disk that is full.
    #[derive(Debug)]
    struct Unwritable;

    impl Serialize for Unwritable {
        fn serialize<S: serde::Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("no space is left"))
        }
    }

    #[test]
    fn a_write_that_ends_early_leaves_no_result_beside_other_lines() {
        let dir = tempfile::tempdir().unwrap();
        let kept = || Kept::new(dir.path(), "test");
        let (one, other) = (json!({ "settings": 1 }), json!({ "settings": 2 }));
        kept().write(one, &["one"]).unwrap();
        assert!(kept().find::<Value>(&1, false).unwrap().is_some());
        assert_eq!(kept().read_lines::<String>().unwrap(), ["one"]);
        std::fs::write(kept().lines, "\"two\"\n").unwrap();
        let error = kept().find::<Value>(&1, false).unwrap_err().to_string();
        assert!(error.contains("test.predictions.jsonl: was cut off or altered"), "{error}");
        // What stood stays where the new lines cannot be written to their end.
        std::fs::write(kept().lines, "\"one\"\n").unwrap();
        kept().write(json!({ "settings": 2 }), &[Ok("two"), Err(Unwritable)]).unwrap_err();
        kept().write(Unwritable, &["two"]).unwrap_err();
        assert!(kept().find::<Value>(&1, false).unwrap().is_some());
        assert_eq!(kept().read_lines::<String>().unwrap(), ["one"]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "something is left");
        // Lines that cannot be put in place.
        std::fs::remove_file(kept().lines).unwrap();
        std::fs::create_dir(kept().lines).unwrap();
        kept().write(other, &["other"]).unwrap_err();
        assert!(kept().find::<Value>(&1, false).unwrap().is_none());
    }
}
