//! What a run is good for once it is made: recommending, writing, and looking at its index.

mod added;
mod explain;
mod generate;
mod generator;
mod inspect;
mod meaning;
mod offer;
mod query;
mod recommend;
mod scorer;
mod together;

pub(super) use added::FILE as ADDED;
pub use added::{AddedItem, Catalogue};
pub use explain::{Explainer, Explanation, SharedPrefix};
pub use generate::{GenerateRequest, Generated, Stop};
pub use inspect::{IndexReport, Inspection, SourceTree, TokenReport};
pub use meaning::{NamedItem, TokenMeaning};
pub use query::{Query, RecommendOptions, ServiceOptions, Wanted, check_beam};
pub use recommend::{Recommendation, Service};
