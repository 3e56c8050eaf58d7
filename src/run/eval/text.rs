//! Text ability: how well the models of a run write titles and descriptions (docs/text.md).

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::journal::Journal;
use super::kept::Kept;
use super::result::{
    Bootstrap, EvalResult, TaskMetrics, TextDifference, TextModel, TextReport, TextSettings,
};
use crate::data::{ItemId, Split, Target, TextField};
use crate::decode::likeliest;
use crate::eval::{
    TEXT_FIGURES, TextSample, TextScores, response_losses, text_differences, text_figures,
    text_intervals,
};
use crate::inference::{Continuation, ItemTokens, generate};
use crate::model::Llama;
use crate::run::artifacts::{Trained, extended_backbone, load_index, precision};
use crate::run::{Monitor, Run, Stage};
use crate::tasks::{Direction, Prompts, Sample};
use crate::text::Tokenizer;
use crate::{Result, invalid, rng};

/// The samples of each task, where no number is asked for.
const DEFAULT_LIMIT: usize = 500;

/// What to evaluate.
#[derive(Debug, Clone, Copy)]
pub struct TextRequest {
    /// The model.
    pub model: TextModel,
    /// At most this many samples of each task; absent, 500.
    pub limit: Option<usize>,
}

impl TextRequest {
    /// The name of the result, without extension.
    fn name(&self) -> String {
        let limit = self.limit.map_or(String::new(), |n| format!("-lim{n}"));
        format!("text-{}{limit}", self.model)
    }
}

impl TextModel {
    /// The stages that it comes from.
    pub(super) fn made_by(self) -> &'static [Stage] {
        match self {
            Self::Backbone => &Stage::ALL[..1],
            Self::Off => &Stage::ALL[..2],
            Self::On => &Stage::ALL,
        }
    }
}

/// A kind of sample: which text is asked for, given what.
#[derive(Debug, Clone, Copy)]
struct TextTask {
    name: &'static str,
    direction: Direction,
    field: TextField,
    /// Of the items, only those whose texts were kept from training, or only the others.
    held_out: bool,
}

impl TextTask {
    /// Semantic reconstruction of an item's text.
    const fn of_item(name: &'static str, field: TextField, held_out: bool) -> Self {
        Self { name, direction: Direction::IndexToText, field, held_out }
    }
}

/// Semantic reconstruction of items' texts, and preference reconstruction of the test target's title.
const TASKS: [TextTask; 5] = [
    TextTask::of_item("item_title", TextField::Title, false),
    TextTask::of_item("item_description", TextField::Description, false),
    TextTask::of_item("new_title", TextField::Title, true),
    TextTask::of_item("new_description", TextField::Description, true),
    TextTask {
        name: "next_title",
        direction: Direction::HistoryToText,
        field: TextField::Title,
        held_out: false,
    },
];

/// A sample and the user or item it is of.
#[derive(Debug)]
struct Case {
    of: String,
    sample: Sample,
}

/// One text as the model wrote it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Answer {
    task: String,
    of: String,
    truth: String,
    written: String,
    #[serde(flatten)]
    sample: TextSample,
}

impl Answer {
    /// What it is an answer to.
    fn key(&self) -> (&str, &str) {
        (&self.task, &self.of)
    }
}

