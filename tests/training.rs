//! Laws of training: the two layouts, accumulation, resuming, determinism, the contrastive loss.

use std::sync::LazyLock;

use candle_core::{DType, Device, Tensor};
use llmbs::data::synth::{Shop, SynthConfig};
use llmbs::data::{Dataset, TextField};
use llmbs::index::ItemIndex;
use llmbs::model::sequential::{SasRecConfig, TransformerConfig};
use llmbs::model::{DropoutPair, Llama, LlamaConfig, LoraConfig, adapter, init};
use llmbs::nn::{Gradients, Params};
use llmbs::ops;
use llmbs::ranks::{Alone, Ranks, Threads};
use llmbs::tasks::{Direction, Mixture, Prompts, Sample, TasksConfig};
use llmbs::text::Tokenizer;
use llmbs::train::{
    Batch, Contrast, ContrastConfig, Control, DistillationConfig, EpochReport, Losses, Observer,
    Projectors, StageConfig, StepReport, Teacher, TrainOutcome, Trainer, Validation,
};
use ndarray::Array2;

/// A small shop with prompts and a model that fits them.
struct Fixture {
    dataset: Dataset,
    prompts: Prompts,
    config: LlamaConfig,
}

fn fixture() -> Fixture {
    let shop = SynthConfig { users: 60, items: 48, groups: 6, ..SynthConfig::default() };
    let dataset = Shop::generate(&shop).unwrap().dataset;
    let texts: Vec<&str> = dataset.items.iter().map(|i| i.title.as_str()).collect();
    let mut tokenizer = Tokenizer::train_bpe(texts.into_iter(), 400).unwrap();
    let index = ItemIndex::random(48, &[4, 4, 4], 2).unwrap();
    let mut names = index.vocabulary();
    names.push("<con>".into());
    let ids = tokenizer.add_item_tokens(&names).unwrap();
    let items =
        (0..48).map(|item| index.token_ids(item).iter().map(|at| ids[0] + at).collect()).collect();
    let con = ids[ids.len() - 1];
    let prompts = Prompts::new(&tokenizer, &dataset, items, con, 20, 3).unwrap();
    let config = LlamaConfig { vocab_size: tokenizer.vocab_size(), ..crate::common::config() };
    Fixture { dataset, prompts, config }
}

struct Trained {
    model: Llama,
    params: Params,
    projectors: Projectors,
}

fn contrast() -> ContrastConfig {
    ContrastConfig { semantic_weight: 0.5, behavior_weight: 0.5, ..ContrastConfig::default() }
}

fn trainable(fixture: &Fixture) -> Trained {
    let mut weights = init::scratch(&fixture.config, 3, &Device::Cpu).unwrap();
    let mut params = Params::new();
    for (name, weight) in &mut weights {
        *weight = params.insert(name.clone(), weight).unwrap();
    }
    let model = Llama::new(&fixture.config, &weights).unwrap();
    let projectors = projectors(fixture, &mut params);
    Trained { model, params, projectors }
}

fn projectors(fixture: &Fixture, params: &mut Params) -> Projectors {
    let z = |seed: u64, dim: usize| {
        let draws = llmbs::rng::normal(&mut llmbs::rng::stream(seed, "z", &[]), 48 * dim, 1.0);
        Array2::from_shape_vec((48, dim), draws).unwrap()
    };
    let hidden = fixture.config.hidden_size;
    Projectors::new(&contrast(), [Some(z(1, 6)), Some(z(2, 9))], hidden, 1, params, &Device::Cpu)
        .unwrap()
}

fn samples(fixture: &Fixture, epoch: u64) -> Vec<Sample> {
    samples_of(TasksConfig::default(), fixture, epoch)
}

fn samples_of(tasks: TasksConfig, fixture: &Fixture, epoch: u64) -> Vec<Sample> {
    let mixture = Mixture::new(&tasks, &fixture.dataset, &fixture.prompts, 20, 9);
    (Mixture { contrast: true, ..mixture }).epoch(epoch).unwrap()
}

fn train_config() -> StageConfig {
    StageConfig {
        epochs: 2,
        max_steps: Some(8),
        batch: 32,
        learning_rate: 3e-3,
        dropout: 0.1,
        save_every: 3,
        ..StageConfig::default()
    }
}

/// Gathers losses; stops after a number of steps.
struct Record {
    losses: Vec<f64>,
    top1: Vec<f64>,
    stop_after: usize,
}

