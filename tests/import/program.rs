//! `llmbs data import` and `data export` as they are typed.

use serde_json::Value;

use super::folder;
use crate::common::program::{fails, run};

#[test]
fn a_log_becomes_a_dataset_and_goes_out_again() {
    let log = "user,item,time\nA,x,1\nA,y,2\nA,z,3\nA,x,4\nB,y,1\n";
    // A configuration that does not parse does not concern a log.
    let dir = folder(&[("log.csv", log), ("llmbs.toml", "no = \"toml")]);
    let dir = dir.path();
    let (stdout, stderr) = run(dir, &["data", "import", "log.csv", "--out", "Shop"], 0);
    for line in [
        "interactions read          5\n",
        "duplicates left out        1\n",
        "users                      2\n",
        "wrote Shop\n",
    ] {
        assert!(stdout.contains(line), "{line} is not in {stdout}");
    }
    assert!(!stderr.contains("error"), "{stderr}");
    fails(
        dir,
        &["data", "import", "log.csv", "--out", "Shop"],
        &["error: Shop: is there already; --force replaces it"],
    );
    let words = [
        "data", "import", "log.csv", "--out", "Shop", "--force", "--json", "--core", "1",
        "--strict",
    ];
    let report: Value = serde_json::from_str(&run(dir, &words, 0).0).unwrap();
    assert_eq!((&report["interactions"], &report["skipped_lines"]), (&4.into(), &0.into()));

    std::fs::remove_file(dir.join("llmbs.toml")).unwrap();
    let words = ["data", "export", "Shop", "--format", "recbole", "--out", "RB", "--json"];
    let exported: Value = serde_json::from_str(&run(dir, &words, 0).0).unwrap();
    assert_eq!((&exported["users"], &exported["short_users"]), (&1.into(), &1.into()));
    let (stdout, _) = run(
        dir,
        &["--set", "data.path=Shop", "data", "export", "--format", "user-sequence", "--out", "US"],
        0,
    );
    assert!(stdout.starts_with("1 users, 3 items, 3 interactions\n1 users with fewer"), "{stdout}");
    assert_eq!(std::fs::read_to_string(dir.join("US/user_sequence.txt")).unwrap(), "A x y z\n");
    let (stdout, _) = run(dir, &["--set", "data.path=Shop", "data", "stats"], 0);
    assert!(stdout.contains("items                  3\n"), "{stdout}");
}

#[test]
fn what_is_typed_wrong_is_told() {
    let dir = folder(&[("log.csv", "u,i\n1,2\n")]);
    let dir = dir.path();
    fails(
        dir,
        &["data", "import", "log.csv", "--out", "S"],
        &["log.csv:1: no column looks like the user; name it with --user: u, i"],
    );
    assert!(!dir.join("S").exists() && !dir.join(".S.llmbs").exists());
    let (_, stderr) = run(dir, &["data", "import", "log.csv", "--out", "S", "--format", "xls"], 2);
    assert!(stderr.contains("no format is called \"xls\"; there are csv, tsv"), "{stderr}");
    let (_, stderr) = run(dir, &["data", "export", "--out", "S", "--format", "csv"], 2);
    assert!(stderr.contains("there are lcrec, recbole, s3rec, user-sequence"), "{stderr}");
    run(dir, &["data", "import", "log.csv", "--out", "S", "--strict", "--lenient"], 2);
    run(dir, &["data", "import", "log.csv", "--out", "S", "--core", "0"], 2);
    let (_, stderr) = run(dir, &["data", "import", "log.csv", "--out", "S", "--rating", "u"], 2);
    assert!(stderr.contains("--min-rating"), "{stderr}");
    run(dir, &["data", "import", "--out", "S"], 2);
    let (help, _) = run(dir, &["data", "import", "--help"], 0);
    for word in ["--user", "--min-rating", "--lenient", "docs/import.md", "s3rec"] {
        assert!(help.contains(word), "{word} is not in {help}");
    }
}

#[test]
fn a_pipe_is_read_once_and_only_what_its_format_is_told_of() {
    let dir = folder(&[]);
    let import = |more: &[&str]| {
        let mut command = assert_cmd::cargo::cargo_bin_cmd!("llmbs");
        command.current_dir(dir.path()).args(["data", "import", "/dev/stdin", "--out", "S"]);
        let rows: Vec<String> =
            (0..40_000).map(|row| format!("user{row},item{}", row % 9)).collect();
        command
            .args(more)
            .write_stdin(format!("user,item\n{}\n", rows.join("\n")))
            .output()
            .unwrap()
    };
    let refused = import(&[]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && told.contains("--format"), "{told}");
    let read = import(&["--format", "csv"]);
    let told = String::from_utf8(read.stdout).unwrap();
    assert!(told.contains("interactions read          40000\n"), "{told}");
}

#[test]
fn a_dataset_is_not_exported_onto_itself_and_a_file_is_no_dataset() {
    let log = "user,item,time\nA,x,1\nA,y,2\nA,z,3\nB,y,1\n";
    let dir = folder(&[("log.csv", log)]);
    let dir = dir.path();
    run(dir, &["data", "import", "log.csv", "--out", "Own"], 0);
    let before = std::fs::read(dir.join("Own/Own.inter.json")).unwrap();
    let onto = ["--format", "s3rec", "--out", "./Own", "--force"];
    fails(dir, &[&["data", "export", "Own"], &onto[..]].concat(), &["is the dataset"]);
    let of_configuration = ["--set", "data.path=Own", "data", "export"];
    fails(dir, &[&of_configuration, &onto[..]].concat(), &["is the dataset"]);
    assert_eq!(std::fs::read(dir.join("Own/Own.inter.json")).unwrap(), before);
    let again = ["data", "import", "log.csv", "--append", "--out", "Own"];
    assert!(run(dir, &again, 0).0.ends_with("nothing new for Own\n"));
    fails(dir, &["init", "log.csv"], &["is a file", "llmbs data import"]);
}