impl Run {
    /// Measures how well a model writes texts; the result is kept, and found again unless `force` is set.
    pub fn evaluate_text(
        &self,
        request: TextRequest,
        force: bool,
        monitor: &mut dyn Monitor,
    ) -> Result<EvalResult<TextReport>> {
        if !self.dataset.has_text() {
            invalid!(
                "{} has no item texts to write: add a *.item.json, or leave out --task text",
                self.dataset.name
            );
        }
        self.require(Stage::Index)?;
        if request.model != TextModel::Backbone {
            self.require(Stage::Initial)?;
        }
        if request.model == TextModel::On {
            self.require(Stage::Anneal)?;
        }
        let settings = self.text_settings(request);
        let kept = Kept::new(&self.dir.join("eval"), &request.name());
        if let Some(found) = kept.find(&settings, force)? {
            Journal::<Vec<Answer>>::forget(self, &request.name())?;
            return Ok(found);
        }
        let (model, tokens) = self.text_model(request.model)?;
        let prompts = tokens.prompts(&self.dataset, &self.config.train.tasks)?;
        let cases: Vec<(TextTask, Vec<Case>)> = (0..)
            .zip(TASKS)
            .map(|(i, task)| Ok((task, self.cases(task, i, &prompts, request.limit)?)))
            .collect::<Result<_>>()?;
        let key = (&settings, self.config.eval.batch);
        let (mut journal, known) = Journal::<Vec<Answer>>::open(self, &request.name(), &key)?;
        let mut known = known.into_iter();
        let start = Instant::now();
        let total: usize = cases.iter().map(|(_, cases)| cases.len()).sum();
        monitor.begin(&format!("evaluate {}", request.name()), total as u64);
        let (mut metrics, mut written) = (BTreeMap::new(), Vec::<Answer>::new());
        for (task, cases) in cases.iter().filter(|(_, cases)| !cases.is_empty()) {
            let first = written.len();
            for batch in cases.chunks(self.config.eval.batch) {
                let answers = if let Some(answers) = known.next() {
                    answers
                } else {
                    let answers = self.write(&model, &tokens.tokenizer, *task, batch)?;
                    journal.add(&answers)?;
                    answers
                };
                written.extend(answers);
                monitor.advance(written.len() as u64, task.name);
            }
            let samples: Vec<TextSample> = written[first..].iter().map(|w| w.sample).collect();
            metrics.insert(task.name.to_string(), self.of_samples(&samples));
        }
        monitor.end();
        let performance = self.performance(start.elapsed().as_secs_f64(), None);
        let result = kept.write(TextReport { metrics, settings, performance }, &written)?;
        journal.close()?;
        Ok(result)
    }

    /// By how much each figure of each task is higher with the annealing adapter, `on`, than without it, `off`.
    ///
    /// # Errors
    /// If they are not of the same samples.
    pub fn text_differences(
        &self,
        on: &EvalResult<TextReport>,
        off: &EvalResult<TextReport>,
    ) -> Result<BTreeMap<String, BTreeMap<String, TextDifference>>> {
        let written = |result: &EvalResult<TextReport>| Kept::at(&result.path).read_lines();
        let (with, without): (Vec<Answer>, Vec<Answer>) = (written(on)?, written(off)?);
        if !with.iter().map(Answer::key).eq(without.iter().map(Answer::key)) {
            invalid!("the texts written with and without the adapter are not of the same samples");
        }
        let of_task = |task: &String| {
            let samples = |answers: &[Answer]| -> Vec<TextSample> {
                answers.iter().filter(|answer| answer.task == *task).map(|a| a.sample).collect()
            };
            let (with, without) = (samples(&with), samples(&without));
            let found = text_differences(&with, &without, self.config.seed);
            let named = TEXT_FIGURES.iter().zip(found).map(|(name, (difference, interval))| {
                (name.to_string(), TextDifference { difference, interval })
            });
            (task.clone(), named.collect())
        };
        Ok(on.report.metrics.keys().map(of_task).collect())
    }

    /// What a task came to.
    fn of_samples(&self, samples: &[TextSample]) -> TaskMetrics {
        let [perplexity, exact_match, token_f1, rouge_l] = text_figures(samples.iter());
        let intervals = text_intervals(samples, self.config.seed);
        TaskMetrics {
            samples: samples.len(),
            tokens: samples.iter().map(|sample| sample.tokens).sum(),
            perplexity,
            scores: TextScores { exact_match, token_f1, rouge_l },
            intervals: TEXT_FIGURES.iter().map(ToString::to_string).zip(intervals).collect(),
        }
    }

    fn text_model(&self, which: TextModel) -> Result<(Llama, ItemTokens)> {
        if which == TextModel::Backbone {
            let (config, weights, tokens) = extended_backbone(self, &load_index(self)?)?;
            self.require_same(&[Stage::Index])?;
            let model = Llama::new(&config, &weights)?;
            return Ok((model.with_precision(precision(self)), tokens));
        }
        let trained = Trained::load(self)?;
        let with_adapter = which == TextModel::On;
        let model = trained.model(self, with_adapter)?;
        self.require_same_model(with_adapter)?;
        Ok((model, trained.tokens))
    }

