//! Every parser of files that others wrote, each as a function of bytes: what the fuzz targets and the tests
//! feed. An input may be refused or read; it may not panic, write outside of its folder, or be refused in words
//! of Rust.

use std::error::Error as _;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use candle_core::{DType, Device};
use llmbs::ablate::Spec;
use llmbs::config::RunConfig;
use llmbs::data::{Dataset, Lookup, NewItems, validate};
use llmbs::embed::load_embeddings;
use llmbs::import::{self, Format, import};
use llmbs::index::{Foreign, OnCollision, Source, store};
use llmbs::model::{self, LlamaConfig, load_backbone, load_folder, load_safetensors};
use llmbs::run::{IndexFormat, Manifest, RecommendOptions, read_index};
use llmbs::server::Request;
use llmbs::text::Tokenizer;
use llmbs::{Result, files};

/// Stands between the files of an input that is of several.
const BETWEEN: u8 = 0x1e;

/// A parser, fed from a folder of its own.
pub(super) type Target = fn(&Path, &[u8]) -> Result<()>;

/// All parsers, by the names of their fuzz targets.
pub(super) const TARGETS: [(&str, Target); 19] = [
    ("ablation", ablation),
    ("adapter", adapter),
    ("checkpoint", checkpoint),
    ("config", config),
    ("dataset", dataset),
    ("embeddings", embeddings),
    ("gguf", gguf),
    ("import_csv", import_csv),
    ("import_jsonl", import_jsonl),
    ("import_lcrec", import_lcrec),
    ("import_parquet", import_parquet),
    ("import_recbole", import_recbole),
    ("import_sequences", import_sequences),
    ("index", index),
    ("index_forms", index_forms),
    ("manifest", manifest),
    ("requests", requests),
    ("safetensors", safetensors),
    ("tokenizer", tokenizer),
];

/// Feeds `bytes` to a parser; what it says where it refuses them.
///
/// # Panics
/// If the parser panics, leaves its folder or refuses the input in words of Rust.
pub(super) fn feed(name: &str, bytes: &[u8]) -> Option<String> {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.unwrap_or_else(|| panic!("no parser is called {name}"));
    // Memory where there is some: the parsers want files, and what is written is synchronised.
    let memory = Path::new("/dev/shm");
    let around = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let around = around.expect("a temporary folder");
    let dir = around.path().join("X");
    fs::create_dir(&dir).expect("a folder");
    let outcome = target(&dir, bytes);
    let left: Vec<_> = fs::read_dir(around.path()).expect("the folder").flatten().collect();
    assert!(left.len() == 1, "{name} wrote outside of its folder: {left:?}");
    let error = outcome.err()?;
    check_words(&error, bytes);
    Some(error.to_string())
}

/// Types of Rust, and what their `Debug` looks like: no words for the owner of a file.
const OF_RUST: [&str; 20] = [
    "usize", "u8", "u16", "u32", "u64", "u128", "i16", "i32", "i64", "i128", "struct ", "enum ",
    "Some(", "None", "Ok(", "Err(", "String(", "Array(", "Value::", "::new",
];

fn check_words(error: &llmbs::Error, bytes: &[u8]) {
    let text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        assert!(!text.contains(&cause_text), "a cause is told twice: {text}");
        source = cause.source();
    }
    for word in OF_RUST {
        let quoted = bytes.windows(word.len()).any(|part| part == word.as_bytes());
        assert!(quoted || !has_word(&text, word), "{word:?} is no word for users: {text}");
    }
}

/// Whether `text` has `word`, not as a part of a longer one.
fn has_word(text: &str, word: &str) -> bool {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let longer = word.ends_with(in_word) && text[at + word.len()..].starts_with(in_word);
        // English has structures, Rust has `struct Name`.
        let no_name =
            word.ends_with(' ') && !text[at + word.len()..].starts_with(char::is_uppercase);
        !longer && !no_name && !text[..at].ends_with(in_word)
    })
}

