//! Which files are read, and how: formats told from names, else from the first bytes.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::names::Names;
use super::record::Role;
use super::source::{Counter, Input};
use super::table::Dialect;
use super::{Request, lcrec, parquet};
use crate::{Error, Result, data, files, invalid};

/// A format of interactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Values with commas between them (or whatever the header has most of), under a header.
    Csv,
    /// The same with tabs.
    Tsv,
    /// An object on every line.
    JsonLines,
    /// Apache Parquet.
    Parquet,
    /// Amazon reviews of 2014, 2018 or 2023, as JSON lines.
    Amazon,
    /// RecBole's atomic files.
    Recbole,
    /// A folder in LC-Rec's format.
    Lcrec,
    /// `user_sequence.txt`, with `item_plain_text.txt`.
    UserSequence,
    /// S3-Rec's file of sequences.
    S3rec,
}

const FORMATS: [(&str, Format); 9] = [
    ("csv", Format::Csv),
    ("tsv", Format::Tsv),
    ("jsonl", Format::JsonLines),
    ("parquet", Format::Parquet),
    ("amazon", Format::Amazon),
    ("recbole", Format::Recbole),
    ("lcrec", Format::Lcrec),
    ("user-sequence", Format::UserSequence),
    ("s3rec", Format::S3rec),
];

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = FORMATS.iter().find(|(known, _)| *known == name);
        known.map(|(_, format)| *format).ok_or_else(|| {
            let names = FORMATS.map(|(name, _)| name).join(", ");
            Error::Invalid(format!("no format is called {name:?}; there are {names}"))
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = FORMATS.iter().find(|(_, format)| format == self);
        f.pad(name.map_or("", |(name, _)| name))
    }
}

/// The sequences of P5 and its kin.
const SEQUENCES: &str = "user_sequence.txt";

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Table(Dialect),
    Objects,
    Parquet,
    LcrecInter,
    LcrecItem,
    Sequences,
    PlainText,
}

impl Shape {
    /// Whether what it holds goes by names of columns or fields, which an option can tell.
    fn has_columns(self) -> bool {
        matches!(self, Self::Table(_) | Self::Objects | Self::Parquet)
    }

    /// Whether it is a table whose header and quotes are as its writer liked them.
    fn has_dialect(self) -> bool {
        matches!(self, Self::Table(Dialect { typed: false, .. }))
    }
}

/// A file to be read.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) path: PathBuf,
    pub(super) shape: Shape,
    pub(super) names: Names,
}

/// All files to be read.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) sources: Vec<Planned>,
    pub(super) items: Vec<Planned>,
}

impl Plan {
    /// What `request` asks for, and what lies beside it.
    pub(super) fn of(request: &Request) -> Result<Self> {
        let (mut sources, mut items) = (Vec::new(), Vec::new());
        for source in &request.sources {
            let (path, told) =
                if source.is_dir() { in_folder(source)? } else { (source.clone(), None) };
            let shape = match request.format.map(|format| shape_of(format, request)).or(told) {
                Some(shape) => shape,
                None => look(&path, request)?,
            };
            let beside = items_beside(&path, shape);
            let mut names = names_beside(&path, shape)?;
            if let (Shape::LcrecInter, Some(beside)) = (shape, &beside) {
                lcrec::read_names_in_items(Input::open(beside, &Counter::default())?, &mut names)?;
            }
            items.extend(beside);
            sources.push(Planned { path, shape, names });
        }
        if !request.items.is_empty() {
            items.clone_from(&request.items);
        }
        let plan_items = |path: PathBuf| {
            let shape = look(&path, request)?;
            let mut names = names_beside(&path, shape)?;
            if shape == Shape::LcrecItem {
                lcrec::read_names_in_items(Input::open(&path, &Counter::default())?, &mut names)?;
            }
            Ok(Planned { path, shape, names })
        };
        let items = items.into_iter().map(plan_items).collect::<Result<_>>()?;
        let plan = Self { sources, items };
        plan.check_used(request)?;
        Ok(plan)
    }

