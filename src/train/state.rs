//! The state of an unfinished training run on disk: everything a resumed one needs to be equal to an
//! uninterrupted one. Random streams need no saving: they are named by their position.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::model::{Snapshots, check_saved, load_safetensors, save_safetensors};
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
    /// Steps that changed nothing, since their loss or gradient was not finite.
    #[serde(default)]
    pub(super) skipped: u64,
    /// No epoch was better for too long: there is nothing left to do.
    pub(super) ended: bool,
    /// The best validation metric and its epoch.
    pub(super) best: Option<(f64, u64)>,
    /// SHA-256 of the parameters of that epoch.
    pub(super) best_sha256: Option<String>,
}

/// The folder the state lives in.
#[derive(Debug)]
pub(super) struct StateDir {
    snapshots: Snapshots,
}

const PARAMS: &str = "params.safetensors";
const MOMENTS: &str = "moments.safetensors";
const AVERAGE: &str = "average.safetensors";
/// What the files of the best epochs begin with.
const BEST: &str = "best-";

impl StateDir {
    pub(super) fn new(dir: &Path) -> Self {
        Self { snapshots: Snapshots::new(dir) }
    }

    /// How long ago a state was saved.
    pub(super) fn age(&self) -> Duration {
        self.snapshots.age()
    }

    /// The file of the best epoch; each has one of its own, so that the state saved before still finds the
    /// one it means.
    fn best(&self, epoch: u64) -> PathBuf {
        self.snapshots.dir().join(format!("{BEST}{epoch}.safetensors"))
    }

    pub(super) fn save(
        &mut self,
        progress: &Progress,
        params: &Params,
        moments: &BTreeMap<String, Tensor>,
        average: Option<&Average>,
    ) -> Result<()> {
        let params = values(params);
        let mut tensors = vec![(PARAMS, &params), (MOMENTS, moments)];
        tensors.extend(average.map(|average| (AVERAGE, average.state())));
        self.snapshots.save(progress, &tensors)?;
        self.forget_old()
    }

    /// Removes the parameters of epochs that no saved state calls the best.
    fn forget_old(&self) -> Result<()> {
        let dir = self.snapshots.dir();
        let known: Vec<Progress> = self.snapshots.progress();
        let kept: Vec<PathBuf> =
            known.iter().filter_map(|p| p.best).map(|(_, epoch)| self.best(epoch)).collect();
        for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
            let path = entry.map_err(Error::io(dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(BEST) && !kept.contains(&path) {
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
        let Some((progress, mut tensors)) = self.snapshots.load::<Progress>(device)? else {
            return Ok(None);
        };
        let mut take = |name: &str| tensors.remove(name).unwrap_or_default();
        put_back(params, &take(PARAMS))?;
        adam.restore(params, progress.step - progress.skipped, &take(MOMENTS))?;
        if let Some(average) = average {
            average.restore(&take(AVERAGE))?;
        }
        Ok(Some(progress))
    }

    /// Keeps the parameters as those of the best epoch; gives their file's SHA-256.
    pub(super) fn save_best(&self, params: &Params, epoch: u64) -> Result<String> {
        let path = self.best(epoch);
        files::make_dir(self.snapshots.dir())?;
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
        if let Err(error) = check_saved(&path, progress.best_sha256.as_deref().unwrap_or_default())
        {
            let dir = self.snapshots.dir().display();
            invalid!("{error}; put the file back, or remove {dir} to begin this training again");
        }
        put_back(params, &load_safetensors(path, device)?)
    }
}

/// The parameters as they are, without a copy.
fn values(params: &Params) -> BTreeMap<String, Tensor> {
    params.tensors().map(|(name, t)| (name.to_string(), t.detach())).collect()
}

fn put_back(params: &Params, values: &BTreeMap<String, Tensor>) -> Result<()> {
    params
        .restore(values)
        .map_err(|e| Error::Invalid(format!("the saved training state is of another model: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranks::Alone;
    use crate::rng;

    #[test]
    fn progress_comes_back_to_the_last_bit() {
        let dir = tempfile::tempdir().unwrap();
        let mut snapshots = Snapshots::new(dir.path());
        let mut stream = rng::stream(1, "metrics", &[]);
        for epoch in 0..50 {
            let best = Some((rng::uniform(&mut stream), epoch));
            let progress = Progress { epoch, best, ..Progress::default() };
            snapshots.save(&progress, &[]).unwrap();
            assert_eq!(snapshots.progress::<Progress>()[0], progress);
        }
    }

    #[test]
    fn the_best_epoch_of_every_saved_state_is_kept_and_altered_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = StateDir::new(dir.path());
        let mut params = Params::new();
        let zeros = Tensor::zeros((2, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        params.insert("w", &zeros).unwrap();
        let mut adam = AdamW::new(&params, crate::nn::AdamWConfig::default()).unwrap();
        let save = |state: &mut StateDir, epoch| {
            let sha256 = Some(state.save_best(&params, epoch).unwrap());
            let best = Some((0.5, epoch));
            let progress = Progress { best, best_sha256: sha256, ..Progress::default() };
            let moments = adam.state(&params, &Alone).unwrap();
            state.save(&progress, &params, &moments, None).unwrap();
            progress
        };
        let (first, second) = (save(&mut state, 3), save(&mut state, 4));
        for progress in [&first, &second] {
            state.restore_best(progress, &params, &Device::Cpu).unwrap();
        }
        let third = save(&mut state, 6);
        assert!(!state.best(3).exists() && state.best(4).exists());
        let found = state.restore(&params, &mut adam, None, &Device::Cpu).unwrap();
        assert_eq!(found, Some(third.clone()));

        let other = Progress { best_sha256: Some("0".into()), ..third };
        let error = state.restore_best(&other, &params, &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("best-6") && error.contains("remove"), "{error}");
    }
}
