//! `llmbs index report`, `import` and `add` as a user meets them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::common::program::{self, fails, field_names, run, tiny};
use serde_json::{Value, json};

/// A folder with a trained run, `runs/llmbs`, and its shop as a dataset, `Shop`; tests that change a run
/// work on a copy.
static SHOP: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("index_commands");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    fs::copy(tiny().path().join("llmbs.toml"), dir.join("llmbs.toml")).unwrap();
    run(&dir, &["data", "synth", "--out", "Shop"], 0);
    run(&dir, &["index"], 0);
    run(&dir, &["train", "--stage", "initial"], 0);
    dir
});

fn read(path: impl AsRef<Path>) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn json_of(args: &[&str]) -> Value {
    serde_json::from_str(&run(&SHOP, args, 0).0).unwrap()
}

/// A copy of the trained run, as `--run NAME` has it.
fn copy_run(name: &str) -> String {
    let to = SHOP.join("runs").join(name);
    program::copy(&SHOP.join("runs/llmbs"), &to);
    to.display().to_string()
}

fn index_of(run: &str) -> BTreeMap<String, Vec<String>> {
    serde_json::from_value(read(Path::new(run).join("index/index.json"))).unwrap()
}

#[test]
fn a_report_agrees_with_the_index_it_is_about() {
    let report = json_of(&["index", "report", "--json"]);
    let index = index_of(SHOP.join("runs/llmbs").to_str().unwrap());
    let tokens: BTreeSet<&String> = index.values().flatten().collect();
    assert_eq!(report["num_items"], 60);
    assert_eq!(report["num_tokens"], tokens.len());
    assert_eq!(report["collisions"], 0);
    let ratio = report["compression_ratio"].as_f64().unwrap();
    assert!((ratio - 60.0 / tokens.len() as f64).abs() < 1e-12);

    let listed = report["tokens"].as_array().unwrap();
    assert_eq!(listed.len(), tokens.len());
    for token in listed {
        let having = |item: &u64| index[&item.to_string()].iter().any(|t| *t == token["token"]);
        assert_eq!(token["items"], (0..60).filter(having).count(), "{token}");
        let central = token["central"].as_array().unwrap();
        assert_eq!(central.len() as u64, token["items"].as_u64().unwrap().min(5));
        for named in central.iter().chain(token["typical"].as_array().unwrap()) {
            assert!(having(&named["item"].as_u64().unwrap()), "{token}");
        }
    }
    let levels = report["levels"].as_array().unwrap();
    assert_eq!(levels.len(), index["0"].len());
    for level in levels {
        let share = level["entropy_share"].as_f64().unwrap();
        assert!((0.0..=1.0 + 1e-9).contains(&share), "{level}");
    }
    // Items of one cluster are alike in what the cluster was made from.
    for source in ["semantic", "behavior"] {
        let of = |s: &&Value| s["source"] == source;
        let first = report["similarity"].as_array().unwrap().iter().find(of).unwrap();
        let closer = first[source]["closer"].as_f64().unwrap();
        assert!(closer > 0.6, "{first}");
    }
    assert_eq!(report, json_of(&["--threads", "1", "index", "report", "--json"]));

    let manual = include_str!("../docs/index-commands.md");
    for name in field_names(&report) {
        assert!(manual.contains(&format!("`{name}`")), "docs/index-commands.md lacks {name}");
    }

    let (text, _) = run(&SHOP, &["index", "report"], 0);
    for words in ["60 items", "0 collisions", "co-purchase", "most used tokens of level a"] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    let name = listed[0]["token"].as_str().unwrap();
    let bare = name.trim_matches(['<', '>']);
    for spelled in [name, bare] {
        let (text, _) = run(&SHOP, &["index", "report", "--token", spelled], 0);
        assert!(text.contains(listed[0]["central"][0]["title"].as_str().unwrap()), "{text}");
    }
    assert_eq!(json_of(&["index", "report", "--token", bare, "--json"]), listed[0]);
    fails(&SHOP, &["index", "report", "--token", "a_999"], &["<a_999>"]);
    fails(&SHOP, &["--run", "runs/none", "index", "report"], &["run `llmbs index` first"]);
}

