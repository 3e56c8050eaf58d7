//! Llama models in GGUF files, the format of llama.cpp: weights are dequantized and everything gets
//! the names and the layout of a Hugging Face checkpoint.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{DType, Device, Tensor};

use super::{LlamaConfig, RopeScaling, Weights};
use crate::text::{GgufVocabulary, Tokenizer};
use crate::{Error, Result, invalid};

/// Reads model and tokenizer of a GGUF file, every weight converted to `dtype` on `device`.
///
/// # Errors
/// Names the file and the key or tensor that is missing or asks for what our Llama does not
/// compute.
pub(super) fn load(
    path: &Path,
    dtype: DType,
    device: &Device,
) -> Result<(LlamaConfig, Weights, Tokenizer)> {
    let named = |e: Error| Error::Invalid(format!("{}: {e}", path.display()));
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let content = Content::read(&mut file).map_err(Error::from).map_err(named)?;
    let tokenizer = Tokenizer::from_gguf(&vocabulary(&content).map_err(named)?).map_err(named)?;
    let config = config(&content).map_err(named)?;
    let weights = weights(&content, &mut file, &config, dtype, device).map_err(named)?;
    Ok((config, weights, tokenizer))
}

fn weights(
    content: &Content,
    file: &mut BufReader<File>,
    config: &LlamaConfig,
    dtype: DType,
    device: &Device,
) -> Result<Weights> {
    let mut infos: Vec<_> = content.tensor_infos.iter().collect();
    infos.sort_unstable_by_key(|(name, _)| *name);
    let mut shapes = config.tensor_shapes();
    let mut weights = Weights::new();
    for (name, info) in infos {
        if name == "rope_freqs.weight" {
            invalid!(
                "rope_freqs.weight: rotary scaling baked into the file is not supported; use the \
                 Hugging Face folder, whose config.json says how the frequencies are scaled"
            );
        }
        let Some((target, shape)) = hf_name(name).and_then(|n| shapes.remove_entry(&n)) else {
            invalid!("{name} is no part of a Llama without biases");
        };
        if info.shape.dims() != shape {
            invalid!("{name} is {:?}, the keys make it {shape:?}", info.shape);
        }
        let tensor = info.read(file, content.tensor_data_offset, device)?.dequantize(device)?;
        let tensor = if name.ends_with("attn_q.weight") {
            unpermute(&tensor, config.num_attention_heads)?
        } else if name.ends_with("attn_k.weight") {
            unpermute(&tensor, config.num_key_value_heads)?
        } else {
            tensor
        };
        weights.insert(target, tensor.to_dtype(dtype)?);
    }
    if let Some(name) = shapes.keys().next() {
        invalid!("the file has no tensor for {name}");
    }
    Ok(weights)
}

/// Undoes the row order of llama.cpp's query and key projections: (rows, in) to (rows, in).
///
/// llama.cpp rotates neighboring features, Hugging Face a feature and the one half a head away.
fn unpermute(weight: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, columns) = weight.dims2()?;
    let pairs = weight.reshape((heads, rows / heads / 2, 2, columns))?;
    Ok(pairs.transpose(1, 2)?.reshape((rows, columns))?.contiguous()?)
}

/// The Hugging Face name of a GGUF tensor.
fn hf_name(name: &str) -> Option<String> {
    let fixed = match name {
        "token_embd.weight" => "model.embed_tokens.weight",
        "output_norm.weight" => "model.norm.weight",
        "output.weight" => "lm_head.weight",
        _ => {
            let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
            let part = match part.strip_suffix(".weight")? {
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_output" => "self_attn.o_proj",
                "ffn_gate" => "mlp.gate_proj",
                "ffn_up" => "mlp.up_proj",
                "ffn_down" => "mlp.down_proj",
                "attn_norm" => "input_layernorm",
                "ffn_norm" => "post_attention_layernorm",
                _ => return None,
            };
            return Some(format!("model.layers.{layer}.{part}.weight"));
        }
    };
    Some(fixed.to_string())
}

