//! The stages of a run, by name.

use serde::{Deserialize, Serialize};

/// The stages whose results a run folder keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Embeddings and item index.
    Index,
    /// All tasks, with the contrastive loss.
    Initial,
    /// The annealing adapter.
    Anneal,
}

impl Stage {
    /// All, in the order in which they build on each other.
    pub(super) const ALL: [Self; 3] = [Self::Index, Self::Initial, Self::Anneal];

    /// The words that run it, after `llmbs`.
    pub fn command(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Initial => "train --stage initial",
            Self::Anneal => "train --stage anneal",
        }
    }

    /// What it makes.
    pub fn what(self) -> &'static str {
        match self {
            Self::Index => "the item index",
            Self::Initial => "the model of stage initial",
            Self::Anneal => "the annealing adapter",
        }
    }

    /// The folder of its result.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Initial => "initial",
            Self::Anneal => "anneal",
        }
    }
}