#[test]
fn a_page_holds_every_item_and_escapes_what_it_shows() {
    // Titles that would break out of a script, a tag or an attribute.
    let evil = "</script><script>alert(1)</script> & \"quoted\" 'single' <!--";
    let shop = SHOP.join("Evil & <b>");
    fs::create_dir_all(&shop).unwrap();
    let mut items = read(SHOP.join("Shop/Shop.item.json"));
    items["7"]["title"] = evil.into();
    fs::write(shop.join("Evil & <b>.item.json"), items.to_string()).unwrap();
    fs::copy(SHOP.join("Shop/Shop.inter.json"), shop.join("Evil & <b>.inter.json")).unwrap();
    let set = ["--set", "data.path='Evil & <b>'", "--run", "runs/evil"];
    run(&SHOP, &[&set[..], &["index"]].concat(), 0);
    run(&SHOP, &[&set[..], &["index", "report", "--html", "pages/evil.html"]].concat(), 0);
    let page = fs::read_to_string(SHOP.join("pages/evil.html")).unwrap();
    assert_eq!(page.matches("</script").count(), 2, "the two scripts of the page itself");
    assert!(!page.contains("Evil & <b>") && page.contains("Evil &amp; &lt;b&gt;"));

    let start = page.find("id=\"data\">").unwrap() + "id=\"data\">".len();
    let data = &page[start..start + page[start..].find("</script>").unwrap()];
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["titles"].as_array().unwrap().len(), 60);
    assert_eq!(data["titles"][7], evil);
    let index = index_of(SHOP.join("runs/evil").to_str().unwrap());
    for (item, tokens) in &index {
        let spelled = (0..tokens.len()).map(|level| {
            let code = &data["codes"][level][item.parse::<usize>().unwrap()];
            format!("<{}_{code}>", char::from(b'a' + level as u8))
        });
        assert_eq!(&spelled.collect::<Vec<_>>(), tokens);
    }
    for tree in data["trees"].as_array().unwrap() {
        let order: BTreeSet<u64> =
            tree["order"].as_array().unwrap().iter().map(|i| i.as_u64().unwrap()).collect();
        assert_eq!(order.len(), 60);
    }
}

/// The trained run's index with the codes of `items` those of the first of them.
fn colliding(name: &str, items: &[u32]) -> String {
    let mut index = index_of(SHOP.join("runs/llmbs").to_str().unwrap());
    let first = index[&items[0].to_string()].clone();
    for item in items {
        index.insert(item.to_string(), first.clone());
    }
    let path = SHOP.join(name);
    fs::write(&path, json!(index).to_string()).unwrap();
    path.display().to_string()
}

/// The readings of codes that the items of `group` share are those of the kept predictions.
fn assert_readings(shared: &Value, predictions: &Path, group: &[u64]) {
    let lines = fs::read_to_string(predictions).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut recall = [0.0; 3];
    let mut of_group = 0;
    for line in &lines {
        let target = [line["target"].as_u64().unwrap()];
        let first: Vec<u64> =
            line["items"].as_array().unwrap()[..10].iter().map(|i| i.as_u64().unwrap()).collect();
        let is_shared = group.contains(&target[0]);
        of_group += u64::from(is_shared);
        let codes = if is_shared { group } else { &target };
        let hits = codes.iter().filter(|item| first.contains(item)).count();
        recall[0] += f64::from(hits > 0);
        recall[1] += hits as f64 / codes.len() as f64;
        recall[2] += f64::from(hits == codes.len());
    }
    assert!(of_group > 0, "no target is among the items that share");
    assert_eq!(shared["targets"], of_group);
    for (reading, hits) in ["optimistic", "expected", "pessimistic"].into_iter().zip(recall) {
        let found = shared["metrics"][reading]["recall@10"].as_f64().unwrap();
        assert!((found - hits / lines.len() as f64).abs() < 1e-9, "{reading}: {found}, {hits}");
        assert!(shared["metrics_history_excluded"][reading]["mrr@20"].is_number(), "{shared}");
    }
}