impl Observer for Record {
    fn on_step(&mut self, report: &StepReport) -> llmbs::Result<Control> {
        self.losses.push(report.losses.total);
        self.top1.extend(report.losses.top1_s);
        let stop = self.losses.len() == self.stop_after;
        Ok(if stop { Control::Stop } else { Control::Continue })
    }

    fn on_epoch(&mut self, _report: &EpochReport) -> llmbs::Result<()> {
        Ok(())
    }
}

fn train(
    fixture: &Fixture,
    trained: &Trained,
    config: &StageConfig,
    state: Option<&std::path::Path>,
    stop_after: usize,
) -> (Record, llmbs::Result<TrainOutcome>) {
    train_rated(fixture, trained, config, state, stop_after, None)
}

fn train_rated(
    fixture: &Fixture,
    trained: &Trained,
    config: &StageConfig,
    state: Option<&std::path::Path>,
    stop_after: usize,
    validation: Option<Validation<'_>>,
) -> (Record, llmbs::Result<TrainOutcome>) {
    let contrast = contrast();
    let trainer = Trainer { state, ..plain_trainer(config, trained, &contrast) };
    run(&trainer, fixture, stop_after, validation)
}

fn run(
    trainer: &Trainer<'_>,
    fixture: &Fixture,
    stop_after: usize,
    validation: Option<Validation<'_>>,
) -> (Record, llmbs::Result<TrainOutcome>) {
    let mut record = Record { losses: Vec::new(), top1: Vec::new(), stop_after };
    let outcome = trainer.run(&|epoch| Ok(samples(fixture, epoch)), validation, &mut record);
    (record, outcome)
}

fn values(params: &Params) -> Vec<(String, Vec<f32>)> {
    params
        .tensors()
        .map(|(n, t)| (n.to_string(), t.flatten_all().unwrap().to_vec1().unwrap()))
        .collect()
}

/// Logits of every label of a sample.
fn label_logits(model: &Llama, sample: &Sample) -> Vec<Vec<f32>> {
    let batch = Batch::pack(std::slice::from_ref(sample), None);
    let hidden = model.hidden(&batch.input, None, DropoutPair::default()).unwrap();
    let logits: Vec<Vec<f32>> =
        ops::linear(&hidden, model.lm_head(), ops::Precision::Full).unwrap().to_vec2().unwrap();
    sample.labels.iter().map(|(at, _)| logits[*at as usize].clone()).collect()
}

#[test]
fn both_layouts_give_equal_logits() {
    let fixture = fixture();
    let model = trainable(&fixture).model;
    let items = fixture.dataset.train(0);
    for contrast in [false, true] {
        let sequence = fixture.prompts.sequence(items, 1, contrast);
        let all = label_logits(&model, &sequence);
        let mut expected = Vec::new();
        for target in 1..items.len() {
            let prefix =
                fixture.prompts.first_sequence_sample(&items[..target], items[target], contrast);
            expected.extend(label_logits(&model, &prefix.unwrap()));
        }
        crate::common::assert_close(&all, &expected, 1e-4);
    }
}

#[test]
fn con_sees_its_target_in_both_layouts() {
    let fixture = fixture();
    let model = trainable(&fixture).model;
    let items = fixture.dataset.train(1);
    let con_states = |sample: &Sample| {
        let batch = Batch::pack(std::slice::from_ref(sample), None);
        let hidden = model.hidden(&batch.input, None, DropoutPair::default()).unwrap();
        let hidden: Vec<Vec<f32>> = hidden.to_vec2().unwrap();
        sample.contrast.iter().map(|(at, _)| hidden[*at as usize].clone()).collect::<Vec<_>>()
    };
    let sequence = con_states(&fixture.prompts.sequence(items, 1, true));
    let prefix: Vec<Vec<f32>> = (1..items.len())
        .flat_map(|t| {
            con_states(&fixture.prompts.first_sequence_sample(&items[..t], items[t], true).unwrap())
        })
        .collect();
    crate::common::assert_close(&sequence, &prefix, 1e-4);
}

#[test]
fn no_con_and_no_eos_is_ever_a_label_after_an_index() {
    let fixture = fixture();
    for sample in samples(&fixture, 0) {
        let con: Vec<u32> =
            sample.contrast.iter().map(|(at, _)| sample.ids[*at as usize]).collect();
        for (at, label) in &sample.labels {
            assert!(!con.contains(label));
            assert!(!con.contains(&sample.ids[*at as usize]), "a <con> predicts");
        }
    }
}

