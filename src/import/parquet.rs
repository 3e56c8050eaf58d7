//! Parquet: the wanted columns, row by row; one page of each is in memory.
//!
//! A thread of its own reads the file, since the library can be made to count to the end of time by a few bytes that
//! stand for lists of lists of nothing: who waits for its rows gives up.

use std::fmt;
use std::fs::File;
use std::iter;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::Type;

use super::columns::Wanted;
use super::faults::Faults;
use super::json::joined;
use super::record::{Record, Role, Take, Wrong};
use super::source::Counter;
use crate::{Error, guard, invalid};

/// How often, and how long, a file is waited for that yields nothing. A process that is stopped meanwhile, and goes on,
/// has waited once.
const PATIENCE: (u32, Duration) = (100, Duration::from_millis(100));

/// Rows that are handed over together.
const ROWS: usize = 256;

/// A row, or why it cannot be read.
type Read = Result<Row, String>;

/// How a file begins and ends.
pub(super) const MAGIC: &[u8] = b"PAR1";

/// A row of a Parquet file, which has no lines.
struct RowPlace<'a> {
    path: &'a Path,
    row: u64,
    column: Option<&'a str>,
}

impl fmt::Display for RowPlace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: row {}", self.path.display(), self.row)?;
        self.column.map_or(Ok(()), |name| write!(f, ": column {name}"))
    }
}

/// Reads a Parquet file.
pub(super) fn read(
    path: &Path,
    counter: &Counter,
    wanted: &Wanted,
    take: &mut Take<'_>,
    faults: &mut Faults,
) -> crate::Result<()> {
    let broken = |e: &dyn fmt::Display| {
        Error::Invalid(format!("{}: is no Parquet file that can be read: {e}", path.display()))
    };
    let file = File::open(path).map_err(Error::io(path))?;
    let bytes = file.metadata().map_err(Error::io(path))?.len();
    let reader = within(move |out| {
        let _ = out.send(guarded(|| SerializedFileReader::new(file)));
    });
    let reader = next(&reader).and_then(|opened| opened).map_err(|e| broken(&e))?;
    let metadata = reader.metadata().file_metadata();
    let fields = metadata.schema().get_fields();
    let header: Vec<String> = fields.iter().map(|field| field.name().to_string()).collect();
    let chosen = match wanted.choose(path, &header) {
        Ok(chosen) => chosen,
        Err(what) => invalid!("{}: {what}", path.display()),
    };
    let mut places: Vec<usize> = chosen.iter().map(|&(_, at)| at).collect();
    places.sort_unstable();
    places.dedup();
    let projection = places.iter().map(|&at| Arc::clone(&fields[at])).collect();
    let projection =
        Type::group_type_builder(metadata.schema().name()).with_fields(projection).build();
    let projection = projection.map_err(|e| broken(&e))?;

    let total = metadata.num_rows().max(1).unsigned_abs();
    let batches = within(move |out| send_rows(&reader, projection, &out));
    let rows = iter::from_fn(|| match next(&batches) {
        Ok(batch) => Some(batch).filter(|batch| !batch.is_empty()),
        Err(what) => Some(vec![Err(what)]),
    });
    let (mut number, mut counted) = (0, 0);
    let mut texts: [Option<String>; 8] = Default::default();
    for row in rows.flatten() {
        let row = row.map_err(|e| broken(&e))?;
        number += 1;
        if number % 1024 == 0 {
            let now = (bytes as f64 * (number as f64 / total as f64).min(1.0)) as u64;
            counter.add(now - counted);
            counted = now;
        }
        let read = record_of(row, &chosen, &places, &mut texts);
        let taken = read.and_then(|()| {
            // A row that lacks its time is not one of a log without times.
            let time = chosen.iter().map(|&(role, _)| role).filter(|&role| role == Role::Time);
            let lacking = wanted.musts().chain(time).find(|&role| texts[role as usize].is_none());
            if let Some(role) = lacking {
                return Err(Wrong::field(role, "is null"));
            }
            let mut record = Record::default();
            for role in Role::ALL {
                record.set(role, texts[role as usize].as_deref());
            }
            take(&record)
        });
        if let Err(wrong) = taken {
            let at = chosen.iter().find(|(role, _)| Some(*role) == wrong.role);
            let column = at.map(|&(_, at)| header[at].as_str());
            faults.add(&RowPlace { path, row: number, column }, &wrong.what)?;
        }
    }
    counter.add(bytes - counted);
    Ok(())
}

