//! Several processes on one run, started by `mpirun`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin;
use candle_core::{Device, Tensor};
use serde_json::Value;

use crate::common::program;

/// Runs the program as so many ranks of one thread, expects success or failure, and gives stdout and stderr.
fn run(dir: &Path, ranks: usize, args: &[&str], succeeds: bool) -> (String, String) {
    let mut command = Command::new("mpirun");
    // A machine may have fewer cores, and Open MPI refuses root unless it is told to serve it.
    command.args(["--oversubscribe", "-n", &ranks.to_string()]);
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.arg(cargo_bin!("llmbs")).args(["--threads", "1"]).args(args).current_dir(dir);
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.success(), succeeds, "{args:?}\n{stdout}\n{stderr}");
    (stdout, stderr)
}

fn losses(run: &Path) -> Vec<f64> {
    let log = fs::read_to_string(run.join("log.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let steps = lines.filter(|line| line["stage"] == "initial" && line["step"].is_number());
    steps.map(|line| line["total"].as_f64().unwrap()).collect()
}

fn tensors(path: &Path) -> BTreeMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap().into_iter().collect()
}

#[test]
fn two_and_three_ranks_train_and_evaluate_as_one_does() {
    let dir = program::tiny();
    let train = |name: &str, ranks| {
        // With a moving average, which ranks divide.
        let set = ["--set", "train.initial.log-every=1", "--set", "train.initial.ema=0.9"];
        let stages = [&["train", "--run", name][..], &set, &["--stage"]].concat();
        run(dir.path(), ranks, &[&stages[..], &["initial"]].concat(), true);
        run(dir.path(), ranks, &[&stages[..], &["anneal"]].concat(), true);
    };
    run(dir.path(), 1, &["index", "--run", "one"], true);
    for name in ["two", "three"] {
        program::copy(&dir.path().join("one"), &dir.path().join(name));
    }
    train("one", 1);
    let alone = dir.path().join("one");
    for (name, ranks) in [("two", 2), ("three", 3)] {
        train(name, ranks);
        let shared = dir.path().join(name);
        let (first, other) = (losses(&alone), losses(&shared));
        assert_eq!(first.len(), other.len());
        // Rounding grows from step to step.
        let far = first.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(first.len() > 10 && far < 0.02, "{ranks} ranks: {far}");
        assert!((first[0] - other[0]).abs() < 1e-5, "{ranks} ranks: {} {}", first[0], other[0]);
        let form = |run: &Path| -> Vec<(String, Vec<usize>)> {
            let model = tensors(&run.join("initial/model.safetensors"));
            model.into_iter().map(|(name, t)| (name, t.dims().to_vec())).collect()
        };
        assert_eq!(form(&alone), form(&shared));
    }
    // One model is evaluated alike by any number of them, to the last bit.
    let evaluated = |ranks| {
        let eval = ["eval", "--run", "one", "--split", "valid", "--beam", "5", "--json", "--force"];
        let told: Value = serde_json::from_str(&run(dir.path(), ranks, &eval, true).0).unwrap();
        let lines = fs::read_to_string(alone.join("eval/valid-on-b5.predictions.jsonl")).unwrap();
        (told["metrics"].clone(), told["metrics_history_excluded"].clone(), lines)
    };
    let one = evaluated(1);
    assert_eq!(one.2.lines().count(), 80);
    assert_eq!(one, evaluated(2));
    assert_eq!(one, evaluated(3));
}

#[test]
fn embeddings_and_recommenders_are_made_by_ranks_as_by_one() {
    let dir = program::tiny();
    let settings = [
        "index.behavior.encoder=sasrec",
        "index.behavior.sasrec.epochs=3",
        "baseline.caser.epochs=3",
        "baseline.tiger.dim=16",
        "baseline.tiger.feed-forward=32",
        "baseline.tiger.epochs=3",
        "train.warmup.epochs=0",
    ];
    let settings = settings.map(|setting| ["--set", setting]).concat();
    let make = |name: &str, ranks, command: &[&str]| {
        run(dir.path(), ranks, &[&["--run", name][..], &settings, command].concat(), true);
    };
    let alone = dir.path().join("one");
    make("one", 1, &["index"]);
    // The codes that TIGER writes are those of one index.
    for name in ["codes-2", "codes-3"] {
        program::copy(&alone, &dir.path().join(name));
    }
    make("one", 1, &["baseline", "caser"]);
    make("one", 1, &["baseline", "tiger"]);
    for (name, codes, ranks) in [("two", "codes-2", 2), ("three", "codes-3", 3)] {
        make(name, ranks, &["index"]);
        make(name, ranks, &["baseline", "caser"]);
        make(codes, ranks, &["baseline", "tiger"]);
        let shared = dir.path().join(name);
        assert_close(&dir.path().join(codes), &alone, "baseline/tiger/seed-42/model.safetensors");
        // The texts are embedded alike, to the last bit.
        let embedded = |run: &Path| fs::read(run.join("index/semantic.safetensors")).unwrap();
        assert_eq!(embedded(&alone), embedded(&shared));
        assert_close(&shared, &alone, "index/sasrec/model.safetensors");
        assert_close(&shared, &alone, "baseline/caser/seed-42/model.safetensors");
        let epochs = |run: &Path| {
            let told = fs::read(run.join("baseline/caser/seed-42/training.json")).unwrap();
            let told: Value = serde_json::from_slice(&told).unwrap();
            let figures = told["epochs"].as_array().unwrap().iter();
            figures.map(|epoch| epoch["validation_ndcg@10"].as_f64().unwrap()).collect::<Vec<_>>()
        };
        let (figures, expected) = (epochs(&shared), epochs(&alone));
        assert_eq!(figures.len(), expected.len());
        // The model is one, so the figure differs where two items score alike but for rounding.
        let far = figures.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(far < 0.01, "{figures:?} {expected:?}");
    }
}

#[test]
fn a_backbone_and_a_din_are_trained_by_ranks_as_by_one() {
    let dir = program::tiny();
    for (name, ranks) in [("one", 1), ("two", 2)] {
        run(dir.path(), ranks, &["--run", name, "index"], true);
    }
    let (alone, shared) = (dir.path().join("one"), dir.path().join("two"));
    assert_close(&shared, &alone, "backbone/model.safetensors");
    assert_close(&shared, &alone, "index/din/model.safetensors");
}

/// Expects the tensors of `file` in one run folder to be those in the other, but for rounding.
fn assert_close(found: &Path, expected: &Path, file: &str) {
    let (found, expected) = (tensors(&found.join(file)), tensors(&expected.join(file)));
    assert!(found.keys().eq(expected.keys()), "{file}");
    for (name, tensor) in &found {
        let far = (tensor - &expected[name]).unwrap().abs().unwrap().max_all().unwrap();
        let far: f32 = far.to_scalar().unwrap();
        // AdamW takes steps by the rounding of what has hardly a gradient.
        assert!(far < 1e-3, "{file}, {name}: {far}");
    }
    // What one rank makes alone has no rounding of its own.
    let same = |(name, tensor): (&String, &Tensor)| {
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values(tensor) == values(&expected[name])
    };
    assert!(!found.iter().all(same), "{file}: the ranks have shared nothing");
}

#[test]
fn what_goes_wrong_is_said_once_and_ends_all_ranks() {
    let dir = program::tiny();
    let (_, stderr) = run(dir.path(), 2, &["serve", "--run", "none"], false);
    assert_eq!(stderr.matches("start `llmbs serve` alone").count(), 1, "{stderr}");
    let (stdout, stderr) = run(dir.path(), 2, &["eval", "--run", "none"], false);
    assert!(stdout.is_empty(), "{stdout}");
    assert_eq!(stderr.matches("run `llmbs index` first").count(), 1, "{stderr}");
}