#[test]
fn an_imported_index_is_trained_on_and_evaluated() {
    let dir = &SHOP;
    let file = colliding("foreign.index.json", &[3, 8, 20]);
    let import = ["--run", "runs/foreign", "index", "import", &file];
    let expected = "3 items share an index, in 1 group (items 3, 8, 20 have <a_";
    fails(dir, &import, &[expected, "--on-collision extend"]);
    assert!(!dir.join("runs/foreign").exists(), "a refused import writes nothing");

    let extend = [&import[..], &["--on-collision", "extend"]].concat();
    let (stdout, stderr) = run(dir, &extend, 0);
    assert!(stdout.contains("imported") && stdout.contains("items_sharing: 3"), "{stdout}");
    assert!(stderr.contains(expected) && stderr.contains("contrastive loss"), "{stderr}");
    let foreign = dir.join("runs/foreign");
    let index = index_of(foreign.to_str().unwrap());
    assert_eq!(index.values().collect::<BTreeSet<_>>().len(), 60);
    let last = |item: &str| index[item].last().unwrap().clone();
    assert_eq!(["0", "3", "8", "20"].map(last), ["<e_0>", "<e_0>", "<e_1>", "<e_2>"]);

    // It stands as if stage `index` had made it, and is not made again by accident.
    let of = ["--run", "runs/foreign"];
    let (stdout, _) = run(dir, &[&of[..], &["index"]].concat(), 0);
    assert!(stdout.contains("was imported from") && stdout.contains("--force"), "{stdout}");
    run(dir, &extend, 0);
    let other = colliding("other.index.json", &[4, 9]);
    let again = [&of[..], &["index", "import", &other, "--on-collision", "extend"]].concat();
    fails(dir, &again, &["another item index already", "foreign.index.json", "--force"]);
    assert_eq!(index_of(foreign.to_str().unwrap()), index);
    let manifest = read(foreign.join("manifest.json"));
    let imported = &manifest["stages"]["index"]["imported"];
    assert_eq!(imported["on_collision"], "extend");
    assert_eq!(
        imported["sources"],
        json!(["semantic", "semantic", "semantic", "semantic", "random"])
    );

    run(dir, &[&of[..], &["train", "--stage", "initial"]].concat(), 0);
    assert!(!foreign.join("initial/projectors.safetensors").exists());
    let (stdout, _) = run(dir, &[&of[..], &["eval", "--json"]].concat(), 0);
    let evaluation: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(evaluation["settings"]["source"], "imported");
    assert!(evaluation["metrics"]["recall@10"].is_number());
    let shared = &evaluation["shared_codes"];
    assert_eq!((&shared["items"], &shared["groups"]), (&json!(3), &json!(1)));
    assert_readings(shared, &foreign.join("eval/test-off-b20.predictions.jsonl"), &[3, 8, 20]);
    let manual = include_str!("../docs/evaluation.md");
    for name in field_names(shared).iter().filter(|name| !name.contains('@')) {
        assert!(manual.contains(&format!("`{name}`")), "docs/evaluation.md lacks {name}");
    }
    let (table, _) = run(dir, &[&of[..], &["eval"]].concat(), 0);
    let heading = "adapter off, beam 20: 3 items in 1 groups had their codes in common";
    assert!(table.contains(heading) && table.contains("pessimistic"), "{table}");
    let explain = ["recommend", "--history", "1,2", "--explain"];
    let (stdout, _) = run(dir, &[&of[..], &explain].concat(), 0);
    assert!(stdout.contains("random"), "{stdout}");
    let (text, _) = run(dir, &[&of[..], &["index", "report"]].concat(), 0);
    assert!(text.contains("3 items share an index"), "{text}");
    fails(
        dir,
        &[&of[..], &["--set", "backbone.scratch.hidden-size=64", "eval"]].concat(),
        &["backbone.scratch.hidden-size"],
    );

    // Forced, the stage makes an index of its own, with its own settings.
    run(dir, &[&of[..], &["index", "--force"]].concat(), 0);
    let of_llmbs = index_of(dir.join("runs/llmbs").to_str().unwrap());
    assert_eq!(index_of(foreign.to_str().unwrap()), of_llmbs);
    fails(dir, &[&of[..], &["eval"]].concat(), &["train --stage initial"]);
}

