//! Ranking metrics with one relevant item a user (docs/evaluation.md).

use std::collections::BTreeMap;
use std::marker::PhantomData;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a rank is worth where lists are cut at `k`.
type Gain = fn(rank: Option<usize>, k: usize) -> f64;

/// Name, gain and cut of each metric, in reading order.
const METRICS: [(&str, Gain, usize); 8] = [
    ("recall@1", recall_at_k, 1),
    ("recall@5", recall_at_k, 5),
    ("recall@10", recall_at_k, 10),
    ("recall@20", recall_at_k, DEPTH),
    ("ndcg@5", ndcg_at_k, 5),
    ("ndcg@10", ndcg_at_k, 10),
    ("ndcg@20", ndcg_at_k, DEPTH),
    ("mrr@20", reciprocal_rank_at_k, DEPTH),
];

/// How many metrics there are.
pub(super) const COUNT: usize = METRICS.len();

/// The deepest cut: what stands further down a list is worth nothing to any metric.
pub const DEPTH: usize = 20;

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

/// What a rank is worth to each metric.
pub(super) fn gains(rank: Option<usize>) -> [f64; COUNT] {
    METRICS.map(|(_, gain, k)| gain(rank, k))
}

/// A value for each metric, in reading order; in JSON an object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PerMetric<T>([T; COUNT]);

/// Means over users.
pub type Metrics = PerMetric<f64>;

/// The names of the metrics, in reading order.
pub fn metric_names() -> impl Iterator<Item = &'static str> {
    METRICS.iter().map(|&(name, ..)| name)
}

impl<T> PerMetric<T> {
    /// The values of the metrics at their places in the reading order.
    pub(super) fn from_fn(value: impl FnMut(usize) -> T) -> Self {
        Self(std::array::from_fn(value))
    }

    /// A value for each metric by its name.
    pub fn from_names(value: impl Fn(&str) -> T) -> Self {
        Self(METRICS.map(|(name, ..)| value(name)))
    }

    /// (name, value) in reading order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &T)> {
        METRICS.iter().map(|&(name, ..)| name).zip(&self.0)
    }

    /// The value of a metric such as `recall@10`.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// The values without their names.
    pub(super) fn values(&self) -> &[T; COUNT] {
        &self.0
    }
}

impl<T: Serialize> Serialize for PerMetric<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for PerMetric<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Values<T> {
            type Value = BTreeMap<String, T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object with a value for each metric")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut values = BTreeMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    values.insert(name, value);
                }
                Ok(values)
            }
        }

        let mut values = deserializer.deserialize_map(Values(PhantomData))?;
        let mut found = Vec::with_capacity(COUNT);
        for name in metric_names() {
            let value = values.remove(name);
            found.push(value.ok_or_else(|| D::Error::custom(format_args!("{name} is missing")))?);
        }
        // As many as there are metrics.
        found.try_into().map(Self).map_err(|_| D::Error::custom("metrics are missing"))
    }
}

impl Metrics {
    /// The mean and the sample standard deviation of each metric over trainings with different seeds; the
    /// deviation of fewer than two is 0.
    pub fn over_seeds(of_seeds: &[Self]) -> [Self; 2] {
        let sum = |of: &dyn Fn(&Self) -> f64| of_seeds.iter().map(of).sum::<f64>();
        let count = of_seeds.len() as f64;
        let means = Self::from_fn(|metric| sum(&|m| m.values()[metric]) / count);
        let deviations = Self::from_fn(|metric| {
            let square = |m: &Self| (m.values()[metric] - means.values()[metric]).powi(2);
            (sum(&square) / (count - 1.0).max(1.0)).sqrt()
        });
        [means, deviations]
    }

    /// The metrics of users whose target stands at these ranks (from 1; `None`: not in the list).
    pub fn of(ranks: &[Option<usize>]) -> Self {
        let mut sums = [0.0; COUNT];
        for &rank in ranks {
            for (sum, gain) in sums.iter_mut().zip(gains(rank)) {
                *sum += gain;
            }
        }
        Self(sums.map(|sum| sum / ranks.len().max(1) as f64))
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
    fn a_deviation_over_seeds_is_that_of_a_sample() {
        let of = |values: &[f64]| {
            let metrics: Vec<Metrics> =
                values.iter().map(|&value| Metrics::from_names(|_| value)).collect();
            Metrics::over_seeds(&metrics).map(|m| m.values()[3])
        };
        assert_eq!(of(&[1.0, 2.0, 6.0]), [3.0, 7f64.sqrt()]);
        assert_eq!(of(&[0.25]), [0.25, 0.0]);
    }

    #[test]
    fn metrics_by_hand() {
        let m = Metrics::of(&[Some(1), Some(3), Some(11), None]);
        assert_eq!(m.get("recall@1"), Some(&0.25));
        assert_eq!(m.get("recall@10"), Some(&0.5));
        assert_eq!(m.get("recall@20"), Some(&0.75));
        assert_eq!(m.get("ndcg@10"), Some(&((1.0 + 0.5) / 4.0)));
        let mrr = (1.0 + 1.0 / 3.0 + 1.0 / 11.0) / 4.0;
        assert!((m.get("mrr@20").unwrap() - mrr).abs() < 1e-12);
    }

    #[test]
    fn ndcg_never_exceeds_recall() {
        for rank in (1..30).map(Some).chain([None]) {
            for k in [5, 10, 20] {
                let (n, r) = (ndcg_at_k(rank, k), recall_at_k(rank, k));
                assert!(0.0 <= n && n <= r && r <= 1.0);
            }
        }
    }

    #[test]
    fn nothing_counts_below_the_deepest_cut() {
        assert!(METRICS.iter().all(|&(name, _, k)| name.ends_with(&format!("@{k}"))));
        assert!(gains(Some(DEPTH))[COUNT - 1] > 0.0);
        assert_eq!(gains(Some(DEPTH + 1)), [0.0; COUNT]);
    }

    #[test]
    fn json_names_the_metrics_in_reading_order() {
        let json = serde_json::to_string(&Metrics::of(&[Some(1)])).unwrap();
        assert!(json.starts_with(r#"{"recall@1":1.0,"recall@5":1.0"#), "{json}");
        assert!(json.ends_with(r#""mrr@20":1.0}"#), "{json}");
    }

    #[test]
    fn json_gives_the_metrics_back_and_a_missing_one_is_told() {
        let metrics = Metrics::of(&[Some(1), Some(3), None]);
        let json = serde_json::to_string(&metrics).unwrap();
        assert_eq!(serde_json::from_str::<Metrics>(&json).unwrap(), metrics);
        let error = serde_json::from_str::<Metrics>(&json.replace("ndcg@5", "ndcg@6")).unwrap_err();
        assert!(error.to_string().contains("ndcg@5 is missing"), "{error}");
    }

    #[test]
    fn ranks_count_from_one() {
        assert_eq!(rank_of(&7, [5, 7, 9]), Some(2));
        assert_eq!(rank_of(&8, [5, 7, 9]), None);
    }
}
