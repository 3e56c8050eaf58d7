use std::time::Duration;

use candle_core::Device;

use super::*;
use crate::data::TextField;
use crate::data::{Dataset, Item};
use crate::invalid;
use crate::model::{DropoutPair, Packed, init};
use crate::ranks::{Alone, Threads};
use crate::text::Tokenizer;

/// Writes every pass, so that a cut loses nothing.
const AT_ONCE: Duration = Duration::ZERO;

struct Shop {
    dataset: Dataset,
    tokenizer: Tokenizer,
    config: LlamaConfig,
    weights: Weights,
    folder: tempfile::TempDir,
}

impl Shop {
    fn new() -> Self {
        let item = |title: &str, brand: &str, description: &str| Item {
            title: title.into(),
            brand: brand.into(),
            description: description.into(),
            ..Item::default()
        };
        let items = vec![
            item("red lipstick", "glow", "a lipstick that stays red all day long"),
            item("glow", "glow", ""),
            item("blue soap", "", "a lipstick that stays"),
            item("red lipstick", "fine", "a lipstick that stays blue"),
            item("red lip balm", "fine", "soap"),
        ];
        let texts = items.iter().flat_map(|i| [i.title.as_str(), i.brand.as_str()]);
        let tokenizer = Tokenizer::train_bpe(texts, 300).unwrap();
        let config = LlamaConfig { vocab_size: tokenizer.vocab_size(), ..LlamaConfig::tiny_test() };
        let weights = init::scratch(&config, 1, &Device::Cpu).unwrap();
        let dataset = Dataset::of_items("shop", items);
        Self { dataset, tokenizer, config, weights, folder: tempfile::tempdir().unwrap() }
    }

    fn texts(&self, fields: &[TextField], max_tokens: usize) -> ItemTexts {
        ItemTexts::encode(&self.tokenizer, &self.dataset, fields, max_tokens).unwrap()
    }

    fn model(&self) -> Llama {
        Llama::new(&self.config, &self.weights).unwrap()
    }

    fn key(&self, texts: &ItemTexts) -> String {
        embedding_key(&self.config, &self.weights, Precision::Full, texts)
    }

    fn parts(&self, texts: &ItemTexts) -> Parts {
        Parts::open(self.folder.path(), &self.key(texts), AT_ONCE).unwrap()
    }

    /// The embedding by so many ranks.
    fn shared(&self, texts: &ItemTexts, ranks: usize, lines: usize) -> Array2<f32> {
        let model = self.model();
        let of_ranks = Threads::run(ranks, |ranks| {
            if !ranks.is_first() {
                help_by(&model, texts, ranks, lines).unwrap();
                return None;
            }
            let mut parts = self.parts(texts);
            Some(embed_by(&model, texts, &mut parts, ranks, &mut nothing, lines).unwrap())
        });
        of_ranks.into_iter().flatten().next().unwrap()
    }

