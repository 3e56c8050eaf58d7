//! The two embeddings an index is made from: z^s from the texts, z^b from the interactions.

mod behavior;
mod matrix;
mod parts;
mod semantic;
mod texts;

pub use behavior::*;
pub use matrix::{load_embeddings, load_kept, save_embeddings};
pub use parts::Parts;
pub use semantic::{EmbeddingProgress, embedding_key, semantic_embeddings};
pub use texts::{ItemTexts, TextCounts, TextField};
