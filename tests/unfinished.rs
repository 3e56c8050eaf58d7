//! Stages that are begun and not through: what stood before does, and nothing is lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::program::{fails, run, tiny, train};

/// Runs `words` and kills the process as soon as `file` is there, which must be before it ends.
fn kill_at(dir: &Path, words: &[&str], file: &Path) {
    kill_when(dir, words, &|| file.exists());
}

/// Runs `words` and kills the process as soon as `is_time`, which must be before it ends.
fn kill_when(dir: &Path, words: &[&str], is_time: &dyn Fn() -> bool) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmbs"));
    command.current_dir(dir).args(words).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    while !is_time() {
        assert!(child.try_wait().unwrap().is_none(), "{words:?}: it ended before its time");
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    assert!(child.wait().unwrap().code().is_none(), "{words:?}: it ended by itself");
}

fn of_run(dir: &Path, file: &str) -> PathBuf {
    dir.join("runs/llmbs").join(file)
}

fn read(dir: &Path, file: &str) -> Vec<u8> {
    fs::read(of_run(dir, file)).unwrap()
}

fn manifest(dir: &Path) -> Value {
    serde_json::from_slice(&read(dir, "manifest.json")).unwrap()
}

/// Writes a manifest that was changed, without the digest that it had.
fn write_manifest(dir: &Path, mut changed: Value) {
    assert!(changed.as_object_mut().unwrap().remove("sha256").is_some(), "{changed}");
    fs::write(of_run(dir, "manifest.json"), changed.to_string()).unwrap();
}

/// What the model of stage initial reaches.
fn metrics(dir: &Path) -> Value {
    let told = run(dir, &["eval", "--adapter", "off", "--json"], 0).0;
    serde_json::from_str::<Value>(&told).unwrap()["metrics"].clone()
}

#[test]
fn whatever_is_killed_ends_in_the_same_files() {
    let cases: [(&[&str], &[&str], &str, &str); 4] = [
        (
            &["train.warmup.epochs=25", "train.warmup.save-every=1"],
            &["index"],
            "unfinished/index/warmup/state/before",
            "backbone/model.safetensors",
        ),
        (
            &["index.behavior.din.epochs=200", "index.behavior.din.patience=200"],
            &["index"],
            "unfinished/index/din/state/latest",
            "index/behavior.safetensors",
        ),
        (
            &["index.behavior.encoder=sasrec", "index.behavior.sasrec.patience=100"],
            &["index"],
            "unfinished/index/sasrec/state/latest",
            "index/behavior.safetensors",
        ),
        (
            &["baseline.sasrec.epochs=60", "baseline.sasrec.patience=60"],
            &["baseline", "sasrec", "--seeds", "3"],
            "unfinished/baseline-sasrec-seed-3/state/latest",
            "baseline/sasrec/seed-3/model.safetensors",
        ),
    ];
    for (settings, command, appears, made) in cases {
        let (whole, cut) = (tiny(), tiny());
        let words: Vec<&str> =
            settings.iter().flat_map(|s| ["--set", s]).chain(command.iter().copied()).collect();
        run(whole.path(), &words, 0);
        kill_at(cut.path(), &words, &of_run(cut.path(), appears));
        run(cut.path(), &words, 0);
        assert!(read(whole.path(), made) == read(cut.path(), made), "{made} differs");
        assert!(!of_run(cut.path(), "unfinished").exists(), "{made}");
    }
}

/// A process that was killed when all but the folder itself was removed.
fn leaves_no_empty_folder(dir: &Path, words: &[&str]) {
    fs::create_dir(of_run(dir, "unfinished")).unwrap();
    run(dir, words, 0);
    assert!(!of_run(dir, "unfinished").exists(), "{words:?}");
}

