//! A backbone from scratch: its tokenizer learnt on the item texts, its weights warmed up on them.

use std::path::Path;

use serde_json::{Map, json};

use crate::config::RunConfig;
use crate::data::Dataset;
use crate::model::{Llama, LlamaConfig, Weights, init, save_folder};
use crate::nn::Params;
use crate::run::artifacts::precision;
use crate::run::log::TrainLog;
use crate::run::manifest::settings_under;
use crate::run::stages::with_remedy;
use crate::run::unfinished::kept_for;
use crate::run::work::Work;
use crate::run::{Monitor, Run, Silent, Stage};
use crate::tasks::{Sample, template_texts};
use crate::text::Tokenizer;
use crate::train::{Trainer, language_model_samples, shuffled};
use crate::{Result, files};

/// Makes one, and writes it to `dir`.
pub(super) fn prepare(run: &Run, dir: &Path, monitor: &mut dyn Monitor) -> Result<()> {
    let scratch = if run.config.train.warmup.epochs > 0 {
        let own = ["seed", "backbone.", "train.warmup.", "index.semantic.max-text-tokens"];
        // What a tokenizer is learnt on is this program's, too.
        let words = files::digest_of(template_texts(true)?.concat().as_bytes());
        let key = json!([settings_under(&own, &run.config)?, run.dataset.fingerprint, words]);
        let state = kept_for(&run.workshop(Stage::Index).join("warmup"), &key)?;
        run.together(Work::WarmUp { state: state.clone() }, || Scratch::warm(run, &state, monitor))?
    } else {
        Scratch::new(run)?
    };
    save_folder(dir, &scratch.config, &scratch.weights)?;
    scratch.tokenizer.save(dir)
}

/// Warms one up with rank 0, which keeps the state in the folder `state`.
pub(in crate::run) fn help_warm_up(run: &Run, state: &Path) -> Result<()> {
    Scratch::warm(run, state, &mut Silent).map(drop)
}

/// A backbone that knows nothing yet, and the texts it is to read.
struct Scratch {
    tokenizer: Tokenizer,
    config: LlamaConfig,
    /// Those of `params`.
    weights: Weights,
    params: Params,
    samples: Vec<Sample>,
}

impl Scratch {
    fn new(run: &Run) -> Result<Self> {
        let (config, dataset) = (&run.config, &run.dataset);
        let scratch = &config.backbone.scratch;
        let tokenizer = tokenizer(dataset, config)?;
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
            repeat_bias: None,
            generation: Map::new(),
        };
        let mut weights = init::scratch(&llama, config.seed, &run.device)?;
        let mut params = Params::new();
        for (name, weight) in &mut weights {
            *weight = params.insert(name.clone(), weight)?;
        }
        let samples =
            language_model_samples(&tokenizer, dataset, config.index.semantic.max_text_tokens)?;
        Ok(Self { tokenizer, config: llama, weights, params, samples })
    }

    /// One that has read the texts, where there are any.
    fn warm(run: &Run, state: &Path, monitor: &mut dyn Monitor) -> Result<Self> {
        let scratch = Self::new(run)?;
        if scratch.samples.is_empty() {
            return Ok(scratch);
        }
        let (config, seed) = (&run.config.train.warmup, run.config.seed);
        let model = Llama::new(&scratch.config, &scratch.weights)?.with_precision(precision(run));
        let trainer = Trainer {
            state: Some(state),
            ranks: run.ranks,
            ..Trainer::new(config, seed, &model, &scratch.params)
        };
        let mut log = TrainLog::new(run, "warmup", config.log_every, monitor).stopped_by_signals();
        let samples = |epoch| Ok(shuffled(&scratch.samples, seed, epoch));
        let outcome = trainer.run(&samples, None, &mut log);
        outcome.map_err(|error| with_remedy("warmup", error))?.finished()?;
        Ok(scratch)
    }
}

fn tokenizer(dataset: &Dataset, config: &RunConfig) -> Result<Tokenizer> {
    let of_users = dataset.user_texts.as_deref();
    let of_templates = template_texts(of_users.is_some())?;
    let mut texts: Vec<&str> = of_templates.iter().map(String::as_str).collect();
    let mut add = |text| {
        if !str::is_empty(text) {
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
