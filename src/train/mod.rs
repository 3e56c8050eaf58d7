//! Training: batches, losses, schedule, and the loop that the warm-up and both stages share.

mod batch;
mod contrast;
mod gradients;
mod memory;
mod schedule;
mod state;
mod trainer;
mod warmup;

pub use batch::Batch;
pub use contrast::{ContrastConfig, ContrastLoss, Projectors};
pub use memory::Memory;
pub use schedule::Schedule;
pub use trainer::{
    Control, EpochReport, Losses, Observer, StepReport, TrainConfig, TrainOutcome, Trainer,
};
pub use warmup::{language_model_samples, shuffled};
