//! Decoding: beam search for items, sampling for text. Knows nothing of models or tensors.

mod beam;
mod sample;

pub use beam::{BeamRow, BeamSearch, CodeScores, Normalize, Ranked};
pub use sample::{Sampler, Sampling, likeliest};
