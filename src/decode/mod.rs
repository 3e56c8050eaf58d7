//! Decoding: beam search for items, sampling for text. Knows nothing of models or tensors.

mod beam;
mod free;
mod sample;

pub use beam::{BeamRow, BeamSearch, CodeScores, Found, Normalize, Ranked};
pub use free::{FreePath, search_freely};
pub use sample::{Sampler, Sampling, likeliest};
