//! Recommenders of another kind, trained on the same items and evaluated by the same metrics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Device;
use serde_json::{Value, json};

use super::baselines::{Baseline, Inputs, Network, TrainedBaseline, folder};
use super::journal::Journal;
use super::kept::Kept;
use super::means::forget_means;
use super::result::{BaselineSettings, Bootstrap, EvalResult, Ranking, TrainingSummary};
use super::training::{INDEX, TRAINING, Training, index_key, is_baseline};
use crate::data::Split;
use crate::embed::Around;
use crate::eval::{ItemScorer, evaluate_scores, metrics_by_scores};
use crate::index::ItemIndex;
use crate::model::sequential::Sequential;
use crate::model::{load_safetensors, save_safetensors};
use crate::ranks::Ranks;
use crate::run::artifacts::load_index;
use crate::run::manifest::{differences, settings_under};
use crate::run::monitor::{epochs, with_epochs, with_progress};
use crate::run::unfinished::{UNFINISHED, forget, kept_for};
use crate::run::work::Work;
use crate::run::{GIT_REVISION, Monitor, Run, Stage, peak_memory_bytes};
use crate::{Result, files, invalid, sealed};

/// The figure on the validation split that the best epoch is chosen by.
const VALIDATION: &str = "ndcg@10";

/// What to train and to evaluate.
#[derive(Debug, Clone, Copy)]
pub struct BaselineRequest {
    /// The recommender.
    pub baseline: Baseline,
    /// The split it is evaluated on.
    pub split: Split,
    /// The seed it is trained with.
    pub seed: u64,
}

impl BaselineRequest {
    /// The words that ask for it, after `llmbs`.
    pub(super) fn command(self) -> String {
        let Self { baseline, split, seed } = self;
        format!("baseline {} --seeds {seed} --split {split}", baseline.name())
    }

    /// Where the model and its results stand in the run folder `dir`.
    pub fn folder(self, dir: &Path) -> PathBuf {
        folder(dir, self.baseline).join(format!("seed-{}", self.seed))
    }
}

impl Run {
    /// Trains a baseline and evaluates it on a split; what is there already is kept, unless `force` is set.
    ///
    /// It is trained on what the split leaves for training, and its best epoch chosen on the validation split. The
    /// folder `baseline/NAME/seed-N` holds the model, how it came about, and its results.
    ///
    /// # Errors
    /// Names the settings that differ from those of a model that is there.
    pub fn baseline(
        &self,
        request: BaselineRequest,
        force: bool,
        monitor: &mut dyn Monitor,
    ) -> Result<EvalResult<Ranking<BaselineSettings>>> {
        let dir = request.folder(&self.dir);
        let workshop = self.baseline_workshop(request);
        let found = if force { None } else { self.found_training(request, &dir)? };
        if let Some(training) = found {
            // Left by a process that was killed when all was in its place; not what one is at that redoes it.
            let replaced = files::replaced(&dir);
            let is_left = workshop.exists() || replaced.exists();
            if is_left && self.claim().is_ok() {
                files::remove_dir(&replaced)?;
                forget(&workshop)?;
            }
            return self.evaluate_standing(request, &dir, training, monitor);
        }
        self.claim()?;
        self.ensure_config()?;
        // What stands is replaced when model and result are there.
        let new = workshop.join("result");
        let (scorer, training) = self.train_baseline(request, &workshop, &new, monitor)?;
        let kept = kept(&new, request.split);
        let mut result = self.evaluate_baseline(request, &*scorer, training, kept, monitor)?;
        forget_means(&self.dir, request.baseline, request.seed)?;
        files::exchange_dir(&new, &dir)?;
        forget(&workshop)?;
        result.path = dir.join(format!("{}.json", request.split));
        Ok(result)
    }

