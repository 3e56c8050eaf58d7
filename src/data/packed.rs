//! Files that may be compressed with gzip or zstd, and those that lie beside them.

use std::cmp::Reverse;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Endings of what is compressed.
const ENDINGS: [&str; 3] = [".gz", ".zst", ".zstd"];

/// A file name without the ending of what compressed it.
pub fn plain_name(name: &str) -> &str {
    ENDINGS.iter().find_map(|ending| without_ending(name, ending)).unwrap_or(name)
}

/// A name without its ending, in whatever case that is.
fn without_ending<'n>(name: &'n str, ending: &str) -> Option<&'n str> {
    let (base, last) = name.split_at_checked(name.len().checked_sub(ending.len())?)?;
    last.eq_ignore_ascii_case(ending).then_some(base)
}

/// The file `X{other}` beside the file `X{ending}`, each of which may be compressed; `None` where there is none, or where
/// `path` has another ending.
pub fn beside(path: &Path, ending: &str, other: &str) -> Option<PathBuf> {
    let base = without_ending(plain_name(path.file_name()?.to_str()?), ending)?;
    let is_other = |name: &str| {
        let rest = name.strip_prefix(base);
        rest.is_some_and(|rest| plain_name(rest).eq_ignore_ascii_case(other))
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let entries = fs::read_dir(folder.unwrap_or(Path::new("."))).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let files = names.filter(|name| is_other(name) && path.with_file_name(name).is_file());
    // The plain one first; of two spellings the one in lower case, whose letters come last.
    let first = files.min_by_key(|name| (name.len(), Reverse(name.clone())))?;
    Some(path.with_file_name(first))
}

/// The most that a file may be unpacked to, in times of its size: lists of ids and times are packed to a tenth.
const MOST_TIMES: usize = 100;

/// So many bytes it may be, however small the file is.
const ALWAYS: usize = 1 << 20;

/// The bytes of a file, decompressed where its first ones say that it is compressed.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    let reader: Box<dyn Read> = match bytes.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(&bytes[..])),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(&bytes[..])?),
        _ => return Ok(bytes),
    };
    // It is kept whole, so a file of zeros without end would take memory without end.
    let most = MOST_TIMES * bytes.len() + ALWAYS;
    let mut plain = Vec::new();
    reader.take(most as u64 + 1).read_to_end(&mut plain)?;
    if plain.len() > most {
        let what = format!("unpacks to more than {MOST_TIMES} times its size; decompress it first");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_beside_another_is_found_in_any_spelling() {
        let dir = tempfile::tempdir().unwrap();
        let find = |name: &str| {
            let found = beside(&dir.path().join(name), ".inter.json", ".item.json")?;
            Some(found.file_name().unwrap().to_str().unwrap().to_string())
        };
        assert_eq!(find("Shop.inter.json"), None);
        // Added one after another, each goes before those that were there.
        for there in ["Shop.ITEM.json.gz", "Shop.item.json.gz", "Shop.ITEM.JSON", "Shop.item.json"]
        {
            fs::write(dir.path().join(there), "").unwrap();
            for name in ["Shop.inter.json", "Shop.inter.json.gz", "Shop.INTER.JSON.ZST"] {
                assert_eq!(find(name).as_deref(), Some(there), "{name}");
            }
        }
        for other in ["Other.inter.json", "Shop.inter", "Shop.inter.json.bz2", "ü", "inter.json"] {
            assert_eq!(find(other), None, "{other}");
        }
    }

    #[test]
    fn a_file_that_is_packed_to_almost_nothing_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("Shop.user2id.zst");
        let pack = |bytes: &[u8]| fs::write(&path, zstd::encode_all(bytes, 1).unwrap()).unwrap();
        pack(&vec![b'x'; ALWAYS]);
        assert_eq!(read(&path).unwrap().len(), ALWAYS);
        pack(&vec![b'x'; 4 * ALWAYS]);
        let error = read(&path).map(|bytes| bytes.len()).unwrap_err().to_string();
        assert!(error.contains("more than 100 times its size; decompress it"), "{error}");
    }
}
