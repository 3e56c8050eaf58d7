//! What a training run is made of; `run` takes its steps.

use std::ops::Range;
use std::path::Path;

use super::config::StageConfig;
use super::contrast::Contrast;
use super::teacher::Teacher;
use crate::Result;
use crate::model::Llama;
use crate::nn::Params;
use crate::ranks::{Alone, Ranks};

/// A training run over one model.
pub struct Trainer<'a> {
    /// Hyper-parameters.
    pub config: &'a StageConfig,
    /// Dropout on adapter inputs.
    pub lora_dropout: f64,
    /// Seed of dropout and negatives.
    pub seed: u64,
    /// The model; its trained tensors are those of `params`.
    pub model: &'a Llama,
    /// What is trained.
    pub params: &'a Params,
    /// The ids of each level's item tokens, where a code of sequence recommendation is told from the others of
    /// its level alone, as it is ranked in the end; `None` tells it from the whole vocabulary.
    pub levels: Option<Vec<Range<u32>>>,
    /// The contrastive task, if any sample has a `<con>`.
    pub contrast: Option<Contrast<'a>>,
    /// What sequence recommendation is drawn to beside its targets.
    pub teacher: Option<&'a Teacher>,
    /// The tokens of every item, where the model has a bias for what a user has.
    pub items: Option<&'a [Vec<u32>]>,
    /// Where to keep the state to resume from; `None` for runs too short to need one.
    pub state: Option<&'a Path>,
    /// Who shares the batches: every rank has a trainer alike, and all end with the same parameters. Rank 0 keeps the
    /// state.
    pub ranks: &'a dyn Ranks,
}

impl<'a> Trainer<'a> {
    /// A run with the loss of the labels over the whole vocabulary alone, too short to be resumed.
    pub fn new(config: &'a StageConfig, seed: u64, model: &'a Llama, params: &'a Params) -> Self {
        Self {
            config,
            lora_dropout: 0.0,
            seed,
            model,
            params,
            levels: None,
            contrast: None,
            teacher: None,
            items: None,
            state: None,
            ranks: &Alone,
        }
    }
}

/// How the epochs of a run are told apart.
pub struct Validation<'a> {
    /// The figure of the model as it is, the higher the better.
    pub measure: &'a mut dyn FnMut() -> Result<f64>,
    /// Epochs without a better figure before the run ends; 0 for never.
    pub patience: u64,
    /// Whether the model before the first step is one to choose from, as epoch 0.
    pub from_start: bool,
}
