//! Event files for `TensorBoard`: every number of the lines of `log.jsonl`, a file a stage.
//!
//! A file is a row of `TFRecord` frames, each with a protobuf message `Event`. The crates that write them bring a
//! protobuf compiler's worth of code for the four fields that a scalar takes, so these are written here; checksums are
//! CRC-32C.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::{Error, Result, files};

/// The folder of the event files in a run: `TensorBoard`'s `--logdir`, in which every stage is a run of its own.
const FOLDER: &str = "tensorboard";

/// The name of a file; `TensorBoard` reads files with `tfevents` in their names.
const FILE: &str = "events.out.tfevents.llmbs";

/// What the first record says.
const VERSION: &[u8] = b"brain.Event:2";

/// What a line is about: the first part of the names of its scalars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A step, or the mean of some.
    Step,
    /// The end of an epoch.
    Epoch,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Step => "step/",
            Self::Epoch => "epoch/",
        }
    }
}

/// The event file of a stage.
#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
}

impl EventFile {
    pub(super) fn new(run: &Path, stage: &str) -> Self {
        Self { path: run.join(FOLDER).join(stage).join(FILE) }
    }

    /// Begins where a training does that has done so many steps and epochs: what a process before this one wrote of
    /// those after them goes, since they are done again.
    pub(super) fn begin(&self, steps: u64, epochs: u64) -> Result<()> {
        let old = match fs::read(&self.path) {
            Ok(old) => old,
            Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io(&self.path)(e)),
        };
        let kept = if steps == 0 { 0 } else { length_until(&old, steps, epochs) };
        if kept == 0 {
            return files::write(&self.path, &framed(&message(now(), None, VERSION)));
        }
        if kept < old.len() {
            let file = OpenOptions::new().write(true).open(&self.path);
            file.and_then(|file| file.set_len(kept as u64)).map_err(Error::io(&self.path))?;
        }
        Ok(())
    }

    /// Appends the numbers of a line of the log, in one piece.
    pub(super) fn append(&self, kind: Kind, step: u64, line: &Map<String, Value>) -> Result<()> {
        // Whoever deletes what is no result must not end a training.
        if !self.path.exists() {
            self.begin(0, 0)?;
        }
        let record = framed(&message(now(), Some(step), &summary(kind, line)));
        let file = OpenOptions::new().append(true).open(&self.path);
        file.and_then(|mut file| file.write_all(&record)).map_err(Error::io(&self.path))
    }
}

