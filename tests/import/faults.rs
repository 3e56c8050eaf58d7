//! What is wrong with a file, where, and what to do; and what is skipped if that is asked for.

use std::io::Write;

use llmbs::data::Dataset;
use llmbs::import::{Format, LONGEST_LINE, Request, Role};
use proptest::prelude::*;

use super::{folder, import, try_import, write};

/// The error of a file that is imported by these rules.
fn error_with(name: &str, bytes: &[u8], change: impl Fn(&mut Request)) -> String {
    let dir = folder(&[]);
    write(dir.path(), name, bytes);
    try_import(dir.path(), |request| {
        request.sources = vec![name.into()];
        change(request);
    })
    .unwrap_err()
}

/// Expects that a file is refused with a message that begins so, and that the bad line is skipped if asked.
#[track_caller]
fn bad_line(name: &str, text: &str, message: &str) {
    bad_line_with(name, text, message, |_| ());
}

#[track_caller]
fn bad_line_with(name: &str, text: &str, message: &str, change: impl Fn(&mut Request)) {
    let error = error_with(name, text.as_bytes(), &change);
    assert_eq!(error, format!("{message} (--lenient skips and counts such lines)"));
    let dir = folder(&[(name, text)]);
    let got = try_import(dir.path(), |request| {
        request.sources = vec![name.into()];
        request.lenient = true;
        change(request);
    })
    .unwrap();
    assert_eq!((got.users.as_str(), got.report.skipped_lines), ("u: a b", 1), "{name}");
    let fault = got.report.first_faults[0].replace(&format!("{}/", dir.path().display()), "");
    assert_eq!(fault, message);
    assert!(got.report.to_string().contains("lines skipped              1\n"));
}

#[test]
fn a_bad_line_of_a_table_is_named_with_its_column() {
    let log = |line: &str| format!("user,item,time\nu,a,1\n\n{line}\nu,b,2\n");
    let is_time = "whole seconds or milliseconds, or ISO 8601 such as 2024-05-31T12:00:00Z";
    let fields = "; a quote left open would do that, or a delimiter inside a field without quotes";
    let cases = [
        ("v,c,soon", format!("column 3 (time): \"soon\" is no time; {is_time}")),
        ("v,c,", "column 3 (time): is empty where a time should be".into()),
        ("v,c,1.5", "column 3 (time): \"1.5\" is a number with a fraction, but the first time was a whole number; spell all times alike".into()),
        (",c,3", "column 1 (user): is empty where an id should be".into()),
        ("v,\"c\nd\",3", "column 2 (item): \"c\\nd\" holds a tab, line break or other control character, which an id cannot".into()),
        ("v,c", format!("2 fields, but the first row has 3{fields}")),
        ("v,c,3,4", format!("4 fields, but the first row has 3{fields}")),
    ];
    for (line, what) in cases {
        bad_line("log.csv", &log(line), &format!("log.csv:4: {what}"));
    }
    let rating = |r: &mut Request| r.min_rating = Some(0.0);
    let text = "user,item,stars\nu,a,1\nv,c,five\nu,b,2\n";
    bad_line_with(
        "log.csv",
        text,
        "log.csv:3: column 3 (stars): \"five\" is no rating; a number is",
        rating,
    );
}

