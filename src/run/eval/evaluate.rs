//! Evaluating and using the models of a run.

use std::time::Instant;

use super::fused::{self, Others, Together};
use super::generator::Generator;
use super::journal::Searches;
use super::kept::Kept;
use super::request::{EvalRequest, told};
use super::result::{Bootstrap, EvalResult, EvalSettings, FusionSettings, Performance, Ranking};
use crate::config::Float;
use crate::data::{ItemId, Split};
use crate::eval::{
    Evaluation, LegalRate, Metrics, Popularity, Protocol, Recommender, Report, SharedCodes,
};
use crate::index::OnCollision;
use crate::ops::Precision;
use crate::run::artifacts::{load_index, precision};
use crate::run::monitor::with_progress;
use crate::run::needs::{ANY_WORK, Needs, memory_bytes};
use crate::run::{Import, Monitor, Run, Silent, Stage, peak_memory_bytes};
use crate::{Result, invalid, rng};

/// At most this many users are searched without the trie.
const LEGAL_RATE_USERS: usize = 500;

/// What a target takes in the predictions or in a journal of them, and of memory.
const LINE_BYTES: u64 = 1_500;

/// The beam up to which `eval.batch` users are scored together; wider ones take fewer users, so that a
/// step holds no more hypotheses.
const FULL_BATCH_BEAM: usize = 20;

impl Run {
    /// Evaluates a trained model on a split; the result is kept, and found again unless `force` is set.
    pub fn evaluate(
        &self,
        request: EvalRequest<'_>,
        force: bool,
        monitor: &mut dyn Monitor,
    ) -> Result<EvalResult<Ranking<EvalSettings>>> {
        self.require_model(request.adapter)?;
        let others = self.others(request)?;
        let settings = self.eval_settings(request, others.settings(self));
        let kept = request.kept(&self.dir);
        if let Some(found) = kept.find(&settings, force)? {
            Searches::forget(self, &request.name(), 1 + request.fuse.len())?;
            return Ok(found);
        }
        let evaluated = self.together(request.as_work(), || {
            self.evaluate_anew(request, &others, settings, Some(kept), monitor)
        })?;
        match evaluated {
            Some(written) => Ok(written),
            None => invalid!("an evaluation was kept nowhere"),
        }
    }

    /// The same on a rank that searches with rank 0.
    pub(in crate::run) fn help_evaluate(&self, request: EvalRequest<'_>) -> Result<()> {
        let others = self.others(request)?;
        let settings = self.eval_settings(request, others.settings(self));
        self.evaluate_anew(request, &others, settings, None, &mut Silent).map(drop)
    }

    /// Evaluates; what it comes to is `kept` and given, but for a rank that searches for another.
    fn evaluate_anew(
        &self,
        request: EvalRequest<'_>,
        others: &Others<'_>,
        settings: EvalSettings,
        kept: Option<Kept>,
        monitor: &mut dyn Monitor,
    ) -> Result<Option<EvalResult<Ranking<EvalSettings>>>> {
        let generator = match request.before {
            Some(before) => Generator::before(self, &self.open_before(before)?)?,
            None => Generator::load(self, request.adapter)?,
        };
        // Before it is asked whether the memory suffices: they are part of what is taken.
        let beside = others.load(request)?;
        let recommender = generator.recommender(self, request.beam);
        let targets = self.targets_of(request);
        let protocol = self.protocol(request.split);

        // One searches after another, and for the weight of baselines each searches for all of the validation split.
        let all: Vec<usize> = (0..self.dataset.targets(Split::Valid).len()).collect();
        let chosen_by = if others.has_weight() { &all[..] } else { &[] };
        let bytes = |recommender: &Recommender<'_>| {
            let of_weight =
                recommender.bytes(&self.dataset, chosen_by, self.protocol(Split::Valid));
            recommender.bytes(&self.dataset, &targets, protocol).max(of_weight)
        };
        let of_others = beside.iter().map(|other| bytes(&other.recommender(self, request.beam)));
        let searching = of_others.fold(bytes(&recommender), u64::max);
        let needs = Needs {
            memory: ANY_WORK
                + searching
                + others.scoring_bytes(self.dataset.num_items())
                + LINE_BYTES * others.lists(self, targets.len()) as u64,
            disk: 3 * LINE_BYTES * targets.len() as u64,
        };
        // That of a GPU, which has the model, is not seen here.
        let predicted = self.device.is_cpu().then(|| memory_bytes() + needs.memory);
        self.afford("this evaluation", needs, 0)?;
        let mut searches = Searches::new(self, &request.name(), &settings)?;
        let start = Instant::now();
        let Together { evaluation, weight } = if request.fuse.is_empty() {
            let found = searches.search(0, &recommender, &targets, request.split, monitor)?;
            Together { evaluation: Evaluation::of(&self.dataset, protocol, found), weight: None }
        } else {
            let models = (recommender, beside.as_slice());
            others.evaluate(self, request, models, &targets, &mut searches, monitor)?
        };
        let seconds = start.elapsed().as_secs_f64();
        let Some(kept) = kept else { return Ok(None) };

