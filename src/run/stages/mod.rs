//! What each stage does.

pub(super) mod anneal;
pub(super) mod index;
pub(super) mod initial;