#[test]
fn a_bad_line_of_json_is_named_with_its_place() {
    let log = |line: &str| {
        format!(
            "{{\"user\": \"u\", \"item\": \"a\", \"time\": 1}}\n{line}\n{{\"user\": \"u\", \"item\": \"b\", \"time\": 2}}\n"
        )
    };
    let cases = [
        ("{\"user\": \"v\", }", "log.jsonl:2:15: trailing comma; a JSON object is expected"),
        (
            "{\"user\": \"v\"",
            "log.jsonl:2:12: EOF while parsing an object; a JSON object is expected",
        ),
        (
            "7",
            "log.jsonl:2:1: invalid type: integer `7`, expected an object; a JSON object is expected",
        ),
        (
            "[{\"user\": \"v\"}]",
            "log.jsonl:2:1: is a JSON array; a file has one object on each line (jq -c '.[]' makes it so)",
        ),
        (
            "{\"user\": \"v\", \"time\": 3}",
            "log.jsonl:2: no field looks like the item; name it with --item",
        ),
        (
            "{\"user\": \"v\", \"item\": null, \"time\": 3}",
            "log.jsonl:2: no field looks like the item; name it with --item",
        ),
        (
            "{\"user\": [1], \"item\": \"c\", \"time\": 3}",
            "log.jsonl:2: field \"user\": \"[1]\" is not a text or a number",
        ),
        (
            "{\"user\": \"v\", \"item\": \"c\"}",
            "log.jsonl:2: has no time, but the first row has one",
        ),
        (
            "{\"user\": \"v\", \"item\": \"c\", \"time\": null}",
            "log.jsonl:2: field \"time\": is null",
        ),
        (
            "{\"user\": \"v\", \"item\": \"c\", \"time\": \"x\"}",
            "log.jsonl:2: field \"time\": \"x\" is no time; whole seconds or milliseconds, or ISO 8601 such as 2024-05-31T12:00:00Z",
        ),
        ("{'user': 'v', 'item': 'c}", "log.jsonl:2:23: a string is not closed"),
        (
            "{\"user\": \"v\", \"item\": \"c\", \"time\": 3, \"title\": {}}",
            "log.jsonl:2: field \"title\": \"{}\" is not a text, a number or a list of these",
        ),
    ];
    for (line, message) in cases {
        bad_line("log.jsonl", &log(line), message);
    }
}

#[test]
fn a_line_that_is_skipped_decides_nothing_for_the_others() {
    for first in [",x,170000000000000000", ",x,2024-05-31", ",x,"] {
        let text = format!("user,item,time\n{first}\nu,a,1700000000\nu,b,1700000001\n");
        let dir = folder(&[("log.csv", &text)]);
        let got =
            try_import(dir.path(), |r| (r.sources, r.lenient) = (vec!["log.csv".into()], true));
        let got = got.unwrap();
        assert_eq!((got.users.as_str(), got.report.keeps_times), ("u: a b", true), "{first}");
        let times = std::fs::read_to_string(dir.path().join("out/Shop/Shop.times.json")).unwrap();
        assert!(times.contains("[1700000000,1700000001]"), "{first}: {times}");
    }
    let row = |item: &str, time: &str| {
        format!("{{\"user\": \"u\", \"item\": \"{item}\", \"time\": {time}}}\n")
    };
    let dir = folder(&[("log.jsonl", &(row("x", "null") + &row("a", "1") + &row("b", "2")))]);
    let got = try_import(dir.path(), |r| (r.sources, r.lenient) = (vec!["log.jsonl".into()], true));
    assert_eq!(got.unwrap().users, "u: a b");
}

#[test]
fn bad_lines_of_sequences_are_named() {
    let files = [("X.inter.json", "{\"u\": [0, 1],\n\"v\": 7}"), ("X.item2id", "a\t0\nb\t1\n")];
    let dir = folder(&files);
    let ask = |lenient: bool| {
        try_import(dir.path(), |r| (r.sources, r.lenient) = (vec!["X.inter.json".into()], lenient))
    };
    let error = ask(false).unwrap_err();
    assert!(
        error.starts_with("X.inter.json: entry \"v\": \"7\" is no list of item ids"),
        "{error}"
    );
    assert_eq!(ask(true).unwrap().users, "u: a b");
    // What is skipped is skipped as a whole.
    write(dir.path(), "X.inter.json", b"{\"u\": [0, 1],\n\"v\": [0, null]}");
    assert!(ask(false).unwrap_err().contains("entry \"v\": an item is null"));
    assert_eq!(ask(true).unwrap().users, "u: a b");
    write(dir.path(), "X.inter.json", b"{\"u\": [0, 1],\n\"u\": [1]}");
    assert!(ask(false).unwrap_err().contains("entry \"u\": occurs twice"));
    write(dir.path(), "X.inter.json", b"{\"u\": [0, 1],\n\"w\": [5]}");
    assert!(
        ask(false)
            .unwrap_err()
            .contains("\"5\" is not in item2id; add its line or remove the file")
    );
    write(dir.path(), "X.inter.json", b"{\"u\": [0, 1],\n\"w\": [5}");
    let error = ask(true).unwrap_err();
    assert!(error.starts_with("X.inter.json:2:8: "), "{error}");
    write(dir.path(), "X.item2id", b"a\t0\nb 1\n");
    let error = ask(false).unwrap_err();
    assert_eq!(error, "X.item2id:2: a raw id, a tab and its number are expected");
    write(dir.path(), "X.item2id", b"a\t0\nb\t0\n");
    assert_eq!(ask(false).unwrap_err(), "X.item2id:2: the number 0 occurred before");
    let error = error_with("user_sequence.txt", b"u a \xff\n", |_| ());
    assert!(error.starts_with("user_sequence.txt:1:5: is no UTF-8"), "{error}");
}

