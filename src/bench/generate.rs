//! Beam search over a random catalogue, from random prompts.

use std::time::Instant;

use candle_core::Device;
use serde::Serialize;

use super::Shape;
use crate::decode::{BeamSearch, Normalize};
use crate::index::{ItemIndex, Trie};
use crate::inference::{BatchScorer, ItemVocabulary};
use crate::model::Llama;
use crate::ops::Precision;
use crate::{Result, invalid, rng};

/// Codes of each level of the random index.
const CODES: [usize; 4] = [256; 4];
/// Id of the first item token; prompts are made of those before it.
const FIRST_ITEM_TOKEN: u32 = 1000;

/// What to time.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct GenerateBench {
    /// The backbone.
    pub shape: Shape,
    /// Whether products are rounded to bf16.
    pub bf16: bool,
    /// Users searched for together.
    pub batch: usize,
    /// Tokens of a prompt; every user has another.
    pub prompt: usize,
    /// Beam width.
    pub beam: usize,
    /// Items of the catalogue, with random indices of four levels of 256 codes.
    pub items: usize,
    /// What scores are normalised over.
    pub normalize: Normalize,
    /// Batches that are timed, after one that is not.
    pub batches: usize,
}

/// How fast recommendation was.
#[derive(Debug, Clone, Serialize)]
pub struct GenerateSpeed {
    /// What was timed.
    #[serde(flatten)]
    pub bench: GenerateBench,
    /// Threads of the pool.
    pub threads: usize,
    /// Users a second, over all timed batches.
    pub users_per_s: f64,
    /// Milliseconds of a user, by the median batch.
    pub ms_per_user: f64,
}

/// Times the whole way from prompts to ranked items; the model is called at every level.
pub fn generate(bench: GenerateBench, seed: u64, device: &Device) -> Result<GenerateSpeed> {
    let GenerateBench { shape, batch, prompt, beam, items, normalize, batches, .. } = bench;
    if [batch, prompt, beam, items, batches].contains(&0) {
        invalid!("--batch, --prompt, --beam, --items and --batches must be at least 1");
    }
    let config = shape.config(None);
    let precision = if bench.bf16 { Precision::Bf16 } else { Precision::Full };
    let weights = super::weights(&config, seed, device)?;
    let model = Llama::new(&config, &weights)?.with_precision(precision);
    drop(weights);
    let index = ItemIndex::random(items, &CODES, seed)?;
    let trie = Trie::new(&index);
    let vocabulary = ItemVocabulary { first: FIRST_ITEM_TOKEN, levels: index.level_ranges() };
    let mut scorer = BatchScorer::new(&model, &vocabulary, normalize, Vec::new());
    let search = BeamSearch { width: beam, normalize };
    let mut stream = rng::stream(seed, "bench prompts", &[]);
    let mut seconds = Vec::new();
    for _ in 0..=batches {
        let mut token = || (rng::uniform(&mut stream) * f64::from(FIRST_ITEM_TOKEN)) as u32;
        let prompts: Vec<Vec<u32>> =
            (0..batch).map(|_| (0..prompt).map(|_| token()).collect()).collect();
        let start = Instant::now();
        scorer.search(&prompts, |scorer, users| search.run(&trie, users.len(), scorer))?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.remove(0);
    let total: f64 = seconds.iter().sum();
    seconds.sort_by(f64::total_cmp);
    Ok(GenerateSpeed {
        bench,
        threads: rayon::current_num_threads(),
        users_per_s: (batch * batches) as f64 / total,
        ms_per_user: 1e3 * seconds[seconds.len() / 2] / batch as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prompt_is_answered_at_every_level() {
        let bench = GenerateBench {
            shape: Shape::Tiny,
            bf16: false,
            batch: 2,
            prompt: 3,
            beam: 4,
            items: 300,
            normalize: Normalize::Level,
            batches: 1,
        };
        let speed = generate(bench, 1, &Device::Cpu).unwrap();
        assert!(speed.users_per_s > 0.0 && speed.ms_per_user > 0.0);
        let nothing = GenerateBench { beam: 0, ..bench };
        assert!(generate(nothing, 1, &Device::Cpu).unwrap_err().to_string().contains("--beam"));
    }
}
