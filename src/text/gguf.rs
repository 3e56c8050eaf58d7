//! The tokenizer inside a GGUF file, rebuilt as the Hugging Face tokenizer it was converted from.

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::Tokenizer;
use super::plain::failed;
use crate::error::short;
use crate::{Error, Result, invalid};

/// The pre-tokenizers we know, by their names in `tokenizer.ggml.pre`.
const KNOWN_PRE: &str = "smollm, gpt-2, llama-bpe (also llama3, llama-v3)";

/// How Llama 3 splits text before byte-pair merging, from its published `tokenizer.json`.
const LLAMA3_SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// The values of `tokenizer.ggml.token_type` that stand for special tokens: unknown and control.
const SPECIAL_TYPES: [i32; 2] = [2, 3];
/// A token that is matched in text before anything else but is not special.
const USER_DEFINED_TYPE: i32 = 4;

/// What the keys `tokenizer.ggml.*` of a GGUF file say; the fields carry the keys' last parts.
#[derive(Debug, Clone, Default)]
pub struct GgufVocabulary {
    /// The algorithm: `gpt2` is byte-level BPE.
    pub model: String,
    /// The pre-tokenizer's name.
    pub pre: String,
    /// Every token, at the index that is its id.
    pub tokens: Vec<String>,
    /// One a token: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub token_type: Vec<i32>,
    /// The merges in order, two tokens separated by a space.
    pub merges: Vec<String>,
    /// The begin-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// The end-of-sequence token.
    pub eos_token_id: Option<u32>,
    /// Whether BOS goes before every text.
    pub add_bos_token: Option<bool>,
}

impl GgufVocabulary {
    fn token(&self, id: u32) -> Result<&str> {
        match self.tokens.get(id as usize) {
            Some(token) => Ok(token),
            None => Err(Error::Invalid(format!(
                "special token {id} is beyond the {} tokens of tokenizer.ggml.tokens",
                self.tokens.len()
            ))),
        }
    }

    fn is_llama3(&self) -> bool {
        matches!(self.pre.as_str(), "llama-bpe" | "llama3" | "llama-v3")
    }

    fn pre_tokenizer(&self) -> Result<PreTokenizerWrapper> {
        let bytes = |use_regex| PreTokenizerWrapper::from(ByteLevel::new(false, true, use_regex));
        let steps = match self.pre.as_str() {
            "gpt-2" => return Ok(bytes(true)),
            "smollm" => vec![Digits::new(true).into(), bytes(true)],
            _ if self.is_llama3() => {
                let pattern = SplitPattern::Regex(LLAMA3_SPLIT.into());
                let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                    .map_err(failed("the Llama 3 pre-tokenizer"))?;
                vec![split.into(), bytes(false)]
            }
            "" | "default" => invalid!(
                "tokenizer.ggml.pre does not say which pre-tokenizer the vocabulary was made with, \
                 so text would be split wrongly; use the Hugging Face folder, or a file that names \
                 one of: {KNOWN_PRE}"
            ),
            other => invalid!(
                "tokenizer.ggml.pre: unknown pre-tokenizer {other:?}; known are {KNOWN_PRE}; \
                 use the Hugging Face folder instead"
            ),
        };
        Ok(Sequence::new(steps).into())
    }
}

impl Tokenizer {
    /// The tokenizer a GGUF file carries, for byte-level BPE vocabularies (`gpt2`).
    ///
    /// # Errors
    /// For other algorithms and for pre-tokenizers we do not know: a guess would give other ids
    /// than the model was trained on.
    pub fn from_gguf(vocabulary: &GgufVocabulary) -> Result<Self> {
        if vocabulary.model != "gpt2" {
            invalid!(
                "tokenizer.ggml.model: {:?} is not supported, only \"gpt2\" (byte-level BPE) \
                 is; use the Hugging Face folder instead",
                vocabulary.model
            );
        }
        let vocab: Vocab = vocabulary.tokens.iter().cloned().zip(0..).collect();
        if vocab.len() != vocabulary.tokens.len() {
            invalid!("tokenizer.ggml.tokens: a token occurs twice");
        }
        let split = |merge: &String| match merge.split_once(' ') {
            Some((left, right)) => Ok((left.to_string(), right.to_string())),
            None => {
                Err(Error::Invalid(format!("tokenizer.ggml.merges: {:?} is no pair", short(merge))))
            }
        };
        let merges: Merges = vocabulary.merges.iter().map(split).collect::<Result<_>>()?;
        let model = BPE::builder()
            .vocab_and_merges(vocab, merges)
            // Llama 3 takes a whole word that is a token as it is, even where no merges lead to it.
            .ignore_merges(vocabulary.is_llama3())
            .build()
            .map_err(failed("tokenizer.ggml.merges"))?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_pre_tokenizer(Some(vocabulary.pre_tokenizer()?));
        inner.with_decoder(Some(ByteLevel::new(false, true, true)));

        let added =
            vocabulary.tokens.iter().zip(&vocabulary.token_type).filter_map(|(token, kind)| {
                let special = SPECIAL_TYPES.contains(kind);
                (special || *kind == USER_DEFINED_TYPE)
                    .then(|| AddedToken::from(token.as_str(), special).normalized(false))
            });
        inner.add_tokens(added).map_err(failed("tokenizer.ggml.token_type"))?;

        let Some(eos) = vocabulary.eos_token_id else {
            invalid!("tokenizer.ggml.eos_token_id is missing");
        };
        // Files of Llama 3 leave the flag out and mean yes.
        let add_bos = vocabulary.add_bos_token.unwrap_or(vocabulary.is_llama3());
        let bos = vocabulary.bos_token_id.filter(|_| add_bos).map(|id| vocabulary.token(id));
        let bos = bos.transpose()?;
        Self::new(inner, bos, vocabulary.token(eos)?)
    }
}
