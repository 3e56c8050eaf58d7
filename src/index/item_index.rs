//! The item index: ordered levels of codes, unique per item, and the item tokens that spell them.

use std::collections::HashSet;
use std::ops::Range;

use super::plan::MAX_LEVELS;
use super::{IndexError, Order, Source, SourceCodes, Tree};
use crate::{Result, rng};

/// One position of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// The signal its codes come from; never `unit`.
    pub source: Source,
    /// Codes are below this.
    pub num_codes: usize,
}

/// The codes of every item, levels in the order of [`Order`].
///
/// Unique by construction: a value of this type never holds two items with the same codes.
/// Besides its code at a level an item has a *position* there: the rank of the code among those
/// that occur at the level. Positions are dense, codes need not be.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemIndex {
    levels: Vec<Level>,
    /// (items, levels).
    codes: Vec<u32>,
    /// (items, levels): positions within their level.
    positions: Vec<u32>,
    /// The codes that occur at each level, ascending.
    used: Vec<Vec<u32>>,
    /// Item ids in the order of their codes.
    sorted: Vec<u32>,
}

impl ItemIndex {
    /// An index from `codes`, (items, levels), row-major.
    ///
    /// # Errors
    /// If two items share their codes, a code is outside its level, a level's source is `unit`, or
    /// there are no items, no levels or more than 26.
    pub fn new(levels: Vec<Level>, codes: Vec<u32>) -> Result<Self> {
        let width = levels.len();
        if width == 0 || width > MAX_LEVELS {
            return Err(IndexError::LevelCount { levels: width }.into());
        }
        if let Some(level) = levels.iter().find(|level| level.source == Source::Unit) {
            return Err(IndexError::NotOneSource(level.source).into());
        }
        if codes.is_empty() {
            return Err(IndexError::NoItems.into());
        }
        if !codes.len().is_multiple_of(width) {
            return Err(IndexError::Ragged { codes: codes.len(), levels: width }.into());
        }
        for (i, &code) in codes.iter().enumerate() {
            let (item, level) = ((i / width) as u32, i % width);
            let num_codes = levels[level].num_codes;
            if code as usize >= num_codes {
                return Err(IndexError::CodeRange { item, level, code, num_codes }.into());
            }
        }

        let row = |item: u32| &codes[item as usize * width..][..width];
        let mut sorted: Vec<u32> = (0..(codes.len() / width) as u32).collect();
        sorted.sort_by(|&a, &b| row(a).cmp(row(b)));
        if let Some(pair) = sorted.windows(2).find(|pair| row(pair[0]) == row(pair[1])) {
            let tokens = tokens_of(row(pair[0])).concat();
            return Err(IndexError::Collision { first: pair[0], second: pair[1], tokens }.into());
        }

        let used: Vec<Vec<u32>> = (0..width)
            .map(|level| {
                let mut used: Vec<u32> = codes.iter().skip(level).step_by(width).copied().collect();
                used.sort_unstable();
                used.dedup();
                used
            })
            .collect();
        let place = |(i, code): (usize, &u32)| used[i % width].partition_point(|c| c < code) as u32;
        let positions = codes.iter().enumerate().map(place).collect();
        Ok(Self { levels, codes, positions, used, sorted })
    }

    /// The index of one or two sources, semantic before behavior, with its levels in `order`.
    ///
    /// # Errors
    /// Those of [`ItemIndex::new`], and if the sources speak of different numbers of items.
    pub fn join(parts: &[SourceCodes], order: Order) -> Result<Self> {
        let num_items = parts.first().map_or(0, SourceCodes::num_items);
        if let Some(other) = parts.iter().find(|part| part.num_items() != num_items) {
            let (first, second) = (parts[0].source, other.source);
            let (items, others) = (num_items, other.num_items());
            return Err(IndexError::ItemsDiffer { first, items, second, others }.into());
        }
        let lengths: Vec<usize> = parts.iter().map(SourceCodes::num_levels).collect();
        let places = order.arrange(&lengths);
        let level = |&(part, level): &(usize, usize)| {
            let part: &SourceCodes = &parts[part];
            Level { source: part.source, num_codes: part.num_codes[level] }
        };
        let code =
            |item, (part, level): (usize, usize)| parts[part].codes[item * lengths[part] + level];
        let codes =
            (0..num_items).flat_map(|item| places.iter().map(move |&place| code(item, place)));
        Self::new(places.iter().map(level).collect(), codes.collect())
    }

