//! The program on a tiny shop, as a user would run it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use serde_json::Value;

fn llmbs(dir: &Path) -> Command {
    let mut command = cargo_bin_cmd!("llmbs");
    command.current_dir(dir);
    command
}

/// A configuration that runs in seconds.
const TINY: &str = r"
[data.synthetic]
users = 80
items = 60
groups = 6
[backbone.scratch]
vocab-size = 400
hidden-size = 32
intermediate-size = 64
num-hidden-layers = 2
num-attention-heads = 2
num-key-value-heads = 1
[index.semantic]
k = 8
[index.behavior]
k = 8
[index.behavior.din]
dim = 8
epochs = 2
[train.tasks]
held-out = 0.25
[train.warmup]
epochs = 1
[train.validation]
users = 20

[train.initial]
epochs = 2
batch = 32
learning-rate = 3e-3
[train.anneal]
learning-rate = 1e-3
[baseline.sasrec]
epochs = 2
";

/// A folder with [`TINY`] as its configuration.
pub(crate) fn tiny() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("llmbs.toml"), TINY).unwrap();
    dir
}

/// Makes the index and the model of stage initial, both with these words before the command.
pub(crate) fn train(dir: &Path, words: &[&str]) {
    for command in [&["index"][..], &["train", "--stage", "initial"]] {
        run(dir, &[words, command].concat(), 0);
    }
}

/// Runs, expects exit code `code`, and gives stdout and stderr.
pub(crate) fn run(dir: &Path, args: &[&str], code: i32) -> (String, String) {
    let output = llmbs(dir).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{stdout}\n{stderr}");
    (stdout, stderr)
}

/// Expects a failure that says `expected`, on stderr alone.
pub(crate) fn fails(dir: &Path, args: &[&str], expected: &[&str]) {
    let (stdout, stderr) = run(dir, args, 1);
    assert!(stdout.is_empty(), "stdout holds results only: {stdout}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    for text in expected {
        assert!(stderr.contains(text), "{args:?}: {text:?} is not in {stderr}");
    }
}

/// The `kill` that every shell has of its own.
pub(crate) fn kill(signal: &str, id: impl std::fmt::Display) -> std::process::Command {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &format!("kill {signal} {id}")]);
    command
}

/// Copies a folder with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// The names of all fields in `value`, at any depth.
pub(crate) fn field_names(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(fields) => {
            let below = fields.values().flat_map(field_names);
            fields.keys().cloned().chain(below).collect()
        }
        Value::Array(values) => values.iter().flat_map(field_names).collect(),
        _ => BTreeSet::new(),
    }
}

/// The items of an answer.
pub(crate) fn ids(items: &Value) -> Vec<u64> {
    items.as_array().unwrap().iter().map(|r| r["item"].as_u64().unwrap()).collect()
}

/// The same items and explanations in the same order, with scores that differ by rounding at most: other rows in a batch
/// may change how a product is summed.
#[track_caller]
pub(crate) fn assert_same(a: &Value, b: &Value) {
    assert_eq!(ids(a), ids(b));
    for (a, b) in a.as_array().unwrap().iter().zip(b.as_array().unwrap()) {
        let (x, y) = (a["score"].as_f64().unwrap(), b["score"].as_f64().unwrap());
        assert!((x - y).abs() < 1e-4, "{a} and {b}");
        assert_eq!((&a["explanation"], &a["title"]), (&b["explanation"], &b["title"]));
    }
}