fn config(content: &Content) -> Result<LlamaConfig> {
    let keys = Keys(content);
    let architecture = keys.text("general.architecture")?;
    if architecture != "llama" {
        invalid!("general.architecture is {architecture:?}; only \"llama\" is supported");
    }
    if keys.find("llama.expert_count").is_some_and(|n| n.to_u64().is_ok_and(|n| n > 0)) {
        invalid!("llama.expert_count: mixtures of experts are not supported");
    }
    let Some(embedding) = content.tensor_infos.get("token_embd.weight") else {
        invalid!("the file has no token_embd.weight");
    };
    let hidden_size = keys.size("llama.embedding_length")?;
    let heads = keys.size("llama.attention.head_count")?;
    let head_dim = keys
        .maybe("llama.attention.key_length", Keys::size)?
        .unwrap_or_else(|| hidden_size.checked_div(heads).unwrap_or(0));
    if let Some(rotated) = keys.maybe("llama.rope.dimension_count", Keys::size)?
        && rotated != head_dim
    {
        invalid!(
            "llama.rope.dimension_count is {rotated}, only the whole head ({head_dim}) is supported"
        );
    }
    let bos = keys.maybe("tokenizer.ggml.bos_token_id", Keys::size)?;
    let eos = keys.maybe("tokenizer.ggml.eos_token_id", Keys::size)?;
    let config = LlamaConfig {
        vocab_size: embedding.shape.dims().first().copied().unwrap_or(0),
        hidden_size,
        intermediate_size: keys.size("llama.feed_forward_length")?,
        num_hidden_layers: keys.size("llama.block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: keys
            .maybe("llama.attention.head_count_kv", Keys::size)?
            .unwrap_or(heads),
        head_dim,
        max_position_embeddings: keys.size("llama.context_length")?,
        rms_norm_eps: keys.float("llama.attention.layer_norm_rms_epsilon")?,
        rope_theta: keys.maybe("llama.rope.freq_base", Keys::float)?.unwrap_or(10_000.0),
        rope_scaling: rope_scaling(&keys)?,
        tie_word_embeddings: !content.tensor_infos.contains_key("output.weight"),
        initializer_range: 0.02,
        torch_dtype: None,
        bos_token_id: bos.map(|id| id as u32),
        eos_token_id: eos.map(|id| id as u32).into_iter().collect(),
    };
    config.check()?;
    Ok(config)
}

fn rope_scaling(keys: &Keys<'_>) -> Result<Option<RopeScaling>> {
    match keys.maybe("llama.rope.scaling.type", Keys::text)?.as_deref() {
        None | Some("none") => Ok(None),
        Some("linear") => {
            Ok(Some(RopeScaling::Linear { factor: keys.float("llama.rope.scaling.factor")? }))
        }
        Some(other) => {
            invalid!(
                "llama.rope.scaling.type is {other:?}; only \"none\" and \"linear\" are supported"
            )
        }
    }
}

fn vocabulary(content: &Content) -> Result<GgufVocabulary> {
    let keys = Keys(content);
    let id = |key| Ok::<_, Error>(keys.maybe(key, Keys::size)?.map(|id| id as u32));
    Ok(GgufVocabulary {
        model: keys.text("tokenizer.ggml.model")?,
        pre: keys.maybe("tokenizer.ggml.pre", Keys::text)?.unwrap_or_default(),
        tokens: keys.list("tokenizer.ggml.tokens", |v| v.to_string().cloned())?,
        // Absent from some files: every token is a normal one then.
        token_type: keys
            .maybe("tokenizer.ggml.token_type", |keys, key| keys.list(key, Value::to_i32))?
            .unwrap_or_default(),
        merges: keys
            .maybe("tokenizer.ggml.merges", |keys, key| keys.list(key, |v| v.to_string().cloned()))?
            .unwrap_or_default(),
        bos_token_id: id("tokenizer.ggml.bos_token_id")?,
        eos_token_id: id("tokenizer.ggml.eos_token_id")?,
        add_bos_token: keys.maybe("tokenizer.ggml.add_bos_token", |keys, key| {
            keys.get(key)?.to_bool().map_err(|e| bad(key, &e))
        })?,
    })
}

/// The metadata of a file, read by key with errors that name it.
struct Keys<'a>(&'a Content);

impl<'a> Keys<'a> {
    fn find(&self, key: &str) -> Option<&'a Value> {
        self.0.metadata.get(key)
    }

    fn get(&self, key: &str) -> Result<&'a Value> {
        self.find(key).ok_or_else(|| Error::Invalid(format!("key {key} is missing")))
    }

    fn maybe<T>(&self, key: &str, read: impl Fn(&Self, &str) -> Result<T>) -> Result<Option<T>> {
        self.find(key).map(|_| read(self, key)).transpose()
    }

    fn text(&self, key: &str) -> Result<String> {
        self.get(key)?.to_string().cloned().map_err(|e| bad(key, &e))
    }

    fn size(&self, key: &str) -> Result<usize> {
        // Some writers use signed integers for counts.
        match self.get(key)? {
            Value::I32(n) if *n >= 0 => Ok(*n as usize),
            value => value.to_u64().map(|n| n as usize).map_err(|e| bad(key, &e)),
        }
    }

    /// An f32 by its shortest decimal, so that 1e-5 is not 9.99999974e-6 once it is f64.
    fn float(&self, key: &str) -> Result<f64> {
        let value = self.get(key)?.to_f32().map_err(|e| bad(key, &e))?;
        Ok(value.to_string().parse().unwrap_or(f64::from(value)))
    }

    fn list<T>(
        &self,
        key: &str,
        read: impl Fn(&Value) -> candle_core::Result<T>,
    ) -> Result<Vec<T>> {
        let values = self.get(key)?.to_vec().map_err(|e| bad(key, &e))?;
        values.iter().map(|v| read(v).map_err(|e| bad(key, &e))).collect()
    }
}

fn bad(key: &str, e: &candle_core::Error) -> Error {
    Error::Invalid(format!("key {key}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let parts = [
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
        let layers = (0..2).flat_map(|i| parts.map(|part| format!("blk.{i}.{part}.weight")));
        let fixed = ["token_embd.weight", "output_norm.weight", "output.weight"].map(String::from);
        let mut names: Vec<String> =
            layers.chain(fixed).map(|name| hf_name(&name).unwrap()).collect();
        names.sort_unstable();
        assert!(names.iter().eq(config.tensor_shapes().keys()));
        assert_eq!(hf_name("blk.0.attn_q.bias"), None);
    }
}
