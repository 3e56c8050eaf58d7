//! A run that goes on from another with new days: nothing that was there moves, and only what is new is learnt.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor, safetensors};
use serde_json::Value;

use crate::common::program::{fails, run, tiny, train};

fn json_of(dir: &Path, words: &[&str]) -> Value {
    serde_json::from_str(&run(dir, words, 0).0).unwrap()
}

fn json_at(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A new user, and two new items, one of them without text.
const DAYS: &str = "A,3\nA,NEW\nA,5\nA,7\n7,NEW\n7,OTHER\n9,1\n9,2\n";

/// A run `monday`, with these settings, on the folder `shop`, which has had new days since.
fn after_monday(settings: &[&str], adapter: bool, days: &str) -> tempfile::TempDir {
    let folder = tiny();
    let dir = folder.path();
    run(dir, &["data", "synth", "--out", "shop"], 0);
    let config = fs::read_to_string(dir.join("llmbs.toml")).unwrap();
    let config = config
        .replace("[data.synthetic]\nusers = 80\nitems = 60\ngroups = 6", "[data]\npath = \"shop\"");
    fs::write(dir.join("llmbs.toml"), config).unwrap();
    train(dir, &[settings, &["--run", "monday"]].concat());
    if adapter {
        run(dir, &["--run", "monday", "train", "--stage", "anneal"], 0);
    }
    fs::remove_file(dir.join("llmbs.toml")).unwrap();
    append(dir, days);
    folder
}

/// Appends rows of users and items, old ones by their numbers.
fn append(dir: &Path, rows: &str) {
    let items = json_at(&dir.join("shop/shop.item.json"));
    let raw = |row: &str| {
        let (user, item) = row.split_once(',').unwrap();
        let known = item.parse::<u32>().map(|_| items[item]["item_id"].as_str().unwrap());
        format!("{user},{}\n", known.unwrap_or(item))
    };
    let rows: String = rows.lines().map(raw).collect();
    fs::write(dir.join("days.csv"), format!("user,item\n{rows}")).unwrap();
    let items = "item,title\nNEW,glossy black eyeshadow palette\n";
    fs::write(dir.join("items.csv"), items).unwrap();
    let words = ["data", "import", "days.csv", "--items", "items.csv", "--append", "--out", "shop"];
    run(dir, &words, 0);
}

/// The row of each token in the embedding of a model.
fn rows(model: &Path) -> BTreeMap<String, Vec<f32>> {
    let weights = safetensors::load(model.join("model.safetensors"), &Device::Cpu).unwrap();
    let table = weights["model.embed_tokens.weight"].to_vec2::<f32>().unwrap();
    let tokenizer = json_at(&model.join("tokenizer.json"));
    let of = |token: &Value| {
        let id = token["id"].as_u64().unwrap() as usize;
        (token["content"].as_str().unwrap().to_string(), table[id].clone())
    };
    tokenizer["added_tokens"].as_array().unwrap().iter().map(of).collect()
}

const EXTEND: [&str; 5] = ["index", "--extend", "monday", "--run", "tuesday"];
const CONTINUE: [&str; 5] = ["train", "--continue", "monday", "--run", "tuesday"];

#[test]
fn a_run_goes_on_from_another_with_what_came_since() {
    let folder = after_monday(&[], true, DAYS);
    let dir = folder.path();
    fails(dir, &CONTINUE, &["tuesday: the item index is not there yet"]);
    // An item that was added by hand before its first interaction came stands where it stood.
    fs::write(dir.join("new.json"), r#"{"NEW": {"title": "glossy black eyeshadow palette"}}"#)
        .unwrap();
    let added = json_of(dir, &["index", "add", "new.json", "--run", "monday", "--json"]);
    let (told, _) = run(dir, &EXTEND, 0);
    assert!(
        told.contains("new_items: 2\n") && told.contains("the item index is finished"),
        "{told}"
    );
    let [old, new] =
        ["monday", "tuesday"].map(|run| json_at(&dir.join(run).join("index/index.json")));
    for (item, tokens) in old.as_object().unwrap() {
        assert_eq!(&new[item], tokens, "item {item} has moved");
    }
    assert_eq!((new.as_object().unwrap().len(), &new["60"]), (62, &added[0]["tokens"]));
    // The configuration comes along.
    let config = |run: &str| fs::read_to_string(dir.join(run).join("config.toml")).unwrap();
    assert_eq!(config("monday"), config("tuesday"));
    assert!(run(dir, &EXTEND, 0).0.contains("is finished already"));

    // What is lost of it comes back in the same way.
    let index = dir.join("tuesday/index/index.json");
    fs::rename(&index, dir.join("kept.json")).unwrap();
    fails(dir, &EXTEND, &["is gone", "`llmbs index --extend monday --force`"]);
    fs::rename(dir.join("kept.json"), &index).unwrap();

    let (told, stderr) = run(dir, &CONTINUE, 0);
    assert!(told.contains("best_epoch"), "{told}\n{stderr}");
    assert!(run(dir, &CONTINUE, 0).0.contains("is finished already"));
    let again = ["train", "--stage", "initial", "--run", "tuesday"];
    assert!(run(dir, &again, 0).0.contains("is finished already"));
    let manifest = json_at(&dir.join("tuesday/manifest.json"));
    let follows = &manifest["stages"]["initial"]["follows"];
    assert_eq!(follows["run"], "monday");
    assert!(follows["files"]["anneal/adapter_model.safetensors"].is_string(), "{follows}");
    assert_eq!(manifest["stages"]["index"]["settings"]["seed"], 42);
    assert_eq!(manifest["stages"]["initial"]["settings"]["train.continue.epochs"], 3);

    // The old model is measured on the users of the new run.
    let words = ["eval", "--run", "tuesday", "--compare", "monday", "--json"];
    let compared = json_of(dir, &words);
    assert_eq!(compared["comparison"]["targets"], compared["settings"]["targets"]);
    let before = json_at(&dir.join("tuesday/eval/test-off-b20-before.json"));
    assert_eq!(
        (&before["settings"]["before"], &before["settings"]["items"]),
        (&"monday".into(), &62.into())
    );
    let model = &json_at(&dir.join("monday/manifest.json"))["stages"]["initial"]["outputs"];
    assert_eq!(before["settings"]["model_digest"], model["initial/model.safetensors"]);

    // It is asked in its own words, whatever those of the run that goes on from it.
    let worded = ["--run", "worded", "--set", "train.tasks.instruction=word"];
    for words in [&["index", "--extend", "monday"], &["train", "--continue", "monday"]] {
        run(dir, &[&worded[..], words].concat(), 0);
    }
    json_of(dir, &[&worded[..], &["eval", "--compare", "monday", "--json"]].concat());
    let asked = json_at(&dir.join("worded/eval/test-off-b20-before.json"));
    assert_eq!(asked["metrics"], before["metrics"]);
    assert!(asked["settings"].get("instruction").is_none());

    // New items can be recommended and asked about, and the run is one like others.
    let answer = json_of(dir, &["recommend", "--run", "tuesday", "--user", "A", "--json"]);
    assert_eq!(answer.as_array().unwrap().len(), 10);
    run(dir, &["train", "--stage", "anneal", "--run", "tuesday"], 0);
    run(dir, &["export", "--run", "tuesday", "--out", "model"], 0);
    json_of(dir, &["recommend", "--run", "model", "--history", "3,60,61", "--json"]);
    // And another day comes.
    append(dir, "A,11\n7,12\nB,60\nB,1\nB,2\nB,THIRD\n");
    run(dir, &["index", "--extend", "tuesday", "--run", "wednesday"], 0);
    run(dir, &["train", "--continue", "tuesday", "--run", "wednesday"], 0);
    run(dir, &["eval", "--run", "wednesday", "--compare", "tuesday"], 0);
}

#[test]
fn what_is_carried_over_is_the_model_before_and_new_codes_begin_as_those_of_the_nearest() {
    let folder = after_monday(&[], false, DAYS);
    let dir = folder.path();
    run(dir, &EXTEND, 0);
    // An adapter alone: the model stays as it was.
    let words = ["train", "--continue", "monday", "--stage", "anneal", "--run", "tuesday"];
    let worded = ["--set", "train.tasks.instruction=word"];
    fails(
        dir,
        &[&worded[..], &words].concat(),
        &["would ask it in other words", "instruction was"],
    );
    let (told, _) = run(dir, &words, 0);
    assert!(told.contains("the annealing adapter is finished"), "{told}");
    let asked = ["eval", "--run", "tuesday", "--adapter", "off"];
    fails(dir, &[&worded[..], &asked].concat(), &["train.tasks.instruction was \"sentence\""]);
    let [old, new] = ["monday", "tuesday"].map(|run| rows(&dir.join(run).join("initial")));
    for (token, row) in &old {
        assert_eq!(&new[token], row, "{token}");
    }
    assert!(run(dir, &words, 0).0.contains("the model of stage initial is finished already"));
    fails(dir, &CONTINUE, &["which was not made of monday in this way"]);
    // The contrastive loss goes on with its projectors.
    let projectors = |run: &str| {
        let path = dir.join(run).join("initial/projectors.safetensors");
        let tensors = safetensors::load(path, &Device::Cpu).unwrap();
        let values = |(name, t): (String, Tensor)| {
            (name, t.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        };
        tensors.into_iter().map(values).collect::<BTreeMap<_, _>>()
    };
    assert!(!projectors("monday").is_empty());
    assert_eq!(projectors("monday"), projectors("tuesday"));
    let index = json_at(&dir.join("tuesday/index/index.json"));
    let grown = json_at(&dir.join("tuesday/index/grown.json"));
    for item in ["60", "61"] {
        let nearest = grown["nearest"][item][0].to_string();
        for (level, token) in index[item].as_array().unwrap().iter().enumerate() {
            let token = token.as_str().unwrap();
            if !old.contains_key(token) {
                let like = index[&nearest][level].as_str().unwrap();
                assert_eq!(new[token], old[like], "{token} of item {item}");
            }
        }
    }
    // The model that was carried over is the one that stands.
    let off = ["eval", "--run", "tuesday", "--adapter", "off", "--compare", "monday", "--json"];
    let compared = json_of(dir, &off);
    assert_eq!(compared["comparison"]["metrics"]["recall@10"]["difference"], 0.0, "{compared}");
}

#[test]
fn the_teacher_learns_what_came_since_and_no_code_moves() {
    let settings = [
        "--set",
        "index.behavior.encoder=sasrec",
        "--set",
        "index.behavior.sasrec.epochs=2",
        "--set",
        "train.distillation.weight=0.5",
        "--set",
        "train.repeat-bias=true",
    ];
    let folder = after_monday(&settings, false, DAYS);
    let dir = folder.path();
    let z = |run: &str| {
        let tensors = dir.join(run).join("index/behavior.safetensors");
        let tensors = safetensors::load(tensors, &Device::Cpu).unwrap();
        tensors["embeddings"].to_vec2::<f32>().unwrap()
    };
    let (told, _) = run(dir, &EXTEND, 0);
    assert!(told.contains("index/sasrec/model.safetensors"), "{told}");
    let (old, new) = (z("monday"), z("tuesday"));
    assert_eq!((old.len(), new.len()), (60, 62));
    assert_ne!(old, new[..60]);
    let [before, after] =
        ["monday", "tuesday"].map(|run| json_at(&dir.join(run).join("index/index.json")));
    assert!(before.as_object().unwrap().iter().all(|(item, tokens)| &after[item] == tokens));
    // It begins where that of Monday ended, so it is nearer to it than one that was never trained.
    let report = |run: &str| json_at(&dir.join(run).join("index/sasrec/report.json"));
    let loss = |run: &str| report(run)["epochs"][0]["loss"].as_f64().unwrap();
    assert!(loss("tuesday") < loss("monday"));
    // A side of the contrastive loss that is switched off needs no projector, though Monday's model has one.
    let less = ["--set", "train.contrast.semantic-weight=0"];
    let (_, stderr) = run(dir, &[&CONTINUE[..], &less].concat(), 0);
    assert!(!stderr.contains("nothing is distilled"), "{stderr}");
    // Nobody takes an item twice, and Tuesday has seen more items to say so.
    let bias =
        |run: &str| json_at(&dir.join(run).join("initial/config.json"))["repeat_bias"].as_f64();
    assert!(bias("tuesday").unwrap() < bias("monday").unwrap());
    append(dir, "A,11\n7,12\nB,60\nB,1\nB,2\nB,THIRD\n");
    run(dir, &["index", "--extend", "tuesday", "--run", "wednesday"], 0);
    assert_eq!(z("wednesday").len(), 63);
}

#[test]
fn a_run_that_cannot_go_on_says_why_and_nothing_is_written() {
    let folder = after_monday(&[], false, "A,3\nA,NEW\nA,5\n");
    let dir = folder.path();
    fails(
        dir,
        &["index", "--extend", "nowhere", "--run", "tuesday"],
        &["nowhere: there is no run"],
    );
    fails(dir, &["index", "--extend", "monday"], &["name it with --run"]);
    fails(dir, &["index", "--extend", "monday", "--run", "monday"], &["cannot go on from itself"]);
    fails(
        dir,
        &["index", "--extend", "monday", "--run", "tuesday", "--set", "index.semantic.k=9"],
        &["index.semantic.k was 8, is now 9"],
    );
    let inter = dir.join("shop/shop.inter.json");
    let kept = fs::read(&inter).unwrap();
    let mut users = json_at(&inter);
    users["7"].as_array_mut().unwrap().swap(0, 1);
    fs::write(&inter, users.to_string()).unwrap();
    fails(dir, &EXTEND, &["user \"7\" has not taken first what they had taken before", "--append"]);
    assert!(!dir.join("tuesday").exists());
    fs::write(&inter, kept).unwrap();

    // Another index, and a model of its own, give way only where that is asked for.
    run(dir, &["index", "--run", "tuesday", "--config", "monday/config.toml"], 0);
    fails(dir, &CONTINUE, &["its index does not go on from that of monday"]);
    fails(dir, &EXTEND, &["there is the item index already", "--force"]);
    run(dir, &[&EXTEND[..], &["--force"]].concat(), 0);
    run(dir, &["train", "--stage", "initial", "--run", "tuesday"], 0);
    fails(dir, &CONTINUE, &["there is the model of stage initial already", "--force"]);
    // A model that was altered is none to go on from.
    let model = dir.join("monday/initial/model.safetensors");
    let kept = fs::read(&model).unwrap();
    fs::write(&model, [&kept[..], &[0]].concat()).unwrap();
    let altered = ["monday", "initial/model.safetensors", "train --stage initial --force"];
    fails(dir, &[&CONTINUE[..], &["--force"]].concat(), &altered);
    fs::write(&model, kept).unwrap();
    // The three items of the new user give nothing to learn from: two are held out.
    fails(dir, &[&CONTINUE[..], &["--force"]].concat(), &["nothing came since monday"]);
    assert!(
        run(dir, &["train", "--stage", "initial", "--run", "tuesday"], 0).0.contains("finished")
    );
}

#[test]
fn an_index_of_ones_own_matrices_grows_by_larger_ones() {
    let folder = after_monday(&[], false, DAYS);
    let dir = folder.path();
    let matrix = |name: &str, items: u32, from: f32| {
        let values = Tensor::arange(from, from + 8.0 * items as f32, &Device::Cpu).unwrap();
        let values = values.sin().unwrap().reshape((items as usize, 8)).unwrap();
        values.write_npy(dir.join(name)).unwrap();
        values.to_vec2::<f32>().unwrap()
    };
    for name in ["semantic.npy", "behavior.npy"] {
        matrix(name, 62, 0.0);
    }
    let own =
        |semantic: &'static str, behavior: &'static str| ["--set", semantic, "--set", behavior];
    let old =
        own("index.semantic.embeddings=semantic.npy", "index.behavior.embeddings=behavior.npy");
    let words = ["index", "--run", "tuesday", "--config", "monday/config.toml"];
    run(dir, &[&words[..], &old].concat(), 0);
    append(dir, "B,60\nB,1\nB,2\nB,THIRD\n");

    let extend = ["index", "--extend", "tuesday", "--run", "wednesday"];
    fails(dir, &extend, &["index.semantic.embeddings: has no row of the items that came since"]);
    let all = matrix("all.npy", 63, 0.0);
    matrix("other.npy", 63, 1.0);
    let other = own("index.semantic.embeddings=all.npy", "index.behavior.embeddings=other.npy");
    let named = ["index.behavior.embeddings: the embedding of item 0 is another"];
    fails(dir, &[&extend[..], &other].concat(), &named);
    // Where one's own z^b stays as it was, the new item's is that of its company.
    let new = own("index.semantic.embeddings=all.npy", "index.behavior.embeddings=behavior.npy");
    run(dir, &[&extend[..], &new].concat(), 0);
    let z = |name: &str| {
        let tensors = dir.join("wednesday/index").join(name);
        let tensors = safetensors::load(tensors, &Device::Cpu).unwrap();
        tensors["embeddings"].to_vec2::<f32>().unwrap()
    };
    assert_eq!(z("semantic.safetensors"), all);
    assert_eq!(z("behavior.safetensors")[..62], all[..62]);
    assert_ne!(z("behavior.safetensors")[62], all[62]);
}
