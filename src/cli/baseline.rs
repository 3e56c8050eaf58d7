//! `llmbs baseline`: trains a recommender of another kind, evaluates it, and shows what it is worth.

use std::fmt::Write;

use clap::Args as ClapArgs;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::Serialize;

use super::progress::Bars;
use super::show::{EXCLUDED, decimal, out, with_interval};
use crate::data::Split;
use crate::run::{
    Baseline, BaselineRequest, BaselineSettings, EvalResult, Metrics, OverSeeds, Published,
    Ranking, Run, metric_names,
};

#[derive(Debug, ClapArgs)]
pub(super) struct BaselineArgs {
    /// Which one
    #[arg(value_parser = Choice::parser())]
    pub(super) name: Choice,
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

/// One baseline, or all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice(Option<Baseline>);

impl Choice {
    fn parser() -> impl TypedValueParser<Value = Self> {
        let each = Baseline::ALL.map(|one| PossibleValue::new(one.name()).help(one.about()));
        let all = PossibleValue::new("all").help("All that the data allow, in one table");
        let names = std::iter::once(all).chain(each);
        PossibleValuesParser::new(names).map(|name| Self(Baseline::named(&name)))
    }
}

pub(super) fn run(run: &Run, args: &BaselineArgs, bars: &mut Bars) -> anyhow::Result<()> {
    run.warn_of_other_data();
    let Choice(Some(baseline)) = args.name else { return all(run, args, bars) };
    let results = results(run, requests(run, baseline, args)?, args.force, bars)?;
    let text = if let [result] = results.as_slice() {
        if args.json { pretty(&result.report)? } else { one(&result.report) }
    } else {
        let (seeds, path) = run.baseline_over_seeds(baseline, args.split, &results)?;
        tracing::info!("{} written", path.display());
        if args.json { pretty(&seeds)? } else { several(&seeds) }
    };
    out(&text)
}

/// A baseline with every seed, in their order; what stands in their places is found to fit before anything is trained.
fn requests(
    run: &Run,
    baseline: Baseline,
    args: &BaselineArgs,
) -> anyhow::Result<Vec<BaselineRequest>> {
    let mut seeds =
        if args.seeds.is_empty() { vec![run.config().seed] } else { args.seeds.clone() };
    seeds.sort_unstable();
    seeds.dedup();
    let request = |seed| BaselineRequest { baseline, split: args.split, seed };
    let requests: Vec<BaselineRequest> = seeds.into_iter().map(request).collect();
    if !args.force {
        requests.iter().try_for_each(|&request| run.check_standing_baseline(request))?;
    }
    Ok(requests)
}

/// Their results.
fn results(
    run: &Run,
    requests: Vec<BaselineRequest>,
    force: bool,
    bars: &mut Bars,
) -> anyhow::Result<Vec<EvalResult<Ranking<BaselineSettings>>>> {
    let mut results = Vec::new();
    for request in requests {
        let result = run.baseline(request, force, bars)?;
        let done = if result.was_done {
            let name = request.baseline.name();
            format!("is there already; `llmbs baseline {name} --force` redoes it")
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

/// The table of all baselines.
#[derive(Serialize)]
struct Table {
    rows: Vec<TableRow>,
    /// Baselines that these data do not allow.
    lacking: Vec<Lacking>,
    /// What the paper prints of the same dataset, on the test split.
    published: Vec<Published>,
}

/// A baseline: means over the seeds.
#[derive(Serialize)]
struct TableRow {
    #[serde(flatten)]
    seeds: OverSeeds,
    /// Of a training, on average.
    seconds: f64,
}

#[derive(Serialize)]
struct Lacking {
    baseline: &'static str,
    why: String,
}

/// Every baseline that these data allow, in one table.
fn all(run: &Run, args: &BaselineArgs, bars: &mut Bars) -> anyhow::Result<()> {
    let published =
        if args.split == Split::Test { Published::of(run.dataset()) } else { Vec::new() };
    let mut table = Table { rows: Vec::new(), lacking: Vec::new(), published };
    let mut allowed = Vec::new();
    for baseline in Baseline::ALL {
        match run.check_baseline(baseline) {
            Ok(()) => allowed.push((baseline, requests(run, baseline, args)?)),
            Err(error) => {
                table.lacking.push(Lacking { baseline: baseline.name(), why: error.to_string() });
            }
        }
    }
    for (baseline, requests) in allowed {
        let results = results(run, requests, args.force, bars)?;
        let (seeds, _) = run.baseline_over_seeds(baseline, args.split, &results)?;
        let seconds: f64 =
            results.iter().filter_map(|r| Some(r.report.training.as_ref()?.seconds)).sum();
        table.rows.push(TableRow { seeds, seconds: seconds / results.len() as f64 });
    }
    out(&if args.json { pretty(&table)? } else { table.text() })
}

impl Table {
    fn text(&self) -> String {
        let mut text = format!("{:<12}", "");
        for heading in ["all items ranked", EXCLUDED] {
            let _ = write!(text, "{heading:<41}");
        }
        let _ = write!(text, "\n{:<12}", "baseline");
        for metric in SHOWN.iter().chain(&SHOWN) {
            let _ = write!(text, "{metric:>10}");
        }
        let _ = writeln!(text, "{:>10}", "seconds");
        for TableRow { seeds, seconds } in &self.rows {
            let _ = write!(text, "{:<12}", seeds.settings.model);
            for metrics in [&seeds.metrics, &seeds.metrics_history_excluded] {
                for name in SHOWN {
                    let _ = write!(text, "{:>10}", decimal(metrics, name));
                }
            }
            let _ = writeln!(text, "{seconds:>10.1}");
        }
        for settings in self.rows.iter().map(|row| &row.seeds.settings).filter(|s| !s.exhaustive) {
            let _ = writeln!(text, "{}: {}", settings.model, settings.search);
        }
        for Lacking { baseline, why } in &self.lacking {
            let _ = writeln!(text, "{baseline:<12} not here: {why}");
        }
        if let Some(TableRow { seeds, .. }) = self.rows.first() {
            let numbers: Vec<String> = seeds.seeds.iter().map(u64::to_string).collect();
            text += &footnote(&seeds.settings, &format!("mean of seeds {}", numbers.join(", ")));
        }
        if !self.published.is_empty() {
            text += "published in table 2 of the LLM-BS paper\n";
        }
        for &Published { system, recall_5, ndcg_5, recall_10, ndcg_10 } in &self.published {
            let _ = write!(text, "{system:<12}");
            for value in [recall_5, ndcg_5, recall_10, ndcg_10] {
                let _ = write!(text, "{value:>10.4}");
            }
            text.push('\n');
        }
        text
    }
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
    let ranked = if settings.exhaustive {
        format!("all {items} items ranked")
    } else {
        format!("{items} items, {}", settings.search)
    };
    format!(
        "{dataset}, {split} split of {split_rule}, {targets} targets, {ranked}, history {history}, \
         {seeds}\n"
    )
}
