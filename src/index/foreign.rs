//! Indices made elsewhere: read as they are, then made unique or refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::item_index::{levels, tokens_of};
use super::{IndexError, ItemIndex, Source, store};
use crate::Result;

/// What becomes of items that share an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnCollision {
    /// They are refused.
    Reject,
    /// The index gets one more level, whose code tells them apart.
    Extend,
}

/// An index of another program, in which items may share their codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    path: PathBuf,
    width: usize,
    /// (items, levels).
    codes: Vec<u32>,
    /// The items that share their codes, group by group, by their smallest item.
    sharing: Vec<Vec<u32>>,
}

impl Foreign {
    /// Reads a file in LC-Rec's format for a dataset of `num_items` items.
    ///
    /// # Errors
    /// Names the file and what is wrong with it: all that [`store::read`] finds but shared codes, and
    /// items that the dataset lacks or the file does.
    pub fn read(path: &Path, num_items: usize) -> Result<Self> {
        let (width, codes) = store::read_codes(path)?;
        let found = codes.len() / width;
        if found != num_items {
            return Err(IndexError::ItemCount { path: path.into(), found, num_items }.into());
        }
        Ok(Self::new(path, width, codes))
    }

    /// The index of `codes`, (items, levels), that `path` holds.
    pub(super) fn new(path: &Path, width: usize, codes: Vec<u32>) -> Self {
        let path = path.to_path_buf();
        let mut by_codes: BTreeMap<&[u32], Vec<u32>> = BTreeMap::new();
        for (item, codes) in (0..).zip(codes.chunks_exact(width)) {
            by_codes.entry(codes).or_default().push(item);
        }
        let mut sharing: Vec<_> = by_codes.into_values().filter(|items| items.len() > 1).collect();
        sharing.sort();
        Self { path, width, codes, sharing }
    }

    /// The items that share their codes, group by group.
    pub fn sharing(&self) -> &[Vec<u32>] {
        &self.sharing
    }

    /// How many items share, in how many groups, and the first of these; `None` where every item has an
    /// index of its own.
    pub fn describe_sharing(&self) -> Option<String> {
        const SHOWN: usize = 3;
        let shown = |items: &Vec<u32>| {
            let names: Vec<String> = items.iter().map(u32::to_string).collect();
            let codes = &self.codes[items[0] as usize * self.width..][..self.width];
            format!("items {} have {}", names.join(", "), tokens_of(codes).concat())
        };
        let examples: Vec<String> = self.sharing.iter().take(SHOWN).map(shown).collect();
        let more = if self.sharing.len() > SHOWN { "; …" } else { "" };
        let (items, groups) =
            (self.sharing.iter().map(Vec::len).sum::<usize>(), self.sharing.len());
        (items > 0).then(|| {
            let groups = if groups == 1 { "1 group".into() } else { format!("{groups} groups") };
            format!("{items} items share an index, in {groups} ({}{more})", examples.join("; "))
        })
    }

    /// The index, its levels from `sources`: one a level, or one for all.
    ///
    /// Where items share their codes and `on_collision` says `Extend`, a level from [`Source::Random`]
    /// is added: 0 for an item that shares with none, else its place among those it shares with, by id.
    ///
    /// # Errors
    /// If items share their codes and are refused, or `sources` fits no reading of the file.
    pub fn into_index(self, sources: &[Source], on_collision: OnCollision) -> Result<ItemIndex> {
        let mut sources = store::sources_of(&self.path, self.width, sources)?;
        if self.sharing.is_empty() {
            return ItemIndex::new(levels(&sources, &self.codes), self.codes);
        }
        if on_collision == OnCollision::Reject {
            let what = self.describe_sharing().unwrap_or_default();
            return Err(IndexError::Sharing { path: self.path, what }.into());
        }
        let mut last = vec![0; self.codes.len() / self.width];
        for group in &self.sharing {
            for (code, &item) in (0..).zip(group) {
                last[item as usize] = code;
            }
        }
        let rows = self.codes.chunks_exact(self.width).zip(last);
        let codes: Vec<u32> =
            rows.flat_map(|(codes, last)| codes.iter().copied().chain([last])).collect();
        sources.push(Source::Random);
        ItemIndex::new(levels(&sources, &codes), codes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, num_items: usize) -> Result<Foreign> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("X.index.json");
        std::fs::write(&path, text).unwrap();
        Foreign::read(&path, num_items)
    }

    const SHARED: &str = r#"{"0": ["<a_7>", "<b_1>"], "1": ["<a_2>", "<b_0>"],
        "2": ["<a_7>", "<b_1>"], "3": ["<a_2>", "<b_9>"], "4": ["<a_7>", "<b_1>"]}"#;

    #[test]
    fn items_that_share_an_index_are_refused_or_told_apart() {
        let foreign = read(SHARED, 5).unwrap();
        assert_eq!(foreign.sharing(), [[0, 2, 4]]);
        let error = foreign.clone().into_index(&[Source::Semantic], OnCollision::Reject);
        let error = error.unwrap_err().to_string();
        let expected = "3 items share an index, in 1 group (items 0, 2, 4 have <a_7><b_1>)";
        assert!(error.contains(expected) && error.contains("--on-collision extend"), "{error}");

        let index = foreign.into_index(&[Source::Semantic], OnCollision::Extend).unwrap();
        let last: Vec<u32> = (0..5).map(|item| index.item_codes(item)[2]).collect();
        assert_eq!(last, [0, 0, 1, 0, 2]);
        assert_eq!(index.tokens(4), ["<a_7>", "<b_1>", "<c_2>"]);
        let sources: Vec<Source> = index.levels().iter().map(|level| level.source).collect();
        assert_eq!(sources, [Source::Semantic, Source::Semantic, Source::Random]);
    }

    #[test]
    fn an_index_without_shared_codes_stays_as_it_is() {
        let foreign = read(r#"{"0": ["<a_7>"], "1": ["<a_2>"]}"#, 2).unwrap();
        assert_eq!(foreign.describe_sharing(), None);
        let index = foreign.into_index(&[Source::Behavior], OnCollision::Extend).unwrap();
        assert_eq!(index.vocabulary(), ["<a_2>", "<a_7>"]);
    }

    #[test]
    fn an_index_of_other_items_is_refused_by_name() {
        let error = read(SHARED, 7).unwrap_err().to_string();
        assert!(error.contains("item 5 is missing") && error.contains("has 7 items"), "{error}");
        let error = read(SHARED, 4).unwrap_err().to_string();
        assert!(error.contains("item 4 is not in the dataset"), "{error}");
        let error = read(SHARED, 5).unwrap();
        let error = error.into_index(&[Source::Semantic; 3], OnCollision::Extend).unwrap_err();
        assert!(error.to_string().contains("2 levels and 3 sources"), "{error}");
    }
}
