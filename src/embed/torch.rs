//! PyTorch's files of one tensor of whole numbers: a zip of a pickle, which says how the values lie, and of these.
//!
//! A pickle is a program. candle reads its words into objects and runs nothing; objects that are no tensor are
//! refused.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, Write as _};
use std::path::Path;

use candle_core::pickle::{Object, Stack};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::npy::{Kind, signed, unsigned};
use crate::error::short;
use crate::{Error, Result, files};

/// The longest pickle that is read: that of a tensor has 153 bytes, and candle keeps a copy of an object for every
/// word that marks it.
const LONGEST_PICKLE: u64 = 2048;

/// How often a pickle may refer to what it marked: that of a tensor does not. candle copies what is referred to,
/// so a few dozen references to references would fill any memory.
const MOST_REFERENCES: usize = 8;

/// What can be said of a file, behind its name.
type Said<T> = std::result::Result<T, String>;

/// The types of whole numbers, by what a pickle calls them: the bytes of a value, and what these say.
const KINDS: [Kind<i64>; 5] = [
    ("LongStorage", 8, signed),
    ("IntStorage", 4, signed),
    ("ShortStorage", 2, signed),
    ("CharStorage", 1, signed),
    ("ByteStorage", 1, unsigned),
];

/// Reads the shape and the values of a tensor, row by row, however they lie in the file.
///
/// # Errors
/// Names the file and what is wrong with it.
pub(super) fn read(path: &Path) -> Result<(Vec<usize>, Vec<i64>)> {
    let file = File::open(path).map_err(Error::io(path))?;
    tensor(BufReader::new(file)).map_err(|what| {
        Error::Invalid(format!("{}: not a readable PyTorch file of codes: {what}", path.display()))
    })
}

fn tensor(file: impl Read + Seek) -> Said<(Vec<usize>, Vec<i64>)> {
    let mut zip = ZipArchive::new(file).map_err(|_| {
        "it is no whole zip; where PyTorch before 1.6 saved it, load it and save it again"
            .to_string()
    })?;
    let names = zip.file_names_raw().map(|name| String::from_utf8_lossy(name).into_owned());
    let pickle = names.into_iter().find(|name| name.ends_with("data.pkl"));
    let pickle = pickle.ok_or("it has no entry data.pkl")?;
    let folder = pickle.trim_end_matches("data.pkl");
    let order = format!("{folder}byteorder");
    if zip.index_for_name(&order).is_some() && entry(&mut zip, &order, 16)? != b"little" {
        return Err("its values are big-endian; save it on a little-endian machine".into());
    }
    let object = object(&entry(&mut zip, &pickle, LONGEST_PICKLE + 1)?)?;
    let layout = Layout::of(&object)?;
    let bytes =
        layout.held.checked_mul(layout.size).ok_or("it says that it has values without end")?;
    let data = entry(&mut zip, &format!("{folder}data/{}", layout.key), bytes as u64)?;
    if data.len() < bytes {
        return Err(format!("its values are cut off: {} bytes of {bytes}", data.len()));
    }
    let values = layout.places().map(|at| (layout.value)(&data[at * layout.size..][..layout.size]));
    Ok((layout.shape.to_vec(), values.collect()))
}

/// At most `most` bytes of an entry.
fn entry(zip: &mut ZipArchive<impl Read + Seek>, name: &str, most: u64) -> Said<Vec<u8>> {
    let unreadable = || format!("its entry {:?} is not there, packed or damaged", short(name));
    let file = zip.by_name(name).map_err(|_| unreadable())?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).map_err(|_| unreadable())?;
    Ok(bytes)
}

/// What a pickle describes.
fn object(pickle: &[u8]) -> Said<Object> {
    const NO_TENSOR: &str = "its pickle is damaged, or of more than a tensor; save the tensor of the codes alone: \
                             torch.save(codes, FILE)";
    let refused = || NO_TENSOR.to_string();
    if pickle.len() as u64 > LONGEST_PICKLE {
        return Err(refused());
    }
    let (mut rest, mut stack, mut references) = (pickle, Stack::empty(), 0);
    loop {
        match *rest {
            // candle asks for as much memory as a text says that it is long.
            [b'X', a, b, c, d, ..] if u32::from_le_bytes([a, b, c, d]) as usize > rest.len() => {
                return Err(refused());
            }
            // And shifts by more bits than a number has.
            [0x8a, bytes, ..] if bytes > 8 => return Err(refused()),
            [b'h' | b'j', ..] => references += 1,
            _ => {}
        }
        if references > MOST_REFERENCES {
            return Err(refused());
        }
        if stack.read(&mut rest).map_err(|_| refused())? {
            return stack.finalize().map_err(|_| refused());
        }
    }
}

/// How the values of a matrix lie in its entry.
struct Layout {
    /// The entry's name.
    key: String,
    /// How many values the entry holds.
    held: usize,
    /// The bytes of a value, and what they say.
    size: usize,
    value: fn(&[u8]) -> i64,
    offset: usize,
    shape: [usize; 2],
    strides: [usize; 2],
}

