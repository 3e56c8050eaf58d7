//! What is being made: a stage builds in `unfinished/STAGE/`, and what stood before it does so until the new
//! result is whole.
//!
//! `result/` there is laid out as the run folder is. When all of it is written, its record says so; then its
//! folders take their places and the record becomes that of the stage. A process killed in between leaves a
//! record from which the next one that opens the run does the rest.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use super::lock::Lock;
use super::manifest::{Manifest, Status};
use super::{CONFIG, MANIFEST, Run, Stage};
use crate::{Error, Result, files, invalid};

/// The folder.
pub(super) const UNFINISHED: &str = "unfinished";

/// How long, and how often, to look whether another process puts things in place.
const PATIENCE: (u32, Duration) = (100, Duration::from_millis(20));

impl Run {
    /// Where a stage keeps what it needs to go on.
    pub(super) fn workshop(&self, stage: Stage) -> PathBuf {
        workshop(&self.dir, stage)
    }

    /// Where a stage writes its result, as if it were the run folder.
    pub(super) fn result_of(&self, stage: Stage) -> PathBuf {
        self.workshop(stage).join("result")
    }

    /// Where a training stage saves its state.
    pub(super) fn state_of(&self, stage: Stage) -> PathBuf {
        self.workshop(stage).join("state")
    }
}

fn workshop(dir: &Path, stage: Stage) -> PathBuf {
    dir.join(UNFINISHED).join(stage.folder())
}

/// Where in `dir` a state is kept that `key` decides; one that is there of another key goes.
pub(super) fn kept_for(dir: &Path, key: &Value) -> Result<PathBuf> {
    let path = dir.join("key.json");
    if files::read_json::<Value>(&path).ok().as_ref() != Some(key) {
        files::remove_dir(dir)?;
        files::write_json(&path, key)?;
    }
    Ok(dir.join("state"))
}

/// Finishes what a process had made whole when it was killed; before anything in `dir` is read, its
/// configuration included.
pub(super) fn settle(dir: &Path) -> Result<()> {
    let path = dir.join(MANIFEST);
    let (tries, pause) = PATIENCE;
    for last in (0..tries).rev() {
        if !path.exists() || made(&Manifest::read(&path)?).is_none() {
            return Ok(());
        }
        let lock = Lock::default();
        match lock.take(dir) {
            Ok(_) => {
                let mut manifest = Manifest::read(&path)?;
                while let Some(stage) = made(&manifest) {
                    put_in_place(dir, &mut manifest, stage)?;
                }
                return Ok(());
            }
            Err(error) if last == 0 => return Err(error),
            // Whoever holds it has just made this, and is at it.
            Err(_) => sleep(pause),
        }
    }
    Ok(())
}

/// The configuration of the run in `dir`, where there is one.
///
/// # Errors
/// If a run is there and its configuration is gone, or not the one that its results were made with.
pub fn config_of(dir: &Path) -> Result<Option<PathBuf>> {
    settle(dir)?;
    let (path, manifest) = (dir.join(CONFIG), dir.join(MANIFEST));
    if !manifest.exists() {
        return Ok(Some(path).filter(|path| path.exists()));
    }
    let manifest = Manifest::read(&manifest)?;
    let written = manifest.config_sha256;
    if !path.exists() {
        if written.is_none() && manifest.stages.is_empty() {
            return Ok(None);
        }
        invalid!(
            "{}: is gone; put it back, or name the configuration of this run with --config",
            path.display()
        );
    }
    if written.is_some_and(|written| files::digest(&path).is_ok_and(|found| found != written)) {
        invalid!(
            "{}: does not match {MANIFEST} beside it: one of them was changed since the run wrote it; \
             put it back, or name the configuration with --config to use it as it is",
            path.display()
        );
    }
    Ok(Some(path))
}

/// A stage whose result is whole and not in its place.
fn made(manifest: &Manifest) -> Option<Stage> {
    let mut unfinished = manifest.unfinished.iter();
    unfinished.find(|(_, record)| record.status == Status::Done).map(|(&stage, _)| stage)
}

/// Puts the result of `stage` in its place, where it has been made whole; may be cut off and done again.
pub(super) fn put_in_place(dir: &Path, manifest: &mut Manifest, stage: Stage) -> Result<()> {
    let workshop = workshop(dir, stage);
    let result = workshop.join("result");
    if !result.exists() {
        invalid!(
            "{}: says that {} is whole in {}, where nothing is: put back the one of this run, or choose another \
             folder with --run",
            dir.join(MANIFEST).display(),
            stage.what(),
            result.display()
        );
    }
    for entry in fs::read_dir(&result).map_err(Error::io(&result))? {
        let entry = entry.map_err(Error::io(&result))?;
        let (from, to) = (entry.path(), dir.join(entry.file_name()));
        if from.is_dir() {
            files::replace_dir(&from, &to)?;
        } else {
            fs::rename(&from, &to).map_err(Error::io(&to))?;
        }
    }
    if let Some(record) = manifest.unfinished.remove(&stage) {
        // A folder was replaced, and the process killed before the one before it was gone.
        for name in record.outputs.keys() {
            if let Some(Component::Normal(folder)) = Path::new(name).components().next() {
                files::remove_dir(&files::replaced(&dir.join(folder)))?;
            }
        }
        manifest.stages.insert(stage, record);
    }
    for (_, later) in manifest.stages.iter_mut().filter(|(later, _)| **later > stage) {
        later.status = Status::Stale;
    }
    manifest.config_sha256 = Some(files::digest(&dir.join(CONFIG))?);
    manifest.write(dir)?;
    forget(&workshop)
}

/// Removes a folder of work in progress, and those it lies in where nothing else is there.
pub(super) fn forget(work: &Path) -> Result<()> {
    files::remove_dir(work)?;
    let inside = |dir: &&Path| dir.ancestors().any(|above| above.ends_with(UNFINISHED));
    for dir in work.ancestors().skip(1).take_while(inside) {
        let _ = fs::remove_dir(dir);
    }
    Ok(())
}
