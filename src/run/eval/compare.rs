//! Two runs compared, user by user.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::EvalRequest;
use super::baseline::{self, BaselineRequest, made_in};
use super::kept::Kept;
use super::standing::{is_of_its_baseline, is_of_its_models};
use super::training::is_baseline;
use crate::eval::{self, Difference, PERMUTATIONS, PerMetric, Prediction};
use crate::run::{MANIFEST, Manifest, Run, Stage};
use crate::{Error, Result, invalid};

/// Settings that say in which words a model was asked.
const WORDS: [&str; 2] = ["instruction", "template"];

/// An evaluation of this run beside the same of another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The folder of the other run.
    pub other_run: PathBuf,
    /// How many targets both were evaluated on.
    pub targets: usize,
    /// How often the two models changed places in the test.
    pub permutations: usize,
    /// Each metric of both, all items ranked.
    pub metrics: PerMetric<Difference>,
    /// The same, items that a user has taken before left out.
    pub metrics_history_excluded: PerMetric<Difference>,
    /// What differs between the settings, by key: `[this, other]`, null where one of them has none.
    pub settings: Map<String, Value>,
}

impl Run {
    /// Refuses where the run folder `other` has no such evaluation, or one that this run's cannot be
    /// compared with.
    ///
    /// # Errors
    /// Names what is missing and the command that makes it, or the setting that differs.
    pub fn check_comparable(&self, request: EvalRequest<'_>, other: &Path) -> Result<()> {
        self.other_settings(request, other).map(|_| ())
    }

    /// Compares an evaluation of this run, which has been made, with the same of the run in `other`, where its
    /// model ranks alone, or with that of the baseline in `other`.
    pub fn compare(&self, request: EvalRequest<'_>, other: &Path) -> Result<Comparison> {
        let (this_settings, other_settings) = self.other_settings(request, other)?;
        let this: Vec<Prediction> = request.kept(&self.dir).read_lines()?;
        let others: Vec<Prediction> = self.kept_of(request, other)?.read_lines()?;
        let compared = |rank: fn(&Prediction) -> Option<usize>| {
            eval::compare(&[&this], &[&others], rank, self.config.seed).map_err(|e| {
                let (this, other) = (self.dir.display(), other.display());
                Error::Invalid(format!("{this} and {other} cannot be compared: {e}"))
            })
        };
        let metrics = compared(Prediction::rank)?;
        let metrics_history_excluded = compared(|p| p.rank_history_excluded)?;
        let mut settings = Map::new();
        let both = [&this_settings, &other_settings];
        for key in both.into_iter().filter_map(Value::as_object).flat_map(Map::keys) {
            let (mine, theirs) = (&this_settings[key], &other_settings[key]);
            // An older version told of the words in another way, and of those of a model before nothing is told.
            let is_told = !WORDS.contains(&key.as_str()) || !(mine.is_null() || theirs.is_null());
            if theirs != mine && is_told {
                settings.insert(key.clone(), json!([mine, theirs]));
            }
        }
        let (targets, permutations) = (this.len(), PERMUTATIONS);
        Ok(Comparison {
            other_run: other.to_path_buf(),
            targets,
            permutations,
            metrics,
            metrics_history_excluded,
            settings,
        })
    }

