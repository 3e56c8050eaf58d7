//! The weights of a Llama by their names in a checkpoint.

use std::collections::BTreeMap;

use candle_core::Tensor;

/// The weights of a model by their Hugging Face names; matrices are (out, in).
///
/// `lm_head.weight` is absent where the embeddings are tied.
pub type Weights = BTreeMap<String, Tensor>;

/// The checkpoint name of the input embedding.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// The checkpoint name of an untied output head.
pub const HEAD: &str = "lm_head.weight";
