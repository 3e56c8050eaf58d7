//! Text that is nothing but text: whatever is written in it, no special token and no item token comes
//! out. Item tokens are given as ids, between stretches of text.
//!
//! Hugging Face splits a string at its added tokens before all else and encodes what lies between them;
//! a tokenizer may treat the first stretch differently from the others (`SentencePiece` puts a space
//! before it). So a text with ids in it is encoded as one string, in which a character that no text has
//! stands for each run of ids.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use tokenizers::{AddedToken, AddedVocabulary, Encoding};

use crate::error::plain;
use crate::guard::guarded;
use crate::{Error, Result};

/// Stands where ids are given. Unicode promises that it is no character (as the two behind it).
const PLACE: char = '\u{10FFFF}';
/// Begins the names of tokens that must not be found in text.
const HIDDEN: char = '\u{10FFFE}';

/// A stretch of what is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// Text, which yields no special token and no item token.
    Text(&'a str),
    /// Ids that are taken as they are, such as those of an item.
    Ids(&'a [u32]),
}

/// Encodes text that is nothing but text; cheap to clone.
#[derive(Debug, Clone)]
pub struct TextEncoder {
    inner: Arc<tokenizers::Tokenizer>,
    place: u32,
    /// The ids of added tokens here that have other ids in the whole tokenizer.
    renumbered: BTreeMap<u32, u32>,
    /// The largest id of an added token, in the whole tokenizer.
    largest_added: Option<u32>,
}

impl TextEncoder {
    /// An encoder that never gives a token of `reserved`, names with their ids, a special token or one
    /// that looks like markup. Other added tokens (runs of spaces, words) are how the vocabulary writes
    /// ordinary text: they stay.
    pub(super) fn new(
        tokenizer: &tokenizers::Tokenizer,
        mut reserved: BTreeMap<String, u32>,
    ) -> Result<Self> {
        let mut added: Vec<_> = tokenizer.get_added_tokens_decoder().into_iter().collect();
        added.sort_unstable_by_key(|(id, _)| *id);
        let is_markup = |text: &str| text.contains(['<', '>', '[', ']', '{', '}', '|']);
        let (off, kept): (Vec<_>, Vec<_>) = added.into_iter().partition(|(_, token)| {
            token.special || is_markup(&token.content) || reserved.contains_key(&token.content)
        });
        reserved.extend(off.into_iter().map(|(id, token)| (token.content, id)));

        let mut inner = tokenizer.clone();
        inner.with_added_vocabulary(AddedVocabulary::new());
        if gives(&inner, &reserved)? {
            inner = hidden(&inner, &reserved)?;
        }
        let place = AddedToken::from(PLACE, false).normalized(false);
        let tokens = kept.iter().map(|(_, token)| token.clone()).chain([place]);
        inner.add_tokens(tokens).map_err(failed("the tokenizer's added tokens"))?;
        let id = |token: &str| inner.token_to_id(token).unwrap_or_default();
        let renumbered = kept.iter().map(|(there, token)| (id(&token.content), *there));
        let renumbered = renumbered.filter(|(here, there)| here != there).collect();
        let place = id(&PLACE.to_string());
        let largest_added = kept.last().map(|(there, _)| *there);
        Ok(Self { inner: Arc::new(inner), place, renumbered, largest_added })
    }

    pub(super) fn largest_added(&self) -> Option<u32> {
        self.largest_added
    }

    /// The ids of `text`, without BOS or EOS.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_parts(&[Part::Text(text)])
    }

    /// The ids of the one text that `parts` are together, without BOS or EOS.
    pub fn encode_parts(&self, parts: &[Part<'_>]) -> Result<Vec<u32>> {
        let (text, mut places) = joined(parts);
        let encoding = self.inner.encode_fast(text, false).map_err(failed("tokenizing"))?;
        let mut ids = Vec::with_capacity(encoding.len());
        for &id in encoding.get_ids() {
            self.push(id, &mut places, &mut ids);
        }
        Ok(ids)
    }

    /// The ids of the one text that `prompt` and `response` are together, divided where the response
    /// begins: a token that lies across goes to the response.
    pub fn encode_pair(
        &self,
        prompt: &[Part<'_>],
        response: &[Part<'_>],
    ) -> Result<(Vec<u32>, Vec<u32>)> {
        let end_of_prompt = joined(prompt).0.len();
        let (text, mut places) = joined(&[prompt, response].concat());
        let encoding = encode(&self.inner, &text, false).map_err(failed("tokenizing"))?;
        let ends = encoding.get_offsets().iter().map(|(_, end)| *end);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for (&id, end) in encoding.get_ids().iter().zip(ends) {
            let ids =
                if end <= end_of_prompt && after.is_empty() { &mut before } else { &mut after };
            self.push(id, &mut places, ids);
        }
        Ok((before, after))
    }

    /// The longest beginning of `text` that ends with a token and has at most `max_tokens`.
    pub fn cut(&self, text: &str, max_tokens: usize) -> Result<String> {
        let mut text = without_noncharacters(text).into_owned();
        let encoding = encode(&self.inner, &text, false).map_err(failed("tokenizing"))?;
        let offsets = encoding.get_offsets();
        if offsets.len() > max_tokens {
            // Several tokens may spell one character: it stays whole or goes.
            let whole = |&n: &usize| n == 0 || offsets[n].0 >= offsets[n - 1].1;
            let tokens = (0..=max_tokens).rev().find(whole).unwrap_or(0);
            text.truncate(tokens.checked_sub(1).map_or(0, |last| offsets[last].1));
        }
        Ok(text)
    }

    fn push<'a>(&self, id: u32, places: &mut impl Iterator<Item = &'a [u32]>, ids: &mut Vec<u32>) {
        if id == self.place {
            ids.extend(places.next().unwrap_or_default());
        } else {
            ids.push(self.renumbered.get(&id).copied().unwrap_or(id));
        }
    }
}

/// The text of `parts`, and the ids that stand at its places, in order.
fn joined<'a>(parts: &[Part<'a>]) -> (String, impl Iterator<Item = &'a [u32]> + use<'a>) {
    let (mut text, mut places) = (String::new(), Vec::new());
    for part in parts {
        match *part {
            Part::Text(part) => text.push_str(&without_noncharacters(part)),
            Part::Ids([]) => {}
            Part::Ids(ids) => {
                text.push(PLACE);
                places.push(ids);
            }
        }
    }
    (text, places.into_iter())
}

