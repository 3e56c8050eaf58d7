//! `llmbs baseline` as a user meets it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::common::program::{copy, fails, ids, run, tiny};
use llmbs::files::Exclusive;
use serde_json::Value;

/// Settings with which a baseline is trained in a moment.
const SMALL: [&str; 6] = [
    "--set",
    "baseline.sasrec.dim=16",
    "--set",
    "baseline.sasrec.feed-forward=32",
    "--set",
    "baseline.sasrec.epochs=4",
];

fn baseline<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [&SMALL[..], &["baseline", "sasrec"], words].concat()
}

fn json(dir: &Path, words: &[&str]) -> Value {
    let words = [words, &["--json"]].concat();
    serde_json::from_str(&run(dir, &baseline(&words), 0).0).unwrap()
}

#[test]
fn a_baseline_is_trained_evaluated_and_known_to_be_there() {
    let dir = tiny();
    let dir = dir.path();
    let first = json(dir, &["--seeds", "3"]);
    for (name, value) in first["metrics"].as_object().unwrap() {
        let bound = |i: usize| first["intervals"][name][i].as_f64().unwrap();
        let value = value.as_f64().unwrap();
        assert!(bound(0) <= value && value <= bound(1), "{name} of {first}");
        assert!(first["popularity"][name].is_number());
    }
    let settings = &first["settings"];
    assert_eq!((&settings["seed"], &settings["targets"]), (&3.into(), &80.into()));
    assert_eq!((&settings["split"], &settings["history"]), (&"test".into(), &20.into()));
    assert_eq!(settings["config"]["dim"], 16);
    assert!(settings["dataset_fingerprint"].is_string());

    let folder = dir.join("runs/llmbs/baseline/sasrec/seed-3");
    let training: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("training.json")).unwrap()).unwrap();
    let epochs = training["epochs"].as_array().unwrap();
    let figure = |epoch: &Value| epoch["validation_ndcg@10"].as_f64().unwrap();
    let best = epochs.iter().map(figure).fold(0.0, f64::max);
    let chosen = training["best_epoch"].as_u64().unwrap() as usize;
    assert_eq!(figure(&epochs[chosen - 1]), best);
    let predictions = fs::read_to_string(folder.join("test.predictions.jsonl")).unwrap();
    assert_eq!(predictions.lines().count(), 80);
    for line in predictions.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let mut items: Vec<u64> =
            line["items"].as_array().unwrap().iter().map(|i| i.as_u64().unwrap()).collect();
        items.sort_unstable();
        items.dedup();
        assert_eq!(items.len(), 20);
    }

    // The model that the validation split chose is the one that is evaluated, from its file too.
    let valid = json(dir, &["--seeds", "3", "--split", "valid"]);
    assert_eq!(valid["metrics"]["ndcg@10"], best);

    let model = fs::read(folder.join("model.safetensors")).unwrap();
    let (table, log) = run(dir, &baseline(&["--seeds", "3"]), 0);
    assert!(log.contains("is there already") && log.contains("--force"), "{log}");
    for word in ["recall@10", "ndcg@10", "mrr@20", "popularity", "sasrec", "±", "seed 3"] {
        assert!(table.contains(word), "{word} is not in {table}");
    }
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), model);
    fails(
        dir,
        &["--set", "baseline.sasrec.dim=8", "baseline", "sasrec", "--seeds", "3"],
        &["baseline.sasrec.dim was 16, is now 8", "--force"],
    );
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), model);
    let (again, log) = run(dir, &baseline(&["--seeds", "3", "--force"]), 0);
    assert!(log.contains("written"), "{log}");
    assert_eq!(again, table, "the same seed gives the same model");
}

