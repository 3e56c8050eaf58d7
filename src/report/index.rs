//! The item index of each run: how it was made, and how its codes are used.

use std::fmt::Write as _;

use super::Reported;
use super::html::{Table, escape, missing, remark};
use super::plot;
use crate::Result;
use crate::index::Method;
use crate::run::{Source, Stage};

pub(super) fn section(runs: &[Reported]) -> Result<String> {
    let mut html = String::new();
    for reported in runs {
        if runs.len() > 1 {
            let _ = write!(html, "<h3>{}</h3>", escape(&reported.name));
        }
        if reported.run.is_done(Stage::Index) {
            html += &of_run(reported)?;
        } else {
            html += &missing(&format!(
                "{}: no index: run `llmbs --run {} index`",
                reported.name, reported.folder
            ));
        }
    }
    html += &remark(
        "Utilisation: the entropy of a level's codes over the items as a share of the most that so many codes can have, \
         that of equally used ones. Items: least / median / most; a prefix is an item's codes of one source up to a \
         level. `llmbs index report --html FILE` shows every token.",
    );
    Ok(html)
}

fn of_run(reported: &Reported) -> Result<String> {
    let run = &reported.run;
    let inspection = run.inspect()?;
    let (report, config) = (&inspection.report, &run.config().index);
    let codes = &report.codes;
    let method = if let Some(import) = &report.imported {
        format!("imported from {}", import.file)
    } else {
        let numbering = match config.method {
            Method::HierarchicalKmeans => {
                format!(", numbered by {}", super::word(&config.numbering))
            }
            _ => String::new(),
        };
        let source = match config.source {
            Source::Unit => format!("semantic and behavior, {}", super::word(&config.order)),
            source => source.to_string(),
        };
        let shared = if config.shared { "; shared paths" } else { "" };
        format!("{}{numbering}; {source}{shared}", config.method)
    };
    let mut html = format!("<p>{}</p><dl class=\"tiles\">", escape(&method));
    for (name, value) in [
        ("items", codes.num_items.to_string()),
        ("item tokens", codes.num_tokens.to_string()),
        ("items for each token", format!("{:.2}", codes.compression_ratio)),
        ("tokens an item", codes.levels.len().to_string()),
    ] {
        let _ = write!(html, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    html += "</dl>";
    let headings = [
        "|level",
        "|source",
        "codes used",
        "entropy, bits",
        "|utilisation",
        "items a code",
        "items a prefix",
    ];
    let mut table = Table::new(&headings);
    for level in &codes.levels {
        let (code, prefix) = (level.items_per_code, level.items_per_prefix);
        let share = level.entropy_share;
        let bar = plot::bar(usize::from(level.source == Source::Behavior), share, [share; 2], 1.0)?;
        table.row(
            2,
            &[
                level.level.to_string(),
                level.source.to_string(),
                level.used_codes.to_string(),
                format!("{:.2}", level.entropy_bits),
                format!("{bar} {:.1} %", 100.0 * share),
                format!("{} / {} / {}", code.min, code.median, code.max),
                format!("{} / {} / {}", prefix.min, prefix.median, prefix.max),
            ],
        );
    }
    html += &table.html();
    Ok(html)
}
