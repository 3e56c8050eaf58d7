//! The two embeddings an index is made from: z^s from the texts, z^b from the interactions; and the training
//! of SASRec, which also recommends on its own.

mod behavior;
mod sasrec;
mod semantic;

pub use behavior::{
    BehaviorEmbedding, DinConfig, Encoder, EncoderConfig, EpochReport, Progress,
    train_behavior_embedding,
};
pub use sasrec::{SasRecConfig, SasRecLoss, TrainedSasRec, train_sasrec};
pub use semantic::semantic_embeddings;
