//! The prefix tree of item indices: which codes may follow a prefix, and which item a path ends at.

use std::ops::Range;

use super::{IndexError, ItemIndex};
use crate::Result;

/// The indices of a set of items as a tree in flat arrays.
///
/// Nodes are numbered level by level and in path order within a level, so that the children of a
/// node are one contiguous range. Codes here are positions within their level (see [`ItemIndex`]):
/// a decoder that has scores for a level's tokens indexes them directly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trie {
    num_levels: usize,
    /// The code on the edge into each node; 0 for the root.
    codes: Vec<u32>,
    /// The first child of each node that is no leaf, and the number of nodes at the end.
    first_child: Vec<u32>,
    /// The smallest item below each node; of a leaf, its item.
    min_item: Vec<u32>,
}

/// The continuations of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Children<'a> {
    /// Their codes, ascending: positions within the level.
    pub codes: &'a [u32],
    /// Their nodes, in the same order.
    pub nodes: Range<u32>,
}

impl Trie {
    /// The trie of all items of `index`.
    pub fn new(index: &ItemIndex) -> Self {
        Self::build(index, (0..index.num_items() as u32).collect())
    }

    /// The trie of some items of `index`; an item may be given twice.
    ///
    /// # Errors
    /// If an item is not in the index.
    pub fn subset(index: &ItemIndex, items: impl IntoIterator<Item = u32>) -> Result<Self> {
        let items: Vec<u32> = items.into_iter().collect();
        let num_items = index.num_items();
        match items.iter().find(|&&item| item as usize >= num_items) {
            Some(&item) => Err(IndexError::UnknownItem { item, num_items }.into()),
            None => Ok(Self::build(index, items)),
        }
    }

    fn build(index: &ItemIndex, mut items: Vec<u32>) -> Self {
        items.sort_by(|&a, &b| index.item_positions(a).cmp(index.item_positions(b)));
        items.dedup();
        let mut trie = Self {
            num_levels: index.num_levels(),
            codes: vec![0],
            first_child: vec![],
            min_item: vec![],
        };
        let smallest = |items: &[u32]| items.iter().copied().min().unwrap_or(u32::MAX);
        trie.min_item.push(smallest(&items));
        // The items below each node of the current level, as ranges of the sorted list.
        let mut level_nodes = vec![&items[..]];
        for level in 0..trie.num_levels {
            let code = |item: u32| index.item_positions(item)[level];
            let mut next = Vec::new();
            for below in level_nodes {
                trie.first_child.push(trie.codes.len() as u32);
                for child in below.chunk_by(|&a, &b| code(a) == code(b)) {
                    trie.codes.push(code(child[0]));
                    trie.min_item.push(smallest(child));
                    next.push(child);
                }
            }
            level_nodes = next;
        }
        trie.first_child.push(trie.codes.len() as u32);
        trie
    }

    /// The number of codes from the root to a leaf.
    pub fn num_levels(&self) -> usize {
        self.num_levels
    }

    /// The number of leaves, one for each tuple of codes that items have.
    pub fn num_leaves(&self) -> usize {
        self.codes.len() - (self.first_child.len() - 1)
    }

    /// The node of the empty prefix.
    pub fn root(&self) -> u32 {
        0
    }

    /// The continuations of `node`; none for a leaf.
    pub fn children(&self, node: u32) -> Children<'_> {
        let nodes = match self.first_child.get(node as usize..node as usize + 2) {
            Some(&[start, end]) => start..end,
            _ => 0..0,
        };
        Children { codes: &self.codes[nodes.start as usize..nodes.end as usize], nodes }
    }

    /// The child of `node` by `code`.
    pub fn child(&self, node: u32, code: u32) -> Option<u32> {
        let children = self.children(node);
        children.codes.binary_search(&code).ok().map(|i| children.nodes.start + i as u32)
    }

    /// The item of a leaf; `None` for inner nodes.
    pub fn item(&self, node: u32) -> Option<u32> {
        let first_leaf = self.first_child.len() - 1;
        if (node as usize) < first_leaf { None } else { self.min_item.get(node as usize).copied() }
    }

    /// The smallest item below `node`: ties between equally scored prefixes go by it.
    pub fn min_item(&self, node: u32) -> u32 {
        self.min_item[node as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{Level, Source};

    fn index() -> ItemIndex {
        let level = Level { source: Source::Random, num_codes: 10 };
        ItemIndex::new(vec![level; 2], vec![7, 1, 2, 9, 7, 0, 2, 1]).unwrap()
    }

    #[test]
    fn children_are_the_continuations_in_code_order() {
        let trie = Trie::new(&index());
        let top = trie.children(trie.root());
        assert_eq!((top.codes, top.nodes.clone()), (&[0, 1][..], 1..3));
        assert_eq!(trie.children(1).codes, [1, 2]);
        assert_eq!(trie.children(2).codes, [0, 1]);
        let items: Vec<_> = (3..7).map(|leaf| trie.item(leaf)).collect();
        assert_eq!(items, [Some(3), Some(1), Some(2), Some(0)]);
        assert_eq!((trie.item(0), trie.item(2), trie.item(7)), (None, None, None));
        assert_eq!([0, 1, 2, 6].map(|node| trie.min_item(node)), [0, 1, 0, 0]);
        assert!(trie.children(6).codes.is_empty());
        assert_eq!(trie.child(1, 2), Some(4));
        assert_eq!(trie.child(1, 0), None);
    }

    #[test]
    fn a_subset_keeps_the_positions_of_the_whole_index() {
        let trie = Trie::subset(&index(), [0, 0]).unwrap();
        assert_eq!(trie.children(0).codes, [1]);
        assert_eq!(trie.children(1).codes, [1]);
        assert_eq!(trie.item(2), Some(0));
        let none = Trie::subset(&index(), []).unwrap();
        assert!(none.children(none.root()).codes.is_empty() && none.item(none.root()).is_none());
        assert!(Trie::subset(&index(), [4]).unwrap_err().to_string().contains("items are 0 to 3"));
    }
}
