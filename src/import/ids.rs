//! Raw ids, each kept once and known by a number from then on.

use std::hash::BuildHasher;
use std::ops::Range;

use foldhash::fast::RandomState;

/// Ids in order of first appearance. An id takes its bytes, 8 more for where it ends and 8 to 16 in the
/// table.
#[derive(Default)]
pub(super) struct Ids {
    text: String,
    ends: Vec<usize>,
    /// Slots by hash, a power of two of them and at most half of them taken; the next one is tried where
    /// one is taken by another id.
    table: Vec<Slot>,
    hasher: RandomState,
}

/// Part of an id's hash, so that other ids are rarely looked at, and its number.
#[derive(Clone, Copy)]
struct Slot {
    tag: u32,
    id: u32,
}

/// The longest id, in bytes: every one is kept, and thousands wait for their numbers at once.
const LONGEST: usize = 4096;

const EMPTY: Slot = Slot { tag: 0, id: u32::MAX };

/// Names that wait for their numbers.
#[derive(Debug, Default)]
pub(super) struct Batch {
    text: String,
    ends: Vec<usize>,
}

impl Batch {
    /// Adds a name.
    pub(super) fn push(&mut self, name: &str) {
        self.text.push_str(name);
        self.ends.push(self.text.len());
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Removes all.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        (0..self.ends.len()).map(|at| &self.text[range(&self.ends, at)])
    }
}

/// Where the text lies whose end is the one at `at`.
fn range(ends: &[usize], at: usize) -> Range<usize> {
    at.checked_sub(1).map_or(0, |before| ends[before])..ends[at]
}

impl Ids {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// An id by its number.
    pub(super) fn name(&self, id: u32) -> &str {
        &self.text[range(&self.ends, id as usize)]
    }

    /// The number of an id that is known.
    pub(super) fn get(&self, name: &str) -> Option<u32> {
        self.find(self.hasher.hash_one(name), name)
    }

    /// The number of an id, the next free one if it is new.
    ///
    /// # Errors
    /// If it is one too many.
    pub(super) fn number(&mut self, name: &str) -> Result<u32, String> {
        let hash = self.hasher.hash_one(name);
        self.number_hashed(hash, name)
    }

    /// The numbers of all names of a batch.
    ///
    /// # Errors
    /// If there is an id too many.
    pub(super) fn numbers(&mut self, batch: &Batch) -> Result<Vec<u32>, String> {
        // In steps, each of which reads places that do not depend on one another: memory is waited for once
        // a step and not four times a name.
        let hashes: Vec<u64> = batch.names().map(|name| self.hasher.hash_one(name)).collect();
        let slots: Vec<Slot> = hashes.iter().map(|&hash| self.slot(hash)).collect();
        let place = |slot: &Slot| {
            if slot.id == u32::MAX { 0..0 } else { range(&self.ends, slot.id as usize) }
        };
        let places: Vec<Range<usize>> = slots.iter().map(place).collect();
        let mut numbers = Vec::with_capacity(batch.len());
        for (at, name) in batch.names().enumerate() {
            let (slot, hash) = (slots[at], hashes[at]);
            let known = slot.tag == tag(hash) && self.text[places[at].clone()] == *name;
            numbers.push(if known { slot.id } else { self.number_hashed(hash, name)? });
        }
        Ok(numbers)
    }

    fn number_hashed(&mut self, hash: u64, name: &str) -> Result<u32, String> {
        self.find(hash, name).map_or_else(|| self.add(hash, name), Ok)
    }

    /// The first slot of a hash.
    fn slot(&self, hash: u64) -> Slot {
        if self.table.is_empty() {
            EMPTY
        } else {
            self.table[hash as usize & (self.table.len() - 1)]
        }
    }

    fn find(&self, hash: u64, name: &str) -> Option<u32> {
        let last = self.table.len().checked_sub(1)?;
        let mut at = hash as usize & last;
        while self.table[at].id != u32::MAX {
            let slot = self.table[at];
            if slot.tag == tag(hash) && self.name(slot.id) == name {
                return Some(slot.id);
            }
            at = (at + 1) & last;
        }
        None
    }

