use tokenizers::AddedToken;

use super::tokenizer::{LONGEST_WORD, pieces};
use super::*;

const TEXTS: [&str; 4] = [
    "the shampoo for dry hair, 250 ml",
    "the conditioner for dry hair",
    "crème brûlée lip balm 🍓 of the year",
    "hair dryer, 2,000 W; hair, hair and more hair",
];

fn trained() -> Tokenizer {
    Tokenizer::train_bpe(TEXTS.into_iter(), 300).unwrap()
}

fn json(tokenizer: &Tokenizer) -> String {
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path()).unwrap();
    std::fs::read_to_string(dir.path().join("tokenizer.json")).unwrap()
}

fn item_tokens() -> Vec<String> {
    ["<a_0>", "<a_1>", "<a_10>", "<b_0>", "<b_7>", "<con>"].map(String::from).to_vec()
}

#[test]
fn any_text_comes_back_from_its_ids() {
    let tokenizer = trained();
    for text in TEXTS.iter().chain(&["日本語 and\n\ttabs", "  two  spaces ", ""]) {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), *text);
    }
    assert_eq!(tokenizer.eos(), 0);
    assert_eq!(tokenizer.bos(), None);
    assert_eq!(tokenizer.vocab_size(), 300);
    // Merges were learned: the commonest word is one token.
    assert_eq!(tokenizer.encode(" hair").unwrap().len(), 1);
}

#[test]
fn training_repeats_on_any_number_of_threads() {
    // Two letters in random words reach the same token by several merges, where ties are commonest.
    let mut rng = crate::rng::stream(1, "bpe", &[]);
    let mut words = String::new();
    for _ in 0..4000 {
        let draw = crate::rng::uniform(&mut rng);
        words.push(if draw < 0.45 {
            'a'
        } else if draw < 0.85 {
            'b'
        } else {
            ' '
        });
    }
    let train = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| json(&Tokenizer::train_bpe([words.as_str()].into_iter(), 700).unwrap()))
    };
    let first = train(1);
    for threads in [1, 2, 1, 2] {
        assert!(train(threads) == first, "another tokenizer on {threads} threads");
    }
}

#[test]
fn a_vocabulary_without_room_for_the_bytes_is_refused() {
    let error = Tokenizer::train_bpe(TEXTS.into_iter(), 256).unwrap_err().to_string();
    assert!(error.contains("at least 257"), "{error}");
}

#[test]
fn item_tokens_continue_the_vocabulary_in_order() {
    let mut tokenizer = trained();
    let ids = tokenizer.add_item_tokens(&item_tokens()).unwrap();
    assert_eq!(ids, (300..306).collect::<Vec<_>>());
    assert_eq!(tokenizer.vocab_size(), 306);
    assert_eq!(tokenizer.decode(&[301, 304]).unwrap(), "<a_1><b_7>");
}

#[test]
fn item_tokens_are_checked_in_context() {
    let mut tokenizer = trained();
    tokenizer.add_item_tokens(&item_tokens()).unwrap();
    let item = |a: &str, b: &str, ids: [u32; 2]| (vec![a.to_string(), b.to_string()], ids.to_vec());
    let good = [item("<a_1>", "<b_7>", [301, 304]), item("<a_10>", "<b_0>", [302, 303])];
    tokenizer.check_item_tokens(good.iter().cloned()).unwrap();

    let wrong_id = item("<a_1>", "<b_0>", [301, 304]);
    let error = tokenizer.check_item_tokens(good.iter().cloned().chain([wrong_id])).unwrap_err();
    assert!(error.to_string().contains("item 2") && error.to_string().contains("303"), "{error}");
    let unknown = item("<a_1>", "<b_99>", [301, 304]);
    assert!(tokenizer.check_item_tokens([unknown].into_iter()).is_err());
}

#[test]
fn a_saved_tokenizer_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut tokenizer = trained();
    tokenizer.add_item_tokens(&item_tokens()).unwrap();
    tokenizer.save(dir.path()).unwrap();
    let again = Tokenizer::load_folder(dir.path()).unwrap();
    assert_eq!((again.bos(), again.eos()), (tokenizer.bos(), tokenizer.eos()));
    assert_eq!(json(&again), json(&tokenizer));
    let items = [("<a_1>".to_string(), 301), ("<b_7>".to_string(), 304)].into();
    let text = "the hair, <a_1><b_7>, <a_10>";
    let ids = tokenizer.encode_with_items(text, &items).unwrap();
    assert_eq!(again.encode_with_items(text, &items).unwrap(), ids);

    let config = std::fs::read_to_string(dir.path().join("tokenizer_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["eos_token"], "<|endoftext|>");
    assert_eq!(config["added_tokens_decoder"]["0"]["special"], true);
    let item = &config["added_tokens_decoder"]["301"];
    assert_eq!((&item["content"], &item["special"]), (&"<a_1>".into(), &false.into()));
    assert_eq!(item["normalized"], false);
}

#[test]
fn settings_we_do_not_interpret_survive_saving() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    trained().save(first.path()).unwrap();
    let config =
        r#"{"chat_template": "{{ messages }}", "eos_token": {"content": "<|endoftext|>"}}"#;
    std::fs::write(first.path().join("tokenizer_config.json"), config).unwrap();
    Tokenizer::load_folder(first.path()).unwrap().save(second.path()).unwrap();
    let config = std::fs::read_to_string(second.path().join("tokenizer_config.json")).unwrap();
    assert!(config.contains("{{ messages }}"), "{config}");
    assert!(config.contains("PreTrainedTokenizerFast"), "{config}");
}

