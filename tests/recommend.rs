//! `llmbs recommend` as a user meets it: what is recommended to whom, in which form, and how it fails.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::common::program::{assert_same, fails, field_names, ids, run, tiny};
use assert_cmd::cargo::cargo_bin_cmd;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::{Row, RowAccessor as _};
use serde_json::{Value, json};

/// Items of the shop.
const ITEMS: u64 = 60;

/// A folder with a finished run, `runs/llmbs`, and one of another index that has not learnt texts,
/// `runs/other`; tests only add files to it.
static SHOP: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("recommend");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    // So long that the adapter is for the better.
    let config = fs::read_to_string(tiny().path().join("llmbs.toml")).unwrap();
    let config = config.replace(
        "[train.anneal]\nlearning-rate = 1e-3",
        "[train.anneal]\nepochs = 4\nlearning-rate = 1e-2",
    );
    assert!(config.contains("epochs = 4"));
    fs::write(dir.join("llmbs.toml"), config).unwrap();
    run(&dir, &["run"], 0);
    let manifest = fs::read_to_string(dir.join("runs/llmbs/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert!(manifest["stages"]["anneal"]["figures"]["best_epoch"].as_u64() > Some(0));
    let other = "--run runs/other --set index.source=behavior --set train.tasks.semantic=0";
    for stage in ["index", "train --stage initial"] {
        let args: Vec<&str> = other.split(' ').chain(stage.split(' ')).collect();
        run(&dir, &args, 0);
    }
    dir
});

/// What `llmbs recommend --json ARGS` prints.
fn recommend(args: &[&str]) -> Value {
    let (stdout, _) = run(&SHOP, &[&["recommend", "--json"], args].concat(), 0);
    serde_json::from_str(&stdout).unwrap()
}

fn refused(args: &[&str], expected: &[&str]) {
    fails(&SHOP, &[&["recommend"], args].concat(), expected);
}