#[test]
fn what_is_no_utf8_text_is_told_apart() {
    let utf16: Vec<u8> =
        "\u{feff}user,item\nu,a\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for name in ["log.csv", "log.jsonl", "user_sequence.txt", "X.inter.json"] {
        let error = error_with(name, &utf16, |_| ());
        assert!(
            error.starts_with(&format!(
                "{name}: is UTF-16; make it UTF-8: iconv -f UTF-16 -t UTF-8"
            )),
            "{error}"
        );
        let error = error_with(name, &utf16[2..], |_| ());
        assert!(
            error.contains("has a zero byte at 1, so it is no UTF-8 text (UTF-16 without its mark"),
            "{error}"
        );
    }
    let error = error_with("log.csv", b"user,item\nu,caf\xe9\n", |_| ());
    assert!(error.starts_with("log.csv:2: column 2 (item): is no UTF-8"), "{error}");
    let error = error_with("log.csv", b"user,it\xe9m\nu,a\n", |_| ());
    assert!(error.starts_with("log.csv:1: column 2: is no UTF-8; what Windows wrote"), "{error}");
    let error = error_with("log.csv", b"PK\x03\x04\0\0", |_| ());
    assert_eq!(error, "log.csv: is a zip archive or a workbook; unpack it, or save it as CSV");
    let error = error_with("log.jsonl", b"{\"user\": \"\xe9\"}\n", |_| ());
    assert!(error.starts_with("log.jsonl:1:11: is no UTF-8"), "{error}");
}

#[test]
fn files_that_say_nothing_or_too_little_say_so() {
    assert_eq!(error_with("log.csv", b"", |_| ()), "log.csv: is empty");
    let error = error_with("log.csv", b"a,b\n1,2\n", |_| ());
    assert_eq!(error, "log.csv:1: no column looks like the user; name it with --user: a, b");
    let error = error_with("log.csv", b"1,2,3\n1,3,4\n", |_| ());
    assert!(
        error.ends_with("1, 2, 3; where this is data and no header, add --no-header"),
        "{error}"
    );
    let header: Vec<String> = (0..40).map(|i| format!("\u{1b}{i}")).collect();
    let error = error_with("log.csv", header.join(",").as_bytes(), |_| ());
    assert!(error.ends_with(", \u{fffd}29, and 10 more") && !error.contains('\u{1b}'), "{error}");
    let error = error_with("log.csv", b"user,item\n", |_| ());
    assert_eq!(error, "log.csv: no interaction could be read; 0 lines were skipped");
    let error = error_with("log.jsonl", b"{}\n{}\n", |r| r.lenient = true);
    assert_eq!(
        error.split("; the first: ").next().unwrap(),
        "log.jsonl: no interaction could be read; 2 lines were skipped"
    );
    let error = error_with("log.txt", b"hello\n", |_| ());
    assert_eq!(error, "log.txt: its format cannot be told; name it with --format");
    let error = error_with("ratings.dat", b"1::1193::5::978300760\n", |_| ());
    assert!(error.contains("{$1=$1} 1' ratings.dat > ratings.tsv"), "{error}");
    let error = error_with("log.csv", b"user,what\nu,a\n", |r| {
        r.columns.set(Role::Item, Some("what".into()));
        r.columns.set(Role::Title, Some("what".into()));
    });
    assert!(error.starts_with("--item and --title name the same column, \"what\""), "{error}");
    let error = error_with("log.csv", b"user,item\nu,a\n", |r| {
        r.columns.set(Role::Time, Some("when".into()));
    });
    assert_eq!(error, "log.csv:1: there is no column \"when\"; the columns are user, item");
    let error = error_with("log.csv", b"user,item\nu,a\n", |r| r.format = Some(Format::Parquet));
    assert!(error.starts_with("log.csv: is no Parquet file that can be read"), "{error}");
    let dir = folder(&[("empty/readme", "x"), ("two/a.inter", "x"), ("two/b.inter", "x")]);
    let ask =
        |source: &str| try_import(dir.path(), |r| r.sources = vec![source.into()]).unwrap_err();
    assert!(
        ask("empty")
            .starts_with("empty: holds no dataset: no X.inter.json (LC-Rec), X.inter (RecBole)")
    );
    assert_eq!(ask("two"), "two: a.inter, b.inter could each be meant; name one");
    assert!(ask("absent.csv").starts_with("absent.csv: No such file"));
}

