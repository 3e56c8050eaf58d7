//! What `docs/architecture.md` promises of the source tree, held to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which modules a module may use, besides those of [`BELOW`].
const MAY_USE: [(&str, &[&str]); 22] = [
    ("data", &[]),
    ("export", &["data"]),
    ("import", &["data"]),
    ("index", &["data"]),
    ("ops", &[]),
    ("nn", &["ops"]),
    ("text", &[]),
    ("model", &["ops", "nn", "text"]),
    ("decode", &["data", "index"]),
    ("tasks", &["data", "text"]),
    ("train", &["data", "ops", "nn", "text", "model", "tasks"]),
    ("embed", &["data", "index", "ops", "nn", "text", "model"]),
    ("inference", &["data", "index", "ops", "text", "model", "decode", "tasks"]),
    ("eval", &["data", "index", "ops", "model", "decode", "tasks", "inference"]),
    ("config", &["data", "decode", "embed", "eval", "index", "model", "ops", "tasks", "train"]),
    (
        "run",
        &[
            "config",
            "data",
            "decode",
            "embed",
            "eval",
            "index",
            "inference",
            "model",
            "nn",
            "ops",
            "tasks",
            "text",
            "train",
        ],
    ),
    ("ablate", &["config", "data", "eval", "run"]),
    ("report", &["ablate", "config", "data", "eval", "index", "run"]),
    ("bench", &["decode", "embed", "index", "inference", "model", "nn", "ops", "tasks", "train"]),
    ("server", &["data", "run"]),
    (
        "cli",
        &[
            "ablate", "bench", "config", "data", "decode", "export", "import", "ops", "report",
            "run", "server",
        ],
    ),
    ("main", &["cli"]),
];

/// Modules that every module may use, and the crate itself: what they may use of the table.
const BELOW: [(&str, &[&str]); 8] = [
    // It wraps their errors.
    ("error", &["data", "index"]),
    ("guard", &[]),
    ("ranks", &[]),
    ("rng", &[]),
    ("files", &[]),
    ("sealed", &[]),
    ("interrupt", &[]),
    ("lib", &[]),
];

/// Files that may know each other: the type of a number and the products of its matrices are one thing in
/// three files.
const ONE_THING: &str = "ops::kernels";

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
    let mut seen = 0;
    for (module, path, text) in sources() {
        let listed = MAY_USE.iter().chain(&BELOW).find(|(name, _)| *name == module);
        let Some((_, allowed)) = listed else {
            panic!("{}: {module} is not in the table of modules", path.display());
        };
        for name in named(&text) {
            let known = MAY_USE.iter().any(|(other, _)| *other == name);
            seen += usize::from(known && name != module);
            assert!(
                !known || name == module || allowed.contains(&name.as_str()),
                "{}: {module} must not use {name}",
                path.display()
            );
        }
    }
    assert!(seen > 400, "only {seen} uses were found");
}

/// The modules of the crate that a file names, one by one or several in braces.
fn named(text: &str) -> BTreeSet<String> {
    let word = |c: &char| c.is_alphanumeric() || *c == '_';
    let alone = text.split("crate::").skip(1).map(|rest| rest.chars().take_while(word).collect());
    let imports = use_trees(text);
    let together = imports.iter().flat_map(|tree| paths(tree));
    let together =
        together.filter(|path| path[0] == "crate").filter_map(|path| path.into_iter().nth(1));
    alone.chain(together).collect()
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

/// A module's path below the crate.
type Module = Vec<String>;

/// The modules with their text, unit tests left out.
fn modules() -> BTreeMap<Module, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = BTreeMap::new();
    for (_, path, text) in sources() {
        let relative = path.strip_prefix(&root).unwrap().with_extension("");
        let mut module: Module =
            relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module.last().is_some_and(|last| last == "mod") {
            module.pop();
        }
        let last = module.last().cloned().unwrap_or_default();
        if !["lib", "main", "tests"].contains(&last.as_str()) {
            let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
            modules.insert(module, text[..end].to_string());
        }
    }
    modules
}

