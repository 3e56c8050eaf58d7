//! A model at work: scoring the codes of beam search, continuing texts, and the item tokens it does both with.

mod generate;
mod order;
mod scorer;
mod tokens;

pub use generate::{Continuation, generate};
pub use order::TokenOrder;
pub use scorer::{BatchScorer, LlamaScorer};
pub use tokens::{ItemTokens, ItemVocabulary};
