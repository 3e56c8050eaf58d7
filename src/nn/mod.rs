//! Building blocks of models: trainable parameters, their gradients and optimiser, linear layers
//! with LoRA. Knows nothing of any model.

mod linear;
mod optimizer;
mod params;

pub use linear::{Dropout, Linear, Lora};
pub use optimizer::{AdamW, AdamWConfig};
pub use params::{GradientSum, Gradients, Params};
