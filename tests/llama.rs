//! Laws of the backbone: against candle-transformers' Llama, and against itself.

#![allow(clippy::single_range_in_vec_init, reason = "a context of one range")]

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::common::{assert_close, config, hidden, model, packed, weights};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama as reference;
use llmbs::model::adapter::{self, LoraConfig};
use llmbs::model::{DropoutPair, KvCache, Llama, Packed};
use llmbs::nn::{AdamW, AdamWConfig, Gradients, Params};
use llmbs::ops::{self, Precision, Row, Rows};

const TEXT: [u32; 9] = [5, 17, 3, 99, 42, 7, 7, 60, 11];

#[test]
fn equals_the_llama_of_candle_transformers() {
    let config = config();
    let weights = weights(&config);
    let theirs = reference::Config {
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        vocab_size: config.vocab_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads,
        use_flash_attn: false,
        rms_norm_eps: config.rms_norm_eps,
        rope_theta: config.rope_theta as f32,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: config.max_position_embeddings,
        tie_word_embeddings: config.tie_word_embeddings,
    };
    let tensors = weights.clone().into_iter().collect();
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let mut cache = reference::Cache::new(true, DType::F32, &theirs, &Device::Cpu).unwrap();
    let theirs = reference::Llama::load(vb, &theirs).unwrap();
    let input = Tensor::new(&[TEXT], &Device::Cpu).unwrap();
    let expected: Vec<Vec<f32>> = theirs.forward(&input, 0, &mut cache).unwrap().to_vec2().unwrap();

    let ours = Llama::new(&config, &weights).unwrap();
    let h = ours.hidden(&packed(&[&TEXT]), None, DropoutPair::default()).unwrap();
    let logits: Vec<Vec<f32>> =
        ops::linear(&h, ours.lm_head(), Precision::Full).unwrap().to_vec2().unwrap();
    assert_close(&logits[TEXT.len() - 1..], &expected, 1e-4);
}

#[test]
fn batched_equals_single() {
    let model = model();
    let rows: [&[u32]; 3] = [&TEXT, &TEXT[2..4], &TEXT[1..7]];
    let together = hidden(&model, &rows);
    let alone: Vec<Vec<f32>> = rows.iter().flat_map(|row| hidden(&model, &[row])).collect();
    assert_close(&together, &alone, 1e-5);
}

#[test]
fn cached_equals_uncached() {
    let model = model();
    let full = hidden(&model, &[&TEXT]);
    let mut cache = KvCache::new();
    let mut pieces = Vec::new();
    for (start, end) in [(0, 4), (4, 5), (5, 9)] {
        let input = Packed {
            ids: TEXT[start..end].to_vec(),
            positions: (start as u32..end as u32).collect(),
            rows: Arc::new(
                Rows::new(vec![Row {
                    queries: 0..end - start,
                    own: start..end,
                    context: vec![0..start],
                }])
                .unwrap(),
            ),
        };
        let h = model.hidden(&input, Some(&mut cache), DropoutPair::default()).unwrap();
        pieces.extend(h.to_vec2::<f32>().unwrap());
    }
    assert_close(&pieces, &full, 1e-5);
}

/// The states of some tokens of two texts, fed in two pieces, and how they continue: by `hidden` under a guard
/// that forbids the pass by hand, or by `infer`.
fn states(model: &Llama, by_hand: bool) -> Vec<Vec<f32>> {
    let mut cache = KvCache::new();
    let mut run = |input: &Packed, wanted: &[u32]| -> Vec<Vec<f32>> {
        if by_hand {
            return model.infer(input, Some(&mut cache), wanted).unwrap().to_vec2().unwrap();
        }
        let all = model.hidden(input, Some(&mut cache), DropoutPair::default()).unwrap();
        let wanted = Tensor::new(wanted, &Device::Cpu).unwrap();
        all.index_select(&wanted, 0).unwrap().to_vec2().unwrap()
    };
    let mut states = run(&packed(&[&TEXT, &TEXT[..4]]), &[12, 3, 8]);
    // Two beams of the first text, in turn with one of the second.
    let beam = |i: usize, context| Row { queries: i..i + 1, own: 13 + i..14 + i, context };
    let rows = vec![beam(0, vec![0..9]), beam(1, vec![9..13]), beam(2, vec![0..9])];
    let rows = Arc::new(Rows::new(rows).unwrap());
    let step = Packed { ids: vec![8, 9, 70], positions: vec![9, 4, 9], rows };
    states.extend(run(&step, &[2, 0, 1]));
    states
}

