//! Item indices: each item as a short tuple of codes that no other item has.
//!
//! [`HierarchicalKMeans`] turns vectors into a [`Tree`] of codes, [`ItemIndex`] joins the trees of
//! one or two sources and names their item tokens, [`Trie`] says which code may follow which, and
//! [`store`] keeps them in files. Knows nothing of tensors or models.

mod assign;
mod error;
mod foreign;
mod item_index;
mod kmeans;
mod part;
mod place;
mod report;
mod similarity;
mod source;
pub mod store;
mod tree;
mod trie;

pub use error::IndexError;
pub use foreign::{Foreign, OnCollision};
pub use item_index::{ItemIndex, Level};
pub use part::Part;
pub use place::{Place, Placer};
pub use report::{Agreement, LevelReport, Report, Spread, agreement, report};
pub use similarity::{Lift, Likeness, Similarity, central, similarity};
pub use source::{Source, TreePlan, TreeSettings, branching, min_levels, plan};
pub use tree::{HierarchicalKMeans, Tree};
pub use trie::{Children, Trie};
