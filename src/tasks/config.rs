//! `[train.tasks]`: how samples are laid out and worded, and how many there are.

use serde::{Deserialize, Serialize};

use crate::rng;

/// How sequence recommendation is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// One sample for each (history, next item), any template.
    Prefix,
    /// One sample for each user, a loss on every item after the first.
    Sequence,
}

/// What a row of the `sequence` layout begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Instruction {
    /// The sentence of the first template.
    Sentence,
    /// A word, where there is no other task to be told from: a short history has fewer tokens than the sentence.
    Word,
}

/// How many samples of each task an epoch holds, and how they are worded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct TasksConfig {
    /// How SRT is laid out.
    pub layout: Layout,
    /// What its rows begin with.
    pub instruction: Instruction,
    /// Semantic reconstruction: samples an item and direction (0.5: half of the items).
    pub semantic: f64,
    /// Preference reconstruction: samples a user and direction.
    pub preference: f64,
    /// Share of the items whose texts are kept from the text tasks: no sample answers with them, or for
    /// them. `eval --task text` measures these items on their own.
    pub held_out: f64,
    /// Where a text is cut in a prompt or response.
    pub max_text_tokens: usize,
    /// How many titles of a history a prompt spells out.
    pub max_titles: usize,
}

impl Default for TasksConfig {
    fn default() -> Self {
        Self {
            layout: Layout::Sequence,
            instruction: Instruction::Sentence,
            semantic: 1.0,
            preference: 1.0,
            held_out: 0.0,
            max_text_tokens: 48,
            max_titles: 5,
        }
    }
}

/// Which SRT targets are trained: all, or fewer.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SrtSelection {
    /// Only the last this many targets of each user; absent, all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets_per_user: Option<usize>,
    /// At most this many samples, drawn anew each epoch; absent, all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_samples: Option<usize>,
}

impl TasksConfig {
    /// What is wrong with it.
    pub fn violation(&self) -> Option<&'static str> {
        let alone = self.instruction == Instruction::Word && self.layout == Layout::Prefix;
        alone
            .then_some("train.tasks.instruction = \"word\" needs train.tasks.layout = \"sequence\"")
    }

    /// The same wording, SRT alone: what the annealing stage trains.
    #[must_use]
    pub fn sequence_only(self) -> Self {
        Self { semantic: 0.0, preference: 0.0, ..self }
    }

    /// Which of the items have texts that are kept from the text tasks: one of each so many, so that those that come
    /// later change nothing for those before.
    pub fn items_held_out(&self, num_items: usize, seed: u64) -> Vec<bool> {
        // Of more than half, the others are drawn.
        let most = self.held_out > 0.5;
        let share = if most { 1.0 - self.held_out } else { self.held_out };
        let mut held_out = vec![most; num_items];
        let begin = |block: usize| (block as f64 / share) as usize;
        for block in (0..).take_while(|&block| share > 0.0 && begin(block) < num_items) {
            let mut stream = rng::stream(seed, "held-out items", &[block as u64]);
            let size = begin(block + 1) - begin(block);
            let item = begin(block) + (rng::uniform(&mut stream) * size as f64) as usize;
            if let Some(item) = held_out.get_mut(item) {
                *item = !most;
            }
        }
        held_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_for_rows_of_whole_sequences() {
        let of = |layout, instruction| {
            TasksConfig { layout, instruction, ..TasksConfig::default() }.violation()
        };
        assert!(of(Layout::Prefix, Instruction::Word).is_some());
        assert!(of(Layout::Sequence, Instruction::Word).is_none());
        assert!(of(Layout::Prefix, Instruction::Sentence).is_none());
    }
}