    /// The same evaluation of the model in `other`, where it is that of the run that this one goes on from: made here,
    /// with the users and items that are here.
    ///
    /// # Errors
    /// If `other` cannot be read.
    pub fn before<'b>(
        &self,
        request: EvalRequest<'b>,
        other: &'b Path,
    ) -> Result<Option<EvalRequest<'b>>> {
        let before = EvalRequest { fuse: &[], adapter: false, before: Some(other), ..request };
        Ok(self.goes_on_from(other)?.then_some(before))
    }

    /// Where the same evaluation of another run stands, of its model alone, or of a baseline in its own folder.
    fn kept_of(&self, request: EvalRequest<'_>, other: &Path) -> Result<Kept> {
        if is_baseline(other) {
            return Ok(baseline::kept(other, request.split));
        }
        Ok(match self.before(request, other)? {
            Some(before) => before.kept(&self.dir),
            None => of_other(request, other)?.kept(other),
        })
    }

    /// The settings of both evaluations.
    fn other_settings(&self, request: EvalRequest<'_>, other: &Path) -> Result<(Value, Value)> {
        let kept = self.kept_of(request, other)?;
        let others = self.others(request)?;
        let mine = self.eval_settings(EvalRequest { fuse: &[], ..request }, others.settings(self));
        let mine = serde_json::to_value(mine).map_err(|e| Error::Invalid(e.to_string()))?;
        let request = of_other(request, other)?;
        let command = request.command();
        let dir = other.display();
        let is_there = kept.result.exists() && kept.lines.exists();
        if is_baseline(other) && !is_there {
            let (asked, _) = made_in(other)?;
            let asked = BaselineRequest { split: request.split, ..asked };
            invalid!(
                "{dir}: there is no evaluation of the {} split to compare with: run `llmbs --run {} {}` first",
                asked.split,
                run_around(other).display(),
                asked.command()
            );
        }
        if !is_there {
            invalid!(
                "{dir}: there is no evaluation {} to compare with: run `llmbs --run {dir} {command}` \
                 first",
                request.name()
            );
        }
        let found = kept.read()?;
        let theirs = found["settings"].clone();
        if theirs["interactions_fingerprint"].is_null() {
            invalid!(
                "{dir}: its evaluation {} is of an older version of this program: run `llmbs --run {dir} {command} \
                 --force` first",
                request.name()
            );
        }
        for (key, what) in [
            ("split_rule", "division of the data"),
            ("interactions_fingerprint", "dataset"),
            ("split", "split"),
            ("targets", "number of targets"),
        ] {
            if theirs[key] != mine[key] {
                invalid!(
                    "{dir}: its {what} is not this run's ({key} is {} there, {} here): only \
                     evaluations of the same targets of one dataset by the same rules can be compared",
                    theirs[key],
                    mine[key]
                );
            }
        }
        if is_baseline(other) {
            check_baseline(other, &theirs)?;
            return Ok((mine, theirs));
        }
        let index = if theirs["before"].is_null() { other } else { &self.dir };
        if !is_of_its_models(other, index, &theirs)? {
            invalid!(
                "{dir}: its models were made again after the evaluation {}, {MANIFEST} there says: run `llmbs \
                 --run {dir} {command}` first",
                request.name()
            );
        }
        Ok((mine, theirs))
    }
}

/// What of `request` is asked of the model in `other`: its adapter where it has one, and nobody beside it.
fn of_other<'e>(request: EvalRequest<'e>, other: &Path) -> Result<EvalRequest<'e>> {
    let manifest = Manifest::of(other)?;
    let has_adapter = manifest.is_none_or(|run| run.done(Stage::Anneal).is_some());
    Ok(EvalRequest { fuse: &[], adapter: request.adapter && has_adapter, ..request })
}

/// Refuses the evaluation with the settings `of` of the baseline in `dir` where model or index was made again since.
fn check_baseline(dir: &Path, of: &Value) -> Result<()> {
    let run = run_around(dir);
    if is_of_its_baseline(dir, Manifest::of(&run)?.as_ref(), of)? {
        return Ok(());
    }
    invalid!(
        "{}: its model or its index was made again after this evaluation: run `llmbs --run {} baseline {} --seeds {} \
         --split {} --force` first",
        dir.display(),
        run.display(),
        of["model"].as_str().unwrap_or("NAME"),
        of["seed"],
        of["split"].as_str().unwrap_or("SPLIT")
    )
}

/// The run folder that the folder of a baseline lies in, however that is named.
fn run_around(baseline: &Path) -> PathBuf {
    let around = |path: &Path| path.ancestors().nth(3).map(PathBuf::from);
    let is_run = |dir: &PathBuf| *dir != PathBuf::new() && dir.join(MANIFEST).exists();
    let named = around(baseline);
    let whole = || around(&baseline.canonicalize().ok()?).filter(is_run);
    named.clone().filter(is_run).or_else(whole).or(named).unwrap_or_else(|| baseline.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RunConfig;
    use crate::data::{Dataset, Split};
    use crate::run::{Record, Status};

    #[test]
    fn a_run_without_an_adapter_is_compared_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest =
            Manifest::begun(&RunConfig::default(), &Dataset::of_items("shop", Vec::new()));
        let fuse = [PathBuf::from("another")];
        let asked = EvalRequest {
            split: Split::Test,
            adapter: true,
            beam: 20,
            limit: None,
            fuse: &fuse,
            before: None,
        };
        // None, one of a model that was redone since, one.
        for status in [None, Some(Status::Stale), Some(Status::Done)] {
            let has_adapter = status == Some(Status::Done);
            if let Some(status) = status {
                let record = Record { status, ..Record::default() };
                manifest.stages.insert(Stage::Anneal, record);
            }
            manifest.write(dir.path()).unwrap();
            let of = of_other(asked, dir.path()).unwrap();
            assert_eq!((of.adapter, of.fuse.len(), of.beam), (has_adapter, 0, 20));
        }
    }
}
