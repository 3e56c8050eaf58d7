//! `llmbs report` as a user meets it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::common::program::{self, fails, run, tiny};
use serde_json::Value;

/// A folder with an evaluated run, `runs/llmbs`, two baselines of one kind, and a run that has an index alone,
/// `runs/bare`; all titles of its shop would be scripts if anything took them for markup.
static SHOP: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    fs::copy(tiny().path().join("llmbs.toml"), dir.join("llmbs.toml")).unwrap();
    run(&dir, &["data", "synth", "--out", "Shop"], 0);
    let path = dir.join("Shop/Shop.item.json");
    let mut items: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for item in items.as_object_mut().unwrap().values_mut() {
        let title = item["title"].as_str().unwrap();
        item["title"] = format!("<script>alert('{title}')</script>").into();
    }
    fs::write(&path, items.to_string()).unwrap();
    let small = ["--set", "baseline.sasrec.dim=8", "--set", "baseline.sasrec.feed-forward=8"];
    for command in [
        &["index"][..],
        &["--set", "train.initial.log-every=1", "train", "--stage", "initial"],
        &["eval"],
        &["eval", "--limit", "30"],
        &["eval", "--task", "text", "--limit", "10"],
        &[&small[..], &["baseline", "sasrec", "--seeds", "1,2"]].concat(),
        &["--run", "runs/bare", "--config", "llmbs.toml", "index"],
    ] {
        run(&dir, &[&["--set", "data.path=Shop"], command].concat(), 0);
    }
    dir
});

/// The page on these folders.
fn page(folders: &[&str], file: &str) -> String {
    run(&SHOP, &[&["report"], folders, &["--html", file]].concat(), 0);
    fs::read_to_string(SHOP.join(file)).unwrap()
}

/// A copy of the evaluated run.
fn copied(name: &str) -> PathBuf {
    let to = SHOP.join("runs").join(name);
    program::copy(&SHOP.join("runs/llmbs"), &to);
    to
}

fn assert_has(page: &str, texts: &[&str]) {
    for text in texts {
        assert!(page.contains(text), "{text:?} is not in {page}");
    }
}

