//! `--log-format json`: what goes to stderr is JSON, an object a line.

use serde_json::Value;

use crate::common::program::{run, tiny};

/// Runs with logs as JSON, expects exit code `code`, and gives stdout and the objects on stderr.
#[track_caller]
fn logged(dir: &std::path::Path, words: &[&str], code: i32) -> (String, Vec<Value>) {
    let (stdout, stderr) = run(dir, &[&["--log-format", "json"], words].concat(), code);
    let object = |line: &str| -> Value {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(value["level"].is_string() && value["message"].is_string(), "{line}");
        assert!(value["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
        value
    };
    (stdout, stderr.lines().map(object).collect())
}

#[test]
fn logs_and_progress_are_objects() {
    let dir = tiny();
    let (stdout, log) = logged(dir.path(), &["--set", "train.warmup.batch=4", "index"], 0);
    assert!(stdout.contains("the item index is finished"), "{stdout}");
    let of = |work: &str| log.iter().filter(|event| event["work"] == work).collect::<Vec<_>>();
    let warmup = of("train warmup");
    let total = warmup[0]["total"].as_u64().unwrap();
    // The first step and the last, and none in the seconds between.
    assert!(warmup.len() >= 2 && (warmup.len() as u64) < total.max(3), "{warmup:?}");
    assert_eq!((&warmup[0]["done"], &warmup[0]["level"]), (&1.into(), &"INFO".into()));
    let last = warmup[warmup.len() - 1];
    assert_eq!(last["done"], total);
    assert!(last["note"].as_str().unwrap().starts_with("loss "), "{last}");
    assert_eq!(last["message"], format!("train warmup: {total}/{total}"));
    assert_eq!(last["eta_seconds"], 0);
    assert!(log.iter().any(|event| event.get("work").is_none()), "only progress was told");

    let (_, quiet) = logged(
        dir.path(),
        &["--quiet", "--set", "train.warmup.batch=4", "train", "--stage", "initial"],
        0,
    );
    assert!(quiet.iter().all(|event| event["level"] == "WARN"), "{quiet:?}");
}

#[test]
fn an_error_is_one_object() {
    let dir = tiny();
    for quiet in [&[][..], &["--quiet"]] {
        let (stdout, log) = logged(dir.path(), &[quiet, &["eval"]].concat(), 1);
        assert!(stdout.is_empty(), "{stdout}");
        let last = log.last().unwrap();
        assert_eq!(last["level"], "ERROR");
        assert!(last["message"].as_str().unwrap().contains("run `llmbs index` first"), "{last}");
        assert_eq!(log.iter().filter(|event| event["level"] == "ERROR").count(), 1);
    }
    // Control characters are spelt out as JSON has them, and a message of several lines is one line.
    let (_, log) = logged(dir.path(), &["--config", "no\u{1b}\nfile", "config"], 1);
    assert!(log[0]["message"].as_str().unwrap().contains("no\u{1b}\nfile"), "{log:?}");
    // What cannot be understood, too.
    let (_, log) = logged(dir.path(), &["evaluate"], 2);
    assert_eq!((log.len(), &log[0]["level"]), (1, &"ERROR".into()));
    assert!(log[0]["message"].as_str().unwrap().contains("unrecognized subcommand 'evaluate'"));
    let (stdout, log) = logged(dir.path(), &["--help"], 0);
    assert!(stdout.contains("--log-format <FORMAT>") && log.is_empty(), "{stdout}");
    let (_, text) = run(dir.path(), &["--log-format", "xml", "config"], 2);
    assert!(text.contains("text") && text.contains("json"), "{text}");
}
