//! The interactions that are kept, and the rules that drop some of them.
//!
//! While files are read an interaction takes 16 bytes: user, item and time. Ordering takes 4 more, in which the
//! ordered times are kept as soon as the order was followed, and the ordered items another 4; then the 16 go. So
//! 24 bytes an interaction is the most.

/// Interactions come in pieces of so many, so that none is copied where a vector would grow.
const PIECE: usize = 1 << 18;

#[derive(Clone, Copy)]
struct Entry {
    time: i64,
    user: u32,
    item: u32,
}

/// Interactions in the order they were read.
#[derive(Default)]
pub(super) struct Log {
    pieces: Vec<Vec<Entry>>,
}

impl Log {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.pieces.last().map_or(0, |last| (self.pieces.len() - 1) * PIECE + last.len())
    }

    /// Adds one.
    pub(super) fn push(&mut self, user: u32, item: u32, time: i64) {
        if self.pieces.last().is_none_or(|last| last.len() == PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        if let Some(last) = self.pieces.last_mut() {
            last.push(Entry { time, user, item });
        }
    }

    fn get(&self, at: u32) -> Entry {
        let at = at as usize;
        self.pieces[at / PIECE][at % PIECE]
    }

    /// The items of each user in time order, those of one time in the order they were read; and how many
    /// share their time with another of the same user. `seconds` makes whole seconds of a time, none where times
    /// are not to be kept; nor are they where they lie more than 136 years apart, or where every user's are 0, 1, 2
    /// and on, which are places.
    pub(super) fn into_sequences(
        self,
        users: usize,
        seconds: Option<&dyn Fn(i64) -> i64>,
    ) -> (Sequences, u64) {
        let mut starts = vec![0; users + 1];
        for entry in self.pieces.iter().flatten() {
            starts[entry.user as usize + 1] += 1;
        }
        for user in 0..users {
            starts[user + 1] += starts[user];
        }
        let mut next = starts.clone();
        let mut order = vec![0u32; self.len()];
        for (at, entry) in (0..).zip(self.pieces.iter().flatten()) {
            let place = &mut next[entry.user as usize];
            order[*place] = at;
            *place += 1;
        }
        drop(next);
        let mut items = Vec::with_capacity(self.len());
        let kept = seconds.and_then(|seconds| {
            let times = || self.pieces.iter().flatten().map(|entry| entry.time);
            let (first, last) = (seconds(times().min()?), seconds(times().max()?));
            u32::try_from(last.checked_sub(first)?).ok().map(|_| (first, seconds))
        });
        let mut tied = 0;
        let mut sequence: Vec<(i64, u32)> = Vec::new();
        for range in starts.windows(2) {
            sequence.clear();
            sequence.extend(order[range[0]..range[1]].iter().map(|&at| {
                let entry = self.get(at);
                (entry.time, entry.item)
            }));
            // Stable: what happened at one time stays in file order.
            sequence.sort_by_key(|&(time, _)| time);
            tied += sequence
                .chunk_by(|a, b| a.0 == b.0)
                .filter(|c| c.len() > 1)
                .map(<[_]>::len)
                .sum::<usize>();
            items.extend(sequence.iter().map(|&(_, item)| item));
            if let Some((first, seconds)) = kept {
                let places = order[range[0]..range[1]].iter_mut();
                places
                    .zip(&sequence)
                    .for_each(|(at, &(time, _))| *at = (seconds(time) - first) as u32);
            }
        }
        let times = kept.map(|(first, _)| Times { first, since: order });
        let are_places = |times: &Times| {
            let of_users = starts.windows(2).map(|range| &times.since[range[0]..range[1]]);
            times.first == 0
                && of_users.into_iter().all(|times| (0..).zip(times).all(|(at, &time)| at == time))
        };
        let times = times.filter(|times| !are_places(times));
        (Sequences { starts, items, times }, tied as u64)
    }
}

/// What is left to count after a rule.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Dropped {
    /// Interactions that went.
    pub interactions: u64,
    /// Users that went, having none left.
    pub users: u64,
    /// Items that went, in no interaction any more.
    pub items: u64,
}

impl std::ops::AddAssign for Dropped {
    fn add_assign(&mut self, more: Self) {
        self.interactions += more.interactions;
        self.users += more.users;
        self.items += more.items;
    }
}

/// The items of each user, oldest first.
#[derive(Debug)]
pub(super) struct Sequences {
    starts: Vec<usize>,
    items: Vec<u32>,
    times: Option<Times>,
}

