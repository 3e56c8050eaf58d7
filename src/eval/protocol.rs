//! What is asked of whoever is evaluated.

use crate::data::{Dataset, ItemId, Split, Target};

/// How models are evaluated: what is held out of a dataset is looked for among all items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol {
    /// Which held-out items are the targets.
    pub split: Split,
    /// The most items of a history that a model sees: the last ones before the target.
    pub max_history: usize,
    /// Whether items are ranked by the second rule, too, which leaves out what the user has.
    pub both_rules: bool,
}

impl Protocol {
    /// The same by the first rule alone, which takes a narrower search.
    #[must_use]
    pub fn by_first_rule(self) -> Self {
        Self { both_rules: false, ..self }
    }

    /// How many targets there are.
    pub fn targets(self, dataset: &Dataset) -> usize {
        dataset.targets(self.split).len()
    }

    /// The target at a position among those of the split.
    pub fn target(self, dataset: &Dataset, at: usize) -> Target {
        dataset.targets(self.split)[at]
    }

    /// The item that should be recommended.
    pub fn item(self, dataset: &Dataset, at: usize) -> ItemId {
        dataset.target_item(self.target(dataset, at))
    }

    /// What a model sees of the user before a target.
    pub fn history(self, dataset: &Dataset, at: usize) -> &[ItemId] {
        dataset.history(self.target(dataset, at), self.max_history)
    }

    /// What the second rule does not rank for a target: everything the user took before it, whether the model
    /// saw it or not; nothing where it is not asked for.
    pub fn left_out(self, dataset: &Dataset, at: usize) -> &[ItemId] {
        if self.both_rules { dataset.history(self.target(dataset, at), usize::MAX) } else { &[] }
    }
}
