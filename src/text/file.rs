//! Reading `tokenizer.json` so that every token has the id that the file gives it.
//!
//! The tokenizers library numbers added tokens on from the count of the model's vocabulary and does not
//! look at the ids in the file. Where ids have gaps that gives other ids, even such as are taken: gaps are
//! filled with tokens that no text yields, in what is read and so in what is saved.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::error::plain;
use crate::guard::guarded;
use crate::{Error, Result, files, invalid};

/// So many ids may be missing. Each is filled with a token, and has a row in the embedding.
const MOST_GAPS: usize = 100_000;

/// The added tokens of a file.
#[derive(Deserialize)]
struct Added {
    #[serde(default)]
    added_tokens: Vec<AddedId>,
}

#[derive(Deserialize)]
struct AddedId {
    id: u32,
    content: String,
}

/// Reads a `tokenizer.json`.
///
/// # Errors
/// Names the file, and the token whose id cannot be kept.
pub(super) fn read(path: &Path) -> Result<Tokenizer> {
    let bytes = files::read_text(path)?.into_bytes();
    let named =
        |e: &dyn std::fmt::Display| Error::Invalid(format!("{}: {}", path.display(), plain(e)));
    // First, for the library panics on what is no JSON.
    let added: Added = serde_json::from_slice(&bytes).map_err(|e| named(&e))?;
    let tokenizer = parsed(path, || Tokenizer::from_bytes(&bytes))?.map_err(|e| named(&e))?;
    let ids = tokenizer.get_vocab(true).into_values();
    let (tokens, largest) = (ids.len(), ids.chain(added.added_tokens.iter().map(|t| t.id)).max());
    if let Some(largest) = largest.filter(|&largest| largest as usize > tokens + MOST_GAPS) {
        invalid!(
            "{}: a token has the id {largest}, but there are {tokens} tokens: ids count from 0, with few gaps",
            path.display()
        );
    }
    if wrong_id(&tokenizer, &added).is_none() && !has_gaps(&tokenizer) {
        return Ok(tokenizer);
    }
    let json = serde_json::from_slice(&bytes).map_err(|e| named(&e))?;
    let json = filled(json, &added);
    let tokenizer: Tokenizer =
        parsed(path, || serde_json::from_value(json))?.map_err(|e| named(&e))?;
    if let Some(AddedId { id, content }) = wrong_id(&tokenizer, &added) {
        invalid!(
            "{}: the added token {content:?} cannot have the id {id}: it has another one in the \
             model's vocabulary, or another token has this one",
            path.display()
        );
    }
    Ok(tokenizer)
}

/// What the library makes of a file; it panics on some that contradict themselves.
fn parsed<T>(path: &Path, work: impl FnOnce() -> T) -> Result<T> {
    guarded(work).ok_or_else(|| {
        let what =
            "its parts contradict each other; save it once more with transformers' AutoTokenizer";
        Error::Invalid(format!("{}: {what}", path.display()))
    })
}

/// An added token that got another id than the file gives it.
fn wrong_id<'a>(tokenizer: &Tokenizer, added: &'a Added) -> Option<&'a AddedId> {
    added.added_tokens.iter().find(|t| tokenizer.token_to_id(&t.content) != Some(t.id))
}

fn has_gaps(tokenizer: &Tokenizer) -> bool {
    let ids: BTreeSet<u32> = tokenizer.get_vocab(true).into_values().collect();
    ids.last().is_some_and(|last| *last as usize + 1 != ids.len())
}

/// The file with a token for every id up to the largest.
fn filled(mut json: Value, added: &Added) -> Value {
    let names: BTreeMap<u32, &str> =
        added.added_tokens.iter().map(|t| (t.id, t.content.as_str())).collect();
    let mut in_model = 0;
    if let Some(vocab) = json["model"]["vocab"].as_object_mut() {
        let taken: BTreeSet<u64> = vocab.values().filter_map(Value::as_u64).collect();
        in_model = taken.last().map_or(0, |last| last + 1) as u32;
        for id in (0..in_model).filter(|&id| !taken.contains(&u64::from(id))) {
            let filler = filler(id);
            vocab.insert(names.get(&id).map_or(filler, |name| (*name).to_string()), json!(id));
        }
    } else if let Some(pieces) = json["model"]["vocab"].as_array() {
        in_model = pieces.len() as u32;
    }
    let last = names.last_key_value().map_or(0, |(last, _)| *last);
    let mut tokens: BTreeMap<u64, Value> = BTreeMap::new();
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        tokens.insert(token["id"].as_u64().unwrap_or_default(), token.clone());
    }
    for id in (in_model..last).filter(|id| !names.contains_key(id)) {
        let token = json!({
            "id": id, "content": filler(id), "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        });
        tokens.insert(u64::from(id), token);
    }
    json["added_tokens"] = tokens.into_values().collect();
    json
}

fn filler(id: u32) -> String {
    format!("<unused_{id}>")
}
