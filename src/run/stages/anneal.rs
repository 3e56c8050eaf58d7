//! Stage `anneal`: a LoRA adapter trained on sequence recommendation alone, over the frozen model
//! (paper, section 3.4.2).

use super::Made;
use super::initial::figures;
use crate::Result;
use crate::model::adapter;
use crate::nn::Params;
use crate::run::artifacts::{Trained, levels_apart};
use crate::run::eval::ValidationMetric;
use crate::run::log::TrainLog;
use crate::run::work::Work;
use crate::run::{Monitor, Run, Stage};
use crate::tasks::Mixture;
use crate::train::{Trainer, Validation};

pub(in crate::run) fn run(run: &Run, monitor: &mut dyn Monitor) -> Result<Made> {
    run.together(Work::Anneal, || train(run, monitor))
}

fn train(run: &Run, monitor: &mut dyn Monitor) -> Result<Made> {
    let config = &run.config.train;
    let trained = Trained::load(run)?;
    let mut params = Params::new();
    let adapters = adapter::create(
        &trained.config,
        &trained.weights,
        &config.adapter,
        run.config.seed,
        &mut params,
    )?;
    let model = trained.adapted(run, &adapters)?;
    tracing::info!("stage anneal: {} weights are trained", params.num_trained());

    let prompts = trained.tokens.prompts(&run.dataset, &config.tasks)?;
    let tasks = config.tasks.sequence_only();
    // A stream of its own: the annealing stage does not repeat the order of the initial one.
    let seed = run.config.seed.wrapping_add(1);
    let mixture = Mixture::new(&tasks, &run.dataset, &prompts, run.config.data.history, seed);
    let mixture = Mixture { selection: config.selection, ..mixture };
    let samples = |epoch| mixture.epoch(epoch);
    let state = run.state_of(Stage::Anneal);
    let trainer = Trainer {
        config: &config.anneal,
        lora_dropout: config.adapter.dropout,
        seed,
        model: &model,
        params: &params,
        levels: levels_apart(run, &trained.tokens),
        contrast: None,
        teacher: None,
        items: Some(&trained.tokens.items),
        state: Some(&state),
        ranks: run.ranks,
    };
    let metric = ValidationMetric::new(run, &trained.index, &trained.tokens, &prompts)?;
    // An adapter that does not help is none: the model before annealing is one to choose.
    let validation = Validation {
        measure: &mut || metric.of(&model),
        patience: config.validation.patience,
        from_start: true,
    };
    let mut log = TrainLog::new(run, "anneal", config.anneal.log_every, monitor)
        .stopped_by_signals()
        .with_validation(metric.bytes(&model));
    let outcome = trainer.run(&samples, Some(validation), &mut log)?.finished()?;
    let predicted = log.predicted;
    drop(log);
    if !run.ranks.is_first() {
        return Ok(Made::default());
    }
    if outcome.best.is_some_and(|(_, epoch)| epoch == 0) {
        tracing::warn!(
            "stage anneal: no epoch was better than the model before it on validation: the adapter \
             changes nothing"
        );
    }

    let dir = run.result_of(Stage::Anneal).join("anneal");
    adapter::save(&dir, "../initial", &config.adapter, &adapters)?;
    let wrote = Made::of(adapter::FILES).within("anneal");
    Ok(Made { figures: figures(run, &outcome, predicted), ..wrote })
}
