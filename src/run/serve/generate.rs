//! Continuing a prompt by the trained model of a run.

use std::collections::HashMap;

use serde::Serialize;

use crate::decode::{Sampler, Sampling};
use crate::inference::generate;
use crate::run::artifacts::Trained;
use crate::run::{Run, Stage};
use crate::{Result, invalid};

/// What to continue, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// The text; item tokens in it are understood, all else is text.
    pub prompt: String,
    /// The most tokens to write.
    pub max_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// Seed of the draws.
    pub seed: u64,
    /// Whether the annealing adapter is on.
    pub adapter: bool,
}

/// Why a text ends where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stop {
    /// The model ended it.
    Eos,
    /// It has as many tokens as were asked for.
    Length,
}

/// A prompt and how it went on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Generated {
    /// The prompt as it was given.
    pub prompt: String,
    /// What was written after it.
    pub text: String,
    /// Why it ends.
    pub stop: Stop,
    /// Ids of the prompt, BOS included where the tokenizer sets one.
    pub prompt_ids: Vec<u32>,
    /// Ids of what was written, without EOS.
    pub ids: Vec<u32>,
}

/// What looks like an item token in `text` and is none of `items`.
fn strangers<'t>(text: &'t str, items: &HashMap<String, u32>) -> Vec<&'t str> {
    let is_token = |text: &&str| {
        let inside = text.strip_prefix('<').and_then(|text| text.strip_suffix('>'));
        inside.and_then(|inside| inside.split_once('_')).is_some_and(|(level, code)| {
            !level.is_empty()
                && level.bytes().all(|b| b.is_ascii_lowercase())
                && !code.is_empty()
                && code.bytes().all(|b| b.is_ascii_digit())
        })
    };
    let pieces = text.match_indices('<').filter_map(|(at, _)| {
        let end = text[at..].find('>')?;
        Some(&text[at..=at + end])
    });
    pieces.filter(is_token).filter(|piece| !items.contains_key(*piece)).collect()
}

impl Run {
    /// Continues a prompt, until the model ends it or `max_tokens` are written.
    ///
    /// # Errors
    /// Where there is no trained model, or prompt and text would be longer than it has positions.
    pub fn generate(&self, request: &GenerateRequest) -> Result<Generated> {
        self.require_before(Stage::Anneal)?;
        if request.adapter {
            self.require(Stage::Anneal)?;
        }
        let trained = Trained::load(self)?;
        let tokenizer = &trained.tokens.tokenizer;
        let mut prompt_ids: Vec<u32> = tokenizer.bos().into_iter().collect();
        let items = trained.tokens.item_tokens(&trained.index);
        prompt_ids.extend(tokenizer.encode_with_items(&request.prompt, &items)?);
        for strange in strangers(&request.prompt, &items) {
            tracing::warn!(
                "{strange} is no item token of this index, and is spelt out as text; index/index.json has them"
            );
        }
        if prompt_ids.is_empty() {
            invalid!("the prompt is empty: give at least one character with --prompt");
        }
        let positions = trained.config.max_position_embeddings;
        if prompt_ids.len().saturating_add(request.max_tokens) > positions {
            invalid!(
                "the prompt has {} tokens and {} more were asked for, the model has {positions} \
                 positions: shorten the prompt or lower --max-tokens",
                prompt_ids.len(),
                request.max_tokens
            );
        }
        let model = trained.model(self, request.adapter)?;
        self.require_same_model(request.adapter)?;
        let mut sampler = Sampler::new(request.sampling, request.seed);
        let written = generate(
            &model,
            &[&prompt_ids],
            tokenizer.eos(),
            request.max_tokens,
            &mut |_, logits| sampler.choose(logits),
        )?
        .swap_remove(0);
        Ok(Generated {
            prompt: request.prompt.clone(),
            text: tokenizer.decode(&written.ids)?,
            stop: if written.ended { Stop::Eos } else { Stop::Length },
            prompt_ids,
            ids: written.ids,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_an_item_token_and_is_none_is_found() {
        let items = HashMap::from([("<a_1>".to_string(), 7)]);
        let found = strangers("<<a_1><c_20> <b> <a_x> <_1> <A_1> 3 < 4 <a_2", &items);
        assert_eq!(found, ["<c_20>"]);
    }
}
