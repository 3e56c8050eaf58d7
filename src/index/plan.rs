//! How many levels each source of an index gets, and how many codes each level has.

use super::{IndexError, Method, Order, Source};
use crate::Result;

/// The most levels of an index: one letter a level.
pub(super) const MAX_LEVELS: usize = 26;

/// The smallest b with `b^levels >= num_items`: the fewest children a node needs for every item to
/// get a leaf of its own at depth `levels`. At least 2.
///
/// # Errors
/// If that is more than `k`; the message says which k or levels would do.
pub fn branching(num_items: usize, k: usize, levels: usize) -> Result<usize> {
    let min_levels = min_levels(num_items, k)?;
    // The root in floating point may be off by one either way: start below it and count up.
    let root =
        if levels == 0 { f64::INFINITY } else { (num_items as f64).powf(1.0 / levels as f64) };
    let start = (root as usize).saturating_sub(1).clamp(2, num_items.max(2));
    let smallest = (start..=num_items.max(2)).find(|&b| power(b, levels) >= num_items as u128);
    match smallest {
        Some(b) if b <= k => Ok(b),
        _ => Err(IndexError::Infeasible {
            num_items,
            k,
            levels,
            room: power(k, levels),
            min_k: smallest.unwrap_or(num_items),
            min_levels,
        }
        .into()),
    }
}

/// `b^levels`.
fn power(b: usize, levels: usize) -> u128 {
    (b as u128).saturating_pow(u32::try_from(levels).unwrap_or(u32::MAX))
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
    /// The number of levels.
    pub levels: usize,
}

/// One source's levels of an index to be built: a tree, codebooks, or random codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreePlan {
    /// The signal of these levels: never `unit`.
    pub source: Source,
    /// The number of levels.
    pub levels: usize,
    /// The number of children of a node that has items enough; of a residual method, the size of
    /// every codebook.
    pub branching: usize,
}

impl TreePlan {
    /// The number of tuples of these levels.
    pub fn room(&self) -> u128 {
        power(self.branching, self.levels)
    }

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

/// What an index is to be, before the number of items is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexSettings {
    /// The signal.
    pub source: Source,
    /// How vectors become codes.
    pub method: Method,
    /// The order of the levels of two sources.
    pub order: Order,
    /// Whether the first source leaves it to the second to tell some items apart.
    pub shared: bool,
    /// The size of the semantic part.
    pub semantic: TreeSettings,
    /// The size of the behavior part.
    pub behavior: TreeSettings,
}

impl IndexSettings {
    /// The parts of the index, semantic before behavior.
    ///
    /// `unit` has a part of each signal, `semantic` and `behavior` their own alone, `random` two parts with the
    /// code ranges of `unit`. Trees branch as little as their levels allow; codebooks have `k` codes. The
    /// method `random` draws over the ranges that the source has in trees, so that an index and the random
    /// one beside it differ in meaning alone.
    ///
    /// # Errors
    /// If the settings leave no room for `num_items` items, or are of more levels than an index has.
    pub fn plan(&self, num_items: usize) -> Result<Vec<TreePlan>> {
        let residual = self.method.is_residual();
        let part = |source, TreeSettings { k, levels }| {
            let source = if self.method == Method::Random { Source::Random } else { source };
            // Asked of codebooks too, whose k stays as it is: it refuses a k that is too small.
            let fewest = branching(num_items, k, levels)?;
            let branching = if residual { k.min(num_items) } else { fewest };
            Ok::<_, crate::Error>(TreePlan { source, levels, branching })
        };
        let semantic = |source| part(source, self.semantic);
        let behavior = |source| part(source, self.behavior);
        let plans = match self.source {
            Source::Random => vec![semantic(Source::Random)?, behavior(Source::Random)?],
            Source::Unit if self.shared => self.shared_plan(num_items)?,
            Source::Unit => vec![semantic(Source::Semantic)?, behavior(Source::Behavior)?],
            Source::Semantic => vec![semantic(Source::Semantic)?],
            Source::Behavior => vec![behavior(Source::Behavior)?],
        };
        let levels = plans.iter().map(|plan| plan.levels).sum();
        if levels > MAX_LEVELS {
            return Err(IndexError::LevelCount { levels }.into());
        }
        Ok(plans)
    }

    /// The parts of a shared index: only together do their tuples suffice for all items. Trees have
    /// the smallest branching b with `b^(all levels)` at least twice the number of items, or `k`:
    /// with room to spare most items keep the leaf they belong to.
    fn shared_plan(&self, num_items: usize) -> Result<Vec<TreePlan>> {
        let levels = [self.semantic.levels, self.behavior.levels];
        let enough = branching(2 * num_items, usize::MAX, levels[0] + levels[1])?;
        let part = |source, TreeSettings { k, levels }| {
            let most = if self.method.is_residual() { num_items.max(2) } else { enough };
            TreePlan { source, levels, branching: k.min(most) }
        };
        let parts =
            vec![part(Source::Semantic, self.semantic), part(Source::Behavior, self.behavior)];
        let room = parts.iter().fold(1u128, |room, part| room.saturating_mul(part.room()));
        if room < num_items as u128 {
            let k = [self.semantic.k, self.behavior.k];
            return Err(IndexError::NoSharedRoom { k, levels, room, num_items }.into());
        }
        Ok(parts)
    }