/// The paths that a tree such as `super::{a, b::{C, d}}` names.
fn paths(tree: &str) -> Vec<Module> {
    let Some((start, rest)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap_or_default();
        return vec![name.trim().split("::").map(|part| part.trim().to_string()).collect()];
    };
    let start: Module =
        start.split("::").map(|part| part.trim().to_string()).filter(|p| !p.is_empty()).collect();
    let inner = &rest[..rest.rfind('}').unwrap()];
    let (mut depth, mut from) = (0, 0);
    let mut found = Vec::new();
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = inner[from..at].trim();
                if !part.is_empty() {
                    found.extend(paths(part).into_iter().map(|p| [start.clone(), p].concat()));
                }
                from = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// What stands between `use` and its semicolon, once an import.
fn use_trees(text: &str) -> Vec<String> {
    let mut trees = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_start();
        let public =
            line.strip_prefix("pub").and_then(|rest| rest.split_once("use ").map(|(v, _)| v));
        let visible = public.is_none_or(|v| v.trim().is_empty() || v.trim().starts_with('('));
        let Some(at) = line.find("use ").filter(|&at| at == 0 || (public.is_some() && visible))
        else {
            continue;
        };
        let mut tree = line[at + 4..].to_string();
        while !tree.contains(';') {
            tree += lines.next().unwrap_or(";");
        }
        trees.push(tree[..tree.find(';').unwrap()].to_string());
    }
    trees
}

/// What the `use` lines of a module name, as paths below the crate.
fn used(module: &Module, text: &str, modules: &BTreeMap<Module, String>) -> Vec<Module> {
    let mut found = Vec::new();
    for tree in use_trees(text) {
        for path in paths(&tree) {
            let supers = path.iter().take_while(|part| *part == "super").count();
            let absolute = match path[0].as_str() {
                "crate" => path[1..].to_vec(),
                "self" => [module.clone(), path[1..].to_vec()].concat(),
                "super" if supers <= module.len() => {
                    [module[..module.len() - supers].to_vec(), path[supers..].to_vec()].concat()
                }
                first => {
                    let child = [module.clone(), vec![first.to_string()]].concat();
                    if !modules.contains_key(&child) {
                        continue;
                    }
                    [module.clone(), path].concat()
                }
            };
            found.push(absolute);
        }
    }
    found
}

#[test]
fn files_do_not_use_each_other_in_circles() {
    let modules = modules();
    let uses: BTreeMap<&Module, Vec<Module>> =
        modules.iter().map(|(module, text)| (module, used(module, text, &modules))).collect();
    // A name that a parent hands on is its child's.
    let handed_on = |module: &Module, name: &str| {
        let path =
            |path: &&Module| path.len() > module.len() && path.last().is_some_and(|n| n == name);
        uses[module].iter().filter(|p| p.starts_with(module)).find(path).cloned()
    };
    let file_of = |path: &Module| -> Option<Module> {
        let mut path = path.clone();
        for _ in 0..6 {
            let owner = (1..=path.len())
                .rev()
                .map(|n| path[..n].to_vec())
                .find(|m| modules.contains_key(m))?;
            let Some(name) = path.get(owner.len()) else { return Some(owner) };
            match handed_on(&owner, name) {
                Some(next) if next != path => path = next,
                _ => return Some(owner),
            }
        }
        None
    };
    let related = |a: &Module, b: &Module| a.starts_with(b) || b.starts_with(a);
    let edges: BTreeMap<&Module, BTreeSet<Module>> = uses
        .iter()
        .map(|(module, paths)| {
            let files = paths.iter().filter_map(&file_of).filter(|file| !related(file, module));
            (*module, files.collect())
        })
        .collect();
    assert!(edges.values().map(BTreeSet::len).sum::<usize>() > 300, "no uses were found");
    for module in modules.keys() {
        let mut reached = BTreeSet::new();
        let mut open: Vec<&Module> = edges[module].iter().collect();
        while let Some(next) = open.pop() {
            if reached.insert(next) {
                open.extend(&edges[next]);
            }
        }
        let (name, circle) = (module.join("::"), reached.contains(module));
        assert!(!circle || name.starts_with(ONE_THING), "{name} uses itself by way of others");
    }
}

#[test]
fn folders_have_a_mod_file_and_the_crate_lists_its_modules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (_, path, _) in sources() {
        let folder = path.with_extension("");
        assert!(!folder.is_dir(), "{}: belongs into its folder as mod.rs", path.display());
    }
    // The order of dependency: a module may use those listed before it.
    let text = fs::read_to_string(root.join("lib.rs")).unwrap();
    let listed: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    for (module, allowed) in MAY_USE.iter().filter(|(module, _)| *module != "main") {
        let place = |name: &str| listed.iter().position(|m| *m == name).unwrap();
        for used in *allowed {
            assert!(place(used) < place(module), "lib.rs lists {module} before {used}");
        }
    }
}