#[test]
fn eos_comes_from_the_configuration_files_in_turn() {
    let dir = tempfile::tempdir().unwrap();
    trained().save(dir.path()).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let eos = || Tokenizer::load_folder(dir.path()).unwrap().eos();
    write("tokenizer_config.json", r#"{"eos_token": ""}"#);
    assert_eq!(eos(), 0, "by its common name");
    write("generation_config.json", r#"{"eos_token_id": [7, 8]}"#);
    assert_eq!(eos(), 7);
    write("config.json", r#"{"eos_token_id": 9}"#);
    assert_eq!(eos(), 9);
    write("tokenizer_config.json", r#"{"eos_token": "<|endoftext|>"}"#);
    assert_eq!(eos(), 0);
}

#[test]
fn a_missing_or_broken_tokenizer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Tokenizer::load_folder(dir.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: not found"), "{error}");
    std::fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
    let error = Tokenizer::load_folder(dir.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: "), "{error}");
}

#[test]
fn a_saved_tokenizer_fills_up_batches_as_a_model_that_writes_needs_it() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let write = |name: &str, text: &str| std::fs::write(first.path().join(name), text).unwrap();
    let saved = || -> serde_json::Value {
        Tokenizer::load_folder(first.path()).unwrap().save(second.path()).unwrap();
        let path = second.path().join("tokenizer_config.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    trained().save(first.path()).unwrap();
    write("config.json", r#"{"max_position_embeddings": 2048}"#);
    write("chat_template.jinja", "{{ messages }}");
    let config = saved();
    assert_eq!(
        (&config["pad_token"], &config["padding_side"]),
        (&config["eos_token"], &"left".into())
    );
    assert_eq!(
        (&config["model_max_length"], &config["chat_template"]),
        (&2048.into(), &"{{ messages }}".into())
    );
    // What a backbone says of it stays.
    write(
        "tokenizer_config.json",
        r#"{"pad_token": "a", "padding_side": "right", "model_max_length": 99}"#,
    );
    let config = saved();
    let given = (&config["pad_token"], &config["padding_side"], &config["model_max_length"]);
    assert_eq!(given, (&"a".into(), &"right".into(), &99.into()));
}

/// The tokenizer that a saved folder gives to Hugging Face.
fn saved(tokenizer: &Tokenizer) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_bytes(json(tokenizer)).unwrap()
}

#[test]
fn no_text_becomes_a_special_or_item_token() {
    for (kind, mut tokenizer) in kinds::all() {
        let added = tokenizer.add_item_tokens(&item_tokens()).unwrap();
        let whole = saved(&tokenizer);
        let special = whole.get_added_tokens_decoder();
        let unknown = tokenizer.token_to_id("<unk>");
        let names: Vec<String> = special.values().map(|token| token.content.clone()).collect();
        for name in &names {
            for text in
                [name.clone(), format!("hair {name} <a_1> <con>"), format!("a{name}{name}b")]
            {
                let ids = tokenizer.encode(&text).unwrap();
                // A letter that the vocabulary lacks is unknown, whatever it is written beside.
                let letters_known = !ids.contains(&unknown.unwrap_or(u32::MAX)) || {
                    let apart = text.chars().map(String::from);
                    apart.into_iter().any(|c| {
                        tokenizer.encode(&c).unwrap().contains(&unknown.unwrap_or(u32::MAX))
                    })
                };
                assert!(letters_known, "{kind}: {text:?} is unknown");
                let mut wrong = ids.iter().filter(|id| {
                    added.contains(id) || (special.contains_key(id) && Some(**id) != unknown)
                });
                assert_eq!(wrong.next(), None, "{kind}: {text:?} is {ids:?}");
            }
        }
    }
}

#[test]
fn ordinary_texts_have_the_ids_that_hugging_face_gives_them() {
    let texts =
        ["hair dryer, 2,000 W; (2 of 3)", " the  shampoo!\n\nfor\tdry hair ", "crème 日本 🍓", ""];
    for (kind, mut tokenizer) in kinds::all() {
        tokenizer.add_item_tokens(&item_tokens()).unwrap();
        let whole = saved(&tokenizer);
        for text in texts.iter().chain(&kinds::TEXTS) {
            let expected = whole.encode_fast(*text, false).unwrap().get_ids().to_vec();
            assert_eq!(tokenizer.encode(text).unwrap(), expected, "{kind}: {text:?}");
        }
    }
}

#[test]
fn runs_of_spaces_that_a_vocabulary_has_tokens_for_keep_them() {
    let mut inner = saved(&trained());
    let added = [("  ", false), ("<|user|>", false), ("<|end|>", true), ("\n\n", false)];
    inner.add_tokens(added.map(|(text, special)| AddedToken::from(text, special))).unwrap();
    let tokenizer = Tokenizer::new(inner, None, "<|endoftext|>").unwrap();
    let ids = tokenizer.encode("hair  <|user|><|end|>\n\n").unwrap();
    assert_eq!(ids.iter().filter(|id| **id >= 300).collect::<Vec<_>>(), [&300, &303]);
}

#[test]
fn items_between_texts_split_them_as_in_hugging_face() {
    for (kind, mut tokenizer) in kinds::all() {
        let ids = tokenizer.add_item_tokens(&item_tokens()).unwrap();
        let items = item_tokens().into_iter().take(5).zip(ids.iter().copied()).collect();
        let whole = saved(&tokenizer);
        for text in [
            "After <a_0><b_7>, <a_1><b_0> which item follows?",
            "<a_10> hair <b_0>",
            "What is <a_1><b_7>? Title: the dryer",
            "<a_0><b_0>",
        ] {
            let expected = whole.encode_fast(text, false).unwrap().get_ids().to_vec();
            let found = tokenizer.encode_with_items(text, &items).unwrap();
            assert_eq!(found, expected, "{kind}: {text:?}");
        }
        let parts =
            [Part::Text("a <a_1> "), Part::Ids(&[7, 9]), Part::Ids(&[]), Part::Text("dryer")];
        let ids = tokenizer.text_encoder().encode_parts(&parts).unwrap();
        let split = tokenizer.text_encoder().encode_pair(&parts[..1], &parts[1..]).unwrap();
        assert_eq!([split.0, split.1].concat(), ids, "{kind}");
        let con = tokenizer.encode_with_items("<con>", &items).unwrap();
        assert!(!con.contains(&tokenizer.token_to_id("<con>").unwrap()), "{kind}");
        // Characters that Unicode keeps for uses such as ours cannot stand for ids.
        let ids = tokenizer.encode("a\u{10FFFF}\u{10FFFE}<a_1>").unwrap();
        assert!(
            ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size() - 6),
            "{kind}: {ids:?}"
        );
    }
}

#[test]
fn a_cut_text_has_as_many_tokens_as_it_may() {
    for (kind, tokenizer) in kinds::all() {
        let encoder = tokenizer.text_encoder();
        for text in [" the shampoo for dry hair, 250 ml", " crème 日本 🍓🍓 brûlée"] {
            let whole = encoder.encode(text).unwrap();
            assert_eq!(encoder.cut(text, whole.len()).unwrap(), text, "{kind}");
            for longest in 0..whole.len() {
                let cut = encoder.cut(text, longest).unwrap();
                assert!(text.starts_with(&cut), "{kind}: {cut:?}");
                let ids = encoder.encode(&cut).unwrap();
                assert!(ids.len() <= longest && whole.starts_with(&ids), "{kind}: {cut:?}");
                // A character of up to four tokens may have had to go.
                assert!(ids.len() + 4 > longest, "{kind}: {cut:?} of {longest}");
            }
        }
    }
}

#[test]
fn a_saved_tokenizer_puts_the_bos_that_training_puts() {
    for (kind, tokenizer) in kinds::all() {
        let bos = |tokenizer: &Tokenizer| {
            let (with, plain) = (saved(tokenizer), tokenizer.encode("hair").unwrap());
            let ids = with.encode_fast("hair", true).unwrap().get_ids().to_vec();
            let expected: Vec<u32> = tokenizer.bos().into_iter().chain(plain).collect();
            assert_eq!(ids, expected, "{kind}");
            tokenizer.bos()
        };
        bos(&tokenizer);
        // `tokenizer_config.json` has the last word, over the post-processor too.
        for add in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            tokenizer.save(dir.path()).unwrap();
            let config = serde_json::json!({
                "add_bos_token": add, "add_eos_token": true,
                "bos_token": tokenizer.id_to_token(1).unwrap(),
                "eos_token": tokenizer.id_to_token(tokenizer.eos()).unwrap(),
            });
            std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
            let again = Tokenizer::load_folder(dir.path()).unwrap();
            assert_eq!(bos(&again), add.then_some(1), "{kind}");
            again.save(dir.path()).unwrap();
            let config = std::fs::read_to_string(dir.path().join("tokenizer_config.json")).unwrap();
            let config: serde_json::Value = serde_json::from_str(&config).unwrap();
            assert_eq!(
                (&config["add_bos_token"], &config["add_eos_token"]),
                (&add.into(), &false.into())
            );
        }
    }
}

#[test]
fn item_tokens_that_are_there_already_are_refused_by_name() {
    let mut tokenizer = trained();
    tokenizer.add_item_tokens(&item_tokens()[1..3]).unwrap();
    let before = json(&tokenizer);
    let error = tokenizer.add_item_tokens(&item_tokens()).unwrap_err().to_string();
    assert!(error.contains("<a_1>, <a_10>") && !error.contains("<a_0>"), "{error}");
    assert_eq!(json(&tokenizer), before);
}

#[test]
fn new_ids_follow_the_largest_one_whatever_is_missing_before() {
    let mut file: serde_json::Value = serde_json::from_str(&json(&trained())).unwrap();
    // Gaps within the model's vocabulary and behind it.
    let vocab = file["model"]["vocab"].as_object_mut().unwrap();
    let last = vocab.keys().next_back().unwrap().clone();
    vocab[&last] = 304.into();
    let token = |id: u32, content: &str| {
        serde_json::json!({ "id": id, "content": content, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false })
    };
    let added = file["added_tokens"].as_array_mut().unwrap();
    added.extend([token(302, "<pad>"), token(307, "<mask>")]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
    let mut tokenizer = Tokenizer::load_folder(dir.path()).unwrap();
    let id = |tokenizer: &Tokenizer, name: &str| tokenizer.token_to_id(name);
    assert_eq!(tokenizer.vocab_size(), 308);
    assert_eq!(tokenizer.vocab_size_of_text(), 305);
    let check = |tokenizer: &Tokenizer| {
        assert_eq!((id(tokenizer, "<pad>"), id(tokenizer, "<mask>")), (Some(302), Some(307)));
        assert_eq!(id(tokenizer, &last), Some(304));
    };
    check(&tokenizer);
    assert_eq!(tokenizer.add_item_tokens(&item_tokens()).unwrap(), (308..314).collect::<Vec<_>>());
    assert_eq!(tokenizer.encode(TEXTS[0]).unwrap(), trained().encode(TEXTS[0]).unwrap());
    tokenizer.save(dir.path()).unwrap();
    let again = Tokenizer::load_folder(dir.path()).unwrap();
    check(&again);
    assert_eq!(id(&again, "<con>"), Some(313));
    assert_eq!(saved(&again).token_to_id("<con>"), Some(313));

    file["added_tokens"][0]["id"] = 5.into();
    std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
    let error = Tokenizer::load_folder(dir.path()).unwrap_err().to_string();
    assert!(error.contains("<|endoftext|>") && error.contains("the id 5"), "{error}");
}

#[test]
fn ids_far_beyond_the_tokens_are_refused() {
    let file: serde_json::Value = serde_json::from_str(&json(&trained())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let refused = |file: &serde_json::Value| {
        std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
        let error = Tokenizer::load_folder(dir.path()).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json: a token has the id 4000000000"), "{error}");
    };
    let mut in_model = file.clone();
    let vocab = in_model["model"]["vocab"].as_object_mut().unwrap();
    let last = vocab.keys().next_back().unwrap().clone();
    vocab[&last] = 4_000_000_000_u32.into();
    refused(&in_model);
    let mut added = file;
    added["added_tokens"].as_array_mut().unwrap().push(serde_json::json!({
        "id": 4_000_000_000_u32, "content": "<far>", "special": true, "normalized": false,
        "single_word": false, "lstrip": false, "rstrip": false,
    }));
    refused(&added);
}

#[test]
fn no_word_is_learnt_from_that_is_too_long() {
    let text = "two words, one\nline: ü";
    assert_eq!(pieces(text), [text]);
    assert_eq!(pieces(""), [""]);
    let long = format!("a {} b", "é".repeat(LONGEST_WORD));
    let found = pieces(&long);
    assert_eq!(found.concat(), long);
    assert_eq!(found.len(), 2);
    for word in found.iter().flat_map(|piece| piece.split_whitespace()) {
        assert!(word.len() <= LONGEST_WORD);
    }
}

#[cfg(unix)]
#[test]
fn a_tokenizer_that_leads_out_of_its_folder_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    trained().save(other.path()).unwrap();
    let link = dir.path().join("tokenizer.json");
    std::os::unix::fs::symlink(other.path().join("tokenizer.json"), link).unwrap();
    let error = Tokenizer::load_folder(dir.path()).unwrap_err().to_string();
    assert!(error.contains("leads out of its folder"), "{error}");
}
