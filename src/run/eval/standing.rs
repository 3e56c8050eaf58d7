//! Whether a result is that of what stands in a run folder now.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::baselines::{Baseline, folder};
use super::result::FusedModel;
use super::training::{TRAINING, Training};
use crate::Result;
use crate::run::{MANIFEST, Manifest, Stage};

/// Whether the models that stand in the run folder `models`, and the index in `index`, are those an evaluation was made
/// with.
pub(super) fn is_of_its_models(models: &Path, index: &Path, settings: &Value) -> Result<bool> {
    let (models, index) = (Manifest::of(models)?, Manifest::of(index)?);
    let files = [
        (index.as_ref(), Stage::Index, "index.json", "index_digest"),
        (models.as_ref(), Stage::Initial, "model.safetensors", "model_digest"),
        (models.as_ref(), Stage::Anneal, "adapter_model.safetensors", "adapter_digest"),
    ];
    Ok(files.into_iter().all(|(manifest, stage, file, key)| {
        // Without a manifest the evaluation alone was copied here.
        let (Some(used), Some(manifest)) = (settings[key].as_str(), manifest) else { return true };
        manifest.output(stage, file).is_some_and(|now| now == used)
    }))
}

/// Whether the baseline in the folder `dir` is still what an evaluation with these settings was made with: its model,
/// and the index of the run `manifest` where it writes that one's codes.
pub(super) fn is_of_its_baseline(
    dir: &Path,
    manifest: Option<&Manifest>,
    settings: &Value,
) -> Result<bool> {
    let path = dir.join(TRAINING);
    if !path.exists() {
        // The evaluation alone was copied here.
        return Ok(true);
    }
    let training = Training::read(&path)?;
    let is_model =
        settings["model_digest"].as_str().is_none_or(|used| used == training.model_sha256);
    Ok(is_model && manifest.is_none_or(|manifest| training.is_of_index(manifest)))
}

/// [`is_of_its_models`] of the run that an evaluation in the run folder `dir` calls `told`: as it was called from where
/// the evaluation was made, which may be here or any of the folders around.
pub(super) fn is_of_models_told(told: &str, dir: &Path, settings: &Value) -> Result<bool> {
    let are = places(told, dir, MANIFEST);
    let are = are.iter().map(|run| is_of_its_models(run, dir, settings));
    Ok(are.collect::<Result<Vec<_>>>()?.contains(&true))
}

/// The folders that one may be which is `told` of in `dir`: those that hold `file`, or all where none does.
fn places(told: &str, dir: &Path, file: &str) -> Vec<PathBuf> {
    let place = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let around = place.ancestors().map(|around| around.join(told));
    let mut places: Vec<PathBuf> = std::iter::once(told.into()).chain(around).collect();
    if places.iter().any(|place| place.join(file).exists()) {
        places.retain(|place| place.join(file).exists());
    }
    places
}

