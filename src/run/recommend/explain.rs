//! What an item's tokens stand for: the items that share them, and which of the history do.

use std::cmp::Reverse;

use serde::Serialize;

use super::NamedItem;
use crate::data::{Dataset, ItemId};
use crate::index::{ItemIndex, Source};

/// How many items are named for a token.
const TYPICAL: usize = 3;

/// Why an item is called what it is called, and what of the history is called alike.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The item's tokens, in order.
    pub tokens: Vec<TokenMeaning>,
    /// What it has in common with the history, once a source; empty where there is no history.
    pub shared: Vec<SharedPrefix>,
}

/// What a token stands for after the tokens of its source before it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenMeaning {
    /// The token.
    pub token: String,
    /// The signal its level comes from.
    pub source: Source,
    /// How many items have the same tokens of this source up to here.
    pub items: usize,
    /// Those of them that were bought most often in training.
    pub typical: Vec<NamedItem>,
}

/// The longest beginning of a source's tokens that an item shares with items of the history.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SharedPrefix {
    /// The source.
    pub source: Source,
    /// The tokens shared; none where no item of the history shares the first.
    pub tokens: Vec<String>,
    /// The items that share them, oldest first.
    pub history: Vec<NamedItem>,
}

/// The levels of one source.
#[derive(Debug)]
struct Part {
    source: Source,
    /// In order, but not side by side where two sources are interleaved.
    levels: Vec<usize>,
    /// The codes at these levels, (items, levels).
    codes: Vec<u32>,
    /// Item ids in the order of these codes.
    order: Vec<ItemId>,
}

impl Part {
    fn new(index: &ItemIndex, source: Source) -> Self {
        let levels = index.levels_of(source);
        let items = 0..index.num_items() as ItemId;
        let of = |item: ItemId| levels.iter().map(move |&level| index.item_codes(item)[level]);
        let codes = items.clone().flat_map(of).collect();
        let mut part = Self { source, codes, order: items.collect(), levels };
        let mut order = std::mem::take(&mut part.order);
        order.sort_by(|&a, &b| part.codes(a).cmp(part.codes(b)));
        Self { order, ..part }
    }

    fn codes(&self, item: ItemId) -> &[u32] {
        &self.codes[item as usize * self.levels.len()..][..self.levels.len()]
    }

    /// The items whose first `length` codes are those of `item`.
    fn alike(&self, item: ItemId, length: usize) -> &[ItemId] {
        let prefix = &self.codes(item)[..length];
        let of = |other: ItemId| &self.codes(other)[..length];
        let start = self.order.partition_point(|&other| of(other) < prefix);
        let end = self.order.partition_point(|&other| of(other) <= prefix);
        &self.order[start..end]
    }
}

/// Explains the items of an index.
#[derive(Debug)]
pub(super) struct Explainer<'a> {
    dataset: &'a Dataset,
    index: ItemIndex,
    popularity: Vec<u32>,
    parts: Vec<Part>,
}

impl<'a> Explainer<'a> {
    pub(super) fn new(dataset: &'a Dataset, index: ItemIndex) -> Self {
        let mut sources: Vec<Source> = Vec::new();
        for level in index.levels() {
            if !sources.contains(&level.source) {
                sources.push(level.source);
            }
        }
        let parts = sources.into_iter().map(|source| Part::new(&index, source)).collect();
        Self { dataset, popularity: dataset.popularity(), index, parts }
    }

    /// Explains `item`, recommended after `history`.
    pub(super) fn explain(&self, item: ItemId, history: &[ItemId]) -> Explanation {
        let names = self.index.tokens(item);
        let meanings = |part: &Part| -> Vec<(usize, TokenMeaning)> {
            let meaning = |(place, &level): (usize, &usize)| {
                let alike = part.alike(item, place + 1);
                let (token, typical) = (names[level].clone(), self.typical(alike));
                (level, TokenMeaning { token, source: part.source, items: alike.len(), typical })
            };
            part.levels.iter().enumerate().map(meaning).collect()
        };
        let mut tokens: Vec<(usize, TokenMeaning)> = self.parts.iter().flat_map(meanings).collect();
        tokens.sort_by_key(|&(level, _)| level);
        let shared = self.parts.iter().map(|part| {
            let (length, history) = self.nearest(part, item, history);
            let tokens = part.levels[..length].iter().map(|&level| names[level].clone()).collect();
            SharedPrefix { source: part.source, tokens, history }
        });
        Explanation {
            tokens: tokens.into_iter().map(|(_, meaning)| meaning).collect(),
            shared: if history.is_empty() { Vec::new() } else { shared.collect() },
        }
    }