/// What a thread of its own sends while it does `work`.
fn within<T: Send + 'static>(work: impl FnOnce(SyncSender<T>) + Send + 'static) -> Receiver<T> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || work(sender));
    receiver
}

/// The next that is sent.
fn next<T>(receiver: &Receiver<T>) -> Result<T, String> {
    let (times, wait) = PATIENCE;
    let mut waits = (0..times).map(|_| receiver.recv_timeout(wait));
    let found = waits.find(|waited| !matches!(waited, Err(RecvTimeoutError::Timeout)));
    found.and_then(Result::ok).ok_or_else(|| {
        let seconds = (times * wait).as_secs();
        format!("nothing of it could be read in {seconds} seconds: it is damaged, or its disk stands still")
    })
}

/// Sends the rows of a file, some at a time, and at the end none; until nobody listens any more.
fn send_rows(reader: &SerializedFileReader<File>, projection: Type, out: &SyncSender<Vec<Read>>) {
    let mut rows = match guarded(|| reader.get_row_iter(Some(projection))) {
        Ok(rows) => rows,
        Err(what) => return drop(out.send(vec![Err(what)])),
    };
    let mut rows = iter::from_fn(|| guarded(|| rows.next().transpose()).transpose());
    loop {
        let batch: Vec<Read> = rows.by_ref().take(ROWS).collect();
        let is_last = batch.is_empty();
        if out.send(batch).is_err() || is_last {
            return;
        }
    }
}

/// Runs what may panic on a file that is no honest Parquet: the library asserts some of what it reads.
fn guarded<T>(work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    match guard::guarded(work) {
        Some(outcome) => outcome.map_err(|e| in_words(&e.to_string()).to_string()),
        None => {
            Err("its contents contradict themselves, or a column's type is not supported".into())
        }
    }
}

/// What the library says of a file, up to where it prints values of its own.
fn in_words(said: &str) -> &str {
    let said = said.strip_prefix("Parquet error: ").unwrap_or(said);
    let values = ["Bytes: [", "{", "Some(", "Err(", "Error: ", "::"];
    let end = values.iter().filter_map(|mark| said.find(mark)).min().unwrap_or(said.len());
    match said[..end].trim_end_matches([' ', ':', '.', ',']) {
        "" => "it is damaged",
        words => words,
    }
}

/// The fields of a row as texts.
fn record_of(
    row: Row,
    chosen: &[(Role, usize)],
    places: &[usize],
    texts: &mut [Option<String>; 8],
) -> Result<(), Wrong> {
    let mut columns: Vec<_> = row.into_columns().into_iter().map(Some).collect();
    for &(role, at) in chosen {
        let place = places.binary_search(&at).unwrap_or(usize::MAX);
        let field =
            columns.get_mut(place).and_then(Option::take).map_or(Field::Null, |(_, field)| field);
        texts[role as usize] = text_of(role, field).map_err(|what| Wrong::field(role, what))?;
    }
    Ok(())
}

