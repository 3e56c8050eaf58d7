//! Imports and exports: every format, every rule, every fault, and the way there and back.

mod append;
mod beside;
mod faults;
mod formats;
mod program;
mod round_trips;
mod rules;

use std::fs;
use std::path::{Path, PathBuf};

use llmbs::import::{self, Report, Request};
use serde_json::Value;
use tempfile::TempDir;

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        write(dir.path(), name, text.as_bytes());
    }
    dir
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

/// A dataset as its folder has it, numbers replaced by raw ids.
#[derive(Debug)]
struct Got {
    report: Report,
    /// `user: item item …` a line.
    users: String,
    /// `item: title | description | brand | categories` a line, in order.
    items: String,
}

/// Imports into the folder `Shop` beside the sources.
fn try_import(dir: &Path, change: impl Fn(&mut Request)) -> Result<Got, String> {
    let mut request = Request::new("");
    request.sources.clear();
    change(&mut request);
    for path in request.sources.iter_mut().chain(&mut request.items) {
        *path = dir.join(&*path);
    }
    let out = dir.join("out").join("Shop");
    fs::create_dir_all(dir.join("out")).unwrap();
    let report = import::import(&request, &out, true, &mut |_| ()).map_err(|e| {
        assert!(
            !out.exists() || (4..6).contains(&fs::read_dir(&out).unwrap().count()),
            "half a dataset"
        );
        e.to_string().replace(&format!("{}/", dir.display()), "")
    })?;
    Ok(read(report, &out))
}

fn read(report: Report, out: &Path) -> Got {
    let name = out.file_name().unwrap().to_str().unwrap();
    let text = |ending: &str| fs::read_to_string(out.join(format!("{name}{ending}"))).unwrap();
    let names = |ending: &str| -> Vec<String> {
        let lines = text(ending);
        let pairs = lines.strip_suffix('\n').unwrap_or_default().split('\n').enumerate();
        pairs
            .map(|(at, line)| {
                let (raw, number) = line.rsplit_once('\t').unwrap();
                assert_eq!(number, at.to_string());
                raw.to_string()
            })
            .collect()
    };
    let (users, items) = (names(".user2id"), names(".item2id"));
    let json = |ending: &str| serde_json::from_str::<Value>(&text(ending)).unwrap();
    let (inter, item) = (json(".inter.json"), json(".item.json"));
    let sequence = |(at, user): (usize, &String)| {
        let numbers = inter[at.to_string()].as_array().unwrap();
        let raw = |n: &Value| items[n.as_u64().unwrap() as usize].clone();
        format!("{user}: {}", numbers.iter().map(raw).collect::<Vec<_>>().join(" "))
    };
    let texts = |(at, raw): (usize, &String)| {
        let entry = &item[at.to_string()];
        assert_eq!(entry["item_id"], Value::from(raw.as_str()));
        let fields = ["title", "description", "brand", "categories"];
        let fields = fields.map(|field| entry[field].as_str().unwrap());
        format!("{raw}: {}", fields.join(" | "))
    };
    let users = users.iter().enumerate().map(sequence).collect::<Vec<_>>().join("\n");
    let items = items.iter().enumerate().map(texts).collect::<Vec<_>>().join("\n");
    Got { report, users, items }
}

/// Imports one source by the default rules.
#[track_caller]
fn import(dir: &Path, source: &str) -> Got {
    try_import(dir, |request| request.sources = vec![source.into()]).unwrap()
}

/// The users of one file that is imported by the default rules.
#[track_caller]
fn users_of(name: &str, text: &str) -> String {
    let dir = folder(&[(name, text)]);
    import(dir.path(), name).users
}
