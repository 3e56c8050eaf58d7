//! `[baseline]`: recommenders of another kind, trained and evaluated beside the language model.

use serde::{Deserialize, Serialize};

use crate::eval::ItemKnnConfig;
use crate::model::sequential::{
    Bert4RecConfig, CaserConfig, FdsaConfig, Gru4RecConfig, HgnConfig, S3RecConfig, SasRecConfig,
    TigerConfig,
};

/// `[baseline]`: a table for each, of what `llmbs baseline NAME` trains.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct BaselineConfig {
    /// Neighbours of items.
    pub item_knn: ItemKnnConfig,
    /// A recurrent network.
    pub gru4rec: Gru4RecConfig,
    /// Convolutions over the last items.
    pub caser: CaserConfig,
    /// Gates over the last items.
    pub hgn: HgnConfig,
    /// Self-attention to what came before.
    pub sasrec: SasRecConfig,
    /// Self-attention to both sides.
    pub bert4rec: Bert4RecConfig,
    /// Self-attention over items and their attributes.
    pub fdsa: FdsaConfig,
    /// Self-attention that is pre-trained.
    pub s3rec: S3RecConfig,
    /// An encoder and a decoder over the codes of the run's index.
    pub tiger: TigerConfig,
}
