//! The tokenizer inside a GGUF file, rebuilt as the Hugging Face tokenizer it was converted from.

use serde::Serialize;
use serde_json::Value;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::Tokenizer;
use super::plain::failed;
use super::tokenizer::{CHAT_TEMPLATE, MODEL_MAX_LENGTH};
use crate::error::short;
use crate::{Error, Result, invalid};

/// The pre-tokenizers we know, by their names in `tokenizer.ggml.pre`.
const KNOWN_PRE: &str = "smollm, gpt-2, llama-bpe (also llama3, llama-v3)";
/// Those of them that are written.
const WRITTEN_PRE: [&str; 3] = ["smollm", "gpt-2", "llama-bpe"];

/// How Llama 3 splits text before byte-pair merging, from its published `tokenizer.json`.
const LLAMA3_SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// The values of `tokenizer.ggml.token_type`.
const NORMAL_TYPE: i32 = 1;
const CONTROL_TYPE: i32 = 3;
/// A token that is matched in text before anything else but is not special.
const USER_DEFINED_TYPE: i32 = 4;
/// A row of the embedding without a token.
const UNUSED_TYPE: i32 = 5;
/// Those that stand for special tokens: unknown and control.
const SPECIAL_TYPES: [i32; 2] = [2, CONTROL_TYPE];

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
    /// The token for what the vocabulary lacks.
    pub unknown_token_id: Option<u32>,
    /// The token that fills up shorter texts of a batch.
    pub padding_token_id: Option<u32>,
    /// Whether BOS goes before every text.
    pub add_bos_token: Option<bool>,
    /// How a conversation becomes one text: `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// How many tokens the model takes: `llama.context_length`.
    pub context_length: Option<usize>,
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
        let mut tokenizer = Self::new(inner, bos, vocabulary.token(eos)?)?;
        // Names that others read, whether a text gets the tokens or not.
        for (key, id) in [
            ("bos_token", vocabulary.bos_token_id),
            ("unk_token", vocabulary.unknown_token_id),
            ("pad_token", vocabulary.padding_token_id),
        ] {
            if let Some(id) = id {
                tokenizer.set(key, vocabulary.token(id)?);
            }
        }
        if let Some(template) = &vocabulary.chat_template {
            tokenizer.set(CHAT_TEMPLATE, template.as_str());
        }
        if let Some(longest) = vocabulary.context_length {
            tokenizer.set(MODEL_MAX_LENGTH, longest);
        }
        Ok(tokenizer)
    }

    /// What a GGUF file of a model with `rows` rows in its embedding says of this tokenizer.
    ///
    /// # Errors
    /// For what such a file cannot say so that llama.cpp splits texts as the model was trained: it knows byte-level
    /// BPE by the name of its pre-tokenizer.
    pub fn to_gguf(&self, rows: usize) -> Result<GgufVocabulary> {
        let json = as_json(self.inner())?;
        let model = &json["model"];
        if model["type"] != "BPE" || model["byte_fallback"] == true || !json["normalizer"].is_null()
        {
            invalid!(
                "the tokenizer is not byte-level BPE without a normalizer, the only kind that is written \
                 to GGUF files; {INSTEAD}"
            );
        }
        let named = named_pre(&json)?;
        let added = self.inner().get_added_tokens_decoder();
        let (mut tokens, mut token_type) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        for id in 0..rows as u32 {
            let is_end = id == self.eos() || self.bos() == Some(id);
            token_type.push(match (self.id_to_token(id), added.get(&id)) {
                (None, _) => UNUSED_TYPE,
                _ if is_end => CONTROL_TYPE,
                (_, None) => NORMAL_TYPE,
                (_, Some(token)) if token.special => CONTROL_TYPE,
                (_, Some(_)) => USER_DEFINED_TYPE,
            });
            tokens.push(self.id_to_token(id).unwrap_or_else(|| format!("[PAD{id}]")));
        }
        let merge = |merge: &Value| match merge {
            Value::String(merge) => merge.clone(),
            pair => [0, 1].map(|part| pair[part].as_str().unwrap_or_default()).join(" "),
        };
        let within = |id: &u32| (*id as usize) < rows;
        Ok(GgufVocabulary {
            tokens,
            token_type,
            merges: model["merges"].as_array().into_iter().flatten().map(merge).collect(),
            bos_token_id: self.bos().or_else(|| self.role("bos_token")).filter(within),
            eos_token_id: Some(self.eos()),
            unknown_token_id: self.role("unk_token").filter(within),
            padding_token_id: self.role("pad_token").filter(within),
            add_bos_token: Some(self.bos().is_some()),
            chat_template: self.setting(CHAT_TEMPLATE).and_then(Value::as_str).map(String::from),
            ..named
        })
    }
}

/// What to do where a tokenizer is not written.
const INSTEAD: &str = "export the Hugging Face folder alone, and try llama.cpp's own convert_hf_to_gguf.py on its \
                       folder `initial`";

fn as_json(part: &impl Serialize) -> Result<Value> {
    serde_json::to_value(part).map_err(|e| failed("the tokenizer as JSON")(e.into()))
}

/// The algorithm and the pre-tokenizer of a `tokenizer.json`, by the names that llama.cpp knows them by.
fn named_pre(json: &Value) -> Result<GgufVocabulary> {
    for pre in WRITTEN_PRE {
        let model = "gpt2".into();
        let named = GgufVocabulary { model, pre: pre.into(), ..GgufVocabulary::default() };
        let known = as_json(&named.pre_tokenizer()?)?;
        if without_offsets(&known) == without_offsets(&json["pre_tokenizer"])
            && json["model"]["ignore_merges"] == named.is_llama3()
        {
            return Ok(named);
        }
    }
    invalid!(
        "the tokenizer splits texts in another way than those that are written to GGUF files ({}); {INSTEAD}",
        WRITTEN_PRE.join(", ")
    )
}