/// When each interaction happened, in seconds.
#[derive(Debug)]
struct Times {
    /// The first time of all.
    first: i64,
    /// How much later each was.
    since: Vec<u32>,
}

impl Sequences {
    /// How many interactions there are.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// The items of every user, those without any included.
    pub(super) fn users(&self) -> impl Iterator<Item = &[u32]> {
        self.starts.windows(2).map(|range| &self.items[range[0]..range[1]])
    }

    /// The times of every user's interactions, those of users without any included; none where none are known.
    pub(super) fn times(&self) -> Option<impl Iterator<Item = Vec<i64>>> {
        let Times { first, since } = self.times.as_ref()?;
        let ranges = self.starts.windows(2);
        let time = move |&since: &u32| first + i64::from(since);
        Some(ranges.map(move |range| since[range[0]..range[1]].iter().map(time).collect()))
    }

    /// Whether times are known.
    pub(super) fn has_times(&self) -> bool {
        self.times.is_some()
    }

    /// How often each of `items` items occurs.
    pub(super) fn counts(&self, items: usize) -> Vec<u32> {
        let mut counts = vec![0u32; items];
        for &item in &self.items {
            counts[item as usize] += 1;
        }
        counts
    }

    /// Keeps the interactions that `keep` says, which is told the user's number, how many they have, and
    /// the item.
    fn retain(&mut self, mut keep: impl FnMut(u32, usize, u32) -> bool) {
        let mut kept = 0;
        let mut from = 0;
        for user in 0..self.starts.len() - 1 {
            let to = self.starts[user + 1];
            for at in from..to {
                let item = self.items[at];
                if keep(user as u32, to - from, item) {
                    self.items[kept] = item;
                    if let Some(times) = &mut self.times {
                        times.since[kept] = times.since[at];
                    }
                    kept += 1;
                }
            }
            from = to;
            self.starts[user + 1] = kept;
        }
        self.items.truncate(kept);
        if let Some(times) = &mut self.times {
            times.since.truncate(kept);
        }
    }

    /// Drops what a user took a second time.
    pub(super) fn drop_duplicates(&mut self, items: usize) -> u64 {
        let before = self.len();
        let mut last_user = vec![u32::MAX; items];
        self.retain(|user, _, item| std::mem::replace(&mut last_user[item as usize], user) != user);
        (before - self.len()) as u64
    }

    /// Drops users and items with fewer than `core` interactions until there are none; how many went, and
    /// in how many rounds.
    pub(super) fn core(&mut self, core: u32, items: usize) -> (Dropped, u32) {
        let before = self.totals(items);
        let mut rounds = 0;
        loop {
            let left = self.len();
            let counts = self.counts(items);
            self.retain(|_, taken, item| taken >= core as usize && counts[item as usize] >= core);
            if self.len() == left {
                return (self.since(before, items), rounds);
            }
            rounds += 1;
        }
    }

    /// Drops the interactions with items that are not to be kept.
    pub(super) fn drop_items(&mut self, keep: impl Fn(u32) -> bool, items: usize) -> Dropped {
        let before = self.totals(items);
        self.retain(|_, _, item| keep(item));
        self.since(before, items)
    }

    /// Gives every item its new number.
    pub(super) fn renumber(&mut self, numbers: &[u32]) {
        for item in &mut self.items {
            *item = numbers[*item as usize];
        }
    }

    /// Interactions, and the users and items that have any.
    fn totals(&self, items: usize) -> [u64; 3] {
        let users = self.users().filter(|items| !items.is_empty()).count();
        let items = self.counts(items).iter().filter(|&&n| n > 0).count();
        [self.len(), users, items].map(|n| n as u64)
    }

