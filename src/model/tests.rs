use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use super::*;
use crate::text::Tokenizer;

fn tiny_weights(config: &LlamaConfig, dtype: DType) -> Weights {
    let mut rng = crate::rng::stream(1, "test-weights", &[]);
    let tensor = |shape: Vec<usize>| {
        let values = crate::rng::normal(&mut rng, shape.iter().product(), 0.1);
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    };
    let (names, shapes): (Vec<_>, Vec<_>) = config.tensor_shapes().into_iter().unzip();
    names.into_iter().zip(shapes.into_iter().map(tensor)).collect()
}

fn values(weights: &Weights) -> BTreeMap<&str, Vec<f32>> {
    let flat =
        |t: &Tensor| t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    weights.iter().map(|(name, t)| (name.as_str(), flat(t))).collect()
}

/// The JSON header of a safetensors file.
fn header(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    serde_json::from_slice(&bytes[8..8 + len]).unwrap()
}

fn load(dir: &Path) -> crate::Result<(LlamaConfig, Weights)> {
    load_folder(dir, DType::F32, &Device::Cpu)
}

fn edit_config(dir: &Path, edit: impl Fn(&mut Value)) {
    let path = dir.join("config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
}

/// Splits the single file of a checkpoint into two shards with an index.
fn shard(dir: &Path, weights: &Weights) {
    std::fs::remove_file(dir.join("model.safetensors")).unwrap();
    let (mut parts, mut map) = ([Weights::new(), Weights::new()], serde_json::Map::new());
    for (i, (name, tensor)) in weights.iter().enumerate() {
        parts[i % 2].insert(name.clone(), tensor.clone());
        map.insert(name.clone(), json!(format!("shard-{}.safetensors", i % 2)));
    }
    for (i, part) in parts.iter().enumerate() {
        save_safetensors(dir.join(format!("shard-{i}.safetensors")), part).unwrap();
    }
    let index = json!({ "metadata": { "total_size": 0 }, "weight_map": map });
    std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn a_checkpoint_comes_back_whole_and_in_shards() {
    for (tied, dtype, name) in [(true, DType::F32, "float32"), (false, DType::BF16, "bfloat16")] {
        let dir = tempfile::tempdir().unwrap();
        let config = LlamaConfig { tie_word_embeddings: tied, ..LlamaConfig::tiny_test() };
        let weights = tiny_weights(&config, dtype);
        assert_eq!(weights.contains_key("lm_head.weight"), !tied);
        save_folder(dir.path(), &config, &weights).unwrap();
        assert_eq!(header(&dir.path().join("model.safetensors"))["__metadata__"]["format"], "pt");

        let (again, loaded) = load(dir.path()).unwrap();
        assert_eq!(again, LlamaConfig { torch_dtype: Some(name.into()), ..config });
        assert_eq!(values(&loaded), values(&weights));
        assert!(loaded.values().all(|t| t.dtype() == DType::F32));

        shard(dir.path(), &weights);
        assert_eq!(values(&load(dir.path()).unwrap().1), values(&weights));
    }
}

#[test]
fn saving_repeats_byte_for_byte_and_leaves_nothing_partial() {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = tiny_weights(&LlamaConfig::tiny_test(), DType::F32);
    tensors.insert("ids".into(), Tensor::new(&[1u8, 2, 3], &Device::Cpu).unwrap());
    tensors.insert("half".into(), tensors["model.norm.weight"].to_dtype(DType::F16).unwrap());
    let save = |name: &str| {
        save_safetensors(dir.path().join(name), &tensors).unwrap();
        std::fs::read(dir.path().join(name)).unwrap()
    };
    assert!(save("a.safetensors") == save("b.safetensors"));
    assert_eq!(header(&dir.path().join("a.safetensors"))["__metadata__"]["format"], "pt");
    let loaded = load_safetensors(dir.path().join("a.safetensors"), &Device::Cpu).unwrap();
    assert_eq!(loaded.len(), tensors.len());
    assert_eq!(loaded["ids"].to_vec1::<u8>().unwrap(), [1, 2, 3]);
    assert_eq!(values(&loaded)["half"], values(&tensors)["half"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);

    let missing = dir.path().join("no-such-folder/a.safetensors");
    assert!(save_safetensors(missing, &tensors).is_err());
}

#[test]
fn missing_extra_and_misshapen_tensors_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = LlamaConfig::tiny_test();
    let good = tiny_weights(&config, DType::F32);
    save_folder(dir.path(), &config, &good).unwrap();
    let with = |edit: &dyn Fn(&mut Weights)| {
        let mut weights = good.clone();
        edit(&mut weights);
        save_safetensors(dir.path().join("model.safetensors"), &weights).unwrap();
        load(dir.path()).map(|(_, w)| w.len()).map_err(|e| e.to_string())
    };
    let norm = good["model.norm.weight"].clone();
    let up = "model.layers.1.mlp.up_proj.weight";

    let error = with(&|w| drop(w.remove(up))).unwrap_err();
    assert!(error.contains("model.safetensors: ") && error.contains(up), "{error}");
    let error = with(&|w| drop(w.insert(up.into(), norm.clone()))).unwrap_err();
    assert!(error.contains(up) && error.contains("[32]") && error.contains("[48, 32]"), "{error}");
    let bias = "model.layers.0.self_attn.q_proj.bias";
    let error = with(&|w| drop(w.insert(bias.into(), norm.clone()))).unwrap_err();
    assert!(error.contains(bias), "{error}");
    let harmless = with(&|w| {
        w.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), norm.clone());
        w.insert("lm_head.weight".into(), w["model.embed_tokens.weight"].clone());
    });
    assert_eq!(harmless.unwrap(), good.len());

    let mut incomplete = good.clone();
    incomplete.remove(up);
    let other = dir.path().join("other");
    assert!(save_folder(&other, &config, &incomplete).unwrap_err().to_string().contains(up));
    assert!(!other.exists());
}