#[test]
fn inference_by_hand_equals_the_graph() {
    let (config, weights) = (config(), weights(&config()));
    let mut params = Params::new();
    let adapters = adapter::create(&config, &weights, &lora(), 1, &mut params).unwrap();
    for (model, precision, tolerance) in [
        (model(), Precision::Full, 1e-5),
        (Llama::with_lora(&config, &weights, &adapters).unwrap(), Precision::Full, 1e-5),
        (model(), Precision::Bf16, 0.05),
    ] {
        let model = model.with_precision(precision);
        assert_close(&states(&model, true), &states(&model, false), tolerance);
    }
}

#[test]
fn inference_takes_weights_in_bf16_as_the_values_they_hold() {
    let (config, mut weights) = (config(), weights(&config()));
    let mut narrow = weights.clone();
    for (wide, narrow) in weights.values_mut().zip(narrow.values_mut()) {
        *narrow = narrow.to_dtype(DType::BF16).unwrap();
        *wide = narrow.to_dtype(DType::F32).unwrap();
    }
    let [wide, narrow] = [&weights, &narrow].map(|w| Llama::new(&config, w).unwrap());
    assert_eq!(states(&wide, true), states(&narrow, true));
    let h = Tensor::ones((2, config.hidden_size), DType::F32, &Device::Cpu).unwrap();
    let of = |model: &Llama| model.logits(&h, 3..90).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(of(&wide), of(&narrow));
}

#[test]
fn nothing_asked_of_a_pass_still_fills_the_cache() {
    let model = model();
    let mut cache = KvCache::new();
    assert_eq!(model.infer(&packed(&[&TEXT[..6]]), Some(&mut cache), &[]).unwrap().dims()[0], 0);
    cache.truncate(5).unwrap();
    assert_eq!(cache.len(), 5);
    let row = Row { queries: 0..4, own: 5..9, context: vec![0..5] };
    let rest = Packed {
        ids: TEXT[5..].to_vec(),
        positions: (5..9).collect(),
        rows: Arc::new(Rows::new(vec![row]).unwrap()),
    };
    let last = model.infer(&rest, Some(&mut cache), &[3]).unwrap().to_vec2().unwrap();
    assert_close(&last, &hidden(&model, &[&TEXT])[8..], 1e-5);
}

#[test]
fn beams_share_a_cached_prompt() {
    let model = model();
    let mut cache = KvCache::new();
    let prompt = packed(&[&TEXT[..5]]);
    model.infer(&prompt, Some(&mut cache), &[]).unwrap();
    let beam = |i: usize| Row { queries: i..i + 1, own: 5 + i..6 + i, context: vec![0..5] };
    let input = Packed {
        ids: vec![8, 9],
        positions: vec![5, 5],
        rows: Arc::new(Rows::new(vec![beam(0), beam(1)]).unwrap()),
    };
    let shared = model.infer(&input, Some(&mut cache), &[0, 1]).unwrap();
    let shared: Vec<Vec<f32>> = shared.to_vec2().unwrap();
    for (row, token) in shared.iter().zip([8, 9]) {
        let alone = [&TEXT[..5], &[token]].concat();
        assert_close(std::slice::from_ref(row), &hidden(&model, &[&alone])[5..], 1e-5);
    }
}

#[test]
fn the_composed_fallback_equals_the_fused_path() {
    let model = model();
    let fused = hidden(&model, &[&TEXT, &TEXT[3..8]]);
    let _guard = ops::force_composed();
    assert_close(&hidden(&model, &[&TEXT, &TEXT[3..8]]), &fused, 1e-5);
}

fn lora() -> LoraConfig {
    LoraConfig { rank: 3, ..LoraConfig::default() }
}

#[test]
fn a_fresh_adapter_changes_nothing() {
    let (config, weights) = (config(), weights(&config()));
    let adapters = adapter::create(&config, &weights, &lora(), 1, &mut Params::new()).unwrap();
    let adapted = Llama::with_lora(&config, &weights, &adapters).unwrap();
    assert_eq!(hidden(&adapted, &[&TEXT]), hidden(&model(), &[&TEXT]));
}

