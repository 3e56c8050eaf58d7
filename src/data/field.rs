//! The texts that an item may have, by name.

use serde::{Deserialize, Serialize};

use super::Item;

/// Fields that a line of `item_plain_text.txt` may have. Those that no [`TextField`] is called end a text too, but are not
/// kept.
pub const PLAIN_TEXT_FIELDS: [&str; 7] =
    ["title", "brand", "categories", "description", "price", "salesrank", "salesRank"];

/// A text that an item may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextField {
    /// What it is called.
    Title,
    /// A sentence or more about it.
    Description,
    /// Where the shop files it.
    Categories,
    /// Who makes it.
    Brand,
}

impl TextField {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Title, Self::Description, Self::Categories, Self::Brand];

    /// The name, as `item.json` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Title => "title",
            Self::Description => "description",
            Self::Categories => "categories",
            Self::Brand => "brand",
        }
    }

    /// The text of an item; empty where it has none.
    pub fn of(self, item: &Item) -> &str {
        match self {
            Self::Title => &item.title,
            Self::Description => &item.description,
            Self::Categories => &item.categories,
            Self::Brand => &item.brand,
        }
    }
}
