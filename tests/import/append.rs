//! New days behind what a dataset folder holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use llmbs::data::Dataset;
use llmbs::import::{Appended, Request, append};
use proptest::prelude::*;

use super::{Got, folder, import, read, try_import, write};

/// Appends a file to what [`try_import`] wrote.
fn try_append(dir: &Path, source: &str, change: impl Fn(&mut Request)) -> Result<Got, String> {
    let mut request = Request::new(dir.join(source));
    change(&mut request);
    for path in &mut request.items {
        *path = dir.join(&*path);
    }
    let out = dir.join("out").join("Shop");
    let report = append(&request, &out, &mut |_| ())
        .map_err(|e| e.to_string().replace(&format!("{}/", dir.display()), ""))?;
    Ok(read(report, &out))
}

/// Every file of the dataset.
fn bytes(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir.join("out/Shop")).unwrap().map(Result::unwrap);
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

const MONDAY: &str = "user,item,time\nA,x,1000\nA,y,1001\nB,y,1002\nA,z,1003\nB,x,1004\n";
const ITEMS: &str = "item,title\nz,Zither\nx,Xylophone\ny,Yak\nw,Wand\nv,Viola\n";

fn monday() -> tempfile::TempDir {
    let dir = folder(&[("monday.csv", MONDAY), ("items.csv", ITEMS)]);
    let items = |request: &mut Request| {
        request.sources = vec!["monday.csv".into()];
        request.items = vec!["items.csv".into()];
    };
    try_import(dir.path(), items).unwrap();
    dir
}

#[test]
fn who_and_what_is_there_keeps_its_number_and_new_ones_get_the_next() {
    let dir = monday();
    // Reaches back into the day before, out of order, with a title that an item had before.
    let tuesday = "user,item,time\nC,w,2003\nB,z,2000\nA,z,1003\nB,w,2001\nC,x,2002\nA,x,2005\n";
    write(dir.path(), "tuesday.csv", tuesday.as_bytes());
    write(dir.path(), "new.csv", b"item,title\nw,Wand\nx,Another name\nq,Quill\n");
    let items = |request: &mut Request| request.items = vec!["new.csv".into()];
    let got = try_append(dir.path(), "tuesday.csv", items).unwrap();
    assert_eq!(got.users, "A: x y z\nB: y x z w\nC: x w");
    assert_eq!(
        got.items,
        "x: Xylophone |  |  | \ny: Yak |  |  | \nz: Zither |  |  | \nw: Wand |  |  | "
    );
    let report = &got.report;
    assert_eq!(report.appended, Some(Appended { interactions: 4, users: 1, items: 1, earlier: 0 }));
    assert_eq!((report.duplicates, report.rows, report.interactions), (2, 6, 9));
    assert_eq!((report.users, report.short_users, report.items), (3, 1, 4));
    let text = report.to_string();
    assert!(text.contains("users                      3, 1 of them new\n"), "{text}");
    let times = &bytes(dir.path())["Shop.times.json"];
    assert_eq!(
        String::from_utf8_lossy(times),
        "{\n\"0\": [1000,1001,1003],\n\"1\": [1002,1004,2000,2001],\n\"2\": [2002,2003]\n}\n"
    );
    // Given again, there is nothing left to append.
    // Nor is what a process left that was killed as it ended.
    let left = dir.path().join("out/.Shop.llmbs");
    fs::create_dir(&left).unwrap();
    let before = bytes(dir.path());
    let again = try_append(dir.path(), "tuesday.csv", |_| ()).unwrap();
    assert!(!left.exists());
    assert_eq!(
        again.report.appended,
        Some(Appended { interactions: 0, users: 0, items: 0, earlier: 0 })
    );
    assert_eq!(bytes(dir.path()), before);
    // Items that nobody took, where they are asked for.
    let all = |request: &mut Request| {
        request.items = vec!["new.csv".into()];
        request.all_items = true;
    };
    let got = try_append(dir.path(), "tuesday.csv", all).unwrap();
    assert_eq!(got.report.appended.map(|new| new.items), Some(1));
    assert!(got.items.ends_with("\nq: Quill |  |  | "), "{}", got.items);
}

#[test]
fn times_are_compared_in_seconds_however_they_are_spelt() {
    for (time, expected) in [
        ("1970-01-01T00:16:43Z", Ok("A: x y z q")),
        ("1003.25", Ok("A: x y z q")),
        ("1970-01-01T00:16:42Z", Err("took item \"q\" at 1002, before 1003")),
    ] {
        let dir = monday();
        write(dir.path(), "tuesday.csv", format!("user,item,time\nA,q,{time}\n").as_bytes());
        let before = bytes(dir.path());
        match (try_append(dir.path(), "tuesday.csv", |_| ()), expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got.users.lines().next(), Some(expected)),
            (Err(error), Err(expected)) => {
                assert!(
                    error.starts_with("tuesday.csv: user \"A\" ") && error.contains(expected),
                    "{error}"
                );
                assert_eq!(bytes(dir.path()), before);
            }
            (got, _) => panic!("{time}: {got:?}"),
        }
    }
}

