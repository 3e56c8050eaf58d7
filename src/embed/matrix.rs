//! Embedding matrices in files: the ones made here, and a user's own.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use ndarray::Array2;

use super::parts::matrix;
use crate::model::{load_safetensors, safetensors_metadata, save_safetensors_with};
use crate::{Error, Result, invalid};

/// The tensor of a safetensors file that holds the matrix.
const TENSOR: &str = "embeddings";

/// Where the metadata of a file says what was embedded.
const KEY: &str = "embedding";

/// Reads the embeddings of `items` items, (items, dim), row = item id, in f32, f16, bf16 or f64: a
/// `.npy` file, or the tensor `embeddings` of a safetensors file.
///
/// # Errors
/// Names the file, and the row and column of a value that is not finite in f32.
pub fn load_embeddings(path: &Path, items: usize) -> Result<Array2<f32>> {
    let place = path.display();
    if !path.is_file() {
        invalid!("{place}: not found, or not a file");
    }
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    let tensor = match extension.to_str() {
        Some("npy") => read_npy(path)?,
        Some("safetensors") => match load_safetensors(path, &Device::Cpu)?.remove(TENSOR) {
            Some(tensor) => tensor,
            None => invalid!("{place}: has no tensor named {TENSOR}"),
        },
        _ => invalid!("{place}: embeddings are read from .npy and .safetensors files"),
    };
    let shape = tensor.dims().to_vec();
    if !matches!(tensor.dtype(), DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
        invalid!("{place}: holds {:?} values, expected f32, f16, bf16 or f64", tensor.dtype());
    }
    let [rows, columns] = shape[..] else {
        invalid!("{place}: has the shape {shape:?}, expected (items, dim)");
    };
    if rows != items {
        invalid!("{place}: has {rows} rows, the dataset has {items} items: a row an item, by item id");
    }
    if columns == 0 {
        invalid!("{place}: its rows have no columns");
    }
    let matrix = matrix(&tensor)?;
    if let Some(((row, column), value)) = matrix.indexed_iter().find(|(_, v)| !v.is_finite()) {
        invalid!("{place}: row {row}, column {column} is {value} in f32: values must be finite");
    }
    Ok(matrix)
}

/// The array of a NumPy file.
fn read_npy(path: &Path) -> Result<Tensor> {
    Tensor::read_npy(path).map_err(|e| {
        let cause = match e {
            candle_core::Error::Npy(cause) if cause.contains("fortran") => {
                "its values lie column by column; save it with numpy.ascontiguousarray".into()
            }
            candle_core::Error::Npy(cause) => cause,
            other => other.to_string(),
        };
        Error::Invalid(format!("{}: not a readable NumPy file: {cause}", path.display()))
    })
}

/// Writes embeddings, (items, dim), as [`load_embeddings`] reads them; `key` says what was embedded.
pub fn save_embeddings(path: &Path, matrix: &Array2<f32>, key: Option<&str>) -> Result<()> {
    let tensor = Tensor::from_iter(matrix.iter().copied(), &Device::Cpu)?.reshape(matrix.dim())?;
    let metadata: Vec<_> = key.map(|key| (KEY, key)).into_iter().collect();
    save_safetensors_with(path, &[(TENSOR.to_string(), tensor)].into(), &metadata)
}

/// The embeddings of `items` items in `path`, where they are there, whole and of `key`.
pub fn load_kept(path: &Path, items: usize, key: &str) -> Option<Array2<f32>> {
    let metadata = safetensors_metadata(path).ok()?;
    if metadata.get(KEY).map(String::as_str) != Some(key) {
        return None;
    }
    load_embeddings(path, items).ok()
}
