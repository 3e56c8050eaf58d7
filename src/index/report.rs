//! What an index looks like in numbers: how its codes spread, and whether siblings are alike.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Serialize;

use super::item_index::letter;
use super::{ItemIndex, Part, Source};

/// How many items the members of a family of groups have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// The smallest group's.
    pub min: usize,
    /// The middle group's; of two in the middle, the smaller one's.
    pub median: usize,
    /// The largest group's.
    pub max: usize,
}

impl Spread {
    /// The spread of `sizes`; all zeros where there are none.
    fn of(mut sizes: Vec<usize>) -> Self {
        sizes.sort_unstable();
        let at = |i: usize| sizes.get(i).copied().unwrap_or(0);
        let last = sizes.len().saturating_sub(1);
        Self { min: at(0), median: at(last / 2), max: at(last) }
    }
}

/// The figures of one level.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LevelReport {
    /// The level's letter.
    pub level: char,
    /// The signal of the level.
    pub source: Source,
    /// The number of codes that occur.
    pub used_codes: usize,
    /// The entropy of the level's codes over the items, in bits; at most `log2(used_codes)`.
    pub entropy_bits: f64,
    /// The entropy as a share of that maximum: 1 where all codes have the same number of items. 0 where
    /// there is one code.
    pub entropy_share: f64,
    /// Items that have a code at this level.
    pub items_per_code: Spread,
    /// Items that share their codes of this source up to and with this level.
    pub items_per_prefix: Spread,
}

/// The figures of an index.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The number of items.
    pub num_items: usize,
    /// The number of item tokens, all levels together.
    pub num_tokens: usize,
    /// Items for each item token: how much smaller the vocabulary is than one token an item.
    pub compression_ratio: f64,
    /// Items whose index another item has too: none, since an index with such items cannot be made.
    pub collisions: usize,
    /// The levels, in order.
    pub levels: Vec<LevelReport>,
}

/// The figures of `index`.
pub fn report(index: &ItemIndex) -> Report {
    let num_items = index.num_items();
    let parts = Part::of(index);
    let level_report = |level: usize| {
        let source = index.levels()[level].source;
        let codes: Vec<usize> = counts(index, level..level + 1).into_values().collect();
        let prefixes = parts.iter().filter_map(|part| {
            let length = part.levels().iter().position(|&l| l == level)? + 1;
            Some(part.groups(index, length).map(<[u32]>::len).collect())
        });
        let share = |&count: &usize| count as f64 / num_items as f64;
        // Of one code that of its share, 0, and not -0.
        let entropy_bits = codes.iter().map(share).map(|p| p * p.log2()).sum::<f64>().abs();
        let most = (codes.len() as f64).log2();
        LevelReport {
            level: letter(level),
            source,
            used_codes: codes.len(),
            entropy_bits,
            entropy_share: if codes.len() > 1 { entropy_bits / most } else { 0.0 },
            items_per_prefix: Spread::of(prefixes.flat_map(|sizes: Vec<usize>| sizes).collect()),
            items_per_code: Spread::of(codes),
        }
    };
    let levels: Vec<LevelReport> = (0..index.num_levels()).map(level_report).collect();
    let num_tokens = levels.iter().map(|level| level.used_codes).sum();
    let shared = |n: &usize| *n > 1;
    Report {
        num_items,
        num_tokens,
        compression_ratio: num_items as f64 / num_tokens as f64,
        collisions: counts(index, 0..index.num_levels()).into_values().filter(shared).sum(),
        levels,
    }
}

/// The number of items with the same codes at `levels`.
fn counts(index: &ItemIndex, levels: Range<usize>) -> BTreeMap<&[u32], usize> {
    let mut counts = BTreeMap::new();
    for item in 0..index.num_items() as u32 {
        *counts.entry(&index.item_codes(item)[levels.clone()]).or_default() += 1;
    }
    counts
}

/// How often two items have the same label; `None` where there is no such pair.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Agreement {
    /// Pairs of items with the same codes.
    pub siblings: Option<f64>,
    /// All other pairs.
    pub strangers: Option<f64>,
}

/// The share of pairs of items with equal labels, among pairs that share their codes at `levels`
/// (`0..p` for a prefix of length p) and among pairs that do not. Counted, not sampled.
///
/// `labels` holds one label an item. Panics if it does not.
pub fn agreement(index: &ItemIndex, levels: Range<usize>, labels: &[usize]) -> Agreement {
    assert_eq!(labels.len(), index.num_items(), "one label an item");
    let pairs = |count: &usize| (count * count.saturating_sub(1) / 2) as u64;
    let mut by_label: BTreeMap<usize, usize> = BTreeMap::new();
    let mut by_both: BTreeMap<(&[u32], usize), usize> = BTreeMap::new();
    for (item, &label) in (0..).zip(labels) {
        *by_label.entry(label).or_default() += 1;
        *by_both.entry((&index.item_codes(item)[levels.clone()], label)).or_default() += 1;
    }
    let siblings: u64 = counts(index, levels).values().map(pairs).sum();
    let alike: u64 = by_label.values().map(pairs).sum();
    let alike_siblings: u64 = by_both.values().map(pairs).sum();
    let strangers = pairs(&labels.len()) - siblings;
    let rate = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
    Agreement {
        siblings: rate(alike_siblings, siblings),
        strangers: rate(alike - alike_siblings, strangers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Level;

    fn index() -> ItemIndex {
        let level = |source| Level { source, num_codes: 4 };
        let levels =
            vec![level(Source::Semantic), level(Source::Semantic), level(Source::Behavior)];
        ItemIndex::new(levels, vec![0, 0, 1, 0, 1, 1, 0, 2, 0, 1, 0, 1]).unwrap()
    }

    #[test]
    fn figures_of_a_small_index() {
        let report = report(&index());
        assert_eq!((report.num_items, report.num_tokens), (4, 7));
        assert!((report.compression_ratio - 4.0 / 7.0).abs() < 1e-12);
        let sizes: Vec<_> = report
            .levels
            .iter()
            .map(|l| (l.level, l.used_codes, l.items_per_prefix.min, l.items_per_prefix.max))
            .collect();
        assert_eq!(sizes, [('a', 2, 1, 3), ('b', 3, 1, 1), ('c', 2, 1, 3)]);
        let second = &report.levels[1];
        assert!((second.entropy_bits - 1.5).abs() < 1e-12);
        assert!((second.entropy_share - 1.5 / 3f64.log2()).abs() < 1e-12);
        assert_eq!(second.items_per_code, Spread { min: 1, median: 1, max: 2 });
        assert_eq!(report.collisions, 0);

        let levels = [1, 2].map(|num_codes| Level { source: Source::Semantic, num_codes });
        let report = super::report(&ItemIndex::new(levels.to_vec(), vec![0, 0, 0, 1]).unwrap());
        assert_eq!(report.levels[0].entropy_bits.to_bits(), 0f64.to_bits(), "and not -0");
    }

    #[test]
    fn agreement_equals_counting_all_pairs() {
        let (index, labels) = (index(), [5, 5, 6, 6]);
        // Siblings at level 0: (0,1) alike, (0,2), (1,2). Strangers: (0,3), (1,3), (2,3) alike.
        let found = agreement(&index, 0..1, &labels);
        assert_eq!(found, Agreement { siblings: Some(1.0 / 3.0), strangers: Some(1.0 / 3.0) });
        assert_eq!(agreement(&index, 0..3, &labels).siblings, None);
        assert_eq!(agreement(&index, 0..0, &labels).strangers, None);
    }
}
