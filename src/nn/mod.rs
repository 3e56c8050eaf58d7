//! Trainable parameters, their gradients and the optimiser. Knows nothing of any model.

mod optimizer;
mod params;

pub use optimizer::{AdamW, AdamWConfig};
pub use params::{Gradients, Params};
