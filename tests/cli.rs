//! The program as a user meets it: what it prints, where, and how it fails.

use std::fs;
use std::path::Path;

use crate::common::program::{fails, run, tiny, train};

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
    // By the shop's own ids too, which name the same items.
    let raw_id = |item: &serde_json::Value| format!("S{:05}", item.as_u64().unwrap());
    assert_eq!(first["target_raw_id"], raw_id(&first["target"]));
    let items = first["items"].as_array().unwrap().iter();
    let raw_ids = first["raw_ids"].as_array().unwrap();
    assert!(items.zip(raw_ids).all(|(item, raw)| *raw == raw_id(item)), "{first}");
    assert_eq!(predictions.lines().count(), 80);

    // What is finished says so, and changes nothing.
    let model = fs::read(dir.join("runs/llmbs/initial/model.safetensors")).unwrap();
    let (stdout, _) = run(dir, &["train", "--stage", "initial"], 0);
    assert!(stdout.contains("finished already"), "{stdout}");
    run(dir, &["run"], 0);
    assert_eq!(fs::read(dir.join("runs/llmbs/initial/model.safetensors")).unwrap(), model);

    // How much of a history a model reads is nothing to the index.
    let (stdout, _) = run(dir, &["--set", "data.history=5", "index"], 0);
    assert!(stdout.contains("finished already"), "{stdout}");
    fails(dir, &["--set", "data.history=5", "train", "--stage", "initial"], &["data.history was"]);

    // Options may stand on both sides of a subcommand: settings add up, of all else there is one.
    let (told, _) = run(dir, &["--set", "eval.beam=7", "config", "--set", "eval.batch=9"], 0);
    assert!(told.contains("beam = 7") && told.contains("batch = 9"), "{told}");
    let (_, told) = run(dir, &["--seed", "1", "config", "--seed=2"], 2);
    assert!(told.contains("'--seed' cannot be used multiple times"), "{told}");
    let (_, told) = run(dir, &["--set", "seed = 1", "config", "--seed", "2"], 2);
    assert!(told.contains("'--seed <N>' cannot be used with '--set seed=N'"), "{told}");
    let (_, told) = run(dir, &["-q", "config", "-v"], 2);
    assert!(told.contains("'--verbose...' cannot be used with '--quiet'"), "{told}");

    // A changed setting is named, not overwritten.
    fails(
        dir,
        &["--set", "index.semantic.k=9", "index"],
        &["index.semantic.k was 8, is now 9", "--force"],
    );
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
    let (beside, _) = run(dir, &["run"], 0);
    for text in [
        "sasrec        item-knn      adapter on   on + item-knn     adapter off  off + item-knn",
        "adapter on, beside SASRec",
        "adapter on, with item-knn, beside SASRec",
        "adapter off, with item-knn, beside SASRec",
        "history left out  recall@10",
        "adapter off: ranked with item-knn seed 42, weight",
        "llmbs recommend --fuse item-knn",
    ] {
        assert!(beside.contains(text), "{text} is not in {beside}");
    }
    assert_eq!(run(dir, &["eval"], 0).0, table, "the same seed gives the same metrics");
    // What `run` has counted and weighed is there to recommend by.
    let alone = run(dir, &[&user[..], &["--exclude-history"]].concat(), 0).0;
    let fused = run(dir, &[&user[..], &["--exclude-history", "--fuse", "item-knn"]].concat(), 0).0;
    assert_ne!(fused, alone);
}

