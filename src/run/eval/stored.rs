//! The rankings that a run folder keeps, of its models and of its baselines, as whoever looks at them finds them.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};

use super::baseline::BaselineRequest;
use super::baselines::{Baseline, folder};
use super::kept::Kept;
use super::request::EvalRequest;
use super::result::{BaselineSettings, EvalSettings, FusedModel, Ranking, TextReport};
use super::standing::{is_of_its_baseline, is_of_its_models, is_of_models_told, is_standing};
use crate::data::{Split, SplitRule};
use crate::eval::{LegalRate, Metrics, Prediction, Report};
use crate::run::{Manifest, Run};
use crate::{Error, Result, sealed};
use serde_json::{Value, json};

/// A kept ranking.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRanking {
    /// The result's file.
    pub path: PathBuf,
    /// What ranked.
    pub ranker: Ranker,
    /// What was ranked for whom: rankings of the same targets can be compared.
    pub targets: Targets,
    /// Where only the first so many targets were ranked.
    pub limit: Option<usize>,
    /// The seed of its model.
    pub seed: u64,
    /// The settings of a baseline.
    pub config: Value,
    /// Whether the models that stand are those that ranked.
    pub is_current: bool,
    /// Metrics and intervals.
    pub report: Report,
    /// The metrics of popularity, by rule.
    pub popularity: [Metrics; 2],
    /// How much of what is written without the trie names an item; of a language model.
    pub legal_rate: Option<LegalRate>,
}

/// What ranked the items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ranker {
    /// The language model of the run.
    Model {
        /// Whether the annealing adapter was on.
        adapter: bool,
        /// Beam width.
        beam: usize,
        /// The models that it ranked together with.
        fused: Vec<String>,
        /// The run whose model this is, where it is not the run's own.
        before: Option<String>,
    },
    /// A recommender of another kind.
    Baseline(Baseline),
}

/// What decides whether two rankings can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets {
    /// The split.
    pub split: Split,
    /// How the interactions are divided.
    pub rule: SplitRule,
    /// The dataset.
    pub dataset: String,
    /// The digest of its interactions.
    pub interactions_fingerprint: String,
    /// How many targets there are.
    pub count: usize,
    /// Items ranked.
    pub items: usize,
}

impl StoredRanking {
    /// The words that make it anew, after `llmbs`, where one model of the run ranked alone.
    pub fn command(&self) -> Option<String> {
        match &self.ranker {
            &Ranker::Model { adapter, beam, ref fused, before: None } if fused.is_empty() => {
                let (split, limit) = (self.targets.split, self.limit);
                let request = EvalRequest { split, adapter, beam, limit, fuse: &[], before: None };
                Some(request.command())
            }
            Ranker::Model { .. } => None,
            Ranker::Baseline(baseline) => {
                let request = BaselineRequest {
                    baseline: *baseline,
                    split: self.targets.split,
                    seed: self.seed,
                };
                Some(format!("{} --force", request.command()))
            }
        }
    }

    /// What was recommended, a line a target; `None` where these lines are not kept.
    ///
    /// # Errors
    /// Names a file that is cut off or altered.
    pub fn predictions(&self) -> Result<Option<Vec<Prediction>>> {
        let kept = Kept::at(&self.path);
        if kept.lines.exists() { kept.read_lines().map(Some) } else { Ok(None) }
    }

    fn of_model(dir: &Path, path: PathBuf) -> Result<Self> {
        let ranking: Ranking<EvalSettings> = read(&path)?;
        let settings = ranking.settings;
        let wrong = |e| Error::Invalid(format!("{}: {e}", path.display()));
        let used = serde_json::to_value(&settings).map_err(wrong)?;
        let is_current = match &settings.before {
            Some(told) => is_of_models_told(told, dir, &used)?,
            None => is_of_its_models(dir, dir, &used)?,
        };
        let fused = settings.fusion.map_or_else(Vec::new, |fusion| fusion.models);
        let standing = fused.iter().map(|model| is_standing(dir, model));
        let is_current =
            is_current && standing.collect::<Result<Vec<_>>>()?.into_iter().all(|is| is);
        Ok(Self {
            path,
            ranker: Ranker::Model {
                adapter: settings.adapter == "on",
                beam: settings.beam,
                fused: fused.iter().map(FusedModel::to_string).collect(),
                before: settings.before,
            },
            targets: Targets {
                split: settings.split,
                rule: settings.split_rule,
                dataset: settings.dataset,
                interactions_fingerprint: settings.interactions_fingerprint,
                count: settings.targets,
                items: settings.items,
            },
            limit: settings.limit,
            seed: settings.seed,
            config: Value::Null,
            is_current,
            report: ranking.report,
            popularity: [ranking.popularity, ranking.popularity_history_excluded],
            legal_rate: ranking.legal_rate,
        })
    }