#[test]
fn what_cannot_be_appended_is_named_and_changes_nothing() {
    let cases = [
        ("user,item\nA,q\n", "tuesday.csv: its interactions have no times"),
        ("user,item,time\n", "tuesday.csv: no interaction could be read"),
        ("user,item,time\nA,q,2000\nA,,2001\n", "tuesday.csv:3: column 2 (item): is empty"),
    ];
    for (text, expected) in cases {
        let dir = monday();
        let before = bytes(dir.path());
        write(dir.path(), "tuesday.csv", text.as_bytes());
        let error = try_append(dir.path(), "tuesday.csv", |_| ()).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(bytes(dir.path()), before);
    }
    let dir = monday();
    write(dir.path(), "tuesday.csv", b"user,item,time\nA,q,2000\n");
    write(dir.path(), "out/Shop/notes.txt", b"mine");
    let error = try_append(dir.path(), "tuesday.csv", |_| ()).unwrap_err();
    assert!(error.contains("out/Shop: holds notes.txt"), "{error}");
    assert!(!dir.path().join("out/.Shop.llmbs").exists());
}

#[test]
fn what_came_earlier_is_passed_over_where_that_is_asked_for() {
    let dir = monday();
    // B took w before their last item there, as one that a core left out.
    write(dir.path(), "tuesday.csv", b"user,item,time\nB,w,1003\nB,x,1004\nB,v,2000\n");
    let error = try_append(dir.path(), "tuesday.csv", |_| ()).unwrap_err();
    assert!(error.contains("--lenient"), "{error}");
    let got = try_append(dir.path(), "tuesday.csv", |request| request.lenient = true).unwrap();
    assert_eq!(got.users, "A: x y z\nB: y x v");
    let appended = got.report.appended.unwrap();
    assert_eq!((appended.interactions, appended.items, appended.earlier), (1, 1, 1));
    assert!(got.report.to_string().contains("earlier, passed over       1\n"));
}

#[test]
fn what_is_taken_again_is_told_by_its_time() {
    let keep = |request: &mut Request| request.keep_duplicates = true;
    let dir = monday();
    let tuesday = "user,item,time\nA,z,1003\nA,z,2000\nA,z,2000\nA,x,2001\n";
    write(dir.path(), "tuesday.csv", tuesday.as_bytes());
    for interactions in [3, 0] {
        let got = try_append(dir.path(), "tuesday.csv", keep).unwrap();
        assert_eq!(got.users, "A: x y z z z x\nB: y x");
        assert_eq!(got.report.appended.unwrap().interactions, interactions);
    }
}

