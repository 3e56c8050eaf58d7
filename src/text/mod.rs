//! Text in and out of the model: the tokenizer, wherever it comes from.
//! Knows nothing of weights or tasks.

mod file;
mod gguf;
mod plain;
mod tokenizer;

pub use gguf::GgufVocabulary;
pub use plain::{Part, TextEncoder};
pub use tokenizer::Tokenizer;

#[cfg(test)]
pub(crate) mod kinds;
#[cfg(test)]
mod tests;