#[test]
fn an_evaluation_says_how_sure_it_is_for_whom_it_works_and_how_it_was_made() {
    let dir = tiny();
    let dir = dir.path();
    run(dir, &["index"], 0);
    run(dir, &["train", "--stage", "initial"], 0);
    let (table, _) = run(dir, &["eval", "--beam", "5,60"], 0);
    for text in ["beam 5 ", "beam 60 (all)", "±", "coverage@10", "legal rate", "by history"] {
        assert!(table.contains(text), "{text} is not in {table}");
    }
    let (json, _) = run(dir, &["eval", "--beam", "5,60", "--json"], 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let exhaustive: Vec<_> = (0..2).map(|i| json[i]["settings"]["exhaustive"].as_bool()).collect();
    assert_eq!(exhaustive, [Some(false), Some(true)]);
    for evaluation in json.as_array().unwrap() {
        for (name, value) in evaluation["metrics"].as_object().unwrap() {
            let bound = |i: usize| evaluation["intervals"][name][i].as_f64().unwrap();
            let value = value.as_f64().unwrap();
            assert!(bound(0) <= value && value <= bound(1), "{name} of {evaluation}");
        }
        for buckets in ["by_history", "by_popularity"] {
            let buckets = evaluation[buckets].as_array().unwrap();
            let users: u64 = buckets.iter().map(|b| b["targets"].as_u64().unwrap()).sum();
            assert_eq!(users, 80);
        }
        let share = |value: &serde_json::Value| value.as_f64().filter(|s| (0.0..=1.0).contains(s));
        assert!(share(&evaluation["legal_rate"]["share"]).is_some(), "{evaluation}");
        // All users are asked, so that the search with the trie is worth what the whole evaluation says.
        assert_eq!(evaluation["legal_rate"]["users"], 80);
        assert_eq!(evaluation["legal_rate"]["metrics_with_trie"], evaluation["metrics"]);
        assert!(share(&evaluation["legal_rate"]["metrics"]["recall@10"]).is_some(), "{evaluation}");
        let coverage = |key: &str| share(&evaluation["coverage"][key]).unwrap();
        assert!(
            0.0 < coverage("coverage@10") && coverage("coverage@10") <= coverage("coverage@20")
        );
        let settings = &evaluation["settings"];
        for (key, value) in [
            ("length_penalty", "none"),
            ("eos", "never"),
            ("dtype", "f32"),
            ("precision", "f32"),
            ("normalize", "level"),
        ] {
            assert_eq!(settings[key], value, "{key}");
        }
        assert_eq!((&settings["history"], &settings["limit"]), (&20.into(), &().into()));
    }
    // A beam as wide as the catalogue leaves nothing out.
    let predictions = dir.join("runs/llmbs/eval/test-off-b60.predictions.jsonl");
    let predictions = fs::read_to_string(predictions).unwrap();
    for line in predictions.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["items"].as_array().unwrap().len(), 60);
    }
    fails(dir, &["eval", "--beam", "5,0"], &["--beam"]);

    // The second rule leaves out what a user has, and keeps the order of the rest.
    run(dir, &["data", "synth", "--out", "Shop"], 0);
    fails(dir, &["data", "synth", "--out", "Shop"], &["Shop", "--force"]);
    fails(dir, &["data", "synth", "--out", "."], &["folder of its own"]);
    run(dir, &["data", "synth", "--out", "Shop", "--force"], 0);
    let shop = fs::read_to_string(dir.join("Shop/Shop.inter.json")).unwrap();
    let shop: serde_json::Value = serde_json::from_str(&shop).unwrap();
    let mut found = 0;
    for line in predictions.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let taken = shop[line["user"].as_str().unwrap()].as_array().unwrap();
        let taken = &taken[..taken.len() - 1];
        let mut left = line["items"].as_array().unwrap().clone();
        left.retain(|item| !taken.contains(item));
        let rank = left.iter().position(|item| *item == line["target"]).map(|at| at + 1);
        assert_eq!(line["rank_history_excluded"], serde_json::json!(rank));
        found += usize::from(rank.is_some_and(|rank| rank <= 10));
    }
    let recall = f64::from(found as u32) / predictions.lines().count() as f64;
    let stated = json[1]["metrics_history_excluded"]["recall@10"].as_f64().unwrap();
    assert!((stated - recall).abs() < 1e-12, "{stated}, counted {recall}");
}

