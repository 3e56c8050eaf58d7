//! `NumPy`'s `.npy` files of floats.
//!
//! Read here and not by candle, which asks for as much memory as a header says, whatever the file holds.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use candle_core::{Device, Tensor};
use half::f16;

use crate::error::short;
use crate::{Error, Result};

const MAGIC: &[u8] = b"\x93NUMPY";

/// The longest header that is read: `NumPy`'s own are of some hundred bytes.
const LONGEST_HEADER: usize = 1 << 16;

/// Reads an array of floats, in f32.
///
/// # Errors
/// Names the file and what is wrong with it.
pub(super) fn read(path: &Path) -> Result<Tensor> {
    let file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    array(&mut BufReader::new(file), length).map_err(|what| {
        Error::Invalid(format!("{}: not a readable NumPy file: {what}", path.display()))
    })
}

fn array(file: &mut impl Read, length: u64) -> std::result::Result<Tensor, String> {
    let cut_off = |_| "its header is cut off".to_string();
    let mut begin = Vec::new();
    file.by_ref().take(10).read_to_end(&mut begin).map_err(|e| e.to_string())?;
    if !begin.starts_with(MAGIC) {
        return Err("it does not begin as one".into());
    }
    if begin.len() < 10 {
        return Err("its header is cut off".into());
    }
    let mut header_length = [begin[8], begin[9], 0, 0];
    let mut before = begin.len();
    if begin[6] > 1 {
        file.read_exact(&mut header_length[2..]).map_err(cut_off)?;
        before += 2;
    }
    let header_length = u32::from_le_bytes(header_length) as usize;
    if header_length > LONGEST_HEADER {
        return Err(format!("its header has {header_length} bytes"));
    }
    let mut header = vec![0; header_length];
    file.read_exact(&mut header).map_err(cut_off)?;
    let header = String::from_utf8_lossy(&header);

    match after(&header, "fortran_order")? {
        rest if rest.starts_with("False") => {}
        rest if rest.starts_with("True") => {
            return Err(
                "its values lie column by column; save it with numpy.ascontiguousarray".into()
            );
        }
        _ => return Err("its header does not say whether fortran_order is True or False".into()),
    }
    let kind = after(&header, "descr")?.trim_start_matches(['\'', '"']);
    let kind = kind.split(['\'', '"']).next().unwrap_or_default();
    let (size, value): (usize, fn(&[u8]) -> f32) = match kind {
        "<f2" => (2, |b| f16::from_le_bytes([b[0], b[1]]).to_f32()),
        "<f4" => (4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        "<f8" => {
            (8, |b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32)
        }
        other => {
            return Err(format!("it holds {:?} values, expected <f4, <f2 or <f8", short(other)));
        }
    };
    let list = after(&header, "shape")?.strip_prefix('(').and_then(|rest| rest.split_once(')'));
    let list = list.map(|(list, _)| list.split(',').map(str::trim).filter(|n| !n.is_empty()));
    let shape = list.and_then(|list| list.map(|n| n.parse().ok()).collect::<Option<Vec<usize>>>());
    let shape = shape.ok_or("its shape is no list of whole numbers")?;

    let bytes = shape.iter().try_fold(size, |bytes, &n| bytes.checked_mul(n));
    let held = length.saturating_sub((before + header_length) as u64);
    let bytes = bytes.filter(|&bytes| bytes as u64 <= held).ok_or_else(|| {
        format!("its values, of the shape {shape:?}, are cut off: it holds {held} bytes of them")
    })?;
    let mut data = vec![0; bytes];
    file.read_exact(&mut data).map_err(|e| e.to_string())?;
    let values: Vec<f32> = data.chunks_exact(size).map(value).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).map_err(|e| e.to_string())
}

/// What stands behind a key of the header, a Python dictionary.
fn after<'h>(header: &'h str, key: &str) -> std::result::Result<&'h str, String> {
    let found = header.split_once(key).map(|(_, rest)| rest.trim_start_matches(['\'', '"', ' ']));
    let value = found.and_then(|rest| rest.strip_prefix(':'));
    value.map(str::trim_start).ok_or_else(|| format!("its header has no {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [MAGIC, &[1, 0], &length, header.as_bytes(), data].concat()
    }

    fn error(bytes: &[u8]) -> String {
        array(&mut &bytes[..], bytes.len() as u64).unwrap_err()
    }

    #[test]
    fn a_shape_beyond_the_file_asks_for_no_memory() {
        for shape in [
            "(60, 1000000000000)",
            "(18446744073709551615, 16)",
            "(4294967296, 4294967296)",
            "(3,)",
        ] {
            let header =
                format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
            let said = error(&file(&header, &[0; 8]));
            assert!(said.contains("are cut off: it holds 8 bytes"), "{shape}: {said}");
        }
        let said = error(&file("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", &[]));
        assert_eq!(said, "its shape is no list of whole numbers");
        let mut long = file("", &[]);
        (long[6], long[8], long[9]) = (2, 0xff, 0xff);
        long.extend([0xff, 0xff]);
        assert!(error(&long).contains("its header has 4294967295 bytes"));
    }

    #[test]
    fn headers_are_read_in_any_order_and_version() {
        let header = "{\"shape\": (2,1), 'fortran_order': False, 'descr': '<f4'}";
        let mut bytes = file(header, &[0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]);
        let values =
            |bytes: &[u8]| array(&mut &bytes[..], bytes.len() as u64).unwrap().to_vec2::<f32>();
        assert_eq!(values(&bytes).unwrap(), [[1.0], [2.0]]);
        bytes[6] = 3;
        bytes.splice(10..10, [0, 0]);
        assert_eq!(values(&bytes).unwrap(), [[1.0], [2.0]]);
        assert!(error(b"\x93NUMPY").contains("cut off"));
        assert!(error(&file("{}", &[])).contains("no fortran_order"));
    }
}
