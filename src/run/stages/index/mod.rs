//! Stage `index`: the backbone, both embeddings, and the codes made from them.

mod behavior;
mod codes;
mod data;
mod extend;
mod forms;
mod import;
mod semantic;

use std::path::{Path, PathBuf};

use ndarray::Array2;
use serde_json::{Map, json};

use super::{FOLDER, Made, with_remedy};
use crate::config::RunConfig;
use crate::data::Dataset;
use crate::index::store;
use crate::inference::ItemTokens;
use crate::model::{Backbone, Llama, LlamaConfig, init, save_folder};
use crate::nn::Params;
use crate::run::artifacts::{backbone, load_backbone_at, plan_of, precision};
use crate::run::log::TrainLog;
use crate::run::manifest::settings_under;
use crate::run::unfinished::kept_for;
use crate::run::{Monitor, Run, Stage};
use crate::tasks::template_texts;
use crate::text::Tokenizer;
use crate::train::{Trainer, language_model_samples, shuffled};
use crate::{Error, Result};

pub(in crate::run) use data::has_copy;
pub(in crate::run) use extend::{read_grown, run as extend};
pub use forms::{IndexFormat, read_index};
pub use import::ImportRequest;
pub(in crate::run) use semantic::{digests, embed_texts, help_embed};

/// The folder of a backbone from scratch.
pub(in crate::run) const BACKBONE: &str = "backbone";

/// Refuses what cannot become an index, before anything is written: an infeasible pair of k and levels
/// fails in a moment.
pub(in crate::run) fn check(run: &Run) -> Result<()> {
    semantic::check(run)?;
    behavior::check_alignment(run)?;
    plan_of(&run.config, run.dataset.num_items()).map(drop)
}

pub(in crate::run) fn run(run: &Run, monitor: &mut dyn Monitor) -> Result<Made> {
    let (config, dataset) = (&run.config, &run.dataset);
    let source = config.index.source;
    let has_behavior = source.has_behavior();
    let plans = plan_of(config, dataset.num_items())?;
    let (backbone, wrote_backbone) = prepare_backbone(run, monitor)?;
    ItemTokens::refuse_known(&backbone.tokenizer, &plans)?;
    let new = &run.result_of(Stage::Index).join("index");
    std::fs::create_dir_all(new).map_err(Error::io(new))?;
    let made = {
        let mut made = Made::of(["index.json"]);
        made.tell("items", dataset.num_items());
        made.tell("source", json!(source));
        made.tell("method", json!(config.index.method));
        let z_semantic = if source.has_semantic() {
            let (z, part) = semantic::make(run, &backbone, new, monitor)?;
            made.take(part);
            Some(z)
        } else {
            None
        };
        let z_behavior = if has_behavior || config.index.aligns() {
            // What codes of texts are no more than drawn to stands beside the autoencoder that is.
            let place = if has_behavior { "" } else { codes::RQ_VAE };
            let (z, part) = behavior::make(run, &new.join(place), monitor)?;
            made.take(part.within(place));
            Some(z)
        } else {
            None
        };
        let of_codes = [&z_semantic, if has_behavior { &z_behavior } else { &None }];
        let vectors: Vec<&Array2<f32>> = of_codes.into_iter().flatten().collect();
        let aligned = z_behavior.as_ref().filter(|_| config.index.aligns());
        let (index, part) = codes::build(run, &plans, &vectors, aligned, new, monitor)?;
        made.take(part);
        // Every item's tokens must come out of the tokenizer as they went in, whatever stands before them.
        ItemTokens::extend(backbone.tokenizer.clone(), &index)?.check(&index)?;
        store::write(&new.join("index.json"), &index)?;
        let codes: Vec<usize> = index.levels().iter().map(|level| level.num_codes).collect();
        made.tell("levels", codes);
        made.tell("item_tokens", index.vocabulary().len());
        made
    };
    let mut all = made.within("index");
    all.files.extend(wrote_backbone);
    all.take(data::keep(run)?);
    Ok(all)
}

