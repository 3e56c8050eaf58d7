//! Evaluating and using the models of a run.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use rand::seq::index::sample;
use serde_json::{Value, json};

use super::model::{Tokens, Trained};
use super::{Monitor, Run, Stage, peak_memory_bytes};
use crate::data::Split;
use crate::decode::BeamSearch;
use crate::eval::{Metrics, Popularity, Recommender};
use crate::index::{ItemIndex, Trie};
use crate::model::Llama;
use crate::tasks::Prompts;
use crate::train::TrainConfig;
use crate::{Result, files, rng};

/// What to evaluate.
#[derive(Debug, Clone, Copy)]
pub struct EvalRequest {
    /// The split.
    pub split: Split,
    /// Whether the annealing adapter is on.
    pub adapter: bool,
    /// Beam width.
    pub beam: usize,
    /// Only the first this many users.
    pub limit: Option<usize>,
}

impl EvalRequest {
    /// The name of the result, without extension.
    fn name(&self) -> String {
        let adapter = if self.adapter { "on" } else { "off" };
        let limit = self.limit.map_or(String::new(), |n| format!("-lim{n}"));
        format!("{}-{adapter}-b{}{limit}", self.split, self.beam)
    }
}

/// The result of an evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalResult {
    /// `{"metrics": …, "popularity": …, "settings": …, "performance": …}`
    pub json: Value,
    /// Where it stands.
    pub path: PathBuf,
    /// It stood there already.
    pub was_done: bool,
}

impl Run {
    /// Evaluates a trained model on a split; the result is kept, and found again unless `force` is set.
    pub fn evaluate(
        &self,
        request: EvalRequest,
        force: bool,
        monitor: &mut dyn Monitor,
    ) -> Result<EvalResult> {
        self.require_model(request.adapter)?;
        let users = self.dataset.users.len();
        let users: Vec<usize> = (0..request.limit.map_or(users, |n| n.min(users))).collect();
        let settings = self.eval_settings(request, users.len());
        let folder = self.dir.join("eval");
        let path = folder.join(format!("{}.json", request.name()));
        if path.exists() && !force {
            let found: Value = files::read_json(&path)?;
            if found["settings"] == settings {
                return Ok(EvalResult { json: found, path, was_done: true });
            }
        }
        let trained = Trained::load(self)?;
        let model = trained.model(self, request.adapter)?;
        let prompts = trained.tokens.prompts(self)?;
        let trie = Trie::new(&trained.index);
        let recommender = self.recommender(&model, &trained.tokens, &prompts, &trie, request.beam);
        let start = Instant::now();
        monitor.begin(&format!("evaluate {}", request.name()), users.len() as u64);
        let evaluation = recommender.evaluate(
            &self.dataset,
            &users,
            request.split,
            self.config.data.history,
            &mut |done| {
                let rate = done as f64 / start.elapsed().as_secs_f64();
                monitor.advance(done as u64, &format!("{rate:.1} users/s"));
            },
        )?;
        monitor.end();
        let seconds = start.elapsed().as_secs_f64();
        let depth = evaluation.predictions.iter().map(|p| p.items.len()).max().unwrap_or(0).max(20);
        let popularity =
            Popularity::new(&self.dataset, depth).evaluate(&self.dataset, &users, request.split);
        let json = json!({
            "metrics": evaluation.metrics.to_json(),
            "popularity": popularity.to_json(),
            "settings": settings,
            "performance": {
                "seconds": seconds,
                "users_per_s": users.len() as f64 / seconds,
                "peak_memory_bytes": peak_memory_bytes(),
                "machine": self.machine(),
            },
        });
        files::write_with(&folder.join(format!("{}.predictions.jsonl", request.name())), |file| {
            for prediction in &evaluation.predictions {
                serde_json::to_writer(&mut *file, prediction)?;
                file.write_all(b"\n")?;
            }
            Ok(())
        })?;
        files::write_json(&path, &json)?;
        Ok(EvalResult { json, path, was_done: false })
    }

    /// Whether the annealing adapter can be switched on.
    pub fn has_adapter(&self) -> bool {
        self.is_done(Stage::Anneal)
    }

    fn require_model(&self, adapter: bool) -> Result<()> {
        self.require(Stage::Index)?;
        self.require(Stage::Initial)?;
        if adapter { self.require(Stage::Anneal) } else { Ok(()) }
    }

    fn recommender<'a>(
        &self,
        model: &'a Llama,
        tokens: &'a Tokens,
        prompts: &'a Prompts,
        trie: &'a Trie,
        beam: usize,
    ) -> Recommender<'a> {
        Recommender {
            model,
            prompts,
            vocabulary: &tokens.vocabulary,
            trie,
            search: BeamSearch { width: beam, normalize: self.config.eval.normalize },
            batch: self.config.eval.batch,
        }
    }

    /// What decides an evaluation's outcome.
    fn eval_settings(&self, request: EvalRequest, users: usize) -> Value {
        let digest = |stage: Stage, file: &str| {
            let record = self.manifest.stages.get(&stage)?;
            record.outputs.get(&format!("{}/{file}", stage.folder())).cloned()
        };
        json!({
            "split": request.split,
            "adapter": if request.adapter { "on" } else { "off" },
            "beam": request.beam,
            "normalize": self.config.eval.normalize,
            "history": self.config.data.history,
            "users": users,
            "items": self.dataset.num_items(),
            "source": self.config.index.source,
            "seed": self.config.seed,
            "dataset": self.dataset.name,
            "dataset_fingerprint": self.dataset.fingerprint,
            "index_digest": digest(Stage::Index, "index.json"),
            "model_digest": digest(Stage::Initial, "model.safetensors"),
            "adapter_digest":
                request.adapter.then(|| digest(Stage::Anneal, "adapter_model.safetensors")),
            "git_revision": super::GIT_REVISION,
        })
    }
}

/// The validation metric that training picks its best epoch by.
pub(super) struct Validation<'a> {
    run: &'a Run,
    tokens: &'a Tokens,
    prompts: &'a Prompts,
    trie: Trie,
    users: Vec<usize>,
}

impl<'a> Validation<'a> {
    pub(super) fn new(
        run: &'a Run,
        index: &ItemIndex,
        tokens: &'a Tokens,
        prompts: &'a Prompts,
        config: &TrainConfig,
    ) -> Self {
        let all = run.dataset.users.len();
        let users = match config.validation_users {
            0 => (0..all).collect(),
            n if n >= all => (0..all).collect(),
            n => {
                let mut stream = rng::stream(run.config.seed, "validation users", &[]);
                let mut users = sample(&mut stream, all, n).into_vec();
                users.sort_unstable();
                users
            }
        };
        Self { run, tokens, prompts, trie: Trie::new(index), users }
    }

    /// NDCG@10 on the validation split.
    pub(super) fn ndcg(&self, model: &Llama) -> Result<f64> {
        let config = &self.run.config;
        let recommender =
            self.run.recommender(model, self.tokens, self.prompts, &self.trie, config.eval.beam);
        let metrics: Metrics = recommender
            .evaluate(
                &self.run.dataset,
                &self.users,
                Split::Valid,
                config.data.history,
                &mut |_| {},
            )?
            .metrics;
        Ok(metrics.get("ndcg@10").unwrap_or(0.0))
    }
}