#[test]
fn runs_are_compared_user_by_user_or_refused_with_the_reason() {
    let dir = tiny();
    let dir = dir.path();
    for seed in ["1", "2"] {
        train(dir, &["--run", seed, "--seed", seed]);
    }
    let compare = |other| ["--run", "1", "eval", "--compare", other];
    let command = "run `llmbs --run 2 eval --split test --adapter off --beam 20` first";
    fails(dir, &compare("2"), &["test-off-b20", command]);
    assert!(!dir.join("1/eval").exists(), "it is refused before the work");
    run(dir, &["--run", "2", "eval", "--split", "test", "--adapter", "off", "--beam", "20"], 0);
    let (table, _) = run(dir, &compare("2"), 0);
    for text in
        ["against 2: adapter off, beam 20, paired over 80 targets", "seed (1 here, 2 there)"]
    {
        assert!(table.contains(text), "{text} is not in {table}");
    }
    let (json, _) = run(dir, &[&compare("2")[..], &["--json"]].concat(), 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let result = dir.join("2/eval/test-off-b20.json");
    let mut other: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&result).unwrap()).unwrap();
    // As a version wrote it that had no digests.
    for digest in ["sha256", "lines_sha256"] {
        assert!(other.as_object_mut().unwrap().remove(digest).is_some());
    }
    for (name, difference) in json["comparison"]["metrics"].as_object().unwrap() {
        assert_eq!(difference["this"], json["metrics"][name]);
        assert_eq!(difference["other"], other["metrics"][name]);
        let p = difference["p_value"].as_f64().unwrap();
        assert!(0.0 < p && p <= 1.0, "{name}: {p}");
    }
    let (json, _) = run(dir, &[&compare("1")[..], &["--json"]].concat(), 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["comparison"]["metrics"]["ndcg@10"]["p_value"], 1.0);

    for (key, reason) in [
        ("interactions_fingerprint", "its dataset is not this run's"),
        ("targets", "its number of targets is not this run's"),
        ("split_rule", "its division of the data is not this run's"),
        ("model_digest", "its models were made again"),
    ] {
        let mut changed = other.clone();
        changed["settings"][key] = "of another".into();
        fs::write(&result, changed.to_string()).unwrap();
        fails(dir, &compare("2"), &[reason]);
    }
    fs::write(&result, other.to_string()).unwrap();
    let predictions = dir.join("2/eval/test-off-b20.predictions.jsonl");
    let text = fs::read_to_string(&predictions).unwrap();
    fs::write(&predictions, text.replacen("{\"user\":\"", "{\"user\":\"un", 1)).unwrap();
    fails(dir, &compare("2"), &["1 and 2 cannot be compared", "predictions only"]);
    fs::write(&predictions, &text[..text.len() / 2]).unwrap();
    fails(dir, &compare("2"), &["test-off-b20.predictions.jsonl:"]);
}

#[test]
fn threads_do_not_change_the_result() {
    let dir = tiny();
    let table = |threads: &str| {
        run(dir.path(), &["--threads", threads, "--run", &format!("t{threads}"), "run"], 0).0
    };
    assert_eq!(table("1"), table("2"));
    for file in [
        "backbone/model.safetensors",
        "index/index.json",
        "index/semantic.safetensors",
        "index/behavior.safetensors",
        "index/tree.safetensors",
        "initial/model.safetensors",
        "anneal/adapter_model.safetensors",
    ] {
        let [one, two] = ["t1", "t2"].map(|run| fs::read(dir.path().join(run).join(file)).unwrap());
        assert!(one == two, "{file} differs");
    }
}

#[test]
fn usage_errors_exit_with_two() {
    let dir = tiny();
    run(dir.path(), &["train"], 2);
    run(dir.path(), &["recommend"], 2);
    run(dir.path(), &["fly"], 2);
    run(dir.path(), &["--device", "tpu", "index"], 2);
    let (_, threads) = run(dir.path(), &["--threads", "100000", "index"], 2);
    assert!(threads.contains("1..=1024"), "{threads}");
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
    fails(dir, &["--set", "index.behavior.k=2", "index"], &["k = 2"]);
    assert!(!dir.join("runs/llmbs/index").exists());
    fails(dir, &["--set", "backbone.path=no/such.gguf", "index"], &["no/such.gguf"]);
}

