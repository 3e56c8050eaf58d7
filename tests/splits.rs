//! Splits by time, from the configuration to the result.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::program::{fails, run, tiny, train};

/// The tiny shop in the folder `Shop`, users coming one after another and taking an item every ten seconds.
fn shop_with_times(dir: &Path) -> Vec<Vec<i64>> {
    run(dir, &["data", "synth", "--out", "Shop"], 0);
    let inter: Value =
        serde_json::from_str(&fs::read_to_string(dir.join("Shop/Shop.inter.json")).unwrap())
            .unwrap();
    let mut all = Vec::new();
    let mut text = String::from("{");
    for user in 0i64..80 {
        let items = inter[user.to_string()].as_array().unwrap();
        let at = |(at, _): (i64, _)| 1_700_000_000 + 7 * user + 10 * at;
        let times: Vec<i64> = (0..).zip(items).map(at).collect();
        let comma = if user == 0 { "" } else { "," };
        let _ = write!(text, "{comma}\"{user}\": {times:?}");
        all.push(times);
    }
    fs::write(dir.join("Shop/Shop.times.json"), text + "}").unwrap();
    all
}

fn result(dir: &Path, file: &str) -> (Value, Vec<Value>) {
    let read = |ending: &str| fs::read_to_string(dir.join(format!("{file}{ending}"))).unwrap();
    let lines = read(".predictions.jsonl");
    let lines = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (serde_json::from_str(&read(".json")).unwrap(), lines)
}

#[test]
fn a_split_by_time_is_named_and_compared_with_its_like_alone() {
    let dir = tiny();
    let dir = dir.path();
    let times = shop_with_times(dir);
    let mut sorted: Vec<i64> = times.iter().flatten().copied().collect();
    sorted.sort_unstable();
    let test_from = sorted[sorted.len() * 9 / 10];
    let words =
        |rule: &'static str| ["--set", "data.path=Shop", "--set", rule].map(String::from).to_vec();
    let by = |rule: &'static str, folder: &'static str, command: &[&str]| -> (String, String) {
        let mut all = words(rule);
        all.extend(["--run", folder].map(String::from));
        all.extend(command.iter().map(ToString::to_string));
        run(dir, &all.iter().map(String::as_str).collect::<Vec<_>>(), 0)
    };
    let temporal = "data.split.rule=temporal";
    let at = ["--set", "data.path=Shop", "--set", temporal, "--run", "temporal"];
    train(dir, &at);
    let (table, _) = by(temporal, "temporal", &["eval"]);
    assert!(table.contains("test split of temporal"), "{table}");
    let (json, lines) = result(dir, "temporal/eval/test-off-b20");
    assert_eq!(json["settings"]["split_rule"], "temporal");
    let mut keys = BTreeSet::new();
    for line in &lines {
        let (user, position) = (line["user"].as_str().unwrap(), line["position"].as_u64().unwrap());
        assert!(times[user.parse::<usize>().unwrap()][position as usize] >= test_from);
        assert!(position > 0 && keys.insert((user, position)));
    }
    // All of the last tenth, but for what somebody took first.
    let due = times.iter().flat_map(|times| &times[1..]).filter(|&&time| time >= test_from).count();
    assert_eq!((keys.len(), &json["settings"]["targets"]), (due, &due.into()));
    let (table, _) = by(temporal, "temporal", &["baseline", "sasrec"]);
    assert!(table.contains("test split of temporal"), "{table}");
    let baseline = "temporal/baseline/sasrec/seed-42";
    let (table, _) = by(temporal, "temporal", &["eval", "--compare", baseline]);
    assert!(table.contains(&format!("paired over {due} targets")), "{table}");

    // One target a user at most, the last one.
    let timed = "data.split.rule=timed-leave-one-out";
    by(timed, "timed", &["baseline", "sasrec"]);
    let (json, lines) = result(dir, "timed/baseline/sasrec/seed-42/test");
    assert_eq!(json["settings"]["split_rule"], "timed-leave-one-out");
    for line in &lines {
        let user: usize = line["user"].as_str().unwrap().parse().unwrap();
        assert_eq!(line["position"], times[user].len() - 1);
    }
    assert!(!lines.is_empty() && lines.len() < 80);

    let eval = |rule: &'static str, folder: &'static str, other: &'static str| {
        let mut all = vec!["--set", "data.path=Shop", "--set", rule, "--run", folder];
        all.extend(["eval", "--compare", other]);
        all
    };
    let error = ["its division of the data is not this run's", "timed-leave-one-out"];
    fails(dir, &eval(temporal, "temporal", "timed/baseline/sasrec/seed-42"), &error);
    // The stages of one division are not those of another.
    let error = ["data.split.rule was \"temporal\", is now \"leave-one-out\""];
    let mut again = at;
    again[3] = "data.split.rule=leave-one-out";
    fails(dir, &[&again[..], &["eval"]].concat(), &error);
}

#[test]
fn a_split_by_time_needs_times() {
    let dir = tiny();
    let dir = dir.path();
    let temporal = ["--set", "data.split.rule=temporal"];
    fails(dir, &[&temporal[..], &["index"]].concat(), &["synth", "no times", "data import"]);
    fails(dir, &["--set", "data.split.rule=random", "index"], &["temporal"]);
    shop_with_times(dir);
    let cuts = [&temporal[..], &["--set", "data.path=Shop", "--set"]].concat();
    fails(
        dir,
        &[&cuts[..], &["data.split.test-from=0.7", "index"]].concat(),
        &["valid-from = 0.8", "test-from = 0.7"],
    );
    fails(
        dir,
        &[&cuts[..], &["data.split.test-from=1.5", "index"]].concat(),
        &["data.split.test-from"],
    );
}

#[test]
fn most_users_latest_items_are_trained_on_where_few_are_held_out() {
    let dir = tiny();
    let dir = dir.path();
    let rule = ["--run", "sampled", "--set", "data.split.rule=sampled-leave-one-out", "--set"];
    let at = [&rule[..], &["data.split.test-users=0.5"]].concat();
    train(dir, &at);
    let (table, _) = run(dir, &[&at[..], &["eval"]].concat(), 0);
    assert!(table.contains("test split of sampled-leave-one-out"), "{table}");
    let (json, lines) = result(dir, "sampled/eval/test-off-b20");
    assert_eq!(json["settings"]["split_rule"], "sampled-leave-one-out");
    assert!((25..55).contains(&lines.len()), "{} of 80 users are tested", lines.len());
    let (table, _) = run(dir, &[&at[..], &["baseline", "sasrec", "--split", "valid"]].concat(), 0);
    assert!(table.contains("valid split of sampled-leave-one-out"), "{table}");

    // The shares are part of what a stage was made with.
    let other = [&rule[..], &["data.split.test-users=0.6", "eval"]].concat();
    fails(dir, &other, &["data.split.test-users was 0.5, is now 0.6"]);
    let none = [&rule[..], &["data.split.valid-users=0", "index"]].concat();
    fails(dir, &none, &["data.split.valid-users", "above 0"]);
}