/// `text` with our own two marks, which Unicode keeps out of texts, replaced as Unicode advises: by
/// U+FFFD.
fn without_noncharacters(text: &str) -> Cow<'_, str> {
    if text.contains([PLACE, HIDDEN]) {
        Cow::Owned(text.replace([PLACE, HIDDEN], "\u{FFFD}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Whether `tokenizer` gives a token of `reserved` for its name written out, though it is no added token:
/// some algorithms (Unigram, whole words) look names up in their vocabulary.
fn gives(tokenizer: &tokenizers::Tokenizer, reserved: &BTreeMap<String, u32>) -> Result<bool> {
    for (name, id) in reserved {
        for text in [name.clone(), format!("a {name} a"), format!("a{name}a")] {
            let encoding = tokenizer.encode_fast(text, false).map_err(failed("tokenizing"))?;
            if encoding.get_ids().contains(id) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// `tokenizer` with the names of `reserved` changed in its vocabulary to what no text has.
fn hidden(
    tokenizer: &tokenizers::Tokenizer,
    reserved: &BTreeMap<String, u32>,
) -> Result<tokenizers::Tokenizer> {
    const DOING: &str = "the tokenizer's special tokens";
    let is_reserved = |name: &str| reserved.contains_key(name);
    let hide = |name: &mut String| {
        if is_reserved(name) {
            name.insert(0, HIDDEN);
        }
    };
    let mut json = serde_json::to_value(tokenizer).map_err(|e| failed(DOING)(e.into()))?;
    let model = &mut json["model"];
    match &mut model["vocab"] {
        Value::Object(ids) => {
            let renamed = std::mem::take(ids).into_iter().map(|(mut name, id)| {
                hide(&mut name);
                (name, id)
            });
            *ids = renamed.collect::<Map<_, _>>();
        }
        Value::Array(pieces) => {
            for piece in pieces {
                if let Some(Value::String(name)) = piece.get_mut(0) {
                    hide(name);
                }
            }
        }
        _ => {}
    }
    if let Some(merges) = model["merges"].as_array_mut() {
        let part = |merge: &Value, i: usize| merge[i].as_str().unwrap_or_default().to_string();
        merges.retain(|merge| {
            let (left, right) = (part(merge, 0), part(merge, 1));
            ![&left, &right, &(left.clone() + &right)].into_iter().any(|name| is_reserved(name))
        });
    }
    if let Value::String(name) = &mut model["unk_token"] {
        hide(name);
    }
    serde_json::from_value(json).map_err(|e| failed(DOING)(e.into()))
}

/// Encodes a text; the library panics where the parts of a tokenizer contradict each other.
pub(super) fn encode(
    tokenizer: &tokenizers::Tokenizer,
    text: &str,
    special: bool,
) -> tokenizers::Result<Encoding> {
    let encoded = guarded(|| tokenizer.encode(text, special));
    encoded.unwrap_or_else(|| {
        Err("the parts of the tokenizer contradict each other; save it once more with transformers' \
             AutoTokenizer"
            .into())
    })
}

/// Shapes the tokenizer library's boxed error into ours.
pub(super) fn failed(doing: &str) -> impl FnOnce(tokenizers::Error) -> Error {
    move |e| Error::Invalid(format!("{doing}: {}", plain(e)))
}
