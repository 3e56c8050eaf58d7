//! Whether the files of a run are still those that its stages wrote.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::MANIFEST;
use super::manifest::Record;
use super::stage::Stage;
use crate::{Error, Result, files, invalid};

/// The file that keeps digests from being computed again while size and time of a file stand.
pub(super) const CACHE: &str = "digests.json";

/// A file as it was when its digest was computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    bytes: u64,
    /// When it was written, and when anything of it was changed last, which no program can set.
    modified: String,
    sha256: String,
}

/// Refuses where a file that `stage` wrote has other bytes than `record` says, or is gone though it does not serve
/// training alone.
pub(super) fn check(dir: &Path, stage: Stage, record: &Record) -> Result<()> {
    check_files(dir, stage, record, false)
}

/// As [`check`], where no file may be gone.
pub(super) fn check_all(dir: &Path, stage: Stage, record: &Record) -> Result<()> {
    check_files(dir, stage, record, true)
}

/// The error of a file that `stage` wrote and that is there no longer.
pub(super) fn gone(path: &Path, stage: Stage, record: Option<&Record>) -> Error {
    let redo = record.map_or_else(|| stage.command().into(), |record| record.command(stage));
    Error::Invalid(format!(
        "{}: is gone, though `llmbs {redo}` wrote it; put it back, or redo the stage with `llmbs {redo} --force`",
        path.display()
    ))
}

/// Whether only training reads the file `name` of a stage.
fn serves_training(stage: Stage, name: &str) -> bool {
    match stage {
        Stage::Index => name != "index/index.json",
        Stage::Initial => name == "initial/projectors.safetensors",
        Stage::Anneal => false,
    }
}

/// When a file was written and, where the system tells it, when anything of it was changed last; as text, since JSON
/// numbers do not hold them.
fn times(metadata: &Metadata) -> String {
    let modified = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let modified = modified.map_or_else(String::new, |at| at.as_nanos().to_string());
    #[cfg(unix)]
    let modified = {
        use std::os::unix::fs::MetadataExt as _;
        format!("{modified} {}.{:09} {}", metadata.ctime(), metadata.ctime_nsec(), metadata.ino())
    };
    modified
}

/// The digests that a run folder knows.
struct Digests {
    path: PathBuf,
    known: BTreeMap<PathBuf, Known>,
    learnt: bool,
}

impl Digests {
    /// A cache that is missing or damaged is made anew; it decides nothing but time.
    fn read(dir: &Path) -> Self {
        let path = dir.join(CACHE);
        Self { known: files::read_json(&path).unwrap_or_default(), path, learnt: false }
    }

    /// The digest of the file at `path`, which is kept as `name`; one that is not `expected` is computed again, before
    /// anything is refused.
    fn of(
        &mut self,
        name: &Path,
        path: &Path,
        metadata: &Metadata,
        expected: Option<&str>,
    ) -> Result<String> {
        let modified = times(metadata);
        if let Some(then) = self.known.get(name)
            && (then.bytes, &then.modified) == (metadata.len(), &modified)
            && expected.is_none_or(|expected| then.sha256 == expected)
        {
            return Ok(then.sha256.clone());
        }
        let sha256 = files::digest(path)?;
        let known = Known { bytes: metadata.len(), modified, sha256: sha256.clone() };
        self.known.insert(name.into(), known);
        self.learnt = true;
        Ok(sha256)
    }

    /// In a folder that cannot be written to, digests are computed every time.
    fn keep(&self) {
        if self.learnt
            && let Err(e) = files::write_json(&self.path, &self.known)
        {
            tracing::debug!("{}: {e}", self.path.display());
        }
    }
}

/// One digest of files outside of the run folder `dir`, in their order.
pub(super) fn of_others(dir: &Path, paths: &[PathBuf]) -> Result<String> {
    // Before there is a run, nothing is kept for it.
    let mut digests = Digests::read(dir);
    let mut all = String::new();
    for path in paths {
        let path = path.canonicalize().map_err(Error::io(path))?;
        let metadata = std::fs::metadata(&path).map_err(Error::io(&path))?;
        all += &digests.of(&path, &path, &metadata, None)?;
    }
    if dir.join(MANIFEST).exists() {
        digests.keep();
    }
    Ok(files::digest_of(all.as_bytes()))
}

fn check_files(dir: &Path, stage: Stage, record: &Record, all: bool) -> Result<()> {
    let mut digests = Digests::read(dir);
    for (name, digest) in &record.outputs {
        let path = dir.join(name);
        let redo = record.command(stage);
        let mut parts = Path::new(name).components();
        if !parts.all(|part| matches!(part, Component::Normal(_))) {
            invalid!(
                "{}: names {name:?}, a file outside of the run folder; it is not the one that `llmbs` wrote: \
                 put it back, or redo the stage with `llmbs {redo} --force`",
                dir.join(MANIFEST).display()
            );
        }
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            // A run folder may be handed on without what only training reads.
            Err(e) if e.kind() == ErrorKind::NotFound && !all && serves_training(stage, name) => {
                continue;
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(gone(&path, stage, Some(record)));
            }
            Err(e) => return Err(Error::io(path)(e)),
        };
        let found = digests.of(Path::new(name), &path, &metadata, Some(digest))?;
        if found != *digest {
            invalid!(
                "{}: not the file that `llmbs {redo}` wrote: its SHA-256 differs from that in \
                 manifest.json; put the file back, or redo the stage with `llmbs {redo} --force`",
                path.display()
            );
        }
    }
    digests.keep();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(dir: &Path, name: &str) -> Record {
        let digest = files::digest(&dir.join(name)).unwrap();
        Record { outputs: [(name.to_string(), digest)].into(), ..Record::default() }
    }

    #[test]
    fn a_changed_file_is_told_whatever_the_cache_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        std::fs::write(&path, "weights").unwrap();
        let record = record(dir.path(), "model");
        let checked = || check(dir.path(), Stage::Initial, &record).map_err(|e| e.to_string());
        checked().unwrap();
        assert!(dir.path().join(CACHE).exists());
        checked().unwrap();

        // As many bytes as before.
        std::fs::write(&path, "weighty").unwrap();
        let error = checked().unwrap_err();
        assert!(error.contains("model: not the file") && error.contains("--force"), "{error}");
        std::fs::write(dir.path().join(CACHE), "no JSON").unwrap();
        checked().unwrap_err();
        std::fs::write(&path, "weights").unwrap();
        checked().unwrap();
        // A cache that says something else of the right file.
        let cache = std::fs::read_to_string(dir.path().join(CACHE)).unwrap();
        let digest = &record.outputs["model"];
        std::fs::write(dir.path().join(CACHE), cache.replace(digest, "0")).unwrap();
        checked().unwrap();

        std::fs::remove_file(&path).unwrap();
        let error = checked().unwrap_err();
        assert!(error.contains("model: is gone") && error.contains("--force"), "{error}");
    }

    #[test]
    fn a_manifest_names_files_of_its_folder_alone() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["../model", "/dev/zero", "index/../../model"] {
            let outputs = [(name.to_string(), String::new())].into();
            let record = Record { outputs, ..Record::default() };
            let error = check(dir.path(), Stage::Index, &record).unwrap_err().to_string();
            assert!(error.contains("outside of the run folder") && error.contains(name), "{error}");
        }
    }
}
