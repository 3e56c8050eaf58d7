//! A shop's log becomes recommendations, as the README says.

use std::fmt::Write as _;
use std::fs;

use serde_json::Value;

use crate::common::program::{fails, run};

const USERS: usize = 150;
const ITEMS: usize = 50;
const TAKEN: usize = 10;

/// What follows `item`, whoever took it.
fn next(item: usize) -> usize {
    (item + 7) % ITEMS
}

/// What `user` took, oldest first.
fn taken(user: usize) -> Vec<usize> {
    std::iter::successors(Some(user * 11 % ITEMS), |&item| Some(next(item))).take(TAKEN).collect()
}

/// Rows in the order of time, users between each other.
fn log() -> String {
    let mut text = String::from("user,item,timestamp\n");
    for at in 0..TAKEN {
        for user in 0..USERS {
            let _ = writeln!(
                text,
                "u-{user:03},{:05},{}",
                taken(user)[at],
                1_700_000_000 + at * 1000 + user
            );
        }
    }
    text
}

#[test]
#[ignore = "needs some minutes"]
fn a_log_becomes_recommendations_in_three_commands() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("log.csv"), log()).unwrap();
    let (report, _) = run(dir, &["data", "import", "log.csv", "--out", "Shop"], 0);
    assert!(report.contains("150") && report.contains("1500"), "{report}");
    run(dir, &["data", "validate", "Shop"], 0);
    run(dir, &["init", "Shop"], 0);
    let (table, _) = run(dir, &["run"], 0);
    assert!(table.contains("beside SASRec"), "{table}");
    let result = fs::read_to_string(dir.join("runs/llmbs/eval/test-on-b20.json")).unwrap();
    let result: Value = serde_json::from_str(&result).unwrap();
    let recall = result["metrics"]["recall@10"].as_f64().unwrap();
    assert!(recall >= 0.95, "the next item is determined, but Recall@10 is {recall}");
    // By the shop's own ids, with their zeros.
    let (items, _) = run(dir, &["recommend", "--user", "u-007", "--top", "3", "--json"], 0);
    let items: Value = serde_json::from_str(&items).unwrap();
    let expected = format!("{:05}", next(*taken(7).last().unwrap()));
    assert_eq!(items[0]["raw_id"], expected.as_str(), "{items}");
}

#[test]
fn a_damaged_dataset_is_told_problem_by_problem() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::create_dir(dir.join("Shop")).unwrap();
    fs::write(dir.join("Shop/Shop.inter.json"), r#"{"a": [0, 1, 7], "b": "0 1"}"#).unwrap();
    fs::write(dir.join("Shop/Shop.item.json"), r#"{"0": {"Title": "x"}, "1": {"title": ["x"]}}"#)
        .unwrap();
    let (problems, stderr) = run(dir, &["data", "validate", "Shop"], 1);
    for place in ["item \"0\"", "item \"1\"", "user \"a\"", "user \"b\""] {
        assert!(problems.contains(place), "{place} is not in {problems}");
    }
    assert!(stderr.contains("4 problems"), "{stderr}");
    let (json, _) = run(dir, &["data", "validate", "Shop", "--json"], 1);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 4);
    fails(dir, &["data", "validate", "Nowhere"], &["Nowhere", "inter.json"]);

    // Whatever else keeps it from being read.
    fs::write(dir.join("Shop/Shop.inter.json"), r#"{"0": [0, 1, 0], "1": [1, 0, 1]}"#).unwrap();
    fs::write(dir.join("Shop/Shop.item.json"), r#"{"0": {"title": "x"}, "1": {"title": "y"}}"#)
        .unwrap();
    let (problems, _) = run(dir, &["data", "validate", "Shop"], 1);
    assert!(problems.contains("no user has two training items"), "{problems}");
    fails(dir, &["--set", "data.path=Shop", "run"], &["no user has two training items"]);
    fails(dir, &["init", "Shop"], &["no user has two training items"]);
    fs::write(dir.join("Shop/Shop.inter.json"), r#"{"0": [0, 1, 0, 1], "1": [1, 0, 1]}"#).unwrap();
    run(dir, &["data", "validate", "Shop"], 0);
    fs::write(dir.join("Shop/Shop.user2id"), "a\t0\n").unwrap();
    let (problems, _) = run(dir, &["data", "validate", "Shop"], 1);
    assert!(problems.contains("Shop.user2id"), "{problems}");
}
