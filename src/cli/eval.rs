//! `llmbs eval`: evaluates, compares, and shows the results side by side.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use anyhow::bail;
use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;
use serde_json::Value;

use super::progress::Bars;
use super::shared;
use super::show::{self, EXCLUDED, decimal, out, with_interval, word};
use super::switch::Switch;
use crate::data::Split;
use crate::run::{
    Comparison, EvalRequest, EvalResult, EvalSettings, Ranking, Report, Run, metric_names,
};

/// What is said in words of a comparison.
const TOLD: [&str; 2] = ["recall@10", "ndcg@10"];
/// Items among what is written without the trie, below which the model does not know the index yet.
const LOW_LEGAL_RATE: f64 = 0.5;
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
    /// Only the first this many targets [default: all]; of texts, at most this many samples a kind
    /// [default: 500]
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<usize>,
    /// Test each metric against the same evaluation of another run, or against a trained baseline, the name of one of
    /// this run or a folder, user by user
    #[arg(long, value_name = "NAME|FOLDER")]
    pub(super) compare: Option<PathBuf>,
    /// Rank together with a trained baseline, the name of one of this run such as item-knn or a folder such as
    /// RUN/baseline/sasrec/seed-1, or with the model of another run; several are averaged
    #[arg(long, value_name = "NAME|FOLDER")]
    pub(super) fuse: Vec<PathBuf>,
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

/// The widest beam, as of `eval.beam`.
const WIDEST: usize = 1_000_000_000;

/// Evaluates whatever is asked for and shows it.
pub(super) fn evaluate(run: &Run, args: &EvalArgs, bars: &mut Bars) -> anyhow::Result<()> {
    let mut beams = args.beam.clone();
    if beams.is_empty() {
        beams.push(run.config().eval.beam);
    }
    let mut seen = BTreeSet::new();
    beams.retain(|&beam| seen.insert(beam));
    if beams.contains(&0) || args.limit == Some(0) {
        bail!("--beam and --limit must be at least 1");
    }
    if let Some(beam) = beams.iter().find(|beam| **beam > WIDEST) {
        bail!("--beam {beam}: must be {WIDEST} at most");
    }
    let adapters = args.adapter.map_or_else(|| adapters(run), |switch| vec![switch == Switch::On]);
    let split = args.split.unwrap_or(Split::Test);
    let fuse: Vec<PathBuf> = args.fuse.iter().map(|told| run.baseline_told(told)).collect();
    let (limit, fuse) = (args.limit, fuse.as_slice());
    let request = |adapter, beam| EvalRequest { split, adapter, beam, limit, fuse, before: None };
    let requests: Vec<Vec<EvalRequest<'_>>> = adapters
        .iter()
        .map(|&adapter| beams.iter().map(|&beam| request(adapter, beam)).collect())
        .collect();
    let compare = args.compare.as_ref().map(|told| run.baseline_told(told));
    if let Some(other) = &compare {
        // Before minutes are spent on this run's evaluation.
        for (nth, of_adapter) in requests.iter().enumerate() {
            for &request in of_adapter {
                // Of the model before there is one result, with or without an adapter here.
                if nth == 0
                    && let Some(before) = run.before(request, other)?
                {
                    evaluation(run, before, args.force, bars)?;
                }
                run.check_comparable(request, other)?;
            }
        }
    }
    // By adapter, then by beam.
    let mut evaluations: Vec<Vec<Shown>> = Vec::new();
    let mut comparisons = String::new();
    for of_adapter in requests {
        let mut shown = Vec::new();
        for request in of_adapter {
            let result = evaluation(run, request, args.force, bars)?;
            let comparison = compare.as_ref().map(|other| run.compare(request, other));
            let comparison = comparison.transpose()?;
            if let Some(comparison) = &comparison {
                comparisons += &compared(comparison, &result.report.settings);
            }
            shown.push(Shown { ranking: result.report, comparison });
        }
        evaluations.push(shown);
    }
    if args.json {
        show::json(&as_json(evaluations)?)
    } else {
        out(&(tables(&evaluations) + &comparisons))
    }
}

/// An evaluation as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    #[serde(flatten)]
    pub(super) ranking: Ranking<EvalSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) comparison: Option<Comparison>,
}

