//! `llmbs eval`: evaluates, compares, and shows the results side by side.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::bail;
use clap::{Args as ClapArgs, ValueEnum};
use serde_json::Value;

use super::progress::Bars;
use super::show::{self, EXCLUDED, decimal, out, with_interval, with_interval_of, word};
use super::switch::Switch;
use crate::data::Split;
use crate::run::{Comparison, EvalRequest, Run};

/// What the buckets of the table show.
const BUCKET_METRIC: &str = "recall@10";

#[derive(Debug, Default, ClapArgs)]
pub(super) struct EvalArgs {
    /// What is asked of the model
    #[arg(long, default_value = "recommend")]
    pub(super) task: EvalTask,
    /// Beam width, or several to compare; one as wide as the catalogue scores every item [default:
    /// eval.beam of the configuration]
    #[arg(long, value_name = "N,N,…", value_delimiter = ',')]
    pub(super) beam: Vec<usize>,
    /// test or valid [default: test]
    #[arg(long)]
    pub(super) split: Option<Split>,
    /// With or without the annealing adapter [default: both, where there is one]
    #[arg(long)]
    pub(super) adapter: Option<Switch>,
    /// Only the first this many users; of texts, at most this many samples a kind [default: 500]
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<usize>,
    /// Test each metric against the same evaluation of another run, user by user
    #[arg(long, value_name = "OTHER_RUN")]
    pub(super) compare: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Evaluate again, even if the result is there
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum EvalTask {
    /// The next item
    #[default]
    Recommend,
    /// Titles and descriptions
    Text,
}

pub(super) fn evaluate(run: &Run, args: &EvalArgs, bars: &mut Bars) -> anyhow::Result<()> {
    let beams = if args.beam.is_empty() { vec![run.config().eval.beam] } else { args.beam.clone() };
    if beams.contains(&0) || args.limit == Some(0) {
        bail!("--beam and --limit must be at least 1");
    }
    let adapters = match args.adapter {
        Some(switch) => vec![switch == Switch::On],
        None if run.has_adapter() => vec![true, false],
        None => vec![false],
    };
    let split = args.split.unwrap_or(Split::Test);
    let request = |adapter, beam| EvalRequest { split, adapter, beam, limit: args.limit };
    let requests: Vec<Vec<EvalRequest>> = adapters
        .iter()
        .map(|&adapter| beams.iter().map(|&beam| request(adapter, beam)).collect())
        .collect();
    if let Some(other) = &args.compare {
        // Before minutes are spent on this run's evaluation.
        for &request in requests.iter().flatten() {
            run.check_comparable(request, other)?;
        }
    }
    // By adapter, then by beam.
    let mut evaluations: Vec<Vec<Value>> = Vec::new();
    let mut comparisons = String::new();
    for of_adapter in requests {
        let mut results = Vec::new();
        for request in of_adapter {
            let result = run.evaluate(request, args.force, bars)?;
            let done = if result.was_done { "is there already" } else { "written" };
            tracing::info!("{} {done}", result.path.display());
            let mut json = result.json;
            if let Some(other) = &args.compare {
                let comparison = run.compare(request, other)?;
                comparisons += &compared(&comparison, &json["settings"]);
                json["comparison"] = serde_json::to_value(comparison)?;
            }
            results.push(json);
        }
        evaluations.push(results);
    }
    if args.json {
        show::json(&as_json(evaluations))
    } else {
        out(&(tables(evaluations) + &comparisons))
    }
}

/// One object a beam: the first adapter's evaluation, with the metrics of the other beside its own. Where one
/// beam was asked for, that object alone.
fn as_json(by_adapter: Vec<Vec<Value>>) -> Value {
    let mut adapters = by_adapter.into_iter();
    let mut by_beam = adapters.next().unwrap_or_default();
    for others in adapters {
        for (first, other) in by_beam.iter_mut().zip(others) {
            let adapter = word(&other["settings"]["adapter"]);
            first[format!("adapter_{adapter}")] = other["metrics"].clone();
            if let Some(comparison) = other.get("comparison") {
                first[format!("adapter_{adapter}_comparison")] = comparison.clone();
            }
        }
    }
    if by_beam.len() == 1 { by_beam.remove(0) } else { by_beam.into() }
}

/// One table with a column an adapter; where several beams were asked for, one an adapter, with a column a beam.
fn tables(by_adapter: Vec<Vec<Value>>) -> String {
    if by_adapter.iter().all(|beams| beams.len() == 1) {
        let columns: Vec<Value> = by_adapter.into_iter().flatten().collect();
        return table("metric", &columns, |settings| {
            format!("adapter {}", word(&settings["adapter"]))
        });
    }
    let of_adapter = |beams: &Vec<Value>| {
        let heading = format!("adapter {}", word(&beams[0]["settings"]["adapter"]));
        table(&heading, beams, |settings| {
            let all = if settings["exhaustive"] == true { " (all)" } else { "" };
            format!("beam {}{all}", settings["beam"])
        })
    };
    by_adapter.iter().map(of_adapter).collect::<Vec<_>>().join("\n")
}

/// Evaluations side by side, with the popularity baseline.
fn table(heading: &str, evaluations: &[Value], column: impl Fn(&Value) -> String) -> String {
    let Some(first) = evaluations.first() else { return String::new() };
    let mut text = String::new();
    let mut row = |label: &str, popularity: &str, cell: &dyn Fn(&Value) -> String| {
        let mut line = format!("{label:<24}{popularity:>12}");
        for evaluation in evaluations {
            let _ = write!(line, "{:>16}", cell(evaluation));
        }
        let _ = writeln!(text, "{}", line.trim_end());
    };
    row(heading, "popularity", &|e| column(&e["settings"]));
    for name in first["metrics"].as_object().into_iter().flat_map(serde_json::Map::keys) {
        row(name, &decimal(&first["popularity"][name]), &|e| with_interval(e, name));
    }
    row(EXCLUDED, "", &|_| String::new());
    for name in first["metrics"].as_object().into_iter().flat_map(serde_json::Map::keys) {
        let popularity = decimal(&first["popularity_history_excluded"][name]);
        row(&format!("  {name}"), &popularity, &|e| with_interval_of(e, "_history_excluded", name));
    }
    for name in ["coverage@10", "coverage@20"] {
        row(name, "", &|e| decimal(&e["coverage"][name]));
    }
    row("legal rate", "", &|e| decimal(&e["legal_rate"]["share"]));
    for (by, key) in [("history", "by_history"), ("popularity", "by_popularity")] {
        row(&format!("{BUCKET_METRIC} by {by}"), "users", &|_| String::new());
        for (i, bucket) in first[key].as_array().into_iter().flatten().enumerate() {
            row(&format!("  {}", range(bucket)), &word(&bucket["users"]), &|e| {
                with_interval(&e[key][i], BUCKET_METRIC)
            });
        }
    }
    text + &footnotes(evaluations)
}

fn footnotes(evaluations: &[Value]) -> String {
    let mut text = String::new();
    let mut beams: Vec<String> =
        evaluations.iter().map(|e| e["settings"]["beam"].to_string()).collect();
    beams.dedup();
    let settings = &evaluations[0]["settings"];
    let bootstrap = &settings["bootstrap"];
    let _ = writeln!(
        text,
        "±: half the {:.0} % bootstrap interval over users; legal rate: of {} users' beams without the trie",
        bootstrap["confidence"].as_f64().unwrap_or(f64::NAN) * 100.0,
        settings["legal_rate_users"],
    );
    let word = |key: &str| word(&settings[key]);
    let _ = writeln!(
        text,
        "{}, {} split, {} users, {} items, beam {}, normalize {}, index {}, seed {}",
        word("dataset"),
        word("split"),
        word("users"),
        word("items"),
        beams.join(", "),
        word("normalize"),
        word("source"),
        word("seed"),
    );
    text
}

/// A comparison: a line a metric, and what else is different about the other run.
fn compared(comparison: &Comparison, settings: &Value) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "\nagainst {}: adapter {}, beam {}, paired over {} users",
        comparison.other_run.display(),
        word(&settings["adapter"]),
        settings["beam"],
        comparison.users,
    );
    let _ = writeln!(
        text,
        "{:<12}{:>9}{:>9}{:>12}{:>22}{:>9}",
        "metric", "this", "other", "difference", "95 % interval", "p"
    );
    let both = [(None, comparison.metrics), (Some(EXCLUDED), comparison.metrics_history_excluded)];
    for (heading, metrics) in both {
        if let Some(heading) = heading {
            let _ = writeln!(text, "{heading}");
        }
        for (name, d) in metrics.iter() {
            let interval = format!("[{:+.4}, {:+.4}]", d.interval[0], d.interval[1]);
            let _ = writeln!(
                text,
                "{name:<12}{:>9.4}{:>9.4}{:>+12.4}{interval:>22}{:>9.4}",
                d.this, d.other, d.difference, d.p_value
            );
        }
    }
    let visible =
        |key: &str| !key.ends_with("_digest") && !["git_revision", "files"].contains(&key);
    let differing: Vec<String> = comparison
        .settings
        .iter()
        .filter(|(key, _)| visible(key))
        .map(|(key, both)| format!("{key} ({} here, {} there)", word(&both[0]), word(&both[1])))
        .collect();
    if !differing.is_empty() {
        let _ = writeln!(text, "the runs differ in {}", differing.join(", "));
    }
    text
}

