//! `llmbs ablate`, models ranked together with baselines, and what cannot teach, as a user meets them.

use std::fs;
use std::path::Path;

use crate::common::program::{copy, fails, run, tiny, train};
use serde_json::{Value, json};

const SPEC: &str = r#"
seeds = [1, 2]
baselines = ["sasrec", "item-knn"]
fuse = true
reference = "sasrec"

[[variant]]
name = "plain"

[[variant]]
name = "slow rate"
set = ["train.initial.learning-rate=1e-4"]
"#;

/// More users than are scored together.
const SHOP: &str = "data.synthetic.users=300";

/// What becomes of it.
const ROWS: [&str; 10] = [
    "sasrec",
    "item-knn",
    "plain",
    "plain, with sasrec",
    "plain, with item-knn",
    "plain, with sasrec and item-knn",
    "slow rate",
    "slow rate, with sasrec",
    "slow rate, with item-knn",
    "slow rate, with sasrec and item-knn",
];

const SASREC: [&str; 6] = [
    "--set",
    "baseline.sasrec.dim=8",
    "--set",
    "baseline.sasrec.feed-forward=8",
    "--set",
    "baseline.sasrec.epochs=2",
];

fn file(path: impl AsRef<Path>) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn variants_share_stages_and_stand_in_one_table() {
    let dir = tiny();
    let dir = dir.path();
    fs::write(dir.join("rates.toml"), SPEC).unwrap();
    let ablate = |more: &[&'static str]| [&SASREC[..], &["ablate", "rates.toml"], more].concat();
    let (text, log) = run(dir, &ablate(&[]), 0);
    for row in ROWS {
        let row = format!("{row}  ");
        let row = row.as_str();
        assert_eq!(text.lines().filter(|line| line.starts_with(row)).count(), 2, "{row}: {text}");
    }
    assert_eq!(log.matches("the item index is taken over from").count(), 2, "{log}");
    let [plain, slow] = ["plain", "slow-rate"].map(|name| dir.join("runs/ablate/rates").join(name));
    let index = |of: &Path| fs::read(of.join("seed-2/index/index.json")).unwrap();
    assert_eq!(index(&plain), index(&slow));
    let digest = |of: &Path| {
        let manifest = file(of.join("seed-2/manifest.json"));
        manifest["stages"]["initial"]["outputs"]["initial/model.safetensors"].clone()
    };
    assert_ne!(digest(&plain), digest(&slow));

    // Nothing is trained again, and the table is the same.
    let baseline =
        dir.join("runs/ablate/rates/baselines/seed-1/baseline/sasrec/seed-1/training.json");
    let trained = fs::read(&baseline).unwrap();
    let (again, log) = run(dir, &ablate(&[]), 0);
    assert!(!log.contains("train"), "{log}");
    assert_eq!((again, fs::read(&baseline).unwrap()), (text, trained));
    let (json, _) = run(dir, &ablate(&["--json"]), 0);
    let table: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&table["seeds"], &table["reference"]), (&[1, 2].into(), &"sasrec".into()));
    let row = |name: &str| {
        let rows = table["rows"].as_array().unwrap().iter();
        rows.clone().find(|row| row["name"] == name).unwrap()["rules"].clone()
    };
    // The mean of what the two runs say of themselves.
    let of_seed = |seed: u64, with: &str| {
        file(plain.join(format!("seed-{seed}/eval/valid-off-b20{with}.json")))
    };
    let together = |seed| format!("-fused-sasrec-{seed}+item-knn-{seed}");
    let (both, [one, two]) = (
        [1, 2].map(|seed| of_seed(seed, &together(seed))["metrics"]["mrr@20"].as_f64().unwrap()),
        [1, 2].map(|seed| of_seed(seed, "")),
    );
    let mean = row("plain, with sasrec and item-knn")[0]["metrics"]["mrr@20"].as_f64().unwrap();
    assert!((mean - f64::midpoint(both[0], both[1])).abs() < 1e-12);
    for (rule, key) in ["metrics", "metrics_history_excluded"].into_iter().enumerate() {
        let value = |of: &Value| of[key]["ndcg@10"].as_f64().unwrap();
        let mean = row("plain")[rule]["metrics"]["ndcg@10"].as_f64().unwrap();
        assert!((mean - f64::midpoint(value(&one), value(&two))).abs() < 1e-12);
        assert!(row("plain")[rule]["against_reference"]["ndcg@10"]["p_value"].is_number());
        assert!(row("sasrec")[rule].get("against_reference").is_none());
    }
    let (csv, _) = run(dir, &ablate(&["--csv"]), 0);
    assert_eq!(csv.lines().count(), 1 + ROWS.len() * 2 * 8);
    let (latex, _) = run(dir, &ablate(&["--latex"]), 0);
    for row in ["sasrec & $", "slow rate, with sasrec & $"] {
        assert_eq!(latex.lines().filter(|line| line.starts_with(row)).count(), 2, "{latex}");
    }
    assert!(latex.contains("\\pm") && latex.contains("differs from sasrec"), "{latex}");
    let (_, refused) = run(dir, &ablate(&["--latex", "--csv"]), 2);
    assert!(refused.contains("--latex") && refused.contains("--csv"), "{refused}");

    // The table is kept, for a page.
    run(dir, &["report", "runs/ablate/rates", "--html", "rates.html"], 0);
    let page = fs::read_to_string(dir.join("rates.html")).unwrap();
    for row in ROWS {
        let row = format!("scope=\"row\">{row}</th>");
        assert_eq!(page.matches(&row).count(), 2 * 2, "{row}");
    }
    let mean = row("slow rate")[1]["metrics"]["recall@10"].as_f64().unwrap();
    assert!(page.contains(&format!("<td>{mean:.4}</td>")), "{page}");
    fs::remove_file(dir.join("runs/ablate/rates/table.json")).unwrap();
    let expected = ["`llmbs ablate` writes it"];
    fails(dir, &["report", "runs/ablate/rates", "--html", "rates.html"], &expected);
}

