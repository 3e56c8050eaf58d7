//! Results on stdout, and what is printed alike in several commands.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal, Write as _};

use serde::Serialize;
use serde_json::Value;

use super::logging;
use crate::Error;
use crate::run::{Metrics, PerMetric, Run, Stage, StageReport};

/// What stands above the metrics of the second rule.
pub(super) const EXCLUDED: &str = "history left out";

/// Writes `text` to stdout: results, and nothing else, go there.
pub(super) fn out(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let text = if stdout.is_terminal() { printable(text) } else { text.into() };
    written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// What came of writing to stdout; an error of what was to be written is none of stdout's.
pub(super) fn written(result: io::Result<()>) -> anyhow::Result<()> {
    result.map_err(|e| match e.downcast::<Error>() {
        Ok(own) => own.into(),
        Err(e) => anyhow::Error::from(e).context("stdout"),
    })
}

/// Writes `value` to stdout as indented JSON.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    out(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Says on stderr what went wrong; that nobody may be listening is no further fault.
pub(super) fn fault(text: &str) {
    if logging::is_json() {
        return tracing::error!("{}", in_part(text));
    }
    let _ = writeln!(io::stderr(), "error: {}", printable(&in_part(text)));
}

/// So many letters of a message are shown at its beginning, and as many at its end.
const SHOWN: usize = 2000;

/// `text` without its middle where a file's content, quoted in it, makes it too long to read.
fn in_part(text: &str) -> Cow<'_, str> {
    let Some((start, _)) = text.char_indices().nth(SHOWN) else { return text.into() };
    let Some((end, _)) = text.char_indices().rev().nth(SHOWN - 1) else { return text.into() };
    if end <= start {
        return text.into();
    }
    let left_out = text[start..end].chars().count();
    format!("{} […{left_out} letters…] {}", &text[..start], &text[end..]).into()
}

/// `text` with control characters spelt out, so that no title or id can play with a terminal.
fn printable(text: &str) -> Cow<'_, str> {
    let plays = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(plays) {
        return text.into();
    }
    let spelt = |c: char| if plays(c) { c.escape_default().to_string() } else { c.into() };
    text.chars().map(spelt).collect::<String>().into()
}

/// Whether an error says that the reader of a pipe has gone away.
pub(super) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let closed = |e: &io::Error| e.kind() == ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(closed))
}

/// What a stage did: a line on the whole, its figures, and the files it wrote.
pub(super) fn stage(run: &Run, report: &StageReport) -> String {
    let mut text = String::new();
    let command = report.stage.command();
    let dir = run.dir().display();
    let what = report.stage.what();
    let imported = match report.stage {
        Stage::Index => run.manifest().imported().map(|import| &import.file),
        Stage::Anneal => run.manifest().imported_adapter().map(|import| &import.folder),
        Stage::Initial => None,
    };
    if report.was_done {
        let _ = match imported {
            Some(from) => writeln!(
                text,
                "{dir}: {what} was imported from {from}; `llmbs {command} --force` builds one instead"
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
        let _ = writeln!(text, "  {name}: {}", figure(value));
    }
    text
}

fn figure(value: &Value) -> String {
    match value.as_f64() {
        Some(x) if !value.is_u64() => format!("{x:.4}"),
        _ => value.to_string().trim_matches('"').to_string(),
    }
}

/// A metric with half its interval.
pub(super) fn with_interval(
    metrics: &Metrics,
    intervals: &PerMetric<[f64; 2]>,
    metric: &str,
) -> String {
    match (metrics.get(metric), intervals.get(metric)) {
        (Some(value), Some([low, high])) => format!("{value:.4} ±{:.4}", (high - low) / 2.0),
        _ => String::new(),
    }
}

/// A metric to four places.
pub(super) fn decimal(metrics: &Metrics, metric: &str) -> String {
    metrics.get(metric).map_or_else(String::new, |value| format!("{value:.4}"))
}

/// A value as it reads in a sentence.
pub(super) fn word(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.to_string().trim_matches('"').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_without_end_loses_its_middle() {
        let text = format!("begin {} end", "é".repeat(10_000));
        let shown = in_part(&text);
        assert!(shown.starts_with("begin é") && shown.ends_with("é end"), "{shown}");
        assert!(shown.contains("é […6010 letters…] é"), "{shown}");
        assert_eq!(in_part("short"), "short");
        assert_eq!(in_part(&text[..3000]), text[..3000]);
    }

    #[test]
    fn control_characters_are_spelt_out() {
        assert_eq!(printable("a\tb\nc é"), "a\tb\nc é");
        assert_eq!(printable("red \u{1b}[31m\r\u{9b}"), "red \\u{1b}[31m\\r\\u{9b}");
    }
}
