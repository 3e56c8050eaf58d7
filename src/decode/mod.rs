//! Decoding: beam search over the trie of item indices. Knows nothing of models or tensors.

mod beam;

pub use beam::{BeamRow, BeamSearch, CodeScores, Normalize, Ranked};
