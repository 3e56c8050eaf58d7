//! A run without its dataset, and the folder that `llmbs export` writes, moved to where nothing else is.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use llmbs::config::RunConfig;
use llmbs::model::{Backbone, Llama, Packed, load_backbone, load_safetensors, save_safetensors};
use llmbs::run::{Run, Silent, Stage};
use serde_json::{Value, json};

use crate::common::program::{copy, fails, run, tiny, train};

/// Runs on the folder `shop`, which becomes a dataset of the synthetic shop.
fn with_a_dataset_folder(dir: &Path) {
    run(dir, &["data", "synth", "--out", "shop"], 0);
    let config = fs::read_to_string(dir.join("llmbs.toml")).unwrap();
    let config = config
        .replace("[data.synthetic]\nusers = 80\nitems = 60\ngroups = 6", "[data]\npath = \"shop\"");
    fs::write(dir.join("llmbs.toml"), config).unwrap();
}

fn json_of(dir: &Path, words: &[&str]) -> Value {
    serde_json::from_str(&run(dir, words, 0).0).unwrap()
}

const HISTORY: [&str; 6] =
    ["recommend", "--history", "3,14,15", "--explain", "--exclude-history", "--json"];
const TEXT: [&str; 4] = ["recommend", "--text", "glossy eyeshadow in black", "--json"];

/// What is recommended, by item.
fn scores(answer: &Value) -> Vec<(u64, f64)> {
    let of = |r: &Value| (r["item"].as_u64().unwrap(), r["score"].as_f64().unwrap());
    answer.as_array().unwrap().iter().map(of).collect()
}

#[test]
fn a_backbone_that_changes_behind_an_index_is_noticed() {
    let folder = tiny();
    let dir = folder.path();
    run(dir, &["index"], 0);
    let base = dir.join("base");
    copy(&dir.join("runs/llmbs/backbone"), &base);
    let of = |words: &[&'static str]| {
        [&["--run", "run", "--set", "backbone.path=base"][..], words].concat()
    };
    run(dir, &of(&["index"]), 0);
    assert!(run(dir, &of(&["index"]), 0).0.contains("finished already"));
    // The last says whether texts begin with BOS.
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        let file = base.join(file);
        let before = fs::read_to_string(&file).unwrap();
        fs::write(&file, before.clone() + " ").unwrap();
        let changed = ["the backbone has changed since"];
        fails(dir, &of(&["train", "--stage", "initial"]), &changed);
        fs::write(&file, before).unwrap();
    }
}

#[test]
fn a_dataset_that_changes_while_its_index_is_made_is_noticed() {
    let folder = tiny();
    let dir = folder.path();
    with_a_dataset_folder(dir);
    let config = RunConfig::load(&dir.join("llmbs.toml"), &[]).unwrap();
    let mut run = Run::open(&dir.join("run"), config, Device::Cpu).unwrap();
    // Another day is appended after it was read.
    let inter = dir.join("shop/shop.inter.json");
    let mut users: Value = serde_json::from_slice(&fs::read(&inter).unwrap()).unwrap();
    users["7"].as_array_mut().unwrap().push(json!(9));
    fs::write(&inter, users.to_string()).unwrap();
    let error = run.stage(Stage::Index, false, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("shop: has changed since it was read"), "{error}");
}

