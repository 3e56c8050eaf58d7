//! Matrices of whole numbers in files: codes made by other programs.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use candle_core::{DType, Device};

use super::{npy, torch};
use crate::model::load_safetensors;
use crate::{Error, Result, invalid};

/// Whole numbers, (rows, columns), row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntegerMatrix {
    /// How many rows there are.
    pub rows: usize,
    /// How many columns.
    pub columns: usize,
    /// The numbers.
    pub values: Vec<i64>,
}

/// Reads a matrix of whole numbers: a tensor that PyTorch saved, a `.npy` file, or the only tensor of a
/// safetensors file. Only the last is told by its name.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn load_integers(path: &Path) -> Result<IntegerMatrix> {
    let place = path.display();
    let mut begin = Vec::new();
    let file = File::open(path).map_err(Error::io(path))?;
    file.take(6).read_to_end(&mut begin).map_err(Error::io(path))?;
    let is_safetensors = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
    let (shape, values) = if is_safetensors {
        only_tensor(path)?
    } else if begin.starts_with(b"\x93NUMPY") {
        npy::read_integers(path)?
    } else {
        torch::read(path)?
    };
    let [rows, columns] = shape[..] else {
        invalid!("{place}: has the shape {shape:?}, expected a matrix of codes");
    };
    Ok(IntegerMatrix { rows, columns, values })
}

fn only_tensor(path: &Path) -> Result<(Vec<usize>, Vec<i64>)> {
    let place = path.display();
    let tensors = load_safetensors(path, &Device::Cpu)?;
    let found = tensors.len();
    let Some((_, tensor)) = tensors.into_iter().next().filter(|_| found == 1) else {
        invalid!("{place}: holds {found} tensors, expected the codes alone");
    };
    if !matches!(tensor.dtype(), DType::U8 | DType::U32 | DType::I16 | DType::I32 | DType::I64) {
        invalid!("{place}: holds {:?} values, expected whole numbers", tensor.dtype());
    }
    let values = tensor.to_dtype(DType::I64)?.flatten_all()?.to_vec1()?;
    Ok((tensor.dims().to_vec(), values))
}

/// Writes a matrix as a tensor of 64-bit whole numbers that `torch.load` reads.
pub fn save_integers(path: &Path, matrix: &IntegerMatrix) -> Result<()> {
    torch::write(path, [matrix.rows, matrix.columns], &matrix.values)
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::*;
    use crate::model::save_safetensors;

    fn matrix() -> IntegerMatrix {
        IntegerMatrix { rows: 2, columns: 3, values: vec![0, 1, 2, 300, -4, 5_000_000_000] }
    }

    #[test]
    fn a_matrix_comes_back_from_every_format() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        save_integers(&at("codes.pt"), &matrix()).unwrap();
        assert_eq!(load_integers(&at("codes.pt")).unwrap(), matrix());
        let tensor = Tensor::from_vec(matrix().values, (2, 3), &Device::Cpu).unwrap();
        tensor.write_npy(at("codes.npy")).unwrap();
        assert_eq!(load_integers(&at("codes.npy")).unwrap(), matrix());
        let tensors =
            |names: &[&str]| names.iter().map(|n| ((*n).into(), tensor.clone())).collect();
        save_safetensors(at("codes.safetensors"), &tensors(&["any"])).unwrap();
        assert_eq!(load_integers(&at("codes.safetensors")).unwrap(), matrix());

        save_safetensors(at("two.safetensors"), &tensors(&["a", "b"])).unwrap();
        let error = load_integers(&at("two.safetensors")).unwrap_err().to_string();
        assert!(error.contains("two.safetensors: holds 2 tensors"), "{error}");
        let floats = tensor.to_dtype(DType::F32).unwrap();
        save_safetensors(at("f.safetensors"), &[("a".to_string(), floats)].into()).unwrap();
        let error = load_integers(&at("f.safetensors")).unwrap_err().to_string();
        assert!(error.contains("holds F32 values, expected whole numbers"), "{error}");
        tensor.flatten_all().unwrap().write_npy(at("flat.npy")).unwrap();
        let error = load_integers(&at("flat.npy")).unwrap_err().to_string();
        assert!(error.contains("has the shape [6], expected a matrix"), "{error}");
    }
}