    /// Refuses an option that none of the files has a use for: whoever gave it expects something of it.
    fn check_used(&self, request: &Request) -> Result<()> {
        let Self { sources, items } = self;
        let named = |role: Role| request.columns.get(role).map(|_| format!("--{}", role.name()));
        let of_interactions = [Role::User, Role::Time, Role::Rating].into_iter().find_map(named);
        let of_texts = Role::TEXTS.into_iter().find_map(named);
        let item_key = request.columns.item_key.as_ref().map(|_| "--item-key".to_string());
        if item_key.is_some() && items.is_empty() {
            invalid!("--item-key names a column of a file of items; name the file with --items");
        }
        let with_texts = if items.is_empty() { sources } else { items };
        for (option, files) in [
            (of_interactions, vec![sources]),
            (named(Role::Item), vec![sources, items]),
            (of_texts, vec![with_texts]),
            (item_key, vec![items]),
        ] {
            let mut files = files.into_iter().flatten();
            if let Some(option) = option
                && !files.clone().any(|file| file.shape.has_columns())
                && let Some(file) = files.next()
            {
                invalid!(
                    "{}: holds no columns for {option} to name; leave it out, or name the file's format with --format",
                    file.path.display()
                );
            }
        }
        if let Some(file) = sources.iter().find(|file| !file.shape.has_columns())
            && request.min_rating.is_some()
        {
            invalid!("{}: holds no ratings; leave --min-rating out", file.path.display());
        }
        let option = [("--no-header", request.no_header), ("--no-quotes", request.no_quotes)];
        let mut files = sources.iter().chain(items);
        if let Some((option, _)) = option.into_iter().find(|(_, given)| *given)
            && !files.clone().any(|file| file.shape.has_dialect())
            && let Some(file) = files.next()
        {
            invalid!(
                "{}: is no CSV or TSV, which {option} is for; leave it out",
                file.path.display()
            );
        }
        Ok(())
    }
}

/// The dataset in a folder.
fn in_folder(dir: &Path) -> Result<(PathBuf, Option<Shape>)> {
    let folder = dir.canonicalize().map_err(Error::io(dir))?;
    let own = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let name = entry.map_err(Error::io(dir))?.file_name();
        names.extend(name.into_string());
    }
    names.sort_unstable();
    for (suffix, shape) in [(".inter.json", Some(Shape::LcrecInter)), (".inter", None)] {
        let ends = |name: &&String| data::plain_name(name).ends_with(suffix);
        let found: Vec<&String> = names.iter().filter(ends).collect();
        let named = format!("{own}{suffix}");
        // Sorted: what is not compressed comes first.
        let is_own = |name: &str| data::plain_name(name) == named;
        match found.iter().find(|name| is_own(name)).or_else(|| found.first()) {
            Some(name) if found.len() == 1 || is_own(name) => {
                return Ok((dir.join(name), shape));
            }
            Some(_) => {
                let found: Vec<&str> = found.iter().map(|name| name.as_str()).collect();
                invalid!("{}: {} could each be meant; name one", dir.display(), found.join(", "));
            }
            None => {}
        }
    }
    if let Some(name) = names.iter().find(|name| data::plain_name(name) == SEQUENCES) {
        return Ok((dir.join(name), Some(Shape::Sequences)));
    }
    invalid!(
        "{}: holds no dataset: no X.inter.json (LC-Rec), X.inter (RecBole) or user_sequence.txt; for any other \
         format name the file itself",
        dir.display()
    );
}

fn shape_of(format: Format, request: &Request) -> Shape {
    let table = |delimiter, quotes, typed| {
        let quotes = quotes && !request.no_quotes;
        // RecBole's columns always have names.
        let header = typed || !request.no_header;
        Shape::Table(Dialect { delimiter, quotes, header, typed })
    };
    match format {
        Format::Csv => table(None, true, false),
        Format::Tsv => table(Some(b'\t'), true, false),
        Format::Recbole => table(Some(b'\t'), false, true),
        Format::JsonLines | Format::Amazon => Shape::Objects,
        Format::Parquet => Shape::Parquet,
        Format::Lcrec => Shape::LcrecInter,
        Format::UserSequence | Format::S3rec => Shape::Sequences,
    }
}

