//! What is done of a long embedding, on disk: files that are whole or absent, in a folder named after what
//! is embedded.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use ndarray::{Array2, Axis, concatenate};

use crate::model::{load_safetensors, save_safetensors};
use crate::{Error, Result, files, invalid};

/// The name of the tensor in a part, (texts, hidden), f32.
const TENSOR: &str = "means";

/// Embedded texts, in files that begin where the one before ends.
#[derive(Debug)]
pub struct Parts {
    dir: PathBuf,
    /// A part is written when it is this old.
    every: Duration,
    /// Means not yet written, and the first text of them.
    pending: Vec<Array2<f32>>,
    first: usize,
    since: Instant,
}

impl Parts {
    /// Opens the parts of the embedding `key` in `dir`; those of another one are removed.
    pub fn open(dir: &Path, key: &str, every: Duration) -> Result<Self> {
        let own = dir.join(key);
        if !own.exists() {
            files::remove_dir(dir)?;
            std::fs::create_dir_all(&own).map_err(Error::io(&own))?;
        }
        Ok(Self { dir: own, every, pending: Vec::new(), first: 0, since: Instant::now() })
    }

    fn path(&self, first: usize) -> PathBuf {
        self.dir.join(format!("texts-{first}.safetensors"))
    }

    /// The part that begins with text `first`, where there is one; `left` texts are left.
    pub(super) fn read(
        &self,
        first: usize,
        left: usize,
        width: usize,
    ) -> Result<Option<Array2<f32>>> {
        let path = self.path(first);
        if left == 0 || !path.exists() {
            return Ok(None);
        }
        let tensor = load_safetensors(&path, &Device::Cpu)?.remove(TENSOR);
        let means = tensor.map(|t| matrix(&t)).transpose()?;
        match means.filter(|means| (1..=left).contains(&means.nrows()) && means.ncols() == width) {
            Some(means) => Ok(Some(means)),
            None => invalid!(
                "{}: not a part of this embedding; remove the folder to begin again",
                path.display()
            ),
        }
    }

    /// Takes the means of the texts from `first` on, which follow the ones before, and writes a part when
    /// it is time.
    pub(super) fn push(&mut self, first: usize, means: Array2<f32>) -> Result<()> {
        if self.pending.is_empty() {
            self.first = first;
        }
        self.pending.push(means);
        if self.since.elapsed() >= self.every { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let views: Vec<_> = self.pending.iter().map(Array2::view).collect();
        let means = concatenate(Axis(0), &views)
            .map_err(|e| Error::Invalid(format!("{}: {e}", self.dir.display())))?;
        let tensor =
            Tensor::from_iter(means.iter().copied(), &Device::Cpu)?.reshape(means.dim())?;
        save_safetensors(self.path(self.first), &[(TENSOR.to_string(), tensor)].into())?;
        self.pending.clear();
        self.since = Instant::now();
        Ok(())
    }
}

/// A tensor of two dimensions as an array, in f32.
pub(super) fn matrix(tensor: &Tensor) -> Result<Array2<f32>> {
    let (rows, columns) = tensor.dims2()?;
    let values = tensor.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1()?;
    Array2::from_shape_vec((rows, columns), values).map_err(|e| Error::Invalid(e.to_string()))
}
