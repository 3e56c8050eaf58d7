//! A model at work: scoring the codes of beam search, which a TIGER does, too; continuing texts; and the item
//! tokens it does both with.

mod generate;
mod order;
mod scorer;
mod tiger;
mod tokens;

pub use generate::{Continuation, generate};
pub use order::TokenOrder;
pub use scorer::{BatchScorer, LlamaScorer, SHARE};
pub use tiger::TigerScorer;
pub use tokens::{ItemTokens, ItemVocabulary};
