//! The tables of the kept results: a line a model, its metrics with their intervals, and a paired test against the
//! first.

use std::fmt::Write as _;

use super::html::{Table, escape, missing, remark};
use super::{Reported, plot, ranker_name};
use crate::Result;
use crate::data::SplitRule;
use crate::eval::{CONFIDENCE, Difference, PerMetric, Prediction, SIGNIFICANCE, compare};
use crate::run::{Metrics, Ranker, StoredRanking, metric_names};

/// The metric that is shown as a bar.
const SHOWN: &str = "ndcg@10";

/// Both rules of what is ranked.
const RULES: [&str; 2] = ["History ranked", "History left out"];

/// Rankings that make one line: one, or those of a baseline with several seeds.
struct Entry<'a> {
    reported: &'a Reported,
    name: String,
    rankings: Vec<&'a StoredRanking>,
}

/// By metric, what is tested: the first entry against another, by both rules.
type Tests = [PerMetric<Difference>; 2];

/// A metric of an entry.
struct Cell {
    value: f64,
    /// An interval; of several seeds a standard deviation to each side.
    around: [f64; 2],
}

impl Entry<'_> {
    fn cell(&self, rule: usize, metric: &str) -> Cell {
        if let [one] = self.rankings[..] {
            let report = &one.report;
            let (metrics, intervals) = match rule {
                0 => (&report.metrics, &report.intervals),
                _ => (&report.metrics_history_excluded, &report.intervals_history_excluded),
            };
            let value = metrics.get(metric).copied().unwrap_or_default();
            return Cell { value, around: intervals.get(metric).copied().unwrap_or([value; 2]) };
        }
        let by_seed: Vec<Metrics> = self.rankings.iter().map(|r| metrics_of(r, rule)).collect();
        let [means, deviations] = Metrics::over_seeds(&by_seed)
            .map(|metrics| metrics.get(metric).copied().unwrap_or_default());
        Cell { value: means, around: [means - deviations, means + deviations] }
    }

    /// The predictions of all of them; none where some are not kept.
    fn predictions(&self) -> Result<Option<Vec<Vec<Prediction>>>> {
        self.rankings.iter().map(|ranking| ranking.predictions()).collect()
    }
}

fn metrics_of(ranking: &StoredRanking, rule: usize) -> Metrics {
    match rule {
        0 => ranking.report.metrics,
        _ => ranking.report.metrics_history_excluded,
    }
}

pub(super) fn section(runs: &[Reported]) -> Result<String> {
    let mut html = String::new();
    for reported in runs {
        let (name, folder) = (&reported.name, &reported.folder);
        if reported.main().is_none() {
            html += &missing(&format!(
                "{name}: no result of its models is kept: run `llmbs --run {folder} eval`"
            ));
        }
        for stale in &reported.stale {
            let again = stale.command().map_or_else(String::new, |command| {
                format!("run `llmbs --run {folder} {command}`, or ")
            });
            html += &missing(&format!(
                "{}: is not shown, since its models or index were made again: {again}remove it",
                stale.path.display()
            ));
        }
    }
    for entries in groups(runs) {
        html += &of_targets(runs, &entries)?;
    }
    Ok(html)
}

/// The lines of each table: what was asked for the same targets, in the order of the runs.
fn groups(runs: &[Reported]) -> Vec<Vec<Entry<'_>>> {
    let mut groups: Vec<Vec<Entry<'_>>> = Vec::new();
    for reported in runs {
        for ranking in &reported.rankings {
            let same =
                |group: &&mut Vec<Entry<'_>>| group[0].rankings[0].targets == ranking.targets;
            let Some(group) = groups.iter_mut().find(same) else {
                groups.push(vec![Entry::of(reported, ranking)]);
                continue;
            };
            let is_seed = |entry: &&mut Entry<'_>| {
                let of_baseline = matches!(ranking.ranker, Ranker::Baseline(_));
                of_baseline
                    && std::ptr::eq(entry.reported, reported)
                    && entry.rankings[0].ranker == ranking.ranker
                    && entry.rankings[0].config == ranking.config
            };
            match group.iter_mut().find(is_seed) {
                Some(entry) => entry.rankings.push(ranking),
                None => group.push(Entry::of(reported, ranking)),
            }
        }
    }
    groups
}

impl<'a> Entry<'a> {
    fn of(reported: &'a Reported, ranking: &'a StoredRanking) -> Self {
        Self { reported, name: ranker_name(ranking), rankings: vec![ranking] }
    }

    /// The name, and the seeds of a baseline.
    fn named(&self) -> String {
        let seeds: Vec<String> = self.rankings.iter().map(|r| r.seed.to_string()).collect();
        match (&self.rankings[0].ranker, seeds.len()) {
            (Ranker::Model { .. }, _) => self.name.clone(),
            (_, 1) => format!("{}, seed {}", self.name, seeds[0]),
            _ => format!("{}, mean of seeds {}", self.name, seeds.join(", ")),
        }
    }
}

