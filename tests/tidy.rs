//! What `docs/architecture.md` promises of the source tree, held to.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// Which modules a module may use, besides `error`, `rng` and `files`.
const MAY_USE: [(&str, &[&str]); 16] = [
    ("data", &[]),
    ("index", &["data"]),
    ("ops", &[]),
    ("nn", &["ops"]),
    ("text", &[]),
    ("model", &["ops", "nn", "text"]),
    ("decode", &["data", "index"]),
    ("tasks", &["data", "text"]),
    ("train", &["data", "ops", "nn", "text", "model", "tasks"]),
    ("embed", &["data", "index", "ops", "nn", "text", "model"]),
    ("eval", &["data", "index", "ops", "model", "decode", "tasks"]),
    ("config", &["data", "decode", "embed", "eval", "index", "model", "tasks", "train"]),
    (
        "run",
        &[
            "config", "data", "decode", "embed", "eval", "index", "model", "nn", "ops", "tasks",
            "text", "train",
        ],
    ),
    ("bench", &["decode", "eval", "index", "model", "nn", "ops", "tasks", "train"]),
    ("cli", &["bench", "config", "data", "decode", "run"]),
    ("main", &["cli"]),
];

/// Modules that know nothing of tensors.
const NO_TENSORS: [&str; 4] = ["data", "index", "decode", "tasks"];

fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let relative = path.strip_prefix(&root).unwrap();
                let first = relative.components().next().unwrap().as_os_str().to_string_lossy();
                let module = first.trim_end_matches(".rs").to_string();
                let text = fs::read_to_string(&path).unwrap();
                found.push((module, path, text));
            }
        }
    }
    assert!(found.len() > 40, "the tree was not found");
    found
}

#[test]
fn dependencies_run_one_way() {
    for (module, path, text) in sources() {
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else { continue };
        for (i, line) in text.lines().enumerate() {
            for used in line.split("crate::").skip(1) {
                let name: String =
                    used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let known = MAY_USE.iter().any(|(other, _)| *other == name);
                assert!(
                    !known || name == module || allowed.contains(&name.as_str()),
                    "{}:{}: {module} must not use {name}",
                    path.display(),
                    i + 1
                );
            }
        }
    }
}

#[test]
fn tensors_stay_where_they_belong() {
    for (module, path, text) in sources() {
        let no_tensors = NO_TENSORS.contains(&module.as_str());
        assert!(!(no_tensors && text.contains("candle")), "{}: uses candle", path.display());
    }
}

#[test]
fn files_introduce_themselves_and_stay_short() {
    for (_, path, text) in sources() {
        let tests = path.file_name().is_some_and(|name| name == "tests.rs");
        assert!(tests || text.starts_with("//!"), "{}: lacks its //! line", path.display());
        assert!(text.lines().count() <= 500, "{}: is too long to read", path.display());
        for mark in ["TODO", "FIXME", "dbg!("] {
            assert!(!text.contains(mark), "{}: has a {mark}", path.display());
        }
    }
}
