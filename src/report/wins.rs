//! Where a model wins and loses against a baseline: by history length, by the popularity of the target, and user by
//! user.

use std::fmt::Write as _;

use super::Reported;
use super::duel::{Duel, Lacking, Outcome, Pair, count, history};
use super::html::{Table, escape, figure, figures, missing, remark};
use super::plot::{self, Bar};
use crate::Result;
use crate::eval::{CONFIDENCE, Difference, Prediction, compare};
use crate::run::{Bucket, Targets};

/// The metric that is compared.
const METRIC: &str = "ndcg@10";

pub(super) fn section(
    runs: &[Reported],
    duels: &[std::result::Result<Duel<'_>, Lacking>],
) -> Result<String> {
    let mut html = String::new();
    for (reported, duel) in runs.iter().zip(duels) {
        html += &match duel {
            Ok(duel) => of_run(reported, duel, runs.len() > 1)?,
            Err(lacking) => missing(lacking),
        };
    }
    Ok(html)
}

fn of_run(reported: &Reported, duel: &Duel<'_>, several: bool) -> Result<String> {
    let (name, folder) = (&reported.name, &reported.folder);
    let Some(baseline) = duel.baseline_name() else {
        let Targets { split, count, .. } = duel.model.targets;
        if count < reported.run.dataset().targets(split).len() {
            return Ok(missing(&format!(
                "{name}: baselines rank for all targets, and this result is of {count}: run `llmbs --run {folder} eval \
                 --split {split}` without --limit"
            )));
        }
        return Ok(missing(&format!(
            "{name}: no predictions of a baseline for the same targets are kept: run `llmbs --run {folder} baseline \
             sasrec --split {split}`"
        )));
    };
    let of_run = if several { format!("{name}, ") } else { String::new() };
    let model = super::ranker_name(duel.model);
    let mut html = format!("<h3>{}</h3>", escape(&format!("{of_run}{model}, against {baseline}")));
    let pairs: Vec<&Pair> = duel.pairs.iter().filter(|pair| pair.baseline.is_some()).collect();
    html += &users(&pairs);
    let (dataset, seed) = (reported.run.dataset(), reported.run.config().seed);
    let counts = dataset.popularity();
    let by_history = |pair: &Pair| history(reported, pair.target).len();
    let by_count = |pair: &Pair| counts[pair.model.target as usize] as usize;
    let report = &duel.model.report;
    let mut plots = String::new();
    let mut tables = String::new();
    for (what, axis, buckets, value) in [
        ("history length", "items of the history", &report.by_history, &by_history as Value<'_>),
        ("popularity of the target", "times in training", &report.by_popularity, &by_count),
    ] {
        let (bars, table) = by(&pairs, axis, buckets, value, seed)?;
        let caption = format!(
            "<b>by {what}</b>: difference in {METRIC}, above zero where the model is better"
        );
        let told = format!("difference in {METRIC} by {what}");
        plots += &figure(&caption, &plot::differences(&told, axis, &bars)?);
        let _ = write!(tables, "<h4>By {what}</h4>{table}");
    }
    html += &figures(&plots);
    let _ = write!(html, "<details><summary>The same as tables</summary>{tables}</details>");
    html += &remark(&format!(
        "History ranked. Whiskers are {:.0} % intervals of the paired difference. The baseline is the one of highest \
         {METRIC} for these targets, of the run itself where it keeps any. Better: the model ranks the target \
         higher; what neither has among its first 20 counts as equal.",
        100.0 * CONFIDENCE
    ));
    Ok(html)
}

/// What a target is told apart by.
type Value<'a> = &'a dyn Fn(&Pair) -> usize;

/// How many targets the model ranks higher, lower and alike, by both rules.
fn users(pairs: &[&Pair]) -> String {
    let one_each = {
        let mut users: Vec<usize> = pairs.iter().map(|pair| pair.target.user).collect();
        users.dedup();
        users.len() == pairs.len()
    };
    let unit = if one_each { "users" } else { "targets" };
    let all = pairs.len();
    let heading = format!("|{all} {unit}");
    let mut table = Table::new(&[&heading, "better", "worse", "equal"]);
    for (name, rank) in [
        ("history ranked", Prediction::rank as fn(&Prediction) -> Option<usize>),
        ("history left out", |p| p.rank_history_excluded),
    ] {
        let counts = count(outcomes(pairs.iter().copied(), rank));
        let share =
            |n: usize| format!("{n}<small>{:.1} %</small>", 100.0 * n as f64 / all.max(1) as f64);
        let [better, worse, equal] = counts.map(share);
        table.row(1, &[name.into(), better, worse, equal]);
    }
    table.html()
}

fn outcomes<'a>(
    pairs: impl Iterator<Item = &'a Pair>,
    rank: fn(&Prediction) -> Option<usize>,
) -> impl Iterator<Item = Outcome> {
    pairs.map(move |pair| Outcome::of(rank(&pair.model), pair.baseline.as_ref().and_then(rank)))
}

/// The differences by bucket, as bars and as a table.
fn by(
    pairs: &[&Pair],
    axis: &str,
    buckets: &[Bucket],
    value: Value<'_>,
    seed: u64,
) -> Result<(Vec<Bar>, String)> {
    let interval = format!("{:.0} % interval", 100.0 * CONFIDENCE);
    let heading = format!("|{axis}");
    let headings = [
        &heading,
        "targets",
        "model",
        "baseline",
        "difference",
        &interval,
        "p",
        "better",
        "worse",
        "equal",
    ];
    let mut table = Table::new(&headings);
    let mut bars = Vec::new();
    for bucket in buckets {
        let within = |pair: &&&Pair| {
            let value = value(pair);
            value >= bucket.from && bucket.to.is_none_or(|to| value <= to)
        };
        let found: Vec<&Pair> = pairs.iter().filter(within).copied().collect();
        if found.is_empty() {
            continue;
        }
        let Difference { this, other, difference, interval, p_value } = difference(&found, seed)?;
        let counts = count(outcomes(found.iter().copied(), Prediction::rank));
        let [better, worse, equal] = counts.map(|n| n.to_string());
        let name = bucket.to_string();
        table.row(
            1,
            &[
                name.clone(),
                found.len().to_string(),
                format!("{this:.4}"),
                format!("{other:.4}"),
                format!("{difference:+.4}"),
                format!("{:+.4} to {:+.4}", interval[0], interval[1]),
                format!("{p_value:.4}"),
                better,
                worse,
                equal,
            ],
        );
        bars.push(Bar { name, value: difference, interval });
    }
    Ok((bars, table.html()))
}

fn difference(pairs: &[&Pair], seed: u64) -> Result<Difference> {
    let model: Vec<Prediction> = pairs.iter().map(|pair| pair.model.clone()).collect();
    let baseline: Vec<Prediction> = pairs.iter().filter_map(|pair| pair.baseline.clone()).collect();
    let compared = compare(&[&model], &[&baseline], Prediction::rank, seed)?;
    match compared.get(METRIC) {
        Some(difference) => Ok(*difference),
        None => crate::invalid!("{METRIC} is no metric"),
    }
}