#[test]
fn shards_are_files_of_the_folder_and_nothing_else() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = LlamaConfig::tiny_test();
    let weights = tiny_weights(&config, DType::F32);
    save_folder(dir.path(), &config, &weights).unwrap();
    shard(dir.path(), &weights);
    let outside = other.path().join("shard-1.safetensors");
    std::fs::rename(dir.path().join("shard-1.safetensors"), &outside).unwrap();
    let index = dir.path().join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    let (parent, file) =
        (other.path().file_name().unwrap().to_str().unwrap(), "shard-1.safetensors");
    for name in
        [outside.to_str().unwrap(), &format!("../{parent}/{file}"), "sub/shard-1.safetensors"]
    {
        std::fs::write(&index, text.replace(file, name)).unwrap();
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("no plain file name") && error.contains(name), "{error}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        std::fs::write(&index, &text).unwrap();
        symlink(&outside, dir.path().join(file)).unwrap();
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("leads out of its folder"), "{error}");
        // The folder itself may be a link.
        std::fs::remove_file(dir.path().join(file)).unwrap();
        std::fs::copy(&outside, dir.path().join(file)).unwrap();
        symlink(dir.path(), other.path().join("link")).unwrap();
        assert_eq!(load(&other.path().join("link")).unwrap().1.len(), weights.len());
    }
}

#[test]
fn a_head_that_is_not_the_tied_embedding_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = LlamaConfig::tiny_test();
    let mut weights = tiny_weights(&config, DType::F32);
    save_folder(dir.path(), &config, &weights).unwrap();
    let head = (&weights["model.embed_tokens.weight"] * 1.5).unwrap();
    weights.insert("lm_head.weight".into(), head);
    save_safetensors(dir.path().join("model.safetensors"), &weights).unwrap();
    let error = load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("lm_head.weight is not") && error.contains("tie_word"), "{error}");
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = LlamaConfig::tiny_test();
    let name = "model.layers.1.mlp.up_proj.weight";
    for (value, dtype) in
        [(f32::NAN, DType::F32), (f32::INFINITY, DType::BF16), (f32::NEG_INFINITY, DType::F16)]
    {
        let mut weights = tiny_weights(&config, dtype);
        let mut rows = vec![vec![0.5f32; 32]; 48];
        rows[47][31] = value;
        let odd = Tensor::new(rows, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        weights.insert(name.into(), odd);
        save_folder(dir.path(), &config, &weights).unwrap();
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("not finite"), "{error}");
    }
}