/// Asserts that two passes computed the same losses and gradients, up to rounding.
fn assert_same_pass(
    params: &Params,
    (losses, gradients): &(Losses, Gradients),
    (other_losses, other): &(Losses, Gradients),
    tolerance: f32,
) {
    let close = |a: f64, b: f64| assert!((a - b).abs() < f64::from(tolerance), "loss {a}, {b}");
    close(losses.total, other_losses.total);
    close(losses.generation, other_losses.generation);
    close(losses.con_s.unwrap_or(0.0), other_losses.con_s.unwrap_or(0.0));
    for name in params.names() {
        let flat = |g: &Gradients| -> Vec<f32> {
            g.tensor(params, name).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let (a, b) = (flat(gradients), flat(other));
        assert_eq!(a.len(), b.len(), "{name}");
        let scale = a.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() < tolerance * scale, "{name}: {a} {b}");
        }
    }
}

/// Those of [`fixture`].
static ITEMS: LazyLock<Vec<u32>> = LazyLock::new(|| (0..48).collect());

/// A trainer without dropout on adapters and without state, for one pass.
fn plain_trainer<'a>(
    config: &'a StageConfig,
    trained: &'a Trained,
    contrast: &'a ContrastConfig,
) -> Trainer<'a> {
    Trainer {
        config,
        lora_dropout: 0.0,
        seed: 4,
        model: &trained.model,
        params: &trained.params,
        levels: None,
        contrast: Some(Contrast {
            projectors: &trained.projectors,
            config: contrast,
            items: &ITEMS,
        }),
        teacher: None,
        items: None,
        state: None,
        ranks: &Alone,
    }
}

/// What a stage may train: everything, or adapters and the rows of new tokens.
fn adapted(fixture: &Fixture) -> Trained {
    let mut weights = init::scratch(&fixture.config, 3, &Device::Cpu).unwrap();
    let mut params = Params::new();
    let lora = LoraConfig { rank: 3, dropout: 0.2, ..LoraConfig::default() };
    let adapters = adapter::create(&fixture.config, &weights, &lora, 1, &mut params).unwrap();
    for (i, adapter) in adapters.values().enumerate() {
        // B starts at zero, which would hide the gradient of A.
        let draws = llmbs::rng::normal(
            &mut llmbs::rng::stream(7, "b", &[i as u64]),
            adapter.b.elem_count(),
            0.1,
        );
        let b = Tensor::from_vec(draws, adapter.b.shape(), &Device::Cpu).unwrap();
        adapter.b.slice_set(&b, 0, 0).unwrap();
    }
    for (name, weight) in &mut weights {
        if name.contains("embed") || name.contains("lm_head") {
            let first_new = fixture.config.vocab_size - 13;
            *weight = params.insert_rows(name.clone(), weight, first_new).unwrap();
        }
    }
    let model = Llama::with_lora(&fixture.config, &weights, &adapters).unwrap();
    Trained { model, projectors: projectors(fixture, &mut params), params }
}

/// A SASRec that knows nothing, with the codes of the fixture's items.
fn teacher(fixture: &Fixture) -> Teacher {
    let transformer = TransformerConfig {
        dim: 8,
        blocks: 1,
        heads: 1,
        feed_forward: 8,
        history: 30,
        ..TransformerConfig::default()
    };
    let config = SasRecConfig { transformer, ..SasRecConfig::default() };
    let network = config.network(48, 3).unwrap();
    let config =
        DistillationConfig { weight: 0.4, temperature: 0.1, ..DistillationConfig::default() };
    Teacher::new(vec![Box::new(network)], config, &tokens_of_items(fixture))
}

fn tokens_of_items(fixture: &Fixture) -> Vec<Vec<u32>> {
    (0..48).map(|item| fixture.prompts.history(&[item])).collect()
}

#[test]
fn soft_targets_have_the_gradient_of_their_loss() {
    gradient_of_the_head(None);
}

#[test]
fn a_repeat_bias_has_the_gradient_of_its_loss() {
    let [without, with] = [None, Some(-4.0)].map(gradient_of_the_head);
    assert!((without - with).abs() > 1e-3, "{without} {with}");
}

