//! A place for a new item in an index that a model has learnt: codes that have a token, in a tuple that
//! no item has.

use std::collections::BTreeSet;

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::{IndexError, ItemIndex, Part};
use crate::Result;

/// How many of the items it is like are told of a new item.
const TOLD: usize = 3;

/// Where a new item goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its codes.
    pub codes: Vec<u32>,
    /// The items of the index that it is most like, nearest first.
    pub nearest: Vec<u32>,
}

/// Places new items one after the other; the index itself never changes.
///
/// An item goes down the levels in order. At each it takes the code of the nearest item, by z^s, whose
/// codes of this level's source begin as its own do so far: at a semantic level the child that holds
/// the nearest item, at a behavior level the path of the semantic neighbours, as a new item has no z^b.
/// (Nearest by its items, not its centroid: clusters of limited size hold items that are nearer to the
/// centroid of another.) A code under which every tuple is taken is passed over for that of the next
/// nearest; where all of these are, the used code of the level that is nearest in number and has room
/// is taken, since children are numbered along a common axis.
///
/// In an index that [grows](Self::growing) an item gets a code of its own at a level where every item has one,
/// and a new code at the last level where no used one is free.
pub struct Placer<'a> {
    index: &'a ItemIndex,
    parts: Vec<Part>,
    /// z^s of the items of the index, (items, dim).
    semantic: ArrayView2<'a, f32>,
    /// The codes that have a token, by level.
    used: Vec<Vec<u32>>,
    taken: BTreeSet<Vec<u32>>,
    /// How each level grows, where the index does.
    growth: Option<Vec<Growth>>,
}

/// How a level of an index grows.
struct Growth {
    /// Every item has a code of its own there.
    one_each: bool,
    /// The next new code.
    next: u32,
}

impl<'a> Placer<'a> {
    /// Places items in `index`, whose items have the rows of `semantic`, (items, dim), as their z^s.
    pub fn new(index: &'a ItemIndex, semantic: ArrayView2<'a, f32>) -> Self {
        let items = 0..index.num_items() as u32;
        let used = (0..index.num_levels()).map(|level| {
            let codes: BTreeSet<u32> =
                items.clone().map(|item| index.item_codes(item)[level]).collect();
            codes.into_iter().collect()
        });
        Self {
            index,
            parts: Part::of(index),
            semantic,
            used: used.collect(),
            taken: items.clone().map(|item| index.item_codes(item).to_vec()).collect(),
            growth: None,
        }
    }

    /// The same in an index that may have new codes, since its model is trained on.
    #[must_use]
    pub fn growing(self) -> Self {
        let growth = self.used.iter().map(|codes| Growth {
            one_each: codes.len() == self.index.num_items(),
            next: codes.last().map_or(0, |last| last + 1),
        });
        Self { growth: Some(growth.collect()), ..self }
    }

    /// Keeps the tuple of an item that was placed before.
    pub fn take(&mut self, codes: Vec<u32>) {
        self.taken.insert(codes);
    }

    /// Places an item by its z^s.
    ///
    /// # Errors
    /// If every tuple of codes that have a token is taken.
    pub fn place(&mut self, z: &[f32]) -> Result<Place> {
        let order = self.by_distance(z);
        let mut codes: Vec<u32> = Vec::with_capacity(self.index.num_levels());
        if !self.has_room(&codes) {
            let tuples = self.taken.len();
            return Err(IndexError::Full { tuples }.into());
        }
        for level in 0..self.index.num_levels() {
            let next = match self.new_code(&codes, level) {
                Some(new) => new,
                None => self.next_code(&codes, level, &order),
            };
            codes.push(next);
        }
        self.taken.insert(codes.clone());
        Ok(Place { codes, nearest: order.into_iter().take(TOLD).collect() })
    }

    /// The items of the index, nearest to `z` first; ties go by id.
    fn by_distance(&self, z: &[f32]) -> Vec<u32> {
        let distance = |item: u32| -> f32 {
            self.semantic.row(item as usize).iter().zip(z).map(|(a, b)| (a - b).powi(2)).sum()
        };
        let mut found: Vec<(f32, u32)> = (0..self.index.num_items() as u32)
            .into_par_iter()
            .map(|item| (distance(item), item))
            .collect();
        found.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        found.into_iter().map(|(_, item)| item).collect()
    }

    /// A new code at `level`, where the index grows by one after `prefix`.
    fn new_code(&mut self, prefix: &[u32], level: usize) -> Option<u32> {
        let is_free = |&code: &u32| !self.taken.contains(&[prefix, &[code]].concat());
        let is_last = level + 1 == self.used.len();
        let growth = &mut self.growth.as_mut()?[level];
        if !growth.one_each && (!is_last || self.used[level].iter().any(is_free)) {
            return None;
        }
        let code = growth.next;
        growth.next += 1;
        if !growth.one_each {
            // It has room under other prefixes.
            self.used[level].push(code);
        }
        Some(code)
    }

    /// The code at `level` after `prefix`, under which there is room.
    fn next_code(&self, prefix: &[u32], level: usize, order: &[u32]) -> u32 {
        let room = |code: u32| self.has_room(&[prefix, &[code]].concat());
        let before: Vec<usize> = self
            .parts
            .iter()
            .filter(|part| part.levels().contains(&level))
            .flat_map(|part| part.levels().iter().copied().take_while(|&l| l < level))
            .collect();
        let mut tried = BTreeSet::new();
        let mut first = None;
        for &item in order {
            let codes = self.index.item_codes(item);
            if before.iter().all(|&l| codes[l] == prefix[l]) && tried.insert(codes[level]) {
                first.get_or_insert(codes[level]);
                if room(codes[level]) {
                    return codes[level];
                }
            }
        }
        let near = first.unwrap_or(self.index.item_codes(order[0])[level]);
        let mut used: Vec<u32> = self.used[level].clone();
        used.sort_by_key(|&code| (code.abs_diff(near), code));
        // The prefix has room, so one of its codes has.
        used.into_iter().find(|&code| room(code)).unwrap_or(near)
    }

