//! Item indices: each item as a short tuple of codes that no other item has.
//!
//! [`HierarchicalKMeans`] turns vectors into a [`Tree`] of codes, [`ItemIndex`] joins the trees of
//! one or two sources and names their item tokens, [`Trie`] says which code may follow which, and
//! [`store`] keeps them in files. Knows nothing of tensors or models.

mod assign;
mod distance;
mod error;
mod item_index;
mod kmeans;
mod numbering;
mod report;
mod source;
pub mod store;
mod tree;
mod trie;

pub use error::IndexError;
pub use item_index::{ItemIndex, Level};
pub(crate) use kmeans::Rows;
pub use numbering::{Numbering, code_similarity};
pub use report::{Agreement, LevelReport, Report, agreement, report};
pub use source::{Source, TreePlan, TreeSettings, branching, min_levels, plan};
pub use tree::{HierarchicalKMeans, Tree};
pub use trie::{Children, Trie};