#[test]
fn weights_may_be_bf16_from_the_first_stage_to_the_last() {
    let dir = tiny();
    let dir = dir.path();
    let run = |words: &[&str]| {
        run(dir, &[&["--set", "backbone.dtype=bf16", "--device", "cpu"], words].concat(), 0).0
    };
    run(&["run"]);
    let evaluation: serde_json::Value = serde_json::from_str(&run(&["eval", "--json"])).unwrap();
    assert_eq!(evaluation["settings"]["dtype"], "bf16");
    assert!(run(&["eval", "--task", "text", "--limit", "5"]).contains("perplexity"));
    assert!(!run(&["generate", "--prompt", "the", "--max-tokens", "3"]).is_empty());
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

    // An item without texts is likened to those taken beside it.
    fs::write(&inter, whole).unwrap();
    let items = dir.join("Shop/Shop.item.json");
    let mut texts: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&items).unwrap()).unwrap();
    texts["7"] = serde_json::json!({ "item_id": texts["7"]["item_id"] });
    fs::write(&items, texts.to_string()).unwrap();
    let index = ["--set", "data.path=Shop", "index"];
    let (_, stderr) = run(dir, &[&["--run", "runs/one"][..], &index].concat(), 0);
    assert!(stderr.contains("1 of 60 items have no text in index.semantic.fields"), "{stderr}");
    // Without any, a source that needs them is refused with the way out.
    fs::remove_file(items).unwrap();
    fails(dir, &index, &["no item texts", "index.source = \"behavior\""]);
    let mut behavior = index.to_vec();
    behavior.extend(["--set", "index.source=behavior"]);
    run(dir, &behavior, 0);
}

#[test]
fn init_writes_a_configuration_that_runs_from_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let shop = ["data.synthetic.users=150", "data.synthetic.items=50", "data.synthetic.groups=5"];
    let shop = shop.iter().flat_map(|set| ["--set", set]);
    run(dir, &shop.chain(["data", "synth", "--out", "Shop"]).collect::<Vec<_>>(), 0);
    let (told, _) = run(dir, &["init", "Shop"], 0);
    assert!(told.contains("`llmbs run`"), "{told}");
    let (config, _) = run(dir, &["config"], 0);
    let path = fs::canonicalize(dir).unwrap().join("Shop");
    assert!(config.contains(&format!("path = {:?}", path.display().to_string())), "{config}");
    fs::create_dir(dir.join("elsewhere")).unwrap();
    let (again, _) = run(&dir.join("elsewhere"), &["--config", "../llmbs.toml", "config"], 0);
    assert_eq!(again.matches("elsewhere").count(), 1, "{again}");
    // What is there is kept.
    fs::write(dir.join("llmbs.toml"), "seed = 7\n").unwrap();
    fails(dir, &["init", "Shop"], &["llmbs.toml", "--force", "--out"]);
    assert_eq!(fs::read_to_string(dir.join("llmbs.toml")).unwrap(), "seed = 7\n");
    run(dir, &["init", "Shop", "--force"], 0);
    run(dir, &["init", "Shop", "--out", "elsewhere/shop.toml"], 0);
    let (stats, _) = run(dir, &["--config", "elsewhere/shop.toml", "data", "stats"], 0);
    assert!(stats.contains("users                  150"), "{stats}");
    fails(dir, &["init", "Nowhere", "--force"], &["Nowhere", "inter.json"]);
    // What it does not go by is refused.
    for (flag, value) in [("--set", "seed=1"), ("--seed", "1"), ("--run", "a"), ("--config", "a")] {
        fails(dir, &[flag, value, "init", "Shop", "--force"], &[flag, "leave"]);
    }
    run(dir, &["--seed", "1", "bench", "kmeans", "--items", "40", "--dim", "4", "--k", "8"], 0);
    // A broken configuration is nothing to a command that needs none.
    fs::write(dir.join("llmbs.toml"), "seed =").unwrap();
    run(dir, &["data", "export", "Shop", "--format", "lcrec", "--out", "Copy"], 0);
    fails(dir, &["data", "export", "--format", "lcrec", "--out", "Other"], &["llmbs.toml"]);
}