/// One object a beam: the first adapter's evaluation, with the metrics of the other beside its own. Where one
/// beam was asked for, that object alone.
fn as_json(by_adapter: Vec<Vec<Shown>>) -> anyhow::Result<Value> {
    let mut adapters = by_adapter.into_iter();
    let mut by_beam = Vec::new();
    for shown in adapters.next().unwrap_or_default() {
        by_beam.push(serde_json::to_value(shown)?);
    }
    for others in adapters {
        for (first, other) in by_beam.iter_mut().zip(others) {
            let adapter = &other.ranking.settings.adapter;
            first[format!("adapter_{adapter}")] =
                serde_json::to_value(other.ranking.report.metrics)?;
            if let Some(shared) = other.ranking.shared_codes {
                first[format!("adapter_{adapter}_shared_codes")] = serde_json::to_value(shared)?;
            }
            if let Some(comparison) = other.comparison {
                first[format!("adapter_{adapter}_comparison")] = serde_json::to_value(comparison)?;
            }
        }
    }
    Ok(if by_beam.len() == 1 { by_beam.remove(0) } else { by_beam.into() })
}

/// The models that are evaluated where none is named: with the adapter on, where there is one, and off.
pub(super) fn adapters(run: &Run) -> Vec<bool> {
    if run.has_adapter() { vec![true, false] } else { vec![false] }
}

/// One evaluation; it is said where it stands, and where a model does not know its index.
pub(super) fn evaluation(
    run: &Run,
    request: EvalRequest<'_>,
    force: bool,
    bars: &mut Bars,
) -> anyhow::Result<EvalResult<Ranking<EvalSettings>>> {
    let result = run.evaluate(request, force, bars)?;
    let done = if result.was_done { "is there already" } else { "written" };
    tracing::info!("{} {done}", result.path.display());
    if let Some(rate) = &result.report.legal_rate
        && rate.share < LOW_LEGAL_RATE
    {
        tracing::warn!(
            "without the trie {:.0} % of the beams name an item: the model has not learnt the index; \
             more steps (train.initial.min-steps) would help",
            100.0 * rate.share
        );
    }
    Ok(result)
}

/// What heads the column of a model.
pub(super) fn of_adapter(settings: &EvalSettings) -> String {
    format!("adapter {}", settings.adapter)
}

/// One table with a column an adapter; where several beams were asked for, one an adapter, with a column a beam.
fn tables(by_adapter: &[Vec<Shown>]) -> String {
    let table = |label: &str, evaluations: &[&Shown], heading: &dyn Fn(&EvalSettings) -> String| {
        let column = |shown: &&'_ Shown| heading(&shown.ranking.settings);
        let headings: Vec<String> = evaluations.iter().map(column).collect();
        let columns = evaluations.iter().zip(headings).map(|(shown, h)| Column::of(shown, h));
        table(label, evaluations, &columns.collect::<Vec<_>>())
    };
    if by_adapter.iter().all(|beams| beams.len() == 1) {
        let evaluations: Vec<&Shown> = by_adapter.iter().flatten().collect();
        return table("metric", &evaluations, &of_adapter);
    }
    let of_beams = |beams: &Vec<Shown>| {
        let evaluations: Vec<&Shown> = beams.iter().collect();
        table(&of_adapter(&beams[0].ranking.settings), &evaluations, &|settings| {
            let all = if settings.exhaustive { " (all)" } else { "" };
            format!("beam {}{all}", settings.beam)
        })
    };
    by_adapter.iter().map(of_beams).collect::<Vec<_>>().join("\n")
}

/// A column of the table: whatever ranks the same users.
pub(super) struct Column<'a> {
    pub(super) heading: String,
    pub(super) report: &'a Report,
    /// Of a language model.
    pub(super) legal: Option<f64>,
}

impl<'a> Column<'a> {
    pub(super) fn of(shown: &'a Shown, heading: String) -> Self {
        let ranking = &shown.ranking;
        Self { heading, report: &ranking.report, legal: ranking.legal_rate.map(|rate| rate.share) }
    }
}