    /// One field of one item after the other, through candle's graph.
    fn one_by_one(&self, fields: &[TextField], max_tokens: usize) -> Array2<f32> {
        let model = self.model();
        let mut rows = Vec::new();
        for item in &self.dataset.items {
            let all = [
                (TextField::Title, &item.title),
                (TextField::Description, &item.description),
                (TextField::Brand, &item.brand),
            ];
            let texts = all.into_iter().filter(|(f, t)| fields.contains(f) && !t.is_empty());
            let means: Vec<Vec<f32>> = texts
                .map(|(_, text)| {
                    let mut ids = self.tokenizer.encode(text).unwrap();
                    ids.truncate(max_tokens);
                    let input = Packed::sequences(&[&ids]);
                    let hidden = model.hidden(&input, None, DropoutPair::default()).unwrap();
                    hidden.mean(0).unwrap().to_vec1().unwrap()
                })
                .collect();
            let count = means.len() as f32;
            let sum = |i: usize| means.iter().map(|mean| mean[i]).sum::<f32>() / count;
            rows.extend((0..self.config.hidden_size).map(sum));
        }
        Array2::from_shape_vec((self.dataset.num_items(), self.config.hidden_size), rows).unwrap()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what hears of a pass may end the work")]
fn nothing(_: EmbeddingProgress) -> Result<()> {
    Ok(())
}

#[test]
fn items_are_embedded_as_if_every_text_were_alone() {
    let shop = Shop::new();
    for (fields, max_tokens) in [
        (&TextField::ALL[..], 200),
        (&TextField::ALL[..], 3),
        (&[TextField::Title, TextField::Brand][..], 200),
    ] {
        let texts = shop.texts(fields, max_tokens);
        let expected = shop.one_by_one(fields, max_tokens);
        for lines in [1, 20, TOKENS_PER_PASS] {
            files_gone(&shop);
            let (model, mut parts) = (shop.model(), shop.parts(&texts));
            let found = embed_by(&model, &texts, &mut parts, &Alone, &mut nothing, lines).unwrap();
            for ((at, a), b) in found.indexed_iter().zip(&expected) {
                assert!((a - b).abs() < 1e-5, "{at:?} of passes of {lines}: {a} {b}");
            }
            for ranks in [2, 3] {
                files_gone(&shop);
                assert!(shop.shared(&texts, ranks, lines) == found, "{ranks}, passes of {lines}");
            }
        }
    }
}

fn files_gone(shop: &Shop) {
    for entry in std::fs::read_dir(shop.folder.path()).unwrap() {
        std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
}

#[test]
fn texts_are_counted_and_common_beginnings_computed_once() {
    let shop = Shop::new();
    let texts = shop.texts(&TextField::ALL, 4);
    let whole = shop.texts(&TextField::ALL, 1000);
    assert_eq!(texts.counts.texts, 13);
    assert_eq!(whole.counts.texts_cut, 0);
    assert!(texts.counts.texts_cut > 0);
    assert!(texts.counts.text_tokens <= 4 * 13);
    let pass = whole.pass(0, TOKENS_PER_PASS).unwrap();
    let mut beginnings = std::collections::BTreeSet::new();
    for item in &shop.dataset.items {
        for text in [&item.title, &item.brand, &item.description] {
            let ids = shop.tokenizer.encode(text).unwrap();
            beginnings.extend((1..=ids.len()).map(|n| ids[..n].to_vec()));
        }
    }
    assert_eq!(pass.input.ids.len(), beginnings.len());
}

#[test]
fn an_embedding_that_is_cut_off_goes_on_where_it_was() {
    let shop = Shop::new();
    let (model, texts) = (shop.model(), shop.texts(&TextField::ALL, 200));
    let embed = |on_pass: &mut dyn FnMut(EmbeddingProgress) -> Result<()>| {
        embed_by(&model, &texts, &mut shop.parts(&texts), &Alone, on_pass, 20)
    };
    let expected = embed(&mut nothing).unwrap();
    files_gone(&shop);

    let cut_off = || {
        let error = embed(&mut |progress| {
            if progress.embedded >= 3 {
                invalid!("cut off");
            }
            Ok(())
        });
        let error = error.unwrap_err();
        assert!(matches!(&error, Error::Invalid(text) if text == "cut off"), "{error}");
    };
    // Several ranks go on from the parts of rank 0.
    cut_off();
    assert!(shop.shared(&texts, 2, 20) == expected);
    files_gone(&shop);

    cut_off();
    let mut embedded = 0;
    let resumed = embed(&mut |progress| {
        embedded = progress.embedded;
        Ok(())
    });
    assert_eq!(resumed.unwrap(), expected, "to the bit");
    assert!(0 < embedded && embedded < texts.num_texts() - 2, "{embedded}");
    // Nothing is left to do.
    let mut passes = 0;
    let again = embed(&mut |_| {
        passes += 1;
        Ok(())
    });
    assert_eq!((again.unwrap(), passes), (expected, 0));

    // What belongs to another embedding is not mixed in.
    let other = shop.texts(&[TextField::Title], 200);
    let whole =
        embed_by(&model, &other, &mut shop.parts(&other), &Alone, &mut nothing, 20).unwrap();
    assert!(!shop.folder.path().join(shop.key(&texts)).exists());
    let part = shop.folder.path().join(shop.key(&other)).join("texts-0.safetensors");
    let narrow = candle_core::Tensor::zeros((1, 3), DType::F32, &Device::Cpu).unwrap();
    crate::model::save_safetensors(&part, &[("means".to_string(), narrow)].into()).unwrap();
    let again =
        embed_by(&model, &other, &mut shop.parts(&other), &Alone, &mut nothing, 20).unwrap();
    assert_eq!(again, whole);
    // What was altered is embedded anew.
    let mut bytes = std::fs::read(&part).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let again =
        embed_by(&model, &other, &mut shop.parts(&other), &Alone, &mut nothing, 20).unwrap();
    assert_eq!(again, whole);
}

#[test]
fn the_key_follows_everything_that_decides_the_embedding() {
    let shop = Shop::new();
    let texts = || shop.texts(&TextField::ALL, 200);
    let key = shop.key(&texts());
    assert_eq!(key, shop.key(&texts()));
    assert_ne!(key, shop.key(&shop.texts(&TextField::ALL, 3)), "the cut");
    assert_ne!(key, shop.key(&shop.texts(&[TextField::Title], 200)), "the fields");
    let mut other = Shop::new();
    other.dataset.items[1].title = "glow!".into();
    assert_ne!(key, other.key(&other.texts(&TextField::ALL, 200)), "the texts");
    let mut other = Shop::new();
    other.dataset.items.swap(0, 1);
    assert_ne!(key, other.key(&other.texts(&TextField::ALL, 200)), "whose they are");
    let mut other = Shop::new();
    other.weights = init::scratch(&other.config, 2, &Device::Cpu).unwrap();
    assert_ne!(key, other.key(&texts()), "the weights");
    let mut other = Shop::new();
    other.config.rope_theta *= 2.0;
    assert_ne!(key, other.key(&texts()), "what the weights do not say");
    assert_ne!(
        key,
        embedding_key(&shop.config, &shop.weights, Precision::Bf16, &texts()),
        "the precision"
    );
}

#[test]
fn an_item_without_any_of_the_fields_has_no_embedding() {
    let shop = Shop::new();
    let texts = shop.texts(&[TextField::Brand], 9);
    assert_eq!(texts.textless(), [2]);
    let (model, mut parts) = (shop.model(), shop.parts(&texts));
    let z = embed_by(&model, &texts, &mut parts, &Alone, &mut nothing, 20).unwrap();
    let is_zero = |item: usize| z.row(item).iter().all(|value| *value == 0.0);
    assert!((0..z.nrows()).all(|item| is_zero(item) == (item == 2)));
}