/// Holds the gradient of the output projection against differences of the loss, and gives that.
fn gradient_of_the_head(repeat_bias: Option<f64>) -> f64 {
    let mut fixture = fixture();
    fixture.config.repeat_bias = repeat_bias;
    let items = tokens_of_items(&fixture);
    let trained = trainable(&fixture);
    let samples: Vec<Sample> = samples(&fixture, 0).into_iter().take(12).collect();
    let teacher = teacher(&fixture);
    let config = StageConfig { dropout: 0.0, ..train_config() };
    let contrast = contrast();
    let trainer = Trainer {
        teacher: Some(&teacher),
        items: Some(&items),
        contrast: None,
        ..plain_trainer(&config, &trained, &contrast)
    };
    let (losses, gradients) = trainer.gradients(&samples, 0).unwrap();
    let without_items = Trainer { items: None, ..plain_trainer(&config, &trained, &contrast) };
    assert_eq!(without_items.gradients(&samples, 0).is_err(), repeat_bias.is_some());
    let name = "lm_head.weight";
    let gradient = gradients.tensor(&trained.params, name).unwrap();
    let head = trained.params.snapshot().unwrap().remove(name).unwrap();
    // Along the gradient itself, where a difference is largest against rounding.
    let length = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    let step = 0.05 / f64::from(length);
    let loss_at = |distance: f64| {
        let moved = (&head + (&gradient * distance).unwrap()).unwrap();
        trained.params.set(name, &moved).unwrap();
        trainer.gradients(&samples, 0).unwrap().0.generation
    };
    let slope = (loss_at(step) - loss_at(-step)) / (2.0 * step);
    let expected = f64::from(length).powi(2);
    assert!((slope - expected).abs() < 0.01 * expected, "{slope}, expected {expected}");
    losses.generation
}

#[test]
fn the_pass_by_hand_equals_the_graph() {
    let mut fixture = fixture();
    for (tied, lora) in [(false, false), (true, false), (false, true), (true, true)] {
        fixture.config.tie_word_embeddings = tied;
        // With levels apart and without, with a teacher and without.
        fixture.config.repeat_bias = (tied != lora).then_some(-1.5);
        let items = tokens_of_items(&fixture);
        let trained = if lora { adapted(&fixture) } else { trainable(&fixture) };
        let samples: Vec<Sample> = samples(&fixture, 0).into_iter().take(40).collect();
        let contrast = contrast();
        // The last tokens are those of items, then `<con>`.
        let last = fixture.config.vocab_size as u32 - 1;
        let levels = |last: u32| vec![last - 12..last - 8, last - 8..last - 4, last - 4..last];
        let levels = (!tied).then(|| levels(last));
        // A teacher beside LoRA alone, so that both ways are taken with and without one.
        let teacher = lora.then(|| teacher(&fixture));
        let gradients = |checkpointing| {
            let config = StageConfig { checkpointing, micro_batch: Some(25), ..train_config() };
            let trainer = Trainer {
                lora_dropout: if lora { 0.2 } else { 0.0 },
                levels: levels.clone(),
                teacher: teacher.as_ref(),
                items: Some(&items),
                ..plain_trainer(&config, &trained, &contrast)
            };
            trainer.gradients(&samples, 0).unwrap()
        };
        let by_hand = gradients(false);
        let by_graph = |checkpointing| {
            let _guard = ops::force_composed();
            gradients(checkpointing)
        };
        let whole = by_graph(false);
        assert_same_pass(&trained.params, &by_hand, &whole, 2e-4);
        assert_same_pass(&trained.params, &by_hand, &gradients(true), 1e-9);
        assert_same_pass(&trained.params, &whole, &by_graph(true), 1e-6);
    }
}

#[test]
fn ranks_that_share_a_batch_come_to_the_gradients_of_one() {
    let mut fixture = fixture();
    let cases =
        [(3, 40, false, false), (2, 40, true, false), (2, 40, false, true), (5, 3, false, false)];
    for (size, count, tied, lora) in cases {
        fixture.config.tie_word_embeddings = tied;
        let trained = if lora { adapted(&fixture) } else { trainable(&fixture) };
        let samples: Vec<Sample> = samples(&fixture, 0).into_iter().take(count).collect();
        let contrast = contrast();
        let config = StageConfig { micro_batch: Some(25), ..train_config() };
        let gradients = |ranks: &dyn Ranks, composed: bool| {
            let _guard = composed.then(ops::force_composed);
            let trainer = Trainer {
                lora_dropout: if lora { 0.2 } else { 0.0 },
                ranks,
                ..plain_trainer(&config, &trained, &contrast)
            };
            trainer.gradients(&samples, 0).unwrap()
        };
        let alone = gradients(&Alone, false);
        for composed in [false, true] {
            let shared = Threads::run(size, |ranks| gradients(ranks, composed));
            for of_rank in &shared {
                assert_same_pass(&trained.params, &alone, of_rank, 2e-4);
                assert_same_pass(&trained.params, &shared[0], of_rank, f32::MIN_POSITIVE);
            }
        }
    }
}

