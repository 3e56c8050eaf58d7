//! Which signal an index is built from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The signal that an index, or one level of it, is built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Item text.
    Semantic,
    /// Who interacted with what.
    Behavior,
    /// Both, in the order of [`Order`](super::Order). Names an index, never a level.
    Unit,
    /// Neither: the baseline that only tells items apart.
    Random,
}

impl Source {
    /// Whether an index of it has levels of item texts.
    pub fn has_semantic(self) -> bool {
        matches!(self, Source::Semantic | Source::Unit)
    }

    /// Whether an index of it has levels of behavior.
    pub fn has_behavior(self) -> bool {
        matches!(self, Source::Behavior | Source::Unit)
    }

    fn name(self) -> &'static str {
        match self {
            Source::Semantic => "semantic",
            Source::Behavior => "behavior",
            Source::Unit => "unit",
            Source::Random => "random",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Not the name of a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a source: choose semantic, behavior, unit or random")]
pub struct UnknownSource(String);

impl FromStr for Source {
    type Err = UnknownSource;

    fn from_str(name: &str) -> Result<Self, UnknownSource> {
        [Source::Semantic, Source::Behavior, Source::Unit, Source::Random]
            .into_iter()
            .find(|source| source.name() == name)
            .ok_or_else(|| UnknownSource(name.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for source in [Source::Semantic, Source::Behavior, Source::Unit, Source::Random] {
            assert_eq!(source.to_string().parse::<Source>().unwrap(), source);
            assert_eq!(serde_json::to_string(&source).unwrap(), format!("\"{source}\""));
        }
        assert!("text".parse::<Source>().unwrap_err().to_string().contains("`text`"));
    }
}
