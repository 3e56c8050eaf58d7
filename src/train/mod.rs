//! Training: batches, losses, schedule, and the loop that the warm-up and both stages share.

mod batch;
mod config;
mod contrast;
mod gradients;
mod memory;
mod repeats;
mod report;
mod run;
mod schedule;
mod state;
mod teacher;
mod trainer;
mod warmup;

pub use batch::Batch;
pub use config::{ContinueConfig, StageConfig};
pub use contrast::{Contrast, ContrastConfig, ContrastLoss, Projectors};
pub use memory::Memory;
pub use repeats::log_repeats;
pub use report::{
    Control, EpochReport, Fault, Losses, Observer, Skip, Start, StepReport, TrainOutcome,
};
pub use schedule::Schedule;
pub use teacher::{Colleague, DistillationConfig, Teacher};
pub use trainer::{Trainer, Validation};
pub use warmup::{language_model_samples, shuffled};
