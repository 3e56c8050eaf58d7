use super::write::permute;
use super::*;

#[test]
fn unpermute_undoes_the_converter() {
    let weight = Tensor::arange(0f32, 36.0, &Device::Cpu).unwrap().reshape((12, 3)).unwrap();
    let rows = |t: &Tensor| t.to_vec2::<f32>().unwrap();
    let permuted = permute(&weight, 2).unwrap();
    // Within the first head of six rows, row 1 is the one that was half a head away from row 0.
    assert_eq!(rows(&permuted)[1], rows(&weight)[3]);
    assert_eq!(rows(&unpermute(&permuted, 2).unwrap()), rows(&weight));
    assert_ne!(rows(&unpermute(&permuted, 1).unwrap()), rows(&weight));
}

#[test]
fn every_weight_of_a_llama_has_a_gguf_name() {
    let config = LlamaConfig { tie_word_embeddings: false, ..LlamaConfig::tiny_test() };
    let layers = (0..2).flat_map(|i| PARTS.map(|(part, _)| format!("blk.{i}.{part}.weight")));
    let fixed = FIXED.map(|(name, _)| format!("{name}.weight"));
    let mut names: Vec<String> = layers.chain(fixed).map(|name| hf_name(&name).unwrap()).collect();
    names.sort_unstable();
    assert!(names.iter().eq(config.tensor_shapes().keys()));
    let own: Vec<String> = names.iter().map(|name| write::own_name(name).unwrap()).collect();
    assert!(own.iter().map(|name| hf_name(name).unwrap()).eq(names));
    assert_eq!(hf_name("blk.0.attn_q.bias"), None);
}