/// A `Summary`: a scalar for every number and truth value of a line, but for the step.
fn summary(kind: Kind, line: &Map<String, Value>) -> Vec<u8> {
    let mut summary = Vec::new();
    for (name, value) in line.iter().filter(|(name, _)| *name != "step") {
        let number = match value {
            Value::Bool(holds) => Some(f64::from(u8::from(*holds))),
            value => value.as_f64(),
        };
        if let Some(number) = number {
            let tag = format!("{}{name}", kind.prefix());
            let mut scalar = bytes(1, tag.as_bytes());
            scalar.push(key(2, FOUR_BYTES));
            scalar.extend((number as f32).to_le_bytes());
            summary.extend(bytes(1, &scalar));
        }
    }
    summary
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

// Protobuf's types of fields, and how they are laid out.
const VARINT: u8 = 0;
const EIGHT_BYTES: u8 = 1;
const LENGTH: u8 = 2;
const FOUR_BYTES: u8 = 5;

fn key(field: u8, kind: u8) -> u8 {
    (field << 3) | kind
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![key(field, LENGTH)];
    bytes.extend(varint(content.len() as u64));
    bytes.extend(content);
    bytes
}

/// An `Event`: the time, and at a step a `Summary`, else the version of the file.
fn message(time: f64, step: Option<u64>, content: &[u8]) -> Vec<u8> {
    let mut message = vec![key(1, EIGHT_BYTES)];
    message.extend(time.to_le_bytes());
    if let Some(step) = step {
        message.push(key(2, VARINT));
        message.extend(varint(step));
    }
    message.extend(bytes(if step.is_some() { 5 } else { 3 }, content));
    message
}

/// CRC-32C as `TFRecord` masks it, so that a checksum of checksums is none that is common.
fn checksum(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// A frame: length, its checksum, the message, its checksum.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    [&length[..], &checksum(&length), message, &checksum(message)].concat()
}

/// The message of the frame that `data` begins with, where that is whole, and the length of the frame.
fn first_frame(data: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = data.split_first_chunk::<8>()?;
    let (length_checksum, rest) = rest.split_first_chunk::<4>()?;
    if checksum(length) != *length_checksum {
        return None;
    }
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let message = rest.get(..length)?;
    let found = rest.get(length..length.checked_add(4)?)?;
    (checksum(message) == *found).then_some((message, length + 16))
}

/// The length of the whole records that are not of a later step or epoch than these.
fn length_until(data: &[u8], steps: u64, epochs: u64) -> usize {
    let mut kept = 0;
    while let Some((message, length)) = first_frame(&data[kept..]) {
        let Some(event) = Event::read(message) else { break };
        let epoch = event.scalars.iter().find(|(tag, _)| tag == "epoch/epoch");
        let later = match epoch {
            Some(&(_, epoch)) => epoch as u64 > epochs,
            None => event.step > steps,
        };
        if later {
            break;
        }
        kept += length;
    }
    kept
}

/// What is read of a record.
#[derive(Debug, Default, PartialEq)]
struct Event {
    step: u64,
    /// Tag and value.
    scalars: Vec<(String, f32)>,
}

impl Event {
    /// Reads a message; nothing of one that is malformed.
    fn read(message: &[u8]) -> Option<Self> {
        let mut event = Self::default();
        for (field, value) in fields(message)? {
            match (field, value) {
                (2, Field::Varint(step)) => event.step = step,
                (5, Field::Bytes(summary)) => {
                    for (_, scalar) in fields(summary)? {
                        let Field::Bytes(scalar) = scalar else { return None };
                        let (mut tag, mut number) = (String::new(), 0.0);
                        for (field, value) in fields(scalar)? {
                            match (field, value) {
                                (1, Field::Bytes(name)) => {
                                    tag = String::from_utf8(name.to_vec()).ok()?;
                                }
                                (2, Field::Float(value)) => number = value,
                                _ => {}
                            }
                        }
                        event.scalars.push((tag, number));
                    }
                }
                _ => {}
            }
        }
        Some(event)
    }
}

enum Field<'a> {
    Varint(u64),
    Double,
    Bytes(&'a [u8]),
    Float(f32),
}

/// The fields of a message by number.
fn fields(mut data: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut fields = Vec::new();
    while !data.is_empty() {
        let (key, rest) = read_varint(data)?;
        let (field, rest) = match (key & 7) as u8 {
            VARINT => read_varint(rest).map(|(value, rest)| (Field::Varint(value), rest))?,
            EIGHT_BYTES => (Field::Double, rest.get(8..)?),
            LENGTH => {
                let (length, rest) = read_varint(rest)?;
                let (content, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                (Field::Bytes(content), rest)
            }
            FOUR_BYTES => {
                let (value, rest) = rest.split_first_chunk::<4>()?;
                (Field::Float(f32::from_le_bytes(*value)), rest)
            }
            _ => return None,
        };
        fields.push((key >> 3, field));
        data = rest;
    }
    Some(fields)
}

fn read_varint(data: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (i, &byte) in data.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some((value, &data[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn events(file: &EventFile) -> Vec<Event> {
        let data = fs::read(&file.path).unwrap();
        let mut rest = &data[..];
        let mut events = Vec::new();
        while let Some((message, length)) = first_frame(rest) {
            events.push(Event::read(message).unwrap());
            rest = &rest[length..];
        }
        assert!(rest.is_empty(), "a record is not whole");
        events
    }

    fn event(step: u64, scalars: &[(&str, f32)]) -> Event {
        let scalars = scalars.iter().map(|&(tag, value)| (tag.to_string(), value)).collect();
        Event { step, scalars }
    }

    /// Steps 10 and 20, an epoch, step 30.
    fn filled(run: &Path) -> EventFile {
        let file = EventFile::new(run, "initial");
        file.begin(0, 0).unwrap();
        for (kind, step) in
            [(Kind::Step, 10), (Kind::Step, 20), (Kind::Epoch, 20), (Kind::Step, 30)]
        {
            let epoch = if step == 30 { 2 } else { 1 };
            let value = json!({"stage": "initial", "step": step, "epoch": epoch, "gen": 0.1, "con_s": null});
            file.append(kind, step, &line(&value)).unwrap();
        }
        file
    }

    #[test]
    fn records_are_those_of_tensorboards_own_writer() {
        let bytes = |hex: &str| -> Vec<u8> {
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            (0..hex.len()).step_by(2).map(byte).collect()
        };
        // tensorboard 2.21.0, RecordWriter and Event, at time 1.5.
        let version =
            "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c";
        assert_eq!(framed(&message(1.5, None, VERSION)), bytes(version));
        let scalars = "3200000000000000241956ec09000000000000f83f10ac022a240a0f0a08737465702f67656e15cd\
                       cccc3d0a110a0a737465702f636f6e5f7315000020400456de4e";
        let summary = summary(Kind::Step, &line(&json!({"step": 300, "gen": 0.1, "con_s": 2.5})));
        assert_eq!(framed(&message(1.5, Some(300), &summary)), bytes(scalars));
    }

    #[test]
    fn numbers_come_back_under_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let file = filled(dir.path());
        let value = json!({"best": true, "validation_ndcg@10": 0.25, "note": "text", "epoch": 2});
        file.append(Kind::Epoch, 1_000_000, &line(&value)).unwrap();
        let found = events(&file);
        assert_eq!(found.len(), 6);
        assert_eq!(found[0], Event::default());
        assert_eq!(found[1], event(10, &[("step/epoch", 1.0), ("step/gen", 0.1)]));
        let scalars =
            [("epoch/best", 1.0), ("epoch/validation_ndcg@10", 0.25), ("epoch/epoch", 2.0)];
        assert_eq!(found[5], event(1_000_000, &scalars));
    }

    #[test]
    fn what_is_done_again_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let steps = |file: &EventFile| events(file).iter().map(|e| e.step).collect::<Vec<_>>();
        for (done, kept) in [
            ((40, 1), vec![0, 10, 20, 20, 30]),
            ((29, 1), vec![0, 10, 20, 20]),
            // The epoch's validation is done again.
            ((20, 0), vec![0, 10, 20]),
            ((19, 0), vec![0, 10]),
            ((5, 0), vec![0]),
            ((0, 0), vec![0]),
        ] {
            let file = filled(dir.path());
            file.begin(done.0, done.1).unwrap();
            assert_eq!(steps(&file), kept, "{done:?}");
        }
        // Every way to cut off the last record, and damage in one before it.
        let file = filled(dir.path());
        let whole = fs::read(&file.path).unwrap();
        let (_, first) = first_frame(&whole).unwrap();
        let end = length_until(&whole, 20, 1);
        for length in end..whole.len() {
            fs::write(&file.path, &whole[..length]).unwrap();
            file.begin(40, 1).unwrap();
            assert_eq!(steps(&file), [0, 10, 20, 20], "{length}");
        }
        for at in [first, first + 4, first + 9, first + 14, first + 40] {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            fs::write(&file.path, damaged).unwrap();
            file.begin(40, 1).unwrap();
            assert_eq!(steps(&file), [0], "{at}");
        }
        // A file that is gone begins anew.
        fs::remove_file(&file.path).unwrap();
        file.begin(40, 1).unwrap();
        assert_eq!(steps(&file), [0]);
        fs::remove_dir_all(dir.path().join(FOLDER)).unwrap();
        file.append(Kind::Step, 50, &line(&json!({"gen": 0.1}))).unwrap();
        assert_eq!(steps(&file), [0, 50]);
    }
}