/// A file name in lower case, without the ending of what compressed it.
fn plain_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    data::plain_name(&name).to_lowercase()
}

/// Tells what a file is.
fn look(path: &Path, request: &Request) -> Result<Shape> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        invalid!(
            "{}: a pipe or a device can be read once alone; name the format with --format, and save files of items",
            path.display()
        );
    }
    // It is read again, and counted then.
    let input = Input::open(path, &Counter::default())?;
    if input.head().starts_with(parquet::MAGIC) {
        if input.compressed {
            invalid!("{}: Parquet is read in place; decompress it first", path.display());
        }
        return Ok(Shape::Parquet);
    }
    let name = plain_name(path);
    let has = |ending: &str| name.ends_with(ending);
    let shape = match name.as_str() {
        SEQUENCES => Some(Shape::Sequences),
        "item_plain_text.txt" => Some(Shape::PlainText),
        _ if has(".inter.json") => Some(Shape::LcrecInter),
        _ if has(".item.json") => Some(Shape::LcrecItem),
        _ if has(".inter") || has(".item") => Some(shape_of(Format::Recbole, request)),
        _ if has(".csv") => Some(shape_of(Format::Csv, request)),
        _ if has(".tsv") || has(".tab") => Some(shape_of(Format::Tsv, request)),
        _ if has(".jsonl") || has(".ndjson") || has(".json") => Some(Shape::Objects),
        _ if has(".parquet") || has(".pq") => Some(Shape::Parquet),
        _ => None,
    };
    if let Some(shape) = shape {
        return Ok(shape);
    }
    input.check_text()?;
    let head = String::from_utf8_lossy(input.head());
    let line = head.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    let mut words = line.split(' ');
    let numbers = words.clone().count() > 1 && words.all(|word| word.parse::<u64>().is_ok());
    if line.starts_with('{') || line.starts_with('[') {
        Ok(Shape::Objects)
    } else if numbers {
        Ok(Shape::Sequences)
    } else if line.matches("::").count() > 1 {
        let (own, tsv) = (files::shell(path), files::shell(&path.with_extension("tsv")));
        invalid!(
            "{}: has :: between fields; put tabs there: awk -F:: -v OFS='\\t' '{{$1=$1}} 1' {own} > {tsv}, which has \
             --no-header where its first line is data",
            path.display()
        );
    } else if line.contains(['\t', ',', ';', '|']) {
        Ok(shape_of(Format::Csv, request))
    } else {
        invalid!("{}: its format cannot be told; name it with --format", path.display());
    }
}

/// The file with the texts, beside that with the interactions.
fn items_beside(path: &Path, shape: Shape) -> Option<PathBuf> {
    match shape {
        Shape::LcrecInter => data::beside(path, ".inter.json", ".item.json"),
        Shape::Table(Dialect { typed: true, .. }) => data::beside(path, ".inter", ".item"),
        Shape::Sequences if plain_name(path) == SEQUENCES => {
            data::beside(path, SEQUENCES, "item_plain_text.txt")
        }
        _ => None,
    }
}

/// What the numbers of a file stand for.
fn names_beside(path: &Path, shape: Shape) -> Result<Names> {
    match shape {
        Shape::LcrecInter => Names::beside(path, ".inter.json"),
        Shape::LcrecItem => Names::beside(path, ".item.json"),
        Shape::Sequences if plain_name(path) != SEQUENCES => Names::beside(path, ".txt"),
        _ => Ok(Names::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_parse_as_they_print() {
        for (name, format) in FORMATS {
            assert_eq!(name.parse::<Format>().unwrap(), format);
            assert_eq!(format.to_string(), name);
        }
        let error = "xls".parse::<Format>().unwrap_err().to_string();
        assert!(error.contains("\"xls\"") && error.contains("csv, tsv, jsonl"), "{error}");
    }
}
