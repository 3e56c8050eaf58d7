//! Every format, as others write it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use llmbs::data::Dataset;
use llmbs::import::{Format, Role, TimeKind};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::{folder, import, try_import, users_of, write};

const CSV: &str = "user_id,item_id,timestamp\nu1,a,3\nu2,b,1\nu1,c,1\nu1,b,2\n";
const USERS: &str = "u1: c b a\nu2: b";

#[test]
fn csv_with_any_usual_delimiter_line_ends_and_marks() {
    assert_eq!(users_of("log.csv", CSV), USERS);
    assert_eq!(users_of("log.tsv", &CSV.replace(',', "\t")), USERS);
    assert_eq!(users_of("log.csv", &CSV.replace(',', ";")), USERS);
    assert_eq!(users_of("log.txt", &CSV.replace(',', "|")), USERS);
    assert_eq!(users_of("log.csv", &CSV.replace('\n', "\r\n")), USERS);
    assert_eq!(users_of("log.csv", &format!("\u{feff}{}", CSV.trim_end())), USERS);
    assert_eq!(users_of("LOG.CSV", &CSV.replace('\n', "\n\n\r\n")), USERS);
    // As spreadsheets begin them, and with an empty line before the header.
    assert_eq!(users_of("log.csv", &format!("sep=;\r\n{}", CSV.replace(',', ";"))), USERS);
    assert_eq!(users_of("log.csv", &format!("\n{}", CSV.replace(',', ";"))), USERS);
}

#[test]
fn quoted_fields_hold_delimiters_line_breaks_and_quotes() {
    let text = "item,user,title\n\"a,1\",\"x \"\"y\"\"\",\"two\nlines, \u{2028}one text\"\n";
    let dir = folder(&[("log.csv", text)]);
    let got = import(dir.path(), "log.csv");
    assert_eq!(got.users, "x \"y\": a,1");
    assert_eq!(got.items, "a,1: two lines, one text |  |  | ");
    // Without quotes as such, each is a letter.
    let dir = folder(&[("log.tsv", "user\titem\ttitle\nu\ta\t5\" nail\nu\tb\t\"x\n")]);
    let got = try_import(dir.path(), |r| {
        r.sources = vec!["log.tsv".into()];
        r.no_quotes = true;
    });
    assert_eq!(got.unwrap().items, "a: 5\" nail |  |  | \nb: \"x |  |  | ");
}

#[test]
fn columns_go_by_name_or_number() {
    let dir =
        folder(&[("log.csv", "who,what,when\nu,a,2\nu,b,1\n"), ("u.data", "u\ta\t9\nu\tb\t8\n")]);
    let got = try_import(dir.path(), |r| {
        r.sources = vec!["log.csv".into()];
        r.columns.set(Role::User, Some("who".into()));
        r.columns.set(Role::Item, Some("what".into()));
        r.columns.set(Role::Time, Some("when".into()));
    });
    assert_eq!(got.unwrap().users, "u: b a");
    let got = try_import(dir.path(), |r| {
        r.sources = vec!["u.data".into()];
        r.no_header = true;
        r.columns.set(Role::User, Some("1".into()));
        r.columns.set(Role::Item, Some("2".into()));
        r.columns.set(Role::Time, Some("3".into()));
    });
    assert_eq!(got.unwrap().users, "u: b a");
}

#[test]
fn compressed_files_are_told_by_their_contents() {
    let dir = folder(&[]);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(CSV.as_bytes()).unwrap();
    // Two members one after another, as `cat a.gz b.gz` makes them.
    let mut gz = gz.finish().unwrap();
    let mut more = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    more.write_all(b"u2,c,9\n").unwrap();
    gz.extend(more.finish().unwrap());
    write(dir.path(), "log.csv.gz", &gz);
    write(dir.path(), "log.csv.zst", &zstd::encode_all(CSV.as_bytes(), 1).unwrap());
    write(dir.path(), "renamed.csv", &zstd::encode_all(CSV.as_bytes(), 1).unwrap());
    assert_eq!(import(dir.path(), "log.csv.gz").users, format!("{USERS} c"));
    assert_eq!(import(dir.path(), "log.csv.zst").users, USERS);
    assert_eq!(import(dir.path(), "renamed.csv").users, USERS);
    write(dir.path(), "cut.csv.gz", &gz[..40]);
    let error = try_import(dir.path(), |r| r.sources = vec!["cut.csv.gz".into()]).unwrap_err();
    assert!(error.starts_with("cut.csv.gz: "), "{error}");
}

