//! Evaluation: full ranking of the catalogue for every user, and the metrics of the ranking.

mod evaluator;
mod metrics;
mod scorer;

pub use evaluator::{Evaluation, Popularity, Prediction, Recommender};
pub use metrics::{Metrics, ndcg_at_k, rank_of, recall_at_k, reciprocal_rank_at_k};
pub use scorer::{ItemVocabulary, LlamaScorer};