/// A pre-tokenizer without what bears on the places of tokens in a text, and not on the tokens.
fn without_offsets(pre_tokenizer: &Value) -> Value {
    match pre_tokenizer {
        Value::Object(map) => map
            .iter()
            .filter(|(key, _)| *key != "trim_offsets")
            .map(|(key, value)| (key.clone(), without_offsets(value)))
            .collect(),
        Value::Array(list) => list.iter().map(without_offsets).collect(),
        value => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items() -> Vec<String> {
        ["<a_0>", "<a_1>", "<a_10>", "<b_0>", "<b_7>", "<con>"].map(String::from).to_vec()
    }

    /// A byte-level vocabulary whose only merges make "12".
    fn vocabulary(pre: &str) -> GgufVocabulary {
        let mut tokens = vec!["<s>".to_string(), "</s>".to_string(), "<|user|>".to_string()];
        let mut alphabet: Vec<char> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        tokens.extend(alphabet.into_iter().map(String::from));
        tokens.push("12".to_string());
        let mut token_type = vec![1; tokens.len()];
        token_type[..3].copy_from_slice(&[3, 3, 4]);
        GgufVocabulary {
            model: "gpt2".into(),
            pre: pre.into(),
            tokens,
            token_type,
            merges: vec!["1 2".into()],
            bos_token_id: Some(0),
            eos_token_id: Some(1),
            ..GgufVocabulary::default()
        }
    }

    #[test]
    fn gguf_pre_tokenizers_split_digits_as_their_models_do() {
        let tokens = |pre: &str, text: &str| {
            let tokenizer = Tokenizer::from_gguf(&vocabulary(pre)).unwrap();
            let ids = tokenizer.encode(text).unwrap();
            ids.iter().map(|id| tokenizer.id_to_token(*id).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(tokens("gpt-2", "00012"), ["0", "0", "0", "12"]);
        assert_eq!(tokens("smollm", "00012"), ["0", "0", "0", "1", "2"]);
        assert_eq!(tokens("llama-bpe", "00012"), ["0", "0", "0", "12"]);
        assert_eq!(
            tokens("llama-bpe", "0012"),
            ["0", "0", "1", "2"],
            "groups of at most three digits"
        );
        assert!(!tokens("gpt-2", "<|user|>1</s>").iter().any(|t| t == "<|user|>" || t == "</s>"));
    }

    #[test]
    fn gguf_bos_is_used_only_where_the_file_puts_it() {
        let bos = |pre: &str, flag| {
            let vocabulary = GgufVocabulary { add_bos_token: flag, ..vocabulary(pre) };
            let tokenizer = Tokenizer::from_gguf(&vocabulary).unwrap();
            let dir = tempfile::tempdir().unwrap();
            tokenizer.save(dir.path()).unwrap();
            assert_eq!(Tokenizer::load_folder(dir.path()).unwrap().bos(), tokenizer.bos());
            tokenizer.bos()
        };
        assert_eq!(bos("gpt-2", None), None);
        assert_eq!(bos("gpt-2", Some(true)), Some(0));
        assert_eq!(bos("llama-bpe", None), Some(0));
        assert_eq!(bos("llama-bpe", Some(false)), None);
    }

    #[test]
    fn a_vocabulary_goes_through_a_folder_and_back_into_a_gguf_file() {
        let given = GgufVocabulary {
            add_bos_token: Some(false),
            unknown_token_id: Some(2),
            padding_token_id: Some(1),
            chat_template: Some("{{ messages }}".into()),
            context_length: Some(512),
            ..vocabulary("smollm")
        };
        let mut tokenizer = Tokenizer::from_gguf(&given).unwrap();
        tokenizer.add_item_tokens(&items()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        tokenizer.save(dir.path()).unwrap();
        let found = Tokenizer::load_folder(dir.path()).unwrap().to_gguf(tokenizer.vocab_size() + 1);
        let found = found.unwrap();
        let (old, new) = found.tokens.split_at(given.tokens.len());
        assert_eq!((old, &found.merges), (&given.tokens[..], &given.merges));
        assert_eq!(new, [&items()[..], &["[PAD266]".to_string()]].concat());
        let (old, new) = found.token_type.split_at(given.tokens.len());
        // Item tokens are as much a part of a text as words are; nothing is hidden that a reader should see.
        assert_eq!((old, new), (&given.token_type[..], &[4, 4, 4, 4, 4, 4, 5][..]));
        assert_eq!((found.bos_token_id, found.eos_token_id), (Some(0), Some(1)));
        assert_eq!((found.padding_token_id, found.add_bos_token), (Some(1), Some(false)));
        assert_eq!((found.model, found.pre), (given.model, given.pre));
        assert_eq!(found.chat_template, given.chat_template);
        let config = std::fs::read_to_string(dir.path().join("tokenizer_config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["model_max_length"], 512);
    }

    #[test]
    fn gguf_vocabularies_we_cannot_rebuild_are_refused() {
        let refusal = |v: &GgufVocabulary| Tokenizer::from_gguf(v).unwrap_err().to_string();
        assert!(refusal(&vocabulary("qwen2")).contains("known are smollm"));
        assert!(refusal(&vocabulary("default")).contains("does not say"));
        let llama = GgufVocabulary { model: "llama".into(), ..vocabulary("gpt-2") };
        assert!(refusal(&llama).contains("use the Hugging Face folder"));
        let eos = GgufVocabulary { eos_token_id: Some(999), ..vocabulary("gpt-2") };
        assert!(refusal(&eos).contains("999"));
    }
}