    fn typical(&self, items: &[ItemId]) -> Vec<NamedItem> {
        let mut items = items.to_vec();
        items.sort_unstable_by_key(|&item| (Reverse(self.popularity[item as usize]), item));
        items.truncate(TYPICAL);
        self.named(items)
    }

    /// The longest prefix of `item` in `part` that items of `history` have, and these items.
    fn nearest(&self, part: &Part, item: ItemId, history: &[ItemId]) -> (usize, Vec<NamedItem>) {
        let own = part.codes(item);
        let common = |other: ItemId| {
            let other = part.codes(other);
            own.iter().zip(other).take_while(|(a, b)| a == b).count()
        };
        let longest = history.iter().map(|&other| common(other)).max().unwrap_or(0);
        let mut nearest: Vec<ItemId> = Vec::new();
        for &other in history.iter().filter(|&&other| longest > 0 && common(other) == longest) {
            if !nearest.contains(&other) {
                nearest.push(other);
            }
        }
        (longest, self.named(nearest))
    }

    fn named(&self, items: Vec<ItemId>) -> Vec<NamedItem> {
        items.into_iter().map(|item| NamedItem::new(self.dataset, item)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Item, User};
    use crate::index::Level;

    #[test]
    fn tokens_stand_for_the_items_that_share_them_within_their_source() {
        let titled = |title: &str| Item { title: title.into(), ..Item::default() };
        let items = ["rose", "lily", "soap", "foam"].map(titled).to_vec();
        let user = User { id: "0".into(), items: vec![1, 1, 3, 2, 0] };
        let dataset = Dataset::new("shop", vec![user], items).unwrap();
        // Rose and lily smell alike, rose and soap are bought together.
        let codes = vec![0, 0, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0];
        let sources = [Source::Semantic, Source::Semantic, Source::Behavior];
        let levels = sources.map(|source| Level { source, num_codes: 2 }).to_vec();
        let explainer = Explainer::new(&dataset, ItemIndex::new(levels, codes).unwrap());

        let Explanation { tokens, shared } = explainer.explain(0, &[3, 2, 1, 2]);
        let titles =
            |items: &[NamedItem]| items.iter().map(|i| i.title.clone()).collect::<Vec<_>>();
        let meanings: Vec<_> =
            tokens.iter().map(|t| (t.token.as_str(), t.source, t.items)).collect();
        let expected = [
            ("<a_0>", Source::Semantic, 2),
            ("<b_0>", Source::Semantic, 1),
            ("<c_1>", Source::Behavior, 2),
        ];
        assert_eq!(meanings, expected);
        // Lily was bought twice in training, rose and soap never.
        assert_eq!(titles(&tokens[0].typical), ["lily", "rose"]);
        assert_eq!(titles(&tokens[2].typical), ["rose", "soap"]);
        let prefixes: Vec<_> = shared.iter().map(|s| (s.source, s.tokens.concat())).collect();
        let expected = [(Source::Semantic, "<a_0>".into()), (Source::Behavior, "<c_1>".into())];
        assert_eq!(prefixes, expected);
        assert_eq!(titles(&shared[0].history), ["lily"]);
        assert_eq!(titles(&shared[1].history), ["soap"]);

        // The same codes with the levels of both sources by turns: the same meanings, in another order.
        let codes = vec![0, 1, 0, 0, 0, 1, 1, 1, 0, 1, 0, 1];
        let sources = [Source::Semantic, Source::Behavior, Source::Semantic];
        let levels = sources.map(|source| Level { source, num_codes: 2 }).to_vec();
        let by_turns = Explainer::new(&dataset, ItemIndex::new(levels, codes).unwrap());
        let Explanation { tokens, shared } = by_turns.explain(0, &[3, 2, 1, 2]);
        let meanings: Vec<_> = tokens.iter().map(|t| (t.token.as_str(), t.items)).collect();
        assert_eq!(meanings, [("<a_0>", 2), ("<b_1>", 2), ("<c_0>", 1)]);
        assert_eq!(
            (titles(&shared[0].history), titles(&shared[1].history)),
            (vec!["lily".into()], vec!["soap".into()])
        );

        let alone = explainer.explain(3, &[0]);
        assert_eq!((alone.shared[0].tokens.len(), alone.shared[0].history.len()), (0, 0));
        assert!(explainer.explain(3, &[]).shared.is_empty());
    }
}
