//! Ranking metrics with one relevant item a user (docs/method.md).

use serde::Serialize;

/// Where the lists are cut for Recall.
const RECALL_AT: [usize; 4] = [1, 5, 10, 20];
/// Where the lists are cut for NDCG.
const NDCG_AT: [usize; 3] = [5, 10, 20];
/// Where the lists are cut for the mean reciprocal rank.
const MRR_AT: usize = 20;

/// 1 if the target stands in the first `k`; `rank` counts from 1.
pub fn recall_at_k(rank: Option<usize>, k: usize) -> f64 {
    f64::from(rank.is_some_and(|r| r <= k))
}

/// `1 / log2(rank + 1)` in the first `k`: with one relevant item the ideal gain is 1.
pub fn ndcg_at_k(rank: Option<usize>, k: usize) -> f64 {
    rank.filter(|&r| r <= k).map_or(0.0, |r| 1.0 / (r as f64 + 1.0).log2())
}

/// `1 / rank` in the first `k`.
pub fn reciprocal_rank_at_k(rank: Option<usize>, k: usize) -> f64 {
    rank.filter(|&r| r <= k).map_or(0.0, |r| 1.0 / r as f64)
}

/// Means over users, by name, in reading order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metrics(Vec<(String, f64)>);

impl Metrics {
    /// The metrics of users whose target stands at these ranks (from 1; `None`: not in the list).
    pub fn of(ranks: &[Option<usize>]) -> Self {
        let mean = |gain: &dyn Fn(Option<usize>) -> f64| {
            ranks.iter().map(|&r| gain(r)).sum::<f64>() / ranks.len().max(1) as f64
        };
        let mut all = Vec::new();
        for k in RECALL_AT {
            all.push((format!("recall@{k}"), mean(&|r| recall_at_k(r, k))));
        }
        for k in NDCG_AT {
            all.push((format!("ndcg@{k}"), mean(&|r| ndcg_at_k(r, k))));
        }
        all.push((format!("mrr@{MRR_AT}"), mean(&|r| reciprocal_rank_at_k(r, MRR_AT))));
        Self(all)
    }

    /// (name, value) in reading order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// The value of a metric such as `recall@10`.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// As a JSON object, in reading order.
    pub fn to_json(&self) -> serde_json::Value {
        self.iter()
            .map(|(n, v)| (n.to_string(), v.into()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

/// The rank of `target` in a ranked list, from 1.
pub fn rank_of<T: PartialEq>(target: &T, ranked: impl IntoIterator<Item = T>) -> Option<usize> {
    ranked.into_iter().position(|item| item == *target).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_by_hand() {
        let m = Metrics::of(&[Some(1), Some(3), Some(11), None]);
        assert_eq!(m.get("recall@1"), Some(0.25));
        assert_eq!(m.get("recall@10"), Some(0.5));
        assert_eq!(m.get("recall@20"), Some(0.75));
        assert_eq!(m.get("ndcg@10"), Some((1.0 + 0.5) / 4.0));
        let mrr = (1.0 + 1.0 / 3.0 + 1.0 / 11.0) / 4.0;
        assert!((m.get("mrr@20").unwrap() - mrr).abs() < 1e-12);
    }

    #[test]
    fn ndcg_never_exceeds_recall() {
        for rank in (1..30).map(Some).chain([None]) {
            for k in NDCG_AT {
                let (n, r) = (ndcg_at_k(rank, k), recall_at_k(rank, k));
                assert!(0.0 <= n && n <= r && r <= 1.0);
            }
        }
    }

    #[test]
    fn ranks_count_from_one() {
        assert_eq!(rank_of(&7, [5, 7, 9]), Some(2));
        assert_eq!(rank_of(&8, [5, 7, 9]), None);
    }
}