    /// The samples of the task at `position` in [`TASKS`]: all of them, or a random part.
    fn cases(
        &self,
        task: TextTask,
        position: u64,
        prompts: &Prompts,
        limit: Option<usize>,
    ) -> Result<Vec<Case>> {
        let data = &self.dataset;
        // Those that have one are counted first: to fill a template takes a tokenizer.
        let has_sample = |&(_, item): &(Option<Target>, ItemId)| {
            prompts.has_text_sample(task.direction, task.field, item)
        };
        let all: Vec<(Option<Target>, ItemId)> = if task.direction == Direction::HistoryToText {
            let of_target = |&target: &Target| (Some(target), data.target_item(target));
            data.targets(Split::Test).iter().map(of_target).filter(has_sample).collect()
        } else {
            let tasks = &self.config.train.tasks;
            let held_out = tasks.items_held_out(data.num_items(), self.config.seed);
            let items = (0..).zip(held_out).filter(|(_, held_out)| *held_out == task.held_out);
            items.map(|(item, _)| (None, item)).filter(has_sample).collect()
        };
        let mut stream = rng::stream(self.config.seed, "text samples", &[position]);
        let drawn = rng::subset(&mut stream, all.len(), limit.unwrap_or(DEFAULT_LIMIT));
        let case = |at: usize| {
            let (target, item) = all[at];
            let (of, history) = match target {
                Some(target) => {
                    let history = data.history(target, self.config.data.history);
                    (data.users[target.user].id.clone(), history)
                }
                None => (item.to_string(), [].as_slice()),
            };
            let sample = prompts.first_text_sample(task.direction, task.field, history, item);
            sample.map(|sample| Some(Case { of, sample: sample? })).transpose()
        };
        drawn.into_iter().filter_map(case).collect()
    }

    /// What the model makes of a batch: how likely it finds the true responses, and what it writes in their place,
    /// always by the likeliest token.
    fn write(
        &self,
        model: &Llama,
        tokenizer: &Tokenizer,
        task: TextTask,
        batch: &[Case],
    ) -> Result<Vec<Answer>> {
        let samples: Vec<Sample> = batch.iter().map(|case| case.sample.clone()).collect();
        let mut losses = response_losses(model, &samples)?.into_iter();
        let prompts: Vec<&[u32]> = samples.iter().map(Sample::prompt).collect();
        // A true text ends within this many tokens: one more is its end.
        let max_tokens = self.config.train.tasks.max_text_tokens + 1;
        let continuations =
            generate(model, &prompts, tokenizer.eos(), max_tokens, &mut |_, logits| {
                likeliest(logits)
            })?;
        let compare = |(case, continuation): (&Case, Continuation)| {
            let truth: Vec<u32> = case.sample.response().collect();
            // A text field brings its own leading space.
            let text = |ids: &[u32]| tokenizer.decode(ids).map(|text| text.trim().to_string());
            let (written, truth) = (text(&continuation.ids)?, text(&truth)?);
            let scores = TextScores::of(&written, &truth);
            let tokens = case.sample.labels.len();
            let loss = losses.by_ref().take(tokens).map(f64::from).sum();
            let sample = TextSample { tokens, loss, scores };
            Ok(Answer { task: task.name.into(), of: case.of.clone(), truth, written, sample })
        };
        batch.iter().zip(continuations).map(compare).collect()
    }

    /// What decides a text evaluation's outcome.
    fn text_settings(&self, request: TextRequest) -> TextSettings {
        let digest = |stage, file| self.manifest.output(stage, file).map(String::from);
        let trained = request.model != TextModel::Backbone;
        TextSettings {
            task: "text".into(),
            model: request.model,
            limit: request.limit.unwrap_or(DEFAULT_LIMIT),
            split: Split::Test,
            split_rule: self.dataset.split_rule(),
            history: self.config.data.history,
            held_out: self.config.train.tasks.held_out,
            max_text_tokens: self.config.train.tasks.max_text_tokens,
            precision: self.config.backbone.precision,
            seed: self.config.seed,
            dataset: self.dataset.name.clone(),
            dataset_fingerprint: self.dataset.fingerprint.clone(),
            index_digest: digest(Stage::Index, "index.json"),
            backbone: self.config.backbone.path.clone(),
            model_digest: digest(Stage::Initial, "model.safetensors").filter(|_| trained),
            adapter_digest: digest(Stage::Anneal, "adapter_model.safetensors")
                .filter(|_| request.model == TextModel::On),
            files: self.files_of(request.model.made_by()),
            git_revision: crate::run::GIT_REVISION.into(),
            bootstrap: Some(Bootstrap::USED),
        }
    }
}
