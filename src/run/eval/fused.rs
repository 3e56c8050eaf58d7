//! What ranks together with a run's model: the models of other runs, and baselines.

use std::path::{Path, PathBuf};

use super::baseline::BaselineRequest;
use super::baselines::Baseline;
use super::generator::Generator;
use super::journal::Searches;
use super::kept::decisive;
use super::request::{EvalRequest, told};
use super::result::{EvalSettings, FusedModel, FusionSettings};
use super::training::{Training, is_baseline};
use crate::config::RunConfig;
use crate::data::Split;
use crate::decode::Found;
use crate::eval::{Evaluation, Fusion, ItemScorer, Recommender, scoring_bytes};
use crate::run::{MANIFEST, Monitor, Run, Stage, config_of};
use crate::{Error, Result, invalid};

/// How what ranks together scores an item.
pub(super) const SCORE: &str = "logarithm of the weighted mean of the models' probabilities and of the baselines' \
                                geometric mean";

/// The models beside that of a run.
pub(super) struct Others<'a> {
    baselines: Vec<(&'a Path, BaselineRequest, Training)>,
    runs: Vec<Run>,
    models: Vec<FusedModel>,
}

/// What models say together.
pub(super) struct Together {
    pub(super) evaluation: Evaluation,
    /// The weight of the baselines, where there are some.
    pub(super) weight: Option<f64>,
}

impl Others<'_> {
    /// What decides how they rank with the model of `run`; nothing, where there are none.
    pub(super) fn settings(&self, run: &Run) -> Option<FusionSettings> {
        let metric = &run.config.train.validation.metric;
        let chosen = format!("{metric} of all users of the validation split chose it");
        (!self.models.is_empty()).then(|| FusionSettings {
            weight: (!self.baselines.is_empty()).then_some(chosen),
            models: self.models.clone(),
        })
    }

    /// The models of the runs.
    pub(super) fn load(&self, request: EvalRequest<'_>) -> Result<Vec<Generator>> {
        let load = |other: &Run| Generator::load(other, request.adapter && other.has_adapter());
        self.runs.iter().map(load).collect()
    }

    /// How many lists are kept of an evaluation of so many `targets` of `run`: those of each model, and where a weight is
    /// chosen, all of validation, too.
    pub(super) fn lists(&self, run: &Run, targets: usize) -> usize {
        let chooses = !self.baselines.is_empty();
        let validation = if chooses { run.dataset.targets(Split::Valid).len() } else { 0 };
        (1 + self.runs.len()) * (targets + validation)
    }

    /// Whether there are baselines, whose weight the validation split chooses.
    pub(super) fn has_weight(&self) -> bool {
        !self.baselines.is_empty()
    }

    /// Bytes of what the baselines say about `items` at once.
    pub(super) fn scoring_bytes(&self, items: usize) -> u64 {
        if self.baselines.is_empty() { 0 } else { scoring_bytes(items) }
    }

    /// The evaluation of `own`, the model of `run`, together with these, of which `loaded` are those of runs.
    pub(super) fn evaluate(
        &self,
        run: &Run,
        request: EvalRequest<'_>,
        (own, loaded): (Recommender<'_>, &[Generator]),
        targets: &[usize],
        searches: &mut Searches<'_>,
        monitor: &mut dyn Monitor,
    ) -> Result<Together> {
        let repeat_bias = own.model.config().repeat_bias;
        let others = loaded.iter().map(|generator| generator.recommender(run, request.beam));
        let generators: Vec<Recommender<'_>> = [own].into_iter().chain(others).collect();
        let scorers = self
            .baselines
            .iter()
            .map(|(dir, asked, training)| run.load_baseline(*asked, dir, training))
            .collect::<Result<Vec<Box<dyn ItemScorer>>>>()?;

        let mut find = |targets: &[usize], split| -> Result<Vec<_>> {
            let found = generators.iter().enumerate().map(|(place, generator)| {
                searches.search(place, generator, targets, split, monitor)
            });
            found.collect()
        };
        let fusion = |found: &[Vec<(usize, Found)>], targets: &[usize], split| {
            let protocol = run.protocol(split);
            Fusion::of(found, &scorers, &run.dataset, targets, protocol, repeat_bias)
        };
        if scorers.is_empty() {
            let found = find(targets, request.split)?;
            let evaluation = fusion(&found, targets, request.split)?.evaluation(0.0);
            return Ok(Together { evaluation, weight: None });
        }
        let metric = &run.config.train.validation.metric;
        let choose = |of_validation: &Fusion<'_>| {
            of_validation.choose(|metrics| metrics.get(metric).copied().unwrap_or_default())
        };
        let all: Vec<usize> = (0..run.dataset.targets(Split::Valid).len()).collect();
        if request.split == Split::Test || targets.len() < all.len() {
            tracing::info!("the validation split chooses the weight of the baselines");
        }
        let mut validation = find(&all, Split::Valid)?;
        let weight = choose(&fusion(&validation, &all, Split::Valid)?);
        let asked = match request.split {
            Split::Valid => {
                // The first of those by which the weight was chosen.
                for found in &mut validation {
                    found.truncate(targets.len());
                }
                validation
            }
            Split::Test => find(targets, Split::Test)?,
        };
        let evaluation = fusion(&asked, targets, request.split)?.evaluation(weight);
        Ok(Together { evaluation, weight: Some(weight) })
    }
}

