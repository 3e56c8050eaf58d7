//! `NumPy`'s `.npy` files of floats, and of whole numbers.
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

/// The name of a kind of values, the bytes of one, and what it says.
pub(super) type Kind<T> = (&'static str, usize, fn(&[u8]) -> T);

const FLOATS: [Kind<f32>; 3] = [
    ("<f4", 4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
    ("<f2", 2, |b| f16::from_le_bytes([b[0], b[1]]).to_f32()),
    ("<f8", 8, |b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32),
];

const INTEGERS: [Kind<i64>; 7] = [
    ("<i8", 8, signed),
    ("<i4", 4, signed),
    ("<i2", 2, signed),
    ("|i1", 1, signed),
    ("<u4", 4, unsigned),
    ("<u2", 2, unsigned),
    ("|u1", 1, unsigned),
];

/// A little-endian whole number of up to eight bytes.
pub(super) fn signed(bytes: &[u8]) -> i64 {
    let sign = if bytes.last().is_some_and(|&last| last >= 0x80) { 0xff } else { 0 };
    widened(bytes, sign)
}

/// The same without a sign, of up to seven bytes.
pub(super) fn unsigned(bytes: &[u8]) -> i64 {
    widened(bytes, 0)
}

fn widened(bytes: &[u8], with: u8) -> i64 {
    let mut wide = [with; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(wide)
}

/// Reads an array of floats, in f32.
///
/// # Errors
/// Names the file and what is wrong with it.
pub(super) fn read(path: &Path) -> Result<Tensor> {
    let (shape, values) = read_with(path, &FLOATS)?;
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// Reads the shape and the values of an array of whole numbers.
///
/// # Errors
/// As [`read`].
pub(super) fn read_integers(path: &Path) -> Result<(Vec<usize>, Vec<i64>)> {
    read_with(path, &INTEGERS)
}

fn read_with<T>(path: &Path, kinds: &[Kind<T>]) -> Result<(Vec<usize>, Vec<T>)> {
    let file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    array(&mut BufReader::new(file), length, kinds).map_err(|what| {
        Error::Invalid(format!("{}: not a readable NumPy file: {what}", path.display()))
    })
}

/// The shape and the values of an array of one of `kinds`.
fn array<T>(
    file: &mut impl Read,
    length: u64,
    kinds: &[Kind<T>],
) -> std::result::Result<(Vec<usize>, Vec<T>), String> {
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
    let Some(&(_, size, value)) = kinds.iter().find(|(name, ..)| *name == kind) else {
        let names: Vec<&str> = kinds.iter().map(|(name, ..)| *name).collect();
        let (kind, last) = (short(kind), names[names.len() - 1]);
        let others = names[..names.len() - 1].join(", ");
        return Err(format!("it holds {kind:?} values, expected {others} or {last}"));
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
    Ok((shape, data.chunks_exact(size).map(value).collect()))
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
        array(&mut &bytes[..], bytes.len() as u64, &FLOATS).unwrap_err()
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
        let values = |bytes: &[u8]| array(&mut &bytes[..], bytes.len() as u64, &FLOATS).unwrap();
        assert_eq!(values(&bytes), (vec![2, 1], vec![1.0, 2.0]));
        bytes[6] = 3;
        bytes.splice(10..10, [0, 0]);
        assert_eq!(values(&bytes), (vec![2, 1], vec![1.0, 2.0]));
        assert!(error(b"\x93NUMPY").contains("cut off"));
        assert!(error(&file("{}", &[])).contains("no fortran_order"));
    }

    #[test]
    fn whole_numbers_keep_their_sign_and_width() {
        for (kind, data, expected) in [
            ("<i8", &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..], -2),
            ("<i2", &[0x2c, 0x01], 300),
            ("|i1", &[0x80], -128),
            ("<u4", &[0xff, 0xff, 0xff, 0xff], 4_294_967_295),
            ("|u1", &[0x80], 128),
        ] {
            let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': (1,)}}");
            let bytes = file(&header, data);
            let found = array(&mut &bytes[..], bytes.len() as u64, &INTEGERS).unwrap();
            assert_eq!(found, (vec![1], vec![expected]), "{kind}");
        }
        let floats = file("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", &[0; 4]);
        let said = array(&mut &floats[..], floats.len() as u64, &INTEGERS).unwrap_err();
        assert!(said.starts_with("it holds \"<f4\" values, expected <i8, <i4"), "{said}");
    }
}
