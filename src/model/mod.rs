//! The backbone, its checkpoints and adapters, the networks over item ids (DIN and sequential recommenders), and the
//! autoencoder of codes.

pub mod adapter;
mod checkpoint;
mod config;
pub mod din;
mod gguf;
mod hub;
pub mod init;
pub mod llama;
mod rope_scaling;
pub mod rq_vae;
pub mod sequential;
mod snapshot;
mod source;
mod weights;

pub use adapter::LoraConfig;
pub use checkpoint::{
    digest_weights, load_folder, load_safetensors, safetensors_metadata, save_folder,
    save_safetensors, save_safetensors_with,
};
pub use config::LlamaConfig;
pub use gguf::{GgufType, save_gguf};
pub(crate) use llama::{Backprop, Checkpointed, Inner, Pools};
pub use llama::{DropoutPair, KvCache, Llama, Packed};
pub use rope_scaling::RopeScaling;
pub use snapshot::{Snapshots, check_saved};
pub use source::{Backbone, BackboneSource, backbone_files, load_backbone, load_backbone_from};
pub use weights::Weights;

#[cfg(test)]
mod tests;
