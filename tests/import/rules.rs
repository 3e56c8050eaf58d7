//! What is kept, what is left out, and what the report says of it.

use llmbs::data::{Dataset, Lookup};
use llmbs::import::{Request, TimeKind};

use super::{Got, folder, import, try_import};

/// Imports `log.csv` of this text with `items.jsonl` beside.
fn with(log: &str, items: &str, change: impl Fn(&mut Request)) -> Result<Got, String> {
    let dir = folder(&[("log.csv", log), ("items.jsonl", items)]);
    try_import(dir.path(), |request| {
        request.sources = vec!["log.csv".into()];
        if !items.is_empty() {
            request.items = vec!["items.jsonl".into()];
        }
        change(request);
    })
}

#[test]
fn users_and_items_are_numbered_by_first_appearance() {
    // In the file b comes first, in the sequences a does.
    let got = with("user,item,time\nv,b,2\nu,c,1\nv,a,1\n", "", |_| ()).unwrap();
    assert_eq!(got.users, "v: a b\nu: c");
    assert!(got.items.starts_with("a: ") && got.items.contains("\nb: "), "{}", got.items);
}

#[test]
fn ties_stay_in_file_order_and_are_counted() {
    let log = "user,item,time\nu,c,5\nu,a,5\nv,a,5\nu,b,4\nv,b,6\n";
    let got = with(log, "", |_| ()).unwrap();
    assert_eq!(got.users, "u: b c a\nv: a b");
    assert_eq!((got.report.tied, got.report.tied_share), (2, 0.4));
    let text = got.report.to_string();
    assert!(text.contains("of one time, in file order 2 (40.00%)\n"), "{text}");
}

#[test]
fn without_times_the_order_is_that_of_the_file() {
    let got = with("user,item\nu,c\nu,a\nu,b\n", "", |_| ()).unwrap();
    assert_eq!(got.users, "u: c a b");
    assert_eq!((got.report.times, got.report.tied), (None, 0));
    assert!(got.report.to_string().contains("times                      none: in file order\n"));
}

#[test]
fn a_line_that_is_skipped_does_not_decide_whether_there_are_times() {
    let dir =
        folder(&[("a.csv", "user,item,time\nu,z,never\n"), ("b.csv", "user,item\nu,c\nu,a\n")]);
    let got = try_import(dir.path(), |r| {
        (r.sources, r.lenient) = (vec!["a.csv".into(), "b.csv".into()], true);
    });
    let got = got.unwrap();
    assert_eq!((got.users.as_str(), got.report.skipped_lines), ("u: c a", 1));
    assert_eq!(got.report.times, None);
}

#[test]
fn times_are_iso_dates_too() {
    let log = "user,item,date\nu,a,2024-05-31T12:00:00+02:00\nu,b,2024-05-31 09:59:59Z\n";
    let got = with(log, "", |_| ()).unwrap();
    assert_eq!(got.users, "u: b a");
    assert_eq!(got.report.times, Some(TimeKind::Iso8601));
    assert_eq!(got.report.days, Some(["2024-05-31".into(), "2024-05-31".into()]));
}

#[test]
fn times_are_kept_in_seconds_for_splits_that_go_by_them() {
    let kept = |log: &str| {
        let dir = folder(&[("log.csv", log)]);
        let got = import(dir.path(), "log.csv");
        let path = dir.path().join("out/Shop/Shop.times.json");
        let dataset = Dataset::load(&dir.path().join("out/Shop")).unwrap();
        assert_eq!(path.is_file(), dataset.times.is_some());
        (got.report.keeps_times, dataset.times)
    };
    let rows = |times: [&str; 4]| {
        let [a, b, c, d] = times;
        format!("user,item,time\nu,a,{a}\nu,b,{b}\nu,a,{c}\nu,c,{d}\nshort,a,{a}\n")
    };
    // What is left out takes its time with it, and so do users whom a dataset passes over.
    let times = Some(vec![vec![1_600_000_000, 1_600_000_001, 1_600_000_003]]);
    let seconds = ["1600000001", "1600000000", "1600000002", "1600000003"];
    assert_eq!(kept(&rows(seconds)), (true, times.clone()));
    let milliseconds = seconds.map(|time| format!("{time}999"));
    assert_eq!(kept(&rows(milliseconds.each_ref().map(String::as_str))), (true, times.clone()));
    let dates = ["01", "00", "02", "03"].map(|s| format!("2020-09-13T12:26:{s}Z"));
    let shifted: Vec<i64> = [0, 1, 3].map(|s| 1_599_999_960 + s).into();
    let dates = rows(dates.each_ref().map(String::as_str));
    assert_eq!(kept(&dates).1.unwrap()[0].len(), shifted.len());
    assert_eq!(kept(&dates), (true, Some(vec![shifted])));
    assert_eq!(kept("user,item\nu,a\nu,b\nu,c\n"), (false, None));
    // A wrong time must not cost the import.
    let far = ["1600000001", "0", "99999999999", "1600000003"];
    let (keeps, none) = kept(&rows(far));
    assert!(!keeps && none.is_none());
}

