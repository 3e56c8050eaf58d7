//! What teaches stage initial beside the SASRec of z^b.

use std::fs;
use std::path::Path;

use crate::common::program::{fails, run, tiny, train};
use serde_json::Value;

const SETTINGS: [&str; 8] = [
    "index.behavior.encoder=sasrec",
    "index.behavior.sasrec.dim=8",
    "index.behavior.sasrec.epochs=1",
    "train.distillation.weight=0.5",
    "baseline.hgn.dim=8",
    "baseline.hgn.epochs=1",
    "baseline.fdsa.dim=8",
    "baseline.fdsa.epochs=1",
];

fn words<'a>(run: &'a str, more: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    let settings = SETTINGS.iter().chain(more).flat_map(|setting| ["--set", *setting]);
    ["--run", run].into_iter().chain(settings).chain(command.iter().copied()).collect()
}

const INITIAL: [&str; 3] = ["train", "--stage", "initial"];

fn model(dir: &Path, run: &str) -> Vec<u8> {
    fs::read(dir.join(run).join("initial/model.safetensors")).unwrap()
}

/// How a baseline came about, the time it took included.
fn training(dir: &Path, run: &str, name: &str) -> String {
    let seed = dir.join(run).join("baseline").join(name).join("seed-42");
    fs::read_to_string(seed.join("training.json")).unwrap()
}

#[test]
fn baselines_teach_beside_the_sasrec() {
    let folder = tiny();
    let dir = folder.path();
    let both = ["train.distillation.beside=[\"fdsa\", \"hgn\"]"];
    run(dir, &words("both", &both, &["index"]), 0);
    run(dir, &words("both", &both, &INITIAL), 0);
    for name in ["fdsa", "hgn"] {
        let seed = dir.join("both/baseline").join(name).join("seed-42");
        assert!(seed.join("model.safetensors").exists() && seed.join("valid.json").exists());
        assert!(!seed.join("test.json").exists(), "the test split was looked at");
    }
    // What stands is taken as it is, and another model comes of it than of the SASRec alone, or of one of them.
    run(dir, &words("one", &[], &["index"]), 0);
    run(dir, &words("one", &[], &INITIAL), 0);
    let hgn = ["train.distillation.beside=[\"hgn\"]"];
    run(dir, &words("two", &hgn, &["index"]), 0);
    run(dir, &words("two", &hgn, &["baseline", "hgn"]), 0);
    let standing = training(dir, "two", "hgn");
    run(dir, &words("two", &hgn, &INITIAL), 0);
    assert_eq!(training(dir, "two", "hgn"), standing);
    let models = ["both", "one", "two"].map(|run| model(dir, run));
    assert!(models[0] != models[1] && models[1] != models[2] && models[0] != models[2]);
    // The same comes of the same, in whichever order it is named, though the baselines are there this time.
    let standing = training(dir, "both", "fdsa");
    let again = ["train.distillation.beside=[\"hgn\", \"fdsa\", \"hgn\"]"];
    run(dir, &words("both", &again, &["train", "--stage", "initial", "--force"]), 0);
    assert_eq!(training(dir, "both", "fdsa"), standing);
    assert_eq!(model(dir, "both"), models[0]);

    // Their settings are part of what decides the model; those of what does not teach are not.
    let (told, _) = run(dir, &words("two", &["baseline.fdsa.dim=16", hgn[0]], &INITIAL), 0);
    assert!(told.contains("finished already"), "{told}");
    let other = ["baseline.hgn.dim=16", hgn[0]];
    fails(dir, &words("two", &other, &INITIAL), &["baseline.hgn.dim was 8, is now 16"]);
    fails(
        dir,
        &words("two", &["train.distillation.beside=[]"], &INITIAL),
        &["train.distillation.beside was [\"hgn\"], is now []"],
    );
    // Without a weight nothing teaches.
    let none = ["train.distillation.weight=0", both[0]];
    run(dir, &words("none", &none, &["index"]), 0);
    run(dir, &words("none", &none, &INITIAL), 0);
    assert!(!dir.join("none/baseline").exists());
}

