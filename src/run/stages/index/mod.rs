//! Stage `index`: the backbone, both embeddings, and the codes made from them.

mod behavior;
mod codes;
mod import;
mod semantic;

use std::path::{Path, PathBuf};

use ndarray::Array2;
use serde_json::{Value, json};

use crate::config::RunConfig;
use crate::data::Dataset;
use crate::embed::save_embeddings;
use crate::index::{Source, store};
use crate::model::{Llama, LlamaConfig, init, save_folder};
use crate::nn::Params;
use crate::run::artifacts::{Tokens, backbone, plan_of, precision};
use crate::run::log::TrainLog;
use crate::run::{Monitor, Run};
use crate::text::Tokenizer;
use crate::train::{Trainer, language_model_samples, shuffled};
use crate::{Error, Result, files};
use behavior::embed_behavior;

pub use import::ImportRequest;
pub(in crate::run) use semantic::{digests, embed_texts};

/// The folder of a backbone from scratch.
const BACKBONE: &str = "backbone";

/// Refuses what cannot become an index, before anything is written: an infeasible pair of k and levels
/// fails in a moment.
pub(in crate::run) fn check(run: &Run) -> Result<()> {
    semantic::check(run)?;
    plan_of(&run.config, run.dataset.num_items()).map(drop)
}

pub(in crate::run) fn run(run: &Run, monitor: &mut dyn Monitor) -> Result<(Vec<PathBuf>, Value)> {
    let (config, dataset) = (&run.config, &run.dataset);
    let source = config.index.source;
    let from_texts = matches!(source, Source::Semantic | Source::Unit);
    let behavior = matches!(source, Source::Behavior | Source::Unit);
    let plans = plan_of(config, dataset.num_items())?;
    let mut wrote = prepare_backbone(run, monitor)?;
    let new = run.dir.join("index.new");
    files::remove_dir(&new)?;
    std::fs::create_dir_all(&new).map_err(Error::io(&new))?;
    let mut names = vec!["index.json".to_string()];
    let mut figures =
        json!({ "items": dataset.num_items(), "source": source, "method": config.index.method });
    let backbone = backbone(run)?;
    Tokens::refuse_known(&backbone.tokenizer, &plans)?;
    let z_semantic = if from_texts {
        let z = semantic::make(run, &backbone, &new, monitor, &mut figures)?;
        names.push("semantic.safetensors".into());
        Some(z)
    } else {
        None
    };
    let own = config.index.behavior.embeddings.as_deref().filter(|_| behavior);
    let z_behavior = if let Some(z) = semantic::imported(run, "index.behavior.embeddings", own)? {
        save_embeddings(&new.join("behavior.safetensors"), &z, None)?;
        names.push("behavior.safetensors".into());
        Some(z)
    } else if behavior {
        let made = embed_behavior(run, &new, monitor)?;
        names.extend(made.names);
        figures[made.figure.0] = made.figure.1;
        Some(made.embeddings)
    } else {
        None
    };
    let vectors: Vec<&Array2<f32>> = [&z_semantic, &z_behavior].into_iter().flatten().collect();
    let built = codes::build(run, &plans, &vectors, &new, monitor)?;
    let index = built.index;
    names.extend(built.wrote);
    // Every item's tokens must come out of the tokenizer as they went in, whatever stands before them.
    Tokens::extend(backbone.tokenizer, &index)?.check(&index)?;
    store::write(&new.join("index.json"), &index)?;
    files::replace_dir(&new, &run.dir.join("index"))?;
    semantic::forget_parts(run)?;
    figures["levels"] = json!(index.levels().iter().map(|l| l.num_codes).collect::<Vec<_>>());
    figures["sources"] = built.figures;
    figures["item_tokens"] = json!(index.vocabulary().len());
    wrote.extend(names.iter().map(|name| Path::new("index").join(name)));
    Ok((wrote, figures))
}

/// Makes the backbone, where it is one from scratch; gives the files it wrote.
pub(in crate::run) fn prepare_backbone(
    run: &Run,
    monitor: &mut dyn Monitor,
) -> Result<Vec<PathBuf>> {
    match run.config.backbone.path {
        Some(_) => Ok(Vec::new()),
        None => prepare_scratch(run, monitor),
    }
}

/// A backbone from scratch: its tokenizer learnt on the item texts, its weights warmed up on them.
fn prepare_scratch(run: &Run, monitor: &mut dyn Monitor) -> Result<Vec<PathBuf>> {
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
        let trainer = Trainer {
            config: &config.train.warmup,
            lora_dropout: 0.0,
            seed: config.seed,
            model: &model,
            params: &params,
            item_tokens: None,
            contrast: None,
            teacher: None,
            state: None,
        };
        let mut log = TrainLog::new(run, "warmup", config.train.warmup.log_every, monitor);
        trainer.run(&|epoch| Ok(shuffled(&samples, config.seed, epoch)), None, &mut log)?;
    }
    let new = run.dir.join("backbone.new");
    files::remove_dir(&new)?;
    save_folder(&new, &llama, &weights)?;
    tokenizer.save(&new)?;
    files::replace_dir(&new, &run.dir.join(BACKBONE))?;
    Ok(["config.json", "model.safetensors", "tokenizer.json"]
        .map(|name| Path::new(BACKBONE).join(name))
        .into())
}

fn scratch_tokenizer(dataset: &Dataset, config: &RunConfig) -> Result<Tokenizer> {
    let mut texts: Vec<&str> = crate::tasks::template_texts().collect();
    for item in &dataset.items {
        let fields = [&item.title, &item.description, &item.brand, &item.categories];
        texts.extend(fields.into_iter().map(String::as_str).filter(|text| !text.is_empty()));
    }
    Tokenizer::train_bpe(texts.into_iter(), config.backbone.scratch.vocab_size)
}
