//! Results as text and JSON.

use std::fmt::Write;

use serde_json::Value;

use crate::run::{Run, Stage, StageReport};

/// What a stage did: a line on the whole, its figures, and the files it wrote.
pub(super) fn stage(run: &Run, report: &StageReport) -> String {
    let mut text = String::new();
    let command = report.stage.command();
    let dir = run.dir().display();
    let what = report.stage.what();
    let imported = run.manifest().imported().filter(|_| report.stage == Stage::Index);
    if report.was_done {
        let _ = match imported {
            Some(import) => writeln!(
                text,
                "{dir}: {what} was imported from {}; `llmbs {command} --force` builds one instead",
                import.file
            ),
            None => writeln!(
                text,
                "{dir}: {what} is finished already; `llmbs {command} --force` redoes it"
            ),
        };
        return text;
    }
    let done = if imported.is_some() { "imported" } else { "finished" };
    let _ = writeln!(text, "{dir}: {what} is {done}, in {:.1} s", report.seconds);
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
