//! `llmbs baseline`: trains a recommender of another kind, evaluates it, and shows what it is worth.

use std::fmt::Write;

use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;

use super::progress::Bars;
use super::show::{EXCLUDED, decimal, out, with_interval};
use crate::data::Split;
use crate::run::{
    Baseline, BaselineRequest, BaselineSettings, EvalResult, Metrics, OverSeeds, Ranking, Run,
    metric_names,
};

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
    /// All that the data allow, in one table
    All,
    /// What is taken most
    Popularity,
    /// Neighbours of items by those who took both
    ItemKnn,
    /// A recurrent network
    Gru4rec,
    /// Convolutions over the last items
    Caser,
    /// Gates over the last items
    Hgn,
    /// Causal self-attention over item ids
    Sasrec,
    /// Self-attention to both sides, which finds hidden items
    Bert4rec,
    /// Self-attention over items and over their attributes
    Fdsa,
}

impl BaselineChoice {
    /// The baselines that are meant.
    fn baselines(self) -> Vec<Baseline> {
        match self {
            Self::All => Baseline::ALL.to_vec(),
            Self::Popularity => vec![Baseline::Popularity],
            Self::ItemKnn => vec![Baseline::ItemKnn],
            Self::Gru4rec => vec![Baseline::Gru4Rec],
            Self::Caser => vec![Baseline::Caser],
            Self::Hgn => vec![Baseline::Hgn],
            Self::Sasrec => vec![Baseline::SasRec],
            Self::Bert4rec => vec![Baseline::Bert4Rec],
            Self::Fdsa => vec![Baseline::Fdsa],
        }
    }
}

pub(super) fn run(run: &Run, args: &BaselineArgs, bars: &mut Bars) -> anyhow::Result<()> {
    let baselines = args.name.baselines();
    let [baseline] = baselines[..] else { return all(run, args, &baselines, bars) };
    let results = results(run, baseline, args, bars)?;
    let text = if let [result] = results.as_slice() {
        if args.json { pretty(&result.report)? } else { one(&result.report) }
    } else {
        let (seeds, path) = run.baseline_over_seeds(baseline, args.split, &results)?;
        tracing::info!("{} written", path.display());
        if args.json { pretty(&seeds)? } else { several(&seeds) }
    };
    out(&text)
}

/// The results of a baseline with every seed, in their order.
fn results(
    run: &Run,
    baseline: Baseline,
    args: &BaselineArgs,
    bars: &mut Bars,
) -> anyhow::Result<Vec<EvalResult<Ranking<BaselineSettings>>>> {
    let mut seeds =
        if args.seeds.is_empty() { vec![run.config().seed] } else { args.seeds.clone() };
    seeds.sort_unstable();
    seeds.dedup();
    let mut results = Vec::new();
    for seed in seeds {
        let request = BaselineRequest { baseline, split: args.split, seed };
        let result = run.baseline(request, args.force, bars)?;
        let done = if result.was_done {
            format!("is there already; `llmbs baseline {} --force` redoes it", baseline.name())
        } else {
            "written".into()
        };
        tracing::info!("{} {done}", result.path.display());
        results.push(result);
    }
    Ok(results)
}

/// Metrics of the table of all baselines.
const SHOWN: [&str; 4] = ["recall@5", "ndcg@5", "recall@10", "ndcg@10"];

/// Every baseline that these data allow, in one table: means over the seeds.
fn all(
    run: &Run,
    args: &BaselineArgs,
    baselines: &[Baseline],
    bars: &mut Bars,
) -> anyhow::Result<()> {
    let (mut rows, mut lacking, mut told) = (Vec::new(), Vec::new(), Vec::new());
    for &baseline in baselines {
        if let Err(error) = run.check_baseline(baseline) {
            lacking.push((baseline, error.to_string()));
            continue;
        }
        let results = results(run, baseline, args, bars)?;
        let (seeds, _) = run.baseline_over_seeds(baseline, args.split, &results)?;
        let seconds: f64 =
            results.iter().filter_map(|r| Some(r.report.training.as_ref()?.seconds)).sum();
        told.push(serde_json::to_value(&seeds)?);
        rows.push((seeds, seconds / results.len() as f64));
    }
    if args.json {
        return out(&pretty(&told)?);
    }
    let mut text = format!("{:<12}", "");
    for heading in ["all items ranked", EXCLUDED] {
        let _ = write!(text, "{heading:<41}");
    }
    let _ = write!(text, "\n{:<12}", "baseline");
    for metric in SHOWN.iter().chain(&SHOWN) {
        let _ = write!(text, "{metric:>10}");
    }
    let _ = writeln!(text, "{:>10}", "seconds");
    for (seeds, seconds) in &rows {
        let _ = write!(text, "{:<12}", seeds.settings.model);
        for metrics in [&seeds.metrics, &seeds.metrics_history_excluded] {
            for name in SHOWN {
                let _ = write!(text, "{:>10}", decimal(metrics, name));
            }
        }
        let _ = writeln!(text, "{seconds:>10.1}");
    }
    for (baseline, why) in &lacking {
        let _ = writeln!(text, "{:<12} not here: {why}", baseline.name());
    }
    if let Some((first, _)) = rows.first() {
        let seeds: Vec<String> = first.seeds.iter().map(u64::to_string).collect();
        text += &footnote(&first.settings, &format!("mean of seeds {}", seeds.join(", ")));
    }
    out(&text)
}