fn of_targets(runs: &[Reported], entries: &[Entry<'_>]) -> Result<String> {
    let first = &entries[0];
    let ranking = first.rankings[0];
    let targets = &ranking.targets;
    let tests = tests_of(entries)?;
    let mut html = format!(
        "<h3>{} split of {}: {} targets, {} items</h3>",
        if targets.split == crate::data::Split::Test { "Test" } else { "Validation" },
        escape(&targets.dataset),
        targets.count,
        targets.items
    );
    if targets.rule != SplitRule::LeaveOneOut {
        html += &remark(&format!("Divided by the rule {}.", targets.rule));
    }
    let several = runs.len() > 1;
    for (rule, name) in RULES.into_iter().enumerate() {
        let mut headings = vec![if several { "|run and model" } else { "|model" }];
        headings.push("|ndcg@10");
        headings.extend(metric_names());
        let mut table = Table::new(&headings);
        let ends = entries.iter().map(|entry| entry.cell(rule, SHOWN).around[1]);
        let most = ends.fold(0.0, f64::max);
        for (i, entry) in entries.iter().enumerate() {
            let mut label = escape(&entry.named());
            if several {
                label = format!("{}<small>{label}</small>", escape(&entry.reported.name));
            }
            if i == 0 && entries.len() > 1 {
                label += "<small>the reference</small>";
            }
            if let Err(why) = &tests[i] {
                let _ = write!(label, "<small>{}</small>", escape(why));
            }
            let Cell { value, around } = entry.cell(rule, SHOWN);
            let mut cells = vec![label, plot::bar(series(entry), value, around, most)?];
            for metric in metric_names() {
                let Cell { value, around } = entry.cell(rule, metric);
                let half = (around[1] - around[0]) / 2.0;
                let mut cell = format!("{value:.4}<small>±{half:.4}</small>");
                if let Ok(Some(tests)) = &tests[i] {
                    cell += &tests[rule].get(metric).map_or_else(String::new, tested);
                }
                cells.push(cell);
            }
            table.row_of(if i == 0 { "reference" } else { "" }, 2, &cells);
        }
        let mut popularity = vec!["popularity".to_string(), String::new()];
        popularity.extend(ranking.popularity[rule].iter().map(|(_, value)| format!("{value:.4}")));
        table.row(2, &popularity);
        let _ = write!(html, "<h4>{name}</h4>{}", table.html());
    }
    let named = first.named();
    let reference = if several { format!("{}, {named}", first.reported.name) } else { named };
    html += &remark(&format!(
        "±: half the {:.0} % bootstrap interval over targets; of several seeds their standard deviation. Signed: the \
         difference from {reference}, with p of the paired randomisation test; bold where p < {SIGNIFICANCE}.",
        100.0 * CONFIDENCE
    ));
    html += &rates(entries, several);
    Ok(html)
}

/// The colour of a bar: that of models, or of baselines.
fn series(entry: &Entry<'_>) -> usize {
    usize::from(matches!(entry.rankings[0].ranker, Ranker::Baseline(_)))
}

/// Coverage, and how much of what a model writes without the trie names an item.
fn rates(entries: &[Entry<'_>], several: bool) -> String {
    let mut table = Table::new(&["|", "coverage@10", "coverage@20", "legal rate"]);
    for entry in entries {
        let ranking = entry.rankings[0];
        let mut label = escape(&entry.named());
        if several {
            label = format!("{}<small>{label}</small>", escape(&entry.reported.name));
        }
        let legal = ranking.legal_rate.map_or_else(|| "–".into(), |r| format!("{:.4}", r.share));
        let coverage = ranking.report.coverage;
        let [ten, twenty] = [coverage.top_10, coverage.top_20].map(|share| format!("{share:.4}"));
        table.row(1, &[label, ten, twenty, legal]);
    }
    let note = "Coverage: the share of all items in anybody's first 10 or 20 places, of several seeds that of the \
                first; legal rate: of beams without the trie.";
    format!(
        "<details><summary>Coverage and legal rate</summary>{}{}</details>",
        table.html(),
        remark(note)
    )
}

/// Every entry against the first; the first itself has no test, and others may have a reason for none.
fn tests_of(entries: &[Entry<'_>]) -> Result<Vec<std::result::Result<Option<Tests>, String>>> {
    let lacks = |name: &str| {
        format!("no test: the predictions of {name} are not kept; evaluate it with --force")
    };
    let reference = entries[0].predictions()?;
    let mut found = vec![Ok(None)];
    for entry in &entries[1..] {
        let Some(reference) = &reference else {
            found.push(Err(lacks(&entries[0].named())));
            continue;
        };
        let Some(own) = entry.predictions()? else {
            found.push(Err(lacks(&entry.named())));
            continue;
        };
        let seed = entries[0].reported.run.config().seed;
        let [this, other] = [&own, reference]
            .map(|lists| lists.iter().map(Vec::as_slice).collect::<Vec<&[Prediction]>>());
        let rule = |rank: fn(&Prediction) -> Option<usize>| compare(&this, &other, rank, seed);
        let tests = rule(Prediction::rank)
            .and_then(|ranked| Ok([ranked, rule(|p| p.rank_history_excluded)?]));
        found.push(tests.map(Some).map_err(|error| format!("no test: {error}")));
    }
    Ok(found)
}

/// A difference and its p, told where it is established.
pub(super) fn tested(test: &Difference) -> String {
    let class = match test.difference {
        _ if !test.is_established() => "",
        difference if difference > 0.0 => "better",
        _ => "worse",
    };
    let (difference, p) = (test.difference, test.p_value);
    format!("<small class=\"{class}\">{difference:+.4}<br>p {p:.4}</small>")
}
