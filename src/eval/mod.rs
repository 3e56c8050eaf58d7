//! Evaluation: full ranking of the catalogue for every user and what the ranking is worth; texts written and
//! how like the true ones they are.

mod bootstrap;
mod compare;
mod evaluator;
mod fusion;
mod metrics;
mod neighbours;
mod protocol;
mod ranking;
mod report;
mod shared;
mod text;
mod tiger;

pub use bootstrap::{CONFIDENCE, Intervals, RESAMPLES, intervals};
pub use compare::{Difference, PERMUTATIONS, SIGNIFICANCE, compare};
pub use evaluator::{Evaluation, LegalRate, Popularity, Prediction, Recommender, SearchLog};
pub use fusion::{Fusion, mean_probabilities, ranked_together};
pub use metrics::{
    DEPTH, Metrics, PerMetric, metric_names, ndcg_at_k, rank_of, recall_at_k, reciprocal_rank_at_k,
};
pub use neighbours::{ItemKnn, ItemKnnConfig};
pub use protocol::Protocol;
pub use ranking::{ItemScorer, evaluate_scores, metrics_by_scores, scoring_bytes};
pub use report::{Bucket, Coverage, Report};
pub use shared::{Readings, SharedCodes};
pub use text::{
    TEXT_FIGURES, TextSample, TextScores, response_losses, text_differences, text_figures,
    text_intervals,
};
pub use tiger::TigerRecommender;
