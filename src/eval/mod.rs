//! Evaluation: full ranking of the catalogue for every user, and what the ranking is worth.

mod bootstrap;
mod compare;
mod evaluator;
mod metrics;
mod report;
mod scorer;

pub use bootstrap::{CONFIDENCE, Intervals, RESAMPLES, intervals};
pub use compare::{Difference, PERMUTATIONS, compare};
pub use evaluator::{Evaluation, LegalRate, Popularity, Prediction, Recommender};
pub use metrics::{
    DEPTH, Metrics, PerMetric, ndcg_at_k, rank_of, recall_at_k, reciprocal_rank_at_k,
};
pub use report::{Bucket, Coverage, Report};
pub use scorer::{ItemVocabulary, LlamaScorer};