#[test]
fn of_duplicates_the_earliest_is_kept_or_all() {
    let log = "user,item,time\nu,a,3\nu,b,2\nu,a,1\nv,a,9\n";
    let got = with(log, "", |_| ()).unwrap();
    assert_eq!((got.users.as_str(), got.report.duplicates), ("u: a b\nv: a", 1));
    let got = with(log, "", |r| r.keep_duplicates = true).unwrap();
    assert_eq!((got.users.as_str(), got.report.duplicates), ("u: a b a\nv: a", 0));
}

#[test]
fn low_ratings_are_left_out() {
    let log = "user,item,rating\nu,a,4\nu,b,3.9\nu,c,5.0\n";
    let got = with(log, "", |r| r.min_rating = Some(4.0)).unwrap();
    assert_eq!(
        (got.users.as_str(), got.report.below_min_rating, got.report.rows),
        ("u: a c", 1, 3)
    );
    assert!(got.report.to_string().contains("rated under 4              1\n"));
    let error = with(log, "", |r| r.min_rating = Some(6.0)).unwrap_err();
    assert!(error.contains("nothing is left of 3 interactions (3 rated too low)"), "{error}");
    // Where no rating is asked for, none is looked at.
    assert_eq!(with("user,item,rating\nu,a,?\n", "", |_| ()).unwrap().users, "u: a");
}

#[test]
fn the_core_is_iterative_and_duplicates_do_not_count() {
    let log = "user,item\nu,a\nu,b\nv,a\nv,d\nv,d\nw,a\nw,b\n";
    let got = with(log, "", |r| r.core = 2).unwrap();
    assert_eq!(got.users, "u: a b\nw: a b");
    let core = got.report.outside_core;
    assert_eq!((core.interactions, core.users, core.items, got.report.core_rounds), (2, 1, 1, 2));
    let text = got.report.to_string();
    assert!(
        text.contains("outside the 2-core         2 interactions, 1 users, 1 items, in 2 rounds\n"),
        "{text}"
    );
    assert_eq!(with(log, "", |_| ()).unwrap().report.outside_core.interactions, 0);
    let error = with(log, "", |r| r.core = 4).unwrap_err();
    assert!(error.contains("nothing is left of 7 interactions"), "{error}");
}

#[test]
fn items_without_text_go_only_if_asked_and_the_core_follows() {
    let log = "user,item\nu,a\nu,b\nv,a\nv,c\n";
    let items = "{\"id\": \"a\", \"title\": \"A\"}\n{\"id\": \"b\", \"title\": \"<br>\"}\n{\"id\": \"c\", \"brand\": \"C\"}\n";
    let got = with(log, items, |_| ()).unwrap();
    assert_eq!((got.users.as_str(), got.report.items_without_text), ("u: a b\nv: a c", 1));
    let got = with(log, items, |r| r.drop_textless = true).unwrap();
    assert_eq!(got.users, "u: a\nv: a c");
    let textless = got.report.textless;
    assert_eq!((textless.interactions, textless.users, textless.items), (1, 0, 1));
    let log = format!("{log}w,a\nw,c\nw,b\n");
    let got = with(&log, items, |r| (r.drop_textless, r.core) = (true, 2)).unwrap();
    assert_eq!(got.users, "v: a c\nw: a c");
    let error = with("user,item\nu,a\n", "", |r| r.drop_textless = true).unwrap_err();
    assert!(error.contains("there are no texts; name a file with --items"), "{error}");
}

