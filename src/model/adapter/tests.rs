use serde_json::Value;

use super::*;

const DEVICE: Device = Device::Cpu;

/// An adapter folder: tensors that are not zero, and its configuration to be edited.
struct Folder {
    dir: tempfile::TempDir,
    config: LlamaConfig,
    tensors: BTreeMap<String, Tensor>,
}

fn folder(targets: &[&str], rank: usize, dtype: DType) -> Folder {
    let config = LlamaConfig::tiny_test();
    let shapes = config.tensor_shapes();
    let mut tensors = BTreeMap::new();
    let mut stream = rng::stream(1, "adapter", &[]);
    let mut draw = |shape: (usize, usize)| {
        let values = rng::normal(&mut stream, shape.0 * shape.1, 1.0);
        Tensor::from_vec(values, shape, &DEVICE).unwrap().to_dtype(dtype).unwrap()
    };
    for layer in 0..config.num_hidden_layers {
        for target in LINEAR_NAMES.iter().filter(|n| targets.iter().any(|t| n.ends_with(t))) {
            let name = linear_name(layer, target);
            let shape = &shapes[&format!("{name}.weight")];
            tensors.insert(format!("{PREFIX}{name}.lora_A.weight"), draw((rank, shape[1])));
            tensors.insert(format!("{PREFIX}{name}.lora_B.weight"), draw((shape[0], rank)));
        }
    }
    Folder { dir: tempfile::tempdir().unwrap(), config, tensors }
}

impl Folder {
    fn load(&self, edit: Value) -> Result<Adapters> {
        let mut peft = json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "/elsewhere",
            "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj", "up_proj"],
            "bias": "none", "init_lora_weights": true, "use_dora": false, "modules_to_save": null,
            "auto_mapping": null, "revision": null, "peft_version": "0.18.0", "loftq_config": {},
            "qalora_group_size": 16, "megatron_core": "megatron.core", "layers_to_transform": null,
        });
        let Value::Object(edit) = edit else { panic!("not an object") };
        peft.as_object_mut().unwrap().extend(edit);
        std::fs::write(self.dir.path().join(CONFIG_FILE), peft.to_string()).unwrap();
        save_safetensors(self.dir.path().join(WEIGHTS_FILE), &self.tensors).unwrap();
        load(self.dir.path(), &self.config, &DEVICE)
    }

    fn error(&self, edit: Value) -> String {
        let error = self.load(edit).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    }
}

#[test]
fn an_adapter_changes_something() {
    let lora = LoraConfig { target_modules: Vec::new(), ..LoraConfig::default() };
    assert!(LoraConfig::default().violation("lora").is_none());
    assert!(
        lora.violation("train.lora").unwrap().starts_with("train.lora.target-modules names none")
    );
}

#[test]
fn what_peft_would_apply_otherwise_is_refused() {
    let folder = folder(&["q_proj", "up_proj"], 4, DType::F32);
    assert_eq!(folder.load(json!({})).unwrap().len(), 4);
    for (key, value) in [
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("loftq")),
        ("alora_invocation_tokens", json!([7, 8])),
        ("use_dora", json!(true)),
        ("use_qalora", json!(true)),
        ("lora_bias", json!(true)),
        ("bias", json!("all")),
        ("fan_in_fan_out", json!(true)),
        ("modules_to_save", json!(["embed_tokens"])),
        ("trainable_token_indices", json!([3])),
        ("layer_replication", json!([[0, 2]])),
        ("target_parameters", json!(["mlp.experts"])),
        ("peft_type", json!("IA3")),
        ("r", json!(0)),
        ("lora_alpha", json!("much")),
        ("target_modules", json!("(")),
        ("layers_pattern", json!("h")),
        ("of_the_future", json!({ "changes": "all" })),
    ] {
        let error = folder.error(json!({ key: value }));
        assert!(error.contains(key), "{error}");
    }
    for way in [json!(false), json!("gaussian"), json!("eva"), json!("orthogonal"), Value::Null] {
        assert!(folder.load(json!({ "init_lora_weights": way })).is_ok());
    }
}

#[test]
fn all_that_is_wrong_with_an_adapter_is_said_at_once() {
    let mut folder = folder(&["q_proj", "up_proj", "gate_proj"], 4, DType::F32);
    let key = |layer: usize, part: &str| format!("{PREFIX}model.layers.{layer}.{part}.weight");
    let odd = Tensor::new(&[[f32::NAN; 32]; 4], &DEVICE).unwrap();
    folder.tensors.insert(key(0, "mlp.up_proj.lora_A"), odd.clone());
    folder.tensors.insert(key(1, "mlp.up_proj.lora_A"), odd.narrow(0, 0, 3).unwrap());
    folder.tensors.remove(&key(1, "self_attn.q_proj.lora_B"));
    folder.tensors.insert(key(7, "self_attn.q_proj.lora_B"), odd);
    let error = folder.error(json!({ "use_dora": true, "init_lora_weights": "olora" }));
    for part in [
        "use_dora is true",
        "init_lora_weights is \"olora\"",
        "not finite: model.layers.0.mlp.up_proj",
        "rank 4",
        "lora_A [3, 32]",
        "only one of lora_A and lora_B: model.layers.1.self_attn.q_proj",
        "leaves out: model.layers.0.mlp.gate_proj, model.layers.1.mlp.gate_proj",
        "model.layers.7.self_attn.q_proj.lora_B",
    ] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
}