    /// The index of one tree, all its levels from `source`.
    pub fn single(source: Source, tree: &Tree) -> Result<Self> {
        Self::join(&[SourceCodes::tree(source, tree)], Order::default())
    }

    /// The unitive index: the codes of the semantic tree, then those of the behavior tree.
    pub fn unit(semantic: &Tree, behavior: &Tree) -> Result<Self> {
        let parts = [(Source::Semantic, semantic), (Source::Behavior, behavior)];
        Self::join(&parts.map(|(source, tree)| SourceCodes::tree(source, tree)), Order::default())
    }

    /// Distinct tuples, drawn uniformly; `num_codes` is the size of each level.
    ///
    /// # Errors
    /// If there are fewer tuples than items.
    pub fn random(num_items: usize, num_codes: &[usize], seed: u64) -> Result<Self> {
        let room = num_codes.iter().fold(1u128, |room, &n| room.saturating_mul(n as u128));
        if room < num_items as u128 {
            return Err(IndexError::NoRoom { room, num_items }.into());
        }
        let mut rng = rng::stream(seed, "index.random", &[]);
        // Only asked whether it holds a tuple, never iterated.
        let mut seen = HashSet::with_capacity(num_items);
        let mut codes = Vec::with_capacity(num_items * num_codes.len());
        while seen.len() < num_items {
            let draw = |&n: &usize| (rng::uniform(&mut rng) * n as f64) as u32;
            let tuple: Vec<u32> = num_codes.iter().map(draw).collect();
            if seen.insert(tuple.clone()) {
                codes.extend(tuple);
            }
        }
        let level = |&num_codes: &usize| Level { source: Source::Random, num_codes };
        Self::new(num_codes.iter().map(level).collect(), codes)
    }

    /// The number of items.
    pub fn num_items(&self) -> usize {
        self.sorted.len()
    }

    /// The number of codes an item.
    pub fn num_levels(&self) -> usize {
        self.levels.len()
    }

    /// The levels, in order.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// The codes of all items, (items, levels), row-major.
    pub fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// The codes of `item`. Panics, like every method that takes an item, if there is no such item.
    pub fn item_codes(&self, item: u32) -> &[u32] {
        row(&self.codes, self.levels.len(), item)
    }

    /// The positions of `item`'s codes, each within its level.
    pub fn item_positions(&self, item: u32) -> &[u32] {
        row(&self.positions, self.levels.len(), item)
    }

    /// The item with these codes.
    pub fn item_of(&self, codes: &[u32]) -> Option<u32> {
        let found = self.sorted.binary_search_by(|&item| self.item_codes(item).cmp(codes));
        found.ok().map(|i| self.sorted[i])
    }

    /// The items whose first `levels` codes others have too, group by group, each in ascending order.
    pub fn sharing(&self, levels: usize) -> Vec<Vec<u32>> {
        let begin = |item: &u32| &self.item_codes(*item)[..levels];
        let groups = self.sorted.chunk_by(|a, b| begin(a) == begin(b));
        let mut groups: Vec<Vec<u32>> =
            groups.filter(|group| group.len() > 1).map(<[u32]>::to_vec).collect();
        for group in &mut groups {
            group.sort_unstable();
        }
        groups.sort();
        groups
    }

    /// The item tokens of `item`, such as `<a_17>`, in order.
    pub fn tokens(&self, item: u32) -> Vec<String> {
        tokens_of(self.item_codes(item))
    }

    /// Every item token that occurs, by level, then by code.
    pub fn vocabulary(&self) -> Vec<String> {
        let level = |(level, codes): (usize, &Vec<u32>)| {
            codes.iter().map(|&code| token(level, code)).collect::<Vec<_>>()
        };
        self.used.iter().enumerate().flat_map(level).collect()
    }

