//! How vectors become codes, and in which order the levels of two sources stand.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How the vectors of a source become codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// A tree of balanced clusters (paper, section 3.2): a code means what its parents say.
    HierarchicalKmeans,
    /// RQ-KMeans: one codebook a level, each clustering what the levels before left over (`OneRec`,
    /// Deng et al., 2025; residual vector quantisation, Juang and Gray, 1982).
    ResidualKmeans,
    /// RQ-VAE: the same in the latent space of an autoencoder trained with the codebooks (Zeghidour
    /// et al., 2021; for recommendation TIGER, Rajput et al., 2023, and LC-Rec, Zheng et al., 2024).
    RqVae,
    /// Distinct tuples drawn at random: the baseline whose codes know nothing.
    Random,
}

impl Method {
    /// Whether each level has one codebook for all items.
    pub fn is_residual(self) -> bool {
        matches!(self, Method::ResidualKmeans | Method::RqVae)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Method::HierarchicalKmeans => "hierarchical-kmeans",
            Method::ResidualKmeans => "residual-kmeans",
            Method::RqVae => "rq-vae",
            Method::Random => "random",
        })
    }
}

/// The order of the levels of two sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// All semantic levels, then all behavior levels.
    #[default]
    SemanticFirst,
    /// All behavior levels, then all semantic levels.
    BehaviorFirst,
    /// By turns from the first semantic level on; what one source has more comes last.
    Interleaved,
}

impl Order {
    /// The levels of an index in order: for each the source it comes from (its place in `lengths`,
    /// semantic before behavior) and its level there. `lengths` has the levels of each source.
    pub fn arrange(self, lengths: &[usize]) -> Vec<(usize, usize)> {
        let mut levels: Vec<(usize, usize)> = lengths
            .iter()
            .enumerate()
            .flat_map(|(source, &length)| (0..length).map(move |level| (source, level)))
            .collect();
        match self {
            Order::SemanticFirst => {}
            // Stable: the levels of a source stay in order.
            Order::BehaviorFirst => levels.sort_by_key(|&(source, _)| std::cmp::Reverse(source)),
            Order::Interleaved => levels.sort_by_key(|&(_, level)| level),
        }
        levels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_arrange_the_same_levels() {
        let levels = |order: Order| order.arrange(&[2, 3]);
        assert_eq!(levels(Order::SemanticFirst), [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]);
        assert_eq!(levels(Order::BehaviorFirst), [(1, 0), (1, 1), (1, 2), (0, 0), (0, 1)]);
        assert_eq!(levels(Order::Interleaved), [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2)]);
    }

    #[test]
    fn methods_are_shown_as_they_are_set() {
        for method in
            [Method::HierarchicalKmeans, Method::ResidualKmeans, Method::RqVae, Method::Random]
        {
            assert_eq!(serde_json::to_string(&method).unwrap(), format!("\"{method}\""));
        }
    }
}