fn write(name: &str, text: &str) {
    fs::write(SHOP.join(name), text).unwrap();
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_batch_answers_each_line_as_a_single_request_would_be() {
    let requests = [
        r#"{"id": "first", "history": [1, 2, 3]}"#,
        r#"  {"user": "7"}"#,
        "",
        r#"{"id": {"page": 4}, "text": "rose body wash"}"#,
        r#"{"history": ["S00004", 5]}"#,
        r#"{"user": 7, "page": "home"}"#,
    ];
    write("good.jsonl", &requests.join("\n"));
    let args = ["recommend", "--batch", "good.jsonl", "--top", "5"];
    let (stdout, _) = run(&SHOP, &args, 0);
    let answers = json_lines(&stdout);
    assert_eq!(answers.len(), 5);
    let single = |args: &[&str]| recommend(&[args, &["--top", "5"]].concat());
    assert_same(&answers[0]["items"], &single(&["--history", "1,2,3"]));
    assert_same(&answers[1]["items"], &single(&["--user", "7"]));
    assert_same(&answers[2]["items"], &single(&["--text", "rose body wash"]));
    assert_same(&answers[3]["items"], &single(&["--history", "S00004, S00005"]));
    assert_same(&answers[4]["items"], &answers[1]["items"]);
    assert_eq!((&answers[0]["id"], &answers[2]["id"]), (&json!("first"), &json!({"page": 4})));
    // What was asked comes back, but for the history.
    assert_eq!((&answers[1]["user"], &answers[4]["page"]), (&json!("7"), &json!("home")));
    assert!(answers[1].get("id").is_none() && answers[0].get("history").is_none());

    run(&SHOP, &[args.as_slice(), &["--out", "answers/good.jsonl"]].concat(), 0);
    assert_eq!(fs::read_to_string(SHOP.join("answers/good.jsonl")).unwrap(), stdout);
}

#[test]
fn a_bad_line_of_a_batch_says_what_is_wrong_and_stops_nothing() {
    let requests = [
        r#"{"id": "a", "history": [1]}"#,
        r#"{"id": "b", "history": "#,
        r#"{"id": "c", "history": [1, 2.5]}"#,
        r#"{"id": "d", "history": [1], "top": 0}"#,
        r#"{"id": "e", "history": [1], "only": ["none"]}"#,
        r#"{"id": "f", "user": "7", "items": 3}"#,
        r#"{"id": "g", "user": "7", "text": "soap"}"#,
        r#"{"id": "h"}"#,
        r#"{"id": "i", "history": [1.5]}"#,
        r#"{"id": "j", "history": "1,2"}"#,
        r#"{"id": "k", "text": "  "}"#,
        "[1, 2]",
        r#"{"id": "z", "history": [1]}"#,
    ];
    write("bad.jsonl", &format!("\n{}\n", requests.join("\n")));
    let (stdout, stderr) = run(&SHOP, &["recommend", "--batch", "bad.jsonl"], 1);
    assert!(stderr.contains("error: 11 of 13 requests could not be answered"), "{stderr}");
    let answers = json_lines(&stdout);
    assert_eq!(answers.len(), requests.len());
    assert_same(&answers[0]["items"], &answers[12]["items"]);
    let expected = [
        "not JSON",
        "2.5",
        "top must be",
        "none of the items",
        "no field \"items\"",
        "exactly one of",
        "exactly one of",
        "1.5",
        "must be a list",
        "text is empty",
        "an object",
    ];
    for (i, expected) in (1..).zip(expected) {
        let error = answers[i]["error"].as_str().unwrap();
        assert!(error.contains(expected), "{error}");
        assert_eq!(answers[i]["line"], i + 2, "blank lines count");
        assert!(answers[i].get("items").is_none());
    }
    assert_eq!((&answers[2]["id"], answers[1].get("id")), (&json!("c"), None));
}

#[test]
fn an_unknown_item_of_a_batch_is_told_beside_the_answer_from_the_rest() {
    write("some.jsonl", r#"{"history": [1, "none", 2, 9999]}"#);
    let (stdout, _) = run(&SHOP, &["recommend", "--batch", "some.jsonl", "--top", "5"], 0);
    let answer = json_lines(&stdout).remove(0);
    assert_eq!(answer["unknown"], json!(["none", 9999]));
    assert_same(&answer["items"], &recommend(&["--history", "1,2", "--top", "5"]));
}

#[test]
fn a_request_of_a_batch_overrides_what_the_flags_say() {
    write(
        "own.jsonl",
        "{\"history\": [1, 2]}\n\
         {\"history\": [1, 2], \"top\": 7, \"exclude_history\": false, \"exclude\": [3, \"none\"]}\n\
         {\"history\": [1, 2], \"only\": [4, 5, 9999], \"explain\": true}\n\
         {\"history\": [1, 2], \"top\": 2}\n",
    );
    let args = ["recommend", "--batch", "own.jsonl", "--top", "5", "--exclude-history"];
    let (stdout, stderr) = run(&SHOP, &args, 0);
    // The last alone has fewer than it asks for.
    assert!(stderr.contains("1 answers have fewer items than were asked for"), "{stderr}");
    let answers = json_lines(&stdout);
    let excluded = ["--history", "1,2", "--top", "5", "--exclude-history"];
    assert_same(&answers[0]["items"], &recommend(&excluded));
    let all = ids(&recommend(&["--history", "1,2", "--top", "8"]));
    let expected: Vec<u64> = all.into_iter().filter(|&item| item != 3).take(7).collect();
    assert_eq!(ids(&answers[1]["items"]), expected);
    assert_eq!((&answers[1]["top"], answers[1].get("exclude")), (&json!(7), None));
    let only: BTreeSet<u64> = ids(&answers[2]["items"]).into_iter().collect();
    assert_eq!(only, BTreeSet::from([4, 5]));
    assert!(answers[2]["items"][0]["explanation"]["tokens"].is_array());
    assert_eq!(
        (&answers[1]["unknown"], &answers[2]["unknown"]),
        (&json!(["none"]), &json!([9999]))
    );
}

#[test]
fn all_users_are_answered_by_their_own_keys() {
    let args = ["recommend", "--all-users", "--top", "3", "--out", "answers/all.jsonl"];
    let (stdout, stderr) = run(&SHOP, &args, 0);
    assert!(stdout.is_empty() && stderr.contains("requests answered"), "{stdout}{stderr}");
    let answers = json_lines(&fs::read_to_string(SHOP.join("answers/all.jsonl")).unwrap());
    let users: BTreeSet<&str> = answers.iter().map(|a| a["user"].as_str().unwrap()).collect();
    assert_eq!(users.len(), answers.len());
    let of_7 = answers.iter().find(|answer| answer["user"] == "7").unwrap();
    assert_same(&of_7["items"], &recommend(&["--user", "7", "--top", "3"]));
}

#[test]
fn all_users_are_answered_in_a_table() {
    let args = ["recommend", "--all-users", "--top", "3", "--out"];
    let run_to = |file: &str| run(&SHOP, &[&args[..], &[file]].concat(), 0);
    run_to("answers/lines.jsonl");
    run_to("answers/table.parquet");
    let lines = json_lines(&fs::read_to_string(SHOP.join("answers/lines.jsonl")).unwrap());
    let mut expected: Vec<Value> = Vec::new();
    for answer in &lines {
        for (rank, item) in (1..).zip(answer["items"].as_array().unwrap()) {
            let mut row = item.as_object().unwrap().clone();
            row.insert("rank".into(), rank.into());
            row.insert("user".into(), answer["user"].clone());
            expected.push(Value::Object(row));
        }
    }
    let file = fs::File::open(SHOP.join("answers/table.parquet")).unwrap();
    let rows = SerializedFileReader::new(file).unwrap();
    let rows: Vec<Row> = rows.get_row_iter(None).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(rows.len(), expected.len());
    for (row, expected) in rows.iter().zip(&expected) {
        let names: Vec<&String> = row.get_column_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["user", "rank", "item", "raw_id", "title", "score", "probability"]);
        for (at, name) in [(0, "user"), (3, "raw_id"), (4, "title")] {
            assert_eq!(row.get_string(at).unwrap(), expected[name].as_str().unwrap());
        }
        assert_eq!(i64::from(row.get_int(1).unwrap()), expected["rank"]);
        assert_eq!(row.get_uint(2).unwrap(), expected["item"].as_u64().unwrap() as u32);
        for (at, name) in [(5, "score"), (6, "probability")] {
            let close = f64::from(row.get_float(at).unwrap()) - expected[name].as_f64().unwrap();
            assert!(close.abs() < 1e-4, "{row} {expected}");
        }
    }
    // A baseline has scores alone.
    run(&SHOP, &["baseline", "popularity", "--seeds", "7"], 0);
    let by = ["--baseline", "runs/llmbs/baseline/popularity/seed-7"];
    run(&SHOP, &[&args[..], &["answers/scores.parquet"], &by].concat(), 0);
    let file = fs::File::open(SHOP.join("answers/scores.parquet")).unwrap();
    let mut rows = SerializedFileReader::new(file).unwrap().into_iter();
    let row = rows.next().unwrap().unwrap();
    assert!(row.get_float(5).is_ok() && row.get_float(6).is_err(), "{row}");
    // Who cannot be answered has no rows, and the others have theirs.
    write("one-item.txt", "1");
    let only = ["--exclude-history", "--only", "one-item.txt"];
    let short = |file: &'static str, expected: &[&str]| {
        fails(&SHOP, &[&args[..], &[file], &only].concat(), expected);
    };
    short("answers/short.jsonl", &["their lines say why"]);
    short("answers/short.parquet", &["users have no rows", "the first: user ", "left out"]);
    let lines = json_lines(&fs::read_to_string(SHOP.join("answers/short.jsonl")).unwrap());
    let answered = lines.iter().filter(|answer| answer.get("items").is_some()).count();
    let file = fs::File::open(SHOP.join("answers/short.parquet")).unwrap();
    let rows = SerializedFileReader::new(file).unwrap().into_iter().count();
    assert!(answered < lines.len() && rows == answered, "{rows} rows of {answered} users");
    let batch = ["recommend", "--batch", "some.jsonl", "--out", "x.parquet"];
    fails(&SHOP, &batch, &["x.parquet", "--all-users"]);
}