    /// The source of each level of the index that `plans` make, in order.
    pub fn level_sources(&self, plans: &[TreePlan]) -> Vec<Source> {
        let lengths: Vec<usize> = plans.iter().map(|plan| plan.levels).collect();
        self.order.arrange(&lengths).into_iter().map(|(part, _)| plans[part].source).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAPER: IndexSettings = IndexSettings {
        source: Source::Unit,
        method: Method::HierarchicalKmeans,
        order: Order::SemanticFirst,
        shared: false,
        semantic: TreeSettings { k: 256, levels: 2 },
        behavior: TreeSettings { k: 256, levels: 2 },
    };

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
        let many = TreeSettings { k: 256, levels: 14 };
        for shared in [false, true] {
            let settings = IndexSettings { semantic: many, behavior: many, shared, ..PAPER };
            let message = settings.plan(12_101).unwrap_err().to_string();
            assert!(message.contains("1 to 26 levels") && message.contains("28"), "{message}");
        }
    }

    #[test]
    fn a_source_alone_has_its_own_levels() {
        let plans = |source| IndexSettings { source, ..PAPER }.plan(12_101).unwrap();
        assert_eq!(
            plans(Source::Semantic),
            [TreePlan { source: Source::Semantic, levels: 2, branching: 111 }]
        );
        // One token an item.
        let one = IndexSettings {
            source: Source::Behavior,
            method: Method::ResidualKmeans,
            behavior: TreeSettings { k: 20_000, levels: 1 },
            ..PAPER
        };
        assert_eq!(
            one.plan(12_101).unwrap(),
            [TreePlan { source: Source::Behavior, levels: 1, branching: 12_101 }]
        );
        assert_eq!(plans(Source::Unit).iter().map(|t| t.branching).collect::<Vec<_>>(), [111, 111]);
        assert_eq!(plans(Source::Random)[1].source, Source::Random);
        assert_eq!(plans(Source::Unit)[0].num_codes(12_101), [111, 110]);
        let four = TreeSettings { k: 256, levels: 4 };
        let four = IndexSettings { source: Source::Behavior, behavior: four, ..PAPER };
        assert_eq!(four.plan(12_101).unwrap()[0].num_codes(12_101), [11, 11, 11, 10]);
    }

    #[test]
    fn codebooks_keep_their_k() {
        for method in [Method::ResidualKmeans, Method::RqVae] {
            let settings = IndexSettings { method, ..PAPER };
            let sizes = |num_items| settings.plan(num_items).unwrap()[1].branching;
            assert_eq!((sizes(12_101), sizes(100)), (256, 100));
            let error = settings.plan(70_000).unwrap_err().to_string();
            assert!(error.contains("raise k to 265"), "{error}");
        }
    }

    #[test]
    fn random_codes_have_the_ranges_of_what_they_stand_beside() {
        let plan = |source, method| {
            let plans = IndexSettings { source, method, ..PAPER }.plan(12_101).unwrap();
            let size = |plan: TreePlan| (plan.levels, plan.branching);
            (plans[0].source, plans.into_iter().map(size).collect::<Vec<_>>())
        };
        for source in [Source::Semantic, Source::Behavior, Source::Unit] {
            let (drawn, sizes) = plan(source, Method::Random);
            assert_eq!(drawn, Source::Random);
            assert_eq!(sizes, plan(source, Method::HierarchicalKmeans).1, "{source}");
        }
        for method in [Method::HierarchicalKmeans, Method::ResidualKmeans, Method::RqVae] {
            assert_eq!(plan(Source::Random, method).1, plan(Source::Unit, method).1, "{method}");
        }
    }

    #[test]
    fn shared_trees_have_room_to_spare_or_all_of_k() {
        let plan = |k, levels, num_items| {
            let size = TreeSettings { k, levels };
            IndexSettings { shared: true, semantic: size, behavior: size, ..PAPER }.plan(num_items)
        };
        let branching = |k, levels, num_items| {
            plan(k, levels, num_items).unwrap().iter().map(|p| p.branching).collect::<Vec<_>>()
        };
        // 13^4 = 28,561 is the first fourth power above 24,202.
        assert_eq!(branching(256, 2, 12_101), [13, 13]);
        assert_eq!(branching(256, 1, 12_101), [156, 156]);
        assert_eq!(branching(32, 1, 800), [32, 32]);
        let error = plan(28, 1, 800).unwrap_err().to_string();
        assert!(error.contains("784 tuples") && error.contains("800 items"), "{error}");
    }

    #[test]
    fn level_sources_follow_the_order() {
        let settings = IndexSettings { order: Order::Interleaved, ..PAPER };
        let sources = settings.level_sources(&settings.plan(12_101).unwrap());
        assert_eq!(sources, [Source::Semantic, Source::Behavior].repeat(2));
    }
}