    /// Whether a tuple that begins with `prefix` is left.
    fn has_room(&self, prefix: &[u32]) -> bool {
        if self.growth.is_some() && prefix.len() < self.used.len() {
            return true;
        }
        let used = &self.used[prefix.len()..];
        let tuples = used.iter().fold(1u128, |n, codes| n.saturating_mul(codes.len() as u128));
        if tuples > self.taken.len() as u128 {
            return true;
        }
        let begins = |codes: &&Vec<u32>| codes.starts_with(prefix);
        let taken = self.taken.range(prefix.to_vec()..).take_while(begins).count();
        (taken as u128) < tuples
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;
    use crate::index::{Level, Source};

    /// Semantic levels a and b, behavior level c.
    fn index() -> ItemIndex {
        let sources = [Source::Semantic, Source::Semantic, Source::Behavior];
        let levels = sources.map(|source| Level { source, num_codes: 4 }).to_vec();
        ItemIndex::new(levels, vec![0, 0, 3, 0, 2, 1, 3, 0, 2, 3, 2, 0]).unwrap()
    }

    const Z: [[f32; 1]; 4] = [[0.0], [1.0], [8.0], [10.0]];

    #[test]
    fn a_twin_differs_in_as_little_as_it_can() {
        let (index, z) = (index(), Array2::from(Z.to_vec()));
        let mut placer = Placer::new(&index, z.view());
        // Item 0 has 0, 0, 3; its neighbour's last code is 1.
        let twin = placer.place(&[0.0]).unwrap();
        assert_eq!((twin.codes, twin.nearest), (vec![0, 0, 1], vec![0, 1, 2]));
        assert_eq!(placer.place(&[0.0]).unwrap().codes, [0, 0, 2], "that of the next neighbour");
        assert_eq!(placer.place(&[0.0]).unwrap().codes, [0, 0, 0]);
        assert_eq!(placer.place(&[0.0]).unwrap().codes, [0, 2, 3], "0, 0 is full");
        // Nearest to item 2, whose last code is 2.
        assert_eq!(placer.place(&[8.4]).unwrap().codes, [3, 0, 0]);
    }

    #[test]
    fn all_tuples_are_given_away_once_and_then_none() {
        let (index, z) = (index(), Array2::from(Z.to_vec()));
        let mut placer = Placer::new(&index, z.view());
        // 2, 2 and 4 codes are used: 16 tuples, 4 of them taken.
        let placed: BTreeSet<Vec<u32>> =
            (0..12).map(|i| placer.place(&[i as f32]).unwrap().codes).collect();
        assert_eq!(placed.len(), 12);
        let used = |codes: &Vec<u32>| {
            [0, 3].contains(&codes[0]) && [0, 2].contains(&codes[1]) && codes[2] < 4
        };
        assert!(placed.iter().all(|codes| used(codes) && index.item_of(codes).is_none()));
        let error = placer.place(&[0.0]).unwrap_err().to_string();
        assert!(error.contains("16"), "{error}");
    }

    #[test]
    fn a_full_tree_of_one_source_sends_items_to_the_nearest_node_with_room() {
        let levels = vec![Level { source: Source::Semantic, num_codes: 3 }; 2];
        let index = ItemIndex::new(levels, vec![0, 0, 0, 1, 0, 2, 2, 0, 2, 2]).unwrap();
        let z = array![[0.0], [1.0], [2.0], [8.0], [9.0f32]];
        let mut placer = Placer::new(&index, z.view());
        assert_eq!(placer.place(&[1.0]).unwrap().codes, [2, 1]);
        assert!(placer.place(&[9.0]).is_err());
    }

    #[test]
    fn an_index_that_grows_has_new_codes_where_items_have_codes_of_their_own() {
        // Clusters a, and a code of its own for every item.
        let levels =
            [Source::Semantic, Source::Behavior].map(|source| Level { source, num_codes: 4 });
        let index = ItemIndex::new(levels.to_vec(), vec![0, 0, 0, 1, 1, 2, 1, 3]).unwrap();
        let z = Array2::from(Z.to_vec());
        let mut placer = Placer::new(&index, z.view()).growing();
        let place = placer.place(&[9.0]).unwrap();
        assert_eq!((place.codes, place.nearest), (vec![1, 4], vec![2, 3, 1]));
        assert_eq!(placer.place(&[0.0]).unwrap().codes, [0, 5]);
        // A full tree grows at its last level, and not before it is full.
        let levels = vec![Level { source: Source::Semantic, num_codes: 2 }; 2];
        let index = ItemIndex::new(levels, vec![0, 0, 0, 1, 1, 0]).unwrap();
        let mut placer = Placer::new(&index, z.slice(ndarray::s![..3, ..])).growing();
        let mut place = |z: f32| placer.place(&[z]).unwrap().codes;
        assert_eq!([place(0.0), place(8.0), place(0.0)], [[0, 2], [1, 1], [0, 3]]);
        // What is new under one cluster is used under another.
        assert_eq!([place(8.0), place(8.0), place(8.0)], [[1, 2], [1, 3], [1, 4]]);
    }

    #[test]
    fn places_taken_before_stay_taken() {
        let (index, z) = (index(), Array2::from(Z.to_vec()));
        let mut placer = Placer::new(&index, z.view());
        placer.take(vec![0, 0, 1]);
        assert_eq!(placer.place(&[0.0]).unwrap().codes, [0, 0, 2]);
    }
}
