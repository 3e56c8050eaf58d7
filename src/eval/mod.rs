//! Evaluation: full ranking of the catalogue for every user and the metrics of the ranking; texts written
//! and how like the true ones they are.

mod evaluator;
mod generate;
mod metrics;
mod scorer;
mod text;

pub use evaluator::{Evaluation, Popularity, Prediction, Recommender};
pub use generate::{Continuation, generate};
pub use metrics::{Metrics, ndcg_at_k, rank_of, recall_at_k, reciprocal_rank_at_k};
pub use scorer::{ItemVocabulary, LlamaScorer};
pub use text::{TextScores, response_losses};
