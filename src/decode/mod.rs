//! Decoding: beam search over the trie of item indices. Knows nothing of models or tensors.

mod beam;
mod free;

pub use beam::{BeamRow, BeamSearch, CodeScores, Normalize, Ranked};
pub use free::{FreePath, search_freely};
