//! Results as text and JSON.

use std::fmt::Write;

use serde_json::Value;

use crate::run::{Run, StageReport};

/// What a stage did: a line on the whole, its figures, and the files it wrote.
pub(super) fn stage(run: &Run, report: &StageReport) -> String {
    let mut text = String::new();
    let command = report.stage.command();
    let dir = run.dir().display();
    if report.was_done {
        let _ = writeln!(
            text,
            "{dir}: {} is finished already; `llmbs {command} --force` redoes it",
            report.stage.what()
        );
        return text;
    }
    let _ =
        writeln!(text, "{dir}: {} is finished, in {:.1} s", report.stage.what(), report.seconds);
    text += &figures(&report.figures);
    for path in &report.wrote {
        let _ = writeln!(text, "  wrote {}", run.dir().join(path).display());
    }
    text
}

/// The entries of an object that have a value, a line each.
pub(super) fn figures(object: &Value) -> String {
    let mut text = String::new();
    let entries = object.as_object().into_iter().flatten();
    for (name, value) in entries.filter(|(_, value)| !value.is_null()) {
        let _ = writeln!(text, "  {name}: {}", number(value));
    }
    text
}

fn number(value: &Value) -> String {
    match value.as_f64() {
        Some(x) if !value.is_u64() => format!("{x:.4}"),
        _ => value.to_string().trim_matches('"').to_string(),
    }
}

/// Several evaluations of one model (adapter on and off) as one object: the first, with the metrics of
/// the others beside its own.
pub(super) fn as_one(mut evaluations: Vec<Value>) -> Value {
    let mut first = evaluations.remove(0);
    for other in evaluations {
        let name = format!("adapter_{}", other["settings"]["adapter"].as_str().unwrap_or("other"));
        first[name] = other["metrics"].clone();
    }
    first
}

/// Evaluations side by side, with the popularity baseline.
pub(super) fn table(evaluations: &[Value]) -> String {
    let Some(first) = evaluations.first() else { return String::new() };
    let mut columns = vec![("popularity".to_string(), &first["popularity"])];
    for evaluation in evaluations {
        let adapter = evaluation["settings"]["adapter"].as_str().unwrap_or("off");
        columns.push((format!("adapter {adapter}"), &evaluation["metrics"]));
    }
    let mut text = format!("{:<12}", "metric");
    for (name, _) in &columns {
        let _ = write!(text, "{name:>14}");
    }
    text.push('\n');
    for name in first["metrics"].as_object().into_iter().flat_map(serde_json::Map::keys) {
        let _ = write!(text, "{name:<12}");
        for (_, metrics) in &columns {
            let _ = write!(text, "{:>14.4}", metrics[name].as_f64().unwrap_or(f64::NAN));
        }
        text.push('\n');
    }
    let settings = &first["settings"];
    let word = |key: &str| settings[key].to_string().trim_matches('"').to_string();
    let _ = writeln!(
        text,
        "{}, {} split, {} users, {} items, beam {}, normalize {}, index {}, seed {}",
        word("dataset"),
        word("split"),
        word("users"),
        word("items"),
        word("beam"),
        word("normalize"),
        word("source"),
        word("seed"),
    );
    text
}
