use std::path::PathBuf;

use super::*;
use crate::index::Source;

#[test]
fn the_resolved_configuration_parses_back() {
    let config = RunConfig::parse(DEMO, "demo.toml", &[]).unwrap();
    let text = config.to_toml().unwrap();
    assert_eq!(RunConfig::parse(&text, "resolved", &[]).unwrap(), config);
}

#[test]
fn paths_of_a_file_are_relative_to_it_and_those_of_set_to_the_working_directory() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("model")).unwrap();
    let file = dir.path().join("shop.toml");
    let text = "[data]\npath = \"Shop\"\n[backbone]\npath = \"model\"\n\
                [index.behavior]\nembeddings = \"z.npy\"\n";
    std::fs::write(&file, text).unwrap();
    let config = RunConfig::load(&file, &[]).unwrap();
    assert_eq!(config.data.path, Some(dir.path().join("Shop")));
    assert_eq!(config.index.behavior.embeddings, Some(dir.path().join("z.npy")));
    let model = dir.path().join("model");
    assert_eq!(config.backbone.path.as_deref(), model.to_str());
    // A hub id is no path, however much it looks like one.
    let set = ["data.path=Other".to_string(), "backbone.path=owner/name".to_string()];
    let config = RunConfig::load(&file, &set).unwrap();
    assert_eq!(config.data.path, Some(std::env::current_dir().unwrap().join("Other")));
    assert_eq!(config.backbone.path.as_deref(), Some("owner/name"));
    // A file that is not there is none either.
    std::fs::write(dir.path().join("gone.toml"), "backbone.path = \"models/m.gguf\"").unwrap();
    let gone = RunConfig::load(&dir.path().join("gone.toml"), &[]).unwrap();
    assert_eq!(gone.backbone.path.as_deref(), dir.path().join("models/m.gguf").to_str());
    // What a run keeps means the same from anywhere.
    let kept = dir.path().join("kept.toml");
    std::fs::write(&kept, config.to_toml().unwrap()).unwrap();
    assert_eq!(RunConfig::load(&kept, &[]).unwrap(), config);
}

#[test]
fn shipped_configurations_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = files.filter(|path| path.is_file()).collect();
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let at = |set: &[String]| RunConfig::load(&file, set).unwrap().check();
        at(&["data.path=FOLDER".to_string()]).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        // A preset of a dataset never runs on the synthetic shop in its place.
        if !file.ends_with("demo.toml") {
            let error = at(&[]).unwrap_err().to_string();
            assert!(error.contains("--set data.path=FOLDER"), "{error}");
        }
    }
}

#[test]
fn overrides_reach_nested_keys() {
    let set = ["index.semantic.k=7".to_string(), "index.source=random".to_string()];
    let config = RunConfig::parse("seed = 1", "x.toml", &set).unwrap();
    assert_eq!((config.index.semantic.k, config.index.source, config.seed), (7, Source::Random, 1));
}

#[test]
fn a_path_that_looks_like_a_number_is_a_path() {
    let set = ["data.path=2024".to_string(), "backbone.path=\"1.5\"".to_string()];
    let config = RunConfig::parse("", "x.toml", &set).unwrap();
    let path = config.data.path.unwrap();
    assert!(path.ends_with("2024") && path.is_absolute(), "{}", path.display());
    let here = std::env::current_dir().unwrap();
    assert_eq!(config.backbone.path.as_deref(), here.join("1.5").to_str());
}

#[test]
fn unknown_keys_are_named_with_their_origin() {
    let error = RunConfig::parse("[index]\nkk = 3\n", "x.toml", &[]).unwrap_err().to_string();
    assert!(error.contains("x.toml") && error.contains("kk") && error.contains('2'), "{error}");
    let set = ["index.kk=7".to_string()];
    let error = RunConfig::parse("", "x.toml", &set).unwrap_err().to_string();
    assert!(error.contains("--set") && error.contains("kk"), "{error}");
    // The tables of recommenders take in the settings of their training, and no others.
    let text = "[baseline.gru4rec]\nhidden = 7\nlearning-rate = 0.5\n";
    let config = RunConfig::parse(text, "x.toml", &[]).unwrap();
    let gru4rec = &config.baseline.gru4rec;
    assert_eq!((gru4rec.hidden, gru4rec.training.learning_rate, gru4rec.dim), (7, 0.5, 256));
    // What is not named keeps the default of its own table.
    let one = RunConfig::parse("[baseline.gru4rec]\nhidden = 7\n", "x.toml", &[]).unwrap();
    assert_eq!(one.baseline.gru4rec.training.learning_rate.to_bits(), 2e-3f64.to_bits());
    for (text, set) in [
        (format!("{text}heads = 2"), None),
        (text.into(), Some("baseline.gru4rec.heads=2")),
        (text.into(), Some("baseline.gru4rec={heads=2}")),
    ] {
        let set: Vec<String> = set.map(String::from).into_iter().collect();
        let error = RunConfig::parse(&text, "x.toml", &set).unwrap_err().to_string();
        let origin = if set.is_empty() { "x.toml" } else { "--set" };
        assert!(
            error.contains(&format!("{origin}: there is no setting baseline.gru4rec.heads")),
            "{error}"
        );
    }
}

#[test]
fn a_partly_given_table_keeps_its_own_defaults() {
    let config = RunConfig::parse("[train.warmup]\nbatch = 3", "x.toml", &[]).unwrap();
    assert_eq!((config.train.warmup.batch, config.train.warmup.epochs), (3, 4));
    let set = ["train.warmup={batch=5}".to_string(), "train.warmup.epochs=2".to_string()];
    let config = RunConfig::parse("[train.warmup]\nlog-every = 3", "x.toml", &set).unwrap();
    let warmup = &config.train.warmup;
    assert_eq!((warmup.batch, warmup.epochs, warmup.log_every), (5, 2, 3));
    let set = ["train.warmup.epochs=2".to_string(), "train.warmup={batch=5}".to_string()];
    let again = RunConfig::parse("[train.warmup]\nlog-every = 3", "x.toml", &set).unwrap();
    assert_eq!(again, config);
}

#[test]
fn all_violations_are_reported() {
    let mut config = RunConfig::default();
    config.index.behavior.k = 1;
    config.eval.beam = 0;
    config.train.adapter.target_modules = vec!["q_proj".into(), "query".into()];
    let error = config.check().unwrap_err().to_string();
    for named in ["index.behavior.k", "eval.beam", "train.adapter.target-modules names \"query\""] {
        assert!(error.contains(named), "{error}");
    }
}