fn text_of(role: Role, field: Field) -> Result<Option<String>, String> {
    let is_text = Role::TEXTS.contains(&role);
    let is_id = matches!(role, Role::User | Role::Item);
    Ok(Some(match field {
        Field::Null => return Ok(None),
        Field::Str(text) => text,
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.to_string(),
            Err(_) => return Err("is no UTF-8".into()),
        },
        Field::Byte(_)
        | Field::Short(_)
        | Field::Int(_)
        | Field::Long(_)
        | Field::UByte(_)
        | Field::UShort(_)
        | Field::UInt(_)
        | Field::ULong(_) => field.to_string(),
        Field::Decimal(ref decimal) => plain_decimal(decimal.data(), decimal.scale())
            .filter(|text| !text.contains('.') || !is_id)
            .ok_or_else(|| {
                format!("{field} is a decimal fraction; ids are texts or whole numbers")
            })?,
        // A whole number keeps its point: the others of the column have one.
        Field::Float(value) if role == Role::Time => format!("{value:?}"),
        Field::Double(value) if role == Role::Time => format!("{value:?}"),
        Field::Float(value) if !is_id => value.to_string(),
        Field::Double(value) if !is_id => value.to_string(),
        Field::TimestampMillis(time) | Field::TimestampMicros(time) if role == Role::Time => {
            time.to_string()
        }
        Field::Date(days) if role == Role::Time => (i64::from(days) * 86400).to_string(),
        Field::ListInternal(ref list) if is_text => {
            let mut parts = Vec::new();
            flatten(list.elements(), &mut parts)?;
            joined(role, parts)
        }
        Field::Float(_) | Field::Double(_) => {
            return Err(format!(
                "{field} is a floating-point number; ids are texts or whole numbers, which keep every digit"
            ));
        }
        other => {
            let kind = format!("{other:?}");
            let kind = kind.split('(').next().unwrap_or_default();
            return Err(format!("holds a {kind}, which cannot be the {}", role.name()));
        }
    }))
}

/// A decimal number of `bytes`, most significant first, in two's complement, of which `scale` digits stand behind the
/// point; `None` where there are more than 38.
fn plain_decimal(bytes: &[u8], scale: i32) -> Option<String> {
    let scale = usize::try_from(scale).ok().filter(|&scale| scale <= 38)?;
    let fill = if bytes.first().is_some_and(|first| first >> 7 == 1) { u8::MAX } else { 0 };
    let mut whole = [fill; 16];
    whole.get_mut(16usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
    let value = i128::from_be_bytes(whole);
    let sign = if value < 0 { "-" } else { "" };
    let digits = format!("{:0>1$}", value.unsigned_abs(), scale + 1);
    let (before, after) = digits.split_at(digits.len() - scale);
    let point = if scale > 0 { "." } else { "" };
    Some(format!("{sign}{before}{point}{after}"))
}

fn flatten(elements: &[Field], parts: &mut Vec<String>) -> Result<(), String> {
    for element in elements {
        match element {
            Field::ListInternal(list) => flatten(list.elements(), parts)?,
            other => {
                parts.extend(text_of(Role::Title, other.clone())?.filter(|part| !part.is_empty()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ::parquet::data_type::Decimal;

    use super::*;

    #[test]
    fn a_whole_time_is_spelt_as_the_others_of_its_column() {
        let of = |time: f64| text_of(Role::Time, Field::Double(time)).unwrap().unwrap();
        assert_eq!([of(1_700_000_000.0), of(1_700_000_000.5)], ["1700000000.0", "1700000000.5"]);
        let rating = text_of(Role::Rating, Field::Double(5.0)).unwrap();
        assert_eq!(rating.as_deref(), Some("5"));
    }

    #[test]
    fn decimals_keep_every_digit() {
        let of = |value: i64, scale| plain_decimal(&value.to_be_bytes(), scale).unwrap();
        assert_eq!(
            [of(45, 1), of(-5, 2), of(0, 1), of(9_007_199_254_740_993, 0)],
            ["4.5", "-0.05", "0.0", "9007199254740993"]
        );
        assert_eq!(plain_decimal(&[0xff], 0).as_deref(), Some("-1"));
        assert_eq!(plain_decimal(&[1; 17], 0), None);
        let of = |role, scale| text_of(role, Field::Decimal(Decimal::from_i64(70, 18, scale)));
        assert_eq!(of(Role::User, 0).unwrap().as_deref(), Some("70"));
        assert_eq!(of(Role::Rating, 1).unwrap().as_deref(), Some("7.0"));
        assert!(of(Role::Item, 1).unwrap_err().contains("decimal fraction"));
    }
}
