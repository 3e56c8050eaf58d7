//! The two embeddings an index is made from, z^s from the texts and z^b from the interactions; what has to
//! be trained to turn them into codes; and the training of SASRec, which also recommends on its own.

mod behavior;
mod rq_vae;
mod sasrec;
mod semantic;

pub use behavior::{
    BehaviorEmbedding, DinConfig, Encoder, EncoderConfig, EpochReport, Progress,
    train_behavior_embedding,
};
pub use rq_vae::{RqVaeConfig, RqVaeLatents, RqVaeReport, train_rq_vae};
pub use sasrec::{SasRecConfig, SasRecLoss, TrainedSasRec, train_sasrec};
pub use semantic::semantic_embeddings;