fn pretty(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// The metrics of one seed with their intervals, beside those of popularity.
fn one(result: &Ranking<BaselineSettings>) -> String {
    let Ranking { report, settings, .. } = result;
    let mut text = format!("{:<12}{:>12}{:>18}\n", "metric", "popularity", settings.model);
    for (heading, popularity, metrics, intervals) in [
        (None, &result.popularity, &report.metrics, &report.intervals),
        (
            Some(EXCLUDED),
            &result.popularity_history_excluded,
            &report.metrics_history_excluded,
            &report.intervals_history_excluded,
        ),
    ] {
        if let Some(heading) = heading {
            let _ = writeln!(text, "{heading}");
        }
        for name in metric_names() {
            let popularity = decimal(popularity, name);
            let cell = with_interval(metrics, intervals, name);
            let _ = writeln!(text, "{name:<12}{popularity:>12}{cell:>18}");
        }
    }
    let coverage = &report.coverage;
    for (name, share) in [("coverage@10", coverage.top_10), ("coverage@20", coverage.top_20)] {
        let _ = writeln!(text, "{name:<12}{:>12}{share:>18.4}", "");
    }
    let confidence = settings.bootstrap.confidence * 100.0;
    let _ = write!(text, "±: half the {confidence:.0} % bootstrap interval over targets");
    if let Some(training) = result.training.as_ref().filter(|training| training.epochs > 0) {
        let (epochs, best) = (training.epochs, training.best_epoch);
        let _ = write!(text, "; trained for {epochs} epochs, the best {best}");
    }
    text + "\n" + &footnote(settings, &format!("seed {}", settings.seed))
}

/// Mean and standard deviation over seeds, and each seed's metrics.
fn several(result: &OverSeeds) -> String {
    let seeds: Vec<String> = result.seeds.iter().map(u64::to_string).collect();
    let mut text = format!("{:<12}{:>12}{:>10}{:>10}", "metric", "popularity", "mean", "sd");
    for seed in &seeds {
        let _ = write!(text, "{:>12}", format!("seed {seed}"));
    }
    text.push('\n');
    let ranked =
        (&result.popularity, &result.metrics, &result.standard_deviations, &result.by_seed);
    let excluded = (
        &result.popularity_history_excluded,
        &result.metrics_history_excluded,
        &result.standard_deviations_history_excluded,
        &result.by_seed_history_excluded,
    );
    for (heading, rule) in [(None, ranked), (Some(EXCLUDED), excluded)] {
        if let Some(heading) = heading {
            let _ = writeln!(text, "{heading}");
        }
        let (popularity, mean, deviation, by_seed) = rule;
        for name in metric_names() {
            let cell = |metrics: &Metrics| decimal(metrics, name);
            let (popularity, mean, deviation) = (cell(popularity), cell(mean), cell(deviation));
            let _ = write!(text, "{name:<12}{popularity:>12}{mean:>10}{deviation:>10}");
            for metrics in by_seed {
                let _ = write!(text, "{:>12}", cell(metrics));
            }
            text.push('\n');
        }
    }
    text + &footnote(&result.settings, &format!("seeds {}", seeds.join(", ")))
}

fn footnote(settings: &BaselineSettings, seeds: &str) -> String {
    let BaselineSettings { dataset, split, split_rule, targets, items, history, .. } = settings;
    format!(
        "{dataset}, {split} split of {split_rule}, {targets} targets, all {items} items ranked, \
         history {history}, {seeds}\n"
    )
}