#[test]
fn an_interactive_process_answers_line_by_line_and_survives_mistakes() {
    let interactive = |args: &[&str], input: &str| {
        let mut command = cargo_bin_cmd!("llmbs");
        command.current_dir(&*SHOP).args(["recommend", "--interactive", "--top", "3"]).args(args);
        let output = command.write_stdin(input).output().unwrap();
        assert!(output.status.success());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    };
    let input = "1, S00002\n1,what\n{\"id\": 9, \"text\": \"soap\"}\n1,2\r\n\n3,4\n";
    let (stdout, _) = interactive(&["--json"], input);
    let answers = json_lines(&stdout);
    assert_eq!(answers.len(), 4, "the empty line ends it");
    assert_same(&answers[0]["items"], &recommend(&["--history", "1,2", "--top", "3"]));
    assert_eq!(answers[1]["line"], 2);
    assert!(answers[1]["error"].as_str().unwrap().contains("what"));
    assert_eq!(answers[2]["id"], 9);
    assert_same(&answers[2]["items"], &recommend(&["--text", "soap", "--top", "3"]));
    assert_eq!(answers[3], answers[0]);

    let (stdout, stderr) = interactive(&[], "1,2\n1,what\n1,2");
    let (table, _) = run(&SHOP, &["recommend", "--history", "1,2", "--top", "3"], 0);
    assert_eq!(stdout, table.repeat(2));
    assert!(stderr.contains("error: synth has no item \"what\""), "{stderr}");
}