#[test]
fn every_baseline_is_trained_kept_and_read_again() {
    let dir = tiny();
    let dir = dir.path();
    for name in ["popularity", "item-knn", "gru4rec", "caser", "hgn", "bert4rec", "fdsa", "s3rec"] {
        let few = format!("baseline.{name}.epochs=2");
        let trains = !["popularity", "item-knn"].contains(&name);
        let mut set = if trains { vec!["--set", &few] } else { Vec::new() };
        if name == "s3rec" {
            set.extend(["--set", "baseline.s3rec.pretraining-epochs=2"]);
        }
        let words = |more: &[&'static str]| [&set[..], &["baseline", name], more].concat();
        let json = |more: &[&'static str]| -> Value {
            serde_json::from_str(&run(dir, &words(&[more, &["--json"]].concat()), 0).0).unwrap()
        };
        let test = json(&[]);
        assert_eq!(
            (&test["settings"]["targets"], &test["settings"]["seed"]),
            (&80.into(), &42.into())
        );
        let folder = dir.join(format!("runs/llmbs/baseline/{name}/seed-42"));
        let training: Value =
            serde_json::from_slice(&fs::read(folder.join("training.json")).unwrap()).unwrap();
        assert_eq!(training["epochs"].as_array().unwrap().len(), if trains { 2 } else { 0 });
        // From its file it says what it said when it was trained, for every user and both rules.
        let lines = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
        let first = lines("test.predictions.jsonl");
        fs::remove_file(folder.join("test.json")).unwrap();
        fs::remove_file(folder.join("test.predictions.jsonl")).unwrap();
        let again = json(&[]);
        assert_eq!(again["metrics"], test["metrics"], "{name}");
        assert_eq!(first, lines("test.predictions.jsonl"), "{name}");
        let table = run(dir, &words(&[]), 0).0;
        assert_eq!(table.contains("trained for 2 epochs"), trains, "{table}");
        if name == "popularity" {
            assert_eq!(test["metrics"], test["popularity"]);
        }
    }
}

#[test]
fn all_baselines_stand_in_one_table_and_what_the_data_lack_is_said() {
    let dir = tiny();
    let dir = dir.path();
    run(dir, &["data", "synth", "--out", "shop"], 0);
    let path = dir.join("shop/shop.item.json");
    let mut items: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for item in items.as_object_mut().unwrap().values_mut() {
        for field in ["description", "brand", "categories"] {
            item[field] = "".into();
        }
    }
    fs::write(&path, items.to_string()).unwrap();
    let config = fs::read_to_string(dir.join("llmbs.toml")).unwrap();
    let config = config
        .replace("[data.synthetic]\nusers = 80\nitems = 60\ngroups = 6", "[data]\npath = \"shop\"");
    fs::write(dir.join("llmbs.toml"), config).unwrap();
    let few =
        ["gru4rec", "caser", "hgn", "bert4rec"].map(|name| format!("baseline.{name}.epochs=1"));
    let set: Vec<&str> = few.iter().flat_map(|set| ["--set", set]).collect();
    let words = |more: &[&'static str]| [&set[..], &["baseline", "all"], more].concat();
    let (table, _) = run(dir, &words(&["--seeds", "1,2"]), 0);
    for word in [
        "recall@10",
        "hgn",
        "seconds",
        "fdsa         not here: shop: baseline fdsa reads attributes",
        "tiger        not here: runs/llmbs: the item index is not there yet: run `llmbs index` first",
    ] {
        assert!(table.contains(word), "{word} is not in {table}");
    }
    let told: Value =
        serde_json::from_str(&run(dir, &words(&["--seeds", "1,2", "--json"]), 0).0).unwrap();
    let rows = told["rows"].as_array().unwrap();
    let names: Vec<&str> =
        rows.iter().map(|row| row["settings"]["model"].as_str().unwrap()).collect();
    assert_eq!(names, ["popularity", "item-knn", "gru4rec", "caser", "hgn", "sasrec", "bert4rec"]);
    // What two seeds have said stays when one is asked again.
    let both = dir.join("runs/llmbs/baseline/popularity/test.json");
    let said = fs::read_to_string(&both).unwrap();
    run(dir, &["baseline", "popularity", "--seeds", "1"], 0);
    run(dir, &words(&["--seeds", "1"]), 0);
    assert_eq!(fs::read_to_string(&both).unwrap(), said);
    // And when a third comes, but goes where one of them is made anew.
    run(dir, &["baseline", "popularity", "--seeds", "3"], 0);
    assert_eq!(fs::read_to_string(&both).unwrap(), said);
    run(dir, &["baseline", "popularity", "--seeds", "1", "--force"], 0);
    assert!(!both.exists());
    // The means are those over both seeds.
    let sasrec = &rows[5];
    let of = |i: usize| sasrec["by_seed"][i]["recall@10"].as_f64().unwrap();
    let mean = sasrec["metrics"]["recall@10"].as_f64().unwrap();
    assert!((mean - of(0).midpoint(of(1))).abs() < 1e-12);
    assert_eq!(told["lacking"][0]["baseline"], "fdsa");
    assert_eq!(told["lacking"][1]["baseline"], "s3rec");
    assert_eq!(told["lacking"][2]["baseline"], "tiger");
    assert!(told["published"].as_array().unwrap().is_empty());
    fails(dir, &["baseline", "fdsa"], &["shop", "no categories, no brands"]);
    assert!(!dir.join("runs/llmbs/baseline/fdsa").exists());
}

/// A TIGER that is trained in a moment.
fn tiger<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let set = [
        "index.method=rq-vae",
        "index.source=semantic",
        "index.semantic.levels=3",
        "index.rq-vae.steps=20",
        "baseline.tiger.dim=16",
        "baseline.tiger.blocks=1",
        "baseline.tiger.feed-forward=32",
        "baseline.tiger.epochs=2",
        "baseline.tiger.beam=25",
    ];
    [&set.iter().flat_map(|set| ["--set", set]).collect::<Vec<_>>(), words].concat()
}

#[test]
fn tiger_writes_the_codes_of_the_runs_index() {
    let dir = tiny();
    let dir = dir.path();
    fails(dir, &tiger(&["baseline", "tiger"]), &["run `llmbs index` first"]);
    assert!(
        !dir.join("runs/llmbs/baseline").exists() && !dir.join("runs/llmbs/unfinished").exists()
    );
    run(dir, &tiger(&["index"]), 0);
    // It is an index of these items.
    let other = tiger(&["--set", "data.synthetic.items=50", "baseline", "tiger"]);
    fails(dir, &other, &["data.synthetic.items was 60, is now 50"]);
    assert!(!dir.join("runs/llmbs/baseline").exists());

    let json = || -> Value {
        let words = tiger(&["baseline", "tiger", "--json"]);
        serde_json::from_str(&run(dir, &words, 0).0).unwrap()
    };
    let first = json();
    let settings = &first["settings"];
    assert_eq!(settings["search"], "beam search over the trie of all items, beam 25");
    assert_eq!((&settings["exhaustive"], &settings["seed"]), (&false.into(), &42.into()));
    let folder = "runs/llmbs/baseline/tiger/seed-42";
    let lines = || fs::read_to_string(dir.join(folder).join("test.predictions.jsonl")).unwrap();
    let predicted = lines();
    for line in predicted.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let items: BTreeSet<u64> =
            line["items"].as_array().unwrap().iter().map(|item| item.as_u64().unwrap()).collect();
        assert_eq!(items.len(), 25);
    }
    // From its file it says what it said when it was trained.
    fs::remove_file(dir.join(folder).join("test.json")).unwrap();
    assert_eq!((json()["metrics"].clone(), lines()), (first["metrics"].clone(), predicted));
    let (table, _) = run(dir, &tiger(&["baseline", "tiger"]), 0);
    assert!(table.contains("60 items, beam search over the trie of all items, beam 25"), "{table}");

    // More than the beam holds, and what the search does not find by itself.
    let recommend = |words: &[&'static str]| {
        let words = [&["recommend", "--json", "--history", "3,5", "--baseline", folder], words];
        let found = run(dir, &tiger(&words.concat()), 0).0;
        ids(&serde_json::from_str(&found).unwrap())
    };
    let all = recommend(&["--top", "60"]);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 60);
    assert_eq!(recommend(&["--top", "10"]), all[..10]);
    fs::write(dir.join("last"), format!("{}\n{}\n", all[58], all[59])).unwrap();
    assert_eq!(recommend(&["--only", "last", "--top", "2"]), all[58..]);

    // Another index is another model.
    let other = |words: &[&'static str]| tiger(&[&["--set", "index.semantic.k=6"], words].concat());
    let page = || {
        run(dir, &["report", "runs/llmbs", "--html", "page.html"], 0);
        fs::read_to_string(dir.join("page.html")).unwrap()
    };
    let line = "tiger, seed 42";
    assert!(page().contains(line));
    run(dir, &other(&["index", "--force"]), 0);
    let (page, named) =
        (page(), "baseline/tiger/seed-42/test.json: is not shown, since its models");
    assert!(page.contains(named) && !page.contains(line), "{page}");
    let again = "llmbs --run runs/llmbs baseline tiger --seeds 42 --split test --force</code>";
    assert!(page.contains(again), "{page}");
    let expected = ["index/index.json was", "baseline tiger --force"];
    fails(dir, &other(&["baseline", "tiger"]), &expected);
    fails(dir, &other(&["recommend", "--history", "3,5", "--baseline", folder]), &expected);
    run(dir, &other(&["baseline", "tiger", "--force"]), 0);
}