/// Columns side by side behind popularity; `evaluations` are those of language models among them.
pub(super) fn table(label: &str, evaluations: &[&Shown], columns: &[Column<'_>]) -> String {
    let Some(first) = evaluations.first().map(|shown| &shown.ranking) else {
        return String::new();
    };
    let mut text = String::new();
    let longest = columns.iter().map(|column| column.heading.chars().count()).max();
    let width = longest.map_or(16, |longest| (longest + 2).max(16));
    let mut row = |label: &str, popularity: &str, cell: &dyn Fn(&Column<'_>) -> String| {
        let mut line = format!("{label:<24}{popularity:>12}");
        for column in columns {
            let _ = write!(line, "{:>width$}", cell(column));
        }
        let _ = writeln!(text, "{}", line.trim_end());
    };
    row(label, "popularity", &|c| c.heading.clone());
    for name in metric_names() {
        row(name, &decimal(&first.popularity, name), &|c| {
            with_interval(&c.report.metrics, &c.report.intervals, name)
        });
    }
    row(EXCLUDED, "", &|_| String::new());
    for name in metric_names() {
        let popularity = decimal(&first.popularity_history_excluded, name);
        row(&format!("  {name}"), &popularity, &|c| {
            let report = c.report;
            with_interval(
                &report.metrics_history_excluded,
                &report.intervals_history_excluded,
                name,
            )
        });
    }
    row("coverage@10", "", &|c| format!("{:.4}", c.report.coverage.top_10));
    row("coverage@20", "", &|c| format!("{:.4}", c.report.coverage.top_20));
    row("legal rate", "", &|c| c.legal.map_or_else(String::new, |share| format!("{share:.4}")));
    let buckets = |report: &Report, by: &str| match by {
        "history" => report.by_history.clone(),
        _ => report.by_popularity.clone(),
    };
    for by in ["history", "popularity"] {
        row(&format!("{BUCKET_METRIC} by {by}"), "targets", &|_| String::new());
        for (i, bucket) in buckets(&first.report, by).iter().enumerate() {
            row(&format!("  {bucket}"), &bucket.targets.to_string(), &|c| {
                buckets(c.report, by).get(i).map_or_else(String::new, |bucket| {
                    with_interval(&bucket.metrics, &bucket.intervals, BUCKET_METRIC)
                })
            });
        }
    }
    text += &footnotes(evaluations, &first.settings);
    let with_shared = |shown: &&Shown| shared::table(&shown.ranking);
    text.extend(evaluations.iter().filter_map(with_shared));
    text
}

fn footnotes(evaluations: &[&Shown], settings: &EvalSettings) -> String {
    let mut text = String::new();
    let mut beams: Vec<String> =
        evaluations.iter().map(|shown| shown.ranking.settings.beam.to_string()).collect();
    beams.dedup();
    let _ = writeln!(
        text,
        "±: half the {:.0} % bootstrap interval over targets; legal rate: of {} users' beams without the trie",
        settings.bootstrap.confidence * 100.0,
        settings.legal_rate_users,
    );
    let _ = writeln!(
        text,
        "{}, {} split of {}, {} targets, {} items, beam {}, normalize {}, index {}, seed {}",
        settings.dataset,
        settings.split,
        settings.split_rule,
        settings.targets,
        settings.items,
        beams.join(", "),
        word(&settings.normalize),
        settings.source,
        settings.seed,
    );
    for ranking in evaluations.iter().map(|shown| &shown.ranking) {
        if let Some(fusion) = &ranking.settings.fusion {
            let models: Vec<String> = fusion.models.iter().map(ToString::to_string).collect();
            let (adapter, models) = (&ranking.settings.adapter, models.join(", "));
            let weight = ranking.fusion_weight;
            let weight = weight.map(|w| format!(", weight of the baselines {w:.2}"));
            let _ = writeln!(
                text,
                "adapter {adapter}: ranked with {models}{}",
                weight.unwrap_or_default()
            );
        }
    }
    text
}

/// A comparison: a line a metric, and what else is different about the other run.
fn compared(comparison: &Comparison, settings: &EvalSettings) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "\nagainst {}: adapter {}, beam {}, paired over {} targets",
        comparison.other_run.display(),
        settings.adapter,
        settings.beam,
        comparison.targets,
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
    let visible = |key: &str| {
        !key.ends_with("_digest") && !["git_revision", "files", "fusion"].contains(&key)
    };
    let differing: Vec<String> = comparison
        .settings
        .iter()
        .filter(|(key, _)| visible(key))
        .map(|(key, both)| format!("{key} ({} here, {} there)", word(&both[0]), word(&both[1])))
        .collect();
    if !differing.is_empty() {
        let _ = writeln!(text, "the runs differ in {}", differing.join(", "));
    }
    text + &verdict(comparison)
}

