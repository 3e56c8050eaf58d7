//! What is asked of whoever is evaluated.

use crate::data::{ItemId, Split, User};

/// How every user is evaluated: leave-one-out, among all items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol {
    /// Which held-out item is the target.
    pub split: Split,
    /// The most items of a history that a model sees: the last ones before the target.
    pub max_history: usize,
    /// Items that the user has taken before the target are not ranked, whether the model saw them or not.
    pub exclude_history: bool,
}

impl Protocol {
    /// What a model sees of a user.
    pub fn history(self, user: &User) -> &[ItemId] {
        user.history(self.split, self.max_history)
    }

    /// What is not ranked for a user.
    pub fn excluded(self, user: &User) -> &[ItemId] {
        if self.exclude_history { user.history(self.split, usize::MAX) } else { &[] }
    }

    /// What is not ranked, in a word.
    pub fn excluded_items(self) -> &'static str {
        if self.exclude_history { "the user's before the target" } else { "none" }
    }

    /// What a user should be recommended.
    pub fn target(self, user: &User) -> ItemId {
        user.target(self.split)
    }
}