#[test]
fn several_seeds_give_mean_and_deviation() {
    let dir = tiny();
    let dir = dir.path();
    let both = json(dir, &["--seeds", "2,1"]);
    let of = |seed: &str| json(dir, &["--seeds", seed])["metrics"]["recall@20"].as_f64().unwrap();
    let (one, two) = (of("1"), of("2"));
    let mean = both["metrics"]["recall@20"].as_f64().unwrap();
    let deviation = both["standard_deviations"]["recall@20"].as_f64().unwrap();
    assert!((mean - one.midpoint(two)).abs() < 1e-12);
    assert!((deviation - (one - two).abs() / 2f64.sqrt()).abs() < 1e-12);
    assert_eq!(both["seeds"], serde_json::json!([1, 2]));
    let (table, _) = run(dir, &baseline(&["--seeds", "1,2"]), 0);
    for word in ["mean", "sd", "seed 1", "seed 2", "seeds 1, 2"] {
        assert!(table.contains(word), "{word} is not in {table}");
    }
    assert!(dir.join("runs/llmbs/baseline/sasrec/test.json").exists());
}

#[test]
fn threads_do_not_change_a_baseline() {
    let dir = tiny();
    let dir = dir.path();
    let made = |threads: &str| {
        let words = ["--threads", threads, "--run", threads, "--seed", "5"];
        run(dir, &[&words[..], &baseline(&[])].concat(), 0);
        let folder = dir.join(threads).join("baseline/sasrec/seed-5");
        ["model.safetensors", "test.predictions.jsonl"]
            .map(|file| fs::read(folder.join(file)).unwrap())
    };
    assert!(made("1") == made("2"));
}

