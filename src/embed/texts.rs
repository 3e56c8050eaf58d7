//! The item texts as token ids: each different one once, cut where they are too long, packed so that what
//! they begin with in common is computed once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::Result;
use crate::data::{Dataset, Item, ItemId, TextField};
use crate::model::Packed;
use crate::ops::{Row, Rows};
use crate::text::Tokenizer;

/// A text and the items that have it in one of their fields.
#[derive(Debug)]
struct Text {
    ids: Vec<u32>,
    items: Vec<u32>,
}

/// The texts of a catalogue, ready to be embedded.
#[derive(Debug)]
pub struct ItemTexts {
    /// Different from each other, in the order of their ids: neighbours begin alike.
    texts: Vec<Text>,
    num_items: usize,
    /// The items that have none, in their order.
    textless: Vec<ItemId>,
    /// Tokens before every text that are fed, but are no part of it.
    lead: usize,
    /// Counts over all fields of all items.
    pub counts: TextCounts,
}

/// How much text a catalogue has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TextCounts {
    /// Fields with a text, of all items.
    pub texts: usize,
    /// Those that were cut.
    pub texts_cut: usize,
    /// Their tokens, after cutting.
    pub text_tokens: usize,
}

/// Some texts as one forward pass.
#[derive(Debug)]
pub(super) struct Pass {
    /// Which texts.
    pub(super) texts: Range<usize>,
    pub(super) input: Packed,
    /// For each text, the lines of the pass that spell it.
    pub(super) lines: Vec<Vec<Range<usize>>>,
}

impl ItemTexts {
    /// The `fields` of every item, each cut after `max_tokens`.
    pub fn encode(
        tokenizer: &Tokenizer,
        dataset: &Dataset,
        fields: &[TextField],
        max_tokens: usize,
    ) -> Result<Self> {
        let mut counts = TextCounts::default();
        let mut found: BTreeMap<Vec<u32>, Vec<u32>> = BTreeMap::new();
        let mut textless = Vec::new();
        let encoded = |item: &Item| -> Result<Vec<(Vec<u32>, bool)>> {
            let mut texts = Vec::new();
            for field in fields {
                let mut text = tokenizer.encode(field.of(item).trim())?;
                if !text.is_empty() {
                    let is_cut = text.len() > max_tokens;
                    text.truncate(max_tokens);
                    texts.push((text, is_cut));
                }
            }
            Ok(texts)
        };
        let of_items = dataset.items.par_iter().map(encoded).collect::<Result<Vec<_>>>()?;
        for (id, of_item) in of_items.into_iter().enumerate() {
            if of_item.is_empty() {
                textless.push(id as ItemId);
            }
            for (text, is_cut) in of_item {
                counts.texts += 1;
                counts.texts_cut += usize::from(is_cut);
                counts.text_tokens += text.len();
                let ids = tokenizer.bos().into_iter().chain(text).collect();
                found.entry(ids).or_default().push(id as u32);
            }
        }
        let texts = found.into_iter().map(|(ids, items)| Text { ids, items }).collect();
        let lead = usize::from(tokenizer.bos().is_some());
        Ok(Self { texts, num_items: dataset.num_items(), textless, lead, counts })
    }

    /// Whether `item` has one of the `fields`.
    pub fn has_any(fields: &[TextField], item: &Item) -> bool {
        fields.iter().any(|field| !field.of(item).trim().is_empty())
    }

    /// The items that have none of the fields, in their order.
    pub fn textless(&self) -> &[ItemId] {
        &self.textless
    }

    /// The number of items.
    pub fn num_items(&self) -> usize {
        self.num_items
    }

    /// The number of different texts.
    pub fn num_texts(&self) -> usize {
        self.texts.len()
    }

    /// The items that have a text.
    pub(super) fn items_of(&self, text: usize) -> &[u32] {
        &self.texts[text].items
    }

    pub(super) fn lead(&self) -> usize {
        self.lead
    }

    /// A digest of all that decides which ids are averaged into which item.
    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for count in [self.num_items, self.lead] {
            hash.update((count as u64).to_le_bytes());
        }
        for numbers in self.texts.iter().flat_map(|text| [&text.ids, &text.items]) {
            hash.update((numbers.len() as u64).to_le_bytes());
            for number in numbers {
                hash.update(number.to_le_bytes());
            }
        }
        format!("{:x}", hash.finalize())
    }

    /// The pass that begins with text `first`: as many texts as `max_tokens` lines hold, at least one.
    ///
    /// A text shares the lines of what it begins with in common with the one before it: the states
    /// of a causal model depend on nothing behind them.
    pub(super) fn pass(&self, first: usize, max_tokens: usize) -> Result<Pass> {
        let (mut ids, mut positions, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        let mut lines: Vec<Vec<Range<usize>>> = Vec::new();
        let mut before: &[u32] = &[];
        for Text { ids: text, .. } in &self.texts[first..] {
            let shared = before.iter().zip(text).take_while(|(a, b)| a == b).count();
            let own = ids.len()..ids.len() + text.len() - shared;
            if !lines.is_empty() && own.end > max_tokens {
                break;
            }
            let context = lines.last().map_or_else(Vec::new, |lines| beginning(lines, shared));
            ids.extend(&text[shared..]);
            positions.extend(shared as u32..text.len() as u32);
            lines.push(context.iter().cloned().chain([own.clone()]).collect());
            rows.push(Row { queries: own.clone(), own, context });
            before = text;
        }
        let texts = first..first + lines.len();
        let rows = Arc::new(Rows::new(rows)?);
        Ok(Pass { texts, input: Packed { ids, positions, rows }, lines })
    }
}

/// The first `count` lines of some ranges.
fn beginning(ranges: &[Range<usize>], count: usize) -> Vec<Range<usize>> {
    let mut left = count;
    let cut = |range: &Range<usize>| {
        let taken = range.len().min(left);
        left -= taken;
        range.start..range.start + taken
    };
    ranges.iter().map(cut).filter(|range| !range.is_empty()).collect()
}
