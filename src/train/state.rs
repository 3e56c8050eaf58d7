//! The state of an unfinished training run on disk: everything a resumed one needs to be equal to an
//! uninterrupted one. Random streams need no saving: they are named by their position.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::model::{load_safetensors, save_safetensors};
use crate::nn::{AdamW, Params};
use crate::{Error, Result, files};

/// Where a run stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Optimiser steps taken.
    pub(super) step: u64,
    /// The epoch under way, from 0.
    pub(super) epoch: u64,
    /// Batches of it that are done.
    pub(super) batches: usize,
    /// The best validation metric and its epoch.
    pub(super) best: Option<(f64, u64)>,
}

/// The folder the state lives in.
#[derive(Debug, Clone)]
pub(super) struct StateDir {
    dir: PathBuf,
}

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

    fn best(&self) -> PathBuf {
        self.dir.join("best.safetensors")
    }

    pub(super) fn save(&self, progress: &Progress, params: &Params, adam: &AdamW) -> Result<()> {
        let new = self.dir.join("latest.new");
        files::remove_dir(&new)?;
        std::fs::create_dir_all(&new).map_err(Error::io(&new))?;
        save_safetensors(new.join("params.safetensors"), &values(params))?;
        save_safetensors(new.join("moments.safetensors"), &adam.state(params)?)?;
        files::write_json(&new.join("progress.json"), progress)?;
        files::replace_dir(&new, &self.dir.join("latest"))
    }

    /// The progress saved last, with parameters and optimiser put back to it; `None` at a fresh start.
    pub(super) fn restore(
        &self,
        params: &Params,
        adam: &mut AdamW,
        device: &Device,
    ) -> Result<Option<Progress>> {
        let latest = self.latest();
        if !latest.exists() {
            return Ok(None);
        }
        let progress: Progress = files::read_json(&latest.join("progress.json"))?;
        put_back(params, &load_safetensors(latest.join("params.safetensors"), device)?)?;
        let moments = load_safetensors(latest.join("moments.safetensors"), device)?;
        adam.restore(progress.step, &moments)?;
        Ok(Some(progress))
    }

    pub(super) fn save_best(&self, params: &Params) -> Result<()> {
        std::fs::create_dir_all(&self.dir).map_err(Error::io(&self.dir))?;
        save_safetensors(self.best(), &values(params))
    }

    pub(super) fn restore_best(&self, params: &Params, device: &Device) -> Result<()> {
        put_back(params, &load_safetensors(self.best(), device)?)
    }
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
            None => crate::invalid!(
                "the saved training state lacks {name}: it is of another model; redo the stage with --force"
            ),
        }
    }
    Ok(())
}
