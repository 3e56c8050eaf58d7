//! LoRA adapters of a Llama: creation, the PEFT folder format, and merging.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::checkpoint::{load_safetensors, save_safetensors};
use super::llama::{LINEAR_NAMES, linear_name};
use super::{LlamaConfig, Weights};
use crate::nn::{Lora, Params};
use crate::{Error, Result, invalid, rng};

/// Settings of a LoRA adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct LoraConfig {
    /// Rank of the update.
    pub rank: usize,
    /// The update is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Dropout on the adapter's input, in training.
    pub dropout: f64,
    /// Which linear layers carry one: `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`,
    /// `down_proj`.
    pub target_modules: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let target_modules =
            LINEAR_NAMES.iter().filter_map(|n| n.split('.').nth(1)).map(String::from).collect();
        Self { rank: 8, alpha: 32.0, dropout: 0.05, target_modules }
    }
}

impl LoraConfig {
    fn targets(&self) -> Result<Vec<&'static str>> {
        for module in &self.target_modules {
            if !LINEAR_NAMES.iter().any(|n| n.ends_with(&format!(".{module}"))) {
                invalid!(
                    "lora.target-modules names {module:?}; a Llama has q_proj, k_proj, v_proj, \
                     o_proj, gate_proj, up_proj and down_proj"
                );
            }
        }
        let wanted = |n: &&str| self.target_modules.iter().any(|m| n.ends_with(&format!(".{m}")));
        Ok(LINEAR_NAMES.into_iter().filter(wanted).collect())
    }
}

/// The adapters of a model, by layer name (see [`linear_name`]).
pub type Adapters = BTreeMap<String, Lora>;

/// Registers a fresh trainable adapter for every target of `lora`: A uniform within `1 / sqrt(in)`, as
/// PEFT draws it, and B zero, so that the adapted model starts as the base.
pub fn create(
    config: &LlamaConfig,
    weights: &Weights,
    lora: &LoraConfig,
    seed: u64,
    params: &mut Params,
) -> Result<Adapters> {
    let mut adapters = Adapters::new();
    for layer in 0..config.num_hidden_layers {
        for target in lora.targets()? {
            let name = linear_name(layer, target);
            let Some(weight) = weights.get(&format!("{name}.weight")) else {
                invalid!("the checkpoint lacks the tensor {name}.weight");
            };
            let (out, inputs) = weight.dims2()?;
            let mut stream = rng::stream(seed, &format!("lora {name}"), &[]);
            let bound = 1.0 / (inputs as f64).sqrt();
            let a: Vec<f32> = (0..lora.rank * inputs)
                .map(|_| ((2.0 * rng::uniform(&mut stream) - 1.0) * bound) as f32)
                .collect();
            let a = Tensor::from_vec(a, (lora.rank, inputs), &Device::Cpu)?
                .to_device(weight.device())?
                .to_dtype(weight.dtype())?;
            let b = Tensor::zeros((out, lora.rank), weight.dtype(), weight.device())?;
            let a = params.insert(format!("{name}.lora_A.weight"), &a)?;
            let b = params.insert(format!("{name}.lora_B.weight"), &b)?;
            adapters.insert(name, Lora { a, b, scale: lora.alpha / lora.rank as f64 });
        }
    }
    Ok(adapters)
}

/// `weights` with every adapter added in: `W + scale * B A`.
pub fn merge(weights: &Weights, adapters: &Adapters) -> Result<Weights> {
    let mut merged = weights.clone();
    for (name, lora) in adapters {
        let key = format!("{name}.weight");
        let Some(weight) = weights.get(&key) else {
            invalid!("the adapter changes {key}, which the checkpoint lacks");
        };
        let delta = lora.delta()?.to_dtype(DType::F32)?;
        let sum = (weight.to_dtype(DType::F32)? + delta)?.to_dtype(weight.dtype())?;
        merged.insert(key, sum.detach());
    }
    Ok(merged)
}

/// PEFT's `adapter_config.json`.
#[derive(Debug, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "PEFT's own fields")]
struct PeftConfig {
    peft_type: String,
    task_type: Option<String>,
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    target_modules: Vec<String>,
    #[serde(default = "no_bias")]
    bias: String,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    inference_mode: bool,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    rank_pattern: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    alpha_pattern: serde_json::Map<String, serde_json::Value>,
}

fn no_bias() -> String {
    "none".into()
}

const PREFIX: &str = "base_model.model.";
const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// Writes `adapters` as a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`.
pub fn save(dir: &Path, base: &str, config: &LoraConfig, adapters: &Adapters) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let peft = PeftConfig {
        peft_type: "LORA".into(),
        task_type: Some("CAUSAL_LM".into()),
        base_model_name_or_path: Some(base.into()),
        r: config.rank,
        lora_alpha: config.alpha,
        lora_dropout: config.dropout,
        target_modules: config.target_modules.clone(),
        bias: no_bias(),
        fan_in_fan_out: false,
        modules_to_save: None,
        inference_mode: true,
        use_rslora: false,
        use_dora: false,
        rank_pattern: serde_json::Map::new(),
        alpha_pattern: serde_json::Map::new(),
    };
    let mut tensors = BTreeMap::new();
    for (name, lora) in adapters {
        tensors.insert(format!("{PREFIX}{name}.lora_A.weight"), lora.a.detach());
        tensors.insert(format!("{PREFIX}{name}.lora_B.weight"), lora.b.detach());
    }
    save_safetensors(dir.join(WEIGHTS_FILE), &tensors)?;
    crate::files::write_json(&dir.join(CONFIG_FILE), &peft)
}

/// Reads a PEFT folder written for a model of `config`'s shape.
pub fn load(dir: &Path, config: &LlamaConfig, device: &Device) -> Result<Adapters> {
    let path = dir.join(CONFIG_FILE);
    let peft: PeftConfig = crate::files::read_json(&path)?;
    if peft.peft_type != "LORA" || peft.use_dora || peft.bias != "none" || peft.fan_in_fan_out {
        invalid!("{}: only plain LoRA adapters without bias are supported", path.display());
    }
    if !peft.rank_pattern.is_empty() || !peft.alpha_pattern.is_empty() {
        invalid!("{}: rank_pattern and alpha_pattern are not supported", path.display());
    }
    let rank = peft.r as f64;
    let scale = peft.lora_alpha / if peft.use_rslora { rank.sqrt() } else { rank };
    let path = dir.join(WEIGHTS_FILE);
    let mut tensors = load_safetensors(&path, device)?;
    let mut adapters = Adapters::new();
    for layer in 0..config.num_hidden_layers {
        for target in LINEAR_NAMES {
            let name = linear_name(layer, target);
            let mut take = |part: &str| tensors.remove(&format!("{PREFIX}{name}.{part}.weight"));
            match (take("lora_A"), take("lora_B")) {
                (Some(a), Some(b)) => {
                    adapters.insert(name, Lora { a, b, scale });
                }
                (None, None) => {}
                _ => invalid!("{}: {name} has only one of lora_A and lora_B", path.display()),
            }
        }
    }
    if let Some(name) = tensors.keys().next() {
        invalid!("{}: unexpected tensor {name}", path.display());
    }
    if adapters.is_empty() {
        invalid!("{}: holds no adapter", path.display());
    }
    Ok(adapters)
}
