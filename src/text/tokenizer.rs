//! One tokenizer for every backbone: trained here, read from a Hugging Face folder or rebuilt from
//! a GGUF file. Item tokens are added here, and proven to survive tokenization.

use std::path::Path;

use rayon::prelude::*;
use serde_json::{Map, Value, json};
use tokenizers::AddedToken;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::files;
use crate::{Error, Result, invalid};

/// The only special token of a tokenizer trained here: end of sequence.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";

/// Tried in this order when no file of a checkpoint says which token ends a sequence.
const COMMON_EOS: [&str; 4] = ["</s>", END_OF_TEXT, "<|end_of_text|>", "<eos>"];

/// The Hugging Face class that takes `tokenizer.json` as it is.
const TOKENIZER_CLASS: &str = "PreTrainedTokenizerFast";

/// A tokenizer with its BOS and EOS, over `tokenizers::Tokenizer`.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: u32,
    /// `tokenizer_config.json` as it was read, so that saving keeps what we do not interpret.
    config: Map<String, Value>,
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
        let texts: Vec<&str> = texts.collect();
        inner.train(&mut trainer, texts.into_iter()).map_err(failed("training the tokenizer"))?;
        Self::new(inner, None, END_OF_TEXT)
    }

    /// A tokenizer without a `tokenizer_config.json` of its own.
    pub(super) fn new(inner: tokenizers::Tokenizer, bos: Option<&str>, eos: &str) -> Result<Self> {
        let id = |token: &str| match inner.token_to_id(token) {
            Some(id) => Ok(id),
            None => Err(Error::Invalid(format!("the vocabulary has no token {token:?}"))),
        };
        let (bos_id, eos_id) = (bos.map(id).transpose()?, id(eos)?);
        let mut config = Map::new();
        config.insert("tokenizer_class".into(), TOKENIZER_CLASS.into());
        config.insert("bos_token".into(), json!(bos));
        config.insert("eos_token".into(), json!(eos));
        config.insert("clean_up_tokenization_spaces".into(), false.into());
        Ok(Self { inner, bos: bos_id, eos: eos_id, config })
    }

    /// Reads `tokenizer.json` of a Hugging Face folder.
    ///
    /// EOS is `eos_token` of `tokenizer_config.json`, else `eos_token_id` of `config.json`, else
    /// of `generation_config.json`, else the first common name in the vocabulary. BOS is used only
    /// where the tokenizer itself puts it before a text: as `add_bos_token` says where it is set,
    /// else as the post-processor does.
    pub fn load_folder(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join("tokenizer.json");
        if !path.is_file() {
            invalid!(
                "{}: not found; only fast tokenizers are read (a SentencePiece `tokenizer.model` \
                 becomes one by loading and saving it once with transformers' AutoTokenizer)",
                path.display()
            );
        }
        let named = |e| Error::Invalid(format!("{}: {e}", path.display()));
        let mut inner = tokenizers::Tokenizer::from_file(&path).map_err(named)?;
        // Saved by some training scripts; cutting or padding texts is the caller's decision.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(named)?;

        let mut config = read_object(&dir.join("tokenizer_config.json"))?;
        let model = read_object(&dir.join("config.json"))?;
        let generation = read_object(&dir.join("generation_config.json"))?;
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
        // Without it, Hugging Face picks a class by the model's type, which may retokenize.
        config.entry("tokenizer_class").or_insert_with(|| TOKENIZER_CLASS.into());
        Ok(Self { inner, bos, eos, config })
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json`, as Hugging Face reads them.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let tokenizer = self.inner.to_string(true).map_err(failed("saving the tokenizer"))?;
        files::write(&dir.join("tokenizer.json"), tokenizer.as_bytes())?;

        let mut added: Vec<_> = self.inner.get_added_tokens_decoder().into_iter().collect();
        added.sort_unstable_by_key(|(id, _)| *id);
        let added: Map<String, Value> =
            added.into_iter().map(|(id, token)| (id.to_string(), json!(token))).collect();
        let mut config = self.config.clone();
        config.insert("added_tokens_decoder".into(), added.into());
        let config = format!("{:#}\n", Value::Object(config));
        files::write(&dir.join("tokenizer_config.json"), config.as_bytes())
    }

    /// Adds item tokens (and `<con>`) as plain, non-special tokens and returns their ids in order.
    ///
    /// A new token's id continues from the tokenizer's own vocabulary, as in Hugging Face. A
    /// checkpoint may have more embedding rows than the tokenizer has tokens (padded to a round
    /// number): the first new ids then fall on padding rows, which were never trained, and the
    /// embedding grows to the last id + 1 only if that is more than it has. A token that the
    /// vocabulary has already keeps its id, so ids are contiguous only where all are new.
    pub fn add_item_tokens(&mut self, tokens: &[String]) -> Result<Vec<u32>> {
        // Not special: readers hide special tokens when they decode. Not normalized: a normalizer
        // that prepends or lower-cases would keep the token from matching.
        let added = tokens.iter().map(|t| AddedToken::from(t.as_str(), false).normalized(false));
        self.inner.add_tokens(added).map_err(failed("adding item tokens"))?;
        let id = |token: &String| match self.inner.token_to_id(token) {
            Some(id) => Ok(id),
            None => Err(Error::Invalid(format!("item token {token:?} cannot be added"))),
        };
        tokens.iter().map(id).collect()
    }

    /// The ids of `text`, without BOS or EOS; special tokens written out in it are recognized.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(failed("tokenizing"))?;
        Ok(encoding.get_ids().to_vec())
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

    /// The number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
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
        let contexts: Vec<(&str, Vec<u32>)> =
            contexts.iter().map(|c| Ok((*c, self.encode(c)?))).collect::<Result<_>>()?;
        let check = |item: usize, tokens: &[String], ids: &[u32]| -> Result<()> {
            for (context, before) in &contexts {
                let text = format!("{context}{}", tokens.concat());
                let found = self.encode(&text)?;
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

/// Shapes the tokenizer library's boxed error into ours.
pub(super) fn failed(doing: &str) -> impl FnOnce(tokenizers::Error) -> Error {
    move |e| Error::Invalid(format!("{doing}: {e}"))
}

/// The token that encoding puts before a text, if any.
fn prefixed_token(inner: &tokenizers::Tokenizer) -> tokenizers::Result<Option<u32>> {
    let (with, plain) = (inner.encode("a", true)?, inner.encode("a", false)?);
    let (with, plain) = (with.get_ids(), plain.get_ids());
    Ok(with.first().filter(|first| plain.first() != Some(*first)).copied())
}

/// The JSON object in `path`; empty where the file does not exist.
fn read_object(path: &Path) -> Result<Map<String, Value>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| Error::Invalid(format!("{}: {e}", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        Err(e) => Err(Error::io(path)(e)),
    }
}

/// The token under `key`, written as a string or as an added token with its `content`.
fn named_token<'a>(config: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    let token = config.get(key)?;
    token.as_str().or_else(|| token.get("content")?.as_str()).filter(|name| !name.is_empty())
}

/// The id under `key`, the first where it is a list.
fn token_id(config: &Map<String, Value>, key: &str) -> Option<u32> {
    let id = config.get(key)?;
    let id = id.as_array().and_then(|list| list.first()).unwrap_or(id).as_u64()?;
    u32::try_from(id).ok()
}