#[test]
fn an_excluded_history_is_never_recommended_and_the_list_is_full() {
    let all = recommend(&["--history", "3,14,15,3", "--top", "60"]);
    assert_eq!(ids(&all).into_iter().collect::<BTreeSet<_>>().len() as u64, ITEMS);
    let rest: Vec<u64> = ids(&all).into_iter().filter(|i| ![3, 14, 15].contains(i)).collect();
    let exclude = ["--exclude-history", "--history", "3,14,15,3"];
    assert_eq!(ids(&recommend(&[exclude.as_slice(), &["--top", "57"]].concat())), rest);
    let (_, stderr) = run(&SHOP, &[&["recommend", "--top", "58"], &exclude[..]].concat(), 0);
    assert!(stderr.contains("there are 57 items to recommend, not 58"), "{stderr}");

    // Only the last 20 are seen, but none of the 50 comes back.
    let history: Vec<String> = (0..50).map(|item| item.to_string()).collect();
    let history = history.join(",");
    let narrow = ["--exclude-history", "--history", &history, "--top", "10", "--beam", "1"];
    let items: BTreeSet<u64> = ids(&recommend(&narrow)).into_iter().collect();
    assert_eq!(items, (50..60).collect());
}

#[test]
fn only_the_items_of_a_file_are_recommended() {
    write("only.txt", "# the new ones\n\nS00007\n 12 \n41\n7\n");
    let only = ["--only", "only.txt", "--history", "1,2"];
    let some = recommend(&[only.as_slice(), &["--top", "3"]].concat());
    let all = recommend(&["--history", "1,2", "--top", "60"]);
    let rest: Vec<&Value> = all
        .as_array()
        .unwrap()
        .iter()
        .filter(|r| [7, 12, 41].map(Value::from).contains(&r["item"]))
        .collect();
    assert_same(&some, &json!(rest));

    assert_same(&recommend(&only), &some);
    refused(&[only.as_slice(), &["--top", "2", "--beam", "4"]].concat(), &["--beam is 4"]);
    let excluded = ["--only", "only.txt", "--history", "7", "--top", "3", "--exclude-history"];
    assert_eq!(ids(&recommend(&excluded)).len(), 2);
    let none = ["--only", "only.txt", "--history", "7,12,41", "--exclude-history"];
    refused(&none, &["all 3 items"]);
    write("unknown.txt", "1\n\nnone\n");
    refused(&["--only", "unknown.txt", "--history", "1"], &["unknown.txt:3", "\"none\""]);
    write("empty.txt", "# nothing\n");
    refused(&["--only", "empty.txt", "--history", "1"], &["empty.txt", "no items"]);
    refused(&["--only", "absent.txt", "--history", "1"], &["absent.txt"]);
}

