//! The item tokens of a model: their names and ids, and where they stand in the vocabulary.

use std::collections::HashMap;
use std::ops::Range;

use crate::data::Dataset;
use crate::index::{ItemIndex, TreePlan};
use crate::tasks::{Instruction, Prompts, TasksConfig};
use crate::text::Tokenizer;
use crate::{Result, invalid};

/// The token that gathers a target for the contrastive loss.
const CON: &str = "<con>";

/// Where the item tokens stand in the vocabulary: level after level from `first`.
#[derive(Debug, Clone)]
pub struct ItemVocabulary {
    /// Id of the first item token.
    pub first: u32,
    /// Each level's range, counted from `first`.
    pub levels: Vec<Range<usize>>,
}

impl ItemVocabulary {
    /// The ids of a level's tokens.
    pub(super) fn range(&self, level: usize) -> Range<u32> {
        let range = &self.levels[level];
        self.first + range.start as u32..self.first + range.end as u32
    }

    /// The tokens of each item in a prompt.
    pub(super) fn items_in<'t>(&self, prompt: &'t [u32]) -> impl Iterator<Item = &'t [u32]> {
        let is_item =
            |ids: &&[u32]| (0..).zip(*ids).all(|(level, id)| self.range(level).contains(id));
        prompt.windows(self.levels.len()).filter(is_item)
    }
}

/// A tokenizer that knows the item tokens, and where they stand in the vocabulary.
#[derive(Debug)]
pub struct ItemTokens {
    /// The tokenizer, item tokens included.
    pub tokenizer: Tokenizer,
    /// Where the item tokens stand.
    pub vocabulary: ItemVocabulary,
    /// Vocabulary ids of every item's tokens.
    pub items: Vec<Vec<u32>>,
    /// The id of `<con>`.
    pub con: u32,
    /// Item tokens and `<con>`.
    pub added: usize,
}

impl ItemTokens {
    /// Adds the item tokens and `<con>` to a backbone's tokenizer.
    pub fn extend(mut tokenizer: Tokenizer, index: &ItemIndex) -> Result<Self> {
        let names = names(index);
        let ids = tokenizer.add_item_tokens(&names)?;
        Ok(Self::new(tokenizer, index, &ids))
    }

    /// Refuses a backbone's tokenizer that has item tokens of an index of `plans` already: to be asked
    /// before hours are spent on making one.
    pub fn refuse_known(tokenizer: &Tokenizer, plans: &[TreePlan]) -> Result<()> {
        let levels = plans.iter().flat_map(|plan| vec![plan.branching as u32; plan.levels]);
        let names = levels.enumerate().flat_map(|(level, codes)| {
            (0..codes).map(move |code| crate::index::token(level, code))
        });
        tokenizer.refuse_known(&names.chain([CON.to_string()]).collect::<Vec<_>>())
    }

    /// Finds them in the tokenizer of a trained checkpoint.
    pub fn find(tokenizer: Tokenizer, index: &ItemIndex) -> Result<Self> {
        let names = names(index);
        let find = |name: &String| match tokenizer.token_to_id(name) {
            Some(id) => Ok(id),
            None => invalid!(
                "the checkpoint's tokenizer lacks the item token {name}: it belongs to another \
                 index; redo the stage with `llmbs train --stage initial --force`"
            ),
        };
        let ids: Vec<u32> = names.iter().map(find).collect::<Result<_>>()?;
        if !stand_together(&ids) {
            invalid!(
                "the checkpoint's tokenizer has item tokens beside those of the index: it belongs \
                 to another index; redo the stage with `llmbs train --stage initial --force`"
            );
        }
        Ok(Self::new(tokenizer, index, &ids))
    }

    fn new(tokenizer: Tokenizer, index: &ItemIndex, ids: &[u32]) -> Self {
        let first = ids[0];
        let items = (0..index.num_items() as u32)
            .map(|item| index.token_ids(item).iter().map(|at| first + at).collect())
            .collect();
        Self {
            tokenizer,
            vocabulary: ItemVocabulary { first, levels: index.level_ranges() },
            items,
            con: ids[ids.len() - 1],
            added: ids.len(),
        }
    }

    /// The item tokens with their ids; `<con>`, which means nothing in a prompt, is none.
    pub fn item_tokens(&self, index: &ItemIndex) -> HashMap<String, u32> {
        index.vocabulary().into_iter().zip(self.vocabulary.first..).collect()
    }

    /// Takes in items that have been added to `index` and have no tokens of their own.
    pub fn grow(&mut self, index: &ItemIndex) {
        let first = self.vocabulary.first;
        let new = self.items.len() as u32..index.num_items() as u32;
        let ids = |item| index.token_ids(item).iter().map(|at| first + at).collect();
        self.items.extend(new.map(ids));
    }

    /// Every item's concatenated tokens must encode to exactly its ids.
    pub fn check(&self, index: &ItemIndex) -> Result<()> {
        let items =
            self.items.iter().enumerate().map(|(i, ids)| (index.tokens(i as u32), ids.clone()));
        self.tokenizer.check_item_tokens(items)
    }

    /// The ids of each level's tokens.
    pub fn levels(&self) -> Vec<Range<u32>> {
        (0..self.vocabulary.levels.len()).map(|level| self.vocabulary.range(level)).collect()
    }

    /// The prompts about the items of `dataset`.
    pub fn prompts(&self, dataset: &Dataset, tasks: &TasksConfig) -> Result<Prompts> {
        let prompts = Prompts::new(
            &self.tokenizer,
            dataset,
            self.items.clone(),
            self.con,
            tasks.max_text_tokens,
            tasks.max_titles,
        )?;
        match tasks.instruction {
            Instruction::Sentence => Ok(prompts),
            Instruction::Word => prompts.begun_with("Next:\n"),
        }
    }
}

/// The names of the tokens that `index` adds to a vocabulary, in their order.
pub(super) fn names(index: &ItemIndex) -> Vec<String> {
    let mut names = index.vocabulary();
    names.push(CON.into());
    names
}

/// Whether each id is the one after the id before.
fn stand_together(ids: &[u32]) -> bool {
    ids.windows(2).all(|pair| pair[1] == pair[0] + 1)
}
