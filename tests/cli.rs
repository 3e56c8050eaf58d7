//! The program as a user meets it: what it prints, where, and how it fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::program::{fails, run, tiny};

#[test]
fn the_whole_pipeline_runs_stage_by_stage_and_knows_what_is_done() {
    let dir = tiny();
    let dir = dir.path();
    fails(dir, &["train", "--stage", "initial"], &["run `llmbs index` first"]);
    fails(dir, &["eval"], &["run `llmbs index` first"]);
    let (stdout, _) = run(dir, &["index"], 0);
    assert!(stdout.contains("index.json"), "{stdout}");
    fails(dir, &["train", "--stage", "anneal"], &["run `llmbs train --stage initial` first"]);
    run(dir, &["train", "--stage", "initial"], 0);
    let (off, _) = run(dir, &["eval", "--json"], 0);
    let off: serde_json::Value = serde_json::from_str(&off).unwrap();
    assert_eq!(off["settings"]["adapter"], "off");
    run(dir, &["train", "--stage", "anneal"], 0);

    let (table, _) = run(dir, &["eval"], 0);
    for word in ["recall@10", "ndcg@10", "mrr@20", "popularity", "adapter on", "adapter off"] {
        assert!(table.contains(word), "{word} is not in {table}");
    }
    let (json, _) = run(dir, &["eval", "--json"], 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["adapter_off"], off["metrics"]);
    assert_eq!(json["settings"]["beam"], 20);
    assert!(json["popularity"]["recall@10"].is_number());
    let results = dir.join("runs/llmbs/eval");
    let predictions = fs::read_to_string(results.join("test-on-b20.predictions.jsonl")).unwrap();
    let first: serde_json::Value =
        serde_json::from_str(predictions.lines().next().unwrap()).unwrap();
    assert_eq!(first["items"].as_array().unwrap().len(), 20);
    assert_eq!(predictions.lines().count(), 80);

    // What is finished says so, and changes nothing.
    let model = fs::read(dir.join("runs/llmbs/initial/model.safetensors")).unwrap();
    let (stdout, _) = run(dir, &["train", "--stage", "initial"], 0);
    assert!(stdout.contains("finished already"), "{stdout}");
    run(dir, &["run"], 0);
    assert_eq!(fs::read(dir.join("runs/llmbs/initial/model.safetensors")).unwrap(), model);

    // A changed setting is named, not overwritten.
    fails(dir, &["--set", "index.k=9", "index"], &["index.k was 8, is now 9", "--force"]);
    fails(dir, &["--set", "train.initial.batch=16", "eval"], &["train.initial.batch"]);

    let (stdout, _) = run(dir, &["recommend", "--history", "1,2", "--top", "3"], 0);
    assert_eq!(stdout.lines().count(), 4, "{stdout}");
    let user = ["recommend", "--user", first["user"].as_str().unwrap(), "--json"];
    let items: serde_json::Value = serde_json::from_str(&run(dir, &user, 0).0).unwrap();
    assert_eq!(items.as_array().unwrap().len(), 10);
    fails(dir, &["recommend", "--history", "1,9999"], &["9999"]);
    fails(dir, &["recommend", "--user", "nobody"], &["nobody"]);

    // Redoing the index makes what was built on it stale, and `run` builds it again.
    run(dir, &["index", "--force"], 0);
    fails(dir, &["eval"], &["train --stage initial"]);
    let (again, _) = run(dir, &["run"], 0);
    assert_eq!(again, table, "the same seed gives the same metrics");
}

#[test]
fn threads_do_not_change_the_result() {
    let dir = tiny();
    let table = |threads: &str| {
        run(dir.path(), &["--threads", threads, "--run", &format!("t{threads}"), "run"], 0).0
    };
    assert_eq!(table("1"), table("2"));
}

#[test]
fn usage_errors_exit_with_two() {
    let dir = tiny();
    run(dir.path(), &["train"], 2);
    run(dir.path(), &["recommend"], 2);
    run(dir.path(), &["fly"], 2);
    run(dir.path(), &["--device", "tpu", "index"], 2);
}

#[test]
fn configuration_mistakes_are_named() {
    let dir = tiny();
    let dir = dir.path();
    fails(dir, &["--set", "index.kk=3", "config"], &["kk"]);
    fails(dir, &["--set", "index", "config"], &["key=value"]);
    fails(dir, &["--set", "eval.beam=0", "config"], &["eval.beam"]);
    fs::write(dir.join("bad.toml"), "[index]\nsource = \"both\"\n").unwrap();
    fails(dir, &["--config", "bad.toml", "config"], &["bad.toml", "both"]);
    fails(dir, &["--config", "absent.toml", "config"], &["absent.toml"]);
    fails(dir, &["--set", "index.k=2", "index"], &["k"]);
    assert!(!dir.join("runs/llmbs/index").exists());
    fails(dir, &["--set", "backbone.dtype=bf16", "--device", "cpu", "index"], &["bf16", "f32"]);
    fails(dir, &["--set", "backbone.path=no/such.gguf", "index"], &["no/such.gguf"]);
}

#[test]
fn datasets_are_written_read_and_refused() {
    let dir = tiny();
    let dir = dir.path();
    let (stdout, _) = run(dir, &["data", "synth", "--out", "Shop"], 0);
    assert!(stdout.contains("Recall@10 of an oracle"), "{stdout}");
    let (stats, _) = run(dir, &["--set", "data.path=Shop", "data", "stats", "--json"], 0);
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["items"], 60);

    fails(dir, &["--set", "data.path=Nowhere", "data", "stats"], &["Nowhere", "inter.json"]);
    let inter = dir.join("Shop/Shop.inter.json");
    let whole = fs::read_to_string(&inter).unwrap();
    fs::write(&inter, &whole[..whole.len() / 2]).unwrap();
    fails(dir, &["--set", "data.path=Shop", "data", "stats"], &["Shop.inter.json:"]);

    // Without texts, a source that needs them is refused with the way out.
    fs::write(&inter, whole).unwrap();
    fs::remove_file(dir.join("Shop/Shop.item.json")).unwrap();
    let index = ["--set", "data.path=Shop", "index"];
    fails(dir, &index, &["no item texts", "index.source = \"behavior\""]);
    let mut behavior = index.to_vec();
    behavior.extend(["--set", "index.source=behavior"]);
    run(dir, &behavior, 0);
}

#[test]
fn the_resolved_configuration_runs_as_a_file() {
    let dir = tiny();
    let (config, _) = run(dir.path(), &["--seed", "7", "config"], 0);
    assert!(config.contains("seed = 7"));
    fs::write(dir.path().join("resolved.toml"), &config).unwrap();
    let (again, _) = run(dir.path(), &["--config", "resolved.toml", "config"], 0);
    assert_eq!(again, config);
}