    /// Refuses a baseline that this run's data do not allow.
    ///
    /// # Errors
    /// Names what the dataset lacks, or the stage that has to run first.
    pub fn check_baseline(&self, baseline: Baseline) -> Result<()> {
        if baseline.reads_index() {
            self.require(Stage::Index)?;
        }
        baseline.check(&self.dataset)
    }

    /// The folder of a trained baseline that is `told` of: where there is no folder called so and it is the name of a
    /// baseline, that of this run with the run's seed.
    pub fn baseline_told(&self, told: &Path) -> PathBuf {
        let named = told.to_str().filter(|_| !told.is_dir()).and_then(Baseline::named);
        named.map_or_else(
            || told.into(),
            |baseline| {
                let seed = self.config.seed;
                BaselineRequest { baseline, split: Split::Test, seed }.folder(&self.dir)
            },
        )
    }

    /// Refuses a baseline that stands in the run folder and is not what [`Run::baseline`] would make.
    ///
    /// # Errors
    /// Names the settings that differ.
    pub fn check_standing_baseline(&self, request: BaselineRequest) -> Result<()> {
        self.found_training(request, &request.folder(&self.dir)).map(drop)
    }

    /// The index, for a baseline that reads it.
    fn index_for(&self, baseline: Baseline) -> Result<Option<ItemIndex>> {
        if !baseline.reads_index() {
            return Ok(None);
        }
        self.require(Stage::Index)?;
        load_index(self).map(Some)
    }

    fn baseline_inputs<'a>(&'a self, index: Option<&'a ItemIndex>) -> Inputs<'a> {
        Inputs { config: &self.config.baseline, dataset: &self.dataset, index }
    }

    /// Where a baseline is made.
    fn baseline_workshop(&self, request: BaselineRequest) -> PathBuf {
        let BaselineRequest { baseline, seed, .. } = request;
        self.dir.join(UNFINISHED).join(format!("baseline-{}-seed-{seed}", baseline.name()))
    }

    /// The evaluation of the baseline that stands in `dir`, which one process makes at a time.
    fn evaluate_standing(
        &self,
        request: BaselineRequest,
        dir: &Path,
        training: Training,
        monitor: &mut dyn Monitor,
    ) -> Result<EvalResult<Ranking<BaselineSettings>>> {
        let BaselineRequest { baseline, split, seed } = request;
        let scorer = self.load_baseline(request, dir, &training)?;
        let name = format!("baseline-{}-seed-{seed}-{split}", baseline.name());
        let targets = self.protocol(split).targets(&self.dataset);
        let settings = self.baseline_settings(request, &training, targets);
        if let Some(found) = kept(dir, split).find(&settings, false)? {
            Journal::<()>::forget(self, &name)?;
            return Ok(found);
        }
        // It notes nothing: it is there to be held.
        let (journal, _) = Journal::<()>::open(self, &name, &settings)?;
        // Whoever held it before may have made this result: it is looked for again.
        let kept = kept(dir, split);
        let result = self.evaluate_baseline(request, &*scorer, training, kept, monitor)?;
        journal.close()?;
        Ok(result)
    }

    /// The evaluation of a trained baseline, which is `kept`.
    fn evaluate_baseline(
        &self,
        request: BaselineRequest,
        scorer: &dyn ItemScorer,
        training: Training,
        kept: Kept,
        monitor: &mut dyn Monitor,
    ) -> Result<EvalResult<Ranking<BaselineSettings>>> {
        let (split, protocol) = (request.split, self.protocol(request.split));
        let targets: Vec<usize> = (0..protocol.targets(&self.dataset)).collect();
        let settings = self.baseline_settings(request, &training, targets.len());
        if let Some(found) = kept.find(&settings, false)? {
            return Ok(found);
        }
        let start = Instant::now();
        let what = format!("evaluate {} {split}", request.baseline.name());
        let evaluation = with_progress(monitor, &what, targets.len(), |on_batch| {
            evaluate_scores(scorer, &self.dataset, &targets, protocol, on_batch)
        })?;
        let seconds = start.elapsed().as_secs_f64();
        let ranking =
            self.ranking(&evaluation, &targets, protocol, (settings, request.seed), seconds);
        let training = TrainingSummary {
            best_epoch: training.best_epoch,
            epochs: training.epochs.as_array().map_or(0, Vec::len),
            targets: training.targets,
            seconds: training.seconds,
            machine: training.machine,
            program: training.program,
        };
        let ranking = Ranking { training: Some(training), ..ranking };
        kept.write(ranking, &evaluation.predictions)
    }

