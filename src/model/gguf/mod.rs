//! Llama models in GGUF files, the format of llama.cpp: weights are dequantized and everything gets
//! the names and the layout of a Hugging Face checkpoint.

mod header;
mod write;

use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{DType, Device, Tensor};
use serde_json::Map;

use super::checkpoint::is_finite;
use super::{LlamaConfig, RopeScaling, Weights};
use crate::error::{plain, short, without_calls};
use crate::text::{GgufVocabulary, Tokenizer};
use crate::{Error, Result, invalid};

pub use write::{GgufType, save_gguf};

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
    let named = |e: Error| Error::Invalid(format!("{}: {}", path.display(), plain(e)));
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path))?);
    header::check(&mut file).map_err(named)?;
    file.rewind().map_err(Error::io(path))?;
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
            invalid!("tensor {:?} is no part of a Llama without biases", short(name));
        };
        if info.shape.dims() != shape {
            invalid!("{name} is {:?}, the keys make it {shape:?}", info.shape);
        }
        let tensor = info.read(file, content.tensor_data_offset, device);
        let tensor = tensor.and_then(|tensor| tensor.dequantize(device)).map_err(|e| {
            Error::Invalid(format!("{name}: {}; the file is damaged or cut off", without_calls(e)))
        })?;
        let tensor = if name.ends_with("attn_q.weight") {
            unpermute(&tensor, config.num_attention_heads)?
        } else if name.ends_with("attn_k.weight") {
            unpermute(&tensor, config.num_key_value_heads)?
        } else {
            tensor
        };
        let tensor = tensor.to_dtype(dtype)?;
        if !is_finite(&tensor)? {
            invalid!("{name} has values that are not finite");
        }
        weights.insert(target, tensor);
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

/// The tensors outside of blocks, by their names here and in a Hugging Face checkpoint.
const FIXED: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// The tensors of a block.
const PARTS: [(&str, &str); 9] = [
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
];

/// The Hugging Face name of a GGUF tensor.
fn hf_name(name: &str) -> Option<String> {
    let name = name.strip_suffix(".weight")?;
    if let Some((_, fixed)) = FIXED.iter().find(|(own, _)| *own == name) {
        return Some(format!("{fixed}.weight"));
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let (_, part) = PARTS.iter().find(|(own, _)| *own == part)?;
    Some(format!("model.layers.{layer}.{part}.weight"))
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
    let bos = keys.maybe("tokenizer.ggml.bos_token_id", Keys::id)?;
    let eos = keys.maybe("tokenizer.ggml.eos_token_id", Keys::id)?;
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
        bos_token_id: bos,
        eos_token_id: eos.into_iter().collect(),
        repeat_bias: None,
        generation: Map::new(),
    };
    config.check()?;
    Ok(config)
}

fn rope_scaling(keys: &Keys<'_>) -> Result<Option<RopeScaling>> {
    let factor = match keys.maybe("llama.rope.scaling.factor", Keys::float)? {
        // The name in files of 2023.
        None => keys.maybe("llama.rope.scale_linear", Keys::float)?,
        factor => factor,
    };
    // As llama.cpp reads it: without a type a factor scales linearly, and 0 is none.
    let linear =
        factor.filter(|factor| *factor != 0.0).map(|factor| RopeScaling::Linear { factor });
    match keys.maybe("llama.rope.scaling.type", Keys::text)?.as_deref() {
        Some("none") => Ok(None),
        Some("linear") if factor.is_none() => invalid!("key llama.rope.scaling.factor is missing"),
        None | Some("linear") => Ok(linear),
        Some(other) => {
            invalid!(
                "llama.rope.scaling.type is {other:?}; only \"none\" and \"linear\" are supported"
            )
        }
    }
}

