//! What a dataset folder of another program holds beside what is read of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use super::DataError;
use super::entries::{Entries, ITEM, Pairs, read};
use super::lcrec::dataset_name;
use super::user_texts::USER;

/// Fields of an item as they are written.
const OF_ITEMS: [&str; 5] = ["title", "description", "brand", "categories", "item_id"];

/// The names of fields, whatever they hold.
#[derive(Default)]
struct Rest(Vec<String>);

impl<'de> Deserialize<'de> for Rest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Pairs::<IgnoredAny>(fields) = Pairs::deserialize(deserializer)?;
        Ok(Self(fields.into_iter().map(|(name, _)| name).collect()))
    }
}

/// `X.user.json`, what is read of it apart.
#[derive(Deserialize)]
struct UserFile {
    #[serde(default, rename = "user_explicit_preference")]
    _preferences: IgnoredAny,
    #[serde(default)]
    user_vague_intention: Intentions,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Default, Deserialize)]
struct Intentions {
    #[serde(default)]
    train: BTreeMap<String, Wish>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Deserialize)]
struct Wish {
    #[serde(default, rename = "querys", alias = "queries")]
    _queries: IgnoredAny,
    #[serde(default, rename = "item")]
    _item: IgnoredAny,
    #[serde(flatten)]
    rest: Rest,
}

/// A field in the files of a folder that is not read, and so would be lost where they are written anew: the file and
/// what it is. A raw id under another name than ours is one, too.
///
/// # Errors
/// If the folder or its files cannot be read.
pub fn foreign_field(dir: &Path) -> Result<Option<(PathBuf, String)>, DataError> {
    let name = dataset_name(dir)?;
    let (items, users) = (dir.join(format!("{name}{ITEM}")), dir.join(format!("{name}{USER}")));
    if items.is_file() {
        let Entries::<Rest>(entries) = read(&items)?;
        let mut fields = entries.into_iter().flat_map(|(_, Rest(fields))| fields);
        if let Some(field) = fields.find(|field| !OF_ITEMS.contains(&field.as_str())) {
            return Ok(Some((items, format!("{field:?} of items"))));
        }
    }
    if users.is_file() {
        let UserFile { user_vague_intention: Intentions { train, rest: others }, rest, .. } =
            read(&users)?;
        let of_wishes = train.into_values().flat_map(|wish| wish.rest.0);
        let field = rest.0.into_iter().chain(others.0).chain(of_wishes).next();
        return Ok(field.map(|field| (users, format!("{field:?}"))));
    }
    Ok(None)
}