#[test]
fn a_run_is_used_whatever_becomes_of_its_dataset() {
    let folder = tiny();
    let dir = folder.path();
    with_a_dataset_folder(dir);
    train(dir, &["--run", "run"]);
    let of = |words: &[&'static str]| [&["--run", "run"], words].concat();
    let user = ["recommend", "--user", "7", "--json"];
    let asked = [of(&HISTORY), of(&TEXT), of(&user), of(&["index", "report", "--json"])];
    let before: Vec<Value> = asked.iter().map(|words| json_of(dir, words)).collect();

    // One more interaction: what was trained knows nothing of it, and a new training would.
    let inter = dir.join("shop/shop.inter.json");
    let mut users: Value = serde_json::from_slice(&fs::read(&inter).unwrap()).unwrap();
    users["7"].as_array_mut().unwrap().push(json!(9));
    fs::write(&inter, users.to_string()).unwrap();
    for (words, before) in asked.iter().zip(&before) {
        assert_eq!(&json_of(dir, words), before, "{words:?}");
    }
    fails(dir, &of(&["train", "--stage", "initial"]), &["the dataset has changed since"]);
    fails(dir, &of(&["eval"]), &["the dataset has changed since"]);

    fs::remove_dir_all(dir.join("shop")).unwrap();
    for (words, before) in asked.iter().zip(&before) {
        assert_eq!(&json_of(dir, words), before, "{words:?}");
    }
    fs::write(dir.join("new.json"), r#"{"NEW": {"title": "brand new soap"}}"#).unwrap();
    let added = json_of(dir, &of(&["index", "add", "new.json", "--json"]));
    assert_eq!(added[0]["item"], 60);

    // The copy is a file like the others: when it is another, that is told.
    let copy = dir.join("run/data/shop.item.json");
    let text = fs::read_to_string(&copy).unwrap();
    fs::write(&copy, text.replacen('a', "b", 1)).unwrap();
    fails(dir, &of(&HISTORY), &["shop.item.json", "--force"]);
    fs::remove_file(&copy).unwrap();
    fails(dir, &of(&HISTORY), &["shop"]);
}

/// The model card of the run, if one of its results were that of another adapter.
fn card_of_another_adapter(dir: &Path) -> String {
    let result = dir.join("run/eval/test-on-b20.json");
    let kept = fs::read(&result).unwrap();
    let mut fields: Value = llmbs::sealed::read(&result, "").unwrap();
    fields["settings"]["adapter_digest"] = "another".into();
    llmbs::sealed::write(&result, &fields).unwrap();
    run(dir, &["--run", "run", "export", "--out", "replaced"], 0);
    fs::write(&result, kept).unwrap();
    fs::read_to_string(dir.join("replaced/README.md")).unwrap()
}

#[test]
fn an_exported_folder_answers_as_the_run_did() {
    let folder = tiny();
    let dir = folder.path();
    with_a_dataset_folder(dir);
    // Codes of two digits, whose order is not that of their strings.
    let config = dir.join("llmbs.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        text.replace("[index.behavior]\nk = 8", "[index.behavior]\nk = 64\nlevels = 1"),
    )
    .unwrap();
    let of = |words: &[&'static str]| [&["--run", "run"], words].concat();
    run(dir, &of(&["index"]), 0);
    fails(dir, &of(&["export", "--out", "early"]), &["train --stage initial"]);
    assert!(!dir.join("early").exists());
    run(dir, &of(&["train", "--stage", "initial"]), 0);
    fails(dir, &of(&["export", "--out", "early", "--merged"]), &["train --stage anneal"]);
    run(dir, &of(&["train", "--stage", "anneal"]), 0);
    run(dir, &of(&["eval"]), 0);
    fs::write(dir.join("new.json"), r#"{"NEW": {"title": "brand new soap"}}"#).unwrap();
    run(dir, &of(&["index", "add", "new.json"]), 0);
    fs::write(dir.join("more.json"), r#"{"MORE": {"title": "glossy black eyeshadow"}}"#).unwrap();
    let (history, text) = (json_of(dir, &of(&HISTORY)), json_of(dir, &of(&TEXT)));

    let listed = json_of(dir, &of(&["export", "--out", "plain", "--json"]));
    let mut names: Vec<&str> =
        listed["files"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    names.sort_unstable();
    for name in &names {
        assert!(dir.join("plain").join(name).exists(), "{name}");
        let said = fs::read(dir.join("plain").join(name)).unwrap();
        let place = dir.display().to_string();
        assert!(!String::from_utf8_lossy(&said).contains(&place), "{name} names {place}");
    }
    assert!(
        names.contains(&"data/shop.popularity.json") && !names.contains(&"data/shop.inter.json")
    );
    let card = fs::read_to_string(dir.join("plain/README.md")).unwrap();
    assert!(card.contains("| test | on |") && card.contains("60 items"), "{card}");
    assert_eq!(card_of_another_adapter(dir).matches("| test |").count(), 1);
    run(dir, &of(&["export", "--out", "users", "--with-users"]), 0);
    run(dir, &of(&["export", "--out", "merged", "--merged"]), 0);
    run(dir, &of(&["export", "--out", "half", "--merged", "--dtype", "bf16"]), 0);
    run(dir, &of(&["export", "--out", "sorted", "--token-order", "lexicographic"]), 0);
    let user = json_of(dir, &of(&["recommend", "--user", "7", "--json"]));
    let added = json_of(dir, &of(&["index", "add", "more.json", "--json"]));

    // To where nothing else is.
    let elsewhere = tempfile::tempdir().unwrap();
    let there = elsewhere.path();
    for name in ["plain", "users", "merged", "half", "sorted"] {
        fs::rename(dir.join(name), there.join(name)).unwrap();
    }
    fs::rename(dir.join("more.json"), there.join("more.json")).unwrap();
    fs::remove_dir_all(dir).unwrap();

    let in_folder = |name: &'static str, words: &[&'static str]| [&["--run", name], words].concat();
    for name in ["plain", "users", "sorted"] {
        assert_eq!(json_of(there, &in_folder(name, &HISTORY)), history, "{name}");
        assert_eq!(json_of(there, &in_folder(name, &TEXT)), text, "{name}");
    }
    // In the vocabulary of `sorted` the item tokens stand as Python sorts them.
    let item_tokens = |name: &str| -> Vec<String> {
        let path = there.join(name).join("initial/tokenizer.json");
        let json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let added = json["added_tokens"].as_array().unwrap().iter();
        let names = added.map(|token| token["content"].as_str().unwrap().to_string());
        names.filter(|name| name.contains('_')).collect()
    };
    let mut names = item_tokens("plain");
    assert!(!names.is_sorted() && !names.is_empty(), "{names:?}");
    names.sort();
    assert_eq!(item_tokens("sorted"), names);
    // The same weights, added up beforehand.
    assert_eq!(json_of(there, &in_folder("merged", &HISTORY)), history);
    let (rounded, exact) = (json_of(there, &in_folder("half", &HISTORY)), scores(&history));
    for ((_, score), (_, exact)) in scores(&rounded).iter().zip(&exact) {
        assert!((score - exact).abs() < 0.05, "{rounded} {exact}");
    }
    let bytes = |name: &str| {
        fs::metadata(there.join(name).join("initial/model.safetensors")).unwrap().len()
    };
    assert!(bytes("half") < bytes("merged") * 6 / 10);

    let of_user = ["recommend", "--user", "7", "--json"];
    assert_eq!(json_of(there, &in_folder("users", &of_user)), user);
    fails(there, &in_folder("plain", &of_user), &["users were left out", "history"]);
    let all = in_folder("plain", &["recommend", "--all-users", "--out", "all.jsonl"]);
    fails(there, &all, &["users were left out", "--batch"]);
    assert!(!there.join("all.jsonl").exists());
    fails(there, &in_folder("plain", &["eval"]), &["plain/data: its users", "--with-users"]);
    let more = ["index", "add", "more.json", "--json"];
    assert_eq!(json_of(there, &in_folder("plain", &more)), added);

    nothing_is_lost(there);
}

/// An export is handed on, and replaced by nothing but another.
fn nothing_is_lost(there: &Path) {
    let in_folder = |name: &'static str, words: &[&'static str]| [&["--run", name], words].concat();
    // What was handed on can be handed on.
    run(there, &in_folder("plain", &["export", "--out", "again"]), 0);
    assert_eq!(
        json_of(there, &in_folder("again", &TEXT)),
        json_of(there, &in_folder("plain", &TEXT))
    );

    // Nothing that is there is lost.
    fails(there, &in_folder("plain", &["export", "--out", "again"]), &["again", "--force"]);
    // A folder of somebody's own that holds what might be of an export.
    fs::create_dir_all(there.join("own/data")).unwrap();
    fs::write(there.join("own/README.md"), "mine").unwrap();
    let onto = in_folder("plain", &["export", "--out", "own", "--force"]);
    fails(there, &onto, &["own: holds ", "which would be lost"]);
    assert!(there.join("own/data").exists() && there.join("own/README.md").exists());
    run(there, &in_folder("plain", &["export", "--out", "again", "--force", "--merged"]), 0);
    assert!(!there.join("again/anneal").exists());
    // Items that were added to an export are not lost to the next one, and its lock is no obstacle.
    fs::write(there.join("last.json"), r#"{"LAST": {"title": "the last soap"}}"#).unwrap();
    run(there, &in_folder("again", &["index", "add", "last.json"]), 0);
    let anew = in_folder("plain", &["export", "--out", "again", "--force"]);
    fails(there, &anew, &["again/added.json", "the last soap", "would be lost"]);
    run(there, &in_folder("plain", &["index", "add", "last.json"]), 0);
    run(there, &anew, 0);
    fs::write(there.join("again/own.txt"), "mine").unwrap();
    fails(there, &in_folder("plain", &["export", "--out", "again", "--force"]), &["own.txt"]);
    assert!(there.join("again/own.txt").exists());
}

/// The logits after a history of items, and the ids of a text with items in it.
fn seen_by(path: &Path) -> (Vec<f32>, Vec<u32>) {
    let path = path.to_str().unwrap();
    let Backbone { config, weights, tokenizer } =
        load_backbone(path, DType::F32, &Device::Cpu).unwrap();
    let names = ["<a_0>", "<b_1>", "<c_2>", "<con>"];
    let names = names.map(|name| (name.to_string(), tokenizer.token_to_id(name).unwrap()));
    let text = "What follows <a_0><b_1><c_2>, in black?";
    let ids = tokenizer.encode_with_items(text, &names.into()).unwrap();
    let model = Llama::new(&config, &weights).unwrap();
    let last = [ids.len() as u32 - 1];
    let hidden = model.infer(&Packed::sequences(&[&ids]), None, &last).unwrap();
    let logits = model.logits(&hidden, 0..config.vocab_size as u32).unwrap();
    (logits.flatten_all().unwrap().to_vec1().unwrap(), ids)
}

/// Makes a PEFT folder of that in `from`, with another B: as PEFT leaves one that was trained elsewhere.
fn draw_adapter(from: &Path, to: &Path) -> Value {
    fs::create_dir(to).unwrap();
    let weights = "adapter_model.safetensors";
    let mut tensors = load_safetensors(from.join(weights), &Device::Cpu).unwrap();
    for (at, tensor) in tensors.values_mut().enumerate().filter(|(at, _)| at % 2 == 1) {
        let values = (0..tensor.elem_count()).map(|i| ((i * 7 + at) % 11) as f32 * 0.02 - 0.1);
        let values: Vec<f32> = values.collect();
        let drawn = Tensor::from_vec(values, tensor.dims(), &Device::Cpu).unwrap();
        *tensor = drawn.to_dtype(DType::F16).unwrap();
    }
    save_safetensors(to.join(weights), &tensors).unwrap();
    let config = fs::read(from.join("adapter_config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["base_model_name_or_path"] = "/somewhere/else".into();
    config["peft_version"] = "0.18.0".into();
    fs::write(to.join("adapter_config.json"), config.to_string()).unwrap();
    config
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_gguf_file_is_the_model_beside_it() {
    let folder = tiny();
    let dir = folder.path();
    train(dir, &["--run", "run"]);
    run(dir, &["--run", "run", "train", "--stage", "anneal"], 0);
    draw_adapter(&dir.join("run/anneal"), &dir.join("other"));
    run(dir, &["--run", "run", "import-adapter", "other", "--force"], 0);
    let exports = |words: &[&'static str]| {
        json_of(dir, &[&["--run", "run", "export", "--json", "--out"], words].concat())
    };
    let listed = exports(&["plain", "--gguf", "f16"]);
    assert!(listed["files"].as_array().unwrap().contains(&json!("model.gguf")), "{listed}");
    exports(&["merged", "--merged", "--gguf", "f16"]);
    exports(&["small", "--merged", "--dtype", "bf16", "--gguf", "q8_0"]);
    let of = |name: &str| {
        let (folder, ids) = seen_by(&dir.join(name).join("initial"));
        let (file, same) = seen_by(&dir.join(name).join("model.gguf"));
        assert_eq!(ids, same, "{name}");
        (folder, file)
    };
    let ((plain, of_plain), (merged, of_merged)) = (of("plain"), of("merged"));
    assert!(furthest(&plain, &of_plain) < 1e-2 && furthest(&merged, &of_merged) < 1e-2);
    assert!(furthest(&of_plain, &of_merged) > 5e-2, "the adapter is not in it");
    let (_, small) = of("small");
    assert!(furthest(&merged, &small) < 0.2, "{}", furthest(&merged, &small));
    let bytes = |name: &str| fs::metadata(dir.join(name).join("model.gguf")).unwrap().len();
    assert!(bytes("small") < bytes("merged") * 7 / 10);

    let card = |name: &str| fs::read_to_string(dir.join(name).join("README.md")).unwrap();
    assert!(card("plain").contains("`model.gguf` is the model, without the adapter"));
    assert!(card("merged").contains("`model.gguf` is the model, for llama.cpp"));
    // The file may go where it is used: nothing else needs it.
    fs::remove_file(dir.join("plain/model.gguf")).unwrap();
    run(dir, &[&["--run", "plain"], &HISTORY[..]].concat(), 0);
    run(dir, &["--run", "run", "export", "--out", "more", "--gguf", "q4_0"], 2);
}

#[test]
fn an_adapter_that_was_trained_elsewhere_takes_the_place_of_stage_anneal() {
    let folder = tiny();
    let dir = folder.path();
    let of = |words: &[&'static str]| [&["--run", "run"], words].concat();
    run(dir, &of(&["index"]), 0);
    fails(dir, &of(&["import-adapter", "other"]), &["train --stage initial"]);
    run(dir, &of(&["train", "--stage", "initial"]), 0);
    run(dir, &of(&["train", "--stage", "anneal"]), 0);
    let history = json_of(dir, &of(&HISTORY));
    let (own, other) = (dir.join("run/anneal"), dir.join("other"));
    let mut config = draw_adapter(&own, &other);
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let write = |config: &Value| {
        fs::write(other.join("adapter_config.json"), config.to_string()).unwrap();
    };
    let import = of(&["import-adapter", "other"]);
    let forced = of(&["import-adapter", "other", "--force"]);
    fails(dir, &import, &["trained here", "import-adapter other --force"]);
    for (key, value) in [
        ("use_dora", json!(true)),
        ("bias", json!("all")),
        ("modules_to_save", json!(["lm_head"])),
        ("r", json!(3)),
        ("target_modules", json!(["q_proj"])),
    ] {
        let mut wrong = config.clone();
        wrong[key] = value;
        write(&wrong);
        let said = if key == "r" { "rank 3" } else { key };
        fails(dir, &forced, &["other: the adapter cannot be applied", said]);
    }
    write(&config);
    let (said, _) = run(dir, &forced, 0);
    assert!(
        said.contains("the annealing adapter is imported") && said.contains("layers: 14"),
        "{said}"
    );
    assert_eq!(read(&own.join("adapter_config.json"))["base_model_name_or_path"], "../initial");
    let record = &read(&dir.join("run/manifest.json"))["stages"]["anneal"]["imported_adapter"];
    assert_eq!(record["folder"], "other");
    assert_eq!(record["files"]["adapter_model.safetensors"].as_str().unwrap().len(), 64);

    // Used as one that was trained here is, and left in peace.
    let (other_scores, off) =
        (json_of(dir, &of(&HISTORY)), [&HISTORY[..], &["--adapter", "off"]].concat());
    assert_ne!(scores(&other_scores), scores(&history));
    assert_ne!(scores(&other_scores), scores(&json_of(dir, &of(&off))));
    run(dir, &of(&["eval", "--adapter", "on"]), 0);
    run(dir, &of(&["export", "--out", "merged", "--merged"]), 0);
    assert_eq!(json_of(dir, &[&["--run", "merged"], &HISTORY[..]].concat()), other_scores);
    run(dir, &of(&["export", "--out", "plain"]), 0);
    assert_eq!(json_of(dir, &[&["--run", "plain"], &HISTORY[..]].concat()), other_scores);
    let (said, _) = run(dir, &of(&["train", "--stage", "anneal"]), 0);
    assert!(said.contains("was imported from other") && said.contains("--force"), "{said}");
    assert!(run(dir, &import, 0).0.contains("was imported from other"));
    config["lora_alpha"] = 1.0.into();
    write(&config);
    fails(dir, &import, &["imported from other", "--force"]);

    run(dir, &of(&["train", "--stage", "anneal", "--force"]), 0);
    assert_eq!(json_of(dir, &of(&HISTORY)), history);
    assert!(read(&dir.join("run/manifest.json"))["stages"]["anneal"]["imported_adapter"].is_null());
}