/// Writes the files of an input, as many as there are parts of it; the last has all the rest.
fn write_parts(dir: &Path, names: &[&str], bytes: &[u8]) {
    for (name, part) in names.iter().zip(bytes.splitn(names.len(), |&byte| byte == BETWEEN)) {
        write(dir, name, part);
    }
}

fn write(dir: &Path, name: &str, bytes: &[u8]) {
    fs::write(dir.join(name), bytes).expect("a file");
}

/// Imports strictly, then leniently what is refused.
fn imported(dir: &Path, source: &str, format: Option<Format>) -> Result<()> {
    let mut request = import::Request::new(dir.join(source));
    request.format = format;
    let out = dir.join("out");
    if let Err(e) = import(&request, &out, true, &mut |_| ()) {
        request.lenient = true;
        let _ = import(&request, &out, true, &mut |_| ());
        return Err(e);
    }
    // What was imported is a dataset, but perhaps too small a one to train on.
    if let Err(e) = Dataset::load(&out) {
        let text = e.to_string();
        assert!(text.contains("3 interactions"), "what was imported cannot be read: {text}");
    }
    Ok(())
}

fn import_csv(dir: &Path, bytes: &[u8]) -> Result<()> {
    write(dir, "log.csv", bytes);
    imported(dir, "log.csv", None)
}

fn import_jsonl(dir: &Path, bytes: &[u8]) -> Result<()> {
    write(dir, "log.jsonl", bytes);
    imported(dir, "log.jsonl", None)
}

fn import_parquet(dir: &Path, bytes: &[u8]) -> Result<()> {
    write(dir, "log.parquet", bytes);
    imported(dir, "log.parquet", None)
}

fn import_recbole(dir: &Path, bytes: &[u8]) -> Result<()> {
    write_parts(dir, &["X.inter", "X.item"], bytes);
    imported(dir, "X.inter", None)
}

fn import_sequences(dir: &Path, bytes: &[u8]) -> Result<()> {
    write_parts(dir, &["user_sequence.txt", "item_plain_text.txt"], bytes);
    imported(dir, "user_sequence.txt", Some(Format::UserSequence))
}

/// The files of a dataset's folder.
const DATASET: [&str; 7] = [
    "X.inter.json",
    "X.item.json",
    "X.times.json",
    "X.user.json",
    "X.user2id",
    "X.item2id",
    "new.json",
];

fn import_lcrec(dir: &Path, bytes: &[u8]) -> Result<()> {
    write_parts(dir, &DATASET, bytes);
    imported(dir, "X.inter.json", None)
}

fn dataset(dir: &Path, bytes: &[u8]) -> Result<()> {
    write_parts(dir, &DATASET, bytes);
    let found = validate(dir).map_err(llmbs::Error::from);
    let new = dir.join("new.json");
    let new = if new.exists() {
        NewItems::read(&new).and_then(|items| items.after(3, false)).map(drop)
    } else {
        Ok(())
    };
    Dataset::load(dir)?;
    new?;
    found.map(drop)
}

fn index(dir: &Path, bytes: &[u8]) -> Result<()> {
    write(dir, "index.json", bytes);
    let path = dir.join("index.json");
    let foreign = Foreign::read(&path, 3)
        .and_then(|foreign| foreign.into_index(&[Source::Semantic], OnCollision::Extend));
    store::read(&path, &[Source::Semantic])?;
    foreign.map(drop)
}

fn index_forms(dir: &Path, bytes: &[u8]) -> Result<()> {
    write(dir, "codes", bytes);
    let read = |format| {
        let foreign = read_index(&dir.join("codes"), format, shop())?;
        foreign.into_index(&[Source::Semantic], OnCollision::Extend)
    };
    // Files that do not begin as theirs, too.
    let _ = (read(Some(IndexFormat::MiniOneRec)), read(Some(IndexFormat::Grid)));
    read(None).map(drop)
}