#[test]
fn an_index_comes_back_from_every_form() {
    let index = index_of(SHOP.join("runs/llmbs").to_str().unwrap());
    for (format, name) in [("lcrec", "out.json"), ("minionerec", "out.txt"), ("grid", "out.pt")] {
        let export = ["index", "export", "--format", format, "--out", name];
        let (stdout, _) = run(&SHOP, &export, 0);
        assert_eq!(stdout, format!("{name}: the index of 60 items\n"));
        let written = fs::read(SHOP.join(name)).unwrap();
        fails(&SHOP, &export, &[name, "is there already", "--force"]);
        run(&SHOP, &[&export[..], &["--force"]].concat(), 0);
        assert_eq!(fs::read(SHOP.join(name)).unwrap(), written, "same index, same bytes");

        let target = format!("runs/from-{format}");
        let import = ["--run", &target, "index", "import", name];
        run(&SHOP, &import, 0);
        assert_eq!(index_of(SHOP.join(&target).to_str().unwrap()), index, "{format}");
    }
    let lines = fs::read_to_string(SHOP.join("out.txt")).unwrap();
    let shop = read(SHOP.join("Shop/Shop.item.json"));
    let title = shop["7"]["title"].as_str().unwrap();
    assert_eq!(lines.lines().nth(7).unwrap(), format!("{}\t{title}\t7", index["7"].concat()));

    // By the shop's own ids, and in a form that is not that of the file.
    let raw: Vec<String> = lines
        .lines()
        .map(|line| line.rsplit_once('\t').unwrap())
        .map(|(rest, id)| format!("{rest}\tS{:05}\n", id.parse::<u32>().unwrap()))
        .collect();
    fs::write(SHOP.join("raw"), raw.concat()).unwrap();
    run(&SHOP, &["--run", "runs/from-raw", "index", "import", "raw"], 0);
    assert_eq!(index_of(SHOP.join("runs/from-raw").to_str().unwrap()), index);
    // What was imported and is no more is imported again, and not made anew.
    fs::remove_file(SHOP.join("runs/from-raw/index/index.json")).unwrap();
    let again = ["--run", "runs/from-raw", "index", "import", "raw"];
    fails(&SHOP, &again, &["index.json: is gone", "`llmbs index import raw --force`"]);
    let other = ["--run", "runs/wrong", "index", "import", "raw", "--format"];
    fails(&SHOP, &[&other[..], &["lcrec"]].concat(), &["raw: not a map from item id"]);
    fails(&SHOP, &[&other[..], &["grid"]].concat(), &["raw: not a readable PyTorch file"]);
    fs::write(SHOP.join("unknown"), "codes").unwrap();
    fails(&SHOP, &["index", "import", "unknown"], &["unknown: is no item index", "--format"]);
}

#[test]
fn an_index_of_other_items_is_refused_and_nothing_is_overwritten() {
    let name = copy_run("kept");
    let before = fs::read(Path::new(&name).join("manifest.json")).unwrap();
    let index = index_of(&name);
    let refused = |entries: &BTreeMap<String, Vec<String>>, expected: &[&str]| {
        let file = SHOP.join("refused.index.json");
        fs::write(&file, json!(entries).to_string()).unwrap();
        let file = file.display().to_string();
        fails(&SHOP, &["--run", &name, "index", "import", &file, "--force"], expected);
        assert_eq!(index_of(&name), index);
        assert_eq!(fs::read(Path::new(&name).join("manifest.json")).unwrap(), before);
    };
    let mut changed = index.clone();
    changed.remove("59");
    refused(&changed, &["item 59 is missing", "the dataset has 60 items"]);
    changed.remove("12");
    refused(&changed, &["item 12 is missing"]);
    let mut changed = index.clone();
    changed.insert("60".into(), index["0"].clone());
    refused(&changed, &["item 60 is not in the dataset"]);
    let mut changed = index.clone();
    changed.get_mut("5").unwrap()[0] = "<b_1>".into();
    refused(&changed, &["item 5", "\"<b_1>\"", "such as <a_17>"]);
    fails(&SHOP, &["--run", &name, "index", "import", "absent.json"], &["absent.json"]);
}

