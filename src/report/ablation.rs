//! What an ablation came to: its table with bars.

use std::fmt::Write as _;

use super::html::{Table, escape, remark};
use super::metrics::tested;
use super::{Ablation, plot};
use crate::Result;

pub(super) fn section(ablations: &[Ablation]) -> Result<String> {
    let mut html = String::new();
    for Ablation { name, table } in ablations {
        let seeds: Vec<String> = table.seeds.iter().map(u64::to_string).collect();
        for metric in &table.shown {
            for rule in 0..2 {
                let cells = table.rows.iter().map(|row| row.rules[rule].cell(metric));
                let ends = cells.map(|cell| cell.mean + cell.deviation);
                let most = ends.fold(0.0, f64::max);
                let named = table.rows.first().map_or("", |row| row.rules[rule].rule.as_str());
                let [name, metric_shown, named] = [name, metric, named].map(escape);
                let _ = write!(html, "<h3>{name}: {metric_shown}, {named}</h3>");
                let headings = ["|row", "|", "mean", "sd", "against the reference", "training"];
                let mut shown = Table::new(&headings);
                for row in &table.rows {
                    let cell = row.rules[rule].cell(metric);
                    let (mean, sd) = (cell.mean, cell.deviation);
                    let ends = [(mean - sd).max(0.0), mean + sd];
                    let is_reference = row.name == table.reference;
                    let test = cell.test.as_ref().map_or_else(|| "the reference".into(), tested);
                    let bar = plot::bar(usize::from(!is_reference), mean, ends, most)?;
                    shown.row_of(
                        if is_reference { "reference" } else { "" },
                        1,
                        &[
                            escape(&row.name),
                            bar,
                            format!("{mean:.4}"),
                            format!("{sd:.4}"),
                            test,
                            format!("{:.0} s", row.seconds),
                        ],
                    );
                }
                html += &shown.html();
            }
        }
        html += &remark(&format!(
            "{} split, seeds {}. Bars are means over seeds, their whiskers a standard deviation to each side; \
             differences are from {}, p of a paired randomisation test over targets.",
            table.split,
            seeds.join(", "),
            table.reference
        ));
    }
    Ok(html)
}
