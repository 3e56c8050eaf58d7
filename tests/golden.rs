//! SmolLM2-135M against the values another implementation gave for it.

use candle_core::{DType, Device, Tensor};
use llmbs::model::{DropoutPair, Llama, load_backbone};
use llmbs::ops::{self, Precision};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    mean_hidden_first8: Vec<f32>,
    mean_hidden_norm: f32,
    next_token_top5: Vec<(u32, f32)>,
    mean_nll: f32,
}

#[test]
#[ignore = "needs models/SmolLM2-135M-Instruct.Q4_1.gguf (scripts/fetch-smollm2.sh)"]
fn smollm2_meets_the_reference() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let backbone = load_backbone(path, DType::F32, &Device::Cpu).unwrap();
    let model = Llama::new(&backbone.config, &backbone.weights).unwrap();
    let golden: Golden =
        serde_json::from_str(include_str!("golden/smollm2_reference.json")).unwrap();
    assert!(!golden.cases.is_empty());
    for case in golden.cases {
        let ids = backbone.tokenizer.encode(&case.text).unwrap();
        assert_eq!(ids, case.ids, "{}", case.text);
        let hidden =
            model.hidden(&crate::common::packed(&[&ids]), None, DropoutPair::default()).unwrap();
        let mean: Vec<f32> = hidden.mean(0).unwrap().to_vec1().unwrap();
        for (ours, theirs) in mean.iter().zip(&case.mean_hidden_first8) {
            assert!((ours - theirs).abs() < 1e-2, "{}: {ours} against {theirs}", case.text);
        }
        let norm = mean.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((norm - case.mean_hidden_norm).abs() < 1e-2, "{norm} {}", case.mean_hidden_norm);

        let logits = ops::linear(&hidden, model.lm_head(), Precision::Full).unwrap();
        let last: Vec<f32> = logits.get(ids.len() - 1).unwrap().to_vec1().unwrap();
        for (token, logit) in &case.next_token_top5 {
            assert!((last[*token as usize] - logit).abs() < 2e-2, "{}", case.text);
        }
        let before = hidden.narrow(0, 0, ids.len() - 1).unwrap();
        let nll = ops::cross_entropy(&before, model.lm_head(), &ids[1..], Precision::Full).unwrap();
        let nll: f32 = Tensor::mean_all(&nll).unwrap().to_scalar().unwrap();
        assert!((nll - case.mean_nll).abs() < 1e-3, "{nll} against {}", case.mean_nll);
    }
}