fn vocabulary(content: &Content) -> Result<GgufVocabulary> {
    let keys = Keys(content);
    Ok(GgufVocabulary {
        model: keys.text("tokenizer.ggml.model")?,
        pre: keys.maybe("tokenizer.ggml.pre", Keys::text)?.unwrap_or_default(),
        tokens: keys.list("tokenizer.ggml.tokens", text)?,
        // Absent from some files: every token is a normal one then.
        token_type: keys
            .maybe("tokenizer.ggml.token_type", |keys, key| keys.list(key, whole))?
            .unwrap_or_default(),
        merges: keys
            .maybe("tokenizer.ggml.merges", |keys, key| keys.list(key, text))?
            .unwrap_or_default(),
        bos_token_id: keys.maybe("tokenizer.ggml.bos_token_id", Keys::id)?,
        eos_token_id: keys.maybe("tokenizer.ggml.eos_token_id", Keys::id)?,
        unknown_token_id: keys.maybe("tokenizer.ggml.unknown_token_id", Keys::id)?,
        padding_token_id: keys.maybe("tokenizer.ggml.padding_token_id", Keys::id)?,
        add_bos_token: keys.maybe("tokenizer.ggml.add_bos_token", |keys, key| {
            let value = keys.get(key)?;
            value.to_bool().map_err(|_| bad(key, value, "true or false"))
        })?,
        chat_template: keys.maybe("tokenizer.chat_template", Keys::text)?,
        context_length: keys.maybe("llama.context_length", Keys::size)?,
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
        text(key, self.get(key)?)
    }

    fn size(&self, key: &str) -> Result<usize> {
        // Some writers use signed integers for counts.
        match self.get(key)? {
            Value::I32(n) if *n >= 0 => Ok(*n as usize),
            value => value
                .to_u64()
                .map(|n| n as usize)
                .map_err(|_| bad(key, value, "a whole number from 0")),
        }
    }

    fn id(&self, key: &str) -> Result<u32> {
        let id = self.size(key)?;
        u32::try_from(id).map_err(|_| Error::Invalid(format!("key {key}: {id} is no token id")))
    }

    /// An f32 by its shortest decimal, so that 1e-5 is not 9.99999974e-6 once it is f64.
    fn float(&self, key: &str) -> Result<f64> {
        let value = self.get(key)?;
        let value = value.to_f32().map_err(|_| bad(key, value, "a number of 32 bits"))?;
        Ok(value.to_string().parse().unwrap_or(f64::from(value)))
    }

    fn list<T>(&self, key: &str, read: impl Fn(&str, &Value) -> Result<T>) -> Result<Vec<T>> {
        let value = self.get(key)?;
        let values = value.to_vec().map_err(|_| bad(key, value, "a list"))?;
        values.iter().map(|value| read(key, value)).collect()
    }
}

fn text(key: &str, value: &Value) -> Result<String> {
    value.to_string().cloned().map_err(|_| bad(key, value, "a text"))
}

fn whole(key: &str, value: &Value) -> Result<i32> {
    value.to_i32().map_err(|_| bad(key, value, "a whole number of 32 bits"))
}

/// A value that is not of `expected` kind.
fn bad(key: &str, value: &Value, expected: &str) -> Error {
    let found = match value {
        Value::Array(values) => format!("a list of {}", values.len()),
        Value::String(text) => format!("{:?}", short(text)),
        Value::U8(n) => n.to_string(),
        Value::I8(n) => n.to_string(),
        Value::U16(n) => n.to_string(),
        Value::I16(n) => n.to_string(),
        Value::U32(n) => n.to_string(),
        Value::I32(n) => n.to_string(),
        Value::U64(n) => n.to_string(),
        Value::I64(n) => n.to_string(),
        Value::F32(n) => format!("{n:?}"),
        Value::F64(n) => format!("{n:?}"),
        Value::Bool(b) => b.to_string(),
    };
    Error::Invalid(format!("key {key}: {found} is not {expected}"))
}

#[cfg(test)]
mod tests;