#[test]
fn unreadable_weight_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = LlamaConfig::tiny_test();
    let weights = tiny_weights(&config, DType::F32);
    save_folder(dir.path(), &config, &weights).unwrap();
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("model.safetensors: not a readable safetensors file"), "{error}");

    std::fs::write(&path, &bytes).unwrap();
    shard(dir.path(), &weights);
    std::fs::remove_file(dir.path().join("shard-1.safetensors")).unwrap();
    let error = load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("shard-1.safetensors: not found"), "{error}");
    std::fs::remove_file(dir.path().join("model.safetensors.index.json")).unwrap();
    let error = load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("neither model.safetensors nor"), "{error}");
}

#[test]
fn configurations_keep_every_field() {
    let dir = tempfile::tempdir().unwrap();
    let llama3 = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    for rope_scaling in [None, Some(RopeScaling::Linear { factor: 2.0 }), Some(llama3)] {
        let config = LlamaConfig {
            rope_scaling,
            rope_theta: 500_000.0,
            head_dim: 16,
            torch_dtype: Some("bfloat16".into()),
            bos_token_id: Some(1),
            eos_token_id: vec![2, 3],
            repeat_bias: rope_scaling.map(|_| -2.5),
            ..LlamaConfig::tiny_test()
        };
        let path = dir.path().join("config.json");
        config.save(&path).unwrap();
        assert_eq!(LlamaConfig::load(&path).unwrap(), config);
    }
}

#[test]
fn what_a_checkpoint_says_of_generation_is_kept() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = LlamaConfig { bos_token_id: Some(1), ..LlamaConfig::tiny_test() };
    save_folder(first.path(), &config, &tiny_weights(&config, DType::F32)).unwrap();
    let path = "generation_config.json";
    let saved = || -> Value {
        let (config, weights) = load(first.path()).unwrap();
        save_folder(second.path(), &config, &weights).unwrap();
        serde_json::from_slice(&std::fs::read(second.path().join(path)).unwrap()).unwrap()
    };
    let derived = json!({ "_from_model_config": true, "bos_token_id": 1, "eos_token_id": 0 });
    assert_eq!(saved(), derived);
    let own = json!({ "temperature": 0.6, "do_sample": true, "eos_token_id": [0, 9] });
    std::fs::write(first.path().join(path), own.to_string()).unwrap();
    let mut kept = own;
    kept["bos_token_id"] = 1.into();
    assert_eq!(saved(), kept);
}

#[test]
fn configurations_of_both_transformers_generations_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    LlamaConfig::tiny_test().save(&path).unwrap();
    edit_config(dir.path(), |config| {
        let config = config.as_object_mut().unwrap();
        for key in ["rope_theta", "rope_scaling", "head_dim", "num_key_value_heads", "torch_dtype"]
        {
            config.remove(key);
        }
        let rope = json!({ "rope_theta": 7.0, "rope_type": "linear", "factor": 4.0 });
        config.insert("rope_parameters".into(), rope);
        config.insert("dtype".into(), json!("float16"));
    });
    let config = LlamaConfig::load(&path).unwrap();
    assert_eq!((config.rope_theta, config.head_dim, config.num_key_value_heads), (7.0, 8, 4));
    assert_eq!(config.rope_scaling, Some(RopeScaling::Linear { factor: 4.0 }));
    assert_eq!(config.torch_dtype.as_deref(), Some("float16"));
}

