//! Continuing prompts token by token: one forward pass a token, over a cache that all prompts share.

use std::ops::Range;
use std::sync::Arc;

use crate::model::{KvCache, Llama, Packed};
use crate::ops::{Row, Rows};
use crate::{Result, invalid};

/// What a model wrote after a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Continuation {
    /// The tokens, without the one that ended it.
    pub ids: Vec<u32>,
    /// Whether the model ended it; else it was cut off.
    pub ended: bool,
}

/// A prompt that is still being continued, as the cache sees it.
#[derive(Debug)]
struct Open {
    /// Which prompt.
    prompt: usize,
    /// Keys of the prompt and of what was written so far.
    context: Vec<Range<usize>>,
    /// Position of the next token.
    position: u32,
    /// The newest token, not in the cache yet.
    token: u32,
}

impl Open {
    /// Counts the newest token, whose key is `key`, to what was written so far.
    fn take_in(&mut self, key: usize) {
        self.position += 1;
        match self.context.last_mut() {
            Some(range) if range.end == key => range.end += 1,
            _ => self.context.push(key..key + 1),
        }
    }
}

/// Continues every one of `prompts` (none empty) until `eos` or for `max_tokens` tokens.
///
/// `choose` gives the next token of a prompt, named by its place in `prompts`, from its logits, one for each
/// token of the vocabulary.
pub fn generate(
    model: &Llama,
    prompts: &[&[u32]],
    eos: u32,
    max_tokens: usize,
    choose: &mut dyn FnMut(usize, &[f32]) -> u32,
) -> Result<Vec<Continuation>> {
    if prompts.iter().any(|prompt| prompt.is_empty()) {
        invalid!("a prompt has no tokens: there is nothing to continue");
    }
    let vocabulary = 0..model.config().vocab_size as u32;
    let mut cache = KvCache::new();
    let mut written = vec![Continuation::default(); prompts.len()];
    let mut open = Vec::with_capacity(prompts.len());
    let mut next = 0;
    for (prompt, ids) in prompts.iter().enumerate() {
        let keys = next..next + ids.len();
        next = keys.end;
        open.push(Open { prompt, position: ids.len() as u32, context: vec![keys], token: eos });
    }
    let (mut input, mut last) = (Packed::sequences(prompts), Vec::new());
    last.extend(open.iter().map(|o| o.context[0].end as u32 - 1));
    for step in 1..=max_tokens {
        let hidden = model.infer(&input, Some(&mut cache), &last)?;
        let logits: Vec<Vec<f32>> = model.logits(&hidden, vocabulary.clone())?.to_vec2()?;
        for (o, logits) in open.iter_mut().zip(&logits) {
            o.token = choose(o.prompt, logits);
            let written = &mut written[o.prompt];
            if o.token == eos {
                written.ended = true;
            } else {
                written.ids.push(o.token);
            }
        }
        open.retain(|o| !written[o.prompt].ended);
        if open.is_empty() || step == max_tokens {
            break;
        }
        let base = cache.len();
        input = next_tokens(&open, base)?;
        last = (0..open.len() as u32).collect();
        for (i, o) in open.iter_mut().enumerate() {
            o.take_in(base + i);
        }
    }
    Ok(written)
}

/// The newest token of each, whose keys follow the `base` keys of the cache.
fn next_tokens(open: &[Open], base: usize) -> Result<Packed> {
    let row = |(i, o): (usize, &Open)| Row {
        queries: i..i + 1,
        own: base + i..base + i + 1,
        context: o.context.clone(),
    };
    Ok(Packed {
        ids: open.iter().map(|o| o.token).collect(),
        positions: open.iter().map(|o| o.position).collect(),
        rows: Arc::new(Rows::new(open.iter().enumerate().map(row).collect())?),
    })
}