type Entry = (&'static str, Value);

/// Writes a model with `changes` to its keys and loads it.
fn loaded(changes: &[Entry]) -> Result<LlamaConfig> {
    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
    let config = LlamaConfig { tie_word_embeddings: false, ..LlamaConfig::tiny_test() };
    let tokenizer = crate::text::kinds::gguf_vocabulary("smollm");
    let config = LlamaConfig { vocab_size: tokenizer.tokens.len(), ..config };
    let size = |n: usize| Value::U32(n as u32);
    let texts = |texts: &[String]| Value::Array(texts.iter().cloned().map(Value::String).collect());
    let types = tokenizer.token_type.iter().map(|kind| Value::I32(*kind)).collect();
    let mut keys: Vec<Entry> = vec![
        ("general.architecture", Value::String("llama".into())),
        ("llama.embedding_length", size(config.hidden_size)),
        ("llama.feed_forward_length", size(config.intermediate_size)),
        ("llama.block_count", size(config.num_hidden_layers)),
        ("llama.attention.head_count", size(config.num_attention_heads)),
        ("llama.attention.head_count_kv", size(config.num_key_value_heads)),
        ("llama.context_length", size(config.max_position_embeddings)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("smollm".into())),
        ("tokenizer.ggml.tokens", texts(&tokenizer.tokens)),
        ("tokenizer.ggml.merges", texts(&tokenizer.merges)),
        ("tokenizer.ggml.token_type", Value::Array(types)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
    ];
    for (key, value) in changes {
        keys.retain(|(name, _)| name != key);
        keys.push((key, value.clone()));
    }
    let names: Vec<String> = (0..config.num_hidden_layers)
        .flat_map(|i| PARTS.map(|(part, _)| format!("blk.{i}.{part}.weight")))
        .chain(FIXED.map(|(name, _)| format!("{name}.weight")))
        .collect();
    let shapes = config.tensor_shapes();
    let tensors = names.iter().map(|name| {
        let shape = shapes[&hf_name(name).unwrap()].clone();
        let ones = Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        (name.as_str(), QTensor::quantize(&ones, GgmlDType::F32).unwrap())
    });
    let tensors: Vec<(&str, QTensor)> = tensors.collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (*n, t)).collect();
    let keys: Vec<(&str, &Value)> = keys.iter().map(|(key, value)| (*key, value)).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    gguf_file::write(&mut File::create(&path).unwrap(), &keys, &tensors).unwrap();
    load(&path, DType::F32, &Device::Cpu).map(|(config, _, _)| config)
}

#[test]
fn an_alignment_of_zero_is_an_error() {
    loaded(&[("general.alignment", Value::U32(32))]).unwrap();
    for zero in [Value::U8(0), Value::I16(0), Value::U32(0)] {
        // Behind arrays of all kinds.
        let nested = Value::Array(vec![Value::Array(vec![Value::U16(1)]); 3]);
        let error = loaded(&[("a.nested", nested), ("general.alignment", zero)]).unwrap_err();
        assert!(error.to_string().contains("general.alignment is 0"), "{error}");
    }
}

#[test]
fn absurd_sizes_are_errors() {
    for key in [
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.block_count",
        "llama.attention.head_count",
        "llama.attention.key_length",
        "llama.attention.head_count_kv",
    ] {
        for size in [u64::MAX, 1 << 63, (1 << 62) + 2, 1 << 32, 0] {
            assert!(loaded(&[(key, Value::U64(size))]).is_err(), "{key} {size}");
        }
    }
    let error = loaded(&[("tokenizer.ggml.eos_token_id", Value::U64((1 << 32) + 2))]);
    assert!(error.unwrap_err().to_string().contains("no token id"));
}

#[test]
fn a_scaling_factor_without_a_type_scales_linearly() {
    const FACTOR: &str = "llama.rope.scaling.factor";
    const TYPE: &str = "llama.rope.scaling.type";
    let text = |text: &str| Value::String(text.into());
    let scaling = |changes: &[Entry]| loaded(changes).map(|config| config.rope_scaling);
    let linear = Some(RopeScaling::Linear { factor: 4.0 });
    assert_eq!(scaling(&[]).unwrap(), None);
    assert_eq!(scaling(&[(FACTOR, Value::F32(4.0))]).unwrap(), linear);
    assert_eq!(scaling(&[("llama.rope.scale_linear", Value::F32(4.0))]).unwrap(), linear);
    assert_eq!(scaling(&[(FACTOR, Value::F32(4.0)), (TYPE, text("linear"))]).unwrap(), linear);
    assert_eq!(scaling(&[(FACTOR, Value::F32(4.0)), (TYPE, text("none"))]).unwrap(), None);
    assert_eq!(scaling(&[(FACTOR, Value::F32(0.0))]).unwrap(), None);
    assert!(scaling(&[(FACTOR, Value::F32(f32::NAN))]).is_err());
    assert!(scaling(&[(TYPE, text("linear"))]).is_err());
    assert!(scaling(&[(FACTOR, Value::F32(4.0)), (TYPE, text("yarn"))]).is_err());
}

/// A tokenizer with item tokens, a model for it that has rows to spare, and weights far from zero.
fn to_write(pre: &str, tied: bool) -> (LlamaConfig, Weights, Tokenizer) {
    let vocabulary = crate::text::kinds::gguf_vocabulary(pre);
    let mut tokenizer = Tokenizer::from_gguf(&vocabulary).unwrap();
    tokenizer.add_item_tokens(&ITEM_TOKENS.map(String::from)).unwrap();
    let config = LlamaConfig {
        vocab_size: tokenizer.vocab_size() + 3,
        tie_word_embeddings: tied,
        // Named, though not every text gets it.
        bos_token_id: Some(1),
        eos_token_id: vec![tokenizer.eos()],
        ..LlamaConfig::tiny_test()
    };
    let mut stream = crate::rng::stream(1, "gguf", &[]);
    let mut draw = |shape: Vec<usize>| {
        let values = crate::rng::normal(&mut stream, shape.iter().product(), 0.3);
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    let weights = config.tensor_shapes().into_iter().map(|(n, shape)| (n, draw(shape)));
    let weights = weights.collect();
    (config, weights, tokenizer)
}

const ITEM_TOKENS: [&str; 4] = ["<a_0>", "<a_10>", "<b_7>", "<con>"];

fn logits(config: &LlamaConfig, weights: &Weights) -> Vec<f32> {
    use crate::model::{Llama, Packed};
    let model = Llama::new(config, weights).unwrap();
    let hidden = model.infer(&Packed::sequences(&[&[5, 9, 260, 11, 402]]), None, &[1, 4]).unwrap();
    let logits = model.logits(&hidden, 0..config.vocab_size as u32).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_written_file_is_the_model_and_its_tokenizer() {
    // Of the largest logit.
    for (kind, tolerance) in [(GgufType::F16, 0.003), (GgufType::Q8_0, 0.05)] {
        for (pre, tied) in [("smollm", true), ("gpt-2", false), ("llama-bpe", true)] {
            let (config, weights, tokenizer) = to_write(pre, tied);
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("model.gguf");
            let rounded_less =
                save_gguf(&path, "tiny", &config, &weights, &tokenizer, kind).unwrap();
            // Of 48 columns.
            let odd = ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"];
            assert_eq!(rounded_less, if kind == GgufType::Q8_0 { &odd[..] } else { &[] });

            let (again, found, same) = load(&path, DType::F32, &Device::Cpu).unwrap();
            assert_eq!(again, config);
            let norm = "model.layers.1.input_layernorm.weight";
            let exact = |weights: &Weights| weights[norm].to_vec1::<f32>().unwrap();
            assert_eq!(exact(&found), exact(&weights));
            let (found, expected) = (logits(&config, &found), logits(&config, &weights));
            let largest = expected.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
            let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < tolerance * largest, "{kind:?} {pre}: {apart} of {largest}");

            assert_eq!((same.bos(), same.eos()), (tokenizer.bos(), tokenizer.eos()));
            let ids = |t: &Tokenizer| ITEM_TOKENS.map(|name| t.token_to_id(name).unwrap());
            assert_eq!(ids(&same), ids(&tokenizer));
            let items = ITEM_TOKENS.map(String::from).into_iter().zip(ids(&same)).collect();
            for text in ["After <a_10><b_7>, 250 ml of <a_0>", "<b_7> it's 2,000 W <s>"] {
                let of = |t: &Tokenizer| t.encode_with_items(text, &items).unwrap();
                assert_eq!(of(&same), of(&tokenizer), "{pre}: {text}");
            }
        }
    }
}

#[test]
fn frequencies_that_no_key_names_are_written_as_factors() {
    let (config, weights, tokenizer) = to_write("llama-bpe", true);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let write = |scaling| {
        let config = LlamaConfig { rope_scaling: Some(scaling), ..config.clone() };
        save_gguf(&path, "tiny", &config, &weights, &tokenizer, GgufType::F16).unwrap();
        let mut file = File::open(&path).unwrap();
        let content = Content::read(&mut file).unwrap();
        let factors = content.tensor(&mut file, "rope_freqs.weight", &Device::Cpu).ok();
        factors.map(|f| f.dequantize(&Device::Cpu).unwrap().to_vec1::<f32>().unwrap())
    };
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
    };
    let factors = write(llama3).unwrap();
    assert_eq!((factors.len(), factors[0], factors[3]), (4, 1.0, 8.0), "{factors:?}");
    assert_eq!(write(RopeScaling::Linear { factor: 4.0 }), None);
    let (again, _, _) = load(&path, DType::F32, &Device::Cpu).unwrap();
    assert_eq!(again.rope_scaling, Some(RopeScaling::Linear { factor: 4.0 }));
}

#[test]
fn what_no_gguf_file_can_hold_is_refused_by_name() {
    let (config, mut weights, tokenizer) = to_write("smollm", true);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for (kind, other) in crate::text::kinds::all()
        .into_iter()
        .filter(|(name, _)| name.contains("metaspace") || ["llama 2", "unigram"].contains(name))
    {
        let config = LlamaConfig { vocab_size: other.vocab_size(), ..config.clone() };
        let refused = save_gguf(&path, "tiny", &config, &weights, &other, GgufType::F16);
        let error = refused.unwrap_err().to_string();
        assert!(
            error.contains("model.gguf: ") && error.contains("convert_hf_to_gguf"),
            "{kind}: {error}"
        );
    }
    let up = "model.layers.1.mlp.up_proj.weight";
    weights.insert(up.into(), (&weights[up] * 1e6).unwrap());
    let refused = save_gguf(&path, "tiny", &config, &weights, &tokenizer, GgufType::F16);
    let error = refused.unwrap_err().to_string();
    assert!(error.contains(up) && error.contains("65504"), "{error}");
    assert!(!path.exists());
}
