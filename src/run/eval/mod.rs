//! Models and baselines of a run, evaluated, and the results it keeps.

mod baseline;
mod baselines;
mod compare;
mod evaluate;
mod fused;
mod generator;
mod journal;
mod kept;
mod means;
mod published;
mod request;
mod result;
mod standing;
mod stored;
mod text;
mod training;
mod validation;

pub use baseline::BaselineRequest;
pub use baselines::Baseline;
pub use compare::Comparison;
pub use published::Published;
pub use request::EvalRequest;
pub use result::{
    BaselineSettings, EvalResult, EvalSettings, FusedModel, FusionSettings, OverSeeds, Performance,
    Ranking, TaskMetrics, TextDifference, TextModel, TextReport, TextSettings, TrainingSummary,
};
pub use stored::{Ranker, StoredRanking, Targets};
pub use text::TextRequest;
pub(super) use validation::ValidationMetric;
