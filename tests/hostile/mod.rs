//! Hostile input: the seeds of the fuzz targets as they are and mutated, and inputs of the worst kinds by name.
//!
//! The mutations are drawn anew only where `LLMBS_MUTATIONS` asks for more of them. `scripts/fuzz.sh` runs the
//! same parsers under libFuzzer, which looks at what they do.

mod bombs;
mod harness;
mod refused;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use harness::{TARGETS, feed};

/// How many mutations of each parser's seeds are fed.
const MUTATIONS: usize = 200;

/// No input of these sizes takes a parser longer.
const LONGEST: Duration = Duration::from_secs(10);

/// What numbers, lengths and texts are replaced by.
const WORDS: [&[u8]; 22] = [
    b"0",
    b"-1",
    b"1e999",
    b"4294967295",
    b"4294967296",
    b"18446744073709551615",
    b"99999999999999999999",
    b"null",
    b"[]",
    b"{}",
    b"\"\"",
    b"[[[[",
    b"\\ud800",
    b"../x",
    b"\n",
    b"\x1e",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\0\0\0\0\0",
    b"\x1f\x8b\x08\0\0\0\0\0\0\x03",
];

fn seeds() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds")
}

/// The seeds of a parser, in order.
fn seeds_of(name: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(seeds().join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// One to four changes: bits, words of [`WORDS`], pieces left out, repeated or taken from another seed.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], rng: &mut ChaCha8Rng) {
    for _ in 0..rng.gen_range(1..=4) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.gen_range(0..bytes.len());
        let to = (at + rng.gen_range(1..=16)).min(bytes.len());
        match rng.gen_range(0..7) {
            0 => bytes[at] ^= 1 << rng.gen_range(0..8),
            1 => bytes[at] = rng.r#gen(),
            2 => {
                let word = WORDS.choose(rng).unwrap();
                bytes.splice(at..to, word.iter().copied());
            }
            3 => {
                let word = WORDS.choose(rng).unwrap();
                bytes.splice(at..at, word.iter().copied());
            }
            4 => drop(bytes.drain(at..to)),
            5 => {
                let piece = bytes[at..to].repeat(rng.gen_range(1..100));
                bytes.splice(at..at, piece);
            }
            _ => {
                let from = rng.gen_range(0..=other.len());
                let keep = rng.gen_range(0..2) * (bytes.len() - to);
                let rest = bytes.split_off(bytes.len() - keep);
                bytes.truncate(at);
                bytes.extend(&other[from..other.len().min(from + 64)]);
                bytes.extend(rest);
            }
        }
    }
}

/// Feeds an input; one that is not survived is kept, and named.
fn survives(name: &str, bytes: &[u8]) {
    let start = Instant::now();
    let fed = catch_unwind(AssertUnwindSafe(|| feed(name, bytes)));
    let time = start.elapsed();
    if fed.is_err() || time > LONGEST {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("crash-{name}"));
        fs::write(&path, bytes).unwrap();
        panic!("{name} took {time:?} or failed as said above; the input is {}", path.display());
    }
}

fn smoke(name: &str) {
    let seeds = seeds_of(name);
    for seed in &seeds {
        survives(name, seed);
    }
    let more = std::env::var("LLMBS_MUTATIONS").ok().and_then(|n| n.parse().ok());
    let stream = name.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31) + u64::from(byte));
    let mut rng = ChaCha8Rng::seed_from_u64(stream);
    for _ in 0..more.unwrap_or(MUTATIONS) {
        let mut bytes = seeds.choose(&mut rng).unwrap().clone();
        mutate(&mut bytes, seeds.choose(&mut rng).unwrap(), &mut rng);
        survives(name, &bytes);
    }
}

macro_rules! smokes {
    ($($name:ident)*) => {
        $(#[test] fn $name() { smoke(stringify!($name)); })*

        #[test]
        fn every_parser_has_a_target_seeds_and_a_smoke() {
            let names = TARGETS.map(|(name, _)| name);
            assert_eq!(names[..], [$(stringify!($name)),*]);
            let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml");
            let manifest = fs::read_to_string(manifest).unwrap();
            for name in names {
                assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml lacks {name}");
                assert!(!seeds_of(name).is_empty(), "{name} has no seeds");
            }
            // None is without a parser.
            assert_eq!(fs::read_dir(seeds()).unwrap().count(), names.len());
        }
    };
}

smokes! {
    ablation adapter checkpoint config dataset embeddings gguf import_csv import_jsonl import_lcrec
    import_parquet import_recbole import_sequences index index_forms manifest requests safetensors tokenizer
}
