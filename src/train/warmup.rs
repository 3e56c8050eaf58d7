//! The language-model warm-up of a backbone from scratch: without it, its embeddings of texts would
//! mean nothing.

use rand::seq::SliceRandom;
use rayon::prelude::*;

use crate::Result;
use crate::data::{Dataset, Item};
use crate::rng;
use crate::tasks::Sample;
use crate::text::Tokenizer;

/// One sample an item with text: its fields, a line each, then EOS, every token but the first a label.
pub fn language_model_samples(
    tokenizer: &Tokenizer,
    dataset: &Dataset,
    max_tokens: usize,
) -> Result<Vec<Sample>> {
    let sample = |item: &Item| -> Result<Option<Sample>> {
        let fields = [&item.title, &item.brand, &item.categories, &item.description];
        let present: Vec<&str> =
            fields.iter().map(|f| f.trim()).filter(|f| !f.is_empty()).collect();
        // A text of spaces is none.
        if present.is_empty() {
            return Ok(None);
        }
        let mut ids: Vec<u32> = tokenizer.bos().into_iter().collect();
        ids.extend(tokenizer.encode(&present.join("\n"))?);
        ids.truncate(max_tokens);
        ids.push(tokenizer.eos());
        let labels = ids.windows(2).enumerate().map(|(i, pair)| (i as u32, pair[1])).collect();
        let positions = (0..ids.len() as u32).collect();
        Ok(Some(Sample { ids, positions, labels, ..Sample::default() }))
    };
    let with_text = dataset.items.par_iter().filter(|item| item.has_text());
    with_text.filter_map(|item| sample(item).transpose()).collect()
}

/// The samples in the order of an epoch.
pub fn shuffled(samples: &[Sample], seed: u64, epoch: u64) -> Vec<Sample> {
    let mut samples = samples.to_vec();
    samples.shuffle(&mut rng::stream(seed, "warm-up order", &[epoch]));
    samples
}
