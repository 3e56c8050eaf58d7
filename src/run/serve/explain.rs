//! What an item's tokens stand for: the items that share them, and which of the history do.

use serde::Serialize;

use super::meaning::{Meanings, NamedItem, TokenMeaning};
use crate::Result;
use crate::data::{Dataset, ItemId};
use crate::index::{ItemIndex, Part, Source};
use crate::run::artifacts::load_index;
use crate::run::{Run, Stage};

/// Why an item is called what it is called, and what of the history is called alike.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The item's tokens, in order.
    pub tokens: Vec<TokenMeaning>,
    /// What it has in common with the history, once a source; empty where there is no history.
    pub shared: Vec<SharedPrefix>,
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

/// Explains the items of an index.
#[derive(Debug)]
pub struct Explainer<'a> {
    index: ItemIndex,
    parts: Vec<Part>,
    meanings: Meanings<'a>,
}

impl<'a> Explainer<'a> {
    pub(in crate::run) fn new(dataset: &'a Dataset, index: ItemIndex) -> Self {
        Self { parts: Part::of(&index), meanings: Meanings::new(dataset), index }
    }

    /// The index.
    pub(in crate::run) fn index(&self) -> &ItemIndex {
        &self.index
    }

    /// An item by all its names.
    pub fn named(&self, item: ItemId) -> NamedItem {
        self.meanings.named(vec![item]).remove(0)
    }

    /// Explains `item`, recommended after `history`.
    pub fn explain(&self, item: ItemId, history: &[ItemId]) -> Explanation {
        let names = self.index.tokens(item);
        let meaning = |(level, name): (usize, &String)| {
            let place = |part: &Part| part.levels().iter().position(|&l| l == level);
            let found = self.parts.iter().find_map(|part| Some((part, place(part)?)));
            found.map(|(part, place)| {
                let alike = part.alike(&self.index, item, place + 1);
                self.meanings.of(name.clone(), part.source(), alike)
            })
        };
        let shared = self.parts.iter().map(|part| {
            let (length, history) = self.nearest(part, item, history);
            let tokens = part.levels()[..length].iter().map(|&level| names[level].clone());
            SharedPrefix { source: part.source(), tokens: tokens.collect(), history }
        });
        Explanation {
            tokens: names.iter().enumerate().filter_map(meaning).collect(),
            shared: if history.is_empty() { Vec::new() } else { shared.collect() },
        }
    }

    /// The longest prefix of `item` in `part` that items of `history` have, and these items.
    fn nearest(&self, part: &Part, item: ItemId, history: &[ItemId]) -> (usize, Vec<NamedItem>) {
        let common = |other: ItemId| part.common(&self.index, item, other);
        let longest = history.iter().map(|&other| common(other)).max().unwrap_or(0);
        let mut nearest: Vec<ItemId> = Vec::new();
        for &other in history.iter().filter(|&&other| longest > 0 && common(other) == longest) {
            if !nearest.contains(&other) {
                nearest.push(other);
            }
        }
        (longest, self.meanings.named(nearest))
    }
}

impl Run {
    /// What explains the items of the run's index.
    ///
    /// # Errors
    /// If it is missing, or of other settings.
    pub fn explainer(&self) -> Result<Explainer<'_>> {
        self.require(Stage::Index)?;
        Ok(Explainer::new(&self.dataset, load_index(self)?))
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