#[test]
fn an_evaluation_that_is_killed_goes_on_after_its_last_batch() {
    let dir = tiny();
    let dir = dir.path();
    let users = ["--set", "data.synthetic.users=2000", "--set", "eval.batch=4"];
    let few = ["--set", "train.initial.epochs=1"];
    let words = |more: &[&'static str]| [&users[..], &few, more].concat();
    train(dir, &words(&[]));
    run(dir, &words(&["baseline", "sasrec", "--seeds", "1"]), 0);
    let lines = |file: &Path| fs::read_to_string(file).unwrap_or_default().lines().count();
    let baseline = "runs/llmbs/baseline/sasrec/seed-1";
    let cases: [(&[&str], &str, &str); 3] = [
        (&["eval", "--adapter", "off"], "test-off-b20-model0-test.jsonl", "test-off-b20"),
        (
            &["eval", "--adapter", "off", "--fuse", baseline],
            "test-off-b20-fused-sasrec-1-model0-valid.jsonl",
            "test-off-b20-fused-sasrec-1",
        ),
        (&["eval", "--task", "text", "--adapter", "off"], "text-off.jsonl", "text-off"),
    ];
    for (command, journal, result) in cases {
        let found = || {
            let of = |ending| read(dir, &format!("eval/{result}.{ending}"));
            let told: Value = serde_json::from_slice(&of("json")).unwrap();
            (of("predictions.jsonl"), told["metrics"].clone())
        };
        let words = words(command);
        run(dir, &words, 0);
        let whole = found();
        fs::remove_dir_all(of_run(dir, "eval")).unwrap();
        let journal = of_run(dir, &format!("unfinished/{journal}"));
        kill_when(dir, &words, &|| lines(&journal) > 5);
        // A line that was cut off, and one that was altered, with what follows it.
        let mut kept = fs::read(&journal).unwrap();
        let third: usize = kept.split_inclusive(|&b| b == b'\n').take(3).map(<[u8]>::len).sum();
        let point = third + kept[third..].iter().position(|&b| b == b'.').unwrap();
        kept[point + 1] ^= 1;
        kept.truncate(kept.len() - 3);
        fs::write(&journal, kept).unwrap();
        run(dir, &words, 0);
        assert!(found() == whole, "{result} differs");
        assert!(!of_run(dir, "unfinished").exists());
        leaves_no_empty_folder(dir, &words);
    }
}

#[test]
fn a_baseline_that_is_redone_is_not_disturbed_by_one_who_asks_for_what_stands() {
    let dir = tiny();
    let dir = dir.path();
    let mut words = vec!["--set", "baseline.sasrec.epochs=100", "--set"];
    words.extend(["baseline.sasrec.patience=100", "baseline", "sasrec", "--seeds", "3"]);
    run(dir, &words, 0);
    let made = "baseline/sasrec/seed-3/model.safetensors";
    let whole = read(dir, made);
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmbs"));
    command.current_dir(dir).args(&words).arg("--force").stdout(Stdio::null());
    let mut redone = command.stderr(Stdio::null()).spawn().unwrap();
    let redone_id = redone.id();
    let state = of_run(dir, "unfinished/baseline-sasrec-seed-3/state");
    while !state.join("latest").exists() {
        assert!(redone.try_wait().unwrap().is_none(), "it ended before its time");
        sleep(Duration::from_millis(1));
    }
    let signal = |name: &str| {
        let sent = crate::common::program::kill(name, redone_id.to_string()).status().unwrap();
        assert!(sent.success());
    };
    signal("-STOP");
    run(dir, &words, 0);
    assert!(state.exists(), "the work of another process is gone");
    signal("-CONT");
    assert!(redone.wait().unwrap().success());
    assert!(read(dir, made) == whole);
    assert!(!of_run(dir, "unfinished").exists());
    leaves_no_empty_folder(dir, &words);
}

#[test]
fn a_stage_under_force_leaves_what_stood_until_it_is_through() {
    let dir = tiny();
    let dir = dir.path();
    train(dir, &[]);
    let before = metrics(dir);
    let (model, config) = (read(dir, "initial/model.safetensors"), read(dir, "config.toml"));

    let other = ["--set", "train.initial.epochs=40", "--set", "train.initial.save-every=1"];
    let words =
        |force: &[&'static str]| [&other[..], &["train", "--stage", "initial"], force].concat();
    let state = of_run(dir, "unfinished/initial/state/before");
    kill_at(dir, &words(&["--force"]), &state);
    assert_eq!(metrics(dir), before);
    run(dir, &["eval", "--adapter", "off", "--force"], 0);
    assert!(model == read(dir, "initial/model.safetensors"));
    assert!(config == read(dir, "config.toml"));
    // What stood is asked for: it is there.
    run(dir, &["train", "--stage", "initial"], 0);
    // One that cannot work changes nothing either.
    let wrong =
        ["--set", "index.semantic.k=2", "--set", "index.semantic.levels=1", "index", "--force"];
    run(dir, &wrong, 1);
    assert_eq!(metrics(dir), before);

    // What was begun goes on without --force, and takes the place.
    run(dir, &words(&[]), 0);
    assert!(model != read(dir, "initial/model.safetensors"));
    assert!(!of_run(dir, "unfinished").exists());
    let whole = tiny();
    run(whole.path(), &["index"], 0);
    run(whole.path(), &words(&[]), 0);
    let file = "initial/model.safetensors";
    assert!(read(dir, file) == read(whole.path(), file));
}

#[test]
fn what_was_whole_when_its_process_was_killed_is_put_in_place() {
    let dir = tiny();
    let dir = dir.path();
    train(dir, &[]);
    let before = metrics(dir);
    fs::remove_dir_all(of_run(dir, "eval")).unwrap();
    let result = of_run(dir, "unfinished/initial/result");
    fs::create_dir_all(&result).unwrap();
    fs::rename(of_run(dir, "initial"), result.join("initial")).unwrap();
    // The folder that it replaces, half gone.
    fs::create_dir_all(of_run(dir, "initial.old/model")).unwrap();
    let mut found = manifest(dir);
    let record = found["stages"].as_object_mut().unwrap().remove("initial").unwrap();
    found["unfinished"] = json!({ "initial": record });
    write_manifest(dir, found);

    assert_eq!(metrics(dir), before);
    assert!(!of_run(dir, "unfinished").exists() && !of_run(dir, "initial.old").exists());
    assert_eq!(manifest(dir)["stages"]["initial"]["status"], "done");
}

#[test]
fn a_training_that_began_anew_is_not_gone_on_with_as_one_of_another_run() {
    let dir = tiny();
    let dir = dir.path();
    train(dir, &["--run", "monday"]);
    run(dir, &["index", "--extend", "monday", "--run", "tuesday"], 0);
    let long = ["train.initial.epochs=300", "train.initial.save-every=1"];
    let of = |words: &[&'static str]| {
        let set = long.iter().flat_map(|&setting| ["--set", setting]);
        ["--run", "tuesday"].into_iter().chain(set).chain(words.iter().copied()).collect::<Vec<_>>()
    };
    let state = dir.join("tuesday/unfinished/initial/state/latest/progress.json");
    kill_at(dir, &of(&["train", "--stage", "initial"]), &state);
    let expected = ["was begun in another way", "--force"];
    fails(dir, &of(&["train", "--continue", "monday"]), &expected);
    assert!(state.exists());
}

#[test]
fn a_training_that_diverges_says_what_where_and_what_to_do() {
    let dir = tiny();
    let dir = dir.path();
    run(dir, &["index"], 0);
    let wild = [
        "--set",
        "train.initial.adamw.weight-decay=0.3",
        "--set",
        "train.initial.learning-rate=10",
    ];
    let long = ["--set", "train.initial.epochs=60", "train", "--stage", "initial"];
    let said =
        ["initial: ", "steps in a row", "has diverged", "a lower train.initial.learning-rate"];
    fails(dir, &[&wild[..], &long].concat(), &said);
}

#[test]
fn a_training_goes_on_with_a_lower_learning_rate_and_with_nothing_else_that_is_new() {
    let dir = tiny();
    let dir = dir.path();
    run(dir, &["index"], 0);
    let words = |rate: &'static str, epochs: &'static str| {
        let save = "train.initial.save-every=1";
        ["--set", save, "--set", rate, "--set", epochs, "train", "--stage", "initial"]
    };
    let epochs = "train.initial.epochs=60";
    let state = of_run(dir, "unfinished/initial/state/before");
    kill_at(dir, &words("train.initial.learning-rate=3e-3", epochs), &state);
    let higher = words("train.initial.learning-rate=4e-3", epochs);
    fails(dir, &higher, &["train.initial.learning-rate was 0.003, is now 0.004"]);
    let fewer = words("train.initial.learning-rate=1e-3", "train.initial.epochs=50");
    fails(dir, &fewer, &["train.initial.epochs was 60, is now 50"]);
    let (_, log) = run(dir, &words("train.initial.learning-rate=1e-3", epochs), 0);
    assert!(log.contains("train.initial.learning-rate is 0.001 after step"), "{log}");
    let lowered = &manifest(dir)["stages"]["initial"]["lowered"][0];
    assert_eq!((&lowered["from"], &lowered["to"]), (&json!(0.003), &json!(0.001)));
    assert!(lowered["after_step"].as_u64() > Some(0), "{lowered}");
}

#[test]
fn a_warm_up_and_an_encoder_that_diverge_are_named() {
    let dir = tiny();
    let wild = |table: &str, decay: &str, encoder: &str| {
        let settings = [
            format!("{table}.learning-rate=10"),
            format!("{table}.{decay}=1000000"),
            format!("{table}.epochs=40"),
            format!("index.behavior.encoder={encoder}"),
        ];
        settings.into_iter().flat_map(|s| ["--set".to_string(), s]).collect::<Vec<String>>()
    };
    let cases: [(&str, &str, &str, &[&str]); 4] = [
        ("train.warmup", "adamw.weight-decay", "din", &["index"]),
        ("index.behavior.din", "weight-decay", "din", &["index"]),
        ("index.behavior.sasrec", "weight-decay", "sasrec", &["index"]),
        ("baseline.sasrec", "weight-decay", "din", &["baseline", "sasrec"]),
    ];
    for (table, decay, encoder, command) in cases {
        let settings = wild(table, decay, encoder);
        let words: Vec<&str> =
            settings.iter().map(String::as_str).chain(command.iter().copied()).collect();
        fails(dir.path(), &words, &["has diverged", &format!("{table}.learning-rate")]);
    }
}

#[test]
fn the_configuration_of_a_first_result_at_work_is_looked_at_too() {
    let dir = tiny();
    let dir = dir.path();
    let slow = ["--set", "train.warmup.epochs=25", "--set", "train.warmup.save-every=1"];
    let state = of_run(dir, "unfinished/index/warmup/state/before");
    kill_at(dir, &[&slow[..], &["index"]].concat(), &state);
    // A setting that no stage asks for.
    let path = of_run(dir, "config.toml");
    let whole = fs::read_to_string(&path).unwrap();
    let altered = whole.replace("shrink = ", "shrink = 1");
    assert_ne!(whole, altered);
    fs::write(&path, altered).unwrap();
    fails(dir, &["--run", "runs/llmbs", "index"], &["config.toml", "does not match manifest.json"]);
    fs::write(&path, &whole).unwrap();
    run(dir, &["--run", "runs/llmbs", "index"], 0);
    assert_eq!(fs::read_to_string(&path).unwrap(), whole);
    // Who names another has it put in its place.
    fs::write(&path, whole.replace("shrink = ", "shrink = 1")).unwrap();
    let (_, log) = run(dir, &[&slow[..], &["index"]].concat(), 0);
    assert!(log.contains("config.toml: was gone, or not the one"), "{log}");
    assert_eq!(fs::read_to_string(&path).unwrap(), whole);
}

#[test]
fn what_a_process_left_behind_that_had_all_in_its_place_is_cleared_away() {
    let dir = tiny();
    let dir = dir.path();
    train(dir, &[]);
    run(dir, &["train", "--stage", "anneal"], 0);
    let stands = |command: &[&str], stage: &str| {
        let words = [&["--config", "llmbs.toml"], command].concat();
        fs::create_dir_all(of_run(dir, &format!("unfinished/{stage}/result"))).unwrap();
        let config = read(dir, "config.toml");
        fs::remove_file(of_run(dir, "config.toml")).unwrap();
        let told = run(dir, &words, 0).0;
        assert!(told.contains("already") || told.contains("imported from"), "{words:?}: {told}");
        assert!(!of_run(dir, "unfinished").exists(), "{words:?}");
        assert!(read(dir, "config.toml") == config, "{words:?}");
    };
    stands(&["index"], "index");
    stands(&["train", "--stage", "initial"], "initial");
    stands(&["train", "--stage", "anneal"], "anneal");

    fs::rename(of_run(dir, "anneal"), dir.join("other")).unwrap();
    run(dir, &["import-adapter", "other", "--force"], 0);
    stands(&["import-adapter", "other"], "anneal");
    fs::rename(of_run(dir, "index"), dir.join("others-index")).unwrap();
    let import = ["index", "import", "others-index/index.json"];
    run(dir, &[&import[..], &["--force"]].concat(), 0);
    stands(&import, "index");

    // The next command does it, too, and what is left is no training that would be lost.
    fs::create_dir_all(of_run(dir, "unfinished/index/result")).unwrap();
    run(dir, &["train", "--stage", "initial"], 0);
    assert!(!of_run(dir, "unfinished").exists());
    fs::create_dir_all(of_run(dir, "unfinished/anneal/state")).unwrap();
    run(dir, &["import-adapter", "other"], 0);
    assert!(!of_run(dir, "unfinished").exists());
}

/// Killed when the manifest was written and said nothing of the configuration, which was not.
#[test]
fn a_configuration_that_was_not_written_yet_is() {
    let dir = tiny();
    let dir = dir.path();
    run(dir, &["index"], 0);
    let config = read(dir, "config.toml");
    fs::remove_file(of_run(dir, "config.toml")).unwrap();
    let mut found = manifest(dir);
    assert!(found.as_object_mut().unwrap().remove("config_sha256").is_some(), "{found}");
    write_manifest(dir, found);
    run(dir, &["--config", "llmbs.toml", "index"], 0);
    assert!(read(dir, "config.toml") == config);
    run(dir, &["--run", "runs/llmbs", "index"], 0);
}

#[test]
fn an_import_that_is_killed_leaves_the_one_that_stands() {
    let dir = tiny();
    let dir = dir.path();
    // All that decides the codes has its default, and an import says nothing of it.
    let words = |more: &[&'static str]| {
        let defaults = [
            "index.semantic.k=256",
            "index.behavior.k=256",
            "index.behavior.din.dim=64",
            "index.behavior.din.epochs=20",
        ];
        [&defaults.map(|setting| ["--set", setting]).concat(), more].concat()
    };
    run(dir, &words(&["--run", "made", "index"]), 0);
    let file = dir.join("made/index/index.json");
    let codes = fs::read_to_string(&file).unwrap();
    run(dir, &words(&["index", "import", "made/index/index.json"]), 0);
    let before = manifest(dir);
    // Another one was to take its place.
    let mut found = before.clone();
    let mut begun = found["stages"]["index"].clone();
    begun["status"] = "running".into();
    begun["outputs"] = json!({});
    found["unfinished"] = json!({ "index": begun });
    write_manifest(dir, found);

    let told = run(dir, &words(&["index"]), 0).0;
    assert!(told.contains("was imported from"), "{told}");
    assert_eq!(manifest(dir)["stages"], before["stages"]);
    assert_eq!(fs::read_to_string(of_run(dir, "index/index.json")).unwrap(), codes);
}
