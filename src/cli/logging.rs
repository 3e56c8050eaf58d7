//! How what goes to stderr is written: as lines to read, or as JSON, an object a line.

use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Lines and progress bars
    Text,
    /// A JSON object a line, progress too
    Json,
}

static JSON: AtomicBool = AtomicBool::new(false);

/// Whether stderr takes nothing but JSON.
pub(super) fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

/// Takes what is logged from now on, as far as the filter `level` lets it through.
pub(super) fn start<W>(level: &str, format: LogFormat, ansi: bool, writer: W)
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
        .with_writer(writer)
        .with_target(false);
    match format {
        LogFormat::Text => lines.without_time().with_ansi(ansi).init(),
        LogFormat::Json => {
            JSON.store(true, Ordering::Relaxed);
            // A collector of logs has no other way to tell when something was said.
            lines.json().flatten_event(true).init();
        }
    }
}

/// Whether words that could not be understood ask for JSON.
pub(super) fn asks_for_json(words: impl Iterator<Item = String>) -> bool {
    let words: Vec<String> = words.take_while(|word| word != "--").collect();
    let apart = words.windows(2).any(|pair| pair[0] == "--log-format" && pair[1] == "json");
    apart || words.iter().any(|word| word == "--log-format=json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_asked_for_in_two_ways() {
        let asks = |words: &str| asks_for_json(words.split(' ').map(String::from));
        assert!(asks("llmbs --log-format json what") && asks("llmbs what --log-format=json"));
        assert!(!asks("llmbs --log-format text json") && !asks("llmbs -- --log-format=json"));
    }
}