impl Layout {
    fn of(object: &Object) -> Said<Self> {
        let no_tensor =
            "it holds no plain tensor; save that of the codes alone: torch.save(codes, FILE)";
        let Object::Reduce { callable, args } = object else { return Err(no_tensor.into()) };
        let is_tensor = is_class(callable, "torch._utils", "_rebuild_tensor_v2");
        let Object::Tuple(args) = args.as_ref() else { return Err(no_tensor.into()) };
        let [
            Object::PersistentLoad(storage),
            offset,
            Object::Tuple(shape),
            Object::Tuple(strides),
            ..,
        ] = &args[..]
        else {
            return Err(no_tensor.into());
        };
        let Object::Tuple(storage) = storage.as_ref() else { return Err(no_tensor.into()) };
        let [_, Object::Class { class_name, .. }, Object::Unicode(key), _, held] = &storage[..]
        else {
            return Err(no_tensor.into());
        };
        if !is_tensor {
            return Err(no_tensor.into());
        }
        let Some(&(_, size, value)) = KINDS.iter().find(|(name, ..)| name == class_name) else {
            return Err(format!(
                "its values are of {:?}, and codes are whole numbers; save them as such: \
                 torch.save(codes.long(), FILE)",
                short(class_name)
            ));
        };
        let numbers = |list: &[Object]| list.iter().map(number).collect::<Option<Vec<usize>>>();
        let (shape, strides) = numbers(shape).zip(numbers(strides)).ok_or(no_tensor)?;
        let (Ok(shape), Ok(strides)) = (<[usize; 2]>::try_from(shape.clone()), strides.try_into())
        else {
            return Err(format!("it has the shape {shape:?}, expected a matrix"));
        };
        let (held, offset) = number(held).zip(number(offset)).ok_or(no_tensor)?;
        let layout = Self { key: key.clone(), held, size, value, offset, shape, strides };
        // Values that stand in several places could be any number, whatever the file holds.
        let values = shape[0].checked_mul(shape[1]).filter(|&values| values <= held);
        if values.is_none() || layout.end().is_none_or(|end| end > held) {
            return Err(format!("its shape {shape:?} goes beyond the {held} values that it has"));
        }
        Ok(layout)
    }

    /// What the places of all values are below.
    fn end(&self) -> Option<usize> {
        if self.shape.contains(&0) {
            return Some(0);
        }
        let last = |axis: usize| (self.shape[axis] - 1).checked_mul(self.strides[axis]);
        self.offset.checked_add(last(0)?)?.checked_add(last(1)?)?.checked_add(1)
    }

    /// Where the values stand in the entry, row by row.
    fn places(&self) -> impl Iterator<Item = usize> {
        let ([rows, columns], [down, right]) = (self.shape, self.strides);
        let row =
            move |row| (0..columns).map(move |column| self.offset + row * down + column * right);
        (0..rows).flat_map(row)
    }
}

fn is_class(object: &Object, module: &str, name: &str) -> bool {
    matches!(object, Object::Class { module_name, class_name } if module_name == module && class_name == name)
}

fn number(object: &Object) -> Option<usize> {
    match *object {
        Object::Int(number) => number.try_into().ok(),
        Object::Long(number) => number.try_into().ok(),
        _ => None,
    }
}

/// Writes a matrix of 64-bit whole numbers as `torch.save` does.
pub(super) fn write(path: &Path, shape: [usize; 2], values: &[i64]) -> Result<()> {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let entries: [(&str, &[u8]); 4] = [
        ("codes/data.pkl", &pickle(shape)),
        ("codes/byteorder", b"little"),
        ("codes/data/0", &data),
        ("codes/version", b"3\n"),
    ];
    // PyTorch maps values that begin at such places.
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .with_alignment(64);
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let failed = |what: std::io::Error| Error::io(path)(what);
    for (name, bytes) in entries {
        zip.start_file(name, options).map_err(|e| failed(e.into()))?;
        zip.write_all(bytes).map_err(failed)?;
    }
    let bytes = zip.finish().map_err(|e| failed(e.into()))?.into_inner();
    files::write(path, &bytes)
}