        let every: Vec<usize> = (0..targets.len()).collect();
        let asked = sample_of(&every, LEGAL_RATE_USERS, self.config.seed, "legal rate users");
        let (histories, sought): (Vec<&[ItemId]>, Vec<ItemId>) = asked
            .iter()
            .map(|&i| {
                (
                    protocol.history(&self.dataset, targets[i]),
                    protocol.item(&self.dataset, targets[i]),
                )
            })
            .unzip();
        let legal_rate = with_progress(monitor, "legal rate", histories.len(), |on_batch| {
            recommender.legal_rate(&histories, &sought, on_batch)
        })?;
        let with_trie = || {
            let ranks: Vec<_> = asked.iter().map(|&i| evaluation.predictions[i].rank()).collect();
            Metrics::of(&ranks)
        };
        // What several rank together is no search of this model's.
        let alone = request.fuse.is_empty();
        let legal_rate = LegalRate { metrics_with_trie: alone.then(with_trie), ..legal_rate };

        let settings = (settings, self.config.seed);
        let ranking = self.ranking(&evaluation, &targets, protocol, settings, seconds);
        let performance = Performance {
            predicted_memory_bytes: predicted,
            // Of several models that search, and for the weight, too, it would be none of these.
            ..self.performance(seconds, alone.then(|| searches.searched as f64 / seconds))
        };
        let groups = self.items_sharing()?;
        let of_groups =
            |groups| SharedCodes::of(groups, &self.dataset, &targets, protocol, &evaluation);
        let told = Ranking {
            legal_rate: Some(legal_rate),
            shared_codes: groups.as_deref().map(of_groups),
            fusion_weight: weight,
            performance,
            ..ranking
        };
        let written = kept.write(told, &evaluation.predictions)?;
        searches.close()?;
        Ok(Some(written))
    }

    /// The items that had their codes from elsewhere in common, group by group, where the index is one that was
    /// extended to tell them apart.
    fn items_sharing(&self) -> Result<Option<Vec<Vec<ItemId>>>> {
        let extended = |import: &Import| {
            import.on_collision == OnCollision::Extend && import.items_sharing > 0
        };
        if !self.imported().is_some_and(extended) {
            return Ok(None);
        }
        let index = load_index(self)?;
        // The last level is the one that was added.
        Ok(Some(index.sharing(index.num_levels() - 1)))
    }

    /// What is told of every evaluation, whatever ranked the items; it took `seconds`.
    pub(super) fn ranking<S>(
        &self,
        evaluation: &Evaluation,
        targets: &[usize],
        protocol: Protocol,
        (settings, seed): (S, u64),
        seconds: f64,
    ) -> Ranking<S> {
        let dataset = &self.dataset;
        let [popularity, popularity_history_excluded] =
            Popularity::new(dataset).evaluate(dataset, targets, protocol);
        let predictions = &evaluation.predictions;
        Ranking {
            report: Report::new(dataset, targets, protocol, predictions, seed),
            popularity,
            popularity_history_excluded,
            settings,
            performance: self.performance(seconds, Some(targets.len() as f64 / seconds)),
            fusion_weight: None,
            legal_rate: None,
            shared_codes: None,
            training: None,
        }
    }

    /// What an evaluation took, told as it ends.
    pub(super) fn performance(&self, seconds: f64, users_per_s: Option<f64>) -> Performance {
        let peak_memory_bytes = peak_memory_bytes();
        Performance {
            seconds,
            users_per_s,
            predicted_memory_bytes: None,
            peak_memory_bytes,
            machine: self.machine(),
        }
    }

    /// How users are evaluated on a split.
    pub(in crate::run) fn protocol(&self, split: Split) -> Protocol {
        Protocol { split, max_history: self.config.data.history, both_rules: true }
    }

    /// The targets an evaluation is about, by their positions among those of the split.
    pub(in crate::run) fn targets_of(&self, request: EvalRequest<'_>) -> Vec<usize> {
        let all = self.dataset.targets(request.split).len();
        (0..request.limit.map_or(all, |n| n.min(all))).collect()
    }

    /// Whether the annealing adapter can be switched on.
    pub fn has_adapter(&self) -> bool {
        self.is_done(Stage::Anneal)
    }

    /// Refuses where there is no model to use, whole and of this run's settings, with or without its adapter.
    pub(in crate::run) fn require_model(&self, adapter: bool) -> Result<()> {
        stages_of_model(adapter).iter().try_for_each(|&stage| self.require(stage))
    }

    /// Refuses, once a model was read, where another process has made a part of it anew meanwhile.
    pub(in crate::run) fn require_same_model(&self, adapter: bool) -> Result<()> {
        self.require_same(stages_of_model(adapter))
    }

    /// How many users are searched for together.
    pub(in crate::run) fn eval_batch(&self, beam: usize) -> usize {
        let most = self.config.eval.batch;
        (most * FULL_BATCH_BEAM / beam).clamp(1, most)
    }

    /// What decides an evaluation's outcome, ranked alone or as `fusion` says.
    pub(super) fn eval_settings(
        &self,
        request: EvalRequest<'_>,
        fusion: Option<FusionSettings>,
    ) -> EvalSettings {
        let targets = self.targets_of(request).len();
        let alone = "sum of the log-probabilities of all item tokens";
        let score = fusion.as_ref().map_or(alone, |_| fused::SCORE);
        let before = request.before.and_then(|_| self.manifest.follows(Stage::Initial));
        let digest = |stage: Stage, file: &str| match before.filter(|_| stage != Stage::Index) {
            Some(before) => before.files.get(&format!("{}/{file}", stage.folder())).cloned(),
            None => self.manifest.output(stage, file).map(String::from),
        };
        let backbone = &self.config.backbone;
        let precision = precision(self);
        let rounds =
            precision == Precision::Bf16 && (!self.device.is_cpu() || precision.takes_effect());
        let index = &self.config.index;
        EvalSettings {
            split: request.split,
            fusion,
            split_rule: self.dataset.split_rule(),
            targets,
            limit: request.limit,
            history: self.config.data.history,
            instruction: request.before.is_none().then_some(self.config.train.tasks.instruction),
            adapter: request.adapter_switch().into(),
            before: request.before.map(told),
            search: "beam search over the trie of all items".into(),
            beam: request.beam,
            exhaustive: request.beam >= self.dataset.catalogue().count(),
            normalize: self.config.eval.normalize,
            score: score.into(),
            length_penalty: "none".into(),
            eos: "never".into(),
            temperature: 1.0,
            ties: "smaller item id".into(),
            dtype: backbone.dtype,
            precision: if rounds { Float::Bf16 } else { backbone.dtype },
            batch: self.eval_batch(request.beam),
            bootstrap: Bootstrap::USED,
            legal_rate_users: targets.min(LEGAL_RATE_USERS),
            items: self.dataset.catalogue().count(),
            source: match self.imported() {
                Some(_) => "imported".into(),
                None => index.source.to_string(),
            },
            method: index.method,
            order: index.order,
            shared: index.shared,
            seed: self.config.seed,
            dataset: self.dataset.name.clone(),
            dataset_fingerprint: self.dataset.fingerprint.clone(),
            interactions_fingerprint: self.dataset.interactions_fingerprint.clone(),
            index_digest: digest(Stage::Index, "index.json"),
            model_digest: digest(Stage::Initial, "model.safetensors"),
            adapter_digest: digest(Stage::Anneal, "adapter_model.safetensors")
                .filter(|_| request.adapter || request.before.is_some()),
            files: self.files_of(stages_of_model(request.adapter)),
            git_revision: crate::run::GIT_REVISION.into(),
        }
    }
}

/// The stages that a model is made of.
fn stages_of_model(adapter: bool) -> &'static [Stage] {
    if adapter { &Stage::ALL } else { &Stage::ALL[..2] }
}

/// `most` of the targets, drawn without replacement and in their order; all of them, where there are no more.
pub(super) fn sample_of(targets: &[usize], most: usize, seed: u64, label: &str) -> Vec<usize> {
    let mut stream = rng::stream(seed, label, &[]);
    rng::subset(&mut stream, targets.len(), most).into_iter().map(|at| targets[at]).collect()
}
