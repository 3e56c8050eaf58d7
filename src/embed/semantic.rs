//! z^s: what the backbone makes of an item's texts (paper, section 3.2).

use std::sync::Arc;

use ndarray::Array2;

use crate::data::{Dataset, Item};
use crate::model::{DropoutPair, Llama, Packed};
use crate::ops::Rows;
use crate::text::Tokenizer;
use crate::{Result, invalid};

/// Tokens embedded in one forward pass.
const TOKENS_PER_PASS: usize = 4096;

/// One text field of an item, as token ids.
struct FieldTokens {
    item: usize,
    ids: Vec<u32>,
}

/// Embeddings of all items, (items, hidden), f32.
///
/// Every text field present is fed alone; the mean over its tokens of the final hidden state (after the
/// last norm; BOS is fed where the tokenizer has one, but not averaged) is averaged over the fields.
/// Texts are cut after `max_tokens`. `on_items` hears how many fields of how many are done.
///
/// # Errors
/// An item without any text.
pub fn semantic_embeddings(
    model: &Llama,
    tokenizer: &Tokenizer,
    dataset: &Dataset,
    max_tokens: usize,
    on_fields: &mut dyn FnMut(usize, usize),
) -> Result<Array2<f32>> {
    let fields = encode(tokenizer, dataset, max_tokens)?;
    let hidden_size = model.config().hidden_size;
    let mut sums = Array2::<f32>::zeros((dataset.num_items(), hidden_size));
    let mut counts = vec![0f32; dataset.num_items()];
    let skip = usize::from(tokenizer.bos().is_some());
    let mut done = 0;
    while done < fields.len() {
        let mut end = done;
        let mut tokens = 0;
        while end < fields.len()
            && (end == done || tokens + fields[end].ids.len() <= TOKENS_PER_PASS)
        {
            tokens += fields[end].ids.len();
            end += 1;
        }
        let pass = &fields[done..end];
        let lengths: Vec<usize> = pass.iter().map(|f| f.ids.len()).collect();
        let input = Packed {
            ids: pass.iter().flat_map(|f| &f.ids).copied().collect(),
            positions: lengths.iter().flat_map(|&n| 0..n as u32).collect(),
            rows: Arc::new(Rows::packed(&lengths)),
        };
        let hidden = model.hidden(&input, None, DropoutPair::default())?;
        let hidden = hidden.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let mut rows = hidden.chunks(hidden_size);
        for field in pass {
            let scale = 1.0 / (field.ids.len() - skip) as f32;
            let mut sum = sums.row_mut(field.item);
            for row in rows.by_ref().take(field.ids.len()).skip(skip) {
                for (s, x) in sum.iter_mut().zip(row) {
                    *s += x * scale;
                }
            }
            counts[field.item] += 1.0;
        }
        done = end;
        on_fields(done, fields.len());
    }
    for (mut row, count) in sums.rows_mut().into_iter().zip(counts) {
        row /= count;
    }
    Ok(sums)
}

/// All fields, short ones first: passes then hold rows of like length.
fn encode(tokenizer: &Tokenizer, dataset: &Dataset, max_tokens: usize) -> Result<Vec<FieldTokens>> {
    let mut fields = Vec::new();
    for (item, texts) in dataset.items.iter().enumerate() {
        let Item { title, description, categories, brand, .. } = texts;
        let before = fields.len();
        for text in [title, description, categories, brand] {
            let mut ids: Vec<u32> = tokenizer.bos().into_iter().collect();
            let text = tokenizer.encode(text.trim())?;
            if !text.is_empty() {
                ids.extend(text.iter().take(max_tokens));
                fields.push(FieldTokens { item, ids });
            }
        }
        if fields.len() == before {
            invalid!(
                "{}: item {item} has no text, and index.source needs one for every item; add a \
                 title, or set index.source = \"behavior\"",
                dataset.name
            );
        }
    }
    fields.sort_by_key(|f| (f.ids.len(), f.item));
    Ok(fields)
}
