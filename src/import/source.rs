//! A file opened: decompressed where need be, its first bytes looked at, its bytes counted.

use std::fs::File;
use std::io::{self, BufReader, Chain, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result, invalid};

/// How much is read at once.
const BLOCK: usize = 256 << 10;

/// How much is looked at to tell what a file is.
const HEAD: u64 = 64 << 10;

/// The longest line, or row of a table, in bytes. A longer one is no line but a file of another kind, and
/// reading it would take memory without end.
pub const LONGEST_LINE: usize = 16 << 20;

/// What is said of bytes that are none.
pub(super) const NO_UTF8: &str =
    "is no UTF-8; what Windows wrote becomes so by iconv -f WINDOWS-1252 -t UTF-8";

/// How many bytes were read from disk, of all files together.
#[derive(Debug, Clone, Default)]
pub(super) struct Counter(Arc<AtomicU64>);

impl Counter {
    /// The bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts more of them.
    pub(super) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Counts what passes through.
struct Counted {
    file: File,
    counter: Counter,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.counter.add(n as u64);
        Ok(n)
    }
}

/// A file as its readers see it: plain bytes without a byte order mark.
pub(super) struct Input {
    /// The file.
    pub(super) path: PathBuf,
    /// Whether the file is compressed as a whole.
    pub(super) compressed: bool,
    reader: Chain<Cursor<Vec<u8>>, Box<dyn Read + Send>>,
}

impl Input {
    /// Opens a file, of which compression is told by its first bytes.
    pub(super) fn open(path: &Path, counter: &Counter) -> Result<Self> {
        let io = |e| Error::io(path)(e);
        let file = File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.is_dir() {
            invalid!("{}: is a folder; a file is expected here", path.display());
        }
        let mut raw = BufReader::with_capacity(BLOCK, Counted { file, counter: counter.clone() });
        let magic = io::BufRead::fill_buf(&mut raw).map_err(io)?;
        let (gz, zst) =
            (magic.starts_with(&[0x1f, 0x8b]), magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
        let mut rest: Box<dyn Read + Send> = match (gz, zst) {
            (true, _) => Box::new(flate2::bufread::MultiGzDecoder::new(raw)),
            (_, true) => Box::new(zstd::Decoder::with_buffer(raw).map_err(io)?),
            _ => Box::new(raw),
        };
        let mut head = Vec::new();
        rest.by_ref().take(HEAD).read_to_end(&mut head).map_err(io)?;
        if head.starts_with(&[0xef, 0xbb, 0xbf]) {
            head.drain(..3);
        }
        let reader = Cursor::new(head).chain(rest);
        Ok(Self { path: path.into(), compressed: gz || zst, reader })
    }

    /// The first bytes, as far as they were not read yet.
    pub(super) fn head(&self) -> &[u8] {
        self.reader.get_ref().0.get_ref()
    }

    /// Refuses what is no UTF-8 text at all.
    pub(super) fn check_text(&self) -> Result<()> {
        let head = self.head();
        let path = self.path.display();
        if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
            invalid!("{path}: is UTF-16; make it UTF-8: iconv -f UTF-16 -t UTF-8 {path}");
        }
        if head.starts_with(b"PK\x03\x04") {
            invalid!("{path}: is a zip archive or a workbook; unpack it, or save it as CSV");
        }
        if let Some(at) = memchr::memchr(0, head) {
            invalid!(
                "{path}: has a zero byte at {at}, so it is no UTF-8 text (UTF-16 without its mark, or binary); \
                 make it UTF-8: iconv -f UTF-16LE -t UTF-8 {path}"
            );
        }
        Ok(())
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// A line, without what ends it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// Its bytes.
    Bytes(&'a [u8]),
    /// It is longer than [`LONGEST_LINE`]; it was passed over.
    TooLong,
}

impl Line<'_> {
    /// Its text; else the column, where there is one, and what is wrong.
    pub(super) fn text(&self) -> std::result::Result<&str, (Option<usize>, String)> {
        match self {
            Self::TooLong => Err((None, too_long())),
            Self::Bytes(bytes) => {
                std::str::from_utf8(bytes).map_err(|e| (Some(e.valid_up_to() + 1), NO_UTF8.into()))
            }
        }
    }
}

/// Lines of a file, one at a time in one buffer. Only LF and CRLF end a line: U+2028 is part of a text.
pub(super) struct Lines {
    input: Input,
    buffer: Vec<u8>,
    /// What of the buffer holds bytes not given out yet.
    start: usize,
    end: usize,
    number: u64,
    at_end: bool,
}

impl Lines {
    /// The lines of a text.
    pub(super) fn new(input: Input) -> Result<Self> {
        input.check_text()?;
        Ok(Self { input, buffer: vec![0; BLOCK], start: 0, end: 0, number: 0, at_end: false })
    }

    /// The file.
    pub(super) fn path(&self) -> PathBuf {
        self.input.path.clone()
    }

    /// The next line and its number, from 1.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Line<'_>)>> {
        self.number += 1;
        let mut searched = self.start;
        loop {
            if let Some(found) = memchr::memchr(b'\n', &self.buffer[searched..self.end]) {
                let (from, to) = (self.start, searched + found);
                self.start = to + 1;
                return Ok(Some((self.number, Line::Bytes(trimmed(&self.buffer[from..to])))));
            }
            if self.at_end {
                let (from, to) = (self.start, self.end);
                self.start = to;
                let last = trimmed(&self.buffer[from..to]);
                return Ok((from < to).then_some((self.number, Line::Bytes(last))));
            }
            searched = self.end - self.start;
            if searched >= LONGEST_LINE {
                self.pass_over()?;
                return Ok(Some((self.number, Line::TooLong)));
            }
            self.more()?;
        }
    }

    /// Reads on, with what is left of the buffer at its beginning.
    fn more(&mut self) -> Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            self.buffer.resize((2 * self.end).min(LONGEST_LINE), 0);
        }
        let n = read_some(&mut self.input, &mut self.buffer[self.end..])?;
        self.end += n;
        self.at_end = n == 0;
        Ok(())
    }

    /// Skips to the next line.
    fn pass_over(&mut self) -> Result<()> {
        loop {
            (self.start, self.end) = (0, 0);
            self.more()?;
            if let Some(found) = memchr::memchr(b'\n', &self.buffer[..self.end]) {
                self.start = found + 1;
                return Ok(());
            }
            if self.at_end {
                return Ok(());
            }
        }
    }
}

/// One read that is not interrupted.
pub(super) fn read_some(input: &mut Input, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match input.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(Error::io(&input.path)),
        }
    }
}

fn trimmed(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// What is said of a line that is longer than [`LONGEST_LINE`].
pub(super) fn too_long() -> String {
    format!("is longer than {} MiB, the longest line that is read", LONGEST_LINE >> 20)
}
