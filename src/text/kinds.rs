//! A small tokenizer of every kind that Llamas come with, for tests.

use serde_json::{Value, json};
use tokenizers::AddedToken;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};

use super::{GgufVocabulary, Tokenizer};

/// Texts that all kinds are learnt on.
pub(crate) const TEXTS: [&str; 6] = [
    "the shampoo for dry hair, 250 ml",
    "the conditioner for dry hair; which item is this? The next purchase is a hair dryer.",
    "crème brûlée lip balm of the year",
    "hair dryer, 2,000 W; hair, hair and more hair",
    "A customer bought: title, description, brand. Which one comes next? Name the item:",
    "What is it? Describe it: a lip balm for the customer. Item, history, title",
];

/// The kinds by their names.
pub(crate) fn all() -> Vec<(&'static str, Tokenizer)> {
    vec![
        ("byte-level", Tokenizer::train_bpe(TEXTS.into_iter(), 400).unwrap()),
        ("gguf smollm", gguf("smollm")),
        ("gguf llama-bpe", gguf("llama-bpe")),
        ("metaspace first", metaspace(PrependScheme::First)),
        ("metaspace always", metaspace(PrependScheme::Always)),
        ("llama 2", llama2()),
        ("unigram", unigram()),
    ]
}

fn gguf(pre: &str) -> Tokenizer {
    Tokenizer::from_gguf(&gguf_vocabulary(pre)).unwrap()
}

/// A vocabulary with `<unk>`, `<s>` and `</s>` before all else.
pub(crate) fn gguf_vocabulary(pre: &str) -> GgufVocabulary {
    // Learnt merges, in the form of a GGUF file.
    let mut inner = tokenizers::Tokenizer::new(BPE::default());
    inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    let alphabet = ByteLevel::alphabet().into_iter().collect();
    train(&mut inner, 400, BpeTrainer::builder().initial_alphabet(alphabet));
    let model = serde_json::to_value(inner.get_model()).unwrap();
    let tokens: Vec<String> = model["vocab"].as_object().unwrap().keys().cloned().collect();
    let merge = |m: &Value| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap());
    let mut token_type = vec![1; tokens.len()];
    token_type[..3].copy_from_slice(&[2, 3, 3]);
    GgufVocabulary {
        model: "gpt2".into(),
        pre: pre.into(),
        tokens,
        token_type,
        merges: model["merges"].as_array().unwrap().iter().map(merge).collect(),
        bos_token_id: Some(1),
        eos_token_id: Some(2),
        ..GgufVocabulary::default()
    }
}

fn train(
    inner: &mut tokenizers::Tokenizer,
    size: usize,
    builder: tokenizers::models::bpe::BpeTrainerBuilder,
) {
    let special = ["<unk>", "<s>", "</s>"].map(|name| AddedToken::from(name, true));
    let builder = builder.vocab_size(size).show_progress(false).special_tokens(special.to_vec());
    let mut trainer: TrainerWrapper = builder.build().into();
    inner.train(&mut trainer, TEXTS.into_iter()).unwrap();
}

/// Merges of words with "▁" before them, as `SentencePiece` learns them.
fn sentence_piece(scheme: PrependScheme) -> tokenizers::Tokenizer {
    let model = BPE::builder().unk_token("<unk>".into()).fuse_unk(true).build().unwrap();
    let mut inner = tokenizers::Tokenizer::new(model);
    inner.with_pre_tokenizer(Some(Metaspace::new('▁', scheme, true)));
    inner.with_decoder(Some(Metaspace::new('▁', scheme, true)));
    train(&mut inner, 250, BpeTrainer::builder());
    inner
}

fn metaspace(scheme: PrependScheme) -> Tokenizer {
    Tokenizer::new(sentence_piece(scheme), Some("<s>"), "</s>").unwrap()
}

/// As transformers converts Llama 2: a normalizer puts "▁" before every stretch, nothing is split.
fn llama2() -> Tokenizer {
    let mut json = serde_json::to_value(sentence_piece(PrependScheme::Always)).unwrap();
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    for byte in 0..=255u8 {
        let id = vocab.len();
        vocab.insert(format!("<0x{byte:02X}>"), json!(id));
    }
    json["model"]["byte_fallback"] = json!(true);
    json["pre_tokenizer"] = Value::Null;
    json["normalizer"] = json!({ "type": "Sequence", "normalizers": [
        { "type": "Prepend", "prepend": "▁" },
        { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
    ]});
    json["decoder"] = json!({ "type": "Sequence", "decoders": [
        { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
        { "type": "ByteFallback" }, { "type": "Fuse" },
        { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
    ]});
    Tokenizer::new(serde_json::from_value(json).unwrap(), Some("<s>"), "</s>").unwrap()
}

/// Unigram, whose special tokens are pieces like all others.
fn unigram() -> Tokenizer {
    let bpe = serde_json::to_value(sentence_piece(PrependScheme::Always)).unwrap();
    let piece = |(i, name): (usize, &String)| {
        let score = if i < 3 { 0.0 } else { -1.0 - name.len() as f64 / 100.0 };
        json!([name, score])
    };
    let vocab = bpe["model"]["vocab"].as_object().unwrap();
    let pieces: Vec<Value> = vocab.keys().enumerate().map(piece).collect();
    let mut json = bpe.clone();
    json["model"] = json!({ "type": "Unigram", "unk_id": 0, "vocab": pieces });
    Tokenizer::new(serde_json::from_value(json).unwrap(), None, "</s>").unwrap()
}
