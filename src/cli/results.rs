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
