use super::*;

const PARTS: [&str; 9] = [
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
    "attn_norm",
    "ffn_norm",
];
const FIXED: [&str; 3] = ["token_embd.weight", "output_norm.weight", "output.weight"];

/// Hugging Face to GGUF, by llama.cpp's converter: rows of each head from halves to pairs.
fn permute(weight: &Tensor, heads: usize) -> Tensor {
    let (rows, columns) = weight.dims2().unwrap();
    let halves = weight.reshape((heads, 2, rows / heads / 2, columns)).unwrap();
    halves.transpose(1, 2).unwrap().reshape((rows, columns)).unwrap()
}

#[test]
fn unpermute_undoes_the_converter() {
    let weight = Tensor::arange(0f32, 36.0, &Device::Cpu).unwrap().reshape((12, 3)).unwrap();
    let rows = |t: &Tensor| t.to_vec2::<f32>().unwrap();
    let permuted = permute(&weight, 2);
    // Within the first head of six rows, row 1 is the one that was half a head away from row 0.
    assert_eq!(rows(&permuted)[1], rows(&weight)[3]);
    assert_eq!(rows(&unpermute(&permuted, 2).unwrap()), rows(&weight));
    assert_ne!(rows(&unpermute(&permuted, 1).unwrap()), rows(&weight));
}

#[test]
fn every_weight_of_a_llama_has_a_gguf_name() {
    let config = LlamaConfig { tie_word_embeddings: false, ..LlamaConfig::tiny_test() };
    let layers = (0..2).flat_map(|i| PARTS.map(|part| format!("blk.{i}.{part}.weight")));
    let fixed = FIXED.map(String::from);
    let mut names: Vec<String> = layers.chain(fixed).map(|name| hf_name(&name).unwrap()).collect();
    names.sort_unstable();
    assert!(names.iter().eq(config.tensor_shapes().keys()));
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
        .flat_map(|i| PARTS.map(|part| format!("blk.{i}.{part}.weight")))
        .chain(FIXED.map(String::from))
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