    /// The baseline that stands in `dir`, and how it came about.
    pub(super) fn trained_in(&self, dir: &Path) -> Result<(BaselineRequest, Training)> {
        let (request, training) = made_in(dir)?;
        self.check_training(request, dir, &training)?;
        Ok((request, training))
    }

    /// The baseline in the folder `dir`, which was trained on these data with this run's settings.
    pub(in crate::run) fn baseline_in(&self, dir: &Path) -> Result<Box<dyn ItemScorer>> {
        if !is_baseline(dir) {
            invalid!(
                "{}: is no folder of a trained baseline; name one as runs/NAME/baseline/sasrec/seed-1, which `llmbs \
                 baseline sasrec` makes",
                dir.display()
            );
        }
        let (request, training) = self.trained_in(dir)?;
        self.load_baseline(request, dir, &training)
    }

    /// The settings that decide what training makes.
    fn training_settings(&self, request: BaselineRequest) -> Result<BTreeMap<String, Value>> {
        let own = format!("baseline.{}.", request.baseline.name());
        let own = ["data.", &own];
        let mut settings = settings_under(&own, &self.config)?;
        settings.insert("seed".into(), request.seed.into());
        if request.baseline.reads_index() {
            let digest = self.manifest.output(Stage::Index, INDEX);
            settings.insert(index_key(), digest.into());
        }
        Ok(settings)
    }

    /// How the model that stands in `dir` came about, if there is one.
    fn found_training(&self, request: BaselineRequest, dir: &Path) -> Result<Option<Training>> {
        let path = dir.join(TRAINING);
        if !path.exists() {
            return Ok(None);
        }
        let found = Training::read(&path)?;
        self.check_training(request, dir, &found)?;
        Ok(Some(found))
    }

    /// Refuses a model, in `dir`, of other settings or data than this run's.
    fn check_training(&self, request: BaselineRequest, dir: &Path, found: &Training) -> Result<()> {
        let mut differ = differences(&found.settings, &self.training_settings(request)?);
        if found.dataset_fingerprint != self.dataset.fingerprint {
            differ.push("the dataset has changed since".into());
        }
        if differ.is_empty() {
            return Ok(());
        }
        invalid!(
            "{}: the model was made with other settings or inputs: {}; undo that, choose another \
             folder with --run, or redo it with `llmbs baseline {} --force`",
            dir.join(TRAINING).display(),
            differ.join("; "),
            request.baseline.name()
        );
    }

    pub(super) fn load_baseline(
        &self,
        request: BaselineRequest,
        dir: &Path,
        training: &Training,
    ) -> Result<Box<dyn ItemScorer>> {
        let path = model_in(request, dir, training)?;
        let index = self.index_for(request.baseline)?;
        request.baseline.load(self.baseline_inputs(index.as_ref()), &path)
    }

    /// How many items of a history a baseline reads that scores all items.
    ///
    /// # Errors
    /// A dataset that lacks what it reads.
    pub(in crate::run) fn reads(&self, baseline: Baseline) -> Result<usize> {
        Ok(baseline.scoring(self.baseline_inputs(None))?.history())
    }