/// The pickle of such a matrix, its rows one after another.
fn pickle([rows, columns]: [usize; 2]) -> Vec<u8> {
    let text =
        |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    // A long of eight bytes: an int has four.
    let number = |number: usize| [&[0x8a, 8][..], &(number as u64).to_le_bytes()].concat();
    [
        &b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("[..],
        // The storage: its type, its entry, its device and its values.
        &[b"(".to_vec(), text("storage"), b"ctorch\nLongStorage\n".to_vec()].concat(),
        &[text("0"), text("cpu"), number(rows * columns), b"tQ".to_vec()].concat(),
        // Offset, shape and strides; no gradient and no hooks.
        &[number(0), number(rows), number(columns), b"\x86".to_vec()].concat(),
        &[number(columns), number(1), b"\x86".to_vec()].concat(),
        b"\x89ccollections\nOrderedDict\n)RtR.",
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of this pickle and these bytes of values.
    fn file(pickle: &[u8], data: &[u8]) -> Cursor<Vec<u8>> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        for (name, bytes) in [("x/data.pkl", pickle), ("x/data/0", data)] {
            zip.start_file(name, options).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap()
    }

    /// The pickle that PyTorch writes of a matrix of this type of `held` values, shape and strides.
    fn torch_pickle(kind: &str, held: u8, offset: u8, shape: [u8; 2], strides: [u8; 2]) -> Vec<u8> {
        let mut pickle =
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00((X\x07\x00\x00\x00storageq\x01"
                .to_vec();
        pickle.extend(format!("ctorch\n{kind}\n").bytes());
        pickle.extend(b"q\x02X\x01\x00\x00\x000q\x03X\x03\x00\x00\x00cpuq\x04K");
        pickle.extend([held, b't', b'q', 5, b'Q', b'K', offset]);
        pickle.extend([b'K', shape[0], b'K', shape[1], 0x86, b'q', 6]);
        pickle.extend([b'K', strides[0], b'K', strides[1], 0x86, b'q', 7]);
        pickle.extend(b"\x89ccollections\nOrderedDict\nq\x08)Rq\ttq\nRq\x0b.");
        pickle
    }

    fn said(pickle: &[u8], data: &[u8]) -> String {
        tensor(file(pickle, data)).unwrap_err()
    }

    #[test]
    fn values_are_read_as_they_lie() {
        let data = [0, 1, 2, 3, 4, 5, 0xff];
        let read = |kind, offset, shape, strides| {
            tensor(file(&torch_pickle(kind, 7, offset, shape, strides), &data)).unwrap()
        };
        assert_eq!(read("ByteStorage", 0, [2, 3], [3, 1]), (vec![2, 3], vec![0, 1, 2, 3, 4, 5]));
        // What GRID saves: a transposed matrix.
        assert_eq!(read("ByteStorage", 0, [3, 2], [1, 3]), (vec![3, 2], vec![0, 3, 1, 4, 2, 5]));
        assert_eq!(read("CharStorage", 5, [1, 2], [2, 1]), (vec![1, 2], vec![5, -1]));
        let short = torch_pickle("ShortStorage", 2, 0, [1, 2], [2, 1]);
        assert_eq!(tensor(file(&short, &[1, 1, 2, 0])).unwrap().1, [257, 2]);
    }

    #[test]
    fn what_is_no_matrix_of_whole_numbers_is_refused() {
        let kind = "LongStorage";
        let beyond = |held, offset, shape, strides| {
            said(&torch_pickle(kind, held, offset, shape, strides), &[0; 48])
        };
        for said in [
            beyond(6, 0, [2, 4], [4, 1]),
            beyond(6, 1, [2, 3], [3, 1]),
            beyond(6, 0, [2, 3], [4, 1]),
            // One row a hundred times.
            beyond(6, 0, [100, 3], [0, 1]),
        ] {
            assert!(said.contains("goes beyond the 6 values"), "{said}");
        }
        assert!(beyond(7, 0, [2, 3], [3, 1]).contains("cut off: 48 bytes of 56"));
        let floats = said(&torch_pickle("FloatStorage", 6, 0, [2, 3], [3, 1]), &[0; 48]);
        assert!(floats.contains("FloatStorage") && floats.contains("codes.long()"), "{floats}");
        // A dictionary, a tensor of three axes, a function that is none of a tensor's.
        assert!(said(b"\x80\x02}.", &[]).contains("no plain tensor"));
        let call = b"\x80\x02cos\nsystem\n(X\x02\0\0\0ls\x85R.";
        assert!(said(call, &[]).contains("no plain tensor"));
        let mut evil = torch_pickle(kind, 6, 0, [2, 3], [3, 1]);
        evil.splice(2..37, *b"cbuiltins\neval\nq\0");
        let evil = said(&evil, &[0; 48]);
        assert!(evil.contains("torch.save(codes, FILE)"), "{evil}");
        let error = tensor(Cursor::new(b"\x80\x02 no zip".to_vec())).unwrap_err();
        assert!(error.contains("no whole zip"), "{error}");
    }

    #[test]
    fn a_pickle_asks_for_no_more_memory_than_it_has_bytes() {
        // A text of 4 GiB, a number of 255 bytes, and one that does not end.
        for pickle in
            [&b"X\xff\xff\xff\xff."[..], b"\x8a\xff.", b"\x80\x02", b"(((", b"q\0.", b"h\0."]
        {
            assert!(said(pickle, &[]).contains("damaged, or of more"), "{pickle:?}");
        }
        // Pairs of pairs of pairs.
        let mut bomb = b"\x80\x02)q\0".to_vec();
        for _ in 0..40 {
            bomb.extend(b"h\0h\0\x86q\0");
        }
        bomb.push(b'.');
        assert!(said(&bomb, &[]).contains("damaged, or of more"));
        assert!(said(&b")\x85".repeat(2000), &[]).contains("damaged, or of more"));
        let nested = [&b")"[..], &[0x85; 2000], b"."].concat();
        assert!(said(&nested, &[]).contains("no plain tensor"));
    }
}
