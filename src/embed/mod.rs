//! The two embeddings an index is made from, z^s from the texts and z^b from the interactions; what has to
//! be trained to turn them into codes; and the training of recommenders over item ids, one of which gives z^b, and of
//! one that writes codes. Matrices of both, and of codes made elsewhere, in files.

mod behavior;
mod epochs;
mod integers;
mod matrix;
mod npy;
mod parts;
mod rq_vae;
mod semantic;
mod sequential;
mod texts;
mod tiger;
mod torch;

pub use behavior::{
    BehaviorEmbedding, CONTINUED_EPOCHS, DinConfig, Encoder, EncoderConfig, SpectralConfig,
    SpectralEmbedding, continue_sasrec, spectral_embedding, train_behavior_embedding,
};
pub use epochs::{Around, EpochReport, Progress, TrainingBytes};
pub use integers::{IntegerMatrix, load_integers, save_integers};
pub use matrix::{load_embeddings, load_kept, save_embeddings};
pub use parts::Parts;
pub use rq_vae::{RqVaeConfig, RqVaeLatents, RqVaeReport, train_rq_vae};
pub use semantic::{
    EmbeddingProgress, TOKENS_PER_PASS, embedding_key, help_embed, semantic_embeddings,
};
pub use sequential::{Course, SequentialReport};
pub use texts::{ItemTexts, TextCounts};
pub use tiger::TigerCourse;
