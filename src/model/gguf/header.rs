//! What has to be known of a GGUF file before candle reads it: candle divides by `general.alignment`
//! without a look, and does not say which tensor has a type that it lacks.

use std::io::{Read, Seek};

use crate::error::short;
use crate::{Result, invalid};

const STRING: u64 = 8;
const ARRAY: u64 = 9;

/// The bytes of a value of each other type.
const SIZES: [u64; 13] = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];

/// As deep as candle follows arrays in arrays.
const DEPTH: usize = 64;

/// The types of tensors that are read, by their numbers.
const READ: [(u64, &str); 13] = [
    (0, "F32"),
    (1, "F16"),
    (30, "BF16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (6, "Q5_0"),
    (7, "Q5_1"),
    (8, "Q8_0"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
];

/// Those that llama.cpp has besides.
const OTHERS: [(u64, &str); 22] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

/// Checks what the header says, up to where the tensors begin.
///
/// # Errors
/// Says what is no GGUF file, is damaged, is one part of several or has tensors of a type that is not read.
/// What is malformed in another way ends the search: candle says what is wrong with it.
pub(super) fn check(file: &mut (impl Read + Seek)) -> Result<()> {
    let mut header = Header { file, short: false };
    let (Some(magic), Some(version)) = (header.number(4), header.number(4)) else {
        invalid!("ends within its first 8 bytes; the file is cut off");
    };
    if magic != u64::from(u32::from_le_bytes(*b"GGUF")) {
        invalid!("is no GGUF file: it does not begin with GGUF");
    }
    if !(1..=3).contains(&version) {
        let hint =
            if version.is_multiple_of(1 << 24) { "; it is of a big-endian machine" } else { "" };
        invalid!("is of version {version} of GGUF{hint}; versions 1 to 3, little-endian, are read");
    }
    header.short = version == 1;
    let mut found = Found::default();
    // Always `None` where the header is cut off or malformed: `found` is what was seen on the way.
    let whole = header.walk(&mut found);
    if found.alignment == Some(0) {
        invalid!("key general.alignment is 0; the file is damaged");
    }
    if let Some(parts) = found.parts.filter(|&parts| parts > 1) {
        invalid!(
            "key split.count is {parts}: the file is one of {parts} parts of a model; make one file of them \
             with llama.cpp's `llama-gguf-split --merge FIRST-PART OUT.gguf`"
        );
    }
    if let Some((name, kind)) = found.unread {
        let other = OTHERS.iter().find(|(number, _)| *number == kind);
        let kind =
            other.map_or_else(|| format!("unknown ({kind})"), |(_, name)| (*name).to_string());
        let read: Vec<&str> = READ.iter().map(|(_, name)| *name).collect();
        invalid!(
            "tensor {:?} has the type {kind}, which is not read: these are {}; quantize the model to one of them \
             (llama.cpp's `llama-quantize`), or use the Hugging Face folder",
            short(&name),
            read.join(", ")
        );
    }
    match (whole, found.at) {
        (None, Some(at)) => {
            invalid!("its header is cut off or damaged at {at}; fetch or convert the file again")
        }
        _ => Ok(()),
    }
}

/// What the header was found to say.
#[derive(Default)]
struct Found {
    /// The value of `general.alignment`, the last if there are several.
    alignment: Option<u64>,
    /// That of `split.count`.
    parts: Option<u64>,
    /// The first tensor of a type that is not read, and that type.
    unread: Option<(String, u64)>,
    /// Where the reading is.
    at: Option<String>,
}

struct Header<'a, R> {
    file: &'a mut R,
    /// Whether lengths have four bytes and not eight: version 1.
    short: bool,
}

impl<R: Read + Seek> Header<'_, R> {
    fn walk(&mut self, found: &mut Found) -> Option<()> {
        found.at = Some("its counts".into());
        let tensors = self.length()?;
        let keys = self.length()?;
        for number in 0..keys {
            found.at = Some(format!("key {} of {keys}", number + 1));
            let key = self.name()?;
            found.at = Some(format!("key {:?}", short(&key)));
            let kind = self.number(4)?;
            let one_number = match SIZES.get(kind as usize) {
                Some(&size @ 1..) if kind < 6 || kind == 10 || kind == 11 => Some(size as usize),
                _ => None,
            };
            match (key.as_str(), one_number) {
                ("general.alignment", Some(size)) if kind < 6 => {
                    found.alignment = Some(self.number(size)?);
                }
                ("split.count", Some(size)) => found.parts = Some(self.number(size)?),
                _ => self.skip(kind, DEPTH)?,
            }
        }
        for number in 0..tensors {
            found.at = Some(format!("tensor {} of {tensors}", number + 1));
            let name = self.name()?;
            found.at = Some(format!("tensor {:?}", short(&name)));
            let dimensions = self.number(4)?;
            let size = if self.short { 4 } else { 8 };
            self.jump(dimensions * size)?;
            let kind = self.number(4)?;
            if found.unread.is_none() && !READ.iter().any(|(number, _)| *number == kind) {
                found.unread = Some((name, kind));
            }
            self.number(8)?;
        }
        Some(())
    }

    /// A string, as candle reads it.
    fn name(&mut self) -> Option<String> {
        let length = self.length()?;
        let mut name = Vec::new();
        self.file.take(length).read_to_end(&mut name).ok()?;
        if name.len() as u64 != length {
            return None;
        }
        // candle does not count zeros at the end of a string.
        while name.pop_if(|byte| *byte == 0).is_some() {}
        Some(String::from_utf8_lossy(&name).into_owned())
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
