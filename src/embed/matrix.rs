//! Embedding matrices in files: the ones made here, and a user's own.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use ndarray::Array2;

use super::npy;
use super::parts::matrix;
use crate::model::{
    load_safetensors, safetensors_metadata, save_safetensors, save_safetensors_with,
};
use crate::{Result, invalid};

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
        Some("npy") => npy::read(path)?,
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
        invalid!(
            "{place}: has {rows} rows, the dataset has {items} items: a row an item, by item id"
        );
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

/// Writes embeddings, (items, dim), as [`load_embeddings`] reads them; `key` says what was embedded.
pub fn save_embeddings(path: &Path, matrix: &Array2<f32>, key: Option<&str>) -> Result<()> {
    let tensor = Tensor::from_iter(matrix.iter().copied(), &Device::Cpu)?.reshape(matrix.dim())?;
    let tensors = [(TENSOR.to_string(), tensor)].into();
    match key {
        Some(key) => save_safetensors_with(path, &tensors, (KEY, key)),
        None => save_safetensors(path, &tensors),
    }
}

/// The embeddings of `items` items in `path`, where they are there, whole and of `key`.
pub fn load_kept(path: &Path, items: usize, key: &str) -> Option<Array2<f32>> {
    let metadata = safetensors_metadata(path).ok()?;
    if metadata.get(KEY).map(String::as_str) != Some(key) {
        return None;
    }
    load_embeddings(path, items).ok()
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn error(path: &Path, items: usize) -> String {
        load_embeddings(path, items).unwrap_err().to_string()
    }

    #[test]
    fn matrices_are_read_in_every_float_and_from_both_formats() {
        let folder = tempfile::tempdir().unwrap();
        let z = array![[1.5f32, -2.0], [0.25, 3.0], [0.0, 1.0]];
        let path = folder.path().join("z.safetensors");
        save_embeddings(&path, &z, None).unwrap();
        assert_eq!(load_embeddings(&path, 3).unwrap(), z);
        let bytes = |key| {
            save_embeddings(&path, &z, key).unwrap();
            std::fs::read(&path).unwrap()
        };
        let kept = bytes(Some("a"));
        assert!((0..16).all(|_| bytes(Some("a")) == kept), "same matrix, same bytes");
        let tensor = Tensor::from_iter(z.iter().copied(), &Device::Cpu).unwrap();
        let tensor = tensor.reshape((3, 2)).unwrap();
        for dtype in [DType::F16, DType::F32, DType::F64] {
            let path = folder.path().join("z.npy");
            tensor.to_dtype(dtype).unwrap().write_npy(&path).unwrap();
            assert_eq!(load_embeddings(&path, 3).unwrap(), z, "{dtype:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_matrix_is_named_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("z.npy");
        let write = |tensor: Tensor| tensor.write_npy(&path).unwrap();
        let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        write(ones(&[4, 2]));
        assert!(
            error(&path, 3)
                .ends_with("z.npy: has 4 rows, the dataset has 3 items: a row an item, by item id")
        );
        write(ones(&[3]));
        assert!(error(&path, 3).contains("z.npy: has the shape [3], expected (items, dim)"));
        write(ones(&[3, 0]));
        assert!(error(&path, 3).contains("no columns"));
        write(ones(&[3, 2]).to_dtype(DType::I64).unwrap());
        assert!(error(&path, 3).contains("holds \"<i8\" values"));
        for (value, word) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (1e300, "inf")] {
            let values = [[1.0, 2.0], [3.0, 4.0], [5.0, value]];
            write(Tensor::new(&values, &Device::Cpu).unwrap());
            let error = error(&path, 3);
            assert!(error.contains(&format!("z.npy: row 2, column 1 is {word}")), "{error}");
        }
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        assert!(error(&path, 3).contains("z.npy: not a readable NumPy file"));
        std::fs::write(&path, "no array").unwrap();
        assert!(error(&path, 3).contains("not a readable NumPy file: it does not begin as one"));
        let at = whole.windows(5).position(|w| w == b"False").unwrap();
        let mut by_column = whole.clone();
        by_column[at..at + 5].copy_from_slice(b"True ");
        std::fs::write(&path, by_column).unwrap();
        assert!(error(&path, 3).contains("numpy.ascontiguousarray"));

        let path = folder.path().join("z.safetensors");
        crate::model::save_safetensors(&path, &[("z".to_string(), ones(&[3, 2]))].into()).unwrap();
        assert!(error(&path, 3).contains("z.safetensors: has no tensor named embeddings"));
        std::fs::write(&path, "no tensors").unwrap();
        assert!(error(&path, 3).contains("z.safetensors: not a readable safetensors file"));
        assert!(error(&folder.path().join("z.csv"), 3).contains("z.csv: not found"));
        std::fs::write(folder.path().join("z.csv"), "1,2").unwrap();
        assert!(error(&folder.path().join("z.csv"), 3).contains(".npy and .safetensors"));
    }

    #[test]
    fn embeddings_are_taken_over_for_the_same_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("z.safetensors");
        assert_eq!(load_kept(&path, 2, "key"), None);
        let z = array![[1.0f32], [2.0]];
        save_embeddings(&path, &z, Some("key")).unwrap();
        assert_eq!(load_kept(&path, 2, "key"), Some(z.clone()));
        assert_eq!(load_kept(&path, 2, "other"), None);
        save_embeddings(&path, &z, None).unwrap();
        assert_eq!(load_kept(&path, 2, "key"), None);
        std::fs::write(&path, "cut off").unwrap();
        assert_eq!(load_kept(&path, 2, "key"), None);
    }
}
