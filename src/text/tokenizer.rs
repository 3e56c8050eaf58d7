//! One tokenizer for every backbone: trained here, read from a Hugging Face folder or rebuilt from
//! a GGUF file. Item tokens are added here, and proven to survive tokenization.

use std::collections::HashMap;
use std::path::Path;

use rayon::prelude::*;
use serde_json::{Map, Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, PostProcessorWrapper};

use super::file;
use super::plain::{Part, TextEncoder, encode, failed};
use crate::files;
use crate::{Error, Result, invalid};

/// The only special token of a tokenizer trained here: end of sequence.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";

const FILE: &str = "tokenizer.json";
const CONFIG_FILE: &str = "tokenizer_config.json";
/// Where transformers 5 puts the chat template, which before was a key of `tokenizer_config.json`.
const CHAT_TEMPLATE_FILE: &str = "chat_template.jinja";

/// Keys of `tokenizer_config.json`.
pub(super) const CHAT_TEMPLATE: &str = "chat_template";
pub(super) const MODEL_MAX_LENGTH: &str = "model_max_length";

/// Tried in this order when no file of a checkpoint says which token ends a sequence.
const COMMON_EOS: [&str; 4] = ["</s>", END_OF_TEXT, "<|end_of_text|>", "<eos>"];

/// The Hugging Face class that takes `tokenizer.json` as it is.
const TOKENIZER_CLASS: &str = "PreTrainedTokenizerFast";

/// A tokenizer with its BOS and EOS, over `tokenizers::Tokenizer`.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    text: TextEncoder,
    bos: Option<u32>,
    eos: u32,
    /// The largest id + 1.
    bound: u32,
    /// `tokenizer_config.json` as it was read, so that saving keeps what we do not interpret.
    config: Map<String, Value>,
}

/// Merging within a word takes time in the square of its length, so a longer one is learnt from in pieces.
pub(super) const LONGEST_WORD: usize = 1000;

/// `text` in pieces without a word of more than [`LONGEST_WORD`] bytes, which are nearly always one.
pub(super) fn pieces(text: &str) -> Vec<&str> {
    let (mut pieces, mut start, mut word) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        if c.is_whitespace() {
            word = at + c.len_utf8();
        } else if at + c.len_utf8() - word > LONGEST_WORD {
            pieces.push(&text[start..at]);
            (start, word) = (at, at);
        }
    }
    pieces.push(&text[start..]);
    pieces
}

