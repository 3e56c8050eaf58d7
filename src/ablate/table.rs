//! What an ablation found, a row a variant.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Spec, TABLE};
use crate::eval::{Difference, Prediction, compare};
use crate::run::{Metrics, PerMetric};
use crate::{Error, Result, sealed};

/// Both rules of what is ranked, as the table names them.
pub(super) const RULES: [&str; 2] = ["history ranked", "history left out"];

/// The evaluation of one seed.
#[derive(Debug)]
pub(super) struct Outcome {
    /// By rule.
    pub(super) metrics: [Metrics; 2],
    pub(super) predictions: Vec<Prediction>,
    /// What training took.
    pub(super) seconds: f64,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was evaluated.
    pub name: String,
    /// Wall-clock seconds of training, the mean over seeds; what another row shares with it included.
    pub seconds: f64,
    /// All items ranked, then with the user's own left out.
    pub rules: [Rule; 2],
}

/// What a row came to by one rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// The rule.
    pub rule: String,
    /// Means over seeds.
    pub metrics: Metrics,
    /// Sample standard deviations over seeds; 0 for one seed.
    pub standard_deviations: Metrics,
    /// A paired test against the reference, users' results averaged over seeds; none for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against_reference: Option<PerMetric<Difference>>,
}

/// An ablation's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// The seeds of every row.
    pub seeds: Vec<u64>,
    /// The split that was ranked.
    pub split: String,
    /// The row that the others are tested against.
    pub reference: String,
    /// The metrics that are shown.
    #[serde(rename = "metrics")]
    pub shown: Vec<String>,
    /// The rows, in the order of the specification.
    pub rows: Vec<Row>,
}

impl Table {
    /// `outcomes` has those of every row, by seed.
    pub(super) fn new(spec: &Spec, outcomes: &[(String, Vec<Outcome>)]) -> Result<Self> {
        let reference = spec.reference();
        let of_reference = outcomes.iter().filter(|(name, _)| *name == reference);
        let others: Vec<&[Prediction]> = of_reference.flat_map(|(_, found)| lists(found)).collect();
        let mut rows = Vec::new();
        for (name, of_row) in outcomes {
            let these = lists(of_row);
            let rule = |rule: usize, rank: fn(&Prediction) -> Option<usize>| -> Result<Rule> {
                let by_seed: Vec<Metrics> = of_row.iter().map(|o| o.metrics[rule]).collect();
                let [metrics, standard_deviations] = Metrics::over_seeds(&by_seed);
                let against_reference = if *name == reference {
                    None
                } else {
                    let compared = compare(&these, &others, rank, spec.seeds[0]);
                    let named = |e| Error::Invalid(format!("{name:?} against {reference:?}: {e}"));
                    Some(compared.map_err(named)?)
                };
                Ok(Rule {
                    rule: RULES[rule].into(),
                    metrics,
                    standard_deviations,
                    against_reference,
                })
            };
            let seconds = of_row.iter().map(|o| o.seconds).sum::<f64>() / of_row.len() as f64;
            let rules = [rule(0, Prediction::rank)?, rule(1, |p| p.rank_history_excluded)?];
            rows.push(Row { name: name.clone(), seconds, rules });
        }
        Ok(Self {
            seeds: spec.seeds.clone(),
            split: spec.split.to_string(),
            reference,
            shown: spec.metrics.clone(),
            rows,
        })
    }

    /// The table that the ablation in the folder `dir` came to, where it was carried through.
    ///
    /// # Errors
    /// Names a file that is cut off or altered, or that another version wrote in a form of its own.
    pub fn kept(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(TABLE);
        path.exists().then(|| sealed::read(&path, "call `llmbs ablate` again")).transpose()
    }

    /// Keeps it in the folder of the ablation.
    pub(super) fn keep(&self, dir: &Path) -> Result<()> {
        sealed::write(&dir.join(TABLE), self)
    }

    /// A table to read: a block a rule, a line a row, means with their deviations, and p of the difference.
    pub fn text(&self) -> String {
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(16);
        let mut text = String::new();
        for (i, rule) in RULES.iter().enumerate() {
            let _ = write!(text, "{rule:<width$}");
            for metric in &self.shown {
                let _ = write!(text, "{metric:>18}{:>18}", "difference, p");
            }
            let _ = writeln!(text, "{:>9}", "training");
            for row in &self.rows {
                let _ = write!(text, "{:<width$}", row.name);
                for metric in &self.shown {
                    let cell = row.rules[i].cell(metric);
                    let mean = format!("{:.4} ({:.4})", cell.mean, cell.deviation);
                    let test = cell.test.map_or_else(String::new, |d| {
                        format!("{:+.4} {:.4}", d.difference, d.p_value)
                    });
                    let _ = write!(text, "{mean:>18}{test:>18}");
                }
                let _ = writeln!(text, "{:>7.0} s", row.seconds);
            }
        }
        let _ = writeln!(
            text,
            "{} split, seeds {}: means (standard deviations); differences from {}, p of a paired \
             randomisation test over targets",
            self.split,
            seeds.join(", "),
            self.reference,
        );
        text
    }

