//! Stage `initial`: all tasks and the contrastive loss (paper, section 3.4.1).

use candle_core::Tensor;
use serde_json::{Map, Value, json};

use super::{FOLDER, Made, teacher};
use crate::config::{TrainEmbeddings, Tuning};
use crate::inference::ItemTokens;
use crate::model::adapter::{self, Adapters};
use crate::model::llama::{EMBEDDING, HEAD};
use crate::model::{Llama, LlamaConfig, Weights, load_safetensors, save_folder, save_safetensors};
use crate::nn::Params;
use crate::run::artifacts::{
    extended_backbone, levels_apart, load_index, load_matrix, matrix_file, precision,
};
use crate::run::eval::ValidationMetric;
use crate::run::log::TrainLog;
use crate::run::work::Work;
use crate::run::{Monitor, Run, Stage, peak_memory_bytes};
use crate::tasks::Mixture;
use crate::train::{Contrast, Projectors, TrainOutcome, Trainer, Validation, log_repeats};
use crate::{Result, invalid};

/// The file of the projectors, beside the model.
const PROJECTORS: &str = "projectors.safetensors";

/// Refuses a run whose index was made with matrices that are gone: without them the loss would be another.
pub(in crate::run) fn check(run: &Run) -> Result<()> {
    for name in ["semantic", "behavior"] {
        matrix_file(run, name)?;
    }
    teacher::check(run)
}

/// The model of the run `before` as it is, with rows for the items of this one.
pub(in crate::run) fn take_over(run: &Run, before: &Run) -> Result<Made> {
    let (llama, weights, tokens) = run.carried(before, &load_index(run)?)?;
    save(run, &llama, &weights, &tokens, &projectors_of(before)?)
}

/// Trains the backbone, or the model of the run `before` on what it has not seen.
pub(in crate::run) fn run(
    run: &Run,
    before: Option<&Run>,
    monitor: &mut dyn Monitor,
) -> Result<Made> {
    teacher::train(run, monitor)?;
    let work = Work::Initial { before: before.map(|before| before.dir.clone()) };
    run.together(work, || train(run, before, monitor))
}

fn train(run: &Run, before: Option<&Run>, monitor: &mut dyn Monitor) -> Result<Made> {
    let config = &run.config.train;
    let index = load_index(run)?;
    let (llama, mut weights, tokens) = match before {
        Some(before) => run.carried(before, &index)?,
        None => extended_backbone(run, &index)?,
    };
    let repeat_bias = config.repeat_bias.then(|| log_repeats(&run.dataset));
    let llama = LlamaConfig { repeat_bias, ..llama };
    let seen = before.map(|before| run.seen(before));
    let stage = match before {
        Some(_) => config.continued.of(&config.initial),
        None => config.initial.clone(),
    };
    let first = tokens.vocabulary.first as usize;

    let mut params = Params::new();
    let adapters = make_trainable(run, &llama, &mut weights, first, &mut params)?;
    let model = Llama::with_lora(&llama, &weights, &adapters)?.with_precision(precision(run));
    let z = [load_matrix(run, "semantic")?, load_matrix(run, "behavior")?];
    let nothing_to_contrast = z.iter().all(Option::is_none);
    let projectors = Projectors::new(
        &config.contrast,
        z,
        llama.hidden_size,
        run.config.seed,
        &mut params,
        &run.device,
    )?;
    for (name, value) in before.map(projectors_of).transpose()?.unwrap_or_default() {
        let name = format!("{}{name}", Projectors::PREFIX);
        // This run may have switched a side of the loss off.
        if params.names().any(|own| own == name) {
            params.set(&name, &value)?;
        }
    }
    if projectors.is_empty() && nothing_to_contrast {
        tracing::info!("stage initial: the index has no z^s and z^b: the contrastive loss is off");
    }
    tracing::info!(
        "stage initial: {} weights are trained; the model has {}",
        params.num_trained(),
        weights.values().map(Tensor::elem_count).sum::<usize>()
    );

    let prompts = tokens.prompts(&run.dataset, &config.tasks)?;
    let contrast = !projectors.is_empty();
    let (history, seed) = (run.config.data.history, run.config.seed);
    let mixture = Mixture::new(&config.tasks, &run.dataset, &prompts, history, seed);
    let mixture = Mixture { contrast, seen: seen.as_ref(), ..mixture };
    let samples = |epoch| {
        let samples = mixture.epoch(epoch)?;
        if let Some(before) = before.filter(|_| samples.is_empty()) {
            invalid!(
                "{}: nothing came since {} that could be learnt from: what is held out for validation and test is not",
                run.dataset.name,
                before.dir.display()
            );
        }
        Ok(samples)
    };
    let teacher = teacher::teacher(run, &tokens, &stage, &samples, monitor)?;
    let state = run.state_of(Stage::Initial);
    let catalogue: Vec<_> = run.dataset.catalogue().collect();
    let lora_dropout = if adapters.is_empty() { 0.0 } else { config.lora.dropout };
    let trainer = Trainer {
        config: &stage,
        lora_dropout,
        seed,
        model: &model,
        params: &params,
        levels: levels_apart(run, &tokens),
        contrast: contrast.then_some(Contrast {
            projectors: &projectors,
            config: &config.contrast,
            items: &catalogue,
        }),
        teacher: teacher.as_ref(),
        items: Some(&tokens.items),
        state: Some(&state),
        ranks: run.ranks,
    };
    let metric = ValidationMetric::new(run, &index, &tokens, &prompts)?;
    let validation = Validation {
        measure: &mut || metric.of(&model),
        patience: config.validation.patience,
        // A model that more training makes no better stays as it was.
        from_start: before.is_some(),
    };
    let mut log = TrainLog::new(run, "initial", stage.log_every, monitor)
        .stopped_by_signals()
        .with_validation(metric.bytes(&model));
    let outcome = trainer.run(&samples, Some(validation), &mut log)?.finished()?;
    let predicted = log.predicted;
    drop(log);
    if !run.ranks.is_first() {
        return Ok(Made::default());
    }
    warn(run, before, &outcome);

    // The trained tensors are shared with `weights`: what is saved is what was trained.
    let merged = adapter::merge(&weights, &adapters)?;
    let made = save(run, &llama, &merged, &tokens, &projectors_among(&params))?;
    Ok(Made { figures: figures(run, &outcome, predicted), ..made })
}

