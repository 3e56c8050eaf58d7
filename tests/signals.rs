//! Signals, and two processes at one run folder.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::common::program::{fails, run, tiny};

/// Words of a training of many epochs, so that it is still at work when somebody comes.
const LONG: [&str; 5] = ["--set", "train.initial.epochs=300", "train", "--stage", "initial"];

fn begin(dir: &Path, words: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmbs"));
    command.current_dir(dir).args(words).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Waits until `file` holds `text`; the process must not end before.
fn wait_for(child: &mut Child, file: &Path, text: &str) {
    while !fs::read_to_string(file).unwrap_or_default().contains(text) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before {text:?} was in its file");
        sleep(Duration::from_millis(5));
    }
}

/// Sends the signal; the exit code, and what was said on stderr.
fn end(child: Child, signal: &str) -> (Option<i32>, String) {
    let sent = crate::common::program::kill(signal, child.id().to_string()).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_signal_saves_the_step_and_the_same_command_goes_on() {
    let (whole, cut) = (tiny(), tiny());
    for dir in [&whole, &cut] {
        run(dir.path(), &["index"], 0);
    }
    let folder = cut.path().join("runs/llmbs");
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut child = begin(cut.path(), &LONG);
        let log = folder.join("log.jsonl");
        let steps = || {
            let log = fs::read_to_string(&log).unwrap_or_default();
            log.matches("\"initial\",\"step\"").count()
        };
        let before = steps();
        while steps() <= before {
            assert!(child.try_wait().unwrap().is_none(), "it ended before the signal");
            sleep(Duration::from_millis(5));
        }
        // Another writer is kept out and told by whom; readers are not.
        let holder = format!("process {} is writing", child.id());
        fails(cut.path(), &LONG, &[&holder]);
        run(cut.path(), &["data", "stats"], 0);
        let (ended, said) = end(child, signal);
        assert_eq!(ended, Some(code), "{said}");
        assert!(said.contains("which is saved; the same command goes on"), "{said}");
        assert!(folder.join("unfinished/initial/state/latest/progress.json").exists());
    }
    for dir in [&whole, &cut] {
        run(dir.path(), &LONG, 0);
    }
    let model = |dir: &tempfile::TempDir| {
        fs::read(dir.path().join("runs/llmbs/initial/model.safetensors")).unwrap()
    };
    assert!(
        model(&whole) == model(&cut),
        "a training that was stopped twice ended in another model"
    );
    assert!(!folder.join("unfinished").exists());
}

#[test]
fn what_cannot_be_saved_ends_at_once_and_harms_nothing() {
    let dir = tiny();
    let epochs = ["--set", "index.behavior.din.epochs=10000"];
    let patience = ["--set", "index.behavior.din.patience=10000", "index"];
    let mut child = begin(dir.path(), &[&epochs[..], &patience].concat());
    // The warm-up before it would be saved.
    wait_for(
        &mut child,
        &dir.path().join("runs/llmbs/unfinished/index/din/key.json"),
        "din.epochs",
    );
    let (code, said) = end(child, "-INT");
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("the same command begins again"), "{said}");
    run(dir.path(), &["--set", "index.behavior.din.epochs=2", "index"], 0);
}

#[test]
fn files_have_the_modes_that_the_system_gives() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tiny();
    run(dir.path(), &["index"], 0);
    let mode = |name: &str| {
        let path = dir.path().join("runs/llmbs").join(name);
        fs::metadata(path).unwrap().permissions().mode()
    };
    for weights in
        ["index/tree.safetensors", "index/behavior.safetensors", "backbone/model.safetensors"]
    {
        assert_eq!(mode(weights), mode("index/index.json"), "{weights}");
    }
}
