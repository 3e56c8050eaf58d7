//! The state of an unfinished training run on disk: everything a resumed one needs to be equal to an
//! uninterrupted one. Random streams need no saving: they are named by their position.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::model::{load_safetensors, save_safetensors};
use crate::nn::{AdamW, Average, Params};
use crate::{Error, Result, files, invalid};

/// Where a run stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Optimiser steps taken.
    pub(super) step: u64,
    /// The epoch under way, from 0.
    pub(super) epoch: u64,
    /// Batches of it that are done.
    pub(super) batches: usize,
    /// No epoch was better for too long: there is nothing left to do.
    pub(super) ended: bool,
    /// The best validation metric and its epoch.
    pub(super) best: Option<(f64, u64)>,
    /// SHA-256 of the parameters of that epoch.
    pub(super) best_sha256: Option<String>,
}

/// `progress.json`
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    #[serde(flatten)]
    progress: Progress,
    /// SHA-256 of the files beside it.
    sha256: BTreeMap<String, String>,
}

/// The folder the state lives in.
#[derive(Debug, Clone)]
pub(super) struct StateDir {
    dir: PathBuf,
}

const PARAMS: &str = "params.safetensors";
const MOMENTS: &str = "moments.safetensors";
const AVERAGE: &str = "average.safetensors";
const PROGRESS: &str = "progress.json";
/// What the files of the best epochs begin with.
const BEST: &str = "best-";

