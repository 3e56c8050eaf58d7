//! Item indices: each item as a short tuple of codes that no other item has.
//!
//! [`HierarchicalKMeans`] turns vectors into a [`Tree`] of codes, [`residual_kmeans`] and [`quantize`]
//! into codes of one codebook a level; [`ItemIndex`] joins the codes of one or two sources and names
//! their item tokens, [`Trie`] says which code may follow which, and
//! [`store`] keeps them in files. Knows nothing of tensors or models.

mod assign;
mod capacity;
mod distance;
mod error;
mod foreign;
mod forms;
mod item_index;
mod kmeans;
mod method;
mod numbering;
mod part;
mod place;
mod plan;
mod report;
mod residual;
mod shared;
mod similarity;
mod source;
mod source_codes;
pub mod store;
mod tree;
mod trie;

pub(crate) use distance::Rows;
pub use error::IndexError;
pub use foreign::{Foreign, OnCollision};
pub use forms::write_lines;
pub use item_index::{ItemIndex, Level, token};
pub use method::{Method, Order};
pub use numbering::Numbering;
pub use part::Part;
pub use place::{Place, Placer};
pub use plan::{IndexSettings, TreePlan, TreeSettings, branching, min_levels};
pub use report::{Agreement, LevelReport, Report, Spread, agreement, report};
pub use residual::{Codebook, Uniqueness, quantize, residual_kmeans};
pub use shared::shared_trees;
pub use similarity::{Lift, Likeness, Similarity, central, similarity};
pub use source::Source;
pub use source_codes::{SourceCodes, code_similarity};
pub use tree::{HierarchicalKMeans, Tree, balanced_clusters};
pub use trie::{Children, Trie};
