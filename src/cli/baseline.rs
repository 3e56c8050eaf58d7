//! `llmbs baseline`: trains a recommender of another kind, evaluates it, and shows what it is worth.

use std::fmt::Write;

use clap::{Args as ClapArgs, ValueEnum};
use serde_json::{Map, Value};

use super::progress::Bars;
use super::show::{EXCLUDED, decimal, out, with_interval, with_interval_of, word};
use crate::data::Split;
use crate::run::{Baseline, BaselineRequest, Run};

#[derive(Debug, ClapArgs)]
pub(super) struct BaselineArgs {
    /// Which one
    pub(super) name: BaselineChoice,
    /// Train and evaluate once with each of these seeds, and show mean and standard deviation [default:
    /// the seed of the configuration]
    #[arg(long, value_name = "N,N,…", value_delimiter = ',')]
    pub(super) seeds: Vec<u64>,
    /// The split to evaluate on, test or valid
    #[arg(long, default_value = "test")]
    pub(super) split: Split,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Train and evaluate again, even if the result is there
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum BaselineChoice {
    /// Causal self-attention over item ids, with softmax over all items
    Sasrec,
}

pub(super) fn run(run: &Run, args: &BaselineArgs, bars: &mut Bars) -> anyhow::Result<()> {
    let baseline = match args.name {
        BaselineChoice::Sasrec => Baseline::SasRec,
    };
    let mut seeds =
        if args.seeds.is_empty() { vec![run.config().seed] } else { args.seeds.clone() };
    seeds.sort_unstable();
    seeds.dedup();
    let split = args.split;
    let mut results = Vec::new();
    for seed in seeds {
        let request = BaselineRequest { baseline, split, seed };
        let result = run.baseline(request, args.force, bars)?;
        let done = if result.was_done {
            format!("is there already; `llmbs baseline {} --force` redoes it", baseline.name())
        } else {
            "written".into()
        };
        tracing::info!("{} {done}", result.path.display());
        results.push(result);
    }
    let text = if let [result] = results.as_slice() {
        if args.json { pretty(&result.json)? } else { one(&result.json) }
    } else {
        let (json, path) = run.baseline_over_seeds(baseline, split, &results)?;
        tracing::info!("{} written", path.display());
        if args.json { pretty(&json)? } else { several(&json) }
    };
    out(&text)
}

fn pretty(json: &Value) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(json)? + "\n")
}

/// The metrics of one seed with their intervals, beside those of popularity.
fn one(result: &Value) -> String {
    let model = word(&result["settings"]["model"]);
    let mut text = format!("{:<12}{:>12}{model:>18}\n", "metric", "popularity");
    for name in names(result) {
        let popularity = decimal(&result["popularity"][name]);
        let _ = writeln!(text, "{name:<12}{popularity:>12}{:>18}", with_interval(result, name));
    }
    let _ = writeln!(text, "{EXCLUDED}");
    for name in names(result) {
        let popularity = decimal(&result["popularity_history_excluded"][name]);
        let cell = with_interval_of(result, "_history_excluded", name);
        let _ = writeln!(text, "{name:<12}{popularity:>12}{cell:>18}");
    }
    for name in ["coverage@10", "coverage@20"] {
        let _ = writeln!(text, "{name:<12}{:>12}{:>18}", "", decimal(&result["coverage"][name]));
    }
    let confidence = result["settings"]["bootstrap"]["confidence"].as_f64().unwrap_or(f64::NAN);
    let _ = writeln!(
        text,
        "±: half the {:.0} % bootstrap interval over users; trained for {} epochs, the best {}",
        confidence * 100.0,
        result["training"]["epochs"],
        result["training"]["best_epoch"],
    );
    text + &footnote(result, &format!("seed {}", result["settings"]["seed"]))
}

/// Mean and standard deviation over seeds, and each seed's metrics.
fn several(result: &Value) -> String {
    let seeds: Vec<String> =
        result["seeds"].as_array().into_iter().flatten().map(Value::to_string).collect();
    let mut text = format!("{:<12}{:>12}{:>10}{:>10}", "metric", "popularity", "mean", "sd");
    for seed in &seeds {
        let _ = write!(text, "{:>12}", format!("seed {seed}"));
    }
    text.push('\n');
    for rule in ["", "_history_excluded"] {
        if !rule.is_empty() {
            let _ = writeln!(text, "{EXCLUDED}");
        }
        let of_rule = |of: &str| &result[format!("{of}{rule}")];
        for name in names(result) {
            let cell = |of: &str| decimal(&of_rule(of)[name]);
            let _ = write!(
                text,
                "{name:<12}{:>12}{:>10}{:>10}",
                cell("popularity"),
                cell("metrics"),
                cell("standard_deviations")
            );
            for metrics in of_rule("by_seed").as_array().into_iter().flatten() {
                let _ = write!(text, "{:>12}", decimal(&metrics[name]));
            }
            text.push('\n');
        }
    }
    text + &footnote(result, &format!("seeds {}", seeds.join(", ")))
}

fn names(result: &Value) -> impl Iterator<Item = &String> {
    result["metrics"].as_object().into_iter().flat_map(Map::keys)
}

fn footnote(result: &Value, seeds: &str) -> String {
    let word = |key: &str| word(&result["settings"][key]);
    format!(
        "{}, {} split, {} users, all {} items ranked, history {}, {seeds}\n",
        word("dataset"),
        word("split"),
        word("users"),
        word("items"),
        word("history"),
    )
}