/// Whether what ranked as `fused` with the model of the run folder `dir` is still what stands in its folder, if anything
/// does: in the one that is told or, of a baseline of that run, in that of its name and seed.
pub(super) fn is_standing(dir: &Path, fused: &FusedModel) -> Result<bool> {
    let Some(baseline) = Baseline::named(&fused.model) else {
        let Some(run) = &fused.run else { return Ok(true) };
        let used = json!({"model_digest": fused.digest, "adapter_digest": fused.adapter_digest});
        return is_of_models_told(run, dir, &used);
    };
    let own = || vec![folder(dir, baseline).join(format!("seed-{}", fused.seed))];
    let places = fused.run.as_ref().map_or_else(own, |told| places(told, dir, TRAINING));
    let trained = places.iter().map(|place| place.join(TRAINING)).filter(|path| path.exists());
    let is = |path: PathBuf| -> Result<bool> {
        let training = Training::read(&path)?;
        let settings = fused.settings_digest.as_ref();
        Ok(training.model_sha256 == fused.digest
            && settings.is_none_or(|then| training.settings_digest().is_ok_and(|now| now == *then)))
    };
    let are = trained.map(is).collect::<Result<Vec<_>>>()?;
    Ok(are.is_empty() || are.contains(&true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RunConfig;
    use crate::data::Dataset;
    use crate::run::Record;

    /// Leaves in `dir` what the training of a baseline tells.
    fn trained(dir: &Path, settings: &Value, model: &str) {
        let training = json!({
            "settings": settings, "dataset": "shop", "dataset_fingerprint": "", "program": "", "machine": "",
            "seconds": 1.0, "peak_memory_bytes": 1, "targets": 1, "best_epoch": 1, "epochs": [],
            "model_sha256": model,
        });
        crate::sealed::write(&dir.join(TRAINING), &training).unwrap();
    }

    #[test]
    fn what_neighbours_said_before_they_gave_probabilities_stands_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let is = |name: &str, settings: Value| {
            let place = dir.path().join("baseline").join(name).join("seed-1");
            std::fs::create_dir_all(&place).unwrap();
            trained(&place, &settings, "m");
            let fused = FusedModel {
                model: name.into(),
                run: None,
                seed: 1,
                digest: "m".into(),
                settings_digest: Some(crate::files::digest_of(settings.to_string().as_bytes())),
                adapter_digest: None,
            };
            is_standing(dir.path(), &fused).unwrap()
        };
        assert!(is("sasrec", json!({"baseline.sasrec.dim": 8})));
        assert!(!is("item-knn", json!({"baseline.item-knn.decay": 1.0})));
    }

    #[test]
    fn a_baseline_is_that_of_its_model_and_of_the_index_that_it_reads() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest =
            Manifest::begun(&RunConfig::default(), &Dataset::of_items("shop", Vec::new()));
        let mut index = |digest: &str| {
            let outputs = [("index/index.json".to_string(), digest.to_string())].into();
            manifest.stages.insert(Stage::Index, Record { outputs, ..Record::default() });
            manifest.clone()
        };
        let is = |manifest: Option<&Manifest>, model: &str| {
            is_of_its_baseline(dir.path(), manifest, &json!({"model_digest": model})).unwrap()
        };
        let (one, another) = (index("one"), index("another"));
        assert!(is(Some(&one), "m"), "nothing but the result is there");
        for (reads, settings) in [(true, json!({"index/index.json": "one"})), (false, json!({}))] {
            trained(dir.path(), &settings, "m");
            assert!(is(Some(&one), "m") && is(None, "m") && !is(Some(&one), "another"));
            assert_eq!(is(Some(&another), "m"), !reads);
        }
    }

    #[test]
    fn a_baseline_is_that_of_the_folder_that_was_told() {
        let dir = tempfile::tempdir().unwrap();
        let (own, elsewhere) = (dir.path().join("own"), dir.path().join("elsewhere"));
        for (run, model) in [(&own, "m"), (&elsewhere, "n")] {
            let place = run.join("baseline/sasrec/seed-1");
            std::fs::create_dir_all(&place).unwrap();
            trained(&place, &json!({}), model);
        }
        let is = |told: Option<&Path>, digest: &str| {
            let fused = FusedModel {
                model: "sasrec".into(),
                run: told.map(|told| told.join("baseline/sasrec/seed-1").display().to_string()),
                seed: 1,
                digest: digest.into(),
                settings_digest: None,
                adapter_digest: None,
            };
            is_standing(&own, &fused).unwrap()
        };
        assert!(is(None, "m") && !is(None, "n"));
        for told in [elsewhere.as_path(), Path::new("elsewhere")] {
            assert!(is(Some(told), "n") && !is(Some(told), "m"), "{}", told.display());
        }
        assert!(is(Some(Path::new("gone")), "n"), "the evaluation alone was copied here");
    }

    #[test]
    fn a_run_is_found_from_wherever_it_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().canonicalize().unwrap().join("runs");
        // What lies nearer and is called the same is another.
        for name in ["one", "two", "one/two"] {
            let mut manifest =
                Manifest::begun(&RunConfig::default(), &Dataset::of_items("shop", Vec::new()));
            let outputs = [("initial/model.safetensors".to_string(), format!("of {name}"))].into();
            manifest.stages.insert(Stage::Initial, Record { outputs, ..Record::default() });
            std::fs::create_dir_all(runs.join(name)).unwrap();
            manifest.write(&runs.join(name)).unwrap();
        }
        let is = |told: &str, model: &str| {
            is_of_models_told(told, &runs.join("one"), &json!({"model_digest": model})).unwrap()
        };
        for told in ["runs/two", "two", &runs.join("two").display().to_string()] {
            assert!(is(told, "of two") && !is(told, "another"), "{told}");
        }
        // From where `.` is the other, here is one of that name.
        assert!(is(".", "of one"));
        assert!(is("three", "another"), "the evaluation alone was copied here");
    }

    #[test]
    fn a_result_is_that_of_an_index_and_a_model() {
        let dir = tempfile::tempdir().unwrap();
        let used = json!({"index_digest": "i", "model_digest": "m", "adapter_digest": null});
        let is = |settings: &Value| is_of_its_models(dir.path(), dir.path(), settings).unwrap();
        assert!(is(&used), "nothing but the result is there");
        let dataset = Dataset::of_items("shop", Vec::new());
        let mut manifest = Manifest::begun(&RunConfig::default(), &dataset);
        let mut put = |stage: Stage, file: &str, digest: &str| {
            let outputs = [(file.to_string(), digest.to_string())].into();
            manifest.stages.insert(stage, Record { outputs, ..Record::default() });
            manifest.write(dir.path()).unwrap();
        };
        put(Stage::Index, "index/index.json", "i");
        assert!(!is(&used));
        put(Stage::Initial, "initial/model.safetensors", "m");
        assert!(is(&used));
        assert!(!is(&json!({"model_digest": "m", "adapter_digest": "a"})));
        put(Stage::Index, "index/index.json", "another");
        assert!(!is(&used));
        let fused = |run: Option<&Path>, digest: &str| {
            let fused = FusedModel {
                model: "llmbs".into(),
                run: run.map(|run| run.display().to_string()),
                seed: 1,
                digest: digest.into(),
                settings_digest: None,
                adapter_digest: None,
            };
            is_standing(Path::new("elsewhere"), &fused).unwrap()
        };
        assert!(fused(Some(dir.path()), "m") && !fused(Some(dir.path()), "another"));
        assert!(fused(None, "another"), "an older result does not say where it was");
        // Of another run's model beside an index from elsewhere.
        let nowhere = dir.path().join("nowhere");
        assert!(is_of_its_models(dir.path(), &nowhere, &used).unwrap());
        assert!(!is_of_its_models(&nowhere, dir.path(), &used).unwrap());
    }
}