#[test]
fn a_run_is_compared_with_a_baseline() {
    let dir = tiny();
    let dir = dir.path();
    run(dir, &["index"], 0);
    run(dir, &["train", "--stage", "initial"], 0);
    let folder = "runs/llmbs/baseline/sasrec/seed-1";
    let compare = ["eval", "--json", "--compare", folder];
    fails(dir, &compare, &[folder, "no evaluation"]);
    let other = json(dir, &["--seeds", "1"]);
    // Any of them can be ranked together with the model, wherever its folder lies.
    run(dir, &["baseline", "item-knn", "--seeds", "1"], 0);
    run(dir, &["baseline", "popularity", "--seeds", "1"], 0);
    fs::rename(dir.join("runs/llmbs/baseline/item-knn/seed-1"), dir.join("neighbours")).unwrap();
    let popularity = "runs/llmbs/baseline/popularity/seed-1";
    let few = ["baseline.tiger.dim=8", "baseline.tiger.feed-forward=8", "baseline.tiger.epochs=1"];
    let few: Vec<&str> = few.iter().flat_map(|set| ["--set", set]).collect();
    run(dir, &[&few[..], &["baseline", "tiger", "--seeds", "1"]].concat(), 0);
    let tiger = "runs/llmbs/baseline/tiger/seed-1";
    let fused = ["eval", "--json", "--fuse", "neighbours", "--fuse", popularity, "--fuse", tiger];
    let fused = [&few[..], &fused].concat();
    let fused: Value = serde_json::from_str(&run(dir, &fused, 0).0).unwrap();
    let models = fused["settings"]["fusion"]["models"].as_array().unwrap();
    let names: Vec<&str> = models.iter().map(|m| m["model"].as_str().unwrap()).collect();
    assert_eq!(names, ["item-knn", "popularity", "tiger"]);
    // Some of the validation split, by the weight that all of it chooses.
    let some = ["eval", "--json", "--split", "valid", "--limit", "7", "--fuse", popularity];
    let some: Value = serde_json::from_str(&run(dir, &some, 0).0).unwrap();
    assert_eq!(some["settings"]["targets"], 7);
    let all = ["eval", "--json", "--split", "valid", "--fuse", popularity];
    let all: Value = serde_json::from_str(&run(dir, &all, 0).0).unwrap();
    assert_eq!(some["fusion_weight"], all["fusion_weight"]);
    // A setting may change what is ranked and not the model.
    let decays = ["0.5", "0.1"].map(|decay| {
        let set = format!("baseline.item-knn.decay={decay}");
        let of = |words: &[&'static str]| [&["--set", &set], words].concat();
        run(dir, &of(&["baseline", "item-knn", "--seeds", "2", "--force"]), 0);
        let fused = of(&["eval", "--json", "--fuse", "runs/llmbs/baseline/item-knn/seed-2"]);
        let fused: Value = serde_json::from_str(&run(dir, &fused, 0).0).unwrap();
        fused["settings"]["fusion"]["models"][0].clone()
    });
    assert_eq!(decays[0]["digest"], decays[1]["digest"]);
    assert_ne!(decays[0]["settings_digest"], decays[1]["settings_digest"]);
    let ours: Value = serde_json::from_str(&run(dir, &compare, 0).0).unwrap();
    for (name, difference) in ours["comparison"]["metrics"].as_object().unwrap() {
        assert_eq!(difference["this"], ours["metrics"][name]);
        assert_eq!(difference["other"], other["metrics"][name]);
    }
    // With whatever settings it was made.
    run(dir, &[&["--set", "baseline.sasrec.learning-rate=0.5"], &compare[..]].concat(), 0);
    // Where its lines are gone, the command is that of the baseline.
    let lines = dir.join(folder).join("test.predictions.jsonl");
    let kept = fs::read(&lines).unwrap();
    fs::remove_file(&lines).unwrap();
    let again = "`llmbs --run runs/llmbs baseline sasrec --seeds 1 --split test` first";
    fails(dir, &compare, &[folder, "no evaluation of the test split", again]);
    fs::write(&lines, kept).unwrap();
    // One of an index that its run has no more.
    copy(&dir.join("runs/llmbs"), &dir.join("runs/other"));
    let tiger = "runs/other/baseline/tiger/seed-1";
    let compare = [&few[..], &["eval", "--compare", tiger]].concat();
    run(dir, &compare, 0);
    let manifest = dir.join("runs/other/manifest.json");
    let mut fields: Value = llmbs::sealed::read(&manifest, "").unwrap();
    fields["stages"]["index"]["outputs"]["index/index.json"] = "another".into();
    llmbs::sealed::write(&manifest, &fields).unwrap();
    let again = "llmbs --run runs/other baseline tiger --seeds 1 --split test --force";
    fails(dir, &compare, &[tiger, "index was made again", again]);
}

#[test]
fn one_process_at_a_time_evaluates_a_baseline() {
    let dir = tiny();
    let dir = dir.path();
    let first = json(dir, &["--seeds", "3"]);
    fs::remove_file(dir.join("runs/llmbs/baseline/sasrec/seed-3/test.json")).unwrap();
    let unfinished = dir.join("runs/llmbs/unfinished");
    fs::create_dir(&unfinished).unwrap();
    let at_work = unfinished.join("baseline-sasrec-seed-3-test.jsonl");
    let other = Exclusive::open(&at_work).unwrap().unwrap();
    let at_it = "another process is at this evaluation";
    fails(dir, &baseline(&["--seeds", "3"]), &["baseline-sasrec-seed-3-test.jsonl", at_it]);
    // Nothing keeps another split, or one who finds the result.
    json(dir, &["--seeds", "3", "--split", "valid"]);
    drop(other);
    assert_eq!(json(dir, &["--seeds", "3"])["metrics"], first["metrics"]);
    assert!(!unfinished.exists(), "nothing is left");
    // One was killed when the result stood.
    fs::create_dir(&unfinished).unwrap();
    fs::write(&at_work, "").unwrap();
    json(dir, &["--seeds", "3"]);
    assert!(!unfinished.exists(), "nothing is left");
}

#[test]
fn the_index_may_be_built_on_sasrec() {
    let dir = tiny();
    let dir = dir.path();
    let sasrec = |words: &[&'static str]| {
        let set = [
            "--set",
            "index.behavior.encoder=sasrec",
            "--set",
            "index.behavior.sasrec.dim=8",
            "--set",
            "index.behavior.sasrec.epochs=2",
        ];
        [&set[..], words].concat()
    };
    let (stdout, _) = run(dir, &sasrec(&["index"]), 0);
    for word in ["behavior_ndcg@10", "index/sasrec/report.json", "behavior.safetensors"] {
        assert!(stdout.contains(word), "{word} is not in {stdout}");
    }
    assert!(!dir.join("runs/llmbs/index/din").exists());
    let report = fs::read_to_string(dir.join("runs/llmbs/index/sasrec/report.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert!(report["ndcg@10"].as_f64().unwrap() >= 0.0, "{report}");
    assert_eq!(report["epochs"].as_array().unwrap().len(), 2);

    // The settings of the other encoder do not matter, those of this one do.
    let (stdout, _) = run(dir, &sasrec(&["--set", "index.behavior.din.dim=4", "index"]), 0);
    assert!(stdout.contains("finished already"), "{stdout}");
    fails(
        dir,
        &sasrec(&["--set", "index.behavior.sasrec.heads=1", "index"]),
        &["index.behavior.sasrec.heads was 2, is now 1"],
    );
    fails(dir, &["index"], &["index.behavior.encoder was \"sasrec\", is now \"din\""]);
    fails(dir, &["--set", "index.behavior.encoder=gru", "index"], &["gru"]);
    let heads = ["--set", "baseline.sasrec.dim=16", "--set", "baseline.sasrec.heads=3"];
    fails(
        dir,
        &[&heads[..], &["baseline", "sasrec"]].concat(),
        &["baseline.sasrec.dim must be a multiple of baseline.sasrec.heads"],
    );
}

#[test]
fn a_baseline_recommends_what_its_evaluation_ranked_first() {
    let dir = tiny();
    let dir = dir.path();
    for name in ["sasrec", "hgn"] {
        run(dir, &["baseline", name, "--seeds", "1"], 0);
    }
    // Neither an index nor a model is there.
    assert!(!dir.join("runs/llmbs/index").exists());
    let recommend = |name: &str, args: &[&str]| -> Value {
        let folder = format!("runs/llmbs/baseline/{name}/seed-1");
        let words = ["recommend", "--json", "--baseline", &folder];
        serde_json::from_str(&run(dir, &[&words[..], args].concat(), 0).0).unwrap()
    };
    let lines =
        fs::read_to_string(dir.join("runs/llmbs/baseline/sasrec/seed-1/test.predictions.jsonl"));
    let first: Value = serde_json::from_str(lines.unwrap().lines().next().unwrap()).unwrap();
    run(dir, &["data", "synth", "--out", "shop"], 0);
    let taken: Value =
        serde_json::from_slice(&fs::read(dir.join("shop/shop.inter.json")).unwrap()).unwrap();
    let user = first["user"].as_str().unwrap();
    let taken: Vec<String> =
        taken[user].as_array().unwrap().iter().map(ToString::to_string).collect();
    let (all, before) = (taken.join(","), &taken[..taken.len() - 1]);
    let history = before.join(",");
    let answer = recommend("sasrec", &["--history", &history, "--top", "20"]);
    for (i, item) in answer.as_array().unwrap().iter().enumerate() {
        assert_eq!(item["item"], first["items"][i]);
        let gap = item["score"].as_f64().unwrap() - first["scores"][i].as_f64().unwrap();
        assert!(gap.abs() < 1e-5, "{gap}");
        assert!(item.get("probability").is_none());
    }
    let rest = recommend("sasrec", &["--history", &history, "--exclude-history", "--top", "60"]);
    let rest: Vec<String> =
        rest.as_array().unwrap().iter().map(|item| item["item"].to_string()).collect();
    let different: BTreeSet<&String> = before.iter().collect();
    assert_eq!(rest.len(), 60 - different.len());
    assert!(rest.iter().all(|item| !before.contains(item)));
    // One that knows its users knows whose history it is.
    let of_user = |name| recommend(name, &["--user", user]);
    let of_history = |name| recommend(name, &["--history", &all]);
    assert_ne!(of_user("hgn"), of_history("hgn"));
    assert_eq!(of_user("sasrec"), of_history("sasrec"));
    let no_baseline = ["recommend", "--user", user, "--baseline", "runs/llmbs"];
    fails(dir, &no_baseline, &["runs/llmbs: is no folder of a trained baseline"]);
}