    fn add(&mut self, hash: u64, name: &str) -> Result<u32, String> {
        let id = u32::try_from(self.ends.len()).ok().filter(|&id| id != u32::MAX);
        let id = id.ok_or("is one id too many: 4,294,967,295 are the most")?;
        self.text.push_str(name);
        self.ends.push(self.text.len());
        if 2 * self.ends.len() > self.table.len() {
            self.table = vec![EMPTY; (2 * self.table.len()).max(1024)];
            for id in 0..self.ends.len() as u32 {
                let hash = self.hasher.hash_one(self.name(id));
                put(&mut self.table, hash, id);
            }
        } else {
            put(&mut self.table, hash, id);
        }
        Ok(id)
    }
}

/// Takes the first free slot of a hash.
fn put(table: &mut [Slot], hash: u64, id: u32) {
    let last = table.len() - 1;
    let mut at = hash as usize & last;
    while table[at].id != u32::MAX {
        at = (at + 1) & last;
    }
    table[at] = Slot { tag: tag(hash), id };
}

fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// Refuses what is no id. Ids stand between tabs and line breaks in `user2id` and `item2id`, so they hold
/// none.
pub(super) fn check(name: &str) -> Result<(), String> {
    if name.len() > LONGEST {
        let shown = super::faults::quoted(name);
        return Err(format!("{shown} has {} bytes; an id has {LONGEST} at most", name.len()));
    }
    if name.is_empty() {
        return Err("is empty where an id should be".into());
    }
    if name.bytes().any(|b| b.is_ascii_control()) {
        return Err(format!(
            "{} holds a tab, line break or other control character, which an id cannot",
            super::faults::quoted(name)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_kept_as_they_are_spelt() {
        let mut ids = Ids::default();
        let names = [
            "007",
            "7",
            "Ä",
            "ä",
            " 7",
            "9007199254740993",
            "12345678901234567890123",
            "1.0",
            "B0",
        ];
        for (at, name) in names.iter().enumerate() {
            assert_eq!(ids.number(name), Ok(at as u32));
        }
        for (at, name) in names.iter().enumerate() {
            assert_eq!(
                (ids.number(name), ids.get(name), ids.name(at as u32)),
                (Ok(at as u32), Some(at as u32), *name)
            );
        }
        assert_eq!((ids.len(), ids.get("b0")), (names.len(), None));
    }

    #[test]
    fn what_is_no_id_says_so() {
        assert_eq!(check("").unwrap_err(), "is empty where an id should be");
        let error = check("a\tb").unwrap_err();
        assert_eq!(
            error,
            "\"a\\tb\" holds a tab, line break or other control character, which an id cannot"
        );
        assert_eq!(check(" ü\u{2028}"), Ok(()));
    }

    #[test]
    fn a_table_that_grows_loses_none() {
        let mut ids = Ids::default();
        for round in 0..2 {
            for i in 0..5000u32 {
                let (id, name) = (ids.number(&format!("B{}", i * 7919)), round);
                assert_eq!(id, Ok(i), "{name}");
            }
        }
        assert_eq!((ids.len(), ids.get("B7919"), ids.get("B1")), (5000, Some(1), None));
    }

    proptest! {
        #[test]
        fn numbers_are_places_among_the_different(names in prop::collection::vec("[a-c0-9é]{1,3}", 0..200)) {
            let (mut ids, mut batched, mut batch) = (Ids::default(), Ids::default(), Batch::default());
            for name in &names {
                batch.push(name);
            }
            let numbers = batched.numbers(&batch).unwrap();
            let mut seen: Vec<String> = Vec::new();
            for (name, number) in names.iter().zip(numbers) {
                let expected = seen.iter().position(|s| s == name).unwrap_or_else(|| {
                    seen.push(name.clone());
                    seen.len() - 1
                });
                prop_assert_eq!(number, expected as u32);
                prop_assert_eq!(ids.number(name), Ok(expected as u32));
            }
        }
    }
}
