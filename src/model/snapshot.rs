//! The state of a training on disk: tensors in files of their own, and beside them what else is known.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::checkpoint::{load_safetensors, save_safetensors};
use super::weights::Weights;
use crate::{Error, Result, files, invalid, sealed};

/// What else is known.
const PROGRESS: &str = "progress.json";
/// The state saved last, and the one before it.
const GENERATIONS: [&str; 2] = ["latest", "before"];
/// Saving takes at most one part in so many of the time, where [`Snapshots::is_due`] says when.
const SHARE: u32 = 50;

/// `progress.json`
#[derive(Debug, Serialize, Deserialize)]
struct Saved<T> {
    #[serde(flatten)]
    progress: T,
    /// SHA-256 of the files beside it.
    files: BTreeMap<String, String>,
}

/// A folder with the last two states of a training: each is whole or absent, and the older one serves where the
/// newer is damaged.
#[derive(Debug)]
pub struct Snapshots {
    dir: PathBuf,
    since: Instant,
    took: Duration,
}

impl Snapshots {
    /// Those in `dir`, which need not exist yet.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf(), since: Instant::now(), took: Duration::ZERO }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How long ago a state was saved, or this was opened.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether the time since the last state is so long that saving another costs hardly any of it.
    pub fn is_due(&self) -> bool {
        self.age() >= self.took * SHARE
    }

    /// Saves a state: `progress`, and files of tensors by name.
    pub fn save(
        &mut self,
        progress: &impl Serialize,
        tensors: &[(&str, &BTreeMap<String, Tensor>)],
    ) -> Result<()> {
        let start = Instant::now();
        let new = self.dir.join("new");
        files::remove_dir(&new)?;
        files::make_dir(&new)?;
        let mut sha256 = BTreeMap::new();
        for (name, values) in tensors {
            let path = new.join(name);
            save_safetensors(&path, values)?;
            sha256.insert((*name).to_string(), files::digest(&path)?);
        }
        sealed::write(&new.join(PROGRESS), &Saved { progress, files: sha256 })?;
        let [latest, before] = GENERATIONS.map(|name| self.dir.join(name));
        if latest.exists() {
            files::remove_dir(&before)?;
            fs::rename(&latest, &before).map_err(Error::io(&latest))?;
        }
        fs::rename(&new, &latest).map_err(Error::io(&latest))?;
        (self.since, self.took) = (Instant::now(), start.elapsed());
        tracing::debug!("{}: saved in {:.3} s", latest.display(), self.took.as_secs_f64());
        Ok(())
    }

    /// The newest state that is whole, its tensors by file; `None` where none was saved.
    ///
    /// # Errors
    /// Names a file that is not the one that was saved, where no other state takes its place.
    pub fn load<T: DeserializeOwned>(
        &self,
        device: &Device,
    ) -> Result<Option<(T, BTreeMap<String, Weights>)>> {
        let mut damage = None;
        for dir in GENERATIONS.map(|name| self.dir.join(name)) {
            if !dir.exists() {
                continue;
            }
            match read(&dir, device) {
                Ok(state) => {
                    if let Some(damage) = damage {
                        tracing::warn!("{damage}; {} takes its place", dir.display());
                    }
                    return Ok(Some(state));
                }
                Err(error) => damage = damage.or(Some(error)),
            }
        }
        match damage {
            None => Ok(None),
            Some(damage) => invalid!(
                "{damage}; put the file back, or remove {} to begin this training again",
                self.dir.display()
            ),
        }
    }

    /// What is known beside the tensors of the states there are, newest first; of those that can be read.
    pub fn progress<T: DeserializeOwned>(&self) -> Vec<T> {
        let paths = GENERATIONS.map(|name| self.dir.join(name).join(PROGRESS));
        let read = |path: &PathBuf| sealed::read::<Saved<T>>(path, "").ok();
        paths.iter().filter_map(read).map(|saved| saved.progress).collect()
    }
}

fn read<T: DeserializeOwned>(
    dir: &Path,
    device: &Device,
) -> Result<(T, BTreeMap<String, Weights>)> {
    let Saved { progress, files } = sealed::read(&dir.join(PROGRESS), "do without it")?;
    let mut tensors = BTreeMap::new();
    for (name, digest) in &files {
        let path = dir.join(name);
        check_saved(&path, digest)?;
        tensors.insert(name.clone(), load_safetensors(path, device)?);
    }
    Ok((progress, tensors))
}

/// Refuses a file with other bytes than were saved.
pub fn check_saved(path: &Path, sha256: &str) -> Result<()> {
    if files::digest(path)? != sha256 {
        invalid!(
            "{}: not the file that was saved: its SHA-256 differs from that in {PROGRESS}",
            path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    fn tensors(value: f64) -> BTreeMap<String, Tensor> {
        let zeros = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
        [("w".to_string(), (zeros + value).unwrap())].into()
    }

    fn load(dir: &Path) -> Result<Option<(Vec<f64>, f32)>> {
        #[derive(Deserialize)]
        struct Of {
            of: Vec<f64>,
        }
        let found = Snapshots::new(dir).load::<Of>(&Device::Cpu)?;
        Ok(found.map(|(Of { of }, files)| {
            (of, files["a"]["w"].flatten_all().unwrap().to_vec1::<f32>().unwrap()[0])
        }))
    }

    #[test]
    fn the_older_state_takes_the_place_of_a_damaged_one() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(load(dir).unwrap().is_none());
        let mut snapshots = Snapshots::new(dir);
        for value in [1.5, 2.5, 1.0 / 3.0] {
            let progress = serde_json::json!({ "of": [value] });
            snapshots.save(&progress, &[("a", &tensors(value))]).unwrap();
        }
        assert_eq!(load(dir).unwrap(), Some((vec![1.0 / 3.0], (1.0f64 / 3.0) as f32)));

        for name in ["a", PROGRESS] {
            let path = dir.join("latest").join(name);
            let whole = fs::read(&path).unwrap();
            let mut altered = whole.clone();
            *altered.last_mut().unwrap() ^= 1;
            for damaged in [&altered[..], &whole[..whole.len() / 2], &[]] {
                fs::write(&path, damaged).unwrap();
                assert_eq!(load(dir).unwrap(), Some((vec![2.5], 2.5)), "{name}");
            }
            fs::write(&path, whole).unwrap();
        }
        // A process that was killed between the two renames of a replacement.
        fs::rename(dir.join("latest"), dir.join("new")).unwrap();
        assert_eq!(load(dir).unwrap(), Some((vec![2.5], 2.5)));

        fs::write(dir.join("before/a"), "").unwrap();
        let error = load(dir).unwrap_err().to_string();
        assert!(error.contains("before/a") && error.contains("SHA-256"), "{error}");
        assert!(error.contains("remove"), "{error}");
    }
}
