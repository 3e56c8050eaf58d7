//! CSV, TSV and RecBole's atomic files: rows under a header.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::columns::Wanted;
use super::faults::{Faults, Place};
use super::record::{Record, Role, Take};
use super::source::{Input, LONGEST_LINE, NO_UTF8, read_some};
use crate::invalid;

/// The most fields of a row. A file of delimiters alone, packed to almost nothing, would have fields without end.
const MOST_FIELDS: usize = 1 << 16;

/// How a table is spelt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dialect {
    /// What stands between fields; none: whichever of comma, semicolon, tab and bar the header has most of.
    pub(super) delimiter: Option<u8>,
    /// Whether a field may stand in quotes.
    pub(super) quotes: bool,
    /// Whether the first row names the columns; without it they are called 1, 2, 3 and on.
    pub(super) header: bool,
    /// Whether names end in a type, as in `user_id:token`.
    pub(super) typed: bool,
}

/// Rows of a table, one at a time in one buffer.
struct Rows {
    input: Input,
    core: Reader,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The row's fields, one after another, and where each ends.
    text: Vec<u8>,
    ends: Vec<usize>,
    fields: usize,
    /// The line that the row begins on.
    line: u64,
    /// Line ends that were passed over between rows, unseen by the parser.
    passed: u64,
}

impl Rows {
    fn new(input: Input, dialect: Dialect) -> Self {
        let likely =
            || declared_delimiter(input.head()).unwrap_or_else(|| likely_delimiter(input.head()));
        let delimiter = dialect.delimiter.unwrap_or_else(likely);
        let core = ReaderBuilder::new().delimiter(delimiter).quoting(dialect.quotes).build();
        Self {
            input,
            core,
            buffer: vec![0; 256 << 10],
            start: 0,
            end: 0,
            text: vec![0; 4 << 10],
            ends: vec![0; 64],
            fields: 0,
            line: 1,
            passed: 0,
        }
    }

    /// Reads the next row; false at the end.
    fn next(&mut self) -> crate::Result<bool> {
        let (mut text, mut ends) = (0, 0);
        let mut at_start = true;
        loop {
            if self.start == self.end {
                self.start = 0;
                self.end = read_some(&mut self.input, &mut self.buffer)?;
            }
            if at_start {
                // So that a row's line is its own and not that of the empty ones before it.
                let rest = &self.buffer[self.start..self.end];
                let empty = rest.iter().take_while(|b| matches!(b, b'\n' | b'\r')).count();
                self.passed += memchr::memchr_iter(b'\n', &rest[..empty]).count() as u64;
                self.start += empty;
                if self.start == self.end && self.end > 0 {
                    continue;
                }
                self.line = self.core.line() + self.passed;
                at_start = false;
            }
            let (result, read, wrote, ended) = self.core.read_record(
                &self.buffer[self.start..self.end],
                &mut self.text[text..],
                &mut self.ends[ends..],
            );
            self.start += read;
            text += wrote;
            ends += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if text >= LONGEST_LINE => {
                    let path = self.input.path.display();
                    invalid!(
                        "{path}:{}: this row is longer than {} MiB, the longest that is read; is a quote left \
                         open? (--no-quotes reads quotes as any other character)",
                        self.line,
                        LONGEST_LINE >> 20
                    );
                }
                ReadRecordResult::OutputFull => self.text.resize(2 * self.text.len(), 0),
                ReadRecordResult::OutputEndsFull if ends >= MOST_FIELDS => {
                    invalid!(
                        "{}:{}: this row has more than {MOST_FIELDS} fields, the most that are read",
                        self.input.path.display(),
                        self.line
                    );
                }
                ReadRecordResult::OutputEndsFull => self.ends.resize(2 * self.ends.len(), 0),
                ReadRecordResult::Record => {
                    self.fields = ends;
                    return Ok(true);
                }
                ReadRecordResult::End => return Ok(false),
            }
        }
    }

    /// A field of the row; none if it is no UTF-8.
    fn field(&self, at: usize) -> Option<&str> {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        std::str::from_utf8(&self.text[start..self.ends[at]]).ok()
    }
}

/// What the first line says that delimits, as spreadsheets write it: `sep=;`.
fn declared_delimiter(head: &[u8]) -> Option<u8> {
    match head.strip_prefix(b"sep=")? {
        [delimiter, b'\r' | b'\n', ..] => Some(*delimiter),
        _ => None,
    }
}

/// What the first line that is not empty has most of.
fn likely_delimiter(head: &[u8]) -> u8 {
    let empty = head.iter().take_while(|b| matches!(b, b'\n' | b'\r')).count();
    let line = head[empty..].split(|&b| b == b'\n').next().unwrap_or_default();
    let count = |delimiter: &u8| memchr::memchr_iter(*delimiter, line).count();
    // The first of the likeliest wins: `max_by_key` would take the last.
    b"|\t;,".iter().max_by_key(|d| count(d)).copied().unwrap_or(b',')
}

/// Reads a table.
pub(super) fn read(
    input: Input,
    dialect: Dialect,
    wanted: &Wanted,
    take: &mut Take<'_>,
    faults: &mut Faults,
) -> crate::Result<()> {
    input.check_text()?;
    let path = input.path.clone();
    let declared = dialect.delimiter.is_none() && declared_delimiter(input.head()).is_some();
    let mut rows = Rows::new(input, dialect);
    if (declared && !rows.next()?) || !rows.next()? {
        invalid!("{}: is empty", path.display());
    }
    let mut header = Vec::new();
    for at in 0..rows.fields {
        let Some(name) = rows.field(at) else {
            invalid!("{}:{}: column {}: {NO_UTF8}", path.display(), rows.line, at + 1);
        };
        let name = if dialect.typed { name.split(':').next().unwrap_or(name) } else { name };
        header.push(if dialect.header { name.trim().to_string() } else { (at + 1).to_string() });
    }
    let chosen = match wanted.choose(&path, &header) {
        Ok(chosen) => chosen,
        Err(what) => invalid!("{}:{}: {what}", path.display(), rows.line),
    };
    let mut more = !dialect.header || rows.next()?;
    while more {
        if let Err((field, what)) = row(&rows, &header, &chosen, take) {
            let place = Place {
                field: field.map(|at| (at + 1, header[at].as_str())),
                ..Place::line(&path, rows.line)
            };
            faults.add(&place, &what)?;
        }
        more = rows.next()?;
    }
    Ok(())
}

/// Takes one row; what is wrong with it, and which field.
fn row(
    rows: &Rows,
    header: &[String],
    chosen: &[(Role, usize)],
    take: &mut Take<'_>,
) -> Result<(), (Option<usize>, String)> {
    if rows.fields != header.len() {
        let (found, expected) = (rows.fields, header.len());
        let hint =
            "; a quote left open would do that, or a delimiter inside a field without quotes";
        return Err((None, format!("{found} fields, but the first row has {expected}{hint}")));
    }
    let mut record = Record::default();
    for &(role, at) in chosen {
        let text = rows.field(at).ok_or_else(|| (Some(at), NO_UTF8.to_string()))?;
        record.set(role, Some(text));
    }
    take(&record).map_err(|wrong| {
        let at = chosen.iter().find(|(role, _)| Some(*role) == wrong.role).map(|&(_, at)| at);
        (at, wrong.what)
    })
}