#[test]
fn a_colleague_that_cannot_teach_is_refused_before_training() {
    let folder = tiny();
    let dir = folder.path();
    fails(
        dir,
        &words("run", &["train.distillation.beside=[\"tiger\"]"], &["index"]),
        &["train.distillation.beside", "tiger", "fdsa", "hgn"],
    );
    let fdsa = "train.distillation.beside=[\"fdsa\"]";
    run(dir, &words("run", &[fdsa], &["index"]), 0);
    fails(
        dir,
        &words("run", &[fdsa, "baseline.fdsa.history=4"], &INITIAL),
        &["baseline fdsa reads 4 items", "must read the 20 of data.history"],
    );
    // A shop without attributes.
    let shop = dir.join("Shop");
    fs::create_dir(&shop).unwrap();
    let line = |user: usize| format!("\"{user}\": [{}, {}, {}, {}]", user % 5, 1, 2, 3 + user % 3);
    let lines: Vec<String> = (0..40).map(line).collect();
    fs::write(shop.join("Shop.inter.json"), format!("{{{}}}", lines.join(", "))).unwrap();
    let bare = ["data.path=Shop", "index.source=behavior", fdsa];
    fails(dir, &words("bare", &bare, &["run"]), &["baseline fdsa reads attributes"]);
    run(dir, &words("bare", &bare, &["index"]), 0);
    fails(dir, &words("bare", &bare, &INITIAL), &["baseline fdsa reads attributes", "none here"]);
    let manifest = fs::read_to_string(dir.join("bare/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert!(manifest["stages"].get("initial").is_none());
    assert!(!dir.join("bare/baseline").exists());
}

#[test]
fn a_repeat_bias_stays_with_the_model() {
    let folder = tiny();
    let dir = folder.path();
    let file = dir.join("llmbs.toml");
    let own = fs::read_to_string(&file).unwrap();
    fs::write(&file, own + "[train]\nrepeat-bias = true\n").unwrap();
    train(dir, &[]);
    let text = fs::read_to_string(dir.join("runs/llmbs/initial/config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    // Nobody takes an item twice: less than one in all that are in training, of 80 users some 500.
    let bias = config["repeat_bias"].as_f64().unwrap();
    assert!((-7.0..-5.5).contains(&bias), "{bias}");
    run(dir, &["export", "--out", "model"], 0);
    for folder in ["runs/llmbs", "model"] {
        let asked = ["--run", folder, "recommend", "--history", "7,3,7", "--top", "60", "--json"];
        let (answer, _) = run(dir, &asked, 0);
        let items: Vec<Value> = serde_json::from_str(&answer).unwrap();
        let mut items: Vec<u64> = items.iter().map(|of| of["item"].as_u64().unwrap()).collect();
        let mut last = items.split_off(items.len() - 2);
        last.sort_unstable();
        assert_eq!((items.len(), last), (58, vec![3, 7]), "{folder}");
    }
    fails(
        dir,
        &[&["--set", "train.repeat-bias=false"], &INITIAL[..]].concat(),
        &["train.repeat-bias was true, is now false"],
    );

    // So it is with what ranks beside it.
    run(dir, &["baseline", "sasrec"], 0);
    let fuse = ["--fuse", "runs/llmbs/baseline/sasrec/seed-42"];
    run(dir, &[&["eval", "--split", "valid"], &fuse[..]].concat(), 0);
    let order = |words: &[&str]| -> Vec<u64> {
        let (answer, _) = run(dir, &[words, &["--json"]].concat(), 0);
        let items: Vec<Value> = serde_json::from_str(&answer).unwrap();
        items.iter().map(|of| of["item"].as_u64().unwrap()).collect()
    };
    let asked = ["recommend", "--history", "7,3,7", "--top", "60"];
    let mut last = order(&[&asked, &fuse[..]].concat()).split_off(58);
    last.sort_unstable();
    assert_eq!(last, [3, 7]);

    // An item that came later is nobody's yet, not even theirs who have the one that it is most like; then somebody's.
    fs::write(dir.join("new.json"), r#"{"NEW-1": {"title": "rose soap"}}"#).unwrap();
    let (added, _) = run(dir, &["index", "add", "new.json", "--json"], 0);
    let added: Value = serde_json::from_str(&added).unwrap();
    let like = added[0]["nearest"][0]["item"].as_u64().unwrap();
    let after = |history: &str| order(&["recommend", "--history", history, "--top", "61"]);
    let found = after(&like.to_string());
    assert!(found.len() == 61 && found[60] == like && found[59] != 60, "{found:?}");
    let found = after("60");
    assert!(found.len() == 61 && found[60] == 60, "{found:?}");
}
