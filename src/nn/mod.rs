//! Building blocks of models: trainable parameters, their gradients and optimiser, linear layers
//! with LoRA. Knows nothing of any model.

mod average;
mod division;
mod gradients;
mod linear;
mod optimizer;
mod params;

pub use average::Average;
pub use division::spread;
pub use gradients::{GradientSum, Gradients};
pub use linear::{Dropout, Linear, Lora};
pub use optimizer::{AdamW, AdamWConfig, MomentType};
pub use params::Params;