/// Saves a model with its projectors, where it has some, as that of the run.
fn save(
    run: &Run,
    llama: &LlamaConfig,
    weights: &Weights,
    tokens: &ItemTokens,
    projectors: &Weights,
) -> Result<Made> {
    let dir = run.result_of(Stage::Initial).join("initial");
    save_folder(&dir, llama, weights)?;
    tokens.tokenizer.save(&dir)?;
    let mut names = FOLDER.to_vec();
    if !projectors.is_empty() {
        save_safetensors(dir.join(PROJECTORS), projectors)?;
        names.push(PROJECTORS);
    }
    Ok(Made::of(names).within("initial"))
}

/// The projectors beside the model of a run; none where it kept none.
fn projectors_of(run: &Run) -> Result<Weights> {
    let path = run.dir.join("initial").join(PROJECTORS);
    if path.exists() { load_safetensors(path, &run.device) } else { Ok(Weights::new()) }
}

/// The projectors that were trained.
fn projectors_among(params: &Params) -> Weights {
    let projector = |(name, t): (&str, &Tensor)| {
        Some((name.strip_prefix(Projectors::PREFIX)?.to_string(), t.detach()))
    };
    params.tensors().filter_map(projector).collect()
}

/// Steps below which a backbone has hardly seen its items.
const FEW_STEPS: u64 = 1_000;

/// Says what the training leaves to be gained, or where the model of `before` stays as it was.
fn warn(run: &Run, before: Option<&Run>, outcome: &TrainOutcome) {
    let best_epoch = outcome.best.map(|(_, epoch)| epoch);
    if let Some(before) = before {
        if outcome.steps > 0 && best_epoch == Some(0) {
            tracing::warn!(
                "no epoch was better on validation than the model of {}, which stays as it was",
                before.dir.display()
            );
        }
        return;
    }
    let config = &run.config.train.initial;
    if outcome.steps < FEW_STEPS {
        tracing::warn!(
            "stage initial had only {} steps: train.initial.min-steps = 2500 repeats the samples until \
             there are enough",
            outcome.steps
        );
    }
    if config.epochs > 1 && best_epoch == Some(config.epochs) {
        tracing::warn!(
            "the last epoch of stage initial was the best: train.initial.epochs above {} may be better",
            config.epochs
        );
    }
}

/// Registers what the configuration lets training change; gives the adapters of `tuning = "lora"`.
fn make_trainable(
    run: &Run,
    llama: &LlamaConfig,
    weights: &mut Weights,
    first_new: usize,
    params: &mut Params,
) -> Result<Adapters> {
    let config = &run.config.train;
    let adapters = match config.tuning {
        Tuning::Full => Adapters::new(),
        Tuning::Lora => adapter::create(llama, weights, &config.lora, run.config.seed, params)?,
    };
    for (name, weight) in weights.iter_mut() {
        let rows = name == EMBEDDING || name == HEAD;
        match (rows, config.train_embeddings) {
            (true, TrainEmbeddings::All) => *weight = params.insert(name.clone(), weight)?,
            (true, TrainEmbeddings::New) => {
                *weight = params.insert_rows(name.clone(), weight, first_new)?;
            }
            (false, _) if config.tuning == Tuning::Full => {
                *weight = params.insert(name.clone(), weight)?;
            }
            (true, TrainEmbeddings::None) | (false, _) => {}
        }
    }
    Ok(adapters)
}

/// The figures of a finished training run.
pub(super) fn figures(
    run: &Run,
    outcome: &TrainOutcome,
    predicted: Option<u64>,
) -> Map<String, Value> {
    let mut figures = json!({
        "steps": outcome.steps,
        "skipped_steps": outcome.skipped,
        "tokens_per_s": outcome.tokens as f64 / outcome.seconds.max(1e-9),
        "best_epoch": outcome.best.map(|(_, epoch)| epoch),
        "predicted_memory_bytes": predicted,
        "peak_memory_bytes": peak_memory_bytes(),
    });
    let metric = &run.config.train.validation.metric;
    figures[format!("best_validation_{metric}")] = json!(outcome.best.map(|(value, _)| value));
    figures.as_object().cloned().unwrap_or_default()
}
