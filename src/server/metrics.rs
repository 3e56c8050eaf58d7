//! What the service counts, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the counted seconds.
const SECONDS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Upper bounds of the counted sizes of batches.
const SIZES: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// How often values fell under each of some bounds.
#[derive(Debug)]
struct Histogram<const N: usize> {
    bounds: [f64; N],
    /// Values up to each bound that are above the one before.
    counts: [u64; N],
    count: u64,
    sum: f64,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: [f64; N]) -> Self {
        Self { bounds, counts: [0; N], count: 0, sum: 0.0 }
    }

    fn add(&mut self, value: f64) {
        if let Some(at) = self.bounds.iter().position(|&bound| value <= bound) {
            self.counts[at] += 1;
        }
        self.count += 1;
        self.sum += value;
    }

    /// Appends its lines; `labels` are empty or end with a comma.
    fn write(&self, text: &mut String, name: &str, labels: &str) {
        let mut up_to = 0;
        for (bound, count) in self.bounds.iter().zip(self.counts) {
            up_to += count;
            let _ = writeln!(text, "{name}_bucket{{{labels}le=\"{bound}\"}} {up_to}");
        }
        let _ = writeln!(text, "{name}_bucket{{{labels}le=\"+Inf\"}} {}", self.count);
        let of = match labels.trim_end_matches(',') {
            "" => String::new(),
            labels => format!("{{{labels}}}"),
        };
        let _ = writeln!(text, "{name}_sum{of} {}\n{name}_count{of} {}", self.sum, self.count);
    }
}

/// The requests to one route.
#[derive(Debug)]
struct Route {
    seconds: Histogram<12>,
    /// Their number by status.
    statuses: BTreeMap<u16, u64>,
}

/// Everything that is counted since the service began.
#[derive(Debug)]
pub(super) struct Metrics {
    routes: Mutex<BTreeMap<&'static str, Route>>,
    batches: Mutex<Histogram<7>>,
    /// Requests that wait for the model.
    pub(super) waiting: AtomicUsize,
    /// Open connections.
    pub(super) connections: AtomicUsize,
    /// Requests that were not answered because nobody waited any more.
    pub(super) dropped: AtomicU64,
    /// Answers by popularity.
    pub(super) fallbacks: AtomicU64,
    /// Models that were loaded, and attempts that failed.
    pub(super) loads: AtomicU64,
    pub(super) failed_loads: AtomicU64,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            routes: Mutex::default(),
            batches: Mutex::new(Histogram::new(SIZES)),
            waiting: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            fallbacks: AtomicU64::new(0),
            loads: AtomicU64::new(0),
            failed_loads: AtomicU64::new(0),
        }
    }

    /// A request has been answered.
    pub(super) fn request(&self, route: &'static str, status: u16, took: Duration) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Route { seconds: Histogram::new(SECONDS), statuses: BTreeMap::new() };
        let route = routes.entry(route).or_insert_with(new);
        route.seconds.add(took.as_secs_f64());
        *route.statuses.entry(status).or_default() += 1;
    }

    /// So many requests go through the model together.
    pub(super) fn batch(&self, size: usize) {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).add(size as f64);
    }

    /// All of it as text.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let head = |text: &mut String, name: &str, kind: &str, help: &str| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let name = "llmbs_requests_total";
        head(&mut text, name, "counter", "Requests answered, by route and status.");
        for (name_of, route) in &*routes {
            for (status, count) in &route.statuses {
                let labels = format!("route=\"{name_of}\",status=\"{status}\"");
                let _ = writeln!(text, "{name}{{{labels}}} {count}");
            }
        }
        let name = "llmbs_request_seconds";
        head(&mut text, name, "histogram", "Seconds from a request's head to its answer.");
        for (name_of, route) in &*routes {
            route.seconds.write(&mut text, name, &format!("route=\"{name_of}\","));
        }
        let name = "llmbs_batch_requests";
        head(&mut text, name, "histogram", "Requests that went through the model together.");
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).write(&mut text, name, "");
        let waiting = self.waiting.load(Ordering::Relaxed) as u64;
        let connections = self.connections.load(Ordering::Relaxed) as u64;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (name, kind, help, value) in [
            ("llmbs_waiting_requests", "gauge", "Requests that wait for the model.", waiting),
            ("llmbs_connections", "gauge", "Open connections.", connections),
            (
                "llmbs_dropped_requests_total",
                "counter",
                "Requests whose client had gone before the model took them.",
                count(&self.dropped),
            ),
            ("llmbs_fallbacks_total", "counter", "Answers by popularity.", count(&self.fallbacks)),
            ("llmbs_model_loads_total", "counter", "Models loaded.", count(&self.loads)),
            (
                "llmbs_failed_model_loads_total",
                "counter",
                "Models that could not be loaded.",
                count(&self.failed_loads),
            ),
        ] {
            head(&mut text, name, kind, help);
            let _ = writeln!(text, "{name} {value}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_all_that_is_up_to_their_bound() {
        let metrics = Metrics::new();
        for (status, milliseconds) in [(200, 1), (200, 3), (422, 3), (200, 60_000)] {
            metrics.request("/recommend", status, Duration::from_millis(milliseconds));
        }
        metrics.batch(64);
        metrics.batch(3);
        let text = metrics.text();
        for line in [
            "llmbs_requests_total{route=\"/recommend\",status=\"200\"} 3",
            "llmbs_requests_total{route=\"/recommend\",status=\"422\"} 1",
            "llmbs_request_seconds_bucket{route=\"/recommend\",le=\"0.001\"} 1",
            "llmbs_request_seconds_bucket{route=\"/recommend\",le=\"0.005\"} 3",
            "llmbs_request_seconds_bucket{route=\"/recommend\",le=\"10\"} 3",
            "llmbs_request_seconds_bucket{route=\"/recommend\",le=\"+Inf\"} 4",
            "llmbs_request_seconds_count{route=\"/recommend\"} 4",
            "llmbs_batch_requests_bucket{le=\"2\"} 0",
            "llmbs_batch_requests_bucket{le=\"4\"} 1",
            "llmbs_batch_requests_bucket{le=\"+Inf\"} 2",
            "llmbs_batch_requests_sum 67",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
    }
}