fn config(dir: &Path, bytes: &[u8]) -> Result<()> {
    write(dir, "x.toml", bytes);
    let config = RunConfig::load(&dir.join("x.toml"), &[])?;
    config.check()?;
    write(dir, "kept.toml", config.to_toml()?.as_bytes());
    assert_eq!(RunConfig::load(&dir.join("kept.toml"), &[])?, config, "what is kept is another");
    Ok(())
}

fn ablation(dir: &Path, bytes: &[u8]) -> Result<()> {
    write(dir, "x.toml", bytes);
    Spec::load(&dir.join("x.toml")).map(drop)
}

fn safetensors(dir: &Path, bytes: &[u8]) -> Result<()> {
    write(dir, "x.safetensors", bytes);
    let path = dir.join("x.safetensors");
    let metadata = model::safetensors_metadata(&path);
    let embeddings = load_embeddings(&path, 3);
    load_safetensors(&path, &Device::Cpu)?;
    metadata?;
    embeddings.map(drop)
}

fn embeddings(dir: &Path, bytes: &[u8]) -> Result<()> {
    write(dir, "x.npy", bytes);
    load_embeddings(&dir.join("x.npy"), 3).map(drop)
}

fn checkpoint(dir: &Path, bytes: &[u8]) -> Result<()> {
    write_parts(dir, &["config.json", "model.safetensors.index.json", "part.safetensors"], bytes);
    LlamaConfig::load(dir.join("config.json"))?;
    load_folder(dir, DType::F32, &Device::Cpu).map(drop)
}

fn adapter(dir: &Path, bytes: &[u8]) -> Result<()> {
    write_parts(dir, &["adapter_config.json", "adapter_model.safetensors"], bytes);
    model::adapter::load(dir, &LlamaConfig::tiny_test(), &Device::Cpu).map(drop)
}

fn gguf(dir: &Path, bytes: &[u8]) -> Result<()> {
    write(dir, "x.gguf", bytes);
    let path = dir.join("x.gguf").display().to_string();
    used(&load_backbone(&path, DType::F32, &Device::Cpu)?.tokenizer)
}

fn tokenizer(dir: &Path, bytes: &[u8]) -> Result<()> {
    write_parts(dir, &["tokenizer.json", "tokenizer_config.json"], bytes);
    used(&Tokenizer::load_folder(dir)?)
}

/// Does with a tokenizer what training does.
fn used(tokenizer: &Tokenizer) -> Result<()> {
    let ids = tokenizer.encode("A soap, 3 kg: it's \u{1f9f4}\u{301} <s> </s>")?;
    tokenizer.decode(&ids)?;
    let mut tokenizer = tokenizer.clone();
    let tokens = ["<a_1>", "<b_2>"].map(String::from);
    let ids = tokenizer.add_item_tokens(&tokens)?;
    tokenizer.check_item_tokens([(tokens.to_vec(), ids)].into_iter())
}

fn manifest(dir: &Path, bytes: &[u8]) -> Result<()> {
    write(dir, "manifest.json", bytes);
    files::read_json::<Manifest>(&dir.join("manifest.json")).map(drop)
}

/// A shop of three items.
fn shop() -> &'static Dataset {
    static SHOP: OnceLock<Dataset> = OnceLock::new();
    SHOP.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        write(dir.path(), "X.inter.json", br#"{"7": [0, 1, 2], "u": [2, 1, 1]}"#);
        write(dir.path(), "X.item2id", b"a\t0\nb,c\t1\n17\t2\n");
        Dataset::load(dir.path()).expect("a dataset")
    })
}

fn requests(_: &Path, bytes: &[u8]) -> Result<()> {
    let lookup = Lookup::new(shop());
    let lines = bytes.split(|&byte| byte == b'\n').enumerate();
    let defaults = RecommendOptions {
        top: 10,
        only: None,
        exclude: Vec::new(),
        exclude_history: false,
        explain: false,
    };
    let requests = lines.map(|(at, line)| Request::from_line(line, at + 1, &lookup, &defaults));
    // All are read, whatever is wrong with the first.
    let requests: Vec<Request> = requests.collect();
    requests.into_iter().try_for_each(|request| request.query.map(drop))
}
