//! Files that lie beside the one that is imported.

use std::io::Write;

use llmbs::data::Dataset;

use super::{folder, import, write};

/// Makes of a text the bytes of a file.
type Pack = fn(&str) -> Vec<u8>;

/// `text` as gzip has it.
fn gzip(text: &str) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(text.as_bytes()).unwrap();
    gz.finish().unwrap()
}

#[test]
fn files_beside_a_compressed_one_are_found_compressed_or_not() {
    let user = r#"{"user_explicit_preference": {"4": ["likes foam"]}}"#;
    let lcrec = [
        ("Shop.inter.json", r#"{"4": [1, 0, 2]}"#),
        ("Shop.item.json", r#"{"0": {"title": "Soap"}, "1": {"title": "Foam"}, "2": {}}"#),
        ("Shop.times.json", r#"{"4": [5, 6, 7]}"#),
        ("Shop.user.json", user),
        ("Shop.user2id", "ann\t4\n"),
        ("Shop.item2id", "s\t0\nf\t1\nb\t2\n"),
    ];
    let (users, items) = ("ann: f s b", "f: Foam |  |  | \ns: Soap |  |  | \nb:  |  |  | ");
    let plain = |text: &str| text.as_bytes().to_vec();
    let zst = |text: &str| zstd::encode_all(text.as_bytes(), 1).unwrap();
    let packed: [(&str, Pack); 4] = [("", plain), (".gz", gzip), (".zst", zst), (".ZSTD", zst)];
    for (first, pack) in packed {
        for (others, pack_others) in packed {
            let dir = folder(&[]);
            for (at, (name, text)) in lcrec.into_iter().enumerate() {
                let (ending, pack) = if at == 0 { (first, pack) } else { (others, pack_others) };
                write(dir.path(), &format!("Shop/{name}{ending}"), &pack(text));
            }
            for source in ["Shop".to_string(), format!("Shop/Shop.inter.json{first}")] {
                let got = import(dir.path(), &source);
                assert_eq!((got.users.as_str(), got.items.as_str()), (users, items), "{source}");
                assert!(got.report.keeps_times, "{source}");
                let texts = Dataset::load(&dir.path().join("out/Shop")).unwrap().user_texts;
                assert_eq!(texts.unwrap()[0].preferences, ["likes foam"], "{source}");
            }
        }
    }
    let dir = folder(&[
        ("B.item2id", "x\t1\ny\t2\nz\t3\n"),
        ("ml.item", "item_id:token\ttitle:token_seq\na\tSoap\n"),
        ("item_plain_text.txt", "a Soap\n"),
    ]);
    write(dir.path(), "B.txt.gz", &gzip("1 3 1 2\n"));
    assert_eq!(import(dir.path(), "B.txt.gz").users, "1: z x y");
    write(dir.path(), "ml.inter.gz", &gzip("user_id:token\titem_id:token\nu\ta\n"));
    assert_eq!(import(dir.path(), "ml.inter.gz").items, "a: Soap |  |  | ");
    // Told by its name, though that shouts.
    write(dir.path(), "USER_SEQUENCE.TXT.GZ", &gzip("u a\n"));
    assert_eq!(import(dir.path(), "USER_SEQUENCE.TXT.GZ").items, "a: Soap |  |  | ");
}
