//! Models and baselines of a run, evaluated, and the results it keeps.

mod baseline;
mod compare;
mod evaluate;
mod kept;
mod text;
mod validation;

pub use baseline::{Baseline, BaselineRequest};
pub use compare::Comparison;
pub use evaluate::{EvalRequest, EvalResult};
pub use text::{TextModel, TextRequest};
pub(super) use validation::ValidationMetric;
