//! The metrics of an evaluation under three readings of codes that items share.

use std::fmt::Write as _;

use super::show::EXCLUDED;
use crate::run::{EvalSettings, Ranking, Readings};

/// A line a metric and rule, the item's own value before the three; nothing where no items shared their codes.
pub(super) fn table(ranking: &Ranking<EvalSettings>) -> Option<String> {
    let codes = ranking.shared_codes.as_ref()?;
    let settings = &ranking.settings;
    let mut text = format!(
        "\nadapter {}, beam {}: {} items in {} groups had their codes in common; {} of {} targets are of these\n",
        settings.adapter, settings.beam, codes.items, codes.groups, codes.targets, settings.targets,
    );
    let _ = writeln!(
        text,
        "{:<24}{:>10}{:>12}{:>10}{:>13}",
        "metric", "by item", "optimistic", "expected", "pessimistic"
    );
    let report = &ranking.report;
    let rules = [
        (None, &report.metrics, &codes.metrics),
        (Some(EXCLUDED), &report.metrics_history_excluded, &codes.metrics_history_excluded),
    ];
    for (heading, own, Readings { optimistic, expected, pessimistic }) in rules {
        if let Some(heading) = heading {
            let _ = writeln!(text, "{heading}");
        }
        let indent = heading.map_or("", |_| "  ");
        for (name, own) in own.iter() {
            let [best, mean, worst] = [optimistic, expected, pessimistic]
                .map(|metrics| metrics.get(name).copied().unwrap_or_default());
            let label = format!("{indent}{name}");
            let _ = writeln!(text, "{label:<24}{own:>10.4}{best:>12.4}{mean:>10.4}{worst:>13.4}");
        }
    }
    Some(text)
}
