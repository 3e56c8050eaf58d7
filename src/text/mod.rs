//! Text in and out of the model: the tokenizer, wherever it comes from.
//! Knows nothing of weights or tasks.

mod gguf;
mod tokenizer;

pub use gguf::GgufVocabulary;
pub use tokenizer::Tokenizer;

#[cfg(test)]
mod tests;