/// One optimiser step on the text; gives the loss.
fn step(model: &Llama, params: &Params) -> f32 {
    let h = model.hidden(&packed(&[&TEXT]), None, DropoutPair::default()).unwrap();
    let h = h.narrow(0, 0, TEXT.len() - 1).unwrap();
    let loss = ops::cross_entropy(&h, model.lm_head(), &TEXT[1..], Precision::Full).unwrap();
    let loss = loss.mean_all().unwrap();
    let gradients = Gradients::collect(params, &loss.backward().unwrap()).unwrap();
    let mut adam = AdamW::new(params, AdamWConfig::default()).unwrap();
    adam.step(params, &gradients, 1e-2, 1.0).unwrap();
    loss.to_scalar().unwrap()
}

#[test]
fn a_frozen_model_keeps_no_graph() {
    let (config, mut weights) = (config(), weights(&config()));
    let mut params = Params::new();
    for (name, weight) in &mut weights {
        *weight = params.insert(name.clone(), weight).unwrap();
    }
    let adapters = adapter::create(&config, &weights, &lora(), 1, &mut params).unwrap();
    let model = Llama::with_lora(&config, &weights, &adapters).unwrap();
    let run = |model: &Llama| {
        let mut cache = KvCache::new();
        model.hidden(&packed(&[&TEXT]), Some(&mut cache), DropoutPair::default()).unwrap()
    };
    let (tracked, frozen) = (run(&model), run(&model.frozen()));
    assert!(tracked.track_op() && !frozen.track_op());
    assert_eq!(tracked.to_vec2::<f32>().unwrap(), frozen.to_vec2::<f32>().unwrap());
}

#[test]
fn merged_equals_unmerged_and_the_folder_round_trips() {
    let (config, weights) = (config(), weights(&config()));
    let mut params = Params::new();
    let adapters = adapter::create(&config, &weights, &lora(), 1, &mut params).unwrap();
    let adapted = Llama::with_lora(&config, &weights, &adapters).unwrap();
    step(&adapted, &params);
    let trained = hidden(&adapted, &[&TEXT]);
    assert_ne!(trained, hidden(&model(), &[&TEXT]));

    let dir = tempfile::tempdir().unwrap();
    adapter::save(dir.path(), "base", &lora(), &adapters).unwrap();
    let loaded = adapter::load(dir.path(), &config, &Device::Cpu).unwrap();
    let unmerged = Llama::with_lora(&config, &weights, &loaded).unwrap();
    assert_eq!(hidden(&unmerged, &[&TEXT]), trained);
    let merged = adapter::merge(&weights, &loaded).unwrap();
    assert_close(&hidden(&Llama::new(&config, &merged).unwrap(), &[&TEXT]), &trained, 1e-4);
}

#[test]
fn training_reaches_every_trainable_tensor_and_no_frozen_one() {
    let config = config();
    let frozen = weights(&config);
    let before: BTreeMap<String, Vec<f32>> = frozen
        .iter()
        .map(|(name, t)| (name.clone(), t.flatten_all().unwrap().to_vec1().unwrap()))
        .collect();
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();

    // Adapters: `collect` fails where one is not reached; the base must stay as it is.
    let mut params = Params::new();
    let adapters = adapter::create(&config, &frozen, &lora(), 1, &mut params).unwrap();
    step(&Llama::with_lora(&config, &frozen, &adapters).unwrap(), &params);
    for (name, t) in &frozen {
        assert_eq!(values(t), before[name], "{name} is frozen");
    }

    // The whole model: every tensor must move.
    let mut params = Params::new();
    let mut trained = frozen.clone();
    for (name, t) in &mut trained {
        *t = params.insert(name.clone(), t).unwrap();
    }
    let model = Llama::new(&config, &trained).unwrap();
    let first = step(&model, &params);
    for (name, t) in &trained {
        assert_ne!(values(t), before[name], "{name} is trained");
    }
    assert!(step(&model, &params) < first);
}

#[test]
fn a_tied_head_trains_as_the_embedding() {
    let config = llmbs::model::LlamaConfig { tie_word_embeddings: true, ..config() };
    let mut weights = weights(&config);
    weights.remove("lm_head.weight");
    let mut params = Params::new();
    for (name, t) in &mut weights {
        *t = params.insert(name.clone(), t).unwrap();
    }
    let model = Llama::new(&config, &weights).unwrap();
    let first = step(&model, &params);
    assert!(step(&model, &params) < first);
    assert_eq!(
        model.lm_head().to_vec2::<f32>().unwrap(),
        weights["model.embed_tokens.weight"].to_vec2::<f32>().unwrap()
    );
}
