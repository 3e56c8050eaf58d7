//! Files with one JSON object of many entries, read in their order.
//!
//! Stricter than plain serde in one thing: a key that occurs twice is an error, where a JSON map
//! would silently keep the last one.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{DataError, ItemId, packed};
use crate::error::plain;
use crate::files;

/// Where interactions stand.
pub(super) const INTER: &str = ".inter.json";
/// Where texts stand.
pub(super) const ITEM: &str = ".item.json";

/// Where popularity stands, of items without users.
pub(super) const POPULARITY: &str = ".popularity.json";

/// Reads a JSON file.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, DataError> {
    let text = read_text(path, files::text_of)?;
    serde_json::from_str(&text)
        .map_err(|e| DataError::Malformed { path: path.into(), reason: plain(e) })
}

/// Reads a text, of which `text_of` makes what it holds.
pub(super) fn read_text(
    path: &Path,
    text_of: fn(Vec<u8>) -> Result<String, String>,
) -> Result<String, DataError> {
    let bytes = packed::read(path).map_err(|reason| DataError::Io { path: path.into(), reason })?;
    text_of(bytes).map_err(|reason| DataError::Malformed { path: path.into(), reason })
}

/// The id that `key` spells plainly: "07" and "7" would be one with two spellings.
pub(super) fn plain_id(key: &str) -> Option<ItemId> {
    key.parse::<ItemId>().ok().filter(|id| id.to_string() == key)
}

/// The entries of a JSON object in file order; where `UNIQUE`, a key that occurs twice is an error.
pub(super) struct Entries<V, const UNIQUE: bool = true>(pub(super) Vec<(String, V)>);

/// The entries of a JSON object, whatever its keys.
pub(super) struct Pairs<V>(pub(super) Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Entries::<V, false>(entries) = Entries::deserialize(deserializer)?;
        Ok(Self(entries))
    }
}

impl<'de, V: Deserialize<'de>, const UNIQUE: bool> Deserialize<'de> for Entries<V, UNIQUE> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor<V, const UNIQUE: bool>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>, const UNIQUE: bool> Visitor<'de> for EntriesVisitor<V, UNIQUE> {
            type Value = Entries<V, UNIQUE>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut keys = HashSet::new();
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    if UNIQUE && !keys.insert(key.clone()) {
                        return Err(A::Error::custom(format_args!("key {key:?} occurs twice")));
                    }
                    entries.push((key, map.next_value()?));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}