#[test]
fn texts_are_answered_without_the_adapter_unless_it_is_asked_for() {
    let text = ["--text", "lightweight summer perfume"];
    let with = |adapter| recommend(&[text.as_slice(), &["--adapter", adapter]].concat());
    let (default, off, on) = (recommend(&text), with("off"), with("on"));
    assert_eq!(default, off);
    assert_ne!(off, on);
    assert_eq!(ids(&default).len(), 10);
    assert_ne!(default, recommend(&["--text", "shampoo for dry hair"]));
    // A history is answered with it.
    let history = ["--history", "1,2"];
    let with = |adapter| recommend(&[history.as_slice(), &["--adapter", adapter]].concat());
    assert_eq!(recommend(&history), with("on"));
    assert_ne!(recommend(&history), with("off"));
}

#[test]
fn a_model_that_has_not_learnt_texts_says_so() {
    let other = ["--run", "runs/other", "recommend"];
    let text = [other.as_slice(), &["--text", "perfume"]].concat();
    fails(&SHOP, &text, &["not trained to find items by text", "train.tasks.semantic"]);
    run(&SHOP, &[other.as_slice(), &["--history", "1"]].concat(), 0);
}

#[test]
fn probabilities_are_those_of_the_scores() {
    let items = recommend(&["--user", "3", "--top", "20"]);
    let mut last = f64::INFINITY;
    for item in items.as_array().unwrap() {
        let (score, p) = (item["score"].as_f64().unwrap(), item["probability"].as_f64().unwrap());
        assert!(score <= last && (p - score.exp()).abs() < 1e-6 && p > 0.0 && p < 1.0, "{item}");
        last = score;
    }
}

