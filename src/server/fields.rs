//! The fields of a request as they were written.

use indexmap::IndexMap;
use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::short;
use crate::{Result, invalid};

/// What a requester wrote, by name; each value as it was written, so that it takes no more memory than that.
pub type Fields = IndexMap<String, Box<RawValue>>;

/// Reads the fields of a JSON object; of more than `most`, those and one more.
pub(super) fn read_fields(text: &[u8], most: usize) -> Result<Fields> {
    // The position within a line is serde's column; its line is always 1 there.
    let not_json = |e: serde_json::Error| {
        crate::Error::Invalid(format!("not JSON: {}", e.to_string().replace("line 1 ", "")))
    };
    let value: &RawValue = serde_json::from_slice(text).map_err(not_json)?;
    if !value.get().starts_with('{') {
        invalid!("expected an object, found {}", short(value.get()));
    }
    let mut object = serde_json::Deserializer::from_str(value.get());
    FirstFields(most.saturating_add(1)).deserialize(&mut object).map_err(not_json)
}

/// Reads so many fields of an object and passes over the rest: many short ones take far more memory than their text.
struct FirstFields(usize);

impl<'de> DeserializeSeed<'de> for FirstFields {
    type Value = Fields;

    fn deserialize<D: Deserializer<'de>>(self, object: D) -> std::result::Result<Fields, D::Error> {
        object.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FirstFields {
    type Value = Fields;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Fields, A::Error> {
        let mut fields = Fields::new();
        while fields.len() < self.0 {
            let Some((name, value)) = map.next_entry()? else { return Ok(fields) };
            fields.insert(name, value);
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(fields)
    }
}
