//! The levels of an index by source: an item's codes at the levels of one source are a path of their
//! own, and the items that share its beginning are what its tokens stand for.

use super::{ItemIndex, Source};

/// The levels of one source, wherever in the index they stand.
#[derive(Debug, Clone)]
pub struct Part {
    source: Source,
    levels: Vec<usize>,
    /// Item ids in the order of their codes at these levels.
    order: Vec<u32>,
}

impl Part {
    /// The parts of `index`, in the order of their first levels.
    pub fn of(index: &ItemIndex) -> Vec<Self> {
        let mut parts: Vec<Self> = Vec::new();
        for (level, source) in index.levels().iter().map(|level| level.source).enumerate() {
            match parts.iter_mut().find(|part| part.source == source) {
                Some(part) => part.levels.push(level),
                None => parts.push(Self { source, levels: vec![level], order: Vec::new() }),
            }
        }
        for part in &mut parts {
            let mut order: Vec<u32> = (0..index.num_items() as u32).collect();
            order.sort_by(|&a, &b| part.codes(index, a).cmp(part.codes(index, b)));
            part.order = order;
        }
        parts
    }

    /// The signal these levels come from.
    pub fn source(&self) -> Source {
        self.source
    }

    /// The levels, ascending.
    pub fn levels(&self) -> &[usize] {
        &self.levels
    }

    /// Item ids in the order of their codes in this part, ties by id.
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// The codes of `item` at these levels.
    pub fn codes<'a>(
        &'a self,
        index: &'a ItemIndex,
        item: u32,
    ) -> impl Iterator<Item = u32> + use<'a> {
        let codes = index.item_codes(item);
        self.levels.iter().map(|&level| codes[level])
    }

    /// How many codes, from the first, `a` and `b` have in common in this part.
    pub fn common(&self, index: &ItemIndex, a: u32, b: u32) -> usize {
        self.codes(index, a).zip(self.codes(index, b)).take_while(|(a, b)| a == b).count()
    }

    /// The items by their first `length` codes in this part, in the order of these.
    pub fn groups<'a>(
        &'a self,
        index: &'a ItemIndex,
        length: usize,
    ) -> impl Iterator<Item = &'a [u32]> {
        self.order.chunk_by(move |&a, &b| self.common(index, a, b) >= length)
    }

    /// The items whose first `length` codes in this part are those of `item`.
    pub fn alike(&self, index: &ItemIndex, item: u32, length: usize) -> &[u32] {
        let prefix = || self.codes(index, item).take(length);
        let of = |other: u32| self.codes(index, other).take(length);
        let start = self.order.partition_point(|&other| of(other).lt(prefix()));
        let end = self.order.partition_point(|&other| of(other).le(prefix()));
        &self.order[start..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Level;

    #[test]
    fn a_part_has_the_levels_of_its_source_wherever_they_stand() {
        let sources = [Source::Semantic, Source::Behavior, Source::Semantic];
        let levels = sources.map(|source| Level { source, num_codes: 3 }).to_vec();
        let index = ItemIndex::new(levels, vec![1, 0, 2, 0, 2, 1, 1, 2, 0, 0, 1, 1]).unwrap();
        let parts = Part::of(&index);
        assert_eq!(parts.len(), 2);
        assert_eq!((parts[0].source(), parts[0].levels()), (Source::Semantic, &[0, 2][..]));
        assert_eq!(parts[0].order(), [1, 3, 2, 0]);
        assert_eq!(parts[0].alike(&index, 0, 1), [2, 0]);
        assert_eq!(parts[0].alike(&index, 3, 2), [1, 3]);
        assert_eq!(parts[1].alike(&index, 1, 1), [1, 2]);
        assert_eq!(parts[0].groups(&index, 1).collect::<Vec<_>>(), [&[1, 3][..], &[2, 0]]);
        assert_eq!(parts[0].groups(&index, 0).count(), 1);
        assert_eq!((parts[0].common(&index, 1, 3), parts[0].common(&index, 0, 2)), (2, 1));
    }
}
