//! Files that unpack, or multiply, without end: refused once what would be kept is too long, whatever follows.

use std::fs;
use std::io::Write;

use llmbs::data::Dataset;
use llmbs::import::{Request, import};

use crate::common::program::fails;

/// The unpacked size: far beyond what a reader may keep, and quickly unpacked where one does.
const SIZE: usize = 80 << 20;

/// `begin`, then `unit` again and again, then `end`, packed.
fn packed(begin: &str, unit: &str, end: &str, zstd: bool) -> Vec<u8> {
    let piece = unit.repeat((1 << 20) / unit.len());
    let fill = |out: &mut dyn Write| {
        out.write_all(begin.as_bytes()).unwrap();
        (0..SIZE >> 20).for_each(|_| out.write_all(piece.as_bytes()).unwrap());
        out.write_all(end.as_bytes()).unwrap();
    };
    if zstd {
        let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
        fill(&mut out);
        return out.finish().unwrap();
    }
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    fill(&mut out);
    out.finish().unwrap()
}

fn imported(name: &str, bytes: &[u8]) -> Result<Dataset, String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(name), bytes).unwrap();
    let out = dir.path().join("X");
    import(&Request::new(dir.path().join(name)), &out, false, &mut |_| ())
        .map_err(|e| e.to_string().replace(&format!("{}/", dir.path().display()), ""))?;
    Ok(Dataset::load(&out).unwrap())
}

#[test]
fn what_unpacks_without_end_is_refused_where_it_is_too_long() {
    let row = "this row has more than 65536 fields, the most that are read";
    let entry = "this entry is longer than 16 MiB, the longest that is read";
    for (name, begin, unit, expected) in [
        ("log.csv", "user,item\n", ",", format!("log.csv:2: {row}")),
        ("log.csv", "", ",", format!("log.csv:1: {row}")),
        ("log.csv", "user,item\n", "\"\",", format!("log.csv:2: {row}")),
        ("log.csv", "user,item\n1,", "x", "log.csv:2: this row is longer than 16 MiB".into()),
        ("X.inter", "user_id:token\titem_id:token\n", "\t", format!("X.inter:2: {row}")),
        ("log.jsonl", "{\"user\": ", " ", "log.jsonl:1: is longer than 16 MiB".into()),
        ("log.jsonl", "{\"user\": ", "[", "log.jsonl:1: is longer than 16 MiB".into()),
        ("user_sequence.txt", "1 ", "2 ", "user_sequence.txt:1: is longer than 16 MiB".into()),
        ("X.inter.json", "{\"0\": [1", ",1", entry.into()),
        ("X.inter.json", "{\"0\": [1", " ", entry.into()),
        ("X.inter.json", "{\"0\": ", "1", entry.into()),
        ("X.inter.json", "{\"0\": ", "[", entry.into()),
        ("X.inter.json", "{\"0\": ", "\"a\":", "is no list of item ids".into()),
        ("X.inter.json", "{\"", "a", entry.into()),
        ("X.inter.json", "{\"0\": \"", "\\\\", entry.into()),
    ] {
        let zstd = unit.len() > 1;
        let error = imported(name, &packed(begin, unit, "", zstd)).unwrap_err();
        assert!(error.contains(&expected), "{name} {begin:?} {unit:?}: {error}");
    }
}

#[test]
fn what_nobody_keeps_may_be_long() {
    let log = packed("user,item\n", "\n", "u,a\nu,b\nu,c\n", false);
    assert_eq!(imported("log.csv", &log).unwrap().users.len(), 1);
    let sequences = packed("{\"0\": [0, 1, 2],", " ", "\"1\": [2, 1, 0]}", true);
    assert_eq!(imported("X.inter.json", &sequences).unwrap().users.len(), 2);
}

#[test]
fn a_text_of_comments_without_end_is_read_in_one_go() {
    // Each would look through all that follows: hours.
    let title = "<!--".repeat(2 << 20);
    let dataset =
        imported("log.csv", format!("user,item,title\nu,a,{title}\nu,b,\nu,c,\n").as_bytes());
    assert_eq!(dataset.unwrap().items[0].title, title);
}

#[test]
fn an_id_is_no_text() {
    let id = "x".repeat(5000);
    let error = imported("log.csv", format!("user,item\n{id},a\n").as_bytes()).unwrap_err();
    assert!(error.contains("\"… has 5000 bytes; an id has 4096 at most"), "{error}");
    assert!(error.len() < 300, "{error}");
    let longest = &id[..4096];
    let rows = format!("user,item\n{longest},a\n{longest},b\n{longest},c\n");
    assert_eq!(imported("log.csv", rows.as_bytes()).unwrap().users[0].id, longest);
}

#[test]
fn a_parquet_file_that_counts_without_end_is_given_up() {
    // An unknown field of the footer: 4000 lists of 2^31 - 1 booleans each, which the library passes over one by one.
    let mut footer = vec![0xf9, 0xf9, 0xa0, 0x1f];
    (0..4000).for_each(|_| footer.extend([0xf1, 0xff, 0xff, 0xff, 0xff, 0x07]));
    footer.push(0);
    let length = u32::try_from(footer.len()).unwrap().to_le_bytes();
    let dir = tempfile::tempdir().unwrap();
    let file = [&b"PAR1"[..], &footer, &length, b"PAR1"].concat();
    fs::write(dir.path().join("log.parquet"), file).unwrap();
    // By the program: what it leaves running ends with it.
    let words = ["data", "import", "log.parquet", "--out", "X"];
    fails(dir.path(), &words, &["log.parquet: is no Parquet file", "in 10 seconds"]);
    assert!(!dir.path().join("X").exists());
}