#[test]
fn what_our_llama_does_not_compute_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = |key: &str, value: Value| {
        LlamaConfig::tiny_test().save(dir.path().join("config.json")).unwrap();
        edit_config(dir.path(), |config| config[key] = value.clone());
        let error = LlamaConfig::load(dir.path().join("config.json")).unwrap_err().to_string();
        assert!(error.contains("config.json: "), "{error}");
        error
    };
    let qwen = refusal("architectures", json!(["Qwen2ForCausalLM"]));
    assert!(qwen.contains("Qwen2ForCausalLM") && qwen.contains("LlamaForCausalLM"), "{qwen}");
    assert!(refusal("attention_bias", json!(true)).contains("attention_bias"));
    assert!(refusal("mlp_bias", json!(true)).contains("mlp_bias"));
    assert!(refusal("hidden_act", json!("gelu")).contains("gelu"));
    assert!(refusal("rope_scaling", json!({ "type": "yarn", "factor": 2.0 })).contains("yarn"));
    assert!(refusal("rope_scaling", json!({ "rope_type": "llama3" })).contains("lacks factor"));
    assert!(refusal("rope_scaling", json!({ "factor": 2.0 })).contains("no rope_type"));
    let never = json!({ "rope_type": "linear", "factor": 0.0 });
    assert!(refusal("rope_scaling", never).contains("factor is 0"));
    assert!(refusal("rope_theta", json!(-1.0)).contains("rope_theta"));
    for key in ["vocab_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"] {
        assert!(refusal(key, json!(1_u64 << 62)).contains(key));
        assert!(refusal(key, json!(u64::MAX)).contains(key));
    }
    assert!(refusal("quantization_config", json!({ "bits": 4 })).contains("quantization_config"));
    assert!(refusal("num_key_value_heads", json!(3)).contains("num_key_value_heads 3"));
    assert!(refusal("hidden_size", json!("wide")).contains("invalid type"));
}

#[test]
fn llama3_scaling_keeps_high_frequencies_and_stretches_low_ones() {
    let plain = LlamaConfig { head_dim: 64, rope_theta: 500_000.0, ..LlamaConfig::tiny_test() };
    let scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let scaled = LlamaConfig { rope_scaling: Some(scaling), ..plain.clone() };
    let (plain, scaled) = (plain.inverse_frequencies(), scaled.inverse_frequencies());
    assert_eq!((plain.len(), plain[0]), (32, 1.0));
    assert!((plain[1] - 500_000f64.powf(-1.0 / 32.0)).abs() < 1e-15);
    let (low, high) = (8192.0, 8192.0 / 4.0);
    let mut ramp = 0;
    for (f, s) in plain.iter().zip(&scaled) {
        let wavelength = std::f64::consts::TAU / f;
        if wavelength < high {
            assert_eq!(s, f);
        } else if wavelength > low {
            assert_eq!(*s, f / 32.0);
        } else {
            // The published form of the ramp.
            let smooth = (8192.0 / wavelength - 1.0) / (4.0 - 1.0);
            assert!((s - ((1.0 - smooth) * f / 32.0 + smooth * f)).abs() < 1e-15);
            ramp += 1;
        }
    }
    assert!(ramp > 0 && scaled[0] == 1.0 && scaled[31] == plain[31] / 32.0);
}

#[test]
fn a_backbone_is_a_folder_a_gguf_file_or_a_hub_id() {
    let dir = tempfile::tempdir().unwrap();
    let name = |file: &str| dir.path().join(file).to_str().unwrap().to_string();
    std::fs::write(name("model.gguf"), "").unwrap();
    std::fs::write(name("model.bin"), "").unwrap();
    let resolve = BackboneSource::resolve;
    let folder = dir.path().to_str().unwrap();
    assert_eq!(resolve(folder).unwrap(), BackboneSource::Folder(dir.path().into()));
    let gguf = name("model.gguf");
    assert_eq!(resolve(&gguf).unwrap(), BackboneSource::Gguf(gguf.into()));
    let id = "HuggingFaceTB/SmolLM2-135M-Instruct";
    assert_eq!(resolve(id).unwrap(), BackboneSource::Hub(id.into()));
    let (bin, absent) = (name("model.bin"), name("absent.gguf"));
    for wrong in [&bin, &absent, "models/absent.gguf", "a/b/c", "name", "../name", "a b/c", ""] {
        let error = resolve(wrong).unwrap_err().to_string();
        assert!(error.contains(".gguf") && error.contains("owner/name"), "{error}");
    }
}

