//! Progress bars on a terminal; elsewhere, a line now and then, or an event where logs are JSON.

use std::io::{self, IsTerminal, Write};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{FormattedDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::logging;
use crate::run::Monitor;

/// The bar on screen, which log lines must not tear.
static CURRENT: LazyLock<Mutex<Option<ProgressBar>>> = LazyLock::new(|| Mutex::new(None));

/// Where no bar is drawn, a line is logged this often.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// Shows each piece of work as a bar.
#[derive(Debug)]
pub(super) struct Bars {
    hidden: bool,
    what: String,
    total: u64,
    last_line: Instant,
    /// Where no event has told of it yet: how much is done, and the note with it.
    untold: Option<(u64, String)>,
    /// How much was done at the first report, and when: a resumed piece of work does not begin at 0.
    first: Option<(u64, Instant)>,
}

impl Bars {
    pub(super) fn new(quiet: bool) -> Self {
        let last_line = Instant::now();
        Self { hidden: quiet, what: String::new(), total: 0, last_line, untold: None, first: None }
    }

    /// How long the rest takes at the pace so far; none where there is no pace yet.
    fn eta(&self, done: u64) -> Option<Duration> {
        let (first, since) = self.first.filter(|(first, _)| done > *first)?;
        let left = self.total.saturating_sub(done) as f64 / (done - first) as f64;
        Some(Duration::from_secs(since.elapsed().mul_f64(left).as_secs()))
    }

    /// Logs an event.
    fn tell(&mut self, done: u64, note: &str) {
        self.last_line = Instant::now();
        let (work, total) = (&self.what, self.total);
        let eta_seconds = self.eta(done).map(|left| left.as_secs());
        tracing::info!(work, done, total, note, eta_seconds, "{work}: {done}/{total}");
    }
}

fn current() -> std::sync::MutexGuard<'static, Option<ProgressBar>> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Monitor for Bars {
    fn begin(&mut self, what: &str, total: u64) {
        self.what = what.to_string();
        self.total = total;
        self.last_line = Instant::now();
        self.first = None;
        if self.hidden || logging::is_json() || !io::stderr().is_terminal() {
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template(
            "{prefix:>24} [{bar:32}] {pos}/{len}  {msg}  {elapsed} (ETA {eta})",
        );
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(self.what.clone());
        *current() = Some(bar);
    }

    fn advance(&mut self, done: u64, note: &str) {
        let begins = self.first.is_none();
        self.first.get_or_insert_with(|| (done, Instant::now()));
        if logging::is_json() {
            if begins || self.last_line.elapsed() >= LINE_EVERY {
                self.untold = None;
                self.tell(done, note);
            } else {
                self.untold = Some((done, note.to_string()));
            }
        } else if let Some(bar) = &*current() {
            bar.set_position(done);
            if begins {
                // What an earlier process did took none of this one's time.
                bar.reset_eta();
            }
            bar.set_message(note.to_string());
        } else if !self.hidden && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let eta = self.eta(done).map(|left| format!("  (ETA {})", FormattedDuration(left)));
            let eta = eta.unwrap_or_default();
            tracing::info!("{}: {done}/{}  {note}{eta}", self.what, self.total);
        }
    }

    fn end(&mut self) {
        if let Some((done, note)) = self.untold.take() {
            self.tell(done, &note);
        }
        if let Some(bar) = current().take() {
            bar.finish();
        }
    }
}

/// Writes log lines to stderr, above the bar if there is one.
#[derive(Debug, Default)]
pub(super) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Cloned, so that the lock is free again while the bar steps aside.
        let bar = current().clone();
        match bar {
            Some(bar) => bar.suspend(|| io::stderr().write_all(line))?,
            None => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
