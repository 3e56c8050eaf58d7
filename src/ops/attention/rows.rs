//! Which keys each query sees.

use std::ops::Range;

use candle_core::{Result, bail};

use crate::ops::cuda::OnDevice;

/// One sequence of a batch.
///
/// Its queries stand at its last own keys. Each sees the keys of `context` and the own keys up to its place,
/// except private ones of other places; in [`Rows::both_ways`] and [`Rows::across`], all of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its queries among the packed tokens.
    pub queries: Range<usize>,
    /// Its own keys, at least one for each query; in [`Rows::across`], at least one.
    pub own: Range<usize>,
    /// Earlier keys that every query of the row sees in full (a cached prompt, the ancestors in a beam),
    /// in order. Rows may share them.
    pub context: Vec<Range<usize>>,
}

/// The rows of a batch, in the order of their queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    sequences: Vec<Row>,
    private: Vec<bool>,
    both_ways: bool,
    on_device: OnDevice,
}

impl Rows {
    fn of(sequences: Vec<Row>, both_ways: bool) -> Self {
        Self { sequences, private: Vec::new(), both_ways, on_device: OnDevice::default() }
    }

    /// Checks that the queries of `rows` follow each other from 0 without a gap.
    ///
    /// # Errors
    /// Names the first row that breaks the order, that has fewer keys than queries, or whose context overlaps
    /// its own keys.
    pub fn new(rows: Vec<Row>) -> Result<Self> {
        check_order(&rows)?;
        for (i, row) in rows.iter().enumerate() {
            let Row { queries, own, context } = row;
            if own.len() < queries.len() {
                bail!("attention: row {i} has queries {queries:?} at its own keys {own:?}");
            }
            if let Some(c) = context.iter().find(|c| c.start < own.end && own.start < c.end) {
                bail!("attention: row {i} has the context {c:?} among its own keys {own:?}");
            }
        }
        Ok(Self::of(rows, false))
    }

    /// Queries that see all keys of their row, which are of something else and may be fewer: what a decoder reads.
    ///
    /// # Errors
    /// As [`Rows::new`]; names a row without a key.
    pub fn across(rows: impl IntoIterator<Item = (Range<usize>, Range<usize>)>) -> Result<Self> {
        let row = |(queries, own)| Row { queries, own, context: Vec::new() };
        let rows: Vec<Row> = rows.into_iter().map(row).collect();
        check_order(&rows)?;
        if let Some(i) = rows.iter().position(|row| row.own.is_empty()) {
            bail!("attention: row {i} has no key");
        }
        Ok(Self::of(rows, true))
    }

    /// Whole sequences of these lengths, packed: the keys are those of the queries, without context.
    pub fn packed(lengths: &[usize]) -> Self {
        let mut start = 0;
        let rows = lengths.iter().map(|length| {
            let queries = start..start + length;
            start = queries.end;
            Row { own: queries.clone(), queries, context: Vec::new() }
        });
        Self::of(rows.collect(), false)
    }

    /// Lets each query see its row's own keys behind it, too.
    #[must_use]
    pub fn both_ways(self) -> Self {
        Self { both_ways: true, on_device: OnDevice::default(), ..self }
    }

    /// Of each query of a row, the last of the row's own keys that it sees.
    pub(in crate::ops) fn last_seen(&self, row: &Row) -> impl Iterator<Item = usize> + use<> {
        let (both_ways, own, queries) = (self.both_ways, row.own.len(), row.queries.len());
        (0..queries).map(move |i| if both_ways { own - 1 } else { own - queries + i })
    }

    /// Marks keys that only the query at their own position sees; one flag a key.
    #[must_use]
    pub fn with_private(mut self, private: Vec<bool>) -> Self {
        self.private = private;
        self.on_device = OnDevice::default();
        self
    }

    /// The rows, in order.
    pub fn rows(&self) -> &[Row] {
        &self.sequences
    }

    /// Which keys are private, one flag a key; nothing where none is.
    pub(in crate::ops) fn private(&self) -> &[bool] {
        &self.private
    }

    /// What a device has been given of them.
    pub(in crate::ops) fn on_device(&self) -> &OnDevice {
        &self.on_device
    }

    pub(super) fn is_private(&self, key: usize) -> bool {
        self.private.get(key).is_some_and(|&private| private)
    }

    /// The keys of a context that are not private.
    pub(super) fn visible(&self, context: &[Range<usize>]) -> impl Iterator<Item = usize> {
        context.iter().cloned().flatten().filter(|&key| !self.is_private(key))
    }

    /// The positions of private keys among a row's own.
    pub(super) fn private_positions(&self, row: &Row) -> Vec<usize> {
        if self.private.is_empty() {
            return Vec::new();
        }
        (0..row.own.len()).filter(|place| self.is_private(row.own.start + place)).collect()
    }

    /// Holds the rows against the sizes of the tensors.
    pub(crate) fn check(&self, tokens: usize, keys: usize) -> Result<()> {
        let queries = self.sequences.last().map_or(0, |row| row.queries.end);
        if queries != tokens {
            bail!("attention: rows of {queries} queries for {tokens} tokens");
        }
        if self.both_ways && !self.private.is_empty() {
            bail!("attention: private keys in rows that are seen both ways");
        }
        if !self.private.is_empty() && self.private.len() != keys {
            bail!("attention: {} private flags for {keys} keys", self.private.len());
        }
        for (i, row) in self.sequences.iter().enumerate() {
            if let Some(range) = row.context.iter().chain([&row.own]).find(|r| r.end > keys) {
                bail!("attention: row {i} reads keys {range:?} of {keys}");
            }
        }
        Ok(())
    }

    /// The same rows without the queries before the first in each that is `needed`, and the queries that
    /// stay, ascending.
    pub(crate) fn starting_at_needed(&self, needed: &[u32]) -> (Self, Vec<u32>) {
        let mut needed = needed.to_vec();
        needed.sort_unstable();
        let mut stay = Vec::new();
        let rows = self.sequences.iter().map(|row| {
            let at = needed.partition_point(|&query| (query as usize) < row.queries.start);
            let first = needed.get(at).map_or(row.queries.end, |&query| query as usize);
            let start = stay.len();
            stay.extend(first.min(row.queries.end) as u32..row.queries.end as u32);
            Row { queries: start..stay.len(), ..row.clone() }
        });
        let rows = rows.collect();
        (Self { private: self.private.clone(), ..Self::of(rows, self.both_ways) }, stay)
    }

    /// Whether each key belongs to at most one row, in row order: the case that has a backward.
    pub(super) fn own_their_keys(&self) -> bool {
        let mut next = 0;
        self.sequences.iter().all(|row| {
            let in_order = row.own.start >= next && row.context.is_empty();
            next = row.own.end;
            in_order
        })
    }
}

/// Refuses rows whose queries do not follow each other from 0 without a gap.
fn check_order(rows: &[Row]) -> Result<()> {
    let mut next = 0;
    for (i, Row { queries, .. }) in rows.iter().enumerate() {
        if queries.start != next || queries.end < queries.start {
            bail!("attention: row {i} has queries {queries:?}, expected to start at {next}");
        }
        next = queries.end;
    }
    Ok(())
}
