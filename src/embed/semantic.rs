//! z^s: what the backbone makes of an item's texts (paper, section 3.2).

use std::collections::BTreeMap;

use ndarray::{Array1, Array2};

use crate::data::{Dataset, Item};
use crate::model::{Llama, Packed};
use crate::text::Tokenizer;
use crate::{Result, invalid};

/// Tokens embedded in one forward pass.
const TOKENS_PER_PASS: usize = 4096;

/// A text as token ids, and the items that have it in one of their fields.
struct Text {
    ids: Vec<u32>,
    items: Vec<usize>,
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
    let texts = encode(tokenizer, dataset, max_tokens)?;
    let total = texts.iter().map(|t| t.items.len()).sum();
    let hidden_size = model.config().hidden_size;
    let mut sums = Array2::<f32>::zeros((dataset.num_items(), hidden_size));
    let mut counts = vec![0f32; dataset.num_items()];
    let skip = usize::from(tokenizer.bos().is_some());
    let (mut first, mut done) = (0, 0);
    while first < texts.len() {
        let mut end = first;
        let mut tokens = 0;
        while end < texts.len()
            && (end == first || tokens + texts[end].ids.len() <= TOKENS_PER_PASS)
        {
            tokens += texts[end].ids.len();
            end += 1;
        }
        let pass = &texts[first..end];
        let input = Packed::sequences(&pass.iter().map(|t| &*t.ids).collect::<Vec<_>>());
        let every: Vec<u32> = (0..input.ids.len() as u32).collect();
        let hidden = model.infer(&input, None, &every)?;
        let hidden = hidden.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let mut rows = hidden.chunks(hidden_size);
        for text in pass {
            let scale = 1.0 / (text.ids.len() - skip) as f32;
            let mut mean = Array1::<f32>::zeros(hidden_size);
            for row in rows.by_ref().take(text.ids.len()).skip(skip) {
                for (m, x) in mean.iter_mut().zip(row) {
                    *m += x * scale;
                }
            }
            for &item in &text.items {
                let mut sum = sums.row_mut(item);
                sum += &mean;
                counts[item] += 1.0;
            }
            done += text.items.len();
        }
        first = end;
        on_fields(done, total);
    }
    for (mut row, count) in sums.rows_mut().into_iter().zip(counts) {
        row /= count;
    }
    Ok(sums)
}

/// All different texts, short ones first: passes then hold rows of like length. What many items share (a
/// brand, a category) is embedded once.
fn encode(tokenizer: &Tokenizer, dataset: &Dataset, max_tokens: usize) -> Result<Vec<Text>> {
    let mut found: BTreeMap<Vec<u32>, Vec<usize>> = BTreeMap::new();
    for (item, texts) in dataset.items.iter().enumerate() {
        let Item { title, description, categories, brand, .. } = texts;
        let mut has_text = false;
        for text in [title, description, categories, brand] {
            let mut ids: Vec<u32> = tokenizer.bos().into_iter().collect();
            let text = tokenizer.encode(text.trim())?;
            if !text.is_empty() {
                ids.extend(text.iter().take(max_tokens));
                found.entry(ids).or_default().push(item);
                has_text = true;
            }
        }
        if !has_text {
            invalid!(
                "{}: item {item} has no text, and index.source needs one for every item; add a \
                 title, or set index.source = \"behavior\"",
                dataset.name
            );
        }
    }
    let mut texts: Vec<Text> = found.into_iter().map(|(ids, items)| Text { ids, items }).collect();
    texts.sort_by_key(|text| text.ids.len());
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::model::{LlamaConfig, init};

    fn item(title: &str, brand: &str) -> Item {
        Item { title: title.into(), brand: brand.into(), ..Item::default() }
    }

    #[test]
    fn an_item_is_embedded_as_if_it_were_alone() {
        let items = [
            item("red lipstick", "glow"),
            item("glow", "glow"),
            item("blue soap", ""),
            item("red lipstick", "fine"),
        ];
        let texts = items.iter().flat_map(|i| [i.title.as_str(), i.brand.as_str()]);
        let tokenizer = Tokenizer::train_bpe(texts, 300).unwrap();
        let config = LlamaConfig { vocab_size: tokenizer.vocab_size(), ..LlamaConfig::tiny_test() };
        let weights = init::scratch(&config, 1, &Device::Cpu).unwrap();
        let model = Llama::new(&config, &weights).unwrap();
        let embed = |items: &[Item]| {
            let dataset = Dataset {
                name: "shop".into(),
                items: items.to_vec(),
                users: Vec::new(),
                short_users: 0,
                fingerprint: String::new(),
            };
            semantic_embeddings(&model, &tokenizer, &dataset, 20, &mut |_, _| {}).unwrap()
        };
        let together = embed(&items);
        for (i, item) in items.iter().enumerate() {
            let alone = embed(std::slice::from_ref(item));
            for (a, b) in together.row(i).iter().zip(alone.row(0)) {
                assert!((a - b).abs() < 1e-5, "item {i}: {a} {b}");
            }
        }
        assert_ne!(together.row(0), together.row(3));
    }
}