#[test]
fn a_variant_may_be_a_baseline_on_its_own_index() {
    let dir = tiny();
    let dir = dir.path();
    let spec = "seeds = [1]
        set = [\"baseline.tiger.dim=8\", \"baseline.tiger.feed-forward=8\", \"baseline.tiger.epochs=1\",
            \"train.initial.epochs=1\"]
        [[variant]]
        name = \"llmbs\"
        set = [\"index.source=semantic\"]
        [[variant]]
        name = \"ids\"
        baseline = \"tiger\"
        set = [\"index.source=behavior\", \"index.behavior.encoder=spectral\"]
        [[variant]]
        name = \"texts\"
        baseline = \"tiger\"
        set = [\"index.source=semantic\"]";
    fs::write(dir.join("ids.toml"), spec).unwrap();
    let (text, _) = run(dir, &["ablate", "ids.toml"], 0);
    for row in ["ids ", "texts "] {
        assert_eq!(text.lines().filter(|line| line.starts_with(row)).count(), 2, "{text}");
    }
    let folder = |name: &str| dir.join("runs/ablate/ids").join(name).join("seed-1");
    assert!(!folder("ids").join("initial").exists());
    // Of a language model on the same index, the index alone is this variant's, too.
    let stages = |name: &str| file(folder(name).join("manifest.json"))["stages"].clone();
    assert_eq!(stages("texts")["index"], stages("llmbs")["index"]);
    assert_eq!(stages("texts").as_object().unwrap().len(), 1);
    assert!(stages("llmbs").get("initial").is_some() && !folder("texts").join("initial").exists());
    // The figures are those that the baseline in the variant's folder has.
    let found = file(folder("texts").join("baseline/tiger/seed-1/valid.json"));
    let table = file(dir.join("runs/ablate/ids/table.json"));
    assert_eq!(table["rows"][2]["name"], "texts");
    let mean = &table["rows"][2]["rules"][0]["metrics"]["ndcg@10"];
    assert_eq!(mean, &found["metrics"]["ndcg@10"]);
    assert_ne!(mean, &table["rows"][1]["rules"][0]["metrics"]["ndcg@10"]);
}

#[test]
fn stages_are_taken_over_where_settings_and_files_are_the_same() {
    let dir = tiny();
    let dir = dir.path();
    let spec = |rates: &str| {
        let spec = format!(
            "seeds = [1]\nanneal = true\n[grid]\n\"train.anneal.learning-rate\" = {rates}\n"
        );
        fs::write(dir.join("rate.toml"), spec).unwrap();
    };
    let folder = |rate: &str| {
        dir.join(format!("runs/ablate/rate/base--train.anneal.learning-rate={rate}/seed-1"))
    };
    spec("[1e-3, 2e-3]");
    let (text, log) = run(dir, &["ablate", "rate.toml"], 0);
    for stage in ["the item index", "the model of stage initial"] {
        assert_eq!(log.matches(&format!("{stage} is taken over from")).count(), 1, "{log}");
    }
    assert!(!log.contains("the annealing adapter is taken over"), "{log}");
    assert!(text.contains("base, train.anneal.learning-rate=0.002, annealed "), "{text}");
    let model = |rate: &str| fs::read(folder(rate).join("initial/model.safetensors")).unwrap();
    let first = model("0.001");
    assert!(first == model("0.002"), "the model is another");

    // A file that is gone is told; what is made again is the same.
    let gone = folder("0.001").join("initial/model.safetensors");
    fs::remove_file(&gone).unwrap();
    spec("[1e-3, 3e-3]");
    fails(dir, &["ablate", "rate.toml"], &["initial/model.safetensors: is gone"]);
    fs::write(&gone, &first).unwrap();
    run(dir, &["ablate", "rate.toml"], 0);
    assert!(first == model("0.003"), "the model is another");
    // What was altered goes nowhere.
    let altered = folder("0.001").join("index/index.json");
    fs::write(&altered, fs::read_to_string(&altered).unwrap() + " ").unwrap();
    spec("[1e-3, 4e-3]");
    fails(dir, &["ablate", "rate.toml"], &["index.json", "SHA-256"]);
    assert!(!folder("0.004").exists());
}

#[test]
fn a_model_of_another_backbone_is_not_taken_over_though_the_index_is_the_same() {
    let dir = tiny();
    let dir = dir.path();
    let spec = r#"
        seeds = [1]
        set = ["index.source=random", "train.warmup.epochs=0", "train.initial.epochs=1"]
        [grid]
        "backbone.dtype" = ["f32", "bf16"]
        [[variant]]
        name = "slow"
        set = ["train.initial.learning-rate=1e-3"]
        [[variant]]
        name = "fast"
        set = ["train.initial.learning-rate=2e-3"]
    "#;
    fs::write(dir.join("types.toml"), spec).unwrap();
    let (_, log) = run(dir, &["ablate", "types.toml"], 0);
    assert_eq!(log.matches("the item index is taken over from").count(), 2, "{log}");
    assert!(!log.contains("the model of stage initial is taken over from"), "{log}");
}

#[test]
fn what_cannot_be_run_is_told_before_anything_is_trained() {
    let dir = tiny();
    let dir = dir.path();
    let spec = "[[variant]]\nname = \"none\"\nset = [\"eval.beam=0\"]\n";
    fs::write(dir.join("wrong.toml"), spec).unwrap();
    fails(dir, &["ablate", "wrong.toml"], &["variant \"none\"", "eval.beam"]);
    fs::write(dir.join("wrong.toml"), "seeds = [1, 1]\n").unwrap();
    fails(dir, &["ablate", "wrong.toml"], &["wrong.toml", "each once"]);
    fails(dir, &["ablate", "gone.toml"], &["gone.toml"]);
    fs::write(dir.join("one.toml"), "seeds = [1]\n").unwrap();
    for seed in [["--seed", "3"], ["--set", "seed=3"]] {
        fails(dir, &[&seed[..], &["ablate", "one.toml"]].concat(), &["one.toml", "`seeds`"]);
    }
    fails(dir, &["--set", "seed = 3", "ablate", "one.toml"], &["one.toml", "`seeds`"]);
    // What cannot become an index is found for every variant before the first is trained.
    let small = "[[variant]]\nname = \"base\"\n[[variant]]\nname = \"small\"\nset = [\"index.behavior.k=2\"]\n";
    fs::write(dir.join("wrong.toml"), small).unwrap();
    fails(dir, &["ablate", "wrong.toml"], &["variant \"small\"", "raise k"]);
    // What is compared user by user or ranked together must fit together.
    let fused = "baselines = [\"sasrec\"]\nfuse = true\n";
    for (spec, setting) in [
        ("", "data.synthetic.users=9"),
        (fused, "data.history=7"),
        (fused, "baseline.sasrec.dim=4"),
    ] {
        let key = setting.split(['.', '=']).next().unwrap();
        let spec = format!("{spec}[[variant]]\nname = \"other\"\nset = [\"{setting}\"]\n");
        fs::write(dir.join("wrong.toml"), spec).unwrap();
        fails(dir, &["ablate", "wrong.toml"], &["variant \"other\"", key, "no variant sets these"]);
    }
    assert!(!dir.join("runs").exists());
    // So is a baseline that stands in its place and was made with other settings.
    let knn = ["baseline", "item-knn", "--seeds"];
    let beside = [&["--run", "other/baselines/seed-2"], &knn[..], &["2"]].concat();
    run(dir, &[&["--set", "baseline.item-knn.decay=0.5"], &beside[..]].concat(), 0);
    fs::write(dir.join("knn.toml"), "seeds = [1, 2]\nbaselines = [\"item-knn\"]\n").unwrap();
    fails(dir, &["--run", "other", "ablate", "knn.toml"], &["seed-2", "item-knn.decay"]);
    assert!(!dir.join("other/baselines/seed-1").exists());
    let other = "baseline.item-knn.decay=0.7";
    let both = ["--set", other, "--run", "other/baselines/seed-2", "baseline"];
    fails(dir, &[&both[..], &["item-knn", "--seeds", "1,2"]].concat(), &["item-knn.decay"]);
    fails(dir, &[&both[..], &["all", "--seeds", "1,2"]].concat(), &["item-knn.decay"]);
    assert_eq!(fs::read_dir(dir.join("other/baselines/seed-2/baseline")).unwrap().count(), 1);
    assert!(!dir.join("other/baselines/seed-2/baseline/item-knn/seed-1").exists());

    run(dir, &["--run", "one", "index"], 0);
    fails(dir, &["--run", "one", "ablate", "one.toml"], &["one: is a run"]);
}

/// Where the history is left out, every target stands in the list that is served where the evaluation found it, by a
/// beam so narrow that what it finds beside the history is most of what decides.
fn assert_served_as_ranked(dir: &Path, history_of: &dyn Fn(&Value) -> Vec<u64>, folder: &str) {
    let of = |words: &[&str]| -> String {
        let narrow = ["--set", "eval.beam=3"];
        let fused = ["--adapter", "off", "--json", "--fuse", folder];
        run(dir, &[&SASREC[..], &narrow, words, &fused].concat(), 0).0
    };
    of(&["eval"]);
    let lines = "runs/llmbs/eval/test-off-b3-fused-sasrec-42.predictions.jsonl";
    let lines = fs::read_to_string(dir.join(lines)).unwrap();
    let ranked: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let requests: Vec<String> =
        ranked.iter().map(|r| json!({"history": history_of(r)}).to_string()).collect();
    fs::write(dir.join("asked.jsonl"), requests.join("\n")).unwrap();
    let answers = of(&["recommend", "--batch", "asked.jsonl", "--top", "3", "--exclude-history"]);
    assert_eq!(answers.lines().count(), ranked.len());
    for (answer, ranked) in answers.lines().zip(&ranked) {
        let answer: Value = serde_json::from_str(answer).unwrap();
        let mut items = answer["items"].as_array().unwrap().iter();
        let place = items.position(|item| item["item"] == ranked["target"]).map(|at| at + 1);
        let found = ranked["rank_history_excluded"].as_u64().filter(|&rank| rank <= 3);
        assert_eq!(place.map(|at| at as u64), found, "{ranked}");
    }
}

#[test]
fn a_model_is_ranked_together_with_a_baseline() {
    let dir = tiny();
    let dir = dir.path();
    for words in [&["run"][..], &["baseline", "sasrec", "--split", "valid"]] {
        run(dir, &[&SASREC[..], words].concat(), 0);
    }
    let folder = "runs/llmbs/baseline/sasrec/seed-42";
    let eval = |words: &[&'static str]| {
        let eval = ["eval", "--adapter", "off", "--fuse", folder];
        [&SASREC[..], &eval, words].concat()
    };
    let (text, _) = run(dir, &eval(&["--split", "valid"]), 0);
    assert!(text.contains("adapter off: ranked with sasrec seed 42, weight of the "), "{text}");
    let results = dir.join("runs/llmbs/eval");
    let fused = file(results.join("valid-off-b20-fused-sasrec-42.json"));
    run(dir, &["eval", "--adapter", "off", "--split", "valid"], 0);
    let alone = file(results.join("valid-off-b20.json"));
    let sasrec = file(dir.join(folder).join("valid.json"));
    // The weight is the best of those tried, which have either alone at their ends.
    let metric = |of: &Value| of["metrics"]["ndcg@10"].as_f64().unwrap();
    assert!(metric(&fused) >= metric(&alone).max(metric(&sasrec)) - 1e-9, "{text}");
    let weight = &fused["fusion_weight"];
    assert!((0.0..=1.0).contains(&weight.as_f64().unwrap()));
    assert!(alone.get("fusion_weight").is_none());

    // On the test split the weight is that of the validation split, and the result is found again.
    let test = || serde_json::from_str::<Value>(&run(dir, &eval(&["--json"]), 0).0).unwrap();
    let first = test();
    assert_eq!((&first["fusion_weight"], &first["settings"]["split"]), (weight, &"test".into()));
    assert_eq!(test(), first);
    // A result with another baseline stands beside it.
    run(dir, &["baseline", "popularity", "--seeds", "1"], 0);
    let other = "runs/llmbs/baseline/popularity/seed-1";
    run(dir, &[&SASREC[..], &["eval", "--adapter", "off", "--fuse", other]].concat(), 0);
    assert_eq!(file(results.join("test-off-b20-fused-popularity-1.json"))["settings"]["seed"], 42);
    assert_eq!(test(), first);

    // What is recommended after the history of a target is what was ranked for it.
    let line =
        fs::read_to_string(results.join("test-off-b20-fused-sasrec-42.predictions.jsonl")).unwrap();
    let ranked: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    run(dir, &["data", "synth", "--out", "Shop"], 0);
    let taken = file(dir.join("Shop/Shop.inter.json"));
    let history_of = |ranked: &Value| -> Vec<u64> {
        let taken = taken[ranked["user"].as_str().unwrap()].as_array().unwrap();
        taken[..taken.len() - 1].iter().map(|item| item.as_u64().unwrap()).collect()
    };
    let history: Vec<String> = history_of(&ranked).iter().map(ToString::to_string).collect();
    let history = history.join(",");
    let asked = ["recommend", "--history", &history, "--top", "8", "--adapter", "off", "--json"];
    let recommend = [&SASREC[..], &asked, &["--fuse", folder]].concat();
    let (json, _) = run(dir, &recommend, 0);
    let recommended: Value = serde_json::from_str(&json).unwrap();
    for (place, item) in recommended.as_array().unwrap().iter().enumerate() {
        assert_eq!(item["item"], ranked["items"][place], "{json}");
        let difference =
            item["score"].as_f64().unwrap() - ranked["scores"][place].as_f64().unwrap();
        assert!(difference.abs() < 1e-4, "{json}");
    }
    assert_served_as_ranked(dir, &history_of, folder);
    // The same baseline elsewhere is found again by what it is, however its folder is spelt.
    let elsewhere = dir.join("elsewhere/baseline/sasrec/seed-42");
    copy(&dir.join(folder), &elsewhere);
    let words = ["eval", "--adapter", "off", "--fuse", "elsewhere/baseline/sasrec/seed-42"];
    let (_, told) = run(dir, &[&SASREC[..], &words].concat(), 0);
    assert!(told.contains("is there already"), "{told}");
    let recommend_elsewhere =
        [&SASREC[..], &asked, &["--fuse", elsewhere.to_str().unwrap()]].concat();
    assert_eq!(run(dir, &recommend_elsewhere, 0).0, json);
    fs::remove_file(results.join("valid-off-b20-fused-sasrec-42.json")).unwrap();
    fs::remove_file(results.join("test-off-b20-fused-sasrec-42.json")).unwrap();
    let expected = ["has chosen the weight", "eval --split test --adapter off --beam 20 --fuse"];
    fails(dir, &recommend, &expected);

    let other = ["--set", "baseline.sasrec.dim=16", "eval", "--fuse", folder];
    fails(dir, &other, &[folder, "baseline.sasrec.dim was 8, is now 16"]);
    fails(dir, &["eval", "--fuse", "runs"], &["runs: holds neither", "llmbs baseline"]);
    let twice = eval(&["--fuse", folder]);
    fails(dir, &twice, &[folder, "both hold one model, sasrec seed 42"]);
    fails(dir, &["eval", "--task", "text", "--fuse", folder], &["--fuse", "--task recommend"]);
}

#[test]
fn models_of_several_runs_rank_together() {
    let dir = tiny();
    let dir = dir.path();
    for seed in ["1", "2"] {
        train(dir, &["--set", SHOP, "--seed", seed, "--run", seed]);
    }
    let eval = |words: &[&'static str]| [&["--seed", "1", "--run", "1", "eval"], words].concat();
    let (text, _) = run(dir, &eval(&["--fuse", "2"]), 0);
    assert!(text.contains("adapter off: ranked with llmbs seed 2 of 2\n"), "{text}");
    let fused = file(dir.join("1/eval/test-off-b20-fused-2.json"));
    // However its folder is spelt, it is the same evaluation.
    let made =
        |name: &str| fs::metadata(dir.join("1/eval").join(name)).unwrap().modified().unwrap();
    let before = made("test-off-b20-fused-2.json");
    run(dir, &eval(&["--fuse", "./2/"]), 0);
    assert_eq!(made("test-off-b20-fused-2.json"), before);
    assert!(fused.get("fusion_weight").is_none());
    assert_eq!(fused["settings"]["fusion"]["weight"], Value::Null);

    // Each list has the means of what both give an item.
    let lists = |of: &str, name: &str| -> Vec<Value> {
        let text = fs::read_to_string(dir.join(format!("{of}/eval/{name}.predictions.jsonl")));
        text.unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for seed in ["1", "2"] {
        run(dir, &["--seed", seed, "--run", seed, "eval"], 0);
    }
    let alone = ["1", "2"].map(|of| lists(of, "test-off-b20"));
    for (user, together) in lists("1", "test-off-b20-fused-2").iter().enumerate() {
        let of = |list: &Value| -> Vec<(u64, f64)> {
            let ids = list["items"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap());
            let scores = list["scores"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap());
            ids.zip(scores).collect()
        };
        for (item, score) in of(together) {
            let probability = |list: &Vec<Value>| {
                let found = of(&list[user]).into_iter().find(|(id, _)| *id == item);
                found.map_or(0.0, |(_, score)| score.exp())
            };
            let mean = alone.iter().map(probability).sum::<f64>() / 2.0;
            assert!((score.exp() - mean).abs() < 1e-6, "user {user}, item {item}");
        }
    }

    fails(dir, &eval(&["--fuse", "1"]), &["1 and 1: both hold one model, llmbs seed 1"]);
    let missing = eval(&["--adapter", "off", "--fuse", "3"]);
    fails(dir, &missing, &["3: holds neither"]);
    let compared = eval(&["--fuse", "2", "--compare", "2"]);
    let (text, _) = run(dir, &compared, 0);
    assert!(text.contains("against 2: adapter off"), "{text}");
    let short = ["--seed", "3", "--run", "3", "--set", SHOP, "--set", "data.history=7", "index"];
    run(dir, &short, 0);
    fails(dir, &eval(&["--fuse", "3"]), &["3: data.history is 7 there, 20 here"]);
    run(dir, &["--seed", "4", "--run", "4", "--set", SHOP, "index"], 0);
    fails(dir, &eval(&["--fuse", "4"]), &["4: the model of stage initial is not there yet"]);
    let other = ["--seed", "5", "--run", "5", "--set", "data.synthetic.users=70", "index"];
    run(dir, &other, 0);
    fails(dir, &eval(&["--fuse", "5"]), &["5: its dataset is not this run's"]);
}

#[test]
fn what_cannot_teach_is_refused_before_training() {
    let dir = tiny();
    let dir = dir.path();
    let set = |settings: &[&'static str], words: &[&'static str]| {
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        settings.chain(words.iter().copied()).collect::<Vec<_>>()
    };
    let weight = "train.distillation.weight=0.5";
    fails(dir, &set(&[weight], &["index"]), &["needs a teacher", "encoder = \"sasrec\""]);
    let sasrec = [
        "index.behavior.encoder=sasrec",
        "index.behavior.sasrec.dim=8",
        "index.behavior.sasrec.epochs=1",
        weight,
    ];
    for (setting, error) in [
        ("index.behavior.sasrec.history=4", "must read the 20 items of data.history"),
        ("index.source=semantic", "an index.source of behavior"),
        ("index.behavior.embeddings=z.npy", "without index.behavior.embeddings"),
    ] {
        fails(dir, &set(&[&sasrec[..], &[setting]].concat(), &["index"]), &[error]);
    }
    assert!(!dir.join("runs").exists());

    // An index that was made elsewhere has no teacher, whatever the configuration says.
    run(dir, &["--run", "made", "index"], 0);
    let import =
        [&["--run", "other"][..], &set(&sasrec, &["index", "import"]), &["made/index/index.json"]];
    run(dir, &import.concat(), 0);
    let train = [&["--run", "other"][..], &set(&sasrec, &["train", "--stage", "initial"])].concat();
    fails(dir, &train, &["needs a teacher", "set the weight to 0"]);
    // It is not said that the stage is under way.
    assert!(file(dir.join("other/manifest.json"))["stages"].get("initial").is_none());
}

#[test]
fn a_baseline_that_the_data_do_not_allow_is_refused_before_anything_is_trained() {
    let dir = tiny();
    let dir = dir.path();
    let shop = dir.join("Bare");
    fs::create_dir(&shop).unwrap();
    let line = |user: usize| format!("\"{user}\": [{}, 1, 2, {}]", user % 5, 3 + user % 3);
    let lines: Vec<String> = (0..40).map(line).collect();
    fs::write(shop.join("Bare.inter.json"), format!("{{{}}}", lines.join(", "))).unwrap();
    let of_bare = |spec: &str| {
        fs::write(dir.join("bare.toml"), spec).unwrap();
        ["--set", "data.path=Bare", "--set", "index.source=behavior", "ablate", "bare.toml"]
    };
    let taught = "[[variant]]\nname = \"plain\"\n\n[[variant]]\nname = \"taught\"\nset = [
        \"index.behavior.encoder=sasrec\", \"train.distillation.weight=0.5\",
        'train.distillation.beside=[\"fdsa\"]']\n";
    fails(dir, &of_bare(taught), &["\"taught\"", "baseline fdsa reads attributes"]);
    fails(dir, &of_bare("baselines = [\"hgn\", \"fdsa\"]\n"), &["fdsa reads attributes"]);
    assert!(!dir.join("runs/ablate").exists());
    let common = of_bare("set = [\"train.foo=1\"]\n");
    fails(dir, &common, &["set of the specification", "`foo`"]);
}

#[test]
fn variants_of_other_divisions_are_refused_before_anything_is_trained() {
    let dir = tiny();
    let spec = "[[variant]]\nname = \"a\"\n\n[[variant]]\nname = \"b\"\nset = [\"data.split.rule=temporal\"]\n";
    fs::write(dir.path().join("splits.toml"), spec).unwrap();
    fails(dir.path(), &["ablate", "splits.toml"], &["data.split", "no variant sets"]);
    assert!(!dir.path().join("runs/ablate/splits/a").exists());
}