#[test]
fn shells_and_man_know_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for shell in ["bash", "zsh", "fish"] {
        let (text, _) = run(dir, &["completions", shell], 0);
        assert!(text.contains("recommend") && text.contains("init"), "{shell}");
    }
    run(dir, &["man", "--out", "pages"], 0);
    for page in ["llmbs.1", "llmbs-recommend.1", "llmbs-bench-train.1"] {
        assert!(
            fs::read_to_string(dir.join("pages").join(page)).unwrap().contains(".TH"),
            "{page}"
        );
    }
}

#[test]
fn the_resolved_configuration_runs_as_a_file() {
    let dir = tiny();
    let (config, _) = run(dir.path(), &["--seed", "7", "config"], 0);
    assert!(config.contains("seed = 7"));
    fs::write(dir.path().join("resolved.toml"), &config).unwrap();
    let (again, _) = run(dir.path(), &["--config", "resolved.toml", "config"], 0);
    assert_eq!(again, config);
    // That of a run is that of its folder.
    run(dir.path(), &["--run", "runs/one", "baseline", "popularity"], 0);
    fs::copy(dir.path().join("resolved.toml"), dir.path().join("runs/one/config.toml")).unwrap();
    run(dir.path(), &["--config", "runs/one/config.toml", "baseline", "popularity"], 0);
    let entries = fs::read_dir(dir.path().join("runs")).unwrap();
    assert_eq!(entries.map(|e| e.unwrap().file_name()).collect::<Vec<_>>(), ["one"]);
}

/// Runs the program with stdout somewhere, and gives its exit code and stderr.
fn with_stdout(dir: &Path, args: &[&str], stdout: std::process::Stdio) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("llmbs"));
    let child = command
        .current_dir(dir)
        .args(args)
        .stdin(std::process::Stdio::null())
        .stdout(stdout)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
#[cfg(target_os = "linux")]
fn a_closed_pipe_ends_quietly_and_a_full_disk_is_an_error() {
    let dir = tiny();
    let dir = dir.path();
    run(dir, &["run"], 0);
    fs::write(dir.join("requests.jsonl"), "{\"history\": [1, 2]}\n").unwrap();
    fs::write(dir.join("new.json"), r#"{"NEW-1": {"title": "rose soap"}}"#).unwrap();
    let commands: [&[&str]; 19] = [
        &["config"],
        &["data", "stats"],
        &["data", "stats", "--json"],
        &["data", "synth", "--out", "Shop"],
        &["index"],
        &["index", "report"],
        &["index", "report", "--json"],
        &["index", "report", "--token", "a_0"],
        &["index", "add", "new.json"],
        &["train", "--stage", "anneal"],
        &["eval"],
        &["eval", "--json"],
        &["eval", "--task", "text"],
        &["recommend", "--history", "1,2"],
        &["recommend", "--history", "1,2", "--json"],
        &["recommend", "--batch", "requests.jsonl"],
        &["generate", "--prompt", "rose", "--max-tokens", "2"],
        &["bench", "kmeans", "--items", "40", "--dim", "4", "--k", "8", "--json"],
        &["baseline", "sasrec", "--json"],
    ];
    for args in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (code, stderr) = with_stdout(dir, args, writer.into());
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked") && !stderr.contains("error:"), "{args:?}: {stderr}");
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        // What has been added is not added twice.
        let _ = fs::remove_file(dir.join("runs/llmbs/added.json"));
        let _ = fs::remove_dir_all(dir.join("Shop"));
        let (code, stderr) = with_stdout(dir, args, full.into());
        assert_eq!(code, Some(1), "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked") && stderr.contains("stdout"), "{args:?}: {stderr}");
    }
}