/// The backbone, and the files it was written to where it is one from scratch.
pub(in crate::run) fn prepare_backbone(
    run: &Run,
    monitor: &mut dyn Monitor,
) -> Result<(Backbone, Vec<PathBuf>)> {
    if run.config.backbone.path.is_some() {
        return Ok((backbone(run)?, Vec::new()));
    }
    let dir = run.result_of(Stage::Index).join(BACKBONE);
    prepare_scratch(run, &dir, monitor)?;
    let wrote = FOLDER.map(|name| Path::new(BACKBONE).join(name));
    Ok((load_backbone_at(run, &dir)?, wrote.into()))
}

/// Writes a backbone from scratch to `dir`: its tokenizer learnt on the item texts, its weights warmed up on
/// them.
fn prepare_scratch(run: &Run, dir: &Path, monitor: &mut dyn Monitor) -> Result<()> {
    let (config, dataset) = (&run.config, &run.dataset);
    let scratch = &config.backbone.scratch;
    let tokenizer = scratch_tokenizer(dataset, config)?;
    let llama = LlamaConfig {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: scratch.hidden_size,
        intermediate_size: scratch.intermediate_size,
        num_hidden_layers: scratch.num_hidden_layers,
        num_attention_heads: scratch.num_attention_heads,
        num_key_value_heads: scratch.num_key_value_heads,
        tie_word_embeddings: scratch.tie_word_embeddings,
        head_dim: scratch.hidden_size / scratch.num_attention_heads,
        max_position_embeddings: 2048,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        initializer_range: 0.02,
        torch_dtype: None,
        bos_token_id: tokenizer.bos(),
        eos_token_id: vec![tokenizer.eos()],
        generation: Map::new(),
    };
    let mut weights = init::scratch(&llama, config.seed, &run.device)?;
    let samples =
        language_model_samples(&tokenizer, dataset, config.index.semantic.max_text_tokens)?;
    if !samples.is_empty() && config.train.warmup.epochs > 0 {
        let mut params = Params::new();
        for (name, weight) in &mut weights {
            *weight = params.insert(name.clone(), weight)?;
        }
        let model = Llama::new(&llama, &weights)?.with_precision(precision(run));
        let own = ["seed", "backbone.", "train.warmup.", "index.semantic.max-text-tokens"];
        let key = json!([settings_under(&own, config)?, dataset.fingerprint]);
        let state = kept_for(&run.workshop(Stage::Index).join("warmup"), &key)?;
        let trainer = Trainer {
            state: Some(&state),
            ..Trainer::new(&config.train.warmup, config.seed, &model, &params)
        };
        let mut log = TrainLog::new(run, "warmup", config.train.warmup.log_every, monitor)
            .stopped_by_signals();
        let samples = |epoch| Ok(shuffled(&samples, config.seed, epoch));
        let outcome = trainer.run(&samples, None, &mut log);
        outcome.map_err(|error| with_remedy("warmup", error))?.finished()?;
    }
    save_folder(dir, &llama, &weights)?;
    tokenizer.save(dir)
}

fn scratch_tokenizer<'d>(dataset: &'d Dataset, config: &RunConfig) -> Result<Tokenizer> {
    let of_users = dataset.user_texts.as_deref();
    let mut texts: Vec<&str> = template_texts(of_users.is_some()).collect();
    let mut add = |text: &'d str| {
        if !text.is_empty() {
            texts.push(text);
        }
    };
    for item in &dataset.items {
        for text in [&item.title, &item.description, &item.brand, &item.categories] {
            add(text);
        }
    }
    for user in of_users.unwrap_or_default() {
        let queries = user.wish.iter().flat_map(|wish| &wish.queries);
        user.preferences.iter().chain(queries).for_each(|text| add(text));
    }
    Tokenizer::train_bpe(texts.into_iter(), config.backbone.scratch.vocab_size)
}