#[test]
fn explanations_agree_with_the_index() {
    let index = fs::read_to_string(SHOP.join("runs/llmbs/index/index.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    let tokens = |item: u64| -> Vec<String> {
        serde_json::from_value(index[item.to_string()].clone()).unwrap()
    };
    let levels = tokens(0).len() / 2;
    let answer = recommend(&["--history", "1,2,3,4,5", "--top", "5", "--explain"]);
    for item in answer.as_array().unwrap() {
        let own = tokens(item["item"].as_u64().unwrap());
        let explained = item["explanation"]["tokens"].as_array().unwrap();
        assert_eq!(explained.len(), own.len());
        for (level, token) in explained.iter().enumerate() {
            assert_eq!(token["token"], own[level]);
            let (source, first) =
                if level < levels { ("semantic", 0) } else { ("behavior", levels) };
            assert_eq!(token["source"], source);
            let alike = |&other: &u64| tokens(other)[first..=level] == own[first..=level];
            assert_eq!(token["items"], (0..ITEMS).filter(alike).count());
            let typical = ids(&token["typical"]);
            assert!(!typical.is_empty() && typical.len() <= 3 && typical.iter().all(alike));
        }
        for (part, first) in [(0, 0), (1, levels)] {
            let own = &own[first..first + levels];
            let common = |other: &u64| {
                own.iter().zip(&tokens(*other)[first..]).take_while(|(a, b)| a == b).count()
            };
            let longest = (1..=5).map(|other| common(&other)).max().unwrap();
            let shared = &item["explanation"]["shared"][part];
            assert_eq!(shared["tokens"], json!(own[..longest]));
            let nearest = (1..=5).filter(|other| longest > 0 && common(other) == longest);
            assert_eq!(ids(&shared["history"]), nearest.collect::<Vec<_>>());
        }
    }
    let (table, _) = run(&SHOP, &["recommend", "--history", "1", "--top", "1", "--explain"], 0);
    for word in [&tokens(0)[0][..2], "semantic", "behavior", "items"] {
        assert!(table.contains(word), "{word} is not in {table}");
    }
    let text = recommend(&["--text", "soap", "--top", "1", "--explain"]);
    assert_eq!(text[0]["explanation"]["shared"], json!([]));
}

#[test]
fn requests_that_cannot_be_met_are_refused() {
    refused(&["--history", ""], &["history is empty"]);
    refused(&["--history", "1,2,-3"], &["no item \"-3\"", "0 to 59", "S00000"]);
    refused(&["--text", " "], &["text is empty"]);
    assert_eq!(ids(&recommend(&["--history", "1", "--top", "61"])).len(), 60);
    refused(&["--history", "1", "--beam", "61"], &["--beam is 61", "only 60 items"]);
    refused(&["--history", "1", "--top", "0"], &["--top must be at least 1"]);
    refused(&["--history", "1", "--beam", "0"], &["--beam must be at least 1"]);
    refused(&["--batch", "absent.jsonl"], &["absent.jsonl"]);
    refused(&["--batch", "absent.jsonl", "--out", "runs"], &["--out runs: is a folder"]);
    for usage in [
        ["--history", "1", "--text", "soap"],
        ["--history", "1", "--out", "answers.jsonl"],
        ["--user", "1", "--batch", "good.jsonl"],
    ] {
        run(&SHOP, &[["recommend"].as_slice(), &usage].concat(), 2);
    }

    // A batch that cannot be begun leaves what stands at --out alone.
    write("kept.jsonl", "kept");
    write("one.jsonl", "{\"history\": [1]}");
    refused(&["--batch", "one.jsonl", "--out", "kept.jsonl", "--beam", "99"], &["--beam"]);
    assert_eq!(fs::read_to_string(SHOP.join("kept.jsonl")).unwrap(), "kept");

    // The default beam shrinks to a small catalogue.
    let small = ["--set", "eval.beam=500", "recommend", "--history", "1"];
    run(&SHOP, &small, 0);
}

#[test]
fn a_checkpoint_that_does_not_fit_the_index_is_refused() {
    let runs = SHOP.join("runs");
    // The files of a folder of one run into the same folder of another.
    let copy = |folder: &str, from: &str, to: &str| {
        let to = runs.join(to).join(folder);
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(runs.join(from).join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
            }
        }
    };
    let copy_run = |from: &str, to: &str| {
        for folder in ["", "index", "initial"] {
            copy(folder, from, to);
        }
    };
    let refused = |name: &str, expected: &[&str]| {
        let run = format!("runs/{name}");
        let off = ["--adapter", "off"];
        let args = ["--run", &run, "recommend", "--history", "1"];
        fails(&SHOP, &[args.as_slice(), &off].concat(), expected);
    };
    // Two items change places: the same tokens, other meanings.
    copy_run("llmbs", "swapped");
    let swapped = runs.join("swapped/index/index.json");
    let text = fs::read_to_string(&swapped).unwrap();
    let text =
        text.replace("\"0\":", "\"x\":").replace("\"1\":", "\"0\":").replace("\"x\":", "\"1\":");
    fs::write(&swapped, text).unwrap();
    refused("swapped", &["index.json", "not the file that `llmbs index` wrote"]);

    // The checkpoint of another index, once of a smaller and once of a larger vocabulary.
    for (from, to) in [("other", "llmbs"), ("llmbs", "other")] {
        let name = format!("{to}-with-{from}");
        copy_run(to, &name);
        copy("initial", from, &name);
        refused(
            &name,
            &[
                "not the file that `llmbs train --stage initial` wrote",
                "train --stage initial --force",
            ],
        );
    }

    // A model without the rows that its tokenizer counts on.
    copy_run("llmbs", "short");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(runs.join("llmbs/backbone").join(file), runs.join("short/initial").join(file))
            .unwrap();
    }
    refused(
        "short",
        &["initial/config.json", "not the file that `llmbs train --stage initial` wrote"],
    );
}

#[test]
fn the_manual_names_every_field() {
    let requests = "{\"id\": 1, \"history\": [1, \"none\"]}\n{\"id\": 2}\n{\"user\": \"nobody\"}\n";
    write("two.jsonl", requests);
    let (stdout, _) = run(&SHOP, &["recommend", "--batch", "two.jsonl", "--explain"], 1);
    let mut found = BTreeSet::new();
    for answer in json_lines(&stdout) {
        found.extend(field_names(&answer));
    }
    for name in ["typical", "error", "reason"] {
        assert!(found.contains(name), "{found:?}");
    }
    let manual = include_str!("../docs/recommend.md");
    for name in found {
        assert!(manual.contains(&format!("`{name}`")), "docs/recommend.md does not tell of {name}");
    }
}