#[test]
fn ranks_train_one_model_and_a_state_of_theirs_goes_on_alone() {
    let fixture = fixture();
    let config = train_config();
    let (state, alone) = (tempfile::tempdir().unwrap(), trainable(&fixture));
    train(&fixture, &alone, &config, None, usize::MAX).1.unwrap();
    let shared = Threads::run(2, |ranks| {
        let trained = trainable(&fixture);
        // Rank 0 hears of the signal.
        let stop_after = if ranks.rank() == 0 { 5 } else { usize::MAX };
        let contrast = contrast();
        let plain = plain_trainer(&config, &trained, &contrast);
        let trainer = Trainer { ranks, state: Some(state.path()), ..plain };
        let ended = run(&trainer, &fixture, stop_after, None).1;
        assert_eq!(ended.map(|outcome| (outcome.finished, outcome.steps)).unwrap(), (false, 5));
        values(&trained.params)
    });
    assert!(shared[0] == shared[1], "ranks have different parameters");
    let resumed = trainable(&fixture);
    let (record, outcome) = train(&fixture, &resumed, &config, Some(state.path()), usize::MAX);
    assert_eq!((record.losses.len(), outcome.unwrap().steps), (3, 8));
    for ((name, a), (_, b)) in values(&alone.params).iter().zip(&values(&resumed.params)) {
        let far = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-3, "{name}: {far}");
    }
}

#[test]
fn bf16_products_give_nearly_the_same_gradients() {
    let fixture = fixture();
    let mut trained = trainable(&fixture);
    let samples: Vec<Sample> = samples(&fixture, 0).into_iter().take(40).collect();
    let contrast = contrast();
    let mut gradients = |precision| {
        trained.model = trained.model.clone().with_precision(precision);
        let config = StageConfig { dropout: 0.0, ..train_config() };
        plain_trainer(&config, &trained, &contrast).gradients(&samples, 0).unwrap()
    };
    let (full, rounded) = (gradients(ops::Precision::Full), gradients(ops::Precision::Bf16));
    assert_same_pass(&trained.params, &full, &rounded, 0.05);
}

#[test]
fn weights_in_bf16_are_trained_as_the_values_they_hold() {
    let fixture = fixture();
    let samples: Vec<Sample> = samples(&fixture, 0).into_iter().take(40).collect();
    let contrast = contrast();
    let gradients = |dtype: DType| {
        let mut weights = init::scratch(&fixture.config, 3, &Device::Cpu).unwrap();
        let mut params = Params::new();
        for (name, weight) in &mut weights {
            let held = weight.to_dtype(DType::BF16).unwrap().to_dtype(dtype).unwrap();
            *weight = params.insert(name.clone(), &held).unwrap();
        }
        let model = Llama::new(&fixture.config, &weights).unwrap();
        let projectors = projectors(&fixture, &mut params);
        let trained = Trained { model, params, projectors };
        let config = StageConfig { dropout: 0.0, ..train_config() };
        let pass = plain_trainer(&config, &trained, &contrast).gradients(&samples, 0).unwrap();
        (trained.params, pass)
    };
    let ((params, full), (_, half)) = (gradients(DType::F32), gradients(DType::BF16));
    assert_same_pass(&params, &full, &half, 1e-5);
}

#[test]
fn memory_is_told_before_the_start() {
    let fixture = fixture();
    let trained = trainable(&fixture);
    let (samples, contrast) = (samples(&fixture, 0), contrast());
    let memory = |checkpointing, micro_batch| {
        let config = StageConfig { checkpointing, micro_batch, ..train_config() };
        plain_trainer(&config, &trained, &contrast).memory(&samples).unwrap()
    };
    let whole = memory(false, None);
    let scalars: usize = trained.params.tensors().map(|(_, t)| t.elem_count()).sum();
    assert_eq!(whole.gradients, 4 * scalars as u64);
    assert_eq!(whole.moments, 8 * scalars as u64);
    assert!(memory(true, None).kept < whole.kept / 2);
    let parts = memory(false, Some(1));
    assert!(parts.kept < whole.kept && parts.weights == whole.weights);
    // Three ranks divide the moments, and each batch.
    let shared = Threads::run(3, |ranks| {
        let config = train_config();
        let trainer = Trainer { ranks, ..plain_trainer(&config, &trained, &contrast) };
        trainer.memory(&samples).unwrap()
    });
    for of_rank in shared {
        assert_eq!(of_rank.moments, 8 * scalars as u64 / 3);
        assert!(of_rank.kept < whole.kept / 2, "{} of {}", of_rank.kept, whole.kept);
    }
    // A moving average has every row, of what is trained in part the others, too.
    let mut params = Params::new();
    for (name, tensor) in trained.params.tensors() {
        params.insert_rows(name, tensor, tensor.dim(0).unwrap() / 2).unwrap();
    }
    let config = StageConfig { ema: 0.9, ..train_config() };
    let in_part = Trainer { params: &params, ..plain_trainer(&config, &trained, &contrast) };
    let moments = in_part.memory(&samples).unwrap().moments;
    assert_eq!(moments, 8 * params.num_trained() as u64 + 4 * scalars as u64);
}

