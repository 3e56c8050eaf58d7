//! The order of the item tokens' rows: by level and code here, by their strings in LC-Rec.

use candle_core::Tensor;

use super::tokens::names;
use crate::Result;
use crate::index::ItemIndex;
use crate::model::Weights;
use crate::model::llama::{EMBEDDING, HEAD};
use crate::text::Tokenizer;

/// How item tokens are numbered. `<con>`, which LC-Rec does not have, comes after all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenOrder {
    /// By level, then by code: `<a_1>`, `<a_2>`, `<a_10>`.
    Code,
    /// By their strings, as Python's `sorted` has it: `<a_10>`, `<a_1>`, `<a_2>`.
    Lexicographic,
}

impl TokenOrder {
    /// Gives a tokenizer and the weights with it the item tokens of `index` in this order, whichever they have; where
    /// these do not stand together they stay as they are, for others to refuse.
    pub fn apply(
        self,
        tokenizer: Tokenizer,
        weights: &mut Weights,
        index: &ItemIndex,
    ) -> Result<Tokenizer> {
        let mut names = names(index);
        if self == Self::Lexicographic {
            let items = names.len() - 1;
            names[..items].sort_unstable();
        }
        let ids: Option<Vec<u32>> = names.iter().map(|name| tokenizer.token_to_id(name)).collect();
        let Some(ids) = ids else { return Ok(tokenizer) };
        let first = ids.iter().min().copied().unwrap_or_default();
        let last = ids.iter().max().copied().unwrap_or_default();
        let in_order = ids.iter().copied().eq(first..=last);
        let together = last - first == ids.len() as u32 - 1;
        if in_order || !together {
            return Ok(tokenizer);
        }
        for name in [EMBEDDING, HEAD] {
            let Some(rows) = weights.get(name) else { continue };
            // What does not fit the tokenizer is refused where it is used.
            if rows.dim(0)? <= last as usize {
                continue;
            }
            let rows_after = rows.dim(0)? as u32;
            let order = (0..first).chain(ids.iter().copied()).chain(last + 1..rows_after);
            let order = Tensor::from_iter(order, rows.device())?;
            let rows = rows.index_select(&order, 0)?;
            weights.insert(name.into(), rows);
        }
        tokenizer.reordered(&names, first)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::index::{Level, Source};
    use crate::inference::ItemTokens;

    #[test]
    fn rows_follow_their_tokens_there_and_back() {
        let level = Level { source: Source::Semantic, num_codes: 12 };
        let index = ItemIndex::new(vec![level; 2], vec![1, 2, 2, 11, 10, 2]).unwrap();
        let texts = ["soap and more soap"];
        let tokenizer = Tokenizer::train_bpe(texts.into_iter(), 260).unwrap();
        let tokens = ItemTokens::extend(tokenizer, &index).unwrap();
        let first = tokens.vocabulary.first as usize;
        // Two rows of padding behind the last token.
        let rows: Vec<f32> = (0..first as u16 + 8).map(f32::from).collect();
        let number = rows.len();
        let matrix = Tensor::from_vec(rows, (number, 1), &Device::Cpu).unwrap();
        let before: Weights = [(EMBEDDING.to_string(), matrix)].into();
        let values =
            |weights: &Weights| weights[EMBEDDING].flatten_all().unwrap().to_vec1::<f32>().unwrap();

        let mut weights = before.clone();
        let order = TokenOrder::Lexicographic;
        let sorted = order.apply(tokens.tokenizer.clone(), &mut weights, &index).unwrap();
        let named: Vec<String> =
            (first..first + 6).map(|id| sorted.id_to_token(id as u32).unwrap()).collect();
        assert_eq!(named, ["<a_10>", "<a_1>", "<a_2>", "<b_11>", "<b_2>", "<con>"]);
        let moved = [2, 0, 1, 4, 3, 5, 6, 7].map(|at| (first + at) as f32);
        assert_eq!(values(&weights)[first..], moved);
        assert_eq!(values(&weights)[..first], values(&before)[..first]);
        for name in &named {
            let text = sorted.encode("soap and").unwrap();
            assert_eq!(text, tokens.tokenizer.encode("soap and").unwrap(), "{name}");
        }

        let again = TokenOrder::Code.apply(sorted, &mut weights, &index).unwrap();
        assert_eq!(values(&weights), values(&before));
        assert_eq!(ItemTokens::find(again, &index).unwrap().items, tokens.items);
    }
}
