//! Answers as a table: Parquet, a row a recommended item.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use crate::run::Recommendation;

/// The columns; `rank` counts from 1, `item` is the number in the dataset. A baseline gives no probabilities.
const SCHEMA: &str = "message recommendations {
    REQUIRED BYTE_ARRAY user (UTF8);
    REQUIRED INT32 rank;
    REQUIRED INT32 item (INTEGER(32, false));
    OPTIONAL BYTE_ARRAY raw_id (UTF8);
    REQUIRED BYTE_ARRAY title (UTF8);
    REQUIRED FLOAT score;
    OPTIONAL FLOAT probability;
}";

/// Rows kept in memory before they are written.
const GROUP: usize = 1 << 16;

/// A file being written.
pub(super) struct Table<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    rows: Vec<Row>,
}

struct Row {
    user: ByteArray,
    rank: i32,
    item: Recommendation,
}

impl<W: Write + Send> Table<W> {
    /// An empty table.
    pub(super) fn new(file: W) -> io::Result<Self> {
        let schema = parse_message_type(SCHEMA).map_err(failed)?;
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties));
        Ok(Self { writer: writer.map_err(failed)?, rows: Vec::new() })
    }

    /// Adds what `user` is recommended, best first.
    pub(super) fn push(&mut self, user: &str, items: Vec<Recommendation>) -> io::Result<()> {
        let user = ByteArray::from(user);
        let rows = (1..).zip(items).map(|(rank, item)| Row { user: user.clone(), rank, item });
        self.rows.extend(rows);
        if self.rows.len() >= GROUP { self.write() } else { Ok(()) }
    }

    /// Writes what is left, and the end of the file.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.write()?;
        self.writer.close().map(|_| ()).map_err(failed)
    }

    fn write(&mut self) -> io::Result<()> {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(());
        }
        let mut of_rows = self.writer.next_row_group().map_err(failed)?;
        let group = &mut of_rows;
        let text = |text: &str| ByteArray::from(text);
        column::<_, ByteArrayType>(group, &rows, |row| Some(row.user.clone()))?;
        column::<_, Int32Type>(group, &rows, |row| Some(row.rank))?;
        column::<_, Int32Type>(group, &rows, |row| Some(row.item.named.item.cast_signed()))?;
        column::<_, ByteArrayType>(group, &rows, |row| row.item.named.raw_id.as_deref().map(text))?;
        column::<_, ByteArrayType>(group, &rows, |row| Some(text(&row.item.named.title)))?;
        column::<_, FloatType>(group, &rows, |row| row.item.score)?;
        column::<_, FloatType>(group, &rows, |row| row.item.probability)?;
        of_rows.close().map(|_| ()).map_err(failed)
    }
}

/// Writes the next column of a row group.
fn column<W: Write + Send, T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    rows: &[Row],
    value: impl Fn(&Row) -> Option<T::T>,
) -> io::Result<()> {
    let values: Vec<Option<T::T>> = rows.iter().map(value).collect();
    let defined: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
    let values: Vec<T::T> = values.into_iter().flatten().collect();
    let Some(mut column) = group.next_column().map_err(failed)? else {
        return Err(io::Error::other("a column more than the table has"));
    };
    column.typed::<T>().write_batch(&values, Some(&defined), None).map_err(failed)?;
    column.close().map_err(failed)
}

fn failed(error: ParquetError) -> io::Error {
    io::Error::other(error)
}