#[test]
fn four_micro_batches_equal_one_batch() {
    let fixture = fixture();
    let trained = trainable(&fixture);
    let samples: Vec<Sample> = samples(&fixture, 0).into_iter().take(128).collect();
    assert_eq!(samples.len(), 128);
    let contrast = contrast();
    let gradients = |micro_batch| {
        let config = StageConfig { micro_batch, dropout: 0.0, ..train_config() };
        plain_trainer(&config, &trained, &contrast).gradients(&samples, 0).unwrap()
    };
    let (whole, parts) = (gradients(None), gradients(Some(32)));
    assert_same_pass(&trained.params, &whole, &parts, 1e-4);
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let fixture = fixture();
    let config = train_config();
    let (uninterrupted, whole) = (trainable(&fixture), tempfile::tempdir().unwrap());
    let (first, outcome) = train(&fixture, &uninterrupted, &config, Some(whole.path()), 0);
    assert!(outcome.unwrap().finished);

    let dir = tempfile::tempdir().unwrap();
    // Stopped in the middle of an epoch, then taken up by a fresh process's worth of objects.
    let (begun, outcome) = train(&fixture, &trainable(&fixture), &config, Some(dir.path()), 5);
    assert!(!outcome.unwrap().finished);
    let resumed = trainable(&fixture);
    let (rest, outcome) = train(&fixture, &resumed, &config, Some(dir.path()), 0);
    assert_eq!(outcome.unwrap().steps, 8);
    assert_eq!([begun.losses, rest.losses].concat(), first.losses);
    assert_eq!(values(&resumed.params), values(&uninterrupted.params));
}

#[test]
fn a_run_stopped_at_its_last_step_still_rates_its_last_epoch() {
    let fixture = fixture();
    let config = train_config();
    let run = |state: &std::path::Path, stop_after, before: f64| {
        let trained = trainable(&fixture);
        let mut rated = 0;
        // Each epoch is better than the one before.
        let mut measure = || {
            rated += 1;
            Ok(before + f64::from(rated))
        };
        let validation = Validation { measure: &mut measure, patience: 0, from_start: false };
        let (_, outcome) =
            train_rated(&fixture, &trained, &config, Some(state), stop_after, Some(validation));
        (outcome.unwrap(), values(&trained.params), rated)
    };
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (outcome, expected, epochs) = run(whole.path(), 0, 0.0);
    assert!(outcome.finished && epochs > 0);
    let (outcome, _, rated) = run(cut.path(), 8, 0.0);
    assert_eq!((outcome.finished, outcome.steps, rated), (false, 8, epochs - 1));
    let (outcome, found, rated) = run(cut.path(), 0, 100.0);
    assert_eq!((outcome.finished, outcome.steps, rated), (true, 8, 1));
    assert!(found == expected, "the last epoch was not the one that is kept");
}

