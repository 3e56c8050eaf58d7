//! What a run's item index looks like: figures, how alike siblings are, and what each token stands for.

use ndarray::Array2;
use rayon::prelude::*;
use serde::Serialize;

use super::meaning::{Meanings, NamedItem, TokenMeaning};
use crate::Result;
use crate::data::{Dataset, ItemId};
use crate::index::{ItemIndex, Part, Report, Similarity, Source, central, report, similarity};
use crate::run::artifacts::{load_index, load_matrix};
use crate::run::{Import, Run, Stage};

/// How many central items are named for a token.
const CENTRAL: usize = 5;

/// What a token stands for wherever it occurs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenReport {
    /// The token, its items and those bought most often.
    #[serde(flatten)]
    pub meaning: TokenMeaning,
    /// After how many different beginnings of its source it occurs.
    pub prefixes: usize,
    /// The items nearest to the mean of its items in the embedding of its level's source, nearest first;
    /// none where the run has no such embedding.
    pub central: Vec<NamedItem>,
}

/// The figures of a run's item index.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IndexReport {
    /// The dataset.
    pub dataset: String,
    /// The file that the index was imported from, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imported: Option<Import>,
    /// Codes and clusters.
    #[serde(flatten)]
    pub codes: Report,
    /// How alike items are that share a prefix, by source and length.
    pub similarity: Vec<Similarity>,
    /// Every token, by level and code.
    pub tokens: Vec<TokenReport>,
}

/// The levels of one source, and the items in the order of their codes there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceTree {
    /// The source.
    pub source: Source,
    /// The levels, from 0.
    pub levels: Vec<usize>,
    /// The items.
    pub order: Vec<ItemId>,
}

/// An index laid open.
#[derive(Debug)]
pub struct Inspection<'a> {
    /// The figures.
    pub report: IndexReport,
    dataset: &'a Dataset,
    index: ItemIndex,
    parts: Vec<Part>,
}

impl Inspection<'_> {
    /// The items, by id.
    pub fn items(&self) -> impl ExactSizeIterator<Item = NamedItem> {
        (0..self.index.num_items()).map(|item| NamedItem::new(self.dataset, item as ItemId))
    }

    /// The code of every item at `level`.
    pub fn codes(&self, level: usize) -> impl ExactSizeIterator<Item = u32> {
        (0..self.index.num_items()).map(move |item| self.index.item_codes(item as ItemId)[level])
    }

    /// The tree of each source.
    pub fn trees(&self) -> Vec<SourceTree> {
        let tree = |part: &Part| SourceTree {
            source: part.source(),
            levels: part.levels().to_vec(),
            order: part.order().to_vec(),
        };
        self.parts.iter().map(tree).collect()
    }

    /// For each level, how many items share their codes of its source up to it, prefix by prefix.
    pub fn cluster_sizes(&self, level: usize) -> Vec<usize> {
        let length = |part: &Part| part.levels().iter().position(|&l| l == level);
        let groups = self.parts.iter().find_map(|part| {
            let groups = part.groups(&self.index, length(part)? + 1);
            Some(groups.map(<[ItemId]>::len).collect())
        });
        groups.unwrap_or_default()
    }
}

impl Run {
    /// Inspects the item index.
    ///
    /// # Errors
    /// If it is missing, or of other settings.
    pub fn inspect(&self) -> Result<Inspection<'_>> {
        self.require(Stage::Index)?;
        let index = load_index(self)?;
        let semantic = load_matrix(self, "semantic")?;
        let behavior = load_matrix(self, "behavior")?;
        let parts = Part::of(&index);
        let sequences: Vec<&[ItemId]> = self.dataset.train_sequences().collect();
        let vectors = [&semantic, &behavior].map(|z| z.as_ref().map(Array2::view));
        let alike = |part| similarity(&index, part, vectors, &sequences, self.config.seed);
        let matrix = |source| match source {
            Source::Semantic => semantic.as_ref(),
            Source::Behavior => behavior.as_ref(),
            Source::Unit | Source::Random => None,
        };
        let report = IndexReport {
            dataset: self.dataset.name.clone(),
            imported: self.imported().cloned(),
            codes: report(&index),
            similarity: parts.iter().flat_map(alike).collect(),
            tokens: tokens(&self.dataset, &index, &parts, matrix),
        };
        Ok(Inspection { report, dataset: &self.dataset, index, parts })
    }
}

/// The report of every token, by level and code.
fn tokens<'a>(
    dataset: &Dataset,
    index: &ItemIndex,
    parts: &[Part],
    matrix: impl Fn(Source) -> Option<&'a Array2<f32>> + Sync,
) -> Vec<TokenReport> {
    let meanings = Meanings::new(dataset);
    let (vocabulary, levels) = (index.vocabulary(), index.level_ranges());
    let mut items_of: Vec<Vec<ItemId>> = vec![Vec::new(); vocabulary.len()];
    for item in 0..index.num_items() as ItemId {
        for token in index.token_ids(item) {
            items_of[token as usize].push(item);
        }
    }
    let prefixes = |part: &Part, place: usize, items: &[ItemId]| {
        let mut found: Vec<Vec<u32>> =
            items.iter().map(|&item| part.codes(index, item).take(place).collect()).collect();
        found.sort_unstable();
        found.dedup();
        found.len()
    };
    let of_token = |(token, items): (usize, &Vec<ItemId>)| {
        let level = levels.iter().position(|range| range.contains(&token))?;
        let part = parts.iter().find(|part| part.levels().contains(&level))?;
        let place = part.levels().iter().position(|&l| l == level)?;
        let central = matrix(part.source()).map(|z| central(z.view(), items, CENTRAL));
        Some(TokenReport {
            meaning: meanings.of(vocabulary[token].clone(), part.source(), items),
            prefixes: prefixes(part, place, items),
            central: meanings.named(central.unwrap_or_default()),
        })
    };
    items_of.par_iter().enumerate().filter_map(of_token).collect()
}
