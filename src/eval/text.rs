//! What a model makes of texts: how likely it finds the true ones, and how like them those it writes are.

use std::collections::HashMap;

use candle_core::DType;
use rand::Rng as _;
use serde::{Deserialize, Serialize};

use super::bootstrap::intervals_of;
use crate::Result;
use crate::model::{Llama, Packed};
use crate::ops;
use crate::rng::Rng;
use crate::tasks::Sample;

/// The negative log-likelihood of every response token of `samples`, in order, each given all true tokens
/// before it (natural logarithm, over the whole vocabulary).
///
/// The samples are texts: none holds a `<con>`.
pub fn response_losses(model: &Llama, samples: &[Sample]) -> Result<Vec<f32>> {
    let rows: Vec<&[u32]> = samples.iter().map(|s| s.ids.as_slice()).collect();
    let (mut predictors, mut targets, mut start) = (Vec::new(), Vec::new(), 0);
    for sample in samples {
        predictors.extend(sample.labels.iter().map(|(at, _)| start + at));
        targets.extend(sample.response());
        start += sample.ids.len() as u32;
    }
    let model = model.frozen();
    let hidden = model.infer(&Packed::sequences(&rows), None, &predictors)?;
    let head = model.lm_head().to_dtype(hidden.dtype())?;
    let losses = ops::cross_entropy(&hidden, &head, &targets, model.precision())?;
    Ok(losses.to_dtype(DType::F32)?.to_vec1()?)
}

/// How like the true text a written one is; each from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct TextScores {
    /// 1 if they are equal, spaces around them aside.
    pub exact_match: f64,
    /// Harmonic mean of precision and recall of the words, each counted as often as it occurs in both
    /// (ROUGE-1).
    pub token_f1: f64,
    /// The same of the longest common subsequence of words (ROUGE-L, Lin 2004).
    pub rouge_l: f64,
}

impl TextScores {
    /// Compares a written text with the true one. Words are runs of letters and digits, in lower case.
    pub fn of(written: &str, truth: &str) -> Self {
        let (lower_written, lower_truth) = (written.to_lowercase(), truth.to_lowercase());
        let (words, true_words) = (words(&lower_written), words(&lower_truth));
        let f1 = |common: usize| match words.len() + true_words.len() {
            0 => 1.0,
            both => 2.0 * common as f64 / both as f64,
        };
        Self {
            exact_match: f64::from(written.trim() == truth.trim()),
            token_f1: f1(overlap(&words, &true_words)),
            rouge_l: f1(common_subsequence(&words, &true_words)),
        }
    }
}

/// The figures of texts, by name.
pub const TEXT_FIGURES: [&str; 4] = ["perplexity", "exact_match", "token_f1", "rouge_l"];

/// What a model makes of one text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TextSample {
    /// Tokens of the true text, its end included.
    pub tokens: usize,
    /// Their negative log-likelihood, summed up, each given the true ones before it.
    pub loss: f64,
    /// How like the true text the written one is.
    #[serde(flatten)]
    pub scores: TextScores,
}

/// The [`TEXT_FIGURES`] of samples, at least one: the perplexity is that of a token, the scores are means over samples.
pub fn text_figures<'a>(samples: impl Iterator<Item = &'a TextSample>) -> [f64; 4] {
    let (mut tokens, mut loss, mut count, mut sums) = (0, 0.0, 0.0, [0.0; 3]);
    for sample in samples {
        tokens += sample.tokens;
        loss += sample.loss;
        count += 1.0;
        let TextScores { exact_match, token_f1, rouge_l } = sample.scores;
        for (sum, score) in sums.iter_mut().zip([exact_match, token_f1, rouge_l]) {
            *sum += score;
        }
    }
    let [exact_match, token_f1, rouge_l] = sums.map(|sum| sum / count);
    [(loss / tokens as f64).exp(), exact_match, token_f1, rouge_l]
}

/// The bootstrap intervals of the [`TEXT_FIGURES`] over samples.
pub fn text_intervals(samples: &[TextSample], seed: u64) -> [[f64; 2]; 4] {
    intervals_of(|stream| text_figures(drawn(samples.len(), stream).map(|at| &samples[at])), seed)
}

/// By how much the [`TEXT_FIGURES`] of `this` are above those of `other` on the same samples, with the bootstrap
/// intervals of that over samples.
pub fn text_differences(
    this: &[TextSample],
    other: &[TextSample],
    seed: u64,
) -> [(f64, [f64; 2]); 4] {
    let difference = |places: &[usize]| {
        let [this, other] = [this, other].map(|of| text_figures(places.iter().map(|&at| &of[at])));
        std::array::from_fn(|figure| this[figure] - other[figure])
    };
    let all: Vec<usize> = (0..this.len()).collect();
    let resample = |stream: &mut Rng| difference(&drawn(all.len(), stream).collect::<Vec<_>>());
    let (found, intervals): ([f64; 4], _) = (difference(&all), intervals_of(resample, seed));
    std::array::from_fn(|figure| (found[figure], intervals[figure]))
}