#[test]
fn json_lines_keep_ids_as_they_are_spelt() {
    let text = r#"{"user": 12345678901234567890123, "item": "007", "time": 2, "x": {"y": [1]}}
{"item": 1.50, "user": "ü\u00fc", "time": 1}

{"user": "üü", "item": "a\"b", "time": "0"}"#;
    let dir = folder(&[("log.jsonl", text), ("log", text)]);
    let got = import(dir.path(), "log.jsonl");
    assert_eq!(got.users, "12345678901234567890123: 007\nüü: a\"b 1.50");
    assert_eq!(import(dir.path(), "log").users, got.users);
}

#[test]
fn the_order_of_json_fields_decides_nothing() {
    let cases = [
        (vec![r#""name": "Soap""#, r#""title": null"#], Ok("Soap |  |  | ")),
        (vec![r#""name": "Soap""#, r#""title": "Foam""#], Ok("Foam |  |  | ")),
        (vec![r#""genres": {"x": 1}"#, r#""categories": ["a"]"#], Ok(" |  |  | a")),
        (vec![r#""genres": {"x": 1}"#, r#""categories": null"#], Err("field \"genres\"")),
        (vec![r#""genres": ["a"]"#, r#""categories": {"x": 1}"#], Err("field \"categories\"")),
        (vec![r#""genres": {"x": 1}"#, r#""desc": {}"#], Err("field \"desc\"")),
        (vec![r#""brand": "A""#, r#""Brand": "B""#], Ok(" |  | B | ")),
    ];
    for (mut fields, expected) in cases {
        for _ in 0..2 {
            let items = format!("{{\"id\": \"a\", {}}}\n", fields.join(", "));
            let dir = folder(&[("log.csv", "user,item\nu,a\n"), ("items.jsonl", &items)]);
            let got = try_import(dir.path(), |r| {
                (r.sources, r.items) = (vec!["log.csv".into()], vec!["items.jsonl".into()]);
            });
            match (got, expected) {
                (Ok(got), Ok(expected)) => {
                    assert_eq!(got.items, format!("a: {expected}"), "{items}");
                }
                (Err(error), Err(expected)) => {
                    assert!(error.contains(expected), "{items}: {error}");
                }
                (got, _) => panic!("{items}: {got:?}"),
            }
            fields.reverse();
        }
    }
    // An id or a time that is there is not lost to one that is null.
    let rows = [
        vec![r#""user": "u""#, r#""asin": "B1""#, r#""item_id": null"#, r#""time": 5"#],
        vec![r#""user": "u""#, r#""asin": "B2""#, r#""time": 4"#, r#""timestamp": null"#],
    ];
    let forth = rows.each_ref().map(|row| format!("{{{}}}\n", row.join(", "))).concat();
    assert_eq!(users_of("log.jsonl", &forth), "u: B2 B1");
    let back = rows.map(|mut row| {
        row.reverse();
        format!("{{{}}}\n", row.join(", "))
    });
    assert_eq!(users_of("log.jsonl", &back.concat()), "u: B2 B1");
}

#[test]
fn texts_stand_beside_interactions_or_in_a_second_file() {
    let log = "user,item,title,brand,genres\nu,a,Soap,,Bath\nu,b,,,\nv,a,Other,B,x\n";
    let items = "{\"id\": \"b\", \"title\": \"Foam\", \"categories\": [\"Bath\", [\"Foam\", \"Bath\"]]}\n{\"id\": \"z\"}\n";
    let dir = folder(&[("log.csv", log), ("items.jsonl", items)]);
    let got = import(dir.path(), "log.csv");
    assert_eq!(got.items, "a: Soap |  | B | Bath\nb:  |  |  | ");
    assert_eq!(got.report.items_without_text, 1);
    let got = try_import(dir.path(), |r| {
        r.sources = vec!["log.csv".into()];
        r.items = vec!["items.jsonl".into()];
    })
    .unwrap();
    assert_eq!(got.items, "a:  |  |  | \nb: Foam |  |  | Bath, Foam");
    assert_eq!((got.report.listed_items, got.report.unused_items), (2, 1));
}

#[test]
fn columns_named_for_texts_are_those_of_the_items_file() {
    let items = "artikel,Name,Marke\na,Soap,B\nc,,\n";
    let lines =
        "{\"artikel\": \"a\", \"Name\": \"Soap\", \"Marke\": \"B\"}\n{\"artikel\": \"c\"}\n";
    let log = "kunde,artikel\nu,a\nu,c\n";
    let dir = folder(&[
        ("log.csv", log),
        ("i.csv", items),
        ("i.jsonl", lines),
        ("k.csv", &items.replace("artikel", "nr")),
    ]);
    for (file, key) in [("i.csv", None), ("i.jsonl", None), ("k.csv", Some("nr"))] {
        let got = try_import(dir.path(), |r| {
            (r.sources, r.items) = (vec!["log.csv".into()], vec![file.into()]);
            let names = [
                (Role::User, "kunde"),
                (Role::Item, "artikel"),
                (Role::Title, "Name"),
                (Role::Brand, "Marke"),
            ];
            for (role, name) in names {
                r.columns.set(role, Some(name.into()));
            }
            r.columns.item_key = key.map(String::from);
        });
        assert_eq!(got.unwrap().items, "a: Soap |  | B | \nc:  |  |  | ", "{file}");
    }
}

#[test]
fn a_table_without_a_header_may_have_a_file_of_items_with_names() {
    let dir = folder(&[
        ("log.csv", "u,a\nu,b\n"),
        ("i.csv", "a,Soap\n"),
        ("i.jsonl", "{\"id\": \"a\", \"title\": \"Soap\"}\n"),
        ("i.item.json", r#"{"0": {"item_id": "a", "title": "Soap"}}"#),
        ("i.item", "item_id:token\ttitle:token_seq\na\tSoap\n"),
        ("item_plain_text.txt", "a Soap\n"),
    ]);
    parquet(&dir.path().join("i.parquet"), Compression::SNAPPY);
    let items = ["i.csv", "i.jsonl", "i.item.json", "i.item", "item_plain_text.txt", "i.parquet"];
    for file in items {
        let got = try_import(dir.path(), |r| {
            (r.sources, r.items) = (vec!["log.csv".into()], vec![file.into()]);
            r.no_header = true;
            r.columns.set(Role::User, Some("1".into()));
            r.columns.set(Role::Item, Some("2".into()));
            if file == "i.csv" {
                r.columns.set(Role::Title, Some("2".into()));
            }
        });
        let title = if file == "i.parquet" { "" } else { "Soap" };
        assert_eq!(got.unwrap().items, format!("a: {title} |  |  | \nb:  |  |  | "), "{file}");
    }
}

#[test]
fn amazon_of_2014() {
    let reviews = r#"{"reviewerID": "A1", "asin": "0001", "reviewerName": "x", "helpful": [0, 1], "reviewText": "t", "overall": 5.0, "summary": "s", "unixReviewTime": 1393545600, "reviewTime": "02 28, 2014"}
{"reviewerID": "A1", "asin": "B2", "overall": 1.0, "unixReviewTime": 1363392000}"#;
    let meta = r#"{'asin': '0001', 'description': "It's &quot;good&quot;<br>", 'title': 'Soap \'n\' more', 'price': 8.26, 'imUrl': 'http://x', 'related': {'also_bought': ['B2']}, 'salesRank': {'Beauty': 1}, 'brand': '', 'categories': [['Beauty', 'Bath'], ['Beauty', 'Soap']]}
{'asin': 'B9', 'title': u'nobody\'s'}"#;
    let dir = folder(&[("reviews_Beauty.json", reviews), ("meta_Beauty.json", meta)]);
    let got = try_import(dir.path(), |r| {
        r.sources = vec!["reviews_Beauty.json".into()];
        r.items = vec!["meta_Beauty.json".into()];
    })
    .unwrap();
    assert_eq!(got.users, "A1: B2 0001");
    assert_eq!(
        got.items,
        "B2:  |  |  | \n0001: Soap 'n' more | It's \"good\" |  | Beauty, Bath, Soap"
    );
    assert_eq!(got.report.days, Some(["2013-03-16".into(), "2014-02-28".into()]));
}

#[test]
fn amazon_of_2018_and_2023() {
    let reviews = r#"{"overall": 5.0, "verified": true, "reviewTime": "01 1, 2018", "reviewerID": "A1", "asin": "B1", "style": {"Color:": " Red"}, "unixReviewTime": 1514764800}"#;
    let meta = r#"{"category": ["Bath", "Soap"], "description": ["one", "two"], "title": "Soap", "brand": "B", "asin": "B1", "rank": "1", "details": {"x": "y"}}"#;
    let dir = folder(&[("r.json", reviews), ("meta_X.json", meta)]);
    let ask = |r: &mut llmbs::import::Request| {
        r.sources = vec!["r.json".into()];
        r.items = vec!["meta_X.json".into()];
    };
    let got = try_import(dir.path(), ask).unwrap();
    assert_eq!(
        (got.users.as_str(), got.items.as_str()),
        ("A1: B1", "B1: Soap | one two | B | Bath, Soap")
    );

    let reviews = r#"{"rating": 5.0, "title": "the review's", "text": "x", "images": [], "asin": "V1", "parent_asin": "P1", "user_id": "AE", "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": true}
{"rating": 2.0, "title": "again", "asin": "V2", "parent_asin": "P2", "user_id": "AE", "timestamp": 1588687728922}"#;
    let meta = r#"{"main_category": "All", "title": "Soap", "average_rating": 4.8, "features": [], "description": ["one"], "price": null, "images": [{"thumb": "x"}], "store": "S", "categories": ["Bath"], "details": {"a": "b"}, "parent_asin": "P1", "bought_together": null}"#;
    let dir = folder(&[("r.json", reviews), ("meta_X.json", meta)]);
    let got = try_import(dir.path(), ask).unwrap();
    assert_eq!(got.users, "AE: P2 P1");
    assert_eq!(got.items, "P2:  |  |  | \nP1: Soap | one | S | Bath");
    // The title of a review is never the item's, whether or not the format is named.
    for format in [None, Some(Format::Amazon)] {
        let got = try_import(dir.path(), |r| {
            r.sources = vec!["r.json".into()];
            r.format = format;
        })
        .unwrap();
        assert_eq!(got.report.items_without_text, 2);
    }
}

#[test]
fn recbole_files_with_their_types() {
    let inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu 1\ta\t5.0\t1393545600.0\nu 1\t\"b\t1\t1393545599.0\n";
    let item = "item_id:token\ttitle:token_seq\tcategory:token_seq\na\ta \"b\" c\tx y\n";
    let files = [("ml/ml.inter", inter), ("ml/ml.item", item)];
    let dir = folder(&files);
    for source in ["ml", "ml/ml.inter"] {
        let got = import(dir.path(), source);
        assert_eq!(got.users, "u 1: \"b a");
        assert_eq!(got.items, "\"b:  |  |  | \na: a \"b\" c |  |  | x y");
        assert_eq!(got.report.times, Some(TimeKind::Decimal));
    }
}

#[test]
fn lcrec_folders_with_and_without_raw_ids() {
    let inter = r#"{"0": [0, 1, 0], "7": [2]}"#;
    let item = "{\"0\": {\"title\": \"zero\", \"item_id\": \"raw0\"},\n\"1\": {\"title\": \"one\"}, \"2\": {\"brand\": \"B\"}}";
    let dir =
        folder(&[("X/X.inter.json", inter), ("X/X.item.json", item), ("Y/Y.inter.json", inter)]);
    let got = import(dir.path(), "X");
    assert_eq!(got.users, "0: raw0 1\n7: 2");
    assert_eq!(got.items, "raw0: zero |  |  | \n1: one |  |  | \n2:  |  | B | ");
    assert_eq!(got.report.duplicates, 1);
    write(dir.path(), "X/X.user2id", "A 0\t0\nÜ\t7\n".as_bytes());
    write(dir.path(), "X/X.item2id", b"i0\t0\ni1\t1\r\n007\t2\n");
    for source in ["X", "X/X.inter.json"] {
        let got = import(dir.path(), source);
        assert_eq!(got.users, "A 0: raw0 i1\nÜ: 007");
        assert_eq!(got.items, "raw0: zero |  |  | \ni1: one |  |  | \n007:  |  | B | ");
    }
    assert_eq!(import(dir.path(), "Y").users, "0: 0 1\n7: 2");
}

#[test]
fn an_item_of_lcrec_has_the_raw_id_that_the_dataset_itself_has() {
    let item = r#"{"0": {"item_id": "i", "parent_asin": "p", "asin": "a"}, "1": {"item_id": 7, "parent_asin": "q"},
        "2": {"asin": null, "item_id": "j"}, "3": {"sku": "s", "id": 5}}"#;
    let files = [("X/X.inter.json", r#"{"0": [0, 1, 2, 3]}"#), ("X/X.item.json", item)];
    let names = "w\t0\nx\t1\ny\t2\nz\t3\n";
    for (names, users) in [(None, "0: a q j 3"), (Some(names), "0: a q j z")] {
        let dir = folder(&files);
        if let Some(names) = names {
            write(dir.path(), "X/X.item2id", names.as_bytes());
        }
        assert_eq!(import(dir.path(), "X").users, users);
        let there = Dataset::load(&dir.path().join("X")).unwrap();
        let raw: Vec<String> = (0..).zip(&there.items).map(|(id, item)| item.name(id)).collect();
        assert_eq!(format!("0: {}", raw.join(" ")), users);
    }
}

#[test]
fn sequences_of_p5_and_of_s3rec() {
    let files = [
        ("p5/user_sequence.txt", "u1 a b\nu2  c\ta \n\n"),
        (
            "p5/item_plain_text.txt",
            "a title: Soap; brand: B; categories: Bath, Soap; description: good; price: 3\nb Foam; soft\n",
        ),
        ("s3/Beauty.txt", "1 3 1 2\n2 1\n"),
    ];
    let dir = folder(&files);
    let got = import(dir.path(), "p5");
    assert_eq!(got.users, "u1: a b\nu2: c a");
    assert_eq!(got.items, "a: Soap | good | B | Bath, Soap\nb: Foam; soft |  |  | \nc:  |  |  | ");
    assert_eq!(got.report.times, None);
    assert_eq!(import(dir.path(), "s3/Beauty.txt").users, "1: 3 1 2\n2: 1");
    write(dir.path(), "s3/Beauty.item2id", b"x\t1\ny\t2\nz\t3\n");
    assert_eq!(import(dir.path(), "s3/Beauty.txt").users, "1: z x y\n2: x");
}

fn parquet(path: &Path, compression: Compression) {
    let schema = "message log { required binary user_id (UTF8); required int64 item_id; optional int64 timestamp
        (TIMESTAMP(MILLIS, true)); optional double rating; optional binary title (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut writer =
        SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties))
            .unwrap();
    // Two row groups.
    for part in 0..2i64 {
        let mut group = writer.next_row_group().unwrap();
        let texts = |texts: [&str; 2]| texts.map(ByteArray::from);
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&texts(["u1", "007"]), None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<Int64Type>()
            .write_batch(&[9_007_199_254_740_993, 5 + part], None, None)
            .unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<Int64Type>()
            .write_batch(&[1_588_687_728_923 - part, 7], Some(&[1, 1]), None)
            .unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(&[4.5], Some(&[1, 0]), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&texts(["Soap", "x"])[..1], Some(&[1, 0]), None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn parquet_by_row() {
    let dir = folder(&[]);
    for compression in [Compression::LZ4_RAW, Compression::SNAPPY] {
        parquet(&dir.path().join("log.parquet"), compression);
        let users = import(dir.path(), "log.parquet").users;
        assert_eq!(users, "u1: 9007199254740993\n007: 5 6");
    }
    let got = import(dir.path(), "log.parquet");
    assert_eq!(got.items, "9007199254740993: Soap |  |  | \n5:  |  |  | \n6:  |  |  | ");
    assert_eq!((got.report.rows, got.report.duplicates, got.report.tied), (4, 1, 2));
    let rated = |lenient: bool| {
        try_import(dir.path(), |r| {
            r.sources = vec!["log.parquet".into()];
            (r.min_rating, r.lenient) = (Some(4.0), lenient);
        })
    };
    let error = rated(false).unwrap_err();
    assert!(error.starts_with("log.parquet: row 2: column rating: is null"), "{error}");
    assert_eq!(rated(true).unwrap().report.skipped_lines, 2);
    let error = try_import(dir.path(), |r| {
        r.sources = vec!["log.parquet".into()];
        r.columns.set(Role::Item, Some("rating".into()));
    });
    let error = error.unwrap_err();
    assert!(error.contains("row 1: column rating: 4.5 is a floating-point number"), "{error}");
}

#[test]
fn broken_parquet_is_an_error_and_no_panic() {
    let dir = folder(&[]);
    let path = dir.path().join("log.parquet");
    parquet(&path, Compression::SNAPPY);
    let whole = std::fs::read(&path).unwrap();
    let mut failed = 0;
    for at in (0..whole.len()).step_by(3) {
        let mut broken = whole.clone();
        broken[at] ^= 0x55;
        write(dir.path(), "b.parquet", &broken);
        failed +=
            usize::from(try_import(dir.path(), |r| r.sources = vec!["b.parquet".into()]).is_err());
    }
    assert!(failed > 20, "{failed}");
    write(dir.path(), "cut.parquet", &whole[..whole.len() / 2]);
    let error = try_import(dir.path(), |r| r.sources = vec!["cut.parquet".into()]).unwrap_err();
    assert!(error.starts_with("cut.parquet: is no Parquet file that can be read"), "{error}");
}