    /// The part of the vocabulary that each level takes.
    pub fn level_ranges(&self) -> Vec<Range<usize>> {
        let mut start = 0;
        let next = |codes: &Vec<u32>| {
            start += codes.len();
            start - codes.len()..start
        };
        self.used.iter().map(next).collect()
    }

    /// The places of `item`'s tokens in the vocabulary, in order.
    pub fn token_ids(&self, item: u32) -> Vec<u32> {
        let positions = self.item_positions(item).iter();
        positions.zip(self.level_ranges()).map(|(&p, range)| range.start as u32 + p).collect()
    }
}

fn row(matrix: &[u32], width: usize, item: u32) -> &[u32] {
    &matrix[item as usize * width..][..width]
}

/// The letter of a level, from `a`.
pub(super) fn letter(level: usize) -> char {
    (b'a' + level as u8) as char
}

/// The item token of `code` at `level`.
pub fn token(level: usize, code: u32) -> String {
    format!("<{}_{code}>", letter(level))
}

/// The item tokens of `codes`, from the first level on.
pub(super) fn tokens_of(codes: &[u32]) -> Vec<String> {
    codes.iter().enumerate().map(|(level, &code)| token(level, code)).collect()
}

/// Levels with as many codes as `codes`, (items, levels), asks for.
pub(super) fn levels(sources: &[Source], codes: &[u32]) -> Vec<Level> {
    let level = |(level, &source): (usize, &Source)| {
        let largest = codes.iter().skip(level).step_by(sources.len()).max();
        Level { source, num_codes: largest.map_or(0, |&code| code as usize + 1) }
    };
    sources.iter().enumerate().map(level).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(num_codes: &[usize]) -> Vec<Level> {
        num_codes.iter().map(|&num_codes| Level { source: Source::Semantic, num_codes }).collect()
    }

    #[test]
    fn tokens_and_positions_skip_codes_that_do_not_occur() {
        let index = ItemIndex::new(levels(&[10, 5]), vec![9, 2, 3, 0, 9, 0]).unwrap();
        assert_eq!(index.tokens(0), ["<a_9>", "<b_2>"]);
        assert_eq!(index.vocabulary(), ["<a_3>", "<a_9>", "<b_0>", "<b_2>"]);
        assert_eq!(index.level_ranges(), [0..2, 2..4]);
        assert_eq!(index.item_positions(0), [1, 1]);
        assert_eq!(index.token_ids(0), [1, 3]);
        assert_eq!(index.item_of(&[9, 0]), Some(2));
        assert_eq!(index.item_of(&[3, 2]), None);
        assert_eq!(index.item_of(&[9]), None);
        assert_eq!(index.sharing(1), [[0, 2]]);
        assert_eq!(index.sharing(0), [[0, 1, 2]]);
        assert!(index.sharing(2).is_empty());
    }

    #[test]
    fn bad_codes_are_refused_with_the_items_named() {
        let error = |num_codes: &[usize], codes: &[u32]| {
            ItemIndex::new(levels(num_codes), codes.to_vec()).unwrap_err().to_string()
        };
        let collision = error(&[4, 4], &[1, 2, 0, 0, 1, 2]);
        assert_eq!(collision, "items 0 and 2 share the index <a_1><b_2>: every item needs its own");
        assert!(error(&[4, 4], &[1, 4]).contains("item 0 has code 4 at level 1"));
        assert!(error(&[4, 4], &[1]).contains("1 codes do not make up"));
        assert!(error(&[4; 27], &[0; 27]).contains("27 asked for"));
        assert!(error(&[4], &[]).contains("no items"));
    }

    #[test]
    fn random_uses_every_tuple_when_it_must_and_says_when_it_cannot() {
        let index = ItemIndex::random(12, &[3, 4], 5).unwrap();
        assert_eq!(index.level_ranges(), [0..3, 3..7]);
        assert_ne!(index.codes(), ItemIndex::random(12, &[3, 4], 6).unwrap().codes());
        let error = ItemIndex::random(13, &[3, 4], 5).unwrap_err().to_string();
        assert!(error.starts_with("12 tuples of codes cannot tell 13 items apart"), "{error}");
    }
}