#[test]
fn folders_of_others_are_left_alone() {
    let dir = tiny();
    let dir = dir.path();
    for (folder, file) in [("index", "p.txt"), ("backbone", "q.txt"), ("index.new", "r.txt")] {
        let theirs = dir.join("theirs").join(folder);
        fs::create_dir_all(&theirs).unwrap();
        fs::write(theirs.join(file), "theirs").unwrap();
    }
    for command in [&["run"][..], &["index"], &["baseline", "sasrec"], &["eval"]] {
        let args = [&["--run", "theirs"], command].concat();
        fails(dir, &args, &["theirs: holds", "not a run of llmbs", "--run"]);
    }
    for file in ["index/p.txt", "backbone/q.txt", "index.new/r.txt"] {
        assert_eq!(fs::read_to_string(dir.join("theirs").join(file)).unwrap(), "theirs");
    }
    // An empty folder is as good as none.
    fs::create_dir(dir.join("empty")).unwrap();
    run(dir, &["--run", "empty", "index"], 0);
}

#[test]
fn altered_and_lost_files_are_told() {
    let dir = tiny();
    let dir = dir.path();
    run(dir, &["run"], 0);
    let file = |name: &str| dir.join("runs/llmbs").join(name);
    for (name, args) in [
        ("anneal/adapter_config.json", &["eval"][..]),
        ("anneal/adapter_model.safetensors", &["recommend", "--history", "1"]),
        ("initial/tokenizer.json", &["generate", "--prompt", "rose"]),
        ("initial/model.safetensors", &["train", "--stage", "anneal", "--force"]),
        ("index/behavior.safetensors", &["train", "--stage", "initial", "--force"]),
    ] {
        let whole = fs::read(file(name)).unwrap();
        let mut altered = whole.clone();
        *altered.last_mut().unwrap() ^= 1;
        fs::write(file(name), &altered).unwrap();
        fails(dir, args, &[name, "not the file that `llmbs"]);
        fs::write(file(name), &whole).unwrap();
    }
    // A stage that is through looks at all it wrote.
    for (name, command) in [
        ("index/tree.safetensors", &["index"][..]),
        ("backbone/generation_config.json", &["index"]),
        ("initial/tokenizer_config.json", &["train", "--stage", "initial"]),
        ("anneal/adapter_model.safetensors", &["train", "--stage", "anneal"]),
        ("config.toml", &["--run", "runs/llmbs", "data", "stats"]),
    ] {
        let whole = fs::read(file(name)).unwrap();
        fs::remove_file(file(name)).unwrap();
        fails(dir, command, &[name, "is gone"]);
        let mut altered = whole.clone();
        altered[0] ^= 1;
        fs::write(file(name), &altered).unwrap();
        fails(dir, command, &[name]);
        fs::write(file(name), &whole).unwrap();
        run(dir, command, 0);
    }
    // Results and their lines tell of damage too, and so does what is known of the run.
    for name in ["eval/test-on-b20.json", "eval/test-on-b20.predictions.jsonl", "manifest.json"] {
        let whole = fs::read_to_string(file(name)).unwrap();
        let digit = whole.find(|c: char| c.is_ascii_digit()).unwrap();
        let mut altered = whole.clone().into_bytes();
        altered[digit] ^= 1;
        fs::write(file(name), &altered).unwrap();
        fails(dir, &["eval"], &[name, "cut off or altered", "put it back"]);
        fs::write(file(name), &whole).unwrap();
    }
    // Without z^s the contrastive loss would be another one.
    fs::remove_file(file("index/semantic.safetensors")).unwrap();
    fails(dir, &["train", "--stage", "initial", "--force"], &["index/semantic.safetensors"]);
    run(dir, &["eval"], 0);
}