    /// A line a row, rule and metric.
    pub fn csv(&self) -> String {
        let mut text =
            String::from("row,rule,metric,mean,standard_deviation,difference,low,high,p\n");
        for row in &self.rows {
            for rule in &row.rules {
                for (metric, _) in rule.metrics.iter() {
                    let cell = rule.cell(metric);
                    let name = row.name.replace('"', "\"\"");
                    let _ = write!(text, "\"{name}\",{},{metric}", rule.rule);
                    let _ = write!(text, ",{},{}", cell.mean, cell.deviation);
                    let _ = match cell.test {
                        Some(Difference { difference, interval: [low, high], p_value, .. }) => {
                            writeln!(text, ",{difference},{low},{high},{p_value}")
                        }
                        None => writeln!(text, ",,,,"),
                    };
                }
            }
        }
        text
    }
}

/// The predictions by seed.
fn lists(outcomes: &[Outcome]) -> Vec<&[Prediction]> {
    outcomes.iter().map(|outcome| outcome.predictions.as_slice()).collect()
}

/// One metric of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    /// The mean over seeds.
    pub mean: f64,
    /// The sample standard deviation over seeds.
    pub deviation: f64,
    /// The test against the reference; none for itself.
    pub test: Option<Difference>,
}

impl Rule {
    /// A metric such as `recall@10`.
    pub fn cell(&self, metric: &str) -> Cell {
        Cell {
            mean: self.metrics.get(metric).copied().unwrap_or_default(),
            deviation: self.standard_deviations.get(metric).copied().unwrap_or_default(),
            test: self.against_reference.and_then(|tests| tests.get(metric).copied()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Users of whom the first `hits` find their target at once.
    pub(crate) fn outcome(hits: usize) -> Outcome {
        let prediction = |user: usize| {
            let target = u32::from(user >= hits);
            let rank = (user < hits).then_some(1);
            Prediction {
                rank_history_excluded: rank,
                ..Prediction::made_up(&user.to_string(), 0, vec![target])
            }
        };
        let predictions: Vec<Prediction> = (0..40).map(prediction).collect();
        let ranks: Vec<Option<usize>> = predictions.iter().map(Prediction::rank).collect();
        let metrics = Metrics::of(&ranks);
        Outcome { metrics: [metrics; 2], predictions, seconds: 60.0 }
    }

    /// The table of these rows, each with a seed an outcome, against the first.
    pub(crate) fn table_of(rows: &[(String, Vec<Outcome>)], metrics: &[&str]) -> Table {
        let seeds = (1..=rows[0].1.len() as u64).collect();
        let metrics = metrics.iter().map(ToString::to_string).collect();
        let reference = Some(rows[0].0.clone());
        Table::new(&Spec { seeds, metrics, reference, ..Spec::default() }, rows).unwrap()
    }

    fn table() -> Table {
        let outcomes = [
            ("base".to_string(), vec![outcome(10), outcome(14)]),
            ("with \"more\"".to_string(), vec![outcome(30), outcome(30)]),
        ];
        table_of(&outcomes, &["recall@10"])
    }

    #[test]
    fn rows_have_mean_deviation_and_a_test() {
        let text = table().text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 7, "{text}");
        // 10 and 14 of 40: 0.25 and 0.35.
        assert!(lines[1].starts_with("base") && lines[1].contains("0.3000 (0.0707)"), "{text}");
        assert!(lines[2].contains("0.7500 (0.0000)    +0.4500 0.0001"), "{text}");
        assert!(lines[2].ends_with("60 s") && lines[6].contains("seeds 1, 2"), "{text}");
    }

    #[test]
    fn csv_has_a_line_for_everything() {
        let csv = table().csv();
        assert_eq!(csv.lines().count(), 1 + 2 * 2 * 8, "{csv}");
        assert!(csv.contains("\"base\",history ranked,recall@10,0.3,"), "{csv}");
        assert!(
            csv.contains("\"with \"\"more\"\"\",history left out,ndcg@10,0.75,0,0.45,"),
            "{csv}"
        );
    }
}