    fn since(&self, before: [u64; 3], items: usize) -> Dropped {
        let now = self.totals(items);
        let [interactions, users, items] = [0, 1, 2].map(|i| before[i] - now[i]);
        Dropped { interactions, users, items }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sequences(entries: &[(u32, u32, i64)], users: usize) -> (Sequences, u64) {
        let mut log = Log::default();
        for &(user, item, time) in entries {
            log.push(user, item, time);
        }
        log.into_sequences(users, Some(&|time| time))
    }

    fn lists(sequences: &Sequences) -> Vec<Vec<u32>> {
        sequences.users().map(<[u32]>::to_vec).collect()
    }

    #[test]
    fn ties_keep_file_order_and_are_counted() {
        let entries = [(1, 5, 9), (0, 3, 2), (1, 4, 9), (0, 2, 1), (1, 6, 8), (1, 7, 9), (2, 0, 1)];
        let (sequences, tied) = sequences(&entries, 4);
        assert_eq!(lists(&sequences), [vec![2, 3], vec![6, 5, 4, 7], vec![0], vec![]]);
        assert_eq!(tied, 3);
    }

    #[test]
    fn times_stay_beside_their_items() {
        let entries = [(1, 5, 90), (0, 3, -20), (1, 4, 90), (0, 2, -1), (1, 5, 95), (1, 7, 80)];
        let (mut sequences, _) = sequences(&entries, 2);
        let times =
            |sequences: &Sequences| -> Vec<Vec<i64>> { sequences.times().unwrap().collect() };
        assert_eq!(times(&sequences), [vec![-20, -1], vec![80, 90, 90, 95]]);
        assert_eq!(sequences.drop_duplicates(8), 1);
        assert_eq!(times(&sequences), [vec![-20, -1], vec![80, 90, 90]]);
        sequences.drop_items(|item| item != 5, 8);
        assert_eq!(lists(&sequences), [vec![3, 2], vec![7, 4]]);
        assert_eq!(times(&sequences), [vec![-20, -1], vec![80, 90]]);
        // A century apart is far, five are too far.
        let apart = |years: i64| {
            let mut log = Log::default();
            log.push(0, 0, 0);
            log.push(0, 1, years * 31_557_600);
            log.into_sequences(1, Some(&|time| time)).0.times().is_some()
        };
        assert!(apart(100) && !apart(500));
        // Places in a sequence are no times.
        let places = |first: i64| {
            let mut log = Log::default();
            for (user, time) in [(0, first), (1, 0), (0, 1), (0, 2)] {
                log.push(user, 7, time);
            }
            log.into_sequences(2, Some(&|time| time)).0.times().is_some()
        };
        assert!(!places(0) && places(-1));
    }

    #[test]
    fn of_duplicates_the_first_is_kept() {
        let (mut sequences, _) =
            sequences(&[(0, 1, 0), (0, 2, 0), (0, 1, 0), (1, 1, 0), (0, 1, 0), (1, 1, 0)], 2);
        assert_eq!(sequences.drop_duplicates(3), 3);
        assert_eq!(lists(&sequences), [vec![1, 2], vec![1]]);
    }

    #[test]
    fn the_core_is_iterative() {
        // Item 3 has one taker: without it user 1 has one item, without user 1 item 0 has two takers still.
        let entries = [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 3, 0), (2, 0, 0), (2, 1, 0)];
        let (mut sequences, _) = sequences(&entries, 3);
        let (dropped, rounds) = sequences.core(2, 4);
        assert_eq!(lists(&sequences), [vec![0, 1], vec![], vec![0, 1]]);
        assert_eq!(dropped, Dropped { interactions: 2, users: 1, items: 1 });
        assert_eq!(rounds, 2);
        let (dropped, rounds) = sequences.core(3, 4);
        assert_eq!((dropped.interactions, rounds, sequences.len()), (4, 1, 0));
    }

    #[test]
    fn more_than_a_piece_is_no_different() {
        let mut log = Log::default();
        let n = 2 * PIECE as u32 + 3;
        (0..n).for_each(|i| log.push(i % 2, i, -i64::from(i)));
        assert_eq!(log.len(), n as usize);
        let (sequences, tied) = log.into_sequences(2, None);
        let lists = lists(&sequences);
        assert!(lists[0].is_sorted_by(|a, b| a > b) && lists[0].len() == PIECE + 2 && tied == 0);
    }

    proptest! {
        #[test]
        fn every_user_and_item_of_a_core_has_enough(
            entries in prop::collection::vec((0u32..12, 0u32..12, 0i64..4), 0..150),
            core in 1u32..6,
        ) {
            let (mut sequences, _) = sequences(&entries, 12);
            let before = sequences.len() as u64;
            let (dropped, _) = sequences.core(core, 12);
            prop_assert_eq!(before - dropped.interactions, sequences.len() as u64);
            prop_assert!(sequences.users().all(|items| items.is_empty() || items.len() >= core as usize));
            prop_assert!(sequences.counts(12).iter().all(|&n| n == 0 || n >= core));
            // The largest such part: computed by dropping one at a time.
            let mut left = entries.clone();
            loop {
                let n = |f: &dyn Fn(&(u32, u32, i64)) -> bool| left.iter().filter(|e| f(e)).count();
                let bad = left.iter().position(|e| {
                    n(&|o| o.0 == e.0) < core as usize || n(&|o| o.1 == e.1) < core as usize
                });
                match bad { Some(at) => drop(left.remove(at)), None => break }
            }
            prop_assert_eq!(left.len(), sequences.len());
        }
    }
}