/// Which of both is better, a line a rule and metric.
pub(super) fn verdict(comparison: &Comparison) -> String {
    let both =
        [("history ranked", &comparison.metrics), (EXCLUDED, &comparison.metrics_history_excluded)];
    let mut text = String::new();
    for (rule, metrics) in both {
        for name in TOLD {
            let Some(d) = metrics.get(name) else { continue };
            let word = match d.difference {
                _ if !d.is_established() => "no difference established",
                difference if difference > 0.0 => "better",
                _ => "WORSE",
            };
            let _ = writeln!(
                text,
                "  {rule:<16}  {name:<9}  {word}: {:.4} against {:.4}, {:+.4} (p {:.4})",
                d.this, d.other, d.difference, d.p_value
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{Metrics, PerMetric};
    use serde_json::json;

    /// An evaluation in which every metric has the same value, read as a file is.
    fn evaluation(adapter: &str, beam: usize) -> Shown {
        let metrics = |value: f64| Metrics::from_names(|_| value);
        let around = |low: f64, high: f64| PerMetric::from_names(|_| [low, high]);
        let bucket = |from: usize, to: Option<usize>| {
            let (metrics, intervals) = (metrics(0.125), around(0.1, 0.15));
            json!({ "from": from, "to": to, "targets": 7, "metrics": metrics, "intervals": intervals })
        };
        let settings = json!({
                "split": "test", "split_rule": "leave-one-out", "targets": 80, "limit": null, "history": 20, "instruction": "sentence",
                "adapter": adapter, "search": "", "beam": beam, "exhaustive": beam >= 60,
                "normalize": "level", "score": "", "length_penalty": "none", "eos": "never",
                "temperature": 1.0, "ties": "", "dtype": "f32", "precision": "f32", "batch": 64,
                "bootstrap": { "resamples": 1000, "confidence": 0.95 }, "legal_rate_users": 80,
                "items": 60, "source": "unit", "method": "hierarchical-kmeans",
                "order": "semantic-first", "shared": false, "seed": 42, "dataset": "shop",
                "dataset_fingerprint": "", "interactions_fingerprint": "", "index_digest": null, "model_digest": null,
                "adapter_digest": null, "files": {}, "git_revision": "",
        });
        let ranking = json!({
            "metrics": metrics(0.25),
            "intervals": around(0.225, 0.275),
            "metrics_history_excluded": metrics(0.35),
            "intervals_history_excluded": around(0.3, 0.4),
            "popularity": metrics(0.0625),
            "popularity_history_excluded": metrics(0.0725),
            "by_history": [bucket(1, Some(4)), bucket(20, None)],
            "by_popularity": [bucket(0, Some(0))],
            "coverage": { "coverage@10": 0.5, "coverage@20": 0.75 },
            "legal_rate": { "share": 0.875, "first": 1.0, "users": 80 },
            "performance": {
                "seconds": 1.0, "users_per_s": 80.0, "peak_memory_bytes": 1, "machine": "cpu",
            },
            "settings": settings,
        });
        Shown { ranking: serde_json::from_value(ranking).unwrap(), comparison: None }
    }

    #[test]
    fn one_beam_makes_one_table_with_a_column_an_adapter() {
        let text = tables(&[vec![evaluation("on", 20)], vec![evaluation("off", 20)]]);
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
        let text = tables(&[beams("on"), beams("off")]);
        assert_eq!(text.matches("beam 5   beam 60 (all)").count(), 2, "{text}");
        assert!(text.starts_with("adapter on") && text.contains("\nadapter off"), "{text}");
    }

    #[test]
    fn json_is_an_object_for_one_beam_and_a_list_for_several() {
        let one = as_json(vec![vec![evaluation("on", 5)], vec![evaluation("off", 5)]]).unwrap();
        assert_eq!(one["adapter_off"], one["metrics"]);
        let beams = |adapter| vec![evaluation(adapter, 5), evaluation(adapter, 60)];
        let two = as_json(vec![beams("on"), beams("off")]).unwrap();
        assert_eq!(two.as_array().unwrap().len(), 2);
        assert_eq!(two[1]["settings"]["beam"], 60);
    }
}
