//! The forms in which an item index goes from program to program.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::data::Dataset;
use crate::embed::{IntegerMatrix, load_integers, save_integers};
use crate::index::{Foreign, ItemIndex, store, write_lines};
use crate::run::artifacts::load_index;
use crate::run::{Run, Stage};
use crate::{Error, Result, invalid};

/// A form that other programs have for an item index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexFormat {
    /// LC-Rec's `X.index.json`: item → item tokens.
    LcRec,
    /// The lines of MiniOneRec's `info/*.txt`: item tokens, title, item.
    MiniOneRec,
    /// GRID's tensor of codes, (levels, items).
    Grid,
}

impl IndexFormat {
    /// The form of a file: by how it begins, of safetensors by its name.
    fn of(path: &Path) -> Result<Self> {
        let mut begin = Vec::new();
        let file = File::open(path).map_err(Error::io(path))?;
        file.take(1024).read_to_end(&mut begin).map_err(Error::io(path))?;
        let text = begin.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&begin).trim_ascii_start();
        let named = path.extension().unwrap_or_default().to_ascii_lowercase();
        let is_matrix = begin.starts_with(b"PK\x03\x04") || begin.starts_with(b"\x93NUMPY");
        Ok(match (text.first(), named.to_str()) {
            _ if is_matrix => Self::Grid,
            // Its first bytes are a number.
            (_, Some("safetensors" | "pt" | "npy")) => Self::Grid,
            (Some(b'{'), _) | (_, Some("json")) => Self::LcRec,
            (Some(b'<'), _) | (_, Some("txt")) => Self::MiniOneRec,
            _ => invalid!(
                "{}: is no item index of LC-Rec (X.index.json), MiniOneRec (info/X.txt) or GRID (X.pt); name its \
                 form with --format",
                path.display()
            ),
        })
    }
}

/// Reads the item index of another program for `dataset`, in this form or in that of the file.
///
/// # Errors
/// Names the file and what is wrong with it: with which item, line or entry.
pub fn read_index(path: &Path, format: Option<IndexFormat>, dataset: &Dataset) -> Result<Foreign> {
    let format = format.map_or_else(|| IndexFormat::of(path), Ok)?;
    match format {
        IndexFormat::LcRec => Foreign::read(path, dataset.num_items()),
        IndexFormat::MiniOneRec => Foreign::read_lines(path, dataset),
        IndexFormat::Grid => {
            let matrix = load_integers(path)?;
            let shape = [matrix.rows, matrix.columns];
            Foreign::of_matrix(path, shape, &matrix.values, dataset.num_items())
        }
    }
}

impl Run {
    /// Writes the item index, without items added later, as another program has it.
    ///
    /// # Errors
    /// If there is no index yet, or there is a file at `out` already and `force` is not set.
    pub fn write_index(&self, format: IndexFormat, out: &Path, force: bool) -> Result<()> {
        self.require(Stage::Index)?;
        if out.exists() && !force {
            invalid!("{}: is there already; --force replaces it", out.display());
        }
        let index = load_index(self)?;
        match format {
            IndexFormat::LcRec => store::write(out, &index),
            IndexFormat::MiniOneRec => write_lines(out, &index, &self.dataset),
            IndexFormat::Grid => save_integers(out, &by_level(&index)),
        }
    }
}

/// The codes of an index, (levels, items).
fn by_level(index: &ItemIndex) -> IntegerMatrix {
    let (rows, columns) = (index.num_levels(), index.num_items());
    let level = |level| index.codes().iter().skip(level).step_by(rows).map(|&code| code.into());
    IntegerMatrix { rows, columns, values: (0..rows).flat_map(level).collect() }
}
