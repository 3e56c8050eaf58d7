//! What rows of attention look like to the kernels, and that it is kept with them.

use std::sync::OnceLock;

use candle_core::Tensor;

/// What rows keep of themselves on a device, once they were there.
#[derive(Debug, Default)]
pub(in crate::ops) struct OnDevice(pub(super) OnceLock<Table>);

// A copy, and whether two are equal, has nothing to do with where they have been.
impl Clone for OnDevice {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for OnDevice {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for OnDevice {}

/// Which keys each query sees, as the kernels read it: one array of numbers.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) numbers: Tensor,
    /// Where each part begins.
    pub(super) row_of: usize,
    pub(super) last: usize,
    pub(super) segments: usize,
    pub(super) query_tiles: Tiles,
    pub(super) key_tiles: Tiles,
    /// None where no key is private.
    pub(super) private: Option<usize>,
    /// Queries of a row, on average.
    pub(super) queries_a_row: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles {
    pub(super) first: usize,
    pub(super) count: usize,
}