#[test]
fn a_page_holds_all_that_a_run_keeps_and_nothing_from_outside() {
    let page = page(&["runs/llmbs"], "page.html");
    for id in ["runs", "metrics", "wins", "training", "texts", "index", "examples"] {
        assert_has(&page, &[&format!("<section id=\"{id}\">"), &format!("href=\"#{id}\"")]);
    }
    let texts = fs::read_to_string(SHOP.join("runs/llmbs/eval/text-off-lim10.json")).unwrap();
    let texts: Value = serde_json::from_str(&texts).unwrap();
    let titles = &texts["metrics"]["item_title"];
    let perplexity = titles["perplexity"].as_f64().unwrap();
    let [low, high] = [0, 1].map(|i| titles["intervals"]["perplexity"][i].as_f64().unwrap());
    let half = (high - low) / 2.0;
    let cells = format!("<td>10</td><td>{perplexity:.4}<small>±{half:.4}</small></td>");
    assert_has(&page, &["item title", "backbone", &cells]);
    let result = fs::read_to_string(SHOP.join("runs/llmbs/eval/test-off-b20.json")).unwrap();
    let result: Value = serde_json::from_str(&result).unwrap();
    for metrics in ["metrics", "metrics_history_excluded", "popularity"] {
        let value = result[metrics]["recall@10"].as_f64().unwrap();
        assert_has(&page, &[&format!("<td>{value:.4}")]);
    }
    assert_has(
        &page,
        &[
            "History ranked",
            "History left out",
            "adapter off, beam 20",
            "sasrec, mean of seeds 1, 2",
            "<br>p 0.",
            "Stage warmup",
            "Stage initial",
            "ndcg@10 on the validation split",
            "by popularity of the target",
            "hierarchical-kmeans",
            // All targets stand for the run, not the first few.
            "<th class=\"word\" scope=\"col\">80 users</th>",
            "Test split of Shop: 30 targets, 60 items",
            "✓ taken next",
            "<span class=\"token semantic\">&lt;a_",
        ],
    );
    assert_eq!(page.matches("<article class=\"user\">").count(), 5);

    // Titles are texts, and nothing is fetched or run.
    assert_has(&page, &["&lt;script&gt;alert(&#39;"]);
    for outside in ["<script", "http://", "https://", "src=", "url(", "@import", "<link"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let [begun, ended] = ["<svg", "</svg>"].map(|tag| page.matches(tag).count());
    assert!(begun == ended && begun > 8, "{begun}, {ended}");

    // Every time, on any number of threads.
    run(&SHOP, &["--threads", "1", "report", "runs/llmbs", "--html", "again.html"], 0);
    assert!(fs::read_to_string(SHOP.join("again.html")).unwrap() == page, "it is another page");
}

#[test]
fn runs_stand_side_by_side_and_are_tested_against_the_first() {
    copied("twin");
    let page = page(&["runs/llmbs", "runs/twin"], "two.html");
    assert_has(&page, &["Report on llmbs, twin", "twin<small>adapter off, beam 20</small>"]);
    let strongest = "The baseline is the one of highest ndcg@10 for these targets, of the run itself where it keeps \
                     any.";
    assert_has(&page, &[strongest]);
    assert_has(&page, &["+0.0000<br>p 1.0000", "difference from llmbs, adapter off, beam 20"]);
    // One table for all, since the targets are the same.
    assert_eq!(page.matches("Test split of Shop: 80 targets, 60 items").count(), 1);
    assert_eq!(page.matches("<article class=\"user\">").count(), 5);
}

#[test]
fn what_is_missing_is_said_with_the_command_that_makes_it() {
    let bare = page(&["runs/bare"], "bare.html");
    assert_has(
        &bare,
        &[
            "no result of its models is kept: run <code>llmbs --run runs/bare eval</code>",
            "item tokens",
        ],
    );
    assert!(!bare.contains("Stage initial"), "{bare}");

    // Baselines are results, too, of a folder in which nothing else was made.
    run(&SHOP, &["--run", "runs/ids", "baseline", "item-knn"], 0);
    let ids = page(&["runs/ids"], "ids.html");
    assert_has(&ids, &[">item-knn, seed 42<", "80 targets", "llmbs --run runs/ids index"]);

    let silent = copied("silent");
    fs::remove_file(silent.join("eval/test-off-b20.predictions.jsonl")).unwrap();
    fs::remove_dir_all(silent.join("baseline")).unwrap();
    fs::remove_file(silent.join("log.jsonl")).unwrap();
    let page = page(&["runs/silent"], "silent.html");
    assert_has(
        &page,
        &[
            "no predictions are kept: run <code>llmbs --run runs/silent eval --force</code>",
            "no log of a training",
            "adapter off, beam 20",
        ],
    );
    assert!(!page.contains("<article"), "{page}");
}

#[test]
fn results_of_models_that_were_replaced_are_named_and_not_shown() {
    let folder = copied("replaced");
    let manifest = folder.join("manifest.json");
    // One that a killed process was replacing is no other seed.
    let sasrec = folder.join("baseline/sasrec");
    fs::create_dir(sasrec.join("seed-1.old")).unwrap();
    for file in ["test.json", "test.predictions.jsonl"] {
        fs::copy(sasrec.join("seed-1").join(file), sasrec.join("seed-1.old").join(file)).unwrap();
    }
    let mut fields: Value = llmbs::sealed::read(&manifest, "").unwrap();
    fields["stages"]["initial"]["outputs"]["initial/model.safetensors"] = "another".into();
    llmbs::sealed::write(&manifest, &fields).unwrap();
    let page = page(&["runs/replaced"], "replaced.html");
    let named = "runs/replaced/eval/test-off-b20.json: is not shown, since its models or index were made again: run \
                 `llmbs --run runs/replaced eval --split test --adapter off --beam 20`, or remove it";
    let named = named.replace("`llmbs", "<code>llmbs").replace("20`", "20</code>");
    assert_has(&page, &[&named, "no result of its models is kept", "sasrec, mean of seeds 1, 2"]);
    assert!(!page.contains("adapter off, beam 20"), "{page}");
}

#[test]
fn models_of_other_settings_are_no_seeds_of_one_and_a_replaced_one_ranks_no_more() {
    let of_run = copied("settings");
    let of = |words: &[&'static str]| {
        let set = ["--set", "data.path=Shop", "--run", "runs/settings"];
        run(&SHOP, &[&set[..], words].concat(), 0);
    };
    of(&["baseline", "popularity", "--seeds", "4"]);
    of(&["eval", "--fuse", "runs/settings/baseline/popularity/seed-4"]);
    of(&["--set", "baseline.sasrec.dim=4", "baseline", "sasrec", "--seeds", "3"]);
    let page_of = |file| page(&["runs/settings"], file);
    let page = page_of("settings.html");
    assert_has(&page, &["sasrec, mean of seeds 1, 2", "sasrec, seed 3", "with popularity seed 4"]);
    let training = of_run.join("baseline/popularity/seed-4/training.json");
    let mut fields: Value = llmbs::sealed::read(&training, "").unwrap();
    fields["model_sha256"] = "another".into();
    llmbs::sealed::write(&training, &fields).unwrap();
    let page = page_of("replaced-baseline.html");
    let named = "eval/test-off-b20-fused-popularity-4.json: is not shown, since its models or index were made again: \
                 remove it";
    assert_has(&page, &[named]);
    assert!(!page.contains("with popularity seed 4"), "{page}");
}

#[test]
fn bad_input_is_one_error_and_leaves_the_page_before() {
    let before = "what stood here";
    let file = SHOP.join("kept.html");
    fs::write(&file, before).unwrap();
    let refused = |folder: &str, expected: &[&str]| {
        fails(&SHOP, &["report", folder, "--html", "kept.html"], expected);
        assert_eq!(fs::read_to_string(&file).unwrap(), before);
        let names = fs::read_dir(&*SHOP).unwrap().map(|entry| entry.unwrap().file_name());
        let of_page = names.filter(|name| name.to_string_lossy().starts_with("kept.html"));
        assert_eq!(of_page.collect::<Vec<_>>(), ["kept.html"]);
    };
    refused("Shop", &["Shop: is neither a run of llmbs", "manifest.json"]);
    refused("nowhere", &["nowhere: is neither"]);
    fails(
        &SHOP,
        &["report", "runs/llmbs", "runs/llmbs", "--html", "kept.html"],
        &["runs/llmbs: is named twice"],
    );

    // A result that was altered, and one that another version wrote.
    let other = copied("other");
    let result = other.join("eval/test-off-b20.json");
    let text = fs::read_to_string(&result).unwrap();
    fs::write(&result, text.replacen("0.", "1.", 1)).unwrap();
    refused("runs/other", &["eval/test-off-b20.json", "evaluate again"]);
    let mut fields: Value = serde_json::from_str(&text).unwrap();
    let fields = fields.as_object_mut().unwrap();
    fields.remove("sha256");
    fields.remove("coverage");
    llmbs::sealed::write(&result, fields).unwrap();
    refused("runs/other", &["eval/test-off-b20.json", "wrote it", "evaluate again"]);

    // A place where no page can be.
    fails(&SHOP, &["report", "runs/llmbs", "--html", "Shop"], &["Shop: is a folder"]);
    let mut permissions = fs::metadata(&file).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&file, permissions).unwrap();
    refused("runs/llmbs", &["kept.html: is write-protected"]);
    fails(&SHOP, &["--run", "a", "report", "runs/llmbs", "--html", "b"], &["leave --run out"]);
}
