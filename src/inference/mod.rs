//! A model at work: scoring the codes of beam search, continuing texts, and the item tokens it does both with.

mod generate;
mod scorer;
mod tokens;

pub use generate::{Continuation, generate};
pub use scorer::{BatchScorer, LlamaScorer};
pub use tokens::{ItemTokens, ItemVocabulary};