impl Run {
    /// What the folders of `request` hold.
    ///
    /// # Errors
    /// Names a folder that holds neither a trained baseline nor a run, one of other data or settings than
    /// this run's, and one that holds what this run or a folder before it does.
    pub(super) fn others<'a>(&self, request: EvalRequest<'a>) -> Result<Others<'a>> {
        let (mut baselines, mut runs) = (Vec::new(), Vec::new());
        let mut models = vec![(self.dir.as_path(), self.fused_model(request.adapter))];
        for dir in request.fuse {
            let model = if is_baseline(dir) {
                let (asked, training) = self.trained_in(dir)?;
                let model = FusedModel {
                    model: asked.baseline.name().into(),
                    run: None,
                    seed: asked.seed,
                    digest: training.model_sha256.clone(),
                    settings_digest: Some(training.settings_digest()?),
                    adapter_digest: None,
                };
                baselines.push((dir.as_path(), asked, training));
                model
            } else {
                let other = self.other_run(dir, request.adapter)?;
                let model = other.fused_model(request.adapter);
                runs.push(other);
                model
            };
            if let Some((same, _)) = models.iter().find(|(_, found)| *found == model) {
                invalid!(
                    "{} and {}: both hold one model, {model}; name each model once",
                    same.display(),
                    dir.display(),
                );
            }
            models.push((dir, model));
        }
        // A baseline of the run's own is found without being told where.
        let is_own = |dir: &Path, model: &FusedModel| {
            Baseline::named(&model.model).is_some_and(|baseline| {
                let own = BaselineRequest { baseline, split: Split::Valid, seed: model.seed };
                let place = |dir: &Path| dir.canonicalize().ok();
                place(dir) == place(&own.folder(&self.dir))
            })
        };
        let placed = |(dir, model): (&Path, FusedModel)| {
            let run = (!is_own(dir, &model)).then(|| told(dir));
            FusedModel { run, ..model }
        };
        let models = models.into_iter().skip(1).map(placed).collect();
        Ok(Others { baselines, runs, models })
    }

    /// The weight of the baselines in the folders `dirs` beside this run's model, which an evaluation of them with
    /// the configured beam has chosen and kept.
    ///
    /// # Errors
    /// As those of an evaluation, and where none is kept.
    pub(in crate::run) fn fusion_weight(&self, adapter: bool, dirs: &[PathBuf]) -> Result<f64> {
        let request = |split| {
            let beam = self.config.eval.beam;
            EvalRequest { split, adapter, beam, limit: None, fuse: dirs, before: None }
        };
        let others = self.others(request(Split::Test))?;
        if let Some(other) = others.runs.first() {
            invalid!(
                "{}: is a run; beside the model of {} baselines recommend, such as runs/NAME/baseline/sasrec/seed-1",
                other.dir.display(),
                self.dir.display()
            );
        }
        for split in [Split::Test, Split::Valid] {
            let asked = request(split);
            let kept = asked.kept(&self.dir);
            if !kept.result.exists() {
                continue;
            }
            let found = kept.read()?;
            let wrong = |e| Error::Invalid(format!("{}: {e}", kept.result.display()));
            let settings: EvalSettings =
                serde_json::from_value(found["settings"].clone()).map_err(wrong)?;
            // Another version of the program, or another machine, has chosen as well.
            let now = self.eval_settings(asked, others.settings(self));
            let EvalSettings { precision, batch, bootstrap, legal_rate_users, .. } = settings;
            let git_revision = settings.git_revision.clone();
            // An older version did not tell it; the model does.
            let instruction = settings.instruction.and(now.instruction);
            let now = EvalSettings {
                instruction,
                precision,
                batch,
                bootstrap,
                legal_rate_users,
                git_revision,
                ..now
            };
            let [settings, now] =
                [settings, now].map(|told| serde_json::to_value(told).map(decisive));
            let is_of_these = settings.map_err(wrong)? == now.map_err(wrong)?;
            if let Some(weight) = found["fusion_weight"].as_f64().filter(|_| is_of_these) {
                return Ok(weight);
            }
        }
        invalid!(
            "{0}: no evaluation of these models together has chosen the weight of the baselines: run `llmbs --run {0} \
             {1}` first",
            self.dir.display(),
            request(Split::Test).command()
        )
    }

    /// The run in `dir`, trained on the same data.
    fn other_run(&self, dir: &Path, adapter: bool) -> Result<Run> {
        if !dir.join(MANIFEST).exists() {
            invalid!(
                "{}: holds neither a run with a trained model ({MANIFEST}) nor a trained baseline \
                 (training.json); `llmbs baseline sasrec` makes one of these, in RUN/baseline/sasrec/seed-N",
                dir.display()
            );
        }
        let Some(path) = config_of(dir)? else {
            invalid!("{}: has no config.toml: nothing is trained there", dir.display());
        };
        let config = RunConfig::load(&path, &[])?;
        let other = Run::open(dir, config, self.device.clone())?;
        if other.dataset.fingerprint != self.dataset.fingerprint {
            invalid!("{}: its dataset is not this run's; name runs of one dataset", dir.display());
        }
        let (theirs, ours) = (other.config.data.history, self.config.data.history);
        if theirs != ours {
            invalid!(
                "{}: data.history is {theirs} there, {ours} here; name runs trained with one length",
                dir.display()
            );
        }
        other.require_model(adapter && other.has_adapter())?;
        Ok(other)
    }

    fn fused_model(&self, adapter: bool) -> FusedModel {
        let digest = |stage, file| self.manifest.output(stage, file).map(String::from);
        FusedModel {
            model: "llmbs".into(),
            run: None,
            seed: self.config.seed,
            digest: digest(Stage::Initial, "model.safetensors").unwrap_or_default(),
            settings_digest: None,
            adapter_digest: digest(Stage::Anneal, "adapter_model.safetensors")
                .filter(|_| adapter && self.has_adapter()),
        }
    }
}
