//! `TensorBoard`'s event files have what `log.jsonl` has, each step once, whatever became of a training.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::common::program::{run, tiny};

/// A record: its time, its step and its scalars.
type Event = (f64, u64, BTreeMap<String, f32>);

/// Takes `N` bytes.
fn take<const N: usize>(data: &mut &[u8]) -> [u8; N] {
    let (taken, rest) = data.split_first_chunk::<N>().expect("the file ends in a record");
    *data = rest;
    *taken
}

fn check(data: &[u8], masked: [u8; 4]) {
    let crc = u32::from_le_bytes(masked).wrapping_sub(0xa282_ead8).rotate_left(15);
    assert_eq!(crc, crc32c::crc32c(data), "a checksum is wrong");
}

fn varint(data: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let [byte] = take(data);
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return value;
        }
    }
}

fn content<'d>(data: &mut &'d [u8]) -> &'d [u8] {
    let length = varint(data) as usize;
    let (taken, rest) = data.split_at(length);
    *data = rest;
    taken
}

/// The records of a file as the formats say, every byte accounted for; the first, which says the version, left out.
fn events(path: &Path) -> Vec<Event> {
    let file = fs::read(path).unwrap();
    let mut data = &file[..];
    let mut events = Vec::new();
    while !data.is_empty() {
        let length: [u8; 8] = take(&mut data);
        check(&length, take(&mut data));
        let (mut message, rest) = data.split_at(u64::from_le_bytes(length) as usize);
        data = rest;
        check(message, take(&mut data));
        let (mut time, mut step, mut scalars) = (0.0, 0, BTreeMap::new());
        while !message.is_empty() {
            match varint(&mut message) {
                0x09 => time = f64::from_le_bytes(take(&mut message)),
                0x10 => step = varint(&mut message),
                0x1a => assert_eq!(content(&mut message), b"brain.Event:2"),
                0x2a => {
                    let mut summary = content(&mut message);
                    while !summary.is_empty() {
                        assert_eq!(varint(&mut summary), 0x0a);
                        let mut scalar = content(&mut summary);
                        assert_eq!(varint(&mut scalar), 0x0a);
                        let tag = String::from_utf8(content(&mut scalar).to_vec()).unwrap();
                        assert_eq!(varint(&mut scalar), 0x15);
                        let value = f32::from_le_bytes(take(&mut scalar));
                        assert!(scalar.is_empty() && scalars.insert(tag, value).is_none());
                    }
                }
                key => panic!("no field has the key {key}"),
            }
        }
        events.push((time, step, scalars));
    }
    assert!(events[0].2.is_empty(), "the version comes first");
    events.remove(0);
    events
}

/// What a line of the log says in numbers, under the names of an event file.
fn numbers(line: &Value) -> BTreeMap<String, f32> {
    let kind = if line.get("step").is_some() { "step" } else { "epoch" };
    let fields = line.as_object().unwrap().iter().filter(|(name, _)| *name != "step");
    let number = |value: &Value| value.as_bool().map(|b| b as u8 as f64).or(value.as_f64());
    fields
        .filter_map(|(name, value)| Some((format!("{kind}/{name}"), number(value)? as f32)))
        .collect()
}

/// Holds the event file of a stage to the log: of each step and epoch the last line, in order; gives how many lines the
/// log has more.
fn follows_log(run: &Path, stage: &str) -> usize {
    let log = fs::read_to_string(run.join("log.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_stage = |line: &Value| line["stage"] == stage && line.get("done_steps").is_none();
    let lines: Vec<Value> = lines.filter(of_stage).collect();
    let events = events(&run.join("tensorboard").join(stage).join("events.out.tfevents.llmbs"));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let (mut step_before, mut time_before) = (0, now - 3600.0);
    for (time, step, scalars) in &events {
        let of_epoch = scalars.get("epoch/epoch");
        let line = lines.iter().rfind(|line| match of_epoch {
            Some(epoch) => line.get("step").is_none() && line["epoch"] == *epoch as u64,
            None => line["step"] == *step,
        });
        assert_eq!(*scalars, numbers(line.unwrap()));
        assert!(of_epoch.map_or(*step > step_before, |_| *step == step_before), "{step}");
        assert!((time_before..=now).contains(time), "{time}");
        (step_before, time_before) = (*step, *time);
    }
    let mut names: Vec<(&Value, &Value)> =
        lines.iter().map(|line| (&line["step"], &line["epoch"])).collect();
    names.sort_by_key(|name| format!("{name:?}"));
    names.dedup();
    assert_eq!(events.len(), names.len(), "{log}");
    lines.len() - events.len()
}

#[test]
fn event_files_have_what_the_log_has_and_each_step_once() {
    let dir = tiny();
    let dir = dir.path();
    let run_dir = dir.join("runs/llmbs");
    run(dir, &["index"], 0);
    assert_eq!(follows_log(&run_dir, "warmup"), 0);

    let long = [
        "--set",
        "train.initial.log-every=1",
        "--set",
        "train.initial.save-every=6",
        "--set",
        "train.initial.epochs=4",
        "train",
        "--stage",
        "initial",
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmbs"));
    command.current_dir(dir).args(long).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    // Some steps after the last state.
    while !fs::read_to_string(run_dir.join("log.jsonl")).unwrap().contains("\"step\":7,") {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    run(dir, &long, 0);
    assert!(follows_log(&run_dir, "initial") > 0, "no step was done again");

    // Begun again, it leaves nothing of the training before.
    let short = [&["--set", "train.initial.max-steps=3"], &long[..], &["--force"]].concat();
    run(dir, &short, 0);
    let file = run_dir.join("tensorboard/initial/events.out.tfevents.llmbs");
    let steps: Vec<u64> = events(&file).iter().map(|(_, step, _)| *step).collect();
    assert_eq!(steps, [1, 2, 3, 3]);
    // The model before the adapter is an epoch of its own.
    run(
        dir,
        &["--set", "train.initial.max-steps=3", "--set", "train.anneal.log-every=1"]
            .into_iter()
            .chain(long[..6].iter().copied())
            .chain(["train", "--stage", "anneal"])
            .collect::<Vec<_>>(),
        0,
    );
    assert_eq!(follows_log(&run_dir, "anneal"), 0);
}
