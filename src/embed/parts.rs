//! What is done of a long embedding, on disk: files that are whole or absent, in a folder named after what
//! is embedded.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use ndarray::{Array2, Axis, concatenate};

use crate::model::{digest_weights, load_safetensors, safetensors_metadata, save_safetensors_with};
use crate::{Error, Result, files};

/// The name of the tensor in a part, (texts, hidden), f32.
const TENSOR: &str = "means";
/// The entry of a part's header that tells a damaged one.
const DIGEST: &str = "digest";

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
            files::make_dir(&own)?;
        }
        Ok(Self { dir: own, every, pending: Vec::new(), first: 0, since: Instant::now() })
    }

    fn path(&self, first: usize) -> PathBuf {
        self.dir.join(format!("texts-{first}.safetensors"))
    }

    /// The part that begins with text `first`, where there is one; `left` texts are left.
    pub(super) fn read(&self, first: usize, left: usize, width: usize) -> Option<Array2<f32>> {
        let path = self.path(first);
        if left == 0 || !path.exists() {
            return None;
        }
        let fits =
            |means: &Array2<f32>| (1..=left).contains(&means.nrows()) && means.ncols() == width;
        let means = read_part(&path).ok().flatten().filter(fits);
        if means.is_none() {
            tracing::warn!(
                "{}: not as it was written; its texts are embedded anew",
                path.display()
            );
        }
        means
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
        let tensors = [(TENSOR.to_string(), tensor)].into();
        let digest = digest_weights(&tensors);
        save_safetensors_with(self.path(self.first), &tensors, (DIGEST, &digest))?;
        self.pending.clear();
        self.since = Instant::now();
        Ok(())
    }
}

/// What a part holds, if it is what was written.
fn read_part(path: &Path) -> Result<Option<Array2<f32>>> {
    let digest = safetensors_metadata(path)?.remove(DIGEST);
    let tensors = load_safetensors(path, &Device::Cpu)?;
    let whole = digest.is_some_and(|digest| digest == digest_weights(&tensors));
    tensors.get(TENSOR).filter(|_| whole).map(matrix).transpose()
}

/// A tensor of two dimensions as an array, in f32.
pub(super) fn matrix(tensor: &Tensor) -> Result<Array2<f32>> {
    let (rows, columns) = tensor.dims2()?;
    let values = tensor.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1()?;
    Array2::from_shape_vec((rows, columns), values).map_err(|e| Error::Invalid(e.to_string()))
}