#[test]
fn few_samples_are_passed_over_until_there_are_enough_steps() {
    let fixture = fixture();
    // Full batches alone, so that the batches of two passes together are those of the passes.
    let count = samples(&fixture, 0).len();
    let batch = (1..=64).rev().find(|&batch| count.is_multiple_of(batch)).unwrap();
    let per_pass = (count / batch) as u64;
    assert!(batch > 8, "{count} samples");
    let train_config = || StageConfig { max_steps: None, batch, ..train_config() };
    let config = |epochs, min_steps| StageConfig { epochs, min_steps, ..train_config() };
    let run = |config: &StageConfig, state: Option<&std::path::Path>, stop_after| {
        let trained = trainable(&fixture);
        let (record, outcome) = train(&fixture, &trained, config, state, stop_after);
        (record.losses, outcome.unwrap().steps, values(&trained.params))
    };
    let repeated = config(2, 2 * per_pass + 1);
    let (losses, steps, weights) = run(&repeated, None, 0);
    assert_eq!((losses.len() as u64, steps), (4 * per_pass, 4 * per_pass));
    // The passes differ as those of four epochs do.
    assert_eq!((losses.clone(), steps, weights.clone()), run(&config(4, 0), None, 0));
    // A process that is stopped in the second pass of the second epoch goes on there.
    let dir = tempfile::tempdir().unwrap();
    let stop = 3 * per_pass as usize + 2;
    let (first, ..) = run(&repeated, Some(dir.path()), stop);
    let (rest, _, resumed) = run(&repeated, Some(dir.path()), 0);
    assert_eq!([first, rest].concat(), losses);
    assert_eq!(resumed, weights);
    // Enough steps: nothing is repeated.
    assert_eq!(run(&config(2, 2 * per_pass), None, 0).1, 2 * per_pass);
}

#[test]
fn one_and_two_threads_train_the_same_bits() {
    let fixture = fixture();
    let run = |threads: usize, precision| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut trained = trainable(&fixture);
            trained.model = trained.model.with_precision(precision);
            let (record, _) = train(&fixture, &trained, &train_config(), None, 0);
            (record.losses, values(&trained.params))
        })
    };
    for precision in [ops::Precision::Full, ops::Precision::Bf16] {
        assert_eq!(run(1, precision), run(2, precision));
    }
}

#[test]
fn the_contrastive_loss_teaches_con_its_item() {
    let fixture = fixture();
    let trained = trainable(&fixture);
    let config = StageConfig { epochs: 60, max_steps: None, dropout: 0.0, ..train_config() };
    let (record, _) = train(&fixture, &trained, &config, None, 0);
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let n = record.top1.len() / 5;
    let (first, last) = (mean(&record.top1[..n]), mean(&record.top1[record.top1.len() - n..]));
    assert!(last > 2.0 * first && last > 0.2, "{first} {last}");
    assert!(record.losses.last().unwrap() < &(0.8 * record.losses[0]));
}

#[test]
fn a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_state() {
    let fixture = fixture();
    let trained = trainable(&fixture);
    let dir = tempfile::tempdir().unwrap();
    let config = train_config();
    train(&fixture, &trained, &config, Some(dir.path()), 3).1.unwrap();
    let progress = dir.path().join("latest/progress.json");
    let before = std::fs::read(&progress).unwrap();
    let params = std::fs::read(dir.path().join("latest/params.safetensors")).unwrap();

    // Ten steps in a row, or fewer where there are no more.
    for epochs in [config.epochs, 60] {
        let broken = StageConfig {
            epochs,
            max_steps: None,
            learning_rate: 1e30,
            warmup_ratio: 0.0,
            ..config.clone()
        };
        let result = train(&fixture, &trainable(&fixture), &broken, Some(dir.path()), 0).1;
        let text = result.unwrap_err().to_string();
        assert!(text.contains("steps in a row") && text.contains("learning rate"), "{text}");
    }
    assert_eq!(std::fs::read(&progress).unwrap(), before);
    assert_eq!(std::fs::read(dir.path().join("latest/params.safetensors")).unwrap(), params);
}

/// Stops where the loss is more than that of a state to go on from.
struct StopsWhenWorse {
    most: f64,
}

impl Observer for StopsWhenWorse {
    fn on_step(&mut self, report: &StepReport) -> llmbs::Result<Control> {
        let is_worse = report.losses.generation > self.most;
        Ok(if is_worse { Control::Stop } else { Control::Continue })
    }

    fn on_epoch(&mut self, _report: &EpochReport) -> llmbs::Result<()> {
        Ok(())
    }
}