#[test]
fn what_another_program_wrote_is_not_lost() {
    let item = r#""title": "", "description": "", "brand": "", "categories": """#;
    let wish = r#"{"querys": [], "item": 0, "inters": [0]}"#;
    for (file, text, expected) in [
        ("item", format!(r#"{{"0": {{{item}, "price": 3}}}}"#), "\"price\" of items"),
        ("item", format!(r#"{{"0": {{{item}, "asin": "x"}}}}"#), "\"asin\" of items"),
        ("user", r#"{"user_vague_intention": {"test": {}}}"#.into(), "has \"test\""),
        ("user", r#"{"more": {}}"#.into(), "has \"more\""),
        (
            "user",
            format!(r#"{{"user_vague_intention": {{"train": {{"0": {wish}}}}}}}"#),
            "\"inters\"",
        ),
    ] {
        let dir = monday();
        write(dir.path(), &format!("out/Shop/Shop.{file}.json"), text.as_bytes());
        write(dir.path(), "tuesday.csv", b"user,item,time\nB,z,2000\n");
        let before = bytes(dir.path());
        let error = try_append(dir.path(), "tuesday.csv", |_| ()).unwrap_err();
        assert!(error.contains(expected) && error.contains("would be lost"), "{error}");
        assert_eq!(bytes(dir.path()), before);
    }
}

#[test]
fn a_dataset_without_times_grows_in_the_order_of_those_of_the_new_days() {
    let dir = folder(&[("monday.csv", "user,item\nA,x\nA,y\nA,z\n")]);
    import(dir.path(), "monday.csv");
    write(dir.path(), "tuesday.csv", b"user,item,time\nA,w,7\nA,v,5\n");
    let got = try_append(dir.path(), "tuesday.csv", |_| ()).unwrap();
    assert_eq!((got.users.as_str(), got.report.keeps_times), ("A: x y z v w", false));
}

#[test]
fn what_is_said_of_users_stays() {
    let dir = monday();
    let said =
        r#"{"user_explicit_preference": {"1": ["yaks"]}, "user_vague_intention": {"train": {}}}"#;
    write(dir.path(), "out/Shop/Shop.user.json", said.as_bytes());
    write(dir.path(), "tuesday.csv", b"user,item,time\nB,z,2000\nC,x,2000\n");
    try_append(dir.path(), "tuesday.csv", |_| ()).unwrap();
    let texts = Dataset::load(&dir.path().join("out/Shop")).unwrap().user_texts.unwrap();
    let said: Vec<usize> = texts.iter().map(|texts| texts.preferences.len()).collect();
    // C, who has one item, is passed over.
    assert_eq!(said, [0, 1]);
}

#[test]
fn what_a_folder_of_lcrec_says_of_new_users_comes_with_them() {
    let files = [
        ("X/X.inter.json", r#"{"3": [0, 1, 2], "4": [2]}"#),
        ("X/X.times.json", r#"{"3": [2000, 2001, 2002], "4": [2003]}"#),
        ("X/X.user2id", "C\t3\nA\t4\n"),
        ("X/X.item2id", "q\t0\nx\t1\nr\t2\n"),
        (
            "X/X.user.json",
            r#"{"user_explicit_preference": {"3": ["foam"], "4": ["other"]},
                "user_vague_intention": {"train": {"3": {"querys": ["a harp"], "item": 2}}}}"#,
        ),
    ];
    for said in [None, Some(r#"{"user_explicit_preference": {"0": ["yaks"]}}"#)] {
        let dir = monday();
        for (name, text) in files {
            write(dir.path(), name, text.as_bytes());
        }
        if let Some(said) = said {
            write(dir.path(), "out/Shop/Shop.user.json", said.as_bytes());
        }
        let got = try_append(dir.path(), "X", |_| ()).unwrap();
        assert_eq!(got.users, "A: x y z r\nB: y x\nC: q x r");
        let dataset = Dataset::load(&dir.path().join("out/Shop")).unwrap();
        let texts = dataset.user_texts.unwrap();
        // Who was there keeps what was said of them, be it nothing.
        let of_a: Vec<&str> = said.map(|_| "yaks").into_iter().collect();
        assert_eq!(texts[0].preferences, of_a);
        assert_eq!(texts[1].preferences, ["foam"]);
        let wish = texts[1].wish.as_ref().unwrap();
        assert_eq!(dataset.items[wish.item as usize].raw_id.as_deref(), Some("r"));
    }
    // Where nobody is new, nothing is said.
    let dir = monday();
    for (name, text) in files {
        write(dir.path(), name, text.as_bytes());
    }
    write(dir.path(), "X/X.inter.json", br#"{"4": [2]}"#);
    write(dir.path(), "X/X.times.json", br#"{"4": [2003]}"#);
    write(dir.path(), "X/X.user.json", br#"{"user_explicit_preference": {"4": ["other"]}}"#);
    try_append(dir.path(), "X", |_| ()).unwrap();
    assert!(!dir.path().join("out/Shop/Shop.user.json").exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A log in two parts gives everybody the sequence that it gives in one.
    #[test]
    fn days_appended_are_days_imported_at_once(
        log in prop::collection::vec((0u8..5, 0u8..7), 2..40),
        cut in 1usize..40,
    ) {
        let cut = cut.min(log.len() - 1);
        let text = |rows: &[(u8, u8)], from: usize| {
            let rows = rows.iter().enumerate();
            let row = |(at, (user, item)): (usize, &(u8, u8))| format!("u{user},i{item},{}\n", 1000 + from + at);
            "user,item,time\n".to_string() + &rows.map(row).collect::<String>()
        };
        let dir = folder(&[("all.csv", &text(&log, 0)), ("old.csv", &text(&log[..cut], 0)), ("new.csv", &text(&log[cut..], cut))]);
        let sorted = |got: &Got| -> Vec<String> {
            let mut lines: Vec<String> = got.users.lines().map(String::from).collect();
            lines.sort();
            lines
        };
        let whole = sorted(&import(dir.path(), "all.csv"));
        let old = import(dir.path(), "old.csv");
        let grown = try_append(dir.path(), "new.csv", |_| ()).unwrap();
        prop_assert!(grown.items.starts_with(&old.items));
        prop_assert_eq!(sorted(&grown), whole);
    }
}
