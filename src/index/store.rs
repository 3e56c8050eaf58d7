//! The files of an index: `index.json` in LC-Rec's format, and the centroids.
//!
//! `index.json` says nothing of sources; whoever reads it knows them (from the run's configuration)
//! and names them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::item_index::{self, letter, levels, token};
use super::{IndexError, ItemIndex, Source, SourceCodes};
use crate::error::plain;
use crate::{Result, files};

/// Writes `{"0": ["<a_183>", "<b_70>"], …}`, one line an item, ids in order.
pub fn write(path: &Path, index: &ItemIndex) -> Result<()> {
    let lines: Vec<String> = (0..index.num_items() as u32)
        .map(|item| format!("\"{item}\": [\"{}\"]", index.tokens(item).join("\", \"")))
        .collect();
    let text = format!("{{\n{}\n}}\n", lines.join(",\n"));
    files::write(path, text.as_bytes())
}

/// Reads what [`write`] or LC-Rec wrote. `sources` names the source of each level, or one for all.
///
/// # Errors
/// Names the file and the item or line: ids with holes or repeated, items of different lengths,
/// tokens that are not of their level, items that share an index.
pub fn read(path: &Path, sources: &[Source]) -> Result<ItemIndex> {
    let (width, codes) = read_codes(path)?;
    let sources = sources_of(path, width, sources)?;
    ItemIndex::new(levels(&sources, &codes), codes)
}

/// The number of levels in a file and its codes, (items, levels), of which some may be equal.
pub(super) fn read_codes(path: &Path) -> Result<(usize, Vec<u32>)> {
    let text = files::read_text(path)?;
    let entries: Entries = serde_json::from_str(&text)
        .map_err(|e| IndexError::Json { path: path.to_path_buf(), reason: plain(e) })?;
    let items = by_id(path, entries.0)?;
    let width = items.first().map_or(0, Vec::len);
    // Before any letter is asked for.
    if !(1..=26).contains(&width) {
        let error = if items.is_empty() {
            IndexError::NoItems
        } else {
            IndexError::LevelCount { levels: width }
        };
        return Err(error.into());
    }
    let mut codes = Vec::with_capacity(items.len() * width);
    for (item, tokens) in (0..).zip(&items) {
        if tokens.len() != width {
            let (path, found) = (path.to_path_buf(), tokens.len());
            return Err(IndexError::Length { path, item, found, expected: width }.into());
        }
        codes.extend(codes_of(path, item, tokens)?);
    }
    Ok((width, codes))
}

/// The codes that the tokens of `item` in a file spell.
///
/// # Errors
/// Names the file, the item and the first string that is no token of its level.
pub fn codes_of(path: &Path, item: u32, tokens: &[String]) -> Result<Vec<u32>> {
    let code = |(level, token): (usize, &String)| {
        let wrong = || IndexError::Token {
            path: path.to_path_buf(),
            item,
            token: token.clone(),
            level,
            letter: letter(level),
        };
        Ok(parse_token(token, level).ok_or_else(wrong)?)
    };
    tokens.iter().enumerate().map(code).collect()
}

/// The tokens that `codes` are spelled with, from the first level on.
pub fn tokens_of(codes: &[u32]) -> Vec<String> {
    item_index::tokens_of(codes)
}

/// The source of each of `width` levels: `sources` itself, or its only one for all.
pub(super) fn sources_of(path: &Path, width: usize, sources: &[Source]) -> Result<Vec<Source>> {
    match sources {
        [one] => Ok(vec![*one; width]),
        many if many.len() == width => Ok(many.to_vec()),
        _ => {
            let (path, sources) = (path.to_path_buf(), sources.len());
            Err(IndexError::SourceCount { path, levels: width, sources }.into())
        }
    }
}