#[test]
fn who_stops_a_training_that_explodes_keeps_the_state_before() {
    let fixture = fixture();
    let dir = tempfile::tempdir().unwrap();
    let config = train_config();
    train(&fixture, &trainable(&fixture), &config, Some(dir.path()), 3).1.unwrap();
    let trained = trainable(&fixture);
    let wild = StageConfig {
        epochs: 60,
        max_steps: None,
        learning_rate: 1.0,
        warmup_ratio: 0.0,
        save_every: 1,
        ..config
    };
    let contrast = ContrastConfig::default();
    let trainer = Trainer { state: Some(dir.path()), ..plain_trainer(&wild, &trained, &contrast) };
    let most = 2.0 * (trained.model.config().vocab_size as f64).ln();
    let samples = |epoch| Ok(samples(&fixture, epoch));
    let stopped = trainer.run(&samples, None, &mut StopsWhenWorse { most }).unwrap();
    assert!(!stopped.finished && stopped.saved < stopped.steps, "{stopped:?}");
    let progress = std::fs::read(dir.path().join("latest/progress.json")).unwrap();
    let progress: serde_json::Value = serde_json::from_slice(&progress).unwrap();
    assert_eq!(progress["step"], stopped.saved);
    let (after, saved) = (stopped.steps, stopped.saved);
    let told = stopped.finished().unwrap_err().to_string();
    let expected = format!("step {after}, its loss above that of guessing; not so at step {saved}");
    assert!(told.contains(&expected), "{told}");
}

#[test]
fn negatives_are_items_that_there_are() {
    let items: Vec<u32> = (0..40).filter(|id| id % 3 != 0).collect();
    let of = |negatives| {
        let config = ContrastConfig { negatives, ..ContrastConfig::default() };
        Projectors::negatives(&config, &items, 1, 2)
    };
    assert_eq!(of(items.len()), items);
    let some = of(9);
    assert_eq!(some.iter().filter(|id| items.contains(id)).count(), 9);
    assert!(some.is_sorted_by(|a, b| a < b), "{some:?}");
}

#[test]
fn samples_know_nothing_of_validation_and_test_items() {
    let fixture = fixture();
    let before = samples(&fixture, 0);
    let mut dataset = fixture.dataset.clone();
    for user in &mut dataset.users {
        let n = user.items.len();
        for item in &mut user.items[n - 2..] {
            *item = (*item + 7) % 48;
        }
    }
    let changed = Fixture { dataset, ..fixture };
    assert_eq!(samples(&changed, 0), before);
}

#[test]
fn texts_held_out_are_neither_answered_nor_asked_with() {
    let fixture = fixture();
    let held_out = TasksConfig { held_out: 0.25, ..TasksConfig::default() };
    let items = held_out.items_held_out(48, 9);
    assert_eq!(items.iter().filter(|held_out| **held_out).count(), 12);
    // New items change nothing for those before them, whatever the share.
    for held_out in [0.05, 0.25, 0.3, 0.5, 0.9, 1.0] {
        let tasks = TasksConfig { held_out, ..TasksConfig::default() };
        let many = tasks.items_held_out(1000, 9);
        let share = many.iter().filter(|held_out| **held_out).count() as f64 / 1000.0;
        assert!((share - held_out).abs() < 1e-3, "{share}");
        let other = tasks.items_held_out(1000, 8);
        assert!(held_out == 1.0 || other != many, "{held_out}");
        assert!((0..100).all(|few| many.starts_with(&tasks.items_held_out(few, 9))), "{held_out}");
    }
    assert!(!TasksConfig::default().items_held_out(48, 9).contains(&true));
    let title = |item| -> Vec<u32> {
        let (direction, field) = (Direction::IndexToText, TextField::Title);
        let sample = fixture.prompts.first_text_sample(direction, field, &[], item).unwrap();
        sample.unwrap().response().collect()
    };
    let titles: Vec<Vec<u32>> = (0..48).map(title).collect();
    let only = |item: &usize| titles.iter().filter(|other| **other == titles[*item]).count() == 1;
    let kept: Vec<usize> = (0..48).filter(|&item| items[item]).filter(only).collect();
    let count = |tasks: TasksConfig| {
        let samples: Vec<Sample> =
            (0..4).flat_map(|epoch| samples_of(tasks, &fixture, epoch)).collect();
        let with = |response_of: &dyn Fn(usize) -> Vec<u32>| {
            let responses: Vec<_> = kept.iter().map(|&item| response_of(item)).collect();
            let texts = samples.iter().filter(|sample| !sample.recommends);
            texts.filter(|sample| responses.contains(&sample.response().collect())).count()
        };
        let index = |item| fixture.prompts.history(&[item as u32]);
        (with(&|item| titles[item].clone()), with(&index))
    };
    // Preference reconstruction asks for the same items' indices with the titles of others.
    let semantic = TasksConfig { preference: 0.0, ..held_out };
    let all = count(TasksConfig::default());
    assert!(kept.len() > 6 && all.0 > 0 && all.1 > 0);
    assert_eq!((count(held_out).0, count(semantic)), (0, (0, 0)));
}
