//! The two embeddings an index is made from, z^s from the texts and z^b from the interactions, and what
//! has to be trained to turn them into codes.

mod behavior;
mod rq_vae;
mod semantic;

pub use behavior::*;
pub use rq_vae::{RqVaeConfig, RqVaeLatents, RqVaeReport, train_rq_vae};
pub use semantic::semantic_embeddings;