/// Writes what the codes of an index stand for.
///
/// For each source: `SOURCE.codes`, (items, levels), i64, and for each level with centroids
/// `SOURCE.centroids.LEVEL`, (rows, dim), f32. Of a tree these are the level's nodes in path order (none
/// of a level whose nodes are the items: the vectors have a file of their own), of a residual method the
/// level's codebook, row = code.
pub fn write_trees(path: &Path, parts: &[SourceCodes]) -> Result<()> {
    let mut tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for part in parts {
        let source = part.source;
        let codes = part.codes.iter().flat_map(|&code| i64::from(code).to_le_bytes()).collect();
        let shape = vec![part.num_items(), part.num_levels()];
        tensors.insert(format!("{source}.codes"), (Dtype::I64, shape, codes));
        for (level, rows) in part.centroids.iter().enumerate() {
            let bytes = rows.iter().flat_map(|x| x.to_le_bytes()).collect();
            let shape = rows.shape().to_vec();
            tensors.insert(format!("{source}.centroids.{level}"), (Dtype::F32, shape, bytes));
        }
    }
    let failed = |reason| IndexError::Tensors { path: path.to_path_buf(), reason };
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| {
            Ok((name, TensorView::new(*dtype, shape.clone(), data).map_err(failed)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    files::write(path, &safetensors::serialize(views, Some(metadata)).map_err(failed)?)
}

/// The tokens of each item, in id order.
fn by_id(path: &Path, entries: Vec<(String, Vec<String>)>) -> Result<Vec<Vec<String>>> {
    let key = |key: String, problem| IndexError::ItemKey { path: path.to_path_buf(), key, problem };
    let last = entries.len().saturating_sub(1);
    let mut items = BTreeMap::new();
    for (id, tokens) in entries {
        let number = id.parse::<u32>().ok().filter(|number| number.to_string() == id);
        match number.map(|number| items.insert(number, tokens)) {
            None => return Err(key(id, "an item id is a whole number from 0").into()),
            Some(Some(_)) => return Err(key(id, "this item comes twice").into()),
            Some(None) => {}
        }
    }
    match (0..).zip(items.keys()).find(|(expected, id)| expected != *id) {
        Some((missing, _)) => {
            Err(IndexError::MissingItem { path: path.to_path_buf(), missing, last }.into())
        }
        None => Ok(items.into_values().collect()),
    }
}

/// The code in an item token of `level`, if `text` is one, spelled as we would.
pub(super) fn parse_token(text: &str, level: usize) -> Option<u32> {
    let code = text.strip_prefix('<')?.split_once('_')?.1.strip_suffix('>')?.parse().ok()?;
    (token(level, code) == text && code < u32::MAX).then_some(code)
}

/// The entries of a JSON object as they come: a map would swallow repeated keys.
struct Entries(Vec<(String, Vec<String>)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of item ids, each with a list of item tokens")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Level;

    fn message(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.json");
        std::fs::write(&path, text).unwrap();
        read(&path, &[Source::Semantic]).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_file_and_the_place() {
        for (text, expected) in [
            (r#"{"0": ["<a_1>"], "2": ["<a_2>"]}"#, "item 1 is missing: ids must run from 0 to 1"),
            (r#"{"0": ["<a_1>"], "0": ["<a_2>"]}"#, "key \"0\": this item comes twice"),
            (r#"{"zero": ["<a_1>"]}"#, "key \"zero\": an item id is a whole number"),
            (r#"{"0": ["<a_1>"], "1": ["<a_2>", "<b_0>"]}"#, "item 1 has 2 tokens, item 0 has 1"),
            (r#"{"0": ["<a_1>", "<a_2>"]}"#, "\"<a_2>\" is not a token of level 1, such as <b_17>"),
            (r#"{"0": ["<a_01>"]}"#, "item 0: \"<a_01>\""),
            (r#"{"0": ["<a_1>"], "1": ["<a_1>"]}"#, "items 0 and 1 share the index <a_1>"),
            ("{\"0\":\n 5}", "line 2"),
            ("{}", "no items"),
        ] {
            let message = message(text);
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn sources_are_one_for_all_or_one_a_level() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.json");
        std::fs::write(&path, r#"{"1": ["<a_1>", "<b_0>"], "0": ["<a_2>", "<b_0>"]}"#).unwrap();
        let index = read(&path, &[Source::Semantic, Source::Behavior]).unwrap();
        assert_eq!(index.levels()[1], Level { source: Source::Behavior, num_codes: 1 });
        assert_eq!(index.item_codes(0), [2, 0]);
        assert!(read(&path, &[]).unwrap_err().to_string().contains("2 levels and 0 sources"));
    }

    #[test]
    fn trees_are_written_as_tensors_by_source() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tree.safetensors");
        let vectors = ndarray::Array2::from_shape_fn((9, 2), |(i, j)| (i * i + j) as f32);
        let tree = crate::index::HierarchicalKMeans::new(3, 2).fit(vectors.view(), 1).unwrap();
        write_trees(&path, &[SourceCodes::tree(Source::Behavior, &tree)]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.len(), 2);
        assert_eq!(tensors.tensor("behavior.codes").unwrap().shape(), [9, 2]);
        let centroids = tensors.tensor("behavior.centroids.0").unwrap();
        let first = f32::from_le_bytes(centroids.data()[..4].try_into().unwrap());
        assert_eq!((centroids.shape(), first), (&[3, 2][..], tree.centroids()[0][[0, 0]]));
    }
}