impl Tokenizer {
    /// Trains byte-level BPE (Sennrich et al., 2016, on bytes as in GPT-2) on `texts`.
    ///
    /// The vocabulary holds `<|endoftext|>` (id 0), the 256 bytes and merges up to `vocab_size`;
    /// fewer where the texts have no more pairs to merge.
    ///
    /// # Errors
    /// Where `vocab_size` leaves no room for the bytes.
    pub fn train_bpe<'a>(texts: impl Iterator<Item = &'a str>, vocab_size: usize) -> Result<Self> {
        let alphabet = ByteLevel::alphabet();
        let least = alphabet.len() + 1;
        if vocab_size < least {
            invalid!(
                "a byte-level vocabulary has at least {least} tokens, {vocab_size} were asked"
            );
        }
        let mut inner = tokenizers::Tokenizer::new(BPE::default());
        inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        inner.with_decoder(Some(ByteLevel::new(false, true, true)));
        let mut trainer: TrainerWrapper = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .show_progress(false)
            .initial_alphabet(alphabet.into_iter().collect())
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .build()
            .into();
        let texts: Vec<&str> = texts.flat_map(pieces).collect();
        inner.train(&mut trainer, texts.into_iter()).map_err(failed("training the tokenizer"))?;
        Self::new(inner, None, END_OF_TEXT)
    }

    /// A tokenizer without a `tokenizer_config.json` of its own.
    pub(super) fn new(inner: tokenizers::Tokenizer, bos: Option<&str>, eos: &str) -> Result<Self> {
        let id = |token: &str| match inner.token_to_id(token) {
            Some(id) => Ok(id),
            None => Err(Error::Invalid(format!("the vocabulary has no token {token:?}"))),
        };
        let (bos, eos) = (bos.map(id).transpose()?, id(eos)?);
        let mut config = Map::new();
        config.insert("clean_up_tokenization_spaces".into(), false.into());
        Self::assemble(inner, bos, eos, config)
    }

    /// Makes all parts say the same: the post-processor puts `bos` before a text and nothing else
    /// anywhere, as training and decoding do, and so does `config`.
    fn assemble(
        mut inner: tokenizers::Tokenizer,
        bos: Option<u32>,
        eos: u32,
        mut config: Map<String, Value>,
    ) -> Result<Self> {
        let name = |id: u32| match inner.id_to_token(id) {
            Some(name) => Ok(name),
            None => Err(Error::Invalid(format!(
                "token {id} begins or ends a sequence, but the vocabulary has no such id"
            ))),
        };
        let (bos_name, eos_name) = (bos.map(name).transpose()?, name(eos)?);
        if !puts_before(&inner, bos)? {
            let template = bos_name.as_ref().zip(bos).map(|(name, id)| bos_template(name, id));
            inner.with_post_processor(template.transpose()?);
        }
        for (key, name) in [("bos_token", bos_name.as_ref()), ("eos_token", Some(&eos_name))] {
            if named_token(&config, key).is_none() {
                config.insert(key.into(), json!(name));
            }
        }
        config.insert("add_bos_token".into(), bos.is_some().into());
        config.insert("add_eos_token".into(), false.into());
        // Without it, Hugging Face picks a class by the model's type, which may retokenize.
        config.entry("tokenizer_class").or_insert_with(|| TOKENIZER_CLASS.into());
        // Without these, Hugging Face cannot put prompts of several lengths into a batch and continue them.
        if named_token(&config, "pad_token").is_none() {
            config.insert("pad_token".into(), json!(eos_name));
        }
        config.entry("padding_side").or_insert_with(|| "left".into());

        let bound = inner.get_vocab(true).into_values().max().map_or(0, |last| last + 1);
        let reserved = special_names(&config)
            .chain([eos_name.as_str()])
            .chain(bos_name.as_deref())
            .filter_map(|name| Some((name.to_string(), inner.token_to_id(name)?)))
            .collect();
        let text = TextEncoder::new(&inner, reserved)?;
        Ok(Self { inner, text, bos, eos, bound, config })
    }

    /// Reads `tokenizer.json` of a Hugging Face folder.
    ///
    /// EOS is `eos_token` of `tokenizer_config.json`, else `eos_token_id` of `config.json`, else
    /// of `generation_config.json`, else the first common name in the vocabulary. BOS is used only
    /// where the tokenizer itself puts it before a text: as `add_bos_token` says where it is set,
    /// else as the post-processor does.
    pub fn load_folder(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join(FILE);
        if !path.is_file() {
            invalid!(
                "{}: not found; only fast tokenizers are read (a SentencePiece `tokenizer.model` \
                 becomes one by loading and saving it once with transformers' AutoTokenizer)",
                path.display()
            );
        }
        let named = |e| Error::Invalid(format!("{}: {e}", path.display()));
        let others = [CHAT_TEMPLATE_FILE, "config.json", "generation_config.json"];
        for name in [FILE, CONFIG_FILE].into_iter().chain(others) {
            files::check_inside(dir, &dir.join(name))?;
        }
        let mut inner = file::read(&path)?;
        // Saved by some training scripts; cutting or padding texts is the caller's decision.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(named)?;

        let mut config = read_object(&dir.join(CONFIG_FILE))?;
        let template = dir.join(CHAT_TEMPLATE_FILE);
        if template.exists() {
            config.insert(CHAT_TEMPLATE.into(), files::read_text(&template)?.into());
        }
        let model = read_object(&dir.join("config.json"))?;
        let generation = read_object(&dir.join("generation_config.json"))?;
        if let Some(longest) = model.get("max_position_embeddings") {
            config.entry(MODEL_MAX_LENGTH).or_insert_with(|| longest.clone());
        }
        let special = |token: &str, key: &str| {
            named_token(&config, token)
                .and_then(|name| inner.token_to_id(name))
                .or_else(|| token_id(&model, key))
                .or_else(|| token_id(&generation, key))
        };
        let Some(eos) = special("eos_token", "eos_token_id")
            .or_else(|| COMMON_EOS.iter().find_map(|name| inner.token_to_id(name)))
        else {
            invalid!(
                "{}: no end-of-sequence token is named (`eos_token` in tokenizer_config.json or \
                 `eos_token_id` in config.json) and none of {COMMON_EOS:?} is in the vocabulary",
                dir.display()
            );
        };
        let bos = match config.get("add_bos_token").and_then(Value::as_bool) {
            Some(true) => special("bos_token", "bos_token_id"),
            Some(false) => None,
            None => prefixed_token(&inner).map_err(named)?,
        };
        let named = |e| Error::Invalid(format!("{}: {e}", path.display()));
        Self::assemble(inner, bos, eos, config).map_err(named)
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json`, as Hugging Face reads them.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        files::make_dir(dir)?;
        let tokenizer = self.inner.to_string(true).map_err(failed("saving the tokenizer"))?;
        files::write(&dir.join(FILE), tokenizer.as_bytes())?;

        let mut added: Vec<_> = self.inner.get_added_tokens_decoder().into_iter().collect();
        added.sort_unstable_by_key(|(id, _)| *id);
        let added: Map<String, Value> =
            added.into_iter().map(|(id, token)| (id.to_string(), json!(token))).collect();
        let mut config = self.config.clone();
        config.insert("added_tokens_decoder".into(), added.into());
        let config = format!("{:#}\n", Value::Object(config));
        files::write(&dir.join(CONFIG_FILE), config.as_bytes())
    }

    /// The Hugging Face tokenizer.
    pub(super) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    /// The id of the token that a key of `tokenizer_config.json` names, such as `pad_token`.
    pub(super) fn role(&self, key: &str) -> Option<u32> {
        self.inner.token_to_id(named_token(&self.config, key)?)
    }

    /// A key of `tokenizer_config.json`.
    pub(super) fn setting(&self, key: &str) -> Option<&Value> {
        self.config.get(key)
    }

    /// Puts a key into `tokenizer_config.json`.
    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.config.insert(key.into(), value.into());
    }

    /// Adds item tokens (and `<con>`) as plain, non-special tokens and returns their ids: one after the
    /// other from [`Tokenizer::vocab_size`] on.
    ///
    /// A checkpoint may have more embedding rows than its tokenizer has ids (padded to a round number):
    /// the first new ids then fall on padding rows, which were never trained, and the embedding grows to
    /// the last id + 1 only if that is more than it has.
    ///
    /// # Errors
    /// Names the tokens that the vocabulary has already: their rows mean something else.
    pub fn add_item_tokens(&mut self, tokens: &[String]) -> Result<Vec<u32>> {
        self.refuse_known(tokens)?;
        // Not special: readers hide special tokens when they decode. Not normalized: a normalizer
        // that prepends or lower-cases would keep the token from matching.
        let added = tokens.iter().map(|t| AddedToken::from(t.as_str(), false).normalized(false));
        self.inner.add_tokens(added).map_err(failed("adding item tokens"))?;
        let ids: Vec<u32> = (self.bound..).take(tokens.len()).collect();
        for (token, &id) in tokens.iter().zip(&ids) {
            let found = self.inner.token_to_id(token);
            if found != Some(id) {
                let found = found.map_or_else(|| "none".to_string(), |id| id.to_string());
                invalid!(
                    "item token {token:?} gets the id {found} instead of {id}: the ids of the \
                     tokenizer are not those of its file; save it once with transformers' \
                     AutoTokenizer"
                );
            }
        }
        self.bound += tokens.len() as u32;
        Ok(ids)
    }

    /// The same tokenizer with the ids from `first` on for `tokens`, which are all added tokens that have these ids in
    /// another order.
    pub fn reordered(self, tokens: &[String], first: u32) -> Result<Self> {
        const WHAT: &str = "numbering item tokens anew";
        let ids: HashMap<&str, u32> = tokens.iter().map(String::as_str).zip(first..).collect();
        let mut json = serde_json::to_value(&self.inner).map_err(|e| failed(WHAT)(e.into()))?;
        if let Some(added) = json["added_tokens"].as_array_mut() {
            for token in added.iter_mut() {
                if let Some(id) = token["content"].as_str().and_then(|name| ids.get(name)) {
                    token["id"] = json!(id);
                }
            }
            // The library numbers them as they come.
            added.sort_by_key(|token| token["id"].as_u64());
        }
        let inner: tokenizers::Tokenizer =
            serde_json::from_value(json).map_err(|e| failed(WHAT)(e.into()))?;
        if let Some((name, id)) =
            ids.iter().find(|(name, id)| inner.token_to_id(name) != Some(**id))
        {
            invalid!("item token {name:?} cannot have the id {id}: it is no added token");
        }
        Ok(Self { inner, ..self })
    }

    /// Refuses item tokens that the vocabulary has already.
    pub fn refuse_known(&self, tokens: &[String]) -> Result<()> {
        const SHOWN: usize = 5;
        let known = tokens.iter().filter(|token| self.inner.token_to_id(token).is_some());
        let known: Vec<&str> = known.map(String::as_str).collect();
        if known.is_empty() {
            return Ok(());
        }
        let more = if known.len() > SHOWN { ", …" } else { "" };
        invalid!(
            "the backbone's tokenizer has {} of the item tokens already ({}{more}): their rows mean \
             something else; take a backbone without them, not one that was trained on an index",
            known.len(),
            known[..known.len().min(SHOWN)].join(", ")
        )
    }

    /// The ids of `text`, without BOS or EOS. Nothing but text: a special token or an item token that is
    /// written out in it is spelled like any other word.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.text.encode(text)
    }

    /// The ids of a text in which the names in `items` stand for their ids; all else is text.
    pub fn encode_with_items(&self, text: &str, items: &HashMap<String, u32>) -> Result<Vec<u32>> {
        let mut lengths: Vec<usize> = items.keys().map(String::len).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        let item_at = |at: usize| {
            lengths.iter().find_map(|length| {
                let name = text.get(at..at + length)?;
                Some((*length, items.get(name)?))
            })
        };
        let (mut parts, mut start, mut at) = (Vec::new(), 0, 0);
        while at < text.len() {
            if let Some((length, id)) = item_at(at) {
                parts.extend([Part::Text(&text[start..at]), Part::Ids(std::slice::from_ref(id))]);
                at += length;
                start = at;
            } else {
                at += 1;
            }
        }
        parts.push(Part::Text(&text[start..]));
        self.text.encode_parts(&parts)
    }

    /// What encodes text that is nothing but text.
    pub fn text_encoder(&self) -> &TextEncoder {
        &self.text
    }

    /// The text of `ids`; special tokens are left out, item tokens are kept.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(failed("decoding"))
    }

    /// The token this tokenizer itself puts before every text, if it does.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a sequence.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// How many rows an embedding has that has one for each id: the largest id + 1.
    pub fn vocab_size(&self) -> usize {
        self.bound as usize
    }

    /// The same of the ids that text, BOS and EOS come to: other added tokens, such as a padding token,
    /// need no row.
    pub fn vocab_size_of_text(&self) -> usize {
        let last =
            self.inner.get_vocab(false).into_values().chain([self.eos]).chain(self.bos).max();
        last.max(self.text.largest_added()).map_or(0, |last| last as usize + 1)
    }

    /// The id of `token`, if the vocabulary has it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of `id`, if the vocabulary has it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Checks that every item's tokens, written one after another, encode to exactly its ids:
    /// alone, after a word and after a comma. `items` gives tokens and ids of item 0, 1, ….
    ///
    /// # Errors
    /// Names the first item that does not and what came out.
    pub fn check_item_tokens(
        &self,
        items: impl Iterator<Item = (Vec<String>, Vec<u32>)>,
    ) -> Result<()> {
        let contexts = ["", "item", "item, "];
        // As Hugging Face encodes: item tokens are recognized.
        let encode = |text: &str| -> Result<Vec<u32>> {
            let encoding = self.inner.encode_fast(text, false).map_err(failed("tokenizing"))?;
            Ok(encoding.get_ids().to_vec())
        };
        let contexts: Vec<(&str, Vec<u32>)> =
            contexts.iter().map(|c| Ok((*c, encode(c)?))).collect::<Result<_>>()?;
        let check = |item: usize, tokens: &[String], ids: &[u32]| -> Result<()> {
            for (context, before) in &contexts {
                let text = format!("{context}{}", tokens.concat());
                let found = encode(&text)?;
                if found.strip_prefix(before.as_slice()) != Some(ids) {
                    invalid!(
                        "item {item}: {text:?} encodes to {found:?} instead of {before:?} and \
                         {ids:?}; the tokenizer splits or merges its item tokens"
                    );
                }
            }
            Ok(())
        };
        let items: Vec<_> = items.enumerate().collect();
        items
            .par_iter()
            .find_map_first(|(item, (tokens, ids))| check(*item, tokens, ids).err())
            .map_or(Ok(()), Err)
    }
}

/// The token that encoding puts before a text, if any.
fn prefixed_token(inner: &tokenizers::Tokenizer) -> tokenizers::Result<Option<u32>> {
    let (with, plain) = (encode(inner, "a", true)?, encode(inner, "a", false)?);
    let (with, plain) = (with.get_ids(), plain.get_ids());
    Ok(with.first().filter(|first| plain.first() != Some(*first)).copied())
}

/// Whether encoding with special tokens puts `bos` before a text, if there is one, and nothing else.
fn puts_before(inner: &tokenizers::Tokenizer, bos: Option<u32>) -> Result<bool> {
    let ids = |special| {
        let encoding =
            encode(inner, "a", special).map_err(failed("the tokenizer's post-processor"))?;
        Ok::<_, Error>(encoding.get_ids().to_vec())
    };
    let plain: Vec<u32> = bos.into_iter().chain(ids(false)?).collect();
    Ok(ids(true)? == plain)
}

/// A post-processor that puts `bos` before a text.
fn bos_template(bos: &str, id: u32) -> Result<PostProcessorWrapper> {
    let template = TemplateProcessing::builder()
        .try_single(vec![bos, "$A"])
        .map_err(Error::Invalid)?
        .special_tokens(vec![(bos.to_string(), id)])
        .build()
        .map_err(|e| Error::Invalid(format!("the begin-of-sequence token {bos:?}: {e}")))?;
    Ok(template.into())
}

/// The tokens that a `tokenizer_config.json` gives a role: `eos_token` and its like, and lists of more.
fn special_names(config: &Map<String, Value>) -> impl Iterator<Item = &str> {
    config.iter().flat_map(|(key, value)| {
        let several = value.as_array().filter(|_| key.ends_with("special_tokens"));
        let one = key.ends_with("_token").then_some(value);
        several.into_iter().flatten().chain(one).filter_map(token_name)
    })
}

/// The JSON object in `path`; empty where the file does not exist.
fn read_object(path: &Path) -> Result<Map<String, Value>> {
    if path.exists() { files::read_json(path) } else { Ok(Map::new()) }
}

/// The token under `key`, written as a string or as an added token with its `content`.
fn named_token<'a>(config: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    config.get(key).and_then(token_name)
}

fn token_name(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str()).filter(|name| !name.is_empty())
}

/// The id under `key`, the first where it is a list.
fn token_id(config: &Map<String, Value>, key: &str) -> Option<u32> {
    let id = config.get(key)?;
    let id = id.as_array().and_then(|list| list.first()).unwrap_or(id).as_u64()?;
    u32::try_from(id).ok()
}