#[test]
fn items_that_nobody_took_are_kept_if_asked_in_the_order_of_their_file() {
    let log = "user,item\nu,b\nu,x\nu,a\n";
    let items = "{\"id\": \"a\", \"title\": \"A\"}\n{\"id\": \"z\", \"title\": \"Z\"}\n{\"id\": \"b\", \"title\": \"B\"}\n{\"id\": \"a\", \"title\": \"second\"}\n";
    let got = with(log, items, |_| ()).unwrap();
    assert_eq!(got.items, "b: B |  |  | \nx:  |  |  | \na: A |  |  | ");
    assert_eq!(
        (got.report.listed_items, got.report.unused_items, got.report.listed_twice),
        (4, 1, 1)
    );
    let got = with(log, items, |r| r.all_items = true).unwrap();
    assert_eq!(got.users, "u: b x a");
    assert_eq!(got.items, "a: A |  |  | \nz: Z |  |  | \nb: B |  |  | \nx:  |  |  | ");
    let error = with(log, "", |r| r.all_items = true).unwrap_err();
    assert!(
        error.contains("--all-items keeps the items of a file of items; name one with --items"),
        "{error}"
    );
}

#[test]
fn of_each_kind_the_first_text_that_says_anything_stands() {
    let log = "user,item,title,brand\nu,a,,\nv,a,Rose soap,\nw,a,Other,<br>\nu,b,,\nv,a,,Rosa\n";
    let got = with(log, "", |_| ()).unwrap();
    assert_eq!(got.items, "a: Rose soap |  | Rosa | \nb:  |  |  | ");
    let got = with(log, "", |r| r.drop_textless = true).unwrap();
    assert_eq!((got.users.as_str(), got.report.duplicates), ("u: a\nv: a\nw: a", 1));
    let items = "{\"id\": \"a\", \"title\": \"\"}\n{\"id\": \"a\", \"title\": \"A\"}\n{\"id\": \"a\", \"title\": \"B\"}\n";
    let got = with("user,item\nu,a\n", items, |_| ()).unwrap();
    assert_eq!((got.items.as_str(), got.report.listed_twice), ("a: A |  |  | ", 1));
}

#[test]
fn texts_are_cleaned_or_left_as_they_are() {
    let items = "{\"id\": \"a\", \"title\": \"  Tom &amp;amp; <b>Jerry</b>\\n\u{2028}x \"}\n";
    let got = with("user,item\nu,a\n", items, |_| ()).unwrap();
    assert_eq!(got.items, "a: Tom & Jerry x |  |  | ");
    let got = with("user,item\nu,a\n", items, |r| r.raw_texts = true).unwrap();
    assert_eq!(got.items, "a: Tom &amp;amp; <b>Jerry</b>\n\u{2028}x |  |  | ");
}

#[test]
fn several_sources_are_one_log() {
    let dir = folder(&[
        ("a.csv", "user,item,ts\nu,a,2\n"),
        ("b.jsonl", "{\"ts\": 1, \"user\": \"u\", \"item\": \"b\"}"),
    ]);
    let got =
        try_import(dir.path(), |r| r.sources = vec!["a.csv".into(), "b.jsonl".into()]).unwrap();
    assert_eq!((got.users.as_str(), got.report.sources.len()), ("u: b a", 2));
}

#[test]
fn a_dataset_answers_to_raw_ids() {
    let log = "user,item\n007,10\n007,9\n007,010\n7,9\n7,10\n7,ü\nshort,9\n";
    let dir = folder(&[("log.csv", log)]);
    let got = import(dir.path(), "log.csv");
    assert_eq!(got.report.short_users, 1);
    let dataset = Dataset::load(&dir.path().join("out/Shop")).unwrap();
    let lookup = Lookup::new(&dataset);
    assert_eq!(lookup.user("007").unwrap().items, [0, 1, 2]);
    assert_eq!(lookup.user("7").unwrap().items, [1, 0, 3]);
    assert_eq!((lookup.item("010").unwrap(), lookup.item("ü").unwrap()), (2, 3));
    assert!(lookup.user("0").is_err() && lookup.user("short").is_err());
}

#[test]
fn the_report_says_everything_as_json() {
    let got = with("user,item,ts\nu,a,1\n", "", |_| ()).unwrap();
    let json = serde_json::to_value(&got.report).unwrap();
    for (field, value) in
        [("rows", 1), ("duplicates", 0), ("users", 1), ("short_users", 1), ("items", 1)]
    {
        assert_eq!(json[field], value, "{field}");
    }
    assert_eq!((&json["times"], &json["days"][0]), (&"integer".into(), &"1970-01-01".into()));
}