fn range(bucket: &Value) -> String {
    let (from, to) = (&bucket["from"], &bucket["to"]);
    match to {
        Value::Null => format!("{from}+"),
        to if to == from => from.to_string(),
        to => format!("{from}-{to}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn evaluation(adapter: &str, beam: usize) -> Value {
        let part = |recall: f64| {
            json!({
                "metrics": { "recall@10": recall },
                "intervals": { "recall@10": [recall - 0.02, recall + 0.03] },
                "metrics_history_excluded": { "recall@10": recall + 0.1 },
                "intervals_history_excluded": { "recall@10": [recall + 0.05, recall + 0.15] },
            })
        };
        let bucket = |from: usize, to: Option<usize>| {
            let mut bucket = part(0.125);
            bucket["from"] = from.into();
            bucket["to"] = to.into();
            bucket["users"] = 7.into();
            bucket
        };
        let mut evaluation = part(0.25);
        evaluation["popularity"] = json!({ "recall@10": 0.0625 });
        evaluation["popularity_history_excluded"] = json!({ "recall@10": 0.0725 });
        evaluation["by_history"] = json!([bucket(1, Some(4)), bucket(20, None)]);
        evaluation["by_popularity"] = json!([bucket(0, Some(0))]);
        evaluation["coverage"] = json!({ "coverage@10": 0.5, "coverage@20": 0.75 });
        evaluation["legal_rate"] = json!({ "share": 0.875 });
        evaluation["settings"] = json!({
            "adapter": adapter, "beam": beam, "exhaustive": beam >= 60, "dataset": "shop", "seed": 42,
            "legal_rate_users": 80, "bootstrap": { "resamples": 1000, "confidence": 0.95 },
        });
        evaluation
    }

    #[test]
    fn one_beam_makes_one_table_with_a_column_an_adapter() {
        let text = tables(vec![vec![evaluation("on", 20)], vec![evaluation("off", 20)]]);
        assert_eq!(text.matches("metric  ").count(), 1, "{text}");
        let line = text.lines().find(|line| line.starts_with("recall@10 ")).unwrap();
        assert_eq!(line.matches("0.2500 ±0.0250").count(), 2, "{text}");
        assert!(line.contains("0.0625") && text.contains("adapter on     adapter off"), "{text}");
        let line = text.lines().find(|line| line.starts_with("  recall@10 ")).unwrap();
        assert!(line.contains("0.0725") && line.contains("0.3500 ±0.0500"), "{text}");
        for part in ["  1-4 ", "  20+ ", "  0 ", "0.1250 ±0.0250", "0.8750", "the 95 % bootstrap"]
        {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }

    #[test]
    fn several_beams_make_a_table_an_adapter_with_a_column_a_beam() {
        let beams = |adapter| vec![evaluation(adapter, 5), evaluation(adapter, 60)];
        let text = tables(vec![beams("on"), beams("off")]);
        assert_eq!(text.matches("beam 5   beam 60 (all)").count(), 2, "{text}");
        assert!(text.starts_with("adapter on") && text.contains("\nadapter off"), "{text}");
    }

    #[test]
    fn json_is_an_object_for_one_beam_and_a_list_for_several() {
        let one = as_json(vec![vec![evaluation("on", 5)], vec![evaluation("off", 5)]]);
        assert_eq!(one["adapter_off"], one["metrics"]);
        let beams = |adapter| vec![evaluation(adapter, 5), evaluation(adapter, 60)];
        let two = as_json(vec![beams("on"), beams("off")]);
        assert_eq!(two.as_array().unwrap().len(), 2);
        assert_eq!(two[1]["settings"]["beam"], 60);
    }
}
