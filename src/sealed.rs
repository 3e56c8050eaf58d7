//! JSON files that tell whether they are as they were written: their last entry is the SHA-256 of the others.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, Result, files, invalid};

/// The entry.
const SEAL: &str = "sha256";

/// Writes `value`, an object, with its seal.
pub fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let wrong = |e: serde_json::Error| Error::Invalid(format!("{}: {e}", path.display()));
    let Value::Object(mut fields) = serde_json::to_value(value).map_err(wrong)? else {
        invalid!("{}: what is to be written is not a JSON object", path.display());
    };
    let seal = digest(&fields);
    fields.insert(SEAL.into(), seal.into());
    files::write_json(path, &fields)
}

/// Reads what [`write()`] wrote, or a file that was written before there were seals.
///
/// # Errors
/// Names a file that is cut off or altered, or that another version of the program wrote in a form of its own;
/// `remedy` says how there is another.
pub fn read<T: DeserializeOwned>(path: &Path, remedy: &str) -> Result<T> {
    let altered = |e: &dyn std::fmt::Display| {
        Error::Invalid(format!("{e}; it was cut off or altered: put it back, or {remedy}"))
    };
    let mut fields: Map<String, Value> = files::read_json(path).map_err(|e| match e {
        Error::Invalid(text) => altered(&text),
        other => other,
    })?;
    let seal = fields.remove(SEAL);
    if seal.as_ref().is_some_and(|seal| *seal != digest(&fields)) {
        return Err(altered(&format!("{}: its SHA-256 is not the one in it", path.display())));
    }
    let by = fields.get("version").or(fields.get("program")).and_then(Value::as_str);
    let by =
        by.map_or("another version".to_string(), |by| by.trim_start_matches("llmbs ").to_string());
    serde_json::from_value(Value::Object(fields)).map_err(|e| match seal {
        // It is as it was written.
        Some(_) => Error::Invalid(format!(
            "{}: {e}; llmbs {by} wrote it, and this one, {}, reads another form: use that version, or {remedy}",
            path.display(),
            env!("CARGO_PKG_VERSION")
        )),
        None => altered(&format!("{}: {e}", path.display())),
    })
}

fn digest(fields: &Map<String, Value>) -> String {
    files::digest_of(serde_json::to_string(fields).unwrap_or_default().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_altered_or_cut_off_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("result.json");
        let value =
            serde_json::json!({ "recall@10": 1.0 / 3.0, "of": ["a", 2, null], "n": u64::MAX });
        write(&path, &value).unwrap();
        assert_eq!(read::<Value>(&path, "evaluate again").unwrap(), value);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 4;
            std::fs::write(&path, altered).unwrap();
            // A space may become another, and the name of the seal may be lost: the rest is as it was.
            match read::<Value>(&path, "evaluate again") {
                Ok(found) => assert_eq!(found["recall@10"], value["recall@10"], "byte {at}"),
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.contains("result.json"), "{error}");
                    assert!(error.ends_with("put it back, or evaluate again"), "{error}");
                }
            }
        }
        for length in 0..whole.len() - 1 {
            std::fs::write(&path, &whole[..length]).unwrap();
            read::<Value>(&path, "evaluate again").unwrap_err();
        }
        std::fs::write(&path, value.to_string()).unwrap();
        assert_eq!(read::<Value>(&path, "").unwrap(), value);
    }

    #[test]
    fn what_another_version_wrote_is_told_by_its_version() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Known {
            #[serde(rename = "version")]
            _version: String,
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest.json");
        let error = |value: &Value| {
            write(&path, value).unwrap();
            read::<Known>(&path, "make it anew").unwrap_err().to_string()
        };
        let found = error(&serde_json::json!({ "version": "9.1.0", "pieces": 3 }));
        assert!(found.contains("manifest.json: unknown field `pieces`"), "{found}");
        assert!(
            found.contains("; llmbs 9.1.0 wrote it") && found.ends_with("or make it anew"),
            "{found}"
        );
        let found = error(&serde_json::json!({ "program": "llmbs 9.1.0 (abc)" }));
        assert!(found.contains("; llmbs 9.1.0 (abc) wrote it"), "{found}");
        // Without a seal nobody knows who wrote it.
        std::fs::write(&path, r#"{"pieces": 3}"#).unwrap();
        let found = read::<Known>(&path, "make it anew").unwrap_err().to_string();
        assert!(found.contains("cut off or altered"), "{found}");
    }
}
