//! What is said of the worst inputs: the file's own terms, and what to do.

use super::harness::feed;
use super::seeds;

fn seed(name: &str) -> Vec<u8> {
    std::fs::read(seeds().join(name)).unwrap()
}

fn said(name: &str, bytes: &[u8]) -> String {
    feed(name, bytes).unwrap_or_else(|| panic!("{name} took it"))
}

/// A seed of GGUF with the bytes at `offset` behind the first `mark` replaced.
fn gguf(mark: &str, offset: usize, with: &[u8]) -> String {
    let mut bytes = seed("gguf/whole");
    let at = bytes.windows(mark.len()).position(|part| part == mark.as_bytes()).unwrap();
    let at = at + mark.len() + offset;
    bytes[at..at + with.len()].copy_from_slice(with);
    said("gguf", &bytes)
}

#[test]
fn a_gguf_file_is_refused_by_its_keys_and_tensors() {
    let whole = seed("gguf/whole");
    assert_eq!(feed("gguf", &whole), None);
    // A key is followed by its type, a tensor's name by the number of dimensions, these and its type.
    let blocks = gguf("llama.block_count", 4, &u32::MAX.to_le_bytes());
    assert!(blocks.contains("num_hidden_layers is 4294967295"), "{blocks}");
    let blocks = gguf("llama.block_count", 0, &6u32.to_le_bytes());
    assert!(
        blocks.contains("key llama.block_count: ") && blocks.contains("is not a whole number"),
        "{blocks}"
    );
    for (kind, shown) in [
        (18u32, "IQ3_XXS"),
        (39, "MXFP4"),
        (4, "Q4_2"),
        (15, "Q8_K"),
        (9, "Q8_1"),
        (4_000_000_000, "unknown (4000000000)"),
    ] {
        let error = gguf("blk.0.ffn_up.weight", 4 + 16, &kind.to_le_bytes());
        let expected =
            format!("tensor \"blk.0.ffn_up.weight\" has the type {shown}, which is not read");
        assert!(error.contains(&expected), "{error}");
        assert!(
            error.contains("F32, F16, BF16, Q4_0") && error.contains("llama-quantize"),
            "{error}"
        );
    }
    let error = gguf("blk.0.ffn_up.weight", 4 + 16, &14u32.to_le_bytes());
    assert!(
        error.contains("blk.0.ffn_up.weight: the number of elements 16 is not divisible"),
        "{error}"
    );
    let error = gguf("blk.0.ffn_up.weight", 4 + 16 + 4, &u64::MAX.to_le_bytes());
    assert!(error.contains("blk.0.ffn_up.weight: tensor needs 64 bytes"), "{error}");
    let error = gguf("blk.0.ffn_up.weight", 4, &u64::MAX.to_le_bytes());
    assert!(error.contains("blk.0.ffn_up.weight is [4, 18446744073709551615]"), "{error}");
    let error = gguf("tokenizer.ggml.eos_token_id", 4, &4_000_000_000u32.to_le_bytes());
    assert!(error.contains("special token 4000000000 is beyond the 5 tokens"), "{error}");

    let cut = |length: usize| said("gguf", &whole[..length]);
    assert!(cut(5).contains("cut off") && cut(0).contains("cut off"), "{}", cut(5));
    assert!(cut(40).contains("cut off or damaged at key"), "{}", cut(40));
    let tensors = whole.windows(11).position(|part| part == b"output_norm").unwrap();
    assert!(
        cut(tensors + 4).contains("cut off or damaged at tensor 2 of 11"),
        "{}",
        cut(tensors + 4)
    );
    // The last tensor ends before the file does, which is filled up to the alignment.
    let end = cut(whole.len() - 20);
    assert!(end.contains("remaining in file; the file is damaged or cut off"), "{end}");
    assert!(said("gguf", b"PK\x03\x04 and more").contains("does not begin with GGUF"));
    assert!(said("gguf", b"GGUF\0\0\0\x03").contains("big-endian"));
    assert!(said("gguf", b"GGUF\x09\0\0\0").contains("version 9 of GGUF; versions 1 to 3"));
}

