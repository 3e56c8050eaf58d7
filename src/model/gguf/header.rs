//! What has to be known of a GGUF file before candle reads it: candle divides by `general.alignment`
//! without a look.

use std::io::{Read, Seek};

const STRING: u64 = 8;
const ARRAY: u64 = 9;
/// The bytes of a value of each other type.
const SIZES: [u64; 13] = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];
/// As deep as candle follows arrays in arrays.
const DEPTH: usize = 64;

/// The value of `general.alignment`, the last if there are several. What is malformed ends the search:
/// candle says what is wrong with it.
pub(super) fn alignment(file: &mut (impl Read + Seek)) -> Option<u64> {
    let mut header = Header { file, short: false };
    let mut found = None;
    // Always `None` in the end: `found` is what was seen on the way.
    let _ = header.walk(&mut found);
    found
}

struct Header<'a, R> {
    file: &'a mut R,
    /// Whether lengths have four bytes and not eight: version 1.
    short: bool,
}

impl<R: Read + Seek> Header<'_, R> {
    fn walk(&mut self, found: &mut Option<u64>) -> Option<()> {
        let _magic = self.number(4)?;
        self.short = self.number(4)? == 1;
        let _tensors = self.length()?;
        for _ in 0..self.length()? {
            let mut key = Vec::new();
            let length = self.length()?;
            self.file.take(length).read_to_end(&mut key).ok()?;
            // candle does not count zeros at the end of a string.
            while key.pop_if(|byte| *byte == 0).is_some() {}
            let kind = self.number(4)?;
            if key == b"general.alignment" && kind < 6 {
                *found = Some(self.number(SIZES[kind as usize] as usize)?);
            } else {
                self.skip(kind, DEPTH)?;
            }
        }
        Some(())
    }

    fn number(&mut self, bytes: usize) -> Option<u64> {
        let mut number = [0; 8];
        self.file.read_exact(&mut number[..bytes]).ok()?;
        Some(u64::from_le_bytes(number))
    }

    fn length(&mut self) -> Option<u64> {
        self.number(if self.short { 4 } else { 8 })
    }

    /// Goes past a value.
    fn skip(&mut self, kind: u64, depth: usize) -> Option<()> {
        let (kind, count) =
            if kind == ARRAY { (self.number(4)?, self.length()?) } else { (kind, 1) };
        match kind {
            ARRAY => (0..count).try_for_each(|_| self.skip(kind, depth.checked_sub(1)?)),
            STRING => (0..count).try_for_each(|_| {
                let length = self.length()?;
                self.jump(length)
            }),
            _ => self.jump(count.checked_mul(*SIZES.get(kind as usize)?)?),
        }
    }

    fn jump(&mut self, bytes: u64) -> Option<()> {
        self.file.seek_relative(i64::try_from(bytes).ok()?).ok()
    }
}