#[test]
fn a_backbone_folder_needs_rows_for_all_its_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().to_str().unwrap();
    let tokenizer = Tokenizer::train_bpe(["some text"].into_iter(), 260).unwrap();
    tokenizer.save(dir.path()).unwrap();
    let save = |vocab_size| {
        let config = LlamaConfig { vocab_size, ..LlamaConfig::tiny_test() };
        save_folder(dir.path(), &config, &tiny_weights(&config, DType::F32)).unwrap();
        load_backbone(source, DType::F32, &Device::Cpu)
    };
    let backbone = save(264).unwrap();
    assert_eq!(backbone.tokenizer.eos(), 0);
    assert_eq!(backbone.weights["model.embed_tokens.weight"].dims(), [264, 32]);
    let error = save(64).unwrap_err().to_string();
    assert!(error.contains("260 tokens") && error.contains("64 rows"), "{error}");

    // A padding token behind the rows is nothing that a text has.
    let path = dir.path().join("tokenizer.json");
    let mut file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let pad = json!({ "id": 260, "content": "<pad>", "special": true, "normalized": false,
        "single_word": false, "lstrip": false, "rstrip": false });
    file["added_tokens"].as_array_mut().unwrap().push(pad);
    std::fs::write(&path, file.to_string()).unwrap();
    let tokenizer = save(260).unwrap().tokenizer;
    assert_eq!((tokenizer.vocab_size(), tokenizer.vocab_size_of_text()), (261, 260));
}

#[test]
#[ignore = "needs models/SmolLM2 (scripts/fetch-smollm2.sh)"]
fn smollm2_from_gguf_tokenizes_and_loads_as_published() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let gguf = root.join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let Backbone { config, weights, tokenizer } =
        load_backbone(gguf.to_str().unwrap(), DType::F32, &Device::Cpu).unwrap();
    let golden = std::fs::read(root.join("tests/golden/smollm2_reference.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(json!(ids), case["ids"], "{text}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.vocab_size()), (None, 2, 49152));

    assert_eq!(
        (config.vocab_size, config.hidden_size, config.intermediate_size),
        (49152, 576, 1536)
    );
    assert_eq!((config.num_hidden_layers, config.num_attention_heads), (30, 9));
    assert_eq!((config.num_key_value_heads, config.head_dim), (3, 64));
    assert_eq!((config.rms_norm_eps, config.rope_theta), (1e-5, 100_000.0));
    assert!(config.tie_word_embeddings);
    let count: usize = weights.values().map(Tensor::elem_count).sum();
    assert_eq!(count, 134_515_008);

    // Everything survives being written as a Hugging Face folder.
    let dir = tempfile::tempdir().unwrap();
    save_folder(dir.path(), &config, &weights).unwrap();
    tokenizer.save(dir.path()).unwrap();
    let again = load_backbone(dir.path().to_str().unwrap(), DType::F32, &Device::Cpu).unwrap();
    let k = "model.layers.7.self_attn.k_proj.weight";
    let flat = |w: &Weights| w[k].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(flat(&again.weights) == flat(&weights));
    let text = "5 bars of <|im_start|>soap";
    assert_eq!(again.tokenizer.encode(text).unwrap(), tokenizer.encode(text).unwrap());
    assert_eq!((again.tokenizer.bos(), again.tokenizer.eos()), (None, 2));
    let path = dir.path().join("tokenizer_config.json");
    let saved: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(saved["chat_template"].as_str().unwrap().contains("<|im_start|>"));
    let special = ["bos_token", "eos_token", "pad_token", "unk_token"].map(|key| &saved[key]);
    assert_eq!(special, ["<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>"]);
    assert_eq!(saved["model_max_length"], 8192);
}
