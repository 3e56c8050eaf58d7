//! How well the models write texts: a line a task and model.

use std::fmt::Write as _;

use super::Reported;
use super::html::{Table, escape, missing, remark};
use crate::Result;

pub(super) fn section(runs: &[Reported]) -> Result<String> {
    let mut html = String::new();
    for Reported { name, folder, run, .. } in runs {
        let reports = run.stored_texts()?;
        if reports.is_empty() {
            html += &missing(&if run.dataset().has_text() {
                format!(
                    "{name}: no text evaluation is kept: run `llmbs --run {folder} eval --task text`"
                )
            } else {
                format!("{name}: its items have no texts to write.")
            });
            continue;
        }
        if runs.len() > 1 {
            let _ = write!(html, "<h3>{}</h3>", escape(name));
        }
        let headings =
            ["|task", "|model", "samples", "perplexity", "exact match", "token F1", "ROUGE-L"];
        let mut table = Table::new(&headings);
        let mut tasks: Vec<&str> =
            reports.iter().flat_map(|report| report.metrics.keys().map(String::as_str)).collect();
        tasks.sort_unstable();
        tasks.dedup();
        for task in tasks {
            let of_task = reports.iter().filter_map(|report| {
                let metrics = report.metrics.get(task)?;
                Some((report.settings.model, metrics))
            });
            for (i, (model, metrics)) in of_task.enumerate() {
                let task = if i == 0 { escape(&task.replace('_', " ")) } else { String::new() };
                let figures = metrics.figures().map(|(_, value, half)| {
                    let around = half.map(|half| format!("<small>±{half:.4}</small>"));
                    format!("{value:.4}{}", around.unwrap_or_default())
                });
                let heads = [task, model.label().into(), metrics.samples.to_string()];
                table.row(2, &[&heads[..], &figures].concat());
            }
        }
        html += &table.html();
    }
    html += &remark(
        "Written by the likeliest token; perplexity is that of a token of the true text. New titles and descriptions are \
         of items whose texts no task was trained on. ±: half the bootstrap interval over texts.",
    );
    Ok(html)
}