    /// The network of the baseline of the run's seed, which stands in the run folder.
    pub(in crate::run) fn network_of(&self, baseline: Baseline) -> Result<Box<dyn Sequential>> {
        let request = BaselineRequest { baseline, split: Split::Valid, seed: self.config.seed };
        let dir = request.folder(&self.dir);
        match self.found_training(request, &dir)? {
            Some(training) => {
                let network = baseline.scoring(self.baseline_inputs(None))?;
                let path = model_in(request, &dir, &training)?;
                network.set_weights(&load_safetensors(path, &Device::Cpu)?)?;
                Ok(network)
            }
            None => invalid!("{}: is gone; give the command again", dir.display()),
        }
    }

    /// Trains a baseline into the folder `new`.
    fn train_baseline(
        &self,
        request: BaselineRequest,
        workshop: &Path,
        new: &Path,
        monitor: &mut dyn Monitor,
    ) -> Result<(Box<dyn ItemScorer>, Training)> {
        let start = Instant::now();
        let index = self.index_for(request.baseline)?;
        let inputs = self.baseline_inputs(index.as_ref());
        let settings = self.training_settings(request)?;
        let what = format!("train {} with seed {}", request.baseline.name(), request.seed);
        let key = json!([settings, self.dataset.fingerprint]);
        let state = kept_for(workshop, &key)?;
        let (baseline, seed) = (request.baseline, request.seed);
        let network = baseline.network(inputs, seed)?;
        let epochs_at_most = match &network {
            Some(network) => self.afford_baseline(baseline, network)?,
            None => 0,
        };
        let shared = network.is_some();
        let train = || {
            with_epochs(monitor, &what, epochs_at_most, VALIDATION, |progress| {
                let settings = &baseline.settings();
                let around = Around { ranks: self.ranks, settings, state: Some(&state), progress };
                self.train_network(baseline, network, inputs, seed, around)
            })
        };
        let trained = if shared {
            let name = baseline.name().into();
            self.together(Work::Baseline { name, seed, state: state.clone() }, train)?
        } else {
            train()?
        };
        let TrainedBaseline { scorer, weights, targets, best_epoch, reports } = trained;
        files::remove_dir(new)?;
        files::make_dir(new)?;
        let model = new.join("model.safetensors");
        save_safetensors(&model, &weights)?;
        let training = Training {
            settings,
            dataset: self.dataset.name.clone(),
            dataset_fingerprint: self.dataset.fingerprint.clone(),
            program: format!("llmbs {} ({GIT_REVISION})", env!("CARGO_PKG_VERSION")),
            machine: self.machine(),
            seconds: start.elapsed().as_secs_f64(),
            peak_memory_bytes: peak_memory_bytes(),
            targets,
            best_epoch,
            epochs: epochs(&reports, &format!("validation_{VALIDATION}")),
            model_sha256: files::digest(&model)?,
        };
        sealed::write(&new.join(TRAINING), &training)?;
        Ok((scorer, training))
    }

    /// Trains a baseline with rank 0, which keeps its state in the folder `state`.
    pub(in crate::run) fn help_baseline(&self, name: &str, seed: u64, state: &Path) -> Result<()> {
        let Some(baseline) = Baseline::named(name) else {
            invalid!("rank 0 trains {name}, which this program does not know");
        };
        let index = self.index_for(baseline)?;
        let inputs = self.baseline_inputs(index.as_ref());
        let network = baseline.network(inputs, seed)?;
        let (ranks, settings) = (self.ranks, &baseline.settings());
        let around = Around { ranks, settings, state: Some(state), progress: &mut |_| () };
        self.train_network(baseline, network, inputs, seed, around).map(drop)
    }

    /// Trains a baseline's network; the validation split tells its epochs apart.
    fn train_network(
        &self,
        baseline: Baseline,
        network: Option<Network>,
        inputs: Inputs<'_>,
        seed: u64,
        mut around: Around<'_>,
    ) -> Result<TrainedBaseline> {
        let ranks = around.ranks;
        let mut measure = |scorer: &dyn ItemScorer| self.validation_figure(scorer, ranks);
        baseline.train(network, inputs, seed, &mut measure, &mut around)
    }

