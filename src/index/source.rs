//! Which signal an index is built from, and how many codes each of its levels gets.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::IndexError;
use crate::Result;

/// The signal that an index, or one level of it, is built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Item text.
    Semantic,
    /// Who interacted with what.
    Behavior,
    /// Both: semantic levels first, then behavior levels. Names an index, never a level.
    Unit,
    /// Neither: the baseline that only tells items apart.
    Random,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Source::Semantic => "semantic",
            Source::Behavior => "behavior",
            Source::Unit => "unit",
            Source::Random => "random",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Source {
    type Err = IndexError;

    fn from_str(name: &str) -> std::result::Result<Self, IndexError> {
        [Source::Semantic, Source::Behavior, Source::Unit, Source::Random]
            .into_iter()
            .find(|source| source.name() == name)
            .ok_or_else(|| IndexError::UnknownSource(name.to_string()))
    }
}

/// The smallest b with `b^levels >= num_items`: the fewest children a node needs for every item to
/// get a leaf of its own at depth `levels`. At least 2.
///
/// # Errors
/// If that is more than `k`; the message says which k or levels would do.
pub fn branching(num_items: usize, k: usize, levels: usize) -> Result<usize> {
    let min_levels = min_levels(num_items, k)?;
    let power = |b: usize| (b as u128).saturating_pow(u32::try_from(levels).unwrap_or(u32::MAX));
    // The root in floating point may be off by one either way: start below it and count up.
    let root =
        if levels == 0 { f64::INFINITY } else { (num_items as f64).powf(1.0 / levels as f64) };
    let start = (root as usize).saturating_sub(1).clamp(2, num_items.max(2));
    let smallest = (start..=num_items.max(2)).find(|&b| power(b) >= num_items as u128);
    match smallest {
        Some(b) if b <= k => Ok(b),
        _ => Err(IndexError::Infeasible {
            num_items,
            k,
            levels,
            room: power(k),
            min_k: smallest.unwrap_or(num_items),
            min_levels,
        }
        .into()),
    }
}

/// The fewest levels (at least 1) with `k^levels >= num_items`.
///
/// # Errors
/// If there are no items or k is below 2.
pub fn min_levels(num_items: usize, k: usize) -> Result<usize> {
    if num_items == 0 {
        return Err(IndexError::NoItems.into());
    }
    if k < 2 {
        return Err(IndexError::BranchingTooSmall { k }.into());
    }
    let (mut levels, mut room) = (1, k);
    while room < num_items {
        levels += 1;
        room = room.saturating_mul(k);
    }
    Ok(levels)
}

/// How large the tree of one source may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeSettings {
    /// The largest number of children of a node.
    pub k: usize,
    /// The number of levels; 0 for as few as `k` allows.
    pub levels: usize,
}

impl TreeSettings {
    fn levels(self, num_items: usize) -> Result<usize> {
        if self.levels == 0 { min_levels(num_items, self.k) } else { Ok(self.levels) }
    }
}

/// One tree (or, for `random`, one tree's worth of levels) of an index to be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreePlan {
    /// The signal of these levels: never `unit`.
    pub source: Source,
    /// The number of levels.
    pub levels: usize,
    /// The number of children of a node that has items enough.
    pub branching: usize,
}

impl TreePlan {
    /// The number of codes at each level of a balanced tree over `num_items` items: the branching,
    /// but on the last levels no more than the largest node has items.
    pub fn num_codes(&self, num_items: usize) -> Vec<usize> {
        let mut largest = num_items;
        (0..self.levels)
            .map(|_| {
                let children = self.branching.min(largest);
                largest = largest.div_ceil(children.max(1));
                children
            })
            .collect()
    }
}

/// The trees of an index from `source`, in level order.
///
/// `unit` gets the semantic tree, then the behavior tree. Every other source gets the same total
/// number of levels, so that sources are compared at equal length (paper, figure 5): `semantic` and
/// `behavior` as one deeper, narrower tree; `random` over the code ranges of `unit`.
///
/// # Errors
/// If the settings leave no room for `num_items` items.
pub fn plan(
    source: Source,
    semantic: TreeSettings,
    behavior: TreeSettings,
    num_items: usize,
) -> Result<Vec<TreePlan>> {
    let lengths = [semantic.levels(num_items)?, behavior.levels(num_items)?];
    let tree = |source, k, levels| {
        Ok::<_, crate::Error>(TreePlan {
            source,
            levels,
            branching: branching(num_items, k, levels)?,
        })
    };
    let pair = |first, second| {
        Ok(vec![tree(first, semantic.k, lengths[0])?, tree(second, behavior.k, lengths[1])?])
    };
    let total = lengths[0] + lengths[1];
    match source {
        Source::Semantic => Ok(vec![tree(source, semantic.k, total)?]),
        Source::Behavior => Ok(vec![tree(source, behavior.k, total)?]),
        Source::Unit => pair(Source::Semantic, Source::Behavior),
        Source::Random => pair(Source::Random, Source::Random),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAPER: TreeSettings = TreeSettings { k: 256, levels: 2 };

    #[test]
    fn branching_is_the_smallest_that_fits() {
        for (num_items, levels, expected) in [
            (12_101, 2, 111),
            (12_321, 2, 111),
            (12_322, 2, 112),
            (12_101, 4, 11),
            (1, 3, 2),
            (256, 1, 256),
        ] {
            assert_eq!(
                branching(num_items, 256, levels).unwrap(),
                expected,
                "{num_items}, {levels}"
            );
        }
        assert_eq!(min_levels(12_101, 256).unwrap(), 2);
        assert_eq!(min_levels(256, 256).unwrap(), 1);
        assert_eq!(min_levels(257, 256).unwrap(), 2);
    }

    #[test]
    fn infeasible_pairs_name_what_would_do() {
        let message = branching(12_101, 100, 2).unwrap_err().to_string();
        assert!(message.contains("at most 10000 items, and there are 12101"), "{message}");
        assert!(message.contains("raise k to 111 or levels to 3"), "{message}");
        let message = branching(12_101, 256, 0).unwrap_err().to_string();
        assert!(message.contains("levels to 2"), "{message}");
        assert!(branching(5, 1, 2).unwrap_err().to_string().contains("k is 1"));
        assert!(branching(0, 2, 2).unwrap_err().to_string().contains("no items"));
    }

    #[test]
    fn every_source_gets_the_same_number_of_levels() {
        let plans =
            |source| plan(source, PAPER, TreeSettings { k: 256, levels: 0 }, 12_101).unwrap();
        assert_eq!(
            plans(Source::Semantic),
            [TreePlan { source: Source::Semantic, levels: 4, branching: 11 }]
        );
        assert_eq!(plans(Source::Unit).iter().map(|t| t.branching).collect::<Vec<_>>(), [111, 111]);
        assert_eq!(plans(Source::Random)[1].source, Source::Random);
        assert_eq!(plans(Source::Unit)[0].num_codes(12_101), [111, 110]);
        assert_eq!(plans(Source::Behavior)[0].num_codes(12_101), [11, 11, 11, 10]);
    }

    #[test]
    fn names_round_trip() {
        for source in [Source::Semantic, Source::Behavior, Source::Unit, Source::Random] {
            assert_eq!(source.to_string().parse::<Source>().unwrap(), source);
            assert_eq!(serde_json::to_string(&source).unwrap(), format!("\"{source}\""));
        }
        assert!("text".parse::<Source>().unwrap_err().to_string().contains("`text`"));
    }
}
