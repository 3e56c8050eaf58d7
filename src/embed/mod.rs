//! The two embeddings an index is made from: z^s from the texts, z^b from the interactions.

mod behavior;
mod semantic;

pub use behavior::*;
pub use semantic::semantic_embeddings;