#[test]
fn new_items_are_placed_recommended_and_leave_the_rest_as_it_was() {
    let name = copy_run("grown");
    let of = ["--run", &name];
    let digest = || fs::read(Path::new(&name).join("index/index.json")).unwrap();
    let (before, index) = (digest(), index_of(&name));
    let shop = read(SHOP.join("Shop/Shop.item.json"));

    // A twin of item 5 by the shop's own id, and an item of its own.
    let mut twin = shop["5"].clone();
    twin.as_object_mut().unwrap().remove("item_id");
    let new = json!({ "NEW-1": twin, "NEW-2": { "title": "brand new soap" } });
    fs::write(SHOP.join("new.json"), new.to_string()).unwrap();
    // An `index --force` was cut off while it embedded.
    let part = Path::new(&name).join("unfinished/index/parts/key/texts-0.safetensors");
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(&part, "").unwrap();
    let added = json_of(&[&of[..], &["index", "add", "new.json", "--json"]].concat());
    assert_eq!((&added[0]["item"], &added[0]["raw_id"]), (&json!(60), &json!("NEW-1")));
    assert_eq!(added[0]["nearest"][0]["item"], 5);
    let tokens =
        |item: &Value| -> Vec<String> { serde_json::from_value(item["tokens"].clone()).unwrap() };
    assert!(part.exists(), "what it had done is lost");
    let left = fs::read_dir(Path::new(&name).join("unfinished/index")).unwrap();
    assert_eq!(left.count(), 1, "something of the items that were added is left");
    let (own, placed) = (&index["5"], tokens(&added[0]));
    assert_eq!(own[..own.len() - 1], placed[..own.len() - 1], "its last code alone is another");

    // The same again, after a kill say, is done already.
    let again = [&of[..], &["index", "add", "new.json", "--json"]].concat();
    let kept = fs::read(Path::new(&name).join("added.json")).unwrap();
    assert_eq!(json_of(&again), added);
    assert_eq!(fs::read(Path::new(&name).join("added.json")).unwrap(), kept);

    // Others, by id: they continue after those.
    let new = json!({ "62": shop["5"]["title"].as_str().map(|t| json!({ "title": t })) });
    fs::write(SHOP.join("more.json"), new.to_string()).unwrap();
    let more = json_of(&[&of[..], &["index", "add", "more.json", "--json"]].concat());
    assert_eq!(more[0]["item"], 62);
    let known: BTreeSet<&String> = index.values().flatten().collect();
    let mut all: BTreeSet<Vec<String>> = index.values().cloned().collect();
    for item in added.as_array().unwrap().iter().chain(more.as_array().unwrap()) {
        assert!(tokens(item).iter().all(|token| known.contains(token)), "{item}");
        assert!(all.insert(tokens(item)), "{item}");
    }
    assert_eq!(digest(), before, "the index that was trained on stays as it is");

    // They are recommended along with the others, by any name, and only there.
    let wide = ["recommend", "--history", "1,2", "--top", "63", "--json"];
    let list = json_of(&[&of[..], &wide].concat());
    let list = list.as_array().unwrap();
    let found: Vec<u64> = list.iter().map(|r| r["item"].as_u64().unwrap()).collect();
    assert_eq!(found.iter().copied().collect::<BTreeSet<_>>(), (0..63).collect());
    // An item that the model knows nothing of stands behind the one it is most like, and says so.
    let known = found.iter().position(|&item| item == 5).unwrap();
    assert_eq!(found[known..][..2], [5, 60]);
    assert_eq!(list[known + 1]["score"], list[known]["score"]);
    assert_eq!(list[known + 1]["scored_as"]["item"], 5);
    assert!(list[known].get("scored_as").is_none());
    // A baseline has not learnt of it, either: for it the history is that of the one it is most like.
    run(&SHOP, &[&of[..], &["baseline", "item-knn"]].concat(), 0);
    let folder = format!("{name}/baseline/item-knn/seed-42");
    let by = ["recommend", "--baseline", &folder, "--top", "63", "--json", "--history"];
    let scores = |history| {
        let list = json_of(&[&of[..], &by, &[history]].concat());
        let scored = |r: &Value| (r["item"].as_u64().unwrap(), r["score"].to_string());
        list.as_array().unwrap().iter().map(scored).collect::<BTreeMap<_, _>>()
    };
    let (added, like) = (scores("3,NEW-1"), scores("3,5"));
    assert!(added.len() > 5);
    assert!(added.iter().all(|(item, score)| *item == 5 || like.get(item) == Some(score)));
    // Ranked together it keeps its score where the one it is most like is left out.
    run(&SHOP, &[&of[..], &["eval", "--fuse", &folder]].concat(), 0);
    let score_of_60 = |more: &[&str]| {
        let by = ["recommend", "--fuse", &folder, "--top", "62", "--json", "--history", "3,5"];
        let list = json_of(&[&of[..], &by, more].concat());
        let found = list.as_array().unwrap().iter().find(|r| r["item"] == 60).cloned();
        found.unwrap()["score"].to_string()
    };
    assert_eq!(score_of_60(&["--exclude-history"]), score_of_60(&[]));
    let text = ["recommend", "--text", "brand new soap", "--top", "63"];
    let (table, _) = run(&SHOP, &[&of[..], &text].concat(), 0);
    assert!(table.contains("NEW-2") && table.contains("brand new soap"), "{table}");
    fs::write(SHOP.join("only-new.txt"), "NEW-1\n61\n").unwrap();
    let only =
        ["recommend", "--history", "NEW-2,5", "--only", "only-new.txt", "--top", "2", "--explain"];
    let (table, _) = run(&SHOP, &[&of[..], &only].concat(), 0);
    assert!(table.contains("NEW-1") && table.contains("NEW-2"), "{table}");
    let (evaluation, _) = run(&SHOP, &[&of[..], &["eval", "--limit", "5", "--json"]].concat(), 0);
    assert_eq!(serde_json::from_str::<Value>(&evaluation).unwrap()["settings"]["items"], 60);

    // What cannot be added is named, and adds nothing.
    let kept = fs::read(Path::new(&name).join("added.json")).unwrap();
    let refused = |items: Value, expected: &[&str]| {
        fs::write(SHOP.join("bad.json"), items.to_string()).unwrap();
        fails(&SHOP, &[&of[..], &["index", "add", "bad.json"]].concat(), expected);
        assert_eq!(fs::read(Path::new(&name).join("added.json")).unwrap(), kept);
    };
    refused(json!({ "60": { "title": "x" } }), &["\"60\"", "numbered from 63"]);
    refused(json!({ "64": { "title": "x" } }), &["\"64\""]);
    refused(json!({ "63": { "title": "x" }, "A": { "title": "y" } }), &["\"A\""]);
    refused(json!({ "NEW-1": { "title": "x" } }), &["\"NEW-1\" already"]);
    refused(json!({ "S00003": { "title": "x" } }), &["\"S00003\" already"]);
    refused(json!({ "A": { "brand": "" } }), &["item A has no text"]);
    refused(json!({}), &["no items"]);

    // With another index the places mean nothing.
    run(&SHOP, &[&of[..], &["--seed", "9", "index", "--force"]].concat(), 0);
    let add = ["--seed", "9", "index", "add", "more.json"];
    fails(&SHOP, &[&of[..], &add].concat(), &["added.json", "another index"]);
}

#[test]
#[ignore = "needs shared/data"]
fn the_instruments_index_of_shared_data_is_refused_or_extended() {
    let shared = std::env::var_os("LLMBS_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let data = shared.join("data/Instruments");
    let file = data.join("Instruments.letter.index.json").display().to_string();
    let set = format!("data.path='{}'", data.display());
    let dir = tiny();
    let dir = dir.path();
    let import = ["--set", &set, "index", "import", &file];
    fails(dir, &import, &["48 items share an index, in 23 groups"]);
    run(dir, &[&import[..], &["--on-collision", "extend"]].concat(), 0);
    let index = index_of(dir.join("runs/llmbs").to_str().unwrap());
    assert_eq!(index.len(), 9922);
    assert_eq!(index.values().collect::<BTreeSet<_>>().len(), 9922);
    assert_eq!(index.values().filter(|tokens| tokens[4] != "<e_0>").count(), 25);
}