#[test]
fn the_rank_of_the_tensors_must_be_that_of_the_configuration() {
    let folder = folder(&["q_proj", "up_proj"], 4, DType::F32);
    let error = folder.error(json!({ "r": 8 }));
    assert!(error.contains("[4, 32]") && error.contains("rank 8"), "{error}");
    // Both agree where a pattern says so.
    let ranks = json!({ "r": 8, "rank_pattern": { "q_proj": 4, "model.layers.*.up_proj": 4 } });
    let scales: Vec<f64> = folder.load(ranks).unwrap().values().map(|lora| lora.scale).collect();
    assert_eq!(scales, [2.0; 4]);
}

#[test]
fn targets_are_read_as_peft_reads_them() {
    let folder = folder(&["q_proj", "up_proj"], 4, DType::F32);
    for fitting in [
        json!({ "target_modules": "all-linear" }),
        json!({ "target_modules": ".*\\.(q_proj|up_proj)" }),
        json!({ "target_modules": "^(?!.*vision).*(?:self_attn|mlp).*(q|up)_proj$" }),
        json!({ "target_modules": ["self_attn.q_proj", "mlp.up_proj"] }),
        json!({ "target_modules": "all-linear", "exclude_modules": ["o_proj"] }),
        json!({ "layers_to_transform": [0, 1], "layers_pattern": "layers" }),
    ] {
        assert_eq!(folder.load(fitting.clone()).unwrap().len(), 4, "{fitting}");
    }
    for (leaves_out, name) in [
        // The whole name has to match, as in Python's `fullmatch`.
        (json!({ "target_modules": "q_proj|up_proj" }), "0.self_attn.q_proj"),
        (json!({ "target_modules": ".*q_proj" }), "0.mlp.up_proj"),
        (json!({ "target_modules": ["proj"] }), "0.self_attn.q_proj"),
        (json!({ "target_modules": null }), "0.mlp.up_proj"),
        (
            json!({ "target_modules": "all-linear", "exclude_modules": ".*up_proj" }),
            "1.mlp.up_proj",
        ),
        (json!({ "layers_to_transform": 1 }), "0.mlp.up_proj"),
    ] {
        let error = folder.error(leaves_out.clone());
        assert!(error.contains("target_modules leaves out") && error.contains(name), "{error}");
    }
}

#[test]
fn patterns_give_rank_and_alpha_by_the_first_that_matches() {
    let folder = folder(&["q_proj", "up_proj"], 4, DType::F32);
    let scales =
        |edit| -> Vec<f64> { folder.load(edit).unwrap().values().map(|lora| lora.scale).collect() };
    // In the order of names: up then q of block 0, of block 1.
    assert_eq!(scales(json!({})), [2.0; 4]);
    assert_eq!(scales(json!({ "use_rslora": true })), [4.0; 4]);
    let alphas =
        json!({ "alpha_pattern": { "layers.1.mlp.up_proj": 40, "up_proj": 4, "proj": 400 } });
    assert_eq!(scales(alphas), [1.0, 2.0, 10.0, 2.0]);
    let alphas = json!({ "alpha_pattern": { ".*_proj": 4, "q_proj": 40 }, "use_rslora": true });
    assert_eq!(scales(alphas), [2.0; 4]);
    let error = folder.error(json!({ "rank_pattern": { "q_proj": "large" } }));
    assert!(error.contains("rank_pattern.q_proj is \"large\""), "{error}");
}

#[test]
fn products_are_summed_in_f32_whatever_the_files_hold() {
    for dtype in [DType::BF16, DType::F16] {
        let folder = folder(&["q_proj", "up_proj"], 4, dtype);
        let (name, lora) = folder.load(json!({})).unwrap().pop_first().unwrap();
        let file = |part: &str| {
            let tensor = &folder.tensors[&format!("{PREFIX}{name}.{part}.weight")];
            tensor.to_dtype(DType::F32).unwrap()
        };
        let exact = (file("lora_B").matmul(&file("lora_A")).unwrap() * 2.0).unwrap();
        // Also where an adapter is trained, and merged, in the file's type.
        let cast = |tensor: &Tensor| tensor.to_dtype(dtype).unwrap();
        let trained = Lora { a: cast(&lora.a), b: cast(&lora.b), scale: lora.scale };
        for lora in [lora, trained] {
            let delta = lora.delta().unwrap();
            assert_eq!(delta.to_vec2::<f32>().unwrap(), exact.to_vec2::<f32>().unwrap());
        }
    }
}
