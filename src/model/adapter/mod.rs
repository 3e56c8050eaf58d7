//! LoRA adapters of a Llama: creation, the PEFT folder format, and merging.

mod peft;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::peft::PeftConfig;
use super::checkpoint::{is_finite, load_safetensors, save_safetensors};
use super::llama::{LINEAR_NAMES, linear_name};
use super::{LlamaConfig, Weights};
use crate::nn::{Lora, Params};
use crate::{Result, files, invalid, rng};

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
    /// What is wrong with it, of the settings of this key.
    pub fn violation(&self, key: &str) -> Option<String> {
        let is_there =
            |module: &&String| LINEAR_NAMES.iter().any(|n| n.ends_with(&format!(".{module}")));
        let what = match self.target_modules.iter().find(|module| !is_there(module)) {
            Some(module) => format!("names {module:?}"),
            None if self.target_modules.is_empty() => "names none".into(),
            None => return None,
        };
        Some(format!(
            "{key}.target-modules {what}; a Llama has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj"
        ))
    }

    fn targets(&self) -> Result<Vec<&'static str>> {
        if let Some(wrong) = self.violation("lora") {
            invalid!("{wrong}");
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
        let delta = lora.delta()?;
        let sum = (weight.to_dtype(DType::F32)? + delta)?.to_dtype(weight.dtype())?;
        merged.insert(key, sum.detach());
    }
    Ok(merged)
}

const PREFIX: &str = "base_model.model.";
const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// The files of a PEFT folder.
pub const FILES: [&str; 2] = [CONFIG_FILE, WEIGHTS_FILE];
/// The key of the base model's place.
const BASE: &str = "base_model_name_or_path";
/// How many names an error lists of a kind.
const SHOWN: usize = 4;

/// Writes `adapters` as a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`.
pub fn save(dir: &Path, base: &str, config: &LoraConfig, adapters: &Adapters) -> Result<()> {
    files::make_dir(dir)?;
    let peft = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        BASE: base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": config.target_modules,
        "bias": "none",
        "fan_in_fan_out": false,
        "modules_to_save": null,
        "inference_mode": true,
        "use_rslora": false,
        "use_dora": false,
        "rank_pattern": {},
        "alpha_pattern": {},
    });
    let mut tensors = BTreeMap::new();
    for (name, lora) in adapters {
        tensors.insert(format!("{PREFIX}{name}.lora_A.weight"), lora.a.detach());
        tensors.insert(format!("{PREFIX}{name}.lora_B.weight"), lora.b.detach());
    }
    save_safetensors(dir.join(WEIGHTS_FILE), &tensors)?;
    files::write_json(&dir.join(CONFIG_FILE), &peft)
}

/// Copies the files of the PEFT folder `from` to `to`, as those of an adapter to the base model at `base`.
pub fn copy(from: &Path, to: &Path, base: &str) -> Result<()> {
    let mut peft: Map<String, Value> = files::read_json(&from.join(CONFIG_FILE))?;
    peft.insert(BASE.into(), base.into());
    files::copy(&from.join(WEIGHTS_FILE), &to.join(WEIGHTS_FILE))?;
    files::write_json(&to.join(CONFIG_FILE), &peft)
}

/// Reads a PEFT folder written for a model of `config`'s shape, its tensors as f32.
///
/// # Errors
/// Lists all that PEFT would apply in another way than `W + scale * B A`, and all tensors that are not
/// what the adapter's configuration makes of this model.
pub fn load(dir: &Path, config: &LlamaConfig, device: &Device) -> Result<Adapters> {
    let (path, file) = (dir.join(CONFIG_FILE), dir.join(WEIGHTS_FILE));
    files::check_inside(dir, &path)?;
    files::check_inside(dir, &file)?;
    let mut problems = Vec::new();
    let peft = PeftConfig::read(&path, &mut problems)?;
    let mut tensors = load_safetensors(&file, device)?;
    let shapes = config.tensor_shapes();
    let mut adapters = Adapters::new();
    // What is wrong, with the tensors that it is wrong with.
    let mut wrong: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for layer in 0..config.num_hidden_layers {
        for target in LINEAR_NAMES {
            let name = linear_name(layer, target);
            let mut take = |part: &str| tensors.remove(&format!("{PREFIX}{name}.{part}.weight"));
            let (a, b) = match (take("lora_A"), take("lora_B")) {
                (Some(a), Some(b)) => (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?),
                (None, None) => continue,
                _ => {
                    wrong.entry("only one of lora_A and lora_B".into()).or_default().push(name);
                    continue;
                }
            };
            let shape = &shapes[&format!("{name}.weight")];
            if let Some(fault) = fault_of(&name, &a, &b, &peft, shape)? {
                wrong.entry(fault).or_default().push(name);
            } else {
                let scale = peft.scale(&name);
                adapters.insert(name, Lora { a, b, scale });
            }
        }
    }
    let unknown: Vec<String> = tensors.into_keys().collect();
    if !unknown.is_empty() {
        wrong.insert("tensors of no linear layer of this model".into(), unknown);
    }
    if adapters.is_empty() && wrong.is_empty() {
        problems.push("there is no adapter in it".into());
    }
    problems.extend(wrong.into_iter().map(|(fault, names)| {
        let more = names.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{fault}: {}{more}", names[..names.len().min(SHOWN)].join(", "))
    }));
    if !problems.is_empty() {
        invalid!("{}: the adapter cannot be applied: {}", dir.display(), problems.join("; "));
    }
    Ok(adapters)
}

/// What is wrong with the factors of layer `name`, whose weight has `shape`.
fn fault_of(
    name: &str,
    a: &Tensor,
    b: &Tensor,
    peft: &PeftConfig,
    shape: &[usize],
) -> Result<Option<String>> {
    let rank = peft.rank(name);
    let (of_a, of_b) = ([rank, shape[1]], [shape[0], rank]);
    Ok(if !peft.targets(name) {
        Some("tensors of a layer that target_modules leaves out".into())
    } else if a.dims() != of_a || b.dims() != of_b {
        Some(format!(
            "lora_A {:?} and lora_B {:?} where rank {rank} and the model make it {of_a:?} and {of_b:?}",
            a.dims(),
            b.dims()
        ))
    } else if !is_finite(a)? || !is_finite(b)? {
        Some("values that are not finite".into())
    } else {
        None
    })
}

#[cfg(test)]
mod tests;
