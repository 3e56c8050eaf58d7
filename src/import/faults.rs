//! What becomes of a bad line: the end of the import, or a count.

use std::fmt;
use std::path::Path;

use crate::{Error, Result};

/// How many bad lines are told of one by one.
const TOLD: usize = 10;

/// A place in a file: `path:line:column`, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) path: &'a Path,
    pub(super) line: u64,
    /// Where in the line, counted in bytes from 1.
    pub(super) column: Option<usize>,
    /// The field there: its number from 1, and its name.
    pub(super) field: Option<(usize, &'a str)>,
}

impl<'a> Place<'a> {
    /// A line of a file.
    pub(super) fn line(path: &'a Path, line: u64) -> Self {
        Self { path, line, column: None, field: None }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)?;
        if let Some(column) = self.column {
            write!(f, ":{column}")?;
        }
        match self.field {
            Some((0, name)) => write!(f, ": field {name:?}"),
            Some((number, name)) => write!(f, ": column {number} ({})", shown(name)),
            None => Ok(()),
        }
    }
}

/// Bad lines: the first is an error, or all are counted.
#[derive(Debug)]
pub(super) struct Faults {
    lenient: bool,
    /// How many lines were passed over.
    pub(super) count: u64,
    /// What was wrong with the first of them.
    pub(super) first: Vec<String>,
}

impl Faults {
    /// No bad lines so far.
    pub(super) fn new(lenient: bool) -> Self {
        Self { lenient, count: 0, first: Vec::new() }
    }

    /// Passes over a bad line.
    ///
    /// # Errors
    /// The fault itself, unless bad lines are to be skipped.
    pub(super) fn add(&mut self, place: &dyn fmt::Display, what: &str) -> Result<()> {
        if !self.lenient {
            return Err(Error::Invalid(format!(
                "{place}: {what} (--lenient skips and counts such lines)"
            )));
        }
        self.count += 1;
        if self.first.len() < TOLD {
            self.first.push(format!("{place}: {what}"));
        }
        Ok(())
    }
}

/// So much of a value is quoted.
const MOST: usize = 60;

/// A name as a message has it, without quotes: not longer than a line, and nothing a terminal would obey.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(MOST).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A value as a message quotes it, likewise.
pub(super) fn quoted(value: &str) -> String {
    match value.char_indices().nth(MOST) {
        Some((end, _)) => format!("{:?}…", &value[..end]),
        None => format!("{value:?}"),
    }
}
