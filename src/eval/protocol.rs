//! What is asked of whoever is evaluated.

use crate::data::{ItemId, Split, User};

/// How every user is evaluated: leave-one-out, among all items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol {
    /// Which held-out item is the target.
    pub split: Split,
    /// The most items of a history that a model sees: the last ones before the target.
    pub max_history: usize,
}

impl Protocol {
    /// What a model sees of a user.
    pub fn history(self, user: &User) -> &[ItemId] {
        user.history(self.split, self.max_history)
    }

    /// What the second rule does not rank for a user: everything taken before the target, whether the model
    /// saw it or not.
    pub fn left_out(self, user: &User) -> &[ItemId] {
        user.history(self.split, usize::MAX)
    }

    /// What a user should be recommended.
    pub fn target(self, user: &User) -> ItemId {
        user.target(self.split)
    }
}