    /// Refuses a training that memory or disk do not allow; gives its epochs at most.
    fn afford_baseline(&self, baseline: Baseline, network: &Network) -> Result<usize> {
        let sequences: Vec<&[u32]> = self.dataset.train_sequences().collect();
        let what = format!("the training of {}", baseline.settings());
        self.afford(&what, network.bytes(baseline.name(), &sequences)?.into(), 0)?;
        Ok(network.epochs())
    }

    /// The figure on the validation split, over all users, of which each of `ranks` scores its part.
    fn validation_figure(&self, scorer: &dyn ItemScorer, ranks: &dyn Ranks) -> Result<Option<f64>> {
        let protocol = self.protocol(Split::Valid);
        let all = protocol.targets(&self.dataset);
        let own: Vec<usize> = ranks.part_of((0..all).map(|_| 1)).collect();
        let metrics = metrics_by_scores(scorer, &self.dataset, &own, protocol)?;
        let figure = metrics.get(VALIDATION).copied().unwrap_or(0.0);
        let sum = ranks.sums(&[figure * own.len() as f64])[0];
        Ok((all > 0).then(|| sum / all as f64))
    }

    /// What decides a baseline's result.
    fn baseline_settings(
        &self,
        request: BaselineRequest,
        training: &Training,
        targets: usize,
    ) -> BaselineSettings {
        let (search, exhaustive) = request.baseline.search(&self.baseline_inputs(None));
        BaselineSettings {
            model: request.baseline.name().into(),
            split: request.split,
            split_rule: self.dataset.split_rule(),
            targets,
            limit: None,
            history: self.config.data.history,
            search,
            exhaustive,
            score: request.baseline.score().into(),
            ties: "smaller item id".into(),
            bootstrap: Bootstrap::USED,
            items: self.dataset.catalogue().count(),
            seed: request.seed,
            dataset: self.dataset.name.clone(),
            dataset_fingerprint: self.dataset.fingerprint.clone(),
            interactions_fingerprint: self.dataset.interactions_fingerprint.clone(),
            config: request.baseline.told(&self.config.baseline),
            validation: format!("{VALIDATION} of all users chose the epoch"),
            model_digest: training.model_sha256.clone(),
            git_revision: GIT_REVISION.into(),
        }
    }
}

/// Where the result of a split stands in a baseline's folder.
pub(super) fn kept(dir: &Path, split: Split) -> Kept {
    Kept::new(dir, &split.to_string())
}

/// The file of the model in `dir`, which is the one that was trained.
fn model_in(request: BaselineRequest, dir: &Path, training: &Training) -> Result<PathBuf> {
    let path = dir.join("model.safetensors");
    // One that is gone has no digest.
    if files::digest(&path).ok().as_ref() != Some(&training.model_sha256) {
        invalid!(
            "{}: gone, or not the model that was trained, whose SHA-256 is in {TRAINING}; put \
             the file back, or redo it with `llmbs baseline {} --force`",
            path.display(),
            request.baseline.name()
        );
    }
    Ok(path)
}

/// The baseline in the folder `dir`, with whatever settings and of whatever data it was trained.
pub(super) fn made_in(dir: &Path) -> Result<(BaselineRequest, Training)> {
    let path = dir.join(TRAINING);
    let training = Training::read(&path)?;
    let Some(seed) = training.settings.get("seed").and_then(Value::as_u64) else {
        invalid!(
            "{}: tells no seed; redo the baseline with `llmbs baseline NAME --force`",
            path.display()
        );
    };
    let Some(baseline) = training.baseline() else {
        invalid!("{}: is of no baseline that is known here", path.display());
    };
    let request = BaselineRequest { baseline, split: Split::Valid, seed };
    Ok((request, training))
}