    /// One in the folder `dir` of a trained baseline of the run `manifest`.
    fn of_baseline(
        baseline: Baseline,
        dir: &Path,
        path: PathBuf,
        manifest: &Manifest,
    ) -> Result<Self> {
        let ranking: Ranking<BaselineSettings> = read(&path)?;
        let settings = ranking.settings;
        let used = json!({"model_digest": settings.model_digest});
        let is_current = is_of_its_baseline(dir, Some(manifest), &used)?;
        Ok(Self {
            path,
            ranker: Ranker::Baseline(baseline),
            targets: Targets {
                split: settings.split,
                rule: settings.split_rule,
                dataset: settings.dataset,
                interactions_fingerprint: settings.interactions_fingerprint,
                count: settings.targets,
                items: settings.items,
            },
            limit: settings.limit,
            seed: settings.seed,
            config: settings.config,
            is_current,
            report: ranking.report,
            popularity: [ranking.popularity, ranking.popularity_history_excluded],
            legal_rate: None,
        })
    }
}

fn read<R: serde::de::DeserializeOwned>(path: &Path) -> Result<R> {
    sealed::read(path, "remove it and evaluate again")
}

impl Run {
    /// The rankings that the folder keeps: those of its models, the test split first and, of each split, the model
    /// alone, for all targets and with its adapter first; then those of its baselines, by seed.
    ///
    /// # Errors
    /// Names a result that is cut off or altered, or that another version wrote in a form of its own.
    pub fn stored_rankings(&self) -> Result<Vec<StoredRanking>> {
        let mut found = Vec::new();
        for path in names_in(&self.dir.join("eval"))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.extension().is_some_and(|e| e == "json") && !name.starts_with("text-") {
                found.push(StoredRanking::of_model(&self.dir, path)?);
            }
        }
        let usual = self.config.eval.beam;
        let place = |stored: &StoredRanking| {
            let Ranker::Model { adapter, beam, fused, before } = &stored.ranker else {
                return (false, false, Reverse(0), false, 0);
            };
            // The usual beam before wider and narrower ones.
            let beam = if *beam == usual { 0 } else { *beam };
            let targets = Reverse(stored.targets.count);
            (before.is_some(), !fused.is_empty(), targets, !adapter, beam)
        };
        found.sort_by_key(&place);
        for baseline in Baseline::ALL {
            let mut of_baseline = Vec::new();
            // One that is being replaced, or was when a process was killed, has another name meanwhile.
            let is_seed = |dir: &PathBuf| {
                let name = dir.file_name().and_then(|name| name.to_str()?.strip_prefix("seed-"));
                name.is_some_and(|seed| seed.parse::<u64>().is_ok())
            };
            for seed in names_in(&folder(&self.dir, baseline))?.into_iter().filter(is_seed) {
                for split in [Split::Test, Split::Valid] {
                    let path = Kept::new(&seed, &split.to_string()).result;
                    if path.exists() {
                        let manifest = self.manifest();
                        let stored = StoredRanking::of_baseline(baseline, &seed, path, manifest);
                        of_baseline.push(stored?);
                    }
                }
            }
            of_baseline.sort_by_key(|stored| stored.seed);
            found.extend(of_baseline);
        }
        // Stable: the order within a split stays.
        found.sort_by_key(|stored| stored.targets.split != Split::Test);
        Ok(found)
    }
}

impl Run {
    /// The text evaluations that the folder keeps of the models that stand, of each that of the most samples.
    ///
    /// # Errors
    /// Names a result that is cut off or altered, or that another version wrote in a form of its own.
    pub fn stored_texts(&self) -> Result<Vec<TextReport>> {
        let mut found: Vec<TextReport> = Vec::new();
        for path in names_in(&self.dir.join("eval"))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("text-") && path.extension().is_some_and(|e| e == "json") {
                let report: TextReport = read(&path)?;
                if report.settings.files == self.files_of(report.settings.model.made_by()) {
                    found.push(report);
                }
            }
        }
        found.sort_by_key(|of| (of.settings.model, Reverse(of.settings.limit)));
        found.dedup_by_key(|of| of.settings.model);
        Ok(found)
    }
}

/// What is in a folder, by name; nothing where there is none.
fn names_in(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(dir).map_err(Error::io(dir))?;
    let paths = entries.map(|entry| Ok(entry.map_err(Error::io(dir))?.path()));
    let mut paths: Vec<PathBuf> = paths.collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}