#[test]
fn one_part_of_a_split_model_says_how_to_merge_it() {
    let mut bytes = seed("gguf/nested");
    let (key, new) = (b"general.alignment", b"split.count");
    let at = bytes.windows(key.len()).position(|part| part == key).unwrap();
    bytes[at - 8] = new.len() as u8;
    bytes.splice(at..at + key.len(), *new);
    let error = said("gguf", &bytes);
    assert!(
        error.contains("one of 64 parts") && error.contains("llama-gguf-split --merge"),
        "{error}"
    );
}

#[test]
fn arrays_in_arrays_in_arrays_end_somewhere() {
    let mut bytes = [b"GGUF\x03\0\0\0", &[0; 8][..], &1u64.to_le_bytes()].concat();
    bytes.extend([&1u64.to_le_bytes()[..], b"a", &9u32.to_le_bytes()].concat());
    for _ in 0..100_000 {
        bytes.extend([&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat());
    }
    assert!(said("gguf", &bytes).contains("damaged at key \"a\""));
}

#[test]
fn marks_and_other_encodings_are_recognized() {
    for (name, text) in [
        ("index", String::from_utf8(seed("index/whole")).unwrap()),
        ("dataset", String::from_utf8(seed("dataset/texts")).unwrap()),
        ("ablation", String::from_utf8(seed("ablation/whole")).unwrap()),
        ("manifest", String::from_utf8(seed("manifest/whole")).unwrap()),
    ] {
        assert_eq!(feed(name, format!("\u{feff}{text}").as_bytes()), None, "{name}");
        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let error = said(name, &utf16);
        assert!(error.contains("line 1 has a zero byte") && error.contains("iconv"), "{error}");
        let error = said(name, &[&[0xff, 0xfe], &utf16[..]].concat());
        assert!(error.contains("is UTF-16; make it UTF-8: iconv"), "{error}");
        let error = said(name, &[&text.as_bytes()[..1], b"\n\xe4"].concat());
        assert!(error.contains("line 2 is no UTF-8"), "{error}");
    }
}

#[test]
fn nothing_is_said_in_words_of_rust_and_nothing_twice() {
    for (name, bytes, expected) in [
        (
            "index",
            "{\"0\": 5}",
            "item tokens: invalid type: integer `5`, expected a list at line 1 column 7",
        ),
        ("index", "{\"0\": [1]}", "expected a string"),
        (
            "config",
            "seed = -1",
            "x.toml: line 1, column 8: seed = -1: invalid value: integer `-1`, expected a whole number from 0",
        ),
        ("config", "seed = 99999999999999999999", "expected a whole number from 0"),
        (
            "config",
            "eval = 3",
            "x.toml: line 1, column 8: eval = 3: invalid type: integer `3`, expected an object",
        ),
        ("config", "[train]\nlevel-softmax = 3", "line 2, column 17: level-softmax = 3: "),
        (
            "ablation",
            "seeds = \"x\"",
            "x.toml: line 1, column 9: seeds = \"x\": invalid type: string \"x\", expected a list",
        ),
        (
            "dataset",
            "{\"0\": [-1]}",
            "X.inter.json: invalid value: integer `-1`, expected a whole number from 0 at line 1 column 9",
        ),
        (
            "checkpoint",
            "{\"model_type\": \"llama\", \"vocab_size\": \"x\"}",
            "expected a whole number from 0",
        ),
        (
            "checkpoint",
            "{\"model_type\": \"llama\", \"eos_token_id\": \"x\"}",
            "the value has none of the forms that it may have",
        ),
        ("tokenizer", "{\"model\": {\"type\": \"BPE\", \"vocab\": 3}}", "tokenizer.json: "),
        (
            "manifest",
            "{\"version\": 1}",
            "manifest.json:1: invalid type: integer `1`, expected a string",
        ),
    ] {
        let error = said(name, bytes.as_bytes());
        assert!(error.contains(expected), "{bytes}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn what_is_quoted_is_quoted_in_part() {
    let long = "x".repeat(1 << 20);
    for (name, bytes) in [
        ("index", format!("{{\"0\": [\"{long}\"]}}")),
        ("index", format!("{{\"{long}\": []}}")),
        ("config", format!("seed = {}", "[".repeat(1 << 20))),
        ("import_csv", format!("user,item,time\nu,a,{long}\n")),
        ("requests", format!("{{\"history\": \"{long}\"}}")),
    ] {
        let error = said(name, bytes.as_bytes());
        assert!(error.len() < 1000, "{name}: {} bytes", error.len());
    }
}
