//! Embeddings of the items as a user meets them: made, taken over, brought along, refused.

use std::fs;
use std::path::Path;

use crate::common::program::{fails, run, tiny};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;

fn figures(dir: &Path) -> Value {
    let manifest = fs::read_to_string(dir.join("runs/llmbs/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    manifest["stages"]["index"]["figures"].clone()
}

fn embeddings(dir: &Path, name: &str) -> Vec<Vec<f32>> {
    let path = dir.join("runs/llmbs/index").join(name);
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    tensors["embeddings"].to_vec2().unwrap()
}

/// Values for the tiny shop's 60 items that differ from each other.
fn matrix(columns: usize, dtype: DType) -> Tensor {
    let values = (0..60 * columns).map(|i| ((i * i) as f32 * 0.1).sin());
    let tensor = Tensor::from_iter(values, &Device::Cpu).unwrap();
    tensor.reshape((60, columns)).unwrap().to_dtype(dtype).unwrap()
}

#[test]
fn texts_are_embedded_anew_only_where_something_has_changed() {
    let dir = tiny();
    let dir = dir.path();
    run(dir, &["--set", "index.semantic.max-text-tokens=5", "index"], 0);
    let first = figures(dir);
    assert!(first["texts_cut"].as_u64() > Some(0), "{first}");
    assert!(first["items_per_s"].as_f64() > Some(0.0), "{first}");
    assert!(first["embedded_tokens"].as_u64() < first["text_tokens"].as_u64(), "{first}");
    let z = embeddings(dir, "semantic.safetensors");
    assert!(!dir.join("runs/llmbs/unfinished").exists());

    // Another tree over the same vectors.
    let again = ["--set", "index.semantic.max-text-tokens=5", "--set", "index.semantic.k=9"];
    let (_, log) = run(dir, &[&again[..], &["index", "--force"]].concat(), 0);
    assert!(log.contains("embedded already"), "{log}");
    assert!(figures(dir)["items_per_s"].is_null());
    assert_eq!(embeddings(dir, "semantic.safetensors"), z);

    for changed in ["index.semantic.max-text-tokens=6", "index.semantic.fields=[\"title\"]"] {
        let (_, log) = run(dir, &["--set", changed, "index", "--force"], 0);
        assert!(!log.contains("embedded already"), "{changed}: {log}");
        assert_ne!(embeddings(dir, "semantic.safetensors"), z, "{changed}");
    }
    for fields in ["[]", "[\"title\", \"title\"]"] {
        let fields = format!("index.semantic.fields={fields}");
        fails(dir, &["--set", &fields, "index"], &["index.semantic.fields must name"]);
    }
    fails(dir, &["--set", "index.semantic.fields=[\"color\"]", "index"], &["color"]);
}

#[test]
fn an_index_is_made_from_embeddings_of_ones_own() {
    let dir = tiny();
    let dir = dir.path();
    matrix(24, DType::F16).write_npy(dir.join("texts.npy")).unwrap();
    let own = [("embeddings".to_string(), matrix(6, DType::F64))];
    candle_core::safetensors::save(&own.into(), dir.join("buys.safetensors")).unwrap();
    let with = |words: &[&'static str]| {
        let semantic = ["--set", "index.semantic.embeddings=texts.npy"];
        [&semantic, &["--set", "index.behavior.embeddings=buys.safetensors"], words].concat()
    };
    // What trains next goes by these vectors, projectors and all.
    run(dir, &with(&["index"]), 0);
    assert_eq!(embeddings(dir, "semantic.safetensors")[0].len(), 24);
    assert_eq!(embeddings(dir, "behavior.safetensors")[59].len(), 6);
    run(dir, &with(&["train", "--stage", "initial"]), 0);
    let projectors = dir.join("runs/llmbs/initial/projectors.safetensors");
    let projectors = candle_core::safetensors::load(projectors, &Device::Cpu).unwrap();
    assert_eq!(projectors["semantic.weight"].dims(), [24, 32]);

    let index = fs::read(dir.join("runs/llmbs/index/index.json")).unwrap();
    fails(dir, &["index"], &["index.semantic.embeddings was", "texts.npy\", is now unset"]);
    matrix(5, DType::F32).write_npy(dir.join("texts.npy")).unwrap();
    fails(dir, &with(&["index"]), &["texts.npy) has changed since"]);
    fails(dir, &with(&["eval"]), &["texts.npy) has changed since"]);

    // A bad file stops before anything is touched, even when the index is to be redone.
    let manifest = fs::read(dir.join("runs/llmbs/manifest.json")).unwrap();
    let mut values = matrix(5, DType::F32).to_vec2::<f32>().unwrap();
    values[17][3] = f32::NAN;
    Tensor::new(values, &Device::Cpu).unwrap().write_npy(dir.join("texts.npy")).unwrap();
    let force = with(&["index", "--force"]);
    fails(dir, &force, &["texts.npy: row 17, column 3 is NaN"]);
    matrix(5, DType::F32).narrow(0, 0, 59).unwrap().write_npy(dir.join("texts.npy")).unwrap();
    fails(dir, &force, &["texts.npy: has 59 rows, the dataset has 60 items"]);
    fs::remove_file(dir.join("texts.npy")).unwrap();
    fails(dir, &force, &["texts.npy: not found"]);
    assert_eq!(fs::read(dir.join("runs/llmbs/index/index.json")).unwrap(), index);
    assert_eq!(fs::read(dir.join("runs/llmbs/manifest.json")).unwrap(), manifest);
    // The index that stands does not need the file it was made from.
    run(dir, &with(&["eval"]), 0);
}