impl StateDir {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf() }
    }

    fn latest(&self) -> PathBuf {
        let latest = self.dir.join("latest");
        // A replacement cut off between its two renames leaves the older state under this name.
        let old = self.dir.join("latest.old");
        if !latest.exists() && old.exists() { old } else { latest }
    }

    /// The file of the best epoch; each has one of its own, so that the state saved before still finds the
    /// one it means.
    fn best(&self, epoch: u64) -> PathBuf {
        self.dir.join(format!("{BEST}{epoch}.safetensors"))
    }

    pub(super) fn save(
        &self,
        progress: &Progress,
        params: &Params,
        adam: &AdamW,
        average: Option<&Average>,
    ) -> Result<()> {
        files::build_dir(&self.dir.join("latest"), |new| {
            let mut sha256 = BTreeMap::new();
            let mut write = |name: &str, values: &BTreeMap<String, Tensor>| {
                save_safetensors(new.join(name), values)?;
                sha256.insert(name.to_string(), files::digest(&new.join(name))?);
                Ok::<_, Error>(())
            };
            write(PARAMS, &values(params))?;
            write(MOMENTS, &adam.state(params)?)?;
            if let Some(average) = average {
                write(AVERAGE, average.state())?;
            }
            files::write_json(&new.join(PROGRESS), &Saved { progress: progress.clone(), sha256 })
        })?;
        self.forget_all_but(progress.best.map(|(_, epoch)| epoch))
    }

    /// Removes the parameters of epochs that are the best no longer.
    fn forget_all_but(&self, epoch: Option<u64>) -> Result<()> {
        let kept = epoch.map(|epoch| self.best(epoch));
        for entry in fs::read_dir(&self.dir).map_err(Error::io(&self.dir))? {
            let path = entry.map_err(Error::io(&self.dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(BEST) && Some(&path) != kept.as_ref() {
                fs::remove_file(&path).map_err(Error::io(&path))?;
            }
        }
        Ok(())
    }

    /// The progress saved last, with parameters, optimiser and average put back to it; `None` at a fresh
    /// start.
    ///
    /// # Errors
    /// Files that are not those that were saved.
    pub(super) fn restore(
        &self,
        params: &Params,
        adam: &mut AdamW,
        average: Option<&mut Average>,
        device: &Device,
    ) -> Result<Option<Progress>> {
        let latest = self.latest();
        if !latest.exists() {
            return Ok(None);
        }
        let Saved { progress, sha256 } = files::read_json(&latest.join(PROGRESS))?;
        let read = |name: &str| {
            let path = latest.join(name);
            check(&path, sha256.get(name))?;
            load_safetensors(path, device)
        };
        put_back(params, &read(PARAMS)?)?;
        adam.restore(progress.step, &read(MOMENTS)?)?;
        if let Some(average) = average {
            average.restore(&read(AVERAGE)?)?;
        }
        Ok(Some(progress))
    }

    /// Keeps the parameters as those of the best epoch; gives their file's SHA-256.
    pub(super) fn save_best(&self, params: &Params, epoch: u64) -> Result<String> {
        fs::create_dir_all(&self.dir).map_err(Error::io(&self.dir))?;
        let path = self.best(epoch);
        save_safetensors(&path, &values(params))?;
        files::digest(&path)
    }

    pub(super) fn restore_best(
        &self,
        progress: &Progress,
        params: &Params,
        device: &Device,
    ) -> Result<()> {
        let Some((_, epoch)) = progress.best else { return Ok(()) };
        let path = self.best(epoch);
        check(&path, progress.best_sha256.as_ref())?;
        put_back(params, &load_safetensors(path, device)?)
    }
}

/// Refuses a file with other bytes than were saved.
fn check(path: &Path, sha256: Option<&String>) -> Result<()> {
    if sha256 == Some(&files::digest(path)?) {
        return Ok(());
    }
    invalid!(
        "{}: not the file that training saved: its SHA-256 differs from that in {PROGRESS}; redo the \
         stage with --force",
        path.display()
    );
}

/// The parameters as they are, without a copy.
fn values(params: &Params) -> BTreeMap<String, Tensor> {
    params.tensors().map(|(name, t)| (name.to_string(), t.detach())).collect()
}

fn put_back(params: &Params, values: &BTreeMap<String, Tensor>) -> Result<()> {
    let names: Vec<String> = params.names().map(String::from).collect();
    for name in names {
        match values.get(&name) {
            Some(value) => params.set(&name, value)?,
            None => invalid!(
                "the saved training state lacks {name}: it is of another model; redo the stage with \
                 --force"
            ),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    #[test]
    fn progress_comes_back_to_the_last_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PROGRESS);
        let mut stream = rng::stream(1, "metrics", &[]);
        for epoch in 0..200 {
            let best = Some((rng::uniform(&mut stream), epoch));
            let saved = Saved {
                progress: Progress { epoch, best, ..Progress::default() },
                sha256: BTreeMap::new(),
            };
            files::write_json(&path, &saved).unwrap();
            let found: Saved = files::read_json(&path).unwrap();
            assert_eq!(found.progress, saved.progress);
        }
    }

    #[test]
    fn altered_states_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        let mut params = Params::new();
        let zeros = Tensor::zeros((2, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        params.insert("w", &zeros).unwrap();
        let mut adam = AdamW::new(&params, crate::nn::AdamWConfig::default()).unwrap();
        let sha256 = state.save_best(&params, 3).unwrap();
        let progress =
            Progress { best: Some((0.5, 3)), best_sha256: Some(sha256), ..Progress::default() };
        state.save(&progress, &params, &adam, None).unwrap();
        assert_eq!(
            state.restore(&params, &mut adam, None, &Device::Cpu).unwrap(),
            Some(progress.clone())
        );
        state.restore_best(&progress, &params, &Device::Cpu).unwrap();

        for name in ["latest/params.safetensors", "latest/moments.safetensors"] {
            let path = dir.path().join(name);
            let whole = fs::read(&path).unwrap();
            let mut altered = whole.clone();
            *altered.last_mut().unwrap() ^= 1;
            fs::write(&path, altered).unwrap();
            let error = state.restore(&params, &mut adam, None, &Device::Cpu).unwrap_err();
            assert!(error.to_string().contains("SHA-256"), "{error}");
            fs::write(&path, whole).unwrap();
        }
        let other = Progress { best_sha256: Some("0".into()), ..progress };
        state.restore_best(&other, &params, &Device::Cpu).unwrap_err();
    }
}