#[test]
fn an_option_that_no_file_has_a_use_for_is_refused() {
    let dir = folder(&[
        ("Shop/Shop.inter.json", r#"{"0": [0]}"#),
        ("Shop/Shop.item.json", r#"{"0": {"title": "A"}}"#),
        ("log.csv", "user,item,when\nu,a,1\n"),
        ("log.jsonl", "{\"user\": \"u\", \"item\": \"a\"}"),
        ("log.inter", "user_id:token\titem_id:token\nu\ta\n"),
    ]);
    let with = |source: &str, change: &dyn Fn(&mut Request)| {
        let got = try_import(dir.path(), |r| {
            r.sources = vec![source.into()];
            change(r);
        });
        got.map(|got| got.users)
    };
    let name = |role: Role| move |r: &mut Request| r.columns.set(role, Some("when".into()));
    for (role, file) in [
        (Role::User, "inter"),
        (Role::Item, "inter"),
        (Role::Time, "inter"),
        (Role::Title, "item"),
        (Role::Categories, "item"),
    ] {
        let error = with("Shop", &name(role)).unwrap_err();
        let file = format!("Shop/Shop.{file}.json: holds no columns for --{} to name", role.name());
        assert!(error.starts_with(&file), "{error}");
    }
    let error = with("Shop", &|r| r.columns.item_key = Some("id".into())).unwrap_err();
    assert!(error.starts_with("Shop/Shop.item.json: holds no columns for --item-key"), "{error}");
    let error = with("log.csv", &|r| r.columns.item_key = Some("id".into())).unwrap_err();
    assert!(error.ends_with("name the file with --items"), "{error}");
    let error = with("Shop", &|r| r.min_rating = Some(4.0)).unwrap_err();
    assert_eq!(error, "Shop/Shop.inter.json: holds no ratings; leave --min-rating out");
    for source in ["Shop", "log.jsonl", "log.inter"] {
        let error = with(source, &|r| r.no_header = true).unwrap_err();
        assert!(
            error.ends_with("is no CSV or TSV, which --no-header is for; leave it out"),
            "{error}"
        );
        let error = with(source, &|r| r.no_quotes = true).unwrap_err();
        assert!(error.contains("which --no-quotes is for"), "{error}");
    }
    // One file of several is enough.
    let both = |r: &mut Request| {
        r.columns.set(Role::User, Some("user".into()));
        r.sources.push("Shop".into());
        r.no_quotes = true;
    };
    assert_eq!(with("log.csv", &both).unwrap(), "u: a\n0: 0");
}

#[test]
fn lines_without_end_are_no_lines() {
    // One byte more than the longest, between two good lines.
    let mut text = b"{\"user\": \"u\", \"item\": \"a\"}\n".to_vec();
    text.resize(text.len() + LONGEST_LINE + 1, b'x');
    text.extend(b"\n{\"user\": \"u\", \"item\": \"b\"}\n");
    let error = error_with("log.jsonl", &text, |_| ());
    assert!(
        error.starts_with("log.jsonl:2: is longer than 16 MiB, the longest line that is read"),
        "{error}"
    );
    let dir = folder(&[]);
    write(dir.path(), "log.jsonl", &text);
    let got = try_import(dir.path(), |r| (r.sources, r.lenient) = (vec!["log.jsonl".into()], true));
    assert_eq!(got.unwrap().users, "u: a b");

    let mut open = b"user,item\nu,a\nv,\"b".to_vec();
    open.resize(open.len() + LONGEST_LINE + 1, b'\n');
    let error = error_with("log.csv", &open, |r| r.lenient = true);
    assert!(error.starts_with("log.csv:3: this row is longer than 16 MiB"), "{error}");
    assert!(
        error.contains("is a quote left open? (--no-quotes reads quotes as any other character)")
    );

    let mut string = b"{\"u\": [\"".to_vec();
    string.resize(string.len() + 2 * LONGEST_LINE, b'x');
    let error = error_with("X.inter.json", &string, |r| r.lenient = true);
    assert!(error.contains("this entry is longer than 16 MiB"), "{error}");
}

#[test]
fn a_line_that_unpacks_without_end_is_refused_before_it_fills_memory() {
    // 1 GiB of zeros would be some MiB of gzip; 64 MiB show the same.
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(b"user,item\nu,a\n").unwrap();
    (0..64).for_each(|_| gz.write_all(&vec![b'x'; 1 << 20]).unwrap());
    let error = error_with("log.csv.gz", &gz.finish().unwrap(), |_| ());
    assert!(error.contains(":3: this row is longer than 16 MiB"), "{error}");
}

#[test]
fn a_dataset_that_is_there_is_not_overwritten() {
    let dir = folder(&[("log.csv", "user,item\nu,a\nu,b\nu,c\n")]);
    let request = Request::new(dir.path().join("log.csv"));
    let out = dir.path().join("Shop");
    let import = |force| {
        llmbs::import::import(&request, &out, force, &mut |_| ()).map_err(|e| e.to_string())
    };
    std::fs::create_dir(&out).unwrap();
    import(false).unwrap();
    let error = import(false).unwrap_err();
    assert!(error.ends_with("Shop: is there already; --force replaces it"), "{error}");
    import(true).unwrap();
    write(&out, "thesis.doc", b"x");
    for force in [false, true] {
        let error = import(force).unwrap_err();
        assert!(
            error
                .ends_with("Shop: holds thesis.doc, which would be lost; give a folder of its own")
                || (!force && error.ends_with("--force replaces it")),
            "{error}"
        );
    }
    assert!(Dataset::load(&out).is_ok());
    let file = dir.path().join("log.csv");
    let error = llmbs::import::import(&request, &file, true, &mut |_| ()).unwrap_err().to_string();
    assert!(error.ends_with("log.csv: is a file; give the name of a folder"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_file_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), which in 0usize..6) {
        let names = ["l.csv", "l.tsv", "l.jsonl", "X.inter.json", "user_sequence.txt", "l.parquet"];
        let dir = folder(&[]);
        let head: &[u8] = [b"user,item\n", &b"user\titem\n"[..], b"{\"user\": ", b"{\"u\": [", b"u ", b"PAR1"][which];
        write(dir.path(), names[which], &[head, &bytes].concat());
        for lenient in [false, true] {
            let _ = try_import(dir.path(), |r| (r.sources, r.lenient) = (vec![names[which].into()], lenient));
        }
    }

    #[test]
    fn ids_survive_as_they_are(
        rows in prop::collection::vec(("[^\\p{Cc}]{1,12}", "[^\\p{Cc}]{1,12}"), 1..20),
    ) {
        let quote = |id: &str| format!("\"{}\"", id.replace('"', "\"\""));
        let csv: Vec<_> = rows.iter().map(|(u, i)| format!("{},{}", quote(u), quote(i))).collect();
        let csv = csv.join("\n");
        let json: String = rows.iter()
            .map(|(u, i)| serde_json::json!({"user": u, "item": i}).to_string() + "\n").collect();
        let dir = folder(&[("l.csv", &format!("user,item\n{csv}")), ("l.jsonl", &json)]);
        let mut expected: Vec<(String, Vec<String>)> = Vec::new();
        for (user, item) in &rows {
            let at = expected.iter().position(|(u, _)| u == user).unwrap_or_else(|| {
                expected.push((user.clone(), Vec::new()));
                expected.len() - 1
            });
            if !expected[at].1.contains(item) {
                expected[at].1.push(item.clone());
            }
        }
        let expected: Vec<String> = expected.iter().map(|(u, items)| format!("{u}: {}", items.join(" "))).collect();
        for name in ["l.csv", "l.jsonl"] {
            prop_assert_eq!(&import(dir.path(), name).users, &expected.join("\n"));
        }
    }
}