/// As many places as there are samples, each any of them.
fn drawn(samples: usize, stream: &mut Rng) -> impl Iterator<Item = usize> {
    (0..samples).map(move |_| stream.gen_range(0..samples as u32) as usize)
}

fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect()
}

/// How many words the two have in common, in any order.
fn overlap(a: &[&str], b: &[&str]) -> usize {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for word in a {
        *counts.entry(word).or_default() += 1;
    }
    let mut take = |word: &&&str| match counts.get_mut(**word) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        _ => false,
    };
    b.iter().filter(|word| take(word)).count()
}

/// Length of the longest sequence of words that both have in this order, gaps allowed.
fn common_subsequence(a: &[&str], b: &[&str]) -> usize {
    // Of the words of `a` so far, with the first 0, 1, … words of `b`.
    let mut lengths = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (j, other) in b.iter().enumerate() {
            let above = lengths[j + 1];
            lengths[j + 1] = if word == other { diagonal + 1 } else { above.max(lengths[j]) };
            diagonal = above;
        }
    }
    lengths[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_by_hand() {
        // 3 of 4 written and of 5 true words in common; in order only "red cotton".
        let scores = TextScores::of("shirt Red, cotton blue", "the red cotton shirt; large");
        assert_eq!(scores.exact_match, 0.0);
        assert!((scores.token_f1 - 2.0 * 3.0 / 9.0).abs() < 1e-12);
        assert!((scores.rouge_l - 2.0 * 2.0 / 9.0).abs() < 1e-12);
    }

    #[test]
    fn a_word_counts_as_often_as_both_have_it() {
        let scores = TextScores::of("a a a b", "a b b");
        assert!((scores.token_f1 - 2.0 * 2.0 / 7.0).abs() < 1e-12);
        assert!((scores.rouge_l - 2.0 * 2.0 / 7.0).abs() < 1e-12);
    }

    #[test]
    fn an_exact_match_is_of_letters_and_case_and_not_of_spaces_around() {
        assert_eq!(TextScores::of(" Blue Lamp\n", "Blue Lamp").exact_match, 1.0);
        let scores = TextScores::of("blue lamp!", "Blue Lamp");
        assert_eq!((scores.exact_match, scores.token_f1, scores.rouge_l), (0.0, 1.0, 1.0));
    }

    #[test]
    fn texts_without_words_are_like_each_other_only() {
        assert_eq!(TextScores::of("", "").token_f1, 1.0);
        assert_eq!(TextScores::of("", "lamp"), TextScores::default());
    }

    fn sample(tokens: usize, loss: f64, written: &str, truth: &str) -> TextSample {
        TextSample { tokens, loss, scores: TextScores::of(written, truth) }
    }

    #[test]
    fn figures_are_over_tokens_and_over_samples() {
        let samples = [sample(1, 2.0, "a", "a"), sample(3, 6.0, "a b", "b a")];
        let [perplexity, exact, f1, rouge] = text_figures(samples.iter());
        assert!((perplexity - 2f64.exp()).abs() < 1e-12);
        assert_eq!((exact, f1, rouge), (0.5, 1.0, 0.75));
    }

    #[test]
    fn intervals_are_over_samples_and_of_differences_over_the_same_ones() {
        let of = |right: usize, loss: f64| -> Vec<TextSample> {
            let written = |at| if at < right { "a" } else { "b" };
            (0..400).map(|at| sample(2, 2.0 * loss, written(at), "a")).collect()
        };
        let (many, few) = (of(200, 1.0), of(160, 1.5));
        let [perplexity, [low, high], ..] = text_intervals(&many, 1);
        assert!(perplexity.iter().all(|bound| (bound - 1f64.exp()).abs() < 1e-9), "all alike");
        let half = 1.96 * (0.5f64 * 0.5 / 400.0).sqrt();
        assert!((low - (0.5 - half)).abs() < 0.01 && (high - (0.5 + half)).abs() < 0.01);
        // What both have right cancels out: the difference is known better than either.
        let [perplexity, (exact, [low, high]), ..] = text_differences(&many, &few, 1);
        assert!((perplexity.0 - (1f64.exp() - 1.5f64.exp())).abs() < 1e-9);
        assert!((exact - 0.1).abs() < 1e-12);
        let half = 1.96 * (0.1f64 * 0.9 / 400.0).sqrt();
        assert!((low - (0.1 - half)).abs() < 0.01 && (high - (0.1 + half)).abs() < 0.01);
    }
}
